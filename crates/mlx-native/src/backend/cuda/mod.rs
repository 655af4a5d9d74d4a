//! NVIDIA GPUs.

mod library;
mod nvrtc;
mod text;
#[cfg(test)]
mod tests;
