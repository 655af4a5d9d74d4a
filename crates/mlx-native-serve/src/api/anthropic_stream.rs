//! Streams of Anthropic's interface: named events, block after block.

use mlx_native_lm::engine::Usage;
use serde_json::{Value, json};

use super::anthropic::{Head, stop_reason};
use crate::answer::Part;
use crate::error::Dialect;
use crate::output::Delta;
use crate::stream::{Format, Frames};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    Call,
}

pub(super) struct MessageStream {
    head: Head,
    prompt: usize,
    open: Option<Block>,
    /// Blocks so far, the open one included.
    blocks: usize,
}

impl MessageStream {
    pub fn new(head: Head, prompt: usize) -> Self {
        MessageStream {
            head,
            prompt,
            open: None,
            blocks: 0,
        }
    }

    fn close(&mut self, out: &mut Frames) {
        if let Some(block) = self.open.take() {
            let index = self.blocks - 1;
            if block == Block::Thinking {
                let delta = json!({"type": "signature_delta", "signature": ""});
                out.named(
                    "content_block_delta",
                    &json!({"type": "content_block_delta", "index": index, "delta": delta}),
                );
            }
            out.named(
                "content_block_stop",
                &json!({"type": "content_block_stop", "index": index}),
            );
        }
    }

    fn begin(&mut self, block: Block, content: &Value, out: &mut Frames) {
        self.close(out);
        let event = json!({"type": "content_block_start", "index": self.blocks, "content_block": content});
        out.named("content_block_start", &event);
        self.open = Some(block);
        self.blocks += 1;
    }

    fn add(&mut self, block: Block, delta: &Value, out: &mut Frames) {
        if self.open != Some(block) {
            let content = match block {
                Block::Text => json!({"type": "text", "text": ""}),
                Block::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
                // More of a call that did not begin is nothing.
                Block::Call => return,
            };
            self.begin(block, &content, out);
        }
        let event = json!({"type": "content_block_delta", "index": self.blocks - 1, "delta": delta});
        out.named("content_block_delta", &event);
    }
}

impl Format for MessageStream {
    fn start(&mut self, out: &mut Frames) {
        let usage = Usage {
            prompt_tokens: self.prompt,
            ..Usage::default()
        };
        let message = self.head.frame(Vec::new(), &usage, None);
        out.named(
            "message_start",
            &json!({"type": "message_start", "message": message}),
        );
        self.ping(out);
    }

    fn part(&mut self, part: Part, out: &mut Frames) {
        match part {
            Part::Prompt { .. } => {}
            Part::More { deltas, .. } => {
                for delta in deltas {
                    match delta {
                        Delta::Content(text) => {
                            self.add(Block::Text, &json!({"type": "text_delta", "text": text}), out);
                        }
                        Delta::Reasoning(text) => {
                            self.add(
                                Block::Thinking,
                                &json!({"type": "thinking_delta", "thinking": text}),
                                out,
                            );
                        }
                        Delta::CallStart { name, id } => {
                            let id = self.head.call_id(id.as_deref());
                            let content = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                            self.begin(Block::Call, &content, out);
                        }
                        Delta::CallArguments(text) => {
                            self.add(
                                Block::Call,
                                &json!({"type": "input_json_delta", "partial_json": text}),
                                out,
                            );
                        }
                        Delta::CallEnd { .. } => self.close(out),
                    }
                }
            }
            Part::Finished { finish, usage, .. } => {
                if self.blocks == 0 {
                    self.begin(Block::Text, &json!({"type": "text", "text": ""}), out);
                }
                self.close(out);
                let (reason, sequence) = stop_reason(Some(&finish));
                let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
                let usage = super::anthropic::usage_json(&usage);
                out.named(
                    "message_delta",
                    &json!({"type": "message_delta", "delta": delta, "usage": usage}),
                );
            }
            Part::Failed(error) => {
                out.named("error", &error.body(Dialect::Anthropic));
                out.fail();
            }
        }
    }

    fn end(&mut self, out: &mut Frames) {
        out.named("message_stop", &json!({"type": "message_stop"}));
    }

    fn ping(&mut self, out: &mut Frames) {
        out.named("ping", &json!({"type": "ping"}));
    }
}
