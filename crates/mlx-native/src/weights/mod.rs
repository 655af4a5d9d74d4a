//! Weight files: mapped, checked once when opened, never copied without need.
//!
//! - [`SafetensorsFile`] is one file, a header that was checked in full and bytes that were not touched;
//! - [`ModelWeights`] is the weights of a model, in one file or many shards;
//! - [`WeightLoader`] puts them on a device, in place where the file's alignment allows it.
//!
//! A file that another program truncates while it is mapped ends this process with a bus error when the missing part is
//! read; no library can prevent that. The length is checked when the file is opened; replace model files by renaming
//! new ones into place, never by rewriting them.

mod bytes;
mod loader;
mod model;
mod safetensors;

pub use bytes::{FileBytes, FileMap};
pub use loader::WeightLoader;
pub use model::ModelWeights;
pub use safetensors::{MAX_HEADER_LEN, SafetensorsFile, TensorInfo, TensorType};
