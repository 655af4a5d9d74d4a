//! HTTP for language models: the interfaces of OpenAI, Anthropic and Ollama, each an adapter over one engine
//! ([`mlx_native_lm::engine`]).
//!
//! What to read first: `server` takes connections and finds the handler; `api` has one file for each interface, which reads a
//! request into a `Chat` and writes the parts of an `Answer`; `chat` makes prompts and grammars; `output` finds thoughts and calls in
//! the text while it is written. [`Backend`] is the line to the engine: tests put a script in its place.

mod answer;
mod api;
mod app;
mod chat;
mod error;
mod fields;
mod gbnf;
mod known;
mod metrics;
mod models;
mod output;
mod params;
mod server;
mod stream;

pub use app::{Log, ServeConfig};
pub use error::{ApiError, ApiResult};
pub use models::{Backend, Load, ModelSource, ServedModel};
pub use output::{Said, Thoughts};
pub use server::{Server, Stop};
