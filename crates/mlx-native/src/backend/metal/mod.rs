//! Apple GPUs through Metal.
//!
//! | what | file |
//! |---|---|
//! | the device: opening, limits, the contract's methods | `device.rs` |
//! | generation and class of a GPU, bounds of command buffers | `src/profile.rs`, below all devices |
//! | memory: allocated, mapped files in place, residency | `memory.rs`, `owner.rs`, `pages.rs` |
//! | a list of work into command buffers | `split.rs`, `queue.rs` |
//! | commands into Metal's calls | `encode.rs` |
//! | kernels into pipelines, and archives of them on disk | `pipeline.rs`, `archive.rs` |
//! | Metal's errors | `failure.rs` |
//! | the calls themselves: a trait, and Objective-C | `gpu.rs`, `objc/` |
//! | stand-ins that answer the calls on any machine | `recording.rs`, `executing/` |
//!
//! Everything but `objc/` is plain Rust over the trait of `gpu.rs`. On any machine it is tested against a stand-in that
//! records the calls, and runs on one whose GPU is the emulator. `docs/metal.md` says what that proves and what only a Mac
//! can.
//!
//! # Order and hazards
//! Buffers are *untracked*: Metal puts no order between command buffers that share them. Inside a command buffer one
//! encoder lets dispatches overlap, and barriers stand where the list has them; copies have an encoder of their own. A
//! fence, which each encoder waits for at its start and updates at its end, keeps the order of encoders and of the queue.
//!
//! # What keeps memory alive
//! Command buffers hold no references (that is what they cost most time with). The list of work does, and it is dropped
//! when the last of its command buffers has ended.

pub use crate::profile::{CommandBounds, GpuArchitecture, GpuClass};

macro_rules! where_it_compiles {
    ($($item:item)*) => {
        $(#[cfg(any(target_vendor = "apple", test, all(feature = "testing", feature = "emulator")))] $item)*
    };
}

where_it_compiles! {
    mod archive;
    mod device;
    mod encode;
    mod failure;
    mod gpu;
    mod memory;
    mod owner;
    mod pages;
    mod pipeline;
    mod queue;
    mod split;
}
#[cfg(all(any(test, feature = "testing"), feature = "emulator"))]
pub(crate) mod executing;
#[cfg(target_vendor = "apple")]
mod objc;
#[cfg(test)]
mod recording;
#[cfg(test)]
mod tests;

#[cfg(target_vendor = "apple")]
pub(crate) use objc::open;
