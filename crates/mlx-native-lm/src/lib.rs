//! Language models.
//!
//! What to read first:
//! - [`ModelFolder`] opens a folder in MLX's format, or the same files in memory;
//! - [`spec`] is a model as data, made from `config.json` by its family, of which [`families`] lists all;
//! - [`QuantizationConfig`] says how each weight is packed;
//! - [`Tokenizer`] and [`Detokenizer`] go from text to tokens and back, the latter piece by piece;
//! - [`ChatTemplate`] makes one text of the messages of a chat;
//! - [`Sampler`] chooses the next token;
//! - [`Model`] opens all of it on a device, [`Decoder`] is the network, [`generate()`] continues a prompt.

mod chat;
pub mod config;
mod detokenizer;
mod error;
pub mod families;
mod folder;
mod generate;
mod json;
mod model;
mod open;
mod quantization;
mod rope;
mod sampling;
pub mod spec;
mod tokenizer;
mod unread;

pub use chat::{ChatMessage, ChatOptions, ChatTemplate};
pub use config::{ConfigFile, FamilyInput, GenerationConfig};
pub use detokenizer::Detokenizer;
pub use error::{LmError, Result};
pub use folder::ModelFolder;
pub use generate::{Event, FinishReason, GenerateOptions, Generation, generate};
pub use json::{Fields, parse_object};
pub use model::{Decoder, KvState, LayerState, RecurrentState, SequenceState};
pub use open::{Model, ModelOptions, open_decoder};
pub use quantization::{QuantMode, QuantSpec, QuantizationConfig};
pub use rope::{RopeConfig, RopeScaling, RopeTable};
pub use sampling::{Sampler, SamplingParams};
pub use spec::DecoderSpec;
pub use tokenizer::Tokenizer;
