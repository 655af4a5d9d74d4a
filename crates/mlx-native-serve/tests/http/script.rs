//! A backend that says what it was told to say, and servers over it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlx_native_lm::engine::{
    Constraint, EngineError, EngineStats, Event, EventStream, Grammar, Logprobs, Request, StopReason, Token,
    Usage, event_channel,
};
use mlx_native_lm::{ModelFolder, SamplingParams, Tokenizer};
use mlx_native_serve::{Backend, ModelSource, ServeConfig, ServedModel, Server, Stop};

/// Says one text to everybody, some characters at a time.
pub struct Script {
    pub text: String,
    pub reason: StopReason,
    /// Time between pieces.
    pub pause: Duration,
    /// The last request that came.
    pub asked: Mutex<Option<Request>>,
    /// Answers that nobody listened to any more.
    pub gone: Arc<AtomicUsize>,
    /// Requests that are taken before the queue is full.
    pub room: AtomicUsize,
}

impl Script {
    pub fn saying(text: &str) -> Self {
        Script {
            text: text.to_owned(),
            reason: StopReason::EndOfText(0),
            pause: Duration::ZERO,
            asked: Mutex::new(None),
            gone: Arc::new(AtomicUsize::new(0)),
            room: AtomicUsize::new(usize::MAX),
        }
    }
}

impl Backend for Script {
    fn submit(&self, request: Request) -> Result<EventStream, EngineError> {
        if self
            .room
            .fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1))
            .is_err()
        {
            return Err(EngineError::QueueFull { waiting: 7, limit: 7 });
        }
        let (sender, stream) = event_channel();
        let (text, reason, pause, gone) = (
            self.text.clone(),
            self.reason.clone(),
            self.pause,
            self.gone.clone(),
        );
        *self.asked.lock().unwrap() = Some(request.clone());
        std::thread::spawn(move || {
            sender.send(Event::Prompt {
                cached_tokens: 2,
                logprobs: Vec::new(),
            });
            let chars: Vec<char> = text.chars().collect();
            for index in 0..request.n {
                for piece in chars.chunks(3) {
                    let text: String = piece.iter().collect();
                    let logprobs = request.logprobs.map(|_| Logprobs {
                        logprob: -0.5,
                        top: Vec::new(),
                    });
                    let token = Token {
                        id: 5,
                        text: text.clone(),
                        logprobs,
                    };
                    let sent = sender.send(Event::Text {
                        index,
                        text,
                        tokens: vec![token],
                    });
                    if !sent {
                        gone.fetch_add(1, SeqCst);
                        return;
                    }
                    std::thread::sleep(pause);
                }
                sender.send(Event::Finished {
                    index,
                    reason: reason.clone(),
                    usage: Usage {
                        prompt_tokens: request.prompt.len(),
                        cached_tokens: 2,
                        completion_tokens: chars.len().div_ceil(3),
                        ..Usage::default()
                    },
                });
            }
        });
        Ok(stream)
    }

    fn compile(&self, _grammar: &Grammar) -> Result<Constraint, EngineError> {
        Err(EngineError::Invalid {
            param: "grammar",
            message: "the script knows none".to_owned(),
        })
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    fn is_alive(&self) -> bool {
        true
    }
}

/// A server on a port of its own; it stops when it is dropped.
pub struct Running {
    pub address: SocketAddr,
    pub stop: Stop,
    pub thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub fn run(sources: Vec<ModelSource>, config: ServeConfig) -> Running {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(sources, config);
    let stop = server.stopper();
    runtime.block_on(server.loader()).unwrap();
    let thread = std::thread::spawn(move || {
        runtime.block_on(server.run(listener)).unwrap();
        runtime.shutdown_background();
    });
    Running {
        address,
        stop,
        thread: Some(thread),
    }
}

pub fn tokenizer(template: Option<&str>) -> Arc<Tokenizer> {
    let folder = ModelFolder::from_files(mlx_native_demo::files()).unwrap();
    let mut tokenizer = folder.tokenizer().unwrap();
    if let Some(template) = template {
        tokenizer.set_chat_template(template);
    }
    Arc::new(tokenizer)
}

/// A server whose model `org/scripted` follows a script.
pub fn scripted(
    script: Script,
    template: Option<&'static str>,
    config: ServeConfig,
) -> (Running, Arc<Script>) {
    let script = Arc::new(script);
    let backend = script.clone();
    let source = ModelSource {
        id: "org/scripted".to_owned(),
        aliases: vec!["scripted".to_owned()],
        load: Box::new(move || {
            let model = ServedModel::new(
                "org/scripted",
                backend.clone(),
                tokenizer(template),
                SamplingParams::default(),
                Some(512),
            );
            model.map_err(|e| e.to_string())
        }),
    };
    (run(vec![source], config), script)
}

pub fn saying(text: &str) -> Running {
    scripted(Script::saying(text), None, ServeConfig::default()).0
}
