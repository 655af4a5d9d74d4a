//! What a kernel is.
pub mod msl;
