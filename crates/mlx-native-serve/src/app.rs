//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use crate::models::Models;

/// Where log lines go.
pub type Log = Arc<dyn Fn(&str) + Send + Sync>;

/// Settings of a server.
#[derive(Clone)]
pub struct ServeConfig {
    /// Keys of which a request has to name one; with none everybody may ask.
    pub api_keys: Vec<String>,
    /// Origins of web pages that may ask, `*` for all. Those of this machine may always.
    pub allowed_origins: Vec<String>,
    /// Bytes of a request at most.
    pub max_body: usize,
    /// Longest time that an answer may take.
    pub timeout: Option<Duration>,
    /// Longest time that answers may take once the server is to stop.
    pub drain_timeout: Duration,
    /// After how long without a request a model is let go of; `None`: never.
    pub keep_alive: Option<Duration>,
    /// Tokens of an answer where a request does not say it; `None`: as the interface has it.
    pub max_tokens: Option<usize>,
    /// One line for each request.
    pub log: Log,
}

impl Default for ServeConfig {
    fn default() -> Self {
        ServeConfig {
            api_keys: Vec::new(),
            allowed_origins: Vec::new(),
            max_body: 32 << 20,
            timeout: None,
            drain_timeout: Duration::from_secs(30),
            keep_alive: None,
            max_tokens: None,
            log: Arc::new(|_| {}),
        }
    }
}

impl std::fmt::Debug for ServeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServeConfig")
            .field("api_keys", &self.api_keys.len())
            .field("max_body", &self.max_body)
            .finish_non_exhaustive()
    }
}

pub(crate) struct App {
    pub models: Models,
    pub config: ServeConfig,
    pub metrics: Metrics,
    pub draining: AtomicBool,
    /// Whether the first model was loaded.
    pub warm: AtomicBool,
    /// Chat templates that are rendered at the same time.
    pub templates: Arc<Semaphore>,
    next_id: AtomicU64,
    id_base: u64,
}

impl App {
    pub fn new(models: Models, config: ServeConfig) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        App {
            models,
            config,
            metrics: Metrics::default(),
            draining: AtomicBool::new(false),
            warm: AtomicBool::new(false),
            templates: Arc::new(Semaphore::new(8)),
            next_id: AtomicU64::new(1),
            id_base: started.as_nanos() as u64,
        }
    }

    /// A name that no other thing of this server has, such as `chatcmpl-…`.
    pub fn id(&self, prefix: &str) -> String {
        let n = self.next_id.fetch_add(1, Relaxed);
        // Names are hard to confuse when they differ everywhere.
        let mixed = (self.id_base ^ n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).rotate_left(17);
        format!("{prefix}{mixed:016x}{:08x}", n as u32)
    }

    /// A name of letters and digits alone, of so many characters.
    pub fn short_id(&self, len: usize) -> String {
        let id = self.id("");
        id[id.len() - len.min(id.len())..].to_owned()
    }

    pub fn now() -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs())
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
}
