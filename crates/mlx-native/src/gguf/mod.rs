//! GGUF files: metadata and tensors of GGML's types.
//!
//! The format, little-endian: the four bytes `GGUF`; a version, u32; the numbers of tensors and of metadata entries, u64
//! each; the entries: a key, a type, a value; the tensors: a name, its extents with the innermost first, an element type,
//! an offset; then, at a multiple of `general.alignment`, the data. A string is a u64 length and UTF-8. Source: ggml's
//! `docs/gguf.md`.
//!
//! A file is checked in full when it is opened: every length against what is left of the file, every tensor's place
//! against the file's end and against the other tensors. Nothing is allocated by a count that the file claims and does not
//! hold. Data is mapped and stays where it is; arrays of metadata (a vocabulary has some hundred thousand strings) are
//! kept as ranges of the file until they are asked for.

mod cursor;
mod file;
mod metadata;
mod model;
mod parse;
#[cfg(test)]
mod tests;

pub use crate::quant::GgmlType;
pub use file::{GgufFile, TensorInfo};
pub use metadata::MetadataValue;
pub use model::GgufModel;
