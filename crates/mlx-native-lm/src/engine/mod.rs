//! Many texts at once: one thread owns the device, requests go in and events come out.
//!
//! ```
//! use mlx_native_lm::engine::{Engine, EngineConfig, Event, Request};
//! use mlx_native_lm::{Model, ModelOptions};
//!
//! let device = mlx_native::MlxDevice::open(mlx_native::DeviceKind::Cpu)?;
//! let model = Model::from_files(&device, mlx_native_demo::files(), &ModelOptions::default())?;
//! let engine = Engine::start(model, EngineConfig::default())?;
//! let mut request = Request::new(engine.tokenizer().encode("Ownership in Rust means")?);
//! request.max_tokens = Some(8);
//! for event in engine.submit(request)? {
//!     match event {
//!         Event::Text { text, .. } => print!("{text}"),
//!         Event::Finished { reason, usage, .. } => println!("\n{reason:?} {usage:?}"),
//!         Event::Failed(message) => return Err(message.into()),
//!         Event::Prompt { .. } => {}
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Each step computes the next token of every text that is decoded, and as much of the prompts as keeps those from waiting long.
//! What a request gets does not depend on who else is there: its logits, its random numbers and its grammar are its own.
//!
//! Where to read: [`Request`] and [`Event`] are what goes in and out; `scheduler` is the thread, `sequence` one text, `stepper` the
//! line to the network, `prefix` the cache of prompts, [`Grammars`] the constraints.

mod constraint;
mod disk;
mod event;
pub(crate) mod guess;
mod logprobs;
mod prefix;
mod release;
mod request;
mod scheduler;
mod sequence;
mod stats;
mod stepper;
mod thinking;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use thiserror::Error;

pub use constraint::{Begin, Constraint, Grammar, Grammars};
pub use event::{Event, EventSender, EventStream, Logprobs, Ranked, StopReason, Token, Usage, event_channel};
pub use request::{MAX_CHOICES, MAX_TOP_LOGPROBS, Request};
pub use stats::{EngineStats, STEP_BOUNDS};
pub use thinking::Thinking;

use crate::chat::ChatTemplate;
use crate::config::GenerationConfig;
use crate::error::Result;
use crate::open::Model;
use crate::speculate::same_vocabulary;
use crate::tokenizer::Tokenizer;
use disk::DiskCache;
use scheduler::{Command, Scheduler};
use sequence::Job;
use stats::Shared;
use stepper::{Passes, Stepper as _};

/// Limits of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Texts that are computed at the same time at most.
    pub max_sequences: usize,
    /// Requests that wait at most; what comes then is refused.
    pub max_queue: usize,
    /// Bytes of keys, values and other states at most, those of the cache included.
    pub kv_bytes: usize,
    /// Texts that the prompt cache keeps at most; 0 switches it off.
    pub prompt_cache_entries: usize,
    /// Folder that keeps the prompt cache over restarts.
    pub prompt_cache_dir: Option<PathBuf>,
    /// Bytes of that folder at most.
    pub prompt_cache_disk_bytes: u64,
    /// Tokens of prompts in one step at most.
    pub prefill_tokens: usize,
    /// Tokens that are guessed at a time by looking back in the text and computed together; 0: none. The answers are the same.
    pub prompt_lookup: usize,
    /// Tokens that a draft model guesses at a time, where there is one. The answers are the same.
    pub draft_tokens: usize,
    /// Longest text, prompt and answer together; `None`: what the model was made for.
    pub max_context: Option<usize>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            max_sequences: 64,
            max_queue: 1024,
            kv_bytes: 4 << 30,
            prompt_cache_entries: 64,
            prompt_cache_dir: None,
            prompt_cache_disk_bytes: 8 << 30,
            prefill_tokens: 512,
            prompt_lookup: 0,
            draft_tokens: 3,
            max_context: None,
        }
    }
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A parameter is out of its domain.
    #[error("{param}: {message}")]
    Invalid {
        /// The parameter.
        param: &'static str,
        /// What was found and what was wanted.
        message: String,
    },
    /// The prompt alone fills the context.
    #[error(
        "This model's maximum context length is {limit} tokens, one of which at least is for the answer, but the prompt has {prompt} tokens"
    )]
    ContextLength {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of prompt and answer together at most.
        limit: usize,
    },
    /// The request can never fit into memory.
    #[error(
        "a prompt of {prompt} tokens needs {needed} bytes of memory for its keys and values, the limit is {limit}"
    )]
    Memory {
        /// Tokens of the prompt.
        prompt: usize,
        /// Bytes needed.
        needed: usize,
        /// Bytes that there are.
        limit: usize,
    },
    /// Too many requests wait.
    #[error("{waiting} requests wait already, the limit is {limit}: try again later")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
        /// How many may.
        limit: usize,
    },
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

/// The prompt cache's folder, where there is one. What its pages depend on: the model and its adapter, the type of states, the device,
/// and the program.
fn open_disk(model: &Model, config: &EngineConfig) -> Result<Option<DiskCache>> {
    let Some(folder) = &config.prompt_cache_dir else {
        return Ok(None);
    };
    let decoder = model.decoder();
    let about = format!(
        "{} {} {} {}",
        env!("CARGO_PKG_VERSION"),
        decoder.dtype(),
        decoder.device().kind(),
        decoder.chunk()
    );
    let fingerprint = [&model.fingerprint()?[..], about.as_bytes()].concat();
    DiskCache::open(folder, &fingerprint, config.prompt_cache_disk_bytes).map(Some)
}

/// A model that answers many requests at once.
#[derive(Debug)]
pub struct Engine {
    commands: Mutex<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    tokenizer: Arc<Tokenizer>,
    chat_template: Option<Arc<ChatTemplate>>,
    generation_config: GenerationConfig,
    eos_ids: Vec<u32>,
    vocab_size: usize,
    context: Option<usize>,
    kv_bytes: usize,
    max_queue: usize,
    /// Bytes of a state without positions, and of each.
    state_bytes: [usize; 2],
    xtc_special: Vec<u32>,
    grammars: OnceLock<std::result::Result<Grammars, String>>,
}

impl Engine {
    /// Starts the thread that owns the model's device.
    ///
    /// # Errors
    /// When the chat template is damaged, the folder of the prompt cache cannot be used, or the device or the system refuses.
    pub fn start(model: Model, config: EngineConfig) -> Result<Self> {
        Self::start_with(model, None, config)
    }

    /// The same with a draft model: a smaller one of the same vocabulary, which guesses what `model` will say. Answers and their
    /// probabilities are those of `model` alone, to the bit; they come faster where guesses are right.
    ///
    /// # Errors
    /// As [`start`](Self::start), and when the vocabularies differ or one of the models has states that cannot go back: recurrent
    /// layers, or windows that forget.
    pub fn start_with_draft(model: Model, draft: Model, config: EngineConfig) -> Result<Self> {
        same_vocabulary(draft.tokenizer(), model.tokenizer())?;
        Self::start_with(model, Some(draft), config)
    }

    fn start_with(model: Model, draft: Option<Model>, config: EngineConfig) -> Result<Self> {
        let stop_ids: HashSet<u32> = model.stop_ids(&[])?;
        let xtc_special = model.xtc_special_tokens(&stop_ids)?;
        let mut eos_ids: Vec<u32> = stop_ids.into_iter().collect();
        eos_ids.sort_unstable();
        let chat_template = model.chat_template()?.map(Arc::new);
        let generation_config = model.generation_config().clone();
        let context = config.max_context.or(model.context_length());
        let disk = open_disk(&model, &config)?;
        let (decoder, tokenizer) = model.into_parts();
        let tokenizer = Arc::new(tokenizer);
        let stepper = Passes::new(decoder)?;
        let drafter = match draft {
            Some(draft) => Some(Passes::new(draft.into_parts().0)?),
            None => None,
        };
        if let Some(drafter) = &drafter {
            for (what, passes) in [("the model", &stepper), ("the draft model", drafter)] {
                if passes.ends_matter() {
                    let message = format!(
                        "{what} has layers whose states cannot go back, which a draft model asks for"
                    );
                    return Err(crate::LmError::Unsupported(message));
                }
            }
        }
        let fixed = stepper.state_bytes(0);
        let position = stepper.state_bytes(512).saturating_sub(fixed) / 448;
        let shared = Arc::new(Shared::default());
        let (commands, receiver) = channel();
        let (vocab_size, kv_bytes, max_queue) = (stepper.vocab_size(), config.kv_bytes, config.max_queue);
        let thread = {
            let (tokenizer, eos_ids, shared) = (tokenizer.clone(), eos_ids.clone(), shared.clone());
            std::thread::Builder::new()
                .name("engine".to_owned())
                .spawn(move || {
                    Scheduler::new(stepper, &tokenizer, eos_ids, config, shared, disk)
                        .with_drafter(drafter)
                        .run(&receiver)
                })
                .map_err(|e| crate::LmError::Unsupported(format!("no thread for the engine: {e}")))?
        };
        Ok(Engine {
            commands: Mutex::new(commands),
            thread: Some(thread),
            shared,
            tokenizer,
            chat_template,
            generation_config,
            eos_ids,
            vocab_size,
            context,
            kv_bytes,
            max_queue,
            state_bytes: [fixed, position],
            xtc_special,
            grammars: OnceLock::new(),
        })
    }

    /// Takes a request; its events come over the stream. Dropping that cancels it.
    ///
    /// # Errors
    /// [`EngineError`], at once, for what is invalid, can never fit, or finds the queue full.
    pub fn submit(&self, mut request: Request) -> std::result::Result<EventStream, EngineError> {
        request.validate(self.vocab_size)?;
        let prompt = request.prompt.len();
        let mut limit = request.max_tokens.unwrap_or(usize::MAX);
        if let Some(context) = self.context {
            // With nothing to generate the prompt may fill the context.
            if prompt > context || (prompt == context && limit > 0) {
                return Err(EngineError::ContextLength {
                    prompt,
                    limit: context,
                });
            }
            limit = limit.min(context - prompt);
        } else {
            limit = limit.min(1 << 20);
        }
        let [fixed, position] = self.state_bytes;
        let needed = position
            .saturating_mul(prompt)
            .saturating_add(fixed)
            .saturating_mul(request.n);
        if needed > self.kv_bytes {
            return Err(EngineError::Memory {
                prompt,
                needed,
                limit: self.kv_bytes,
            });
        }
        if request.sampling.xtc_special_tokens.is_empty() {
            request.sampling.xtc_special_tokens.clone_from(&self.xtc_special);
        }
        (self.shared.enter_queue(self.max_queue)).map_err(|waiting| EngineError::QueueFull {
            waiting,
            limit: self.max_queue,
        })?;
        let (sender, stream) = event_channel();
        let job = Box::new(Job {
            request,
            sender,
            submitted: Instant::now(),
            limit,
        });
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands
            .send(Command::Take(job))
            .map_err(|_| EngineError::Stopped)?;
        Ok(stream)
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The chat template, where the model has one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&Arc<ChatTemplate>> {
        self.chat_template.as_ref()
    }

    /// What the model's makers recommend for generation.
    #[must_use]
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    /// Tokens that end a text.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Tokens of prompt and answer together at most; `None` where the model's files say nothing.
    #[must_use]
    pub fn context_length(&self) -> Option<usize> {
        self.context
    }

    /// Rows of logits: ids below this are possible.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Numbers since the start.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.shared.snapshot(self.kv_bytes)
    }

    /// Whether the thread that owns the device is alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Compiles a grammar for the model's vocabulary.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] with what is wrong with the grammar.
    pub fn compile(&self, grammar: &Grammar) -> std::result::Result<Constraint, EngineError> {
        let made = self.grammars.get_or_init(|| match self.eos_ids.first() {
            Some(eos) => Grammars::new(&self.tokenizer, *eos),
            None => Err("the model has no token that ends a text".to_owned()),
        });
        match made {
            Ok(grammars) => grammars.compile(grammar),
            Err(message) => Err(EngineError::Invalid {
                param: "grammar",
                message: message.clone(),
            }),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = commands.send(Command::Stop);
        drop(commands);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
