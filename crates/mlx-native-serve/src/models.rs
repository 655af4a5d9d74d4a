//! The models of a server: by name, loaded when they are first asked for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mlx_native_lm::engine::{Constraint, Engine, EngineError, EngineStats, EventStream, Grammar, Request};
use mlx_native_lm::{ChatTemplate, LmError, SamplingParams, Tokenizer};

use crate::chat::family::{Family, Thinking};
use crate::error::{ApiError, ApiResult};

/// What answers requests: an engine, or something in its place in tests.
pub trait Backend: Send + Sync {
    /// Takes a request.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    fn submit(&self, request: Request) -> Result<EventStream, EngineError>;

    /// Compiles a grammar.
    ///
    /// # Errors
    /// As [`Engine::compile`].
    fn compile(&self, grammar: &Grammar) -> Result<Constraint, EngineError>;

    /// Its numbers.
    fn stats(&self) -> EngineStats;

    /// Whether it can still answer.
    fn is_alive(&self) -> bool;
}

impl Backend for Engine {
    fn submit(&self, request: Request) -> Result<EventStream, EngineError> {
        Engine::submit(self, request)
    }

    fn compile(&self, grammar: &Grammar) -> Result<Constraint, EngineError> {
        Engine::compile(self, grammar)
    }

    fn stats(&self) -> EngineStats {
        Engine::stats(self)
    }

    fn is_alive(&self) -> bool {
        Engine::is_alive(self)
    }
}

/// The chat template of models that have none: who speaks, what is said, and an empty line between.
const PLAIN_TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}User: {{ m.content }}\n\n\
{% elif m.role == 'tool' %}Tool: {{ m.content }}\n\n{% else %}Assistant: {{ m.content }}\n\n{% endif %}{% endfor %}\
{% if add_generation_prompt %}Assistant:{% endif %}";

/// A model that can be asked.
pub struct ServedModel {
    /// The name by which it was asked for at the start.
    pub id: String,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Arc<ChatTemplate>,
    /// Whether the template shows tools to the model.
    pub(crate) template_has_tools: bool,
    /// Whether it has words for efforts of reasoning, for how much is said, and for documents.
    pub(crate) template_has_effort: bool,
    pub(crate) template_has_verbosity: bool,
    pub(crate) template_has_documents: bool,
    pub(crate) family: Family,
    pub(crate) thinking: Option<Thinking>,
    /// How tokens are chosen where a request does not say it.
    pub(crate) sampling: SamplingParams,
    pub(crate) context: Option<usize>,
    pub(crate) created: u64,
}

impl fmt::Debug for ServedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedModel")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl ServedModel {
    /// A model over a backend.
    ///
    /// # Errors
    /// When the tokenizer's chat template is damaged.
    pub fn new(
        id: impl Into<String>,
        backend: Arc<dyn Backend>,
        tokenizer: Arc<Tokenizer>,
        sampling: SamplingParams,
        context: Option<usize>,
    ) -> Result<Self, LmError> {
        let text = tokenizer.chat_template().unwrap_or(PLAIN_TEMPLATE).to_owned();
        let template = match tokenizer.compile_chat_template()? {
            Some(template) => template,
            None => ChatTemplate::new(PLAIN_TEMPLATE, Vec::new())?,
        };
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        Ok(ServedModel {
            id: id.into(),
            backend,
            template: Arc::new(template),
            template_has_tools: text.contains("tools"),
            template_has_effort: text.contains("reasoning_effort"),
            template_has_verbosity: text.contains("verbosity"),
            template_has_documents: text.contains("documents"),
            family: Family::of_template(&text),
            thinking: Thinking::of_template(&text),
            tokenizer,
            sampling,
            context,
            created,
        })
    }

    /// How tokens are chosen where a request does not say it.
    pub fn sampling_mut(&mut self) -> &mut SamplingParams {
        &mut self.sampling
    }

    /// A model over an engine, with what its makers recommend for sampling.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_engine(id: impl Into<String>, engine: Engine) -> Result<Self, LmError> {
        let sampling = SamplingParams::recommended(engine.generation_config());
        let (tokenizer, context) = (engine.tokenizer().clone(), engine.context_length());
        Self::new(id, Arc::new(engine), tokenizer, sampling, context)
    }
}

/// Makes a model when it is first asked for.
pub type Load = Box<dyn Fn() -> Result<ServedModel, String> + Send + Sync>;

/// A model that may be loaded.
pub struct ModelSource {
    /// Its name.
    pub id: String,
    /// Further names.
    pub aliases: Vec<String>,
    /// Makes it.
    pub load: Load,
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelSource")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

struct Entry {
    source: ModelSource,
    loaded: tokio::sync::Mutex<Option<Arc<ServedModel>>>,
    /// Milliseconds since the start when it was last asked for.
    used: AtomicU64,
}

/// All models of a server; the first is the one that answers where none is named.
pub(crate) struct Models {
    entries: Vec<Arc<Entry>>,
    started: Instant,
}

impl Models {
    pub fn new(sources: Vec<ModelSource>) -> Self {
        let entry = |source| {
            Arc::new(Entry {
                source,
                loaded: tokio::sync::Mutex::new(None),
                used: AtomicU64::new(0),
            })
        };
        Models {
            entries: sources.into_iter().map(entry).collect(),
            started: Instant::now(),
        }
    }

    /// Names of all models.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|e| e.source.id.as_str())
    }

    /// The entry for a name; the first for none, and for what stands for none.
    fn entry(&self, name: Option<&str>) -> ApiResult<&Arc<Entry>> {
        let name = name.unwrap_or_default();
        let first = ["", "default", "default_model"].contains(&name);
        let found = self.entries.iter().find(|e| {
            let source = &e.source;
            first || source.id == name || source.aliases.iter().any(|a| a == name)
        });
        found.ok_or_else(|| ApiError::model_not_found(name))
    }

    /// The name that a name stands for.
    pub fn resolve(&self, name: &str) -> ApiResult<&str> {
        Ok(&self.entry(Some(name))?.source.id)
    }

    /// The model of a name, loaded.
    pub async fn get(&self, name: Option<&str>) -> ApiResult<Arc<ServedModel>> {
        let entry = self.entry(name)?.clone();
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        entry.used.store(now, Relaxed);
        // A task of its own, so that a client that leaves does not interrupt the loading.
        let task = tokio::spawn(async move {
            let mut loaded = entry.loaded.lock().await;
            if let Some(model) = loaded.as_ref().filter(|m| m.backend.is_alive()) {
                return Ok(model.clone());
            }
            *loaded = None;
            let source = entry.clone();
            let made = tokio::task::spawn_blocking(move || (source.source.load)()).await;
            match made {
                Ok(Ok(model)) => {
                    let model = Arc::new(model);
                    *loaded = Some(model.clone());
                    Ok(model)
                }
                Ok(Err(message)) => Err(format!(
                    "the model {:?} cannot be loaded: {message}",
                    entry.source.id
                )),
                Err(_) => Err(format!("loading the model {:?} failed", entry.source.id)),
            }
        });
        let result = task.await.unwrap_or_else(|_| Err("loading failed".to_owned()));
        result.map_err(ApiError::unavailable)
    }

    /// The models that are loaded.
    pub fn loaded(&self) -> Vec<Arc<ServedModel>> {
        let loaded = |e: &Arc<Entry>| e.loaded.try_lock().ok().and_then(|l| l.clone());
        self.entries.iter().filter_map(loaded).collect()
    }

    /// Lets go of models that nobody asked for in so long and that have nothing to do.
    pub fn unload_idle(&self, keep: Duration) {
        for entry in &self.entries {
            let used = Duration::from_millis(entry.used.load(Relaxed));
            let Ok(mut loaded) = entry.loaded.try_lock() else {
                continue;
            };
            let busy = loaded.as_ref().is_some_and(|m| {
                let stats = m.backend.stats();
                stats.running + stats.waiting > 0 || Arc::strong_count(m) > 1
            });
            if !busy && self.started.elapsed().saturating_sub(used) > keep {
                *loaded = None;
            }
        }
    }
}
