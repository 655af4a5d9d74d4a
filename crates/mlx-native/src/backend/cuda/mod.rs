//! NVIDIA GPUs.
//!
//! | what | file |
//! |---|---|
//! | the device: opening, limits, the contract's methods | `device.rs` |
//! | memory of the GPU, and mapped files on it | `memory.rs` |
//! | a list of work into what the driver is told | `plan.rs` |
//! | submitting, and waiting for the end | `queue.rs` |
//! | failures that end the device | `health.rs` |
//! | kernels into functions, and machine code on disk | `compile.rs`, `cache.rs` |
//! | kernels compiled side by side | `later.rs` |
//! | Metal text into CUDA text, behind a prelude | `text.rs`, `prelude/` |
//! | second texts of a few kernels, for tensor cores | `bodies.rs`, `bodies/` |
//! | the compiler NVRTC | `nvrtc.rs` |
//! | the calls of the driver: a trait, and the driver | `gpu.rs`, `driver.rs` |
//! | compiling every kernel without a GPU, a test | `offline.rs` |
//! | libraries loaded at run time | `library.rs` |
//!
//! Driver and compiler are loaded when they are needed: nothing of CUDA's is there when this is built. All but `driver.rs`
//! is plain Rust over the trait of `gpu.rs`, and is tested on any machine against a stand-in that records the calls.
//! `docs/cuda.md` says what that proves and what only a GPU can.
//!
//! # Order
//! One stream runs everything in the order of the lists, so that a barrier costs nothing and means nothing. Transfers of
//! the host have a stream of their own, and return when they are over: the layer above has waited for all that conflicts.
//!
//! # One kernel, several forms
//! Metal lets the last threadgroups of a grid be partial, takes any number of threadgroups along y and z, and binds a
//! reference to constants to a buffer or to bytes of the launch. CUDA has whole blocks, few of them along y and z, and
//! parameters that are values or addresses. A kernel is compiled in the form that its launches need; see `text::Form`.

mod bodies;
mod cache;
mod compile;
mod device;
mod driver;
mod gpu;
mod health;
mod later;
mod library;
mod memory;
mod nvrtc;
#[cfg(feature = "testing")]
pub(crate) mod offline;
mod plan;
mod queue;
#[cfg(test)]
mod recording;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use device::open;
