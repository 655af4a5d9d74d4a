//! Quantised formats: what they are, how their bits lie in memory, how they are made and read.
//!
//! [`affine`] is MLX's default: integer codes with a scale and a bias for each group of a row. Every format stores its
//! codes as MLX does, as one little-endian bit stream per row ([`pack_codes`], [`unpack_codes`]); what differs between
//! formats is how a code becomes a number. [`ggml`] has the block types of GGUF files. Host code, for loading, converting and
//! testing; kernels read packed rows in place.
//!
//! [`WeightFormat`] names a format, [`Weight`] is a matrix in one.

pub mod affine;
mod bitstream;
pub mod floats;
mod format;
pub mod ggml;
mod parallel;
mod weight;

pub use affine::AffineFormat;
pub use bitstream::{pack_codes, packed_words, unpack_codes};
pub use floats::FloatFormat;
#[cfg(test)]
pub(crate) use format::KERNEL_PARTS;
pub use format::{Plane, Planes, WeightFormat};
pub use ggml::GgmlType;
pub use weight::Weight;
