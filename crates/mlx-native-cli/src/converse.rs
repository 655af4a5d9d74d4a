//! `mlx-native chat`.

use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use mlx_native_lm::{
    ChatMessage, ChatOptions, ChatTemplate, Draft, Event, GenerateOptions, Generation, Model, SamplingParams,
    SequenceState, generate, generate_with_draft,
};
use mlx_native_serve::{Said, Thoughts};
use rustyline::error::ReadlineError;
use serde_json::{Map, Value, json};

use crate::chat::local_time;
use crate::place::{Drafting, Place};
use crate::report;

mod input;

use input::{Command, Input};

/// Longest file of a conversation, in bytes.
const MAX_FILE: u64 = 64 << 20;
const HELP: &str = "\
/help                 these lines (also: h)
/reset                forget the conversation (also: r)
/system [TEXT]        set what the system says first, or take it away; the conversation begins anew
/save FILE            write the conversation as JSON
/load FILE            read one
/stats                how long prompts and answers took
/quit                 leave (also: q, Ctrl-D)
Ctrl-C                stops an answer. A line that ends with \\ goes on in the next; so does what stands between two lines \"\"\".";

/// Flags of `chat`.
#[derive(Debug, Args)]
pub struct Chat {
    /// Folder of an MLX model, or a .gguf file. Without it the demo model that is part of the program answers.
    #[arg(long, value_name = "FOLDER")]
    pub model: Option<PathBuf>,

    /// Folder of a LoRA adapter, of mlx-lm or PEFT.
    #[arg(long, value_name = "FOLDER")]
    pub adapter_path: Option<PathBuf>,

    /// What the system says first.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system_prompt: Option<String>,

    /// Further variables of the chat template, such as {"enable_thinking": false}.
    #[arg(long, value_name = "JSON")]
    pub chat_template_config: Option<String>,

    /// Tokens of an answer at most.
    #[arg(short, long, default_value_t = 256, value_name = "N")]
    pub max_tokens: usize,

    /// Sampling temperature; 0 takes the likeliest token. Default: what the model's makers recommend.
    #[arg(long, value_name = "T")]
    pub temp: Option<f32>,

    /// Sample from the likeliest tokens that together have this probability; 1 takes all.
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,

    /// Sample from tokens that are at least this fraction as likely as the likeliest; 0 takes all.
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,

    /// Sample from this many of the likeliest tokens; 0 takes all.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// Probability of leaving out the likeliest tokens (XTC).
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub xtc_probability: f32,

    /// Tokens above this probability may be left out by XTC.
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub xtc_threshold: f32,

    /// Seed of the sampler; equal seeds give equal answers. Default: a new one each time.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    #[command(flatten)]
    pub drafting: Drafting,

    #[command(flatten)]
    pub place: Place,
}

/// Runs the command.
///
/// # Errors
/// What the model, the device or the terminal had to say.
pub fn run(options: &Chat) -> Result<()> {
    let variables = crate::chat::parse_variables(options.chat_template_config.as_deref())?;
    let device = options.place.open()?;
    let model =
        (options.place).adapted_model(options.model.as_ref(), options.adapter_path.as_ref(), &device)?;
    let draft = options.drafting.open(&options.place, &device, &model)?;
    let stopped = Arc::new(AtomicBool::new(false));
    let busy = Arc::new(AtomicBool::new(false));
    let _runtime = on_interrupt(stopped.clone(), busy.clone())?;
    let mut talk = Talk::new(options, model, draft, variables, stopped, busy)?;
    let mut input = Input::new()?;
    if talk.template.is_none() {
        report::note("the model has no chat template: what you write is continued as it stands");
    }
    if input.is_terminal() {
        report::line("/help shows the commands, Ctrl-D leaves");
    }
    loop {
        let command = match input.next() {
            Ok(command) => command,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(ReadlineError::Interrupted) => continue,
            Err(error) => return Err(error).context("standard input"),
        };
        match talk.obey(command) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return Ok(()),
            // What was asked for in a script has to succeed; who sits at a terminal may try again.
            Err(error) if input.is_terminal() => report::error(&format!("{error:#}")),
            Err(error) => return Err(error),
        }
    }
}

/// Ctrl-C stops the answer that is being written, and the program where there is none.
fn on_interrupt(stopped: Arc<AtomicBool>, busy: Arc<AtomicBool>) -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_name("signals")
        .build()
        .context("a thread for signals")?;
    runtime.spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if !busy.load(Relaxed) {
                // 128 and the signal's number, as shells have it.
                std::process::exit(130);
            }
            stopped.store(true, Relaxed);
        }
    });
    Ok(runtime)
}

/// A conversation.
struct Talk {
    model: Model,
    draft: Option<Draft>,
    template: Option<ChatTemplate>,
    template_text: String,
    variables: Map<String, Value>,
    sampling: SamplingParams,
    max_tokens: usize,
    messages: Vec<ChatMessage>,
    /// What the model knows of the conversation: its state, and the tokens behind that.
    cache: SequenceState,
    known: Vec<u32>,
    stats: Stats,
    stopped: Arc<AtomicBool>,
    busy: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Stats {
    turns: usize,
    prompt_tokens: usize,
    cached_tokens: usize,
    prompt_time: Duration,
    chosen_tokens: usize,
    generation_time: Duration,
}

impl Talk {
    fn new(
        options: &Chat,
        model: Model,
        draft: Option<Draft>,
        variables: Map<String, Value>,
        stopped: Arc<AtomicBool>,
        busy: Arc<AtomicBool>,
    ) -> Result<Self> {
        let recommended = SamplingParams::recommended(model.generation_config());
        let stop_ids = model.stop_ids(&[])?;
        let sampling = SamplingParams {
            temperature: options.temp.unwrap_or(recommended.temperature),
            top_p: options.top_p.unwrap_or(recommended.top_p),
            min_p: options.min_p.unwrap_or(recommended.min_p),
            top_k: options.top_k.unwrap_or(recommended.top_k),
            xtc_probability: options.xtc_probability,
            xtc_threshold: options.xtc_threshold,
            xtc_special_tokens: model.xtc_special_tokens(&stop_ids)?,
            seed: options.seed,
            ..recommended
        };
        sampling.validate()?;
        let mut talk = Talk {
            template: model.chat_template()?,
            template_text: model.tokenizer().chat_template().unwrap_or_default().to_owned(),
            cache: model.decoder().new_state(0)?,
            model,
            draft,
            variables,
            sampling,
            max_tokens: options.max_tokens,
            messages: Vec::new(),
            known: Vec::new(),
            stats: Stats::default(),
            stopped,
            busy,
        };
        talk.begin(options.system_prompt.as_deref());
        Ok(talk)
    }

    /// Begins anew, with what the system says. The state stays: what the next conversation has in common with it is known.
    fn begin(&mut self, system: Option<&str>) {
        self.messages.clear();
        self.messages
            .extend(system.map(|text| ChatMessage::new("system", text)));
    }

    fn system(&self) -> Option<String> {
        let first = self.messages.first().filter(|m| m.role == "system");
        first.map(|m| m.content.clone())
    }

    fn obey(&mut self, command: Command) -> Result<ControlFlow<()>> {
        match command {
            Command::Quit => return Ok(ControlFlow::Break(())),
            Command::Help => report::line(HELP),
            Command::Reset => {
                let system = self.system();
                self.begin(system.as_deref());
            }
            Command::System(text) => self.begin(text.as_deref()),
            Command::Save(path) => self.save(&path)?,
            Command::Load(path) => self.load(&path)?,
            Command::Stats => self.tell_stats(),
            Command::Unknown(name) => bail!("there is no command {name}; /help shows those that there are"),
            Command::Say(text) => return self.say(text),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn save(&self, path: &Path) -> Result<()> {
        let messages: Vec<Value> = self
            .messages
            .iter()
            .map(|m| json!({"role": m.role, "content": m.content}))
            .collect();
        let text = serde_json::to_string_pretty(&json!({"messages": messages}))?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        let name = || path.display().to_string();
        let size = std::fs::metadata(path).with_context(name)?.len();
        if size > MAX_FILE {
            bail!("{}: {size} bytes, wanted at most {MAX_FILE}", name());
        }
        let value: Value =
            serde_json::from_slice(&std::fs::read(path).with_context(name)?).with_context(name)?;
        let list = value["messages"].as_array();
        let list = list.with_context(|| format!("{}: there is no list of messages in it", name()))?;
        let mut messages = Vec::new();
        for message in list {
            match (message["role"].as_str(), message["content"].as_str()) {
                (Some(role @ ("system" | "user" | "assistant")), Some(content)) => {
                    messages.push(ChatMessage::new(role, content));
                }
                _ => bail!("{}: {message} is no message of a conversation", name()),
            }
        }
        self.messages = messages;
        Ok(())
    }

    fn tell_stats(&self) {
        let s = &self.stats;
        let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
        report::line(&format!(
            "{} answers; prompts: {} tokens and {} known before, {:.1} tokens/s; answers: {} tokens, {:.1} tokens/s; state: {} tokens",
            s.turns,
            s.prompt_tokens,
            s.cached_tokens,
            rate(s.prompt_tokens, s.prompt_time),
            s.chosen_tokens,
            rate(s.chosen_tokens, s.generation_time),
            self.cache.len(),
        ));
    }

    /// The prompt behind which the answer comes.
    fn prompt(&self) -> Result<(String, Vec<u32>)> {
        let Some(template) = &self.template else {
            let text: String = self.messages.iter().map(|m| m.content.as_str()).collect();
            let ids = self.model.tokenizer().encode(&text)?;
            return Ok((text, ids));
        };
        let options = ChatOptions {
            add_generation_prompt: true,
            continue_final_message: false,
            variables: self.variables.clone(),
            local_time: local_time(),
        };
        let text = template.render(&self.messages, &options)?;
        let ids = self.model.tokenizer().encode_with(&text, false)?;
        Ok((text, ids))
    }

    fn say(&mut self, text: String) -> Result<ControlFlow<()>> {
        self.messages.push(ChatMessage::new("user", text));
        match self.answer() {
            Ok((answer, heard)) => {
                self.messages.push(ChatMessage::new("assistant", answer));
                Ok(if heard {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                })
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    /// The model's turn: what it answered, thoughts left out, and whether standard output still listens.
    fn answer(&mut self) -> Result<(String, bool)> {
        let (text, ids) = self.prompt()?;
        if ids.is_empty() {
            bail!("the prompt has no tokens");
        }
        if let Some(context) = self
            .model
            .context_length()
            .filter(|context| ids.len() >= *context)
        {
            bail!(
                "the conversation has {} tokens, the model's context {context}: /reset begins a new one",
                ids.len()
            );
        }
        let known = self.go_back(&ids)?;
        let settings = GenerateOptions {
            max_tokens: self.max_tokens,
            sampling: self.sampling.clone(),
            stop_ids: self.model.stop_ids(&[])?,
        };
        let mut show = Show::new(Thoughts::new(&self.template_text, &text));
        self.stopped.store(false, Relaxed);
        self.busy.store(true, Relaxed);
        let stopped = self.stopped.clone();
        let on_event = |event: Event<'_>| {
            if stopped.load(Relaxed) {
                return ControlFlow::Break(());
            }
            match event {
                Event::Prefill { .. } => ControlFlow::Continue(()),
                Event::Token { text, .. } => show.push(text),
            }
        };
        let (decoder, tokenizer) = self.model.parts();
        let rest = &ids[known..];
        if let Some(draft) = &mut self.draft {
            draft.set_before(&ids[..known]);
        }
        let result = match &mut self.draft {
            None => generate(decoder, tokenizer, &mut self.cache, rest, &settings, on_event),
            Some(draft) => generate_with_draft(
                decoder,
                draft,
                tokenizer,
                &mut self.cache,
                rest,
                &settings,
                on_event,
            ),
        };
        self.busy.store(false, Relaxed);
        let heard = show.finish();
        // The state holds what it holds, however the answer ended.
        self.known = ids.clone();
        if let Ok(generation) = &result {
            self.known.extend(&generation.token_ids);
        }
        self.known.truncate(self.cache.len());
        let generation = result?;
        self.count(&generation, known);
        Ok((show.answer, heard?))
    }

    /// Takes the state back to what it has in common with the prompt, of which one token at least is computed.
    fn go_back(&mut self, ids: &[u32]) -> Result<usize> {
        let same = self.known.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let mut kept = same.min(ids.len() - 1).min(self.cache.len());
        if self.cache.can_truncate(kept).is_err() {
            kept = 0;
        }
        self.cache.truncate(kept)?;
        Ok(kept)
    }

    fn count(&mut self, g: &Generation, known: usize) {
        let s = &mut self.stats;
        s.turns += 1;
        s.prompt_tokens += g.prompt_tokens;
        s.cached_tokens += known;
        s.prompt_time += g.prompt_time;
        s.chosen_tokens += g.chosen_tokens;
        s.generation_time += g.generation_time;
    }
}

/// An answer on its way to standard output: thoughts dimmed where that is a terminal.
struct Show {
    thoughts: Thoughts,
    answer: String,
    dim: bool,
    colours: bool,
    failed: Option<std::io::Error>,
}

impl Show {
    fn new(thoughts: Thoughts) -> Self {
        Show {
            thoughts,
            answer: String::new(),
            dim: false,
            colours: std::io::stdout().is_terminal(),
            failed: None,
        }
    }

    fn push(&mut self, text: &str) -> ControlFlow<()> {
        let said = self.thoughts.push(text);
        self.write(said)
    }

    fn write(&mut self, said: Vec<Said>) -> ControlFlow<()> {
        let mut out = String::new();
        for said in said {
            let (text, is_thought) = match &said {
                Said::Thought(text) => (text, true),
                Said::Answer(text) => (text, false),
            };
            if is_thought != self.dim {
                self.dim = is_thought;
                match (is_thought, self.colours) {
                    (true, true) => out.push_str("\x1b[2m"),
                    (false, true) => out.push_str("\x1b[0m\n\n"),
                    (false, false) => out.push_str("\n\n"),
                    (true, false) => {}
                }
            }
            out.push_str(text);
            if !is_thought {
                self.answer.push_str(text);
            }
        }
        if out.is_empty() {
            return ControlFlow::Continue(());
        }
        let mut stdout = std::io::stdout();
        match stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed.get_or_insert(error);
                ControlFlow::Break(())
            }
        }
    }

    /// Ends the line; whether somebody still listens.
    fn finish(&mut self) -> Result<bool> {
        let rest = self.thoughts.finish();
        let _ = self.write(rest);
        if self.failed.is_none() {
            let end: &[u8] = if self.dim && self.colours {
                b"\x1b[0m\n"
            } else {
                b"\n"
            };
            self.failed = std::io::stdout().write_all(end).err();
        }
        match self.failed.take() {
            None => Ok(true),
            Some(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            Some(error) => Err(error).context("standard output"),
        }
    }
}
