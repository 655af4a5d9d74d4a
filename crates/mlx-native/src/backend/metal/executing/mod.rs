//! A stand-in for Metal that executes: its GPU is the emulator.
//!
//! With it the whole host code of this backend runs on any machine, kernels included: device column `metal host code` of
//! the proof, goldens of models, generation. Only the Objective-C calls stay unexecuted.
//!
//! A real GPU leaves to chance what this one decides against the host code:
//!
//! | what the host code could get wrong | what happens here |
//! |---|---|
//! | no barrier between dispatches that depend on each other | dispatches between two barriers run in [`MetalHostOrder`], by default the last one first: wrong numbers |
//! | no fence between encoders and command buffers | an encoder that does not wait overtakes the ones before it: wrong numbers |
//! | an end told too early, or a host that reads too early | work starts [`MetalHost::linger`] after its commit: stale numbers |
//! | an argument not bound, an offset that the kernel's type does not allow, too many threads, threadgroup memory over the limit | the command buffer fails, naming it |
//! | an argument left over from the kernel before | it is bound, as in Metal: wrong numbers |
//! | a buffer or pipeline not kept until the end | command buffers hold weak references: the command buffer fails with Metal's code for it |
//! | memory used after its release by the host | it is full of the poison byte and kept for a while; a write to it is found when it goes |
//! | a buffer in the residency set twice, taken out twice, released in it | a finding, which fails the next command buffer |
//! | an archive under a key that does not tell kernels apart | a finding, likewise |
//! | a call outside an autorelease pool, a fence in the wrong place | as above, or a panic that names the call |
//!
//! Committing twice, and encoding after a commit, cannot be written: the trait's `commit` takes the command buffer away.
//! [`MetalHostDefect`] breaks a call on purpose, so that tests can show that each of these is noticed.

mod buffer;
mod commands;
mod gpu;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use super::device::MetalBackend;
use crate::backend::Backend;
use crate::config::Config;
use crate::error::Result;
#[cfg(test)]
pub(super) use gpu::ExecutingGpu;
#[cfg(not(test))]
use gpu::ExecutingGpu;

/// How the stand-in for Metal executes. Schedule, checker and poison byte are those of
/// [`Config::emulator`](crate::Config::emulator), bounds of command buffers and archives those of
/// [`Config::metal`](crate::Config::metal).
#[derive(Debug, Clone)]
pub struct MetalHost {
    /// In which order dispatches run that no barrier divides.
    pub order: MetalHostOrder,
    /// How long a command buffer waits for another one that might overtake it.
    pub linger: Duration,
    /// Longest buffer in bytes: longer maps are bound by segments.
    pub max_buffer_len: Option<usize>,
    /// What to break.
    pub defect: Option<MetalHostDefect>,
}

impl Default for MetalHost {
    fn default() -> Self {
        MetalHost {
            order: MetalHostOrder::Reversed,
            linger: Duration::from_micros(100),
            max_buffer_len: None,
            defect: None,
        }
    }
}

/// The order of dispatches between two barriers, all of which a real GPU may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetalHostOrder {
    /// As encoded.
    Encoded,
    /// The last one first: every pair without a barrier between runs the wrong way round.
    Reversed,
    /// Shuffled, from a seed.
    Random(u64),
}

/// A call that is broken on purpose, each time it is made. Indices are those of buffer arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetalHostDefect {
    /// Barriers of an encoder are ignored.
    NoBarriers,
    /// No encoder waits for the fence.
    NoFenceWait,
    /// No encoder updates the fence.
    NoFenceUpdate,
    /// Buffers are not bound to this argument.
    NoBuffer(usize),
    /// Buffers are bound so many bytes further on.
    Shifted(usize),
    /// Buffers and bytes meant for an argument are bound to the next.
    NextIndex,
    /// Only the first inline bytes of an encoder are set.
    StaleBytes,
    /// Only the first buffer of each argument of an encoder is set.
    StaleBuffers,
    /// No threadgroup memory is set.
    NoThreadgroupMemory,
    /// Threadgroup memory is longer by so many bytes.
    MoreThreadgroupMemory(usize),
    /// The end of a command buffer is told before it has run.
    EarlyEnd,
    /// Function constants are not set.
    NoConstants,
    /// Buffers are taken out of the residency set twice.
    RemovedTwice,
}

/// The backend over the stand-in.
///
/// # Errors
/// As the emulator and the Metal backend: no compiler, settings that cannot be.
pub(crate) fn open(config: &Config, host: &MetalHost) -> Result<Arc<dyn Backend>> {
    let gpu = ExecutingGpu::new(config, host)?;
    Ok(Arc::new(MetalBackend::new(gpu, config)?))
}
