//! Compute.
pub mod kernel;
