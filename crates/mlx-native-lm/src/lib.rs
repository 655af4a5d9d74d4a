//! Language models: text from a folder in MLX's format.
//!
//! ```no_run
//! use std::io::Write;
//!
//! use mlx_native_lm::{Model, ModelOptions};
//!
//! let device = mlx_native::MlxDevice::new()?;
//! let mut model = Model::open(&device, "path/to/folder", &ModelOptions::default())?;
//! for piece in model.generate("Once upon a time")? {
//!     print!("{}", piece?.text);
//!     std::io::stdout().flush()?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What to read first:
//! - [`ModelFolder`] opens a folder in MLX's format, the same files in memory, or a GGUF file;
//! - [`spec`] is a model as data, made from `config.json` by its family, of which [`families`] lists all;
//! - [`QuantizationConfig`] says how each weight is packed;
//! - [`Tokenizer`] and [`Detokenizer`] go from text to tokens and back, the latter piece by piece;
//! - [`ChatTemplate`] makes one text of the messages of a chat;
//! - [`Sampler`] chooses the next token;
//! - [`Model`] opens all of it on a device, [`Decoder`] is the network, [`generate()`] continues a prompt;
//! - [`Batch`] computes many sequences at once.

mod adapter;
mod batch;
mod chat;
pub mod config;
pub mod convert;
mod detokenizer;
pub mod engine;
mod error;
pub mod families;
mod folder;
mod generate;
mod gguf;
mod json;
mod model;
mod open;
mod perplexity;
mod quantization;
mod random;
mod rope;
mod sampling;
pub mod spec;
mod speculate;
mod stream;
mod tensors;
mod token_text;
mod tokenizer;
mod unread;

pub use batch::{Batch, NewSequence, Output, SequenceId};
pub use chat::{ChatMessage, ChatOptions, ChatTemplate};
pub use config::{ConfigFile, FamilyInput, GenerationConfig};
pub use detokenizer::Detokenizer;
pub use error::{LmError, Result};
pub use folder::ModelFolder;
pub use generate::{Event, FinishReason, GenerateOptions, Generation, generate};
pub use json::{Fields, parse_object};
pub use model::{Decoder, LayerState, PagedKv, Recurrent, RotatingKv, Rows, SequenceState, Wanted};
pub use open::{Model, ModelOptions, open_adapted_decoder, open_decoder};
pub use perplexity::{Perplexity, perplexity};
pub use quantization::{QuantMode, QuantSpec, QuantizationConfig};
pub use random::RandomModel;
pub use rope::{RopeConfig, RopeScaling, RopeTable};
pub use sampling::{Sampler, SamplingParams};
pub use spec::DecoderSpec;
pub use speculate::{Draft, MAX_DRAFT_TOKENS, generate_with_draft};
pub use stream::{Piece, Pieces, PromptOptions};
pub use tensors::{Part, Plan, RandomFormat};
pub use tokenizer::Tokenizer;
