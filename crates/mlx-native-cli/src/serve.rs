//! `mlx-native serve`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use mlx_native::{Config, MlxDevice};
use mlx_native_lm::engine::{Engine, EngineConfig};
use mlx_native_lm::{Model, ModelOptions};
use mlx_native_serve::{ModelSource, ServeConfig, ServedModel, Server, Stop};

use crate::args::{Device, Dtype};
use crate::report;

/// Name of the environment's variable with the key.
const KEY_VARIABLE: &str = "MLX_NATIVE_API_KEY";

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Folder of an MLX model, as PATH or NAME=PATH; may be repeated, and the first answers where a request names none. Without it
    /// the demo model that is part of the program answers.
    #[arg(long, value_name = "[NAME=]PATH", help_heading = "Models")]
    pub model: Vec<String>,

    /// LoRA or DoRA adapter, as FOLDER or NAME=FOLDER; may be repeated. Each is a further model, the first one with it, by its name.
    #[arg(
        long,
        visible_alias = "adapter-path",
        value_name = "[NAME=]FOLDER",
        help_heading = "Models"
    )]
    pub adapter: Vec<String>,

    /// Let go of models that nobody asked for in so many seconds; they are loaded again when asked for.
    #[arg(long, value_name = "SECONDS", help_heading = "Models")]
    pub keep_alive: Option<u64>,

    /// Longest text, prompt and answer together, in tokens; default: what the model was made for.
    #[arg(long, value_name = "N", help_heading = "Models")]
    pub max_context: Option<usize>,

    /// Where to run.
    #[arg(long, default_value = "auto", value_enum, help_heading = "Models")]
    pub device: Device,

    /// Type of activations and of the KV cache. `auto`: that of the checkpoint, but f32 on a CPU where that is not bf16.
    #[arg(long, default_value = "auto", value_enum, help_heading = "Models")]
    pub dtype: Dtype,

    /// Threads of the CPU; default: one for each processor.
    #[arg(long, value_name = "N", help_heading = "Models")]
    pub threads: Option<usize>,

    /// Address to listen on; 0.0.0.0 lets other machines in.
    #[arg(long, default_value = "127.0.0.1", help_heading = "Connections")]
    pub host: String,

    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8080, help_heading = "Connections")]
    pub port: u16,

    /// Key that requests have to name; may be repeated. Also read from the variable MLX_NATIVE_API_KEY.
    #[arg(long, value_name = "KEY", help_heading = "Connections")]
    pub api_key: Vec<String>,

    /// File with keys, one on each line.
    #[arg(long, value_name = "FILE", help_heading = "Connections")]
    pub api_key_file: Option<PathBuf>,

    /// Origins of web pages that may ask, `*` for all; those of this machine may always.
    #[arg(
        long,
        value_name = "ORIGIN",
        value_delimiter = ',',
        help_heading = "Connections"
    )]
    pub allowed_origins: Vec<String>,

    /// Longest time of an answer, in seconds; 0: none.
    #[arg(long, default_value_t = 0, value_name = "SECONDS", help_heading = "Limits")]
    pub timeout: u64,

    /// Longest time that answers may take once the server is to stop, in seconds.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", help_heading = "Limits")]
    pub drain_timeout: u64,

    /// Texts that are computed at the same time at most.
    #[arg(long, default_value_t = 64, value_name = "N", help_heading = "Limits")]
    pub max_sequences: usize,

    /// Requests that wait at most; what comes then is refused.
    #[arg(long, default_value_t = 1024, value_name = "N", help_heading = "Limits")]
    pub max_queue: usize,

    /// Memory for keys and values, the prompt cache included, in GiB.
    #[arg(long, default_value_t = 4.0, value_name = "GIB", help_heading = "Limits")]
    pub kv_memory: f64,

    /// Bytes of a request at most.
    #[arg(long, default_value_t = 32 << 20, value_name = "BYTES", help_heading = "Limits")]
    pub max_body: usize,

    /// Tokens of an answer where a request does not say it; default: 16 for completions, the context for chats.
    #[arg(long, value_name = "N", help_heading = "Answers")]
    pub max_tokens: Option<usize>,

    /// Temperature where a request does not say it; default: what the model's makers recommend.
    #[arg(long, value_name = "T", help_heading = "Answers")]
    pub temp: Option<f32>,

    /// Top-p where a request does not say it.
    #[arg(long, value_name = "P", help_heading = "Answers")]
    pub top_p: Option<f32>,

    /// Texts whose states the prompt cache keeps; 0 switches it off.
    #[arg(long, default_value_t = 64, value_name = "N", help_heading = "Prompt cache")]
    pub prompt_cache_size: usize,

    /// Folder that keeps the prompt cache over restarts.
    #[arg(long, value_name = "FOLDER", help_heading = "Prompt cache")]
    pub prompt_cache_dir: Option<PathBuf>,

    /// What that folder takes at most, in GiB; the pages used longest ago go first.
    #[arg(
        long,
        default_value_t = 8.0,
        value_name = "GIB",
        help_heading = "Prompt cache"
    )]
    pub prompt_cache_disk: f64,

    /// Guess so many tokens at a time by looking back in the text, and compute them together; answers stay the same.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Speculation")]
    pub prompt_lookup: usize,

    /// Folder of a smaller model with the same vocabulary, which guesses what the first --model will say; answers stay the same.
    #[arg(long, value_name = "PATH", help_heading = "Speculation")]
    pub draft_model: Option<PathBuf>,

    /// Tokens that the draft model guesses at a time.
    #[arg(long, default_value_t = 3, value_name = "N", help_heading = "Speculation")]
    pub num_draft_tokens: usize,

    /// No line for each request.
    #[arg(long, help_heading = "Connections")]
    pub quiet: bool,
}

/// Runs the command.
///
/// # Errors
/// What the model, the device or the system had to say.
pub fn run(options: &Serve) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("http")
        .build()
        .context("threads for connections")?;
    let config = config(options)?;
    let sources = sources(options)?;
    runtime.block_on(async {
        let address = (options.host.as_str(), options.port);
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("{}:{} cannot be listened on", options.host, options.port))?;
        let bound = listener.local_addr().context("the address")?;
        let server = Server::new(sources, config);
        on_signals(server.stopper())?;
        report::line(&format!("listening on http://{bound}"));
        let stop = server.stopper();
        let loading = server.loader();
        let load = tokio::spawn(async move {
            let loaded = loading.await;
            match &loaded {
                Ok(()) => report::line("ready"),
                Err(_) => stop.stop(),
            }
            loaded
        });
        server.run(listener).await.context("the listener")?;
        // A failure to load is what stopped it; a model that is still being loaded is not waited for.
        if let Ok(Ok(Err(message))) = tokio::time::timeout(Duration::from_millis(100), load).await {
            bail!("{message}");
        }
        Ok(())
    })?;
    runtime.shutdown_background();
    Ok(())
}

fn config(options: &Serve) -> Result<ServeConfig> {
    let mut keys = options.api_key.clone();
    keys.extend(std::env::var(KEY_VARIABLE).ok());
    if let Some(file) = &options.api_key_file {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("--api-key-file {}", file.display()))?;
        keys.extend(text.lines().map(|line| line.trim().to_owned()));
    }
    keys.retain(|key| !key.is_empty());
    if options.api_key_file.is_some() && keys.is_empty() {
        bail!("--api-key-file: found no key in it");
    }
    let seconds = |n: u64| (n > 0).then(|| Duration::from_secs(n));
    let quiet = options.quiet;
    Ok(ServeConfig {
        api_keys: keys,
        allowed_origins: options.allowed_origins.clone(),
        max_body: options.max_body,
        timeout: seconds(options.timeout),
        drain_timeout: Duration::from_secs(options.drain_timeout),
        keep_alive: options.keep_alive.and_then(seconds),
        max_tokens: options.max_tokens,
        log: Arc::new(move |line: &str| {
            if !quiet {
                report::line(line);
            }
        }),
    })
}

/// The models that the flags name, to be loaded when they are asked for.
fn sources(options: &Serve) -> Result<Vec<ModelSource>> {
    if !(options.kv_memory > 0.0 && options.kv_memory < 1e6) {
        bail!(
            "--kv-memory: found {}, wanted a number of GiB above 0",
            options.kv_memory
        );
    }
    if !(options.prompt_cache_disk > 0.0 && options.prompt_cache_disk < 1e9) {
        bail!(
            "--prompt-cache-disk: found {}, wanted a number of GiB above 0",
            options.prompt_cache_disk
        );
    }
    let settings = Settings {
        engine: EngineConfig {
            max_sequences: options.max_sequences.max(1),
            max_queue: options.max_queue,
            kv_bytes: (options.kv_memory * f64::from(1 << 30)) as usize,
            prompt_cache_entries: options.prompt_cache_size,
            prompt_cache_dir: options.prompt_cache_dir.clone(),
            prompt_cache_disk_bytes: (options.prompt_cache_disk * f64::from(1 << 30)) as u64,
            prompt_lookup: options.prompt_lookup,
            draft_tokens: options.num_draft_tokens,
            max_context: options.max_context,
            ..EngineConfig::default()
        },
        device: options.device,
        dtype: options.dtype,
        threads: options.threads,
        temp: options.temp,
        top_p: options.top_p,
        draft: options.draft_model.clone(),
    };
    if let Some(draft) = &options.draft_model
        && !draft.exists()
    {
        bail!("--draft-model: there is nothing at {}", draft.display());
    }
    if options.model.is_empty() && !options.adapter.is_empty() {
        bail!("--adapter needs --model: the demo model has no adapters");
    }
    if options.model.is_empty() {
        return Ok(vec![source(
            mlx_native_demo::NAME.to_owned(),
            None,
            None,
            settings,
        )]);
    }
    let mut sources: Vec<ModelSource> = Vec::new();
    for model in &options.model {
        let (name, path) = named(model);
        let is_gguf = path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if !path.is_dir() && !is_gguf {
            bail!(
                "--model {model}: there is no folder or .gguf file {}",
                path.display()
            );
        }
        if sources.iter().any(|s| s.id == name) {
            bail!("--model {name}: the name is given twice");
        }
        let mut settings = settings.clone();
        if !sources.is_empty() {
            settings.draft = None;
        }
        sources.push(source(name, Some(path), None, settings));
    }
    let first = options.model.first().map(|model| named(model).1);
    for adapter in &options.adapter {
        let (name, folder) = named(adapter);
        if !folder.is_dir() {
            bail!("--adapter {adapter}: there is no folder {}", folder.display());
        }
        if sources.iter().any(|s| s.id == name) {
            bail!("--adapter {name}: the name is given twice");
        }
        sources.push(source(name, first.clone(), Some(folder), settings.clone()));
    }
    Ok(sources)
}

/// The name and the path of `NAME=PATH`, or of a path that is its own name.
fn named(text: &str) -> (String, PathBuf) {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !name.contains('/') => {
            (name.to_owned(), PathBuf::from(path))
        }
        _ => (text.to_owned(), PathBuf::from(text)),
    }
}

#[derive(Clone)]
struct Settings {
    engine: EngineConfig,
    device: Device,
    dtype: Dtype,
    threads: Option<usize>,
    temp: Option<f32>,
    top_p: Option<f32>,
    /// Of the first model, and of its adapters.
    draft: Option<PathBuf>,
}

fn source(id: String, path: Option<PathBuf>, adapter: Option<PathBuf>, settings: Settings) -> ModelSource {
    let mut aliases = Vec::new();
    if let Some(path) = adapter.as_ref().or(path.as_ref()) {
        aliases.push(path.display().to_string());
        aliases.extend(path.file_name().map(|n| n.to_string_lossy().into_owned()));
    }
    let name = id.clone();
    ModelSource {
        id,
        aliases,
        load: Box::new(move || {
            load(&name, path.as_deref(), adapter.as_deref(), &settings).map_err(|e| format!("{e:#}"))
        }),
    }
}

fn load(id: &str, path: Option<&Path>, adapter: Option<&Path>, settings: &Settings) -> Result<ServedModel> {
    let mut config = Config::default();
    config.threads = settings.threads;
    let device = match settings.device.kind() {
        Some(kind) => MlxDevice::with_config(kind, &config)?,
        None => MlxDevice::best(&config)?,
    };
    let options = ModelOptions {
        dtype: settings.dtype.dtype(),
        ..ModelOptions::default()
    };
    let model = match (path, adapter) {
        (Some(path), Some(adapter)) => Model::open_adapted(&device, path, adapter, &options)?,
        (Some(path), None) => Model::open(&device, path, &options)?,
        (None, _) => Model::from_files(&device, mlx_native_demo::files(), &options)?,
    };
    let engine = match &settings.draft {
        None => Engine::start(model, settings.engine.clone())?,
        Some(path) => {
            let draft = Model::open(&device, path, &options).context("--draft-model")?;
            Engine::start_with_draft(model, draft, settings.engine.clone()).context("--draft-model")?
        }
    };
    let mut served = ServedModel::of_engine(id, engine)?;
    let sampling = served.sampling_mut();
    sampling.temperature = settings.temp.unwrap_or(sampling.temperature);
    sampling.top_p = settings.top_p.unwrap_or(sampling.top_p);
    sampling.validate()?;
    Ok(served)
}

/// Stops the server when the system asks for it.
fn on_signals(stop: Stop) -> Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            let mut signals = signal(kind).context("signals")?;
            let stop = stop.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    stop.stop();
                }
            });
        }
    }
    #[cfg(not(unix))]
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            stop.stop();
        }
    });
    Ok(())
}
