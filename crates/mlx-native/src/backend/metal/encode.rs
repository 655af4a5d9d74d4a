//! Commands to Metal's calls: arguments, threadgroup memory, launches, barriers.

use std::ops::Range;

use super::gpu::{Commands, Gpu};
use super::memory::MetalMemory;
use super::pipeline::MetalPipeline;
use crate::backend::{Arg, Command, CopyBytes, Dispatch, Grid, Place, Work};
use crate::error::{MlxError, Result};
use crate::kernel::msl::Space;

/// Indices of buffer arguments are below this.
const MAX_ARGS: usize = 31;
/// The most inline bytes of one argument.
const MAX_BYTES: usize = 4096;
/// Threadgroup memory is given in multiples of this.
const THREADGROUP_UNIT: u32 = 16;
/// Copies and fills start at multiples of this, and are as long.
const TRANSFER_UNIT: usize = 4;
/// Buffers bound to `constant` arguments start at multiples of this.
const CONSTANT_ALIGN: usize = 4;

/// What every dispatch is held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct EncodeLimits {
    pub threadgroup_memory: usize,
    /// Whether each dispatch is named in a trace.
    pub signposts: bool,
}

/// What is bound in an encoder: setting it again would cost time for nothing.
struct Bound<'w, G: Gpu> {
    pipeline: Option<&'w MetalPipeline<G>>,
    buffers: [Option<(&'w G::Buffer, usize)>; MAX_ARGS],
    encoder: Encoder,
}

/// What the open encoder is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoder {
    Dispatches,
    Copies,
    /// For copies, with a barrier behind the last of them: only another encoder can come.
    CopiesEnded,
}

/// Encodes `range` of the commands of `work`, behind the command buffer before and ahead of the one that follows. The
/// fence keeps the order of command buffers, and that of the encoders of this one.
///
/// # Errors
/// [`MlxError::InvalidArgument`] naming the kernel: for what the encoder above cannot know, which is alignment in the
/// address space `constant` and of copies, memory of the pipeline itself, and ranges that no single buffer holds.
pub(super) fn encode<G: Gpu>(
    work: &Work,
    range: Range<usize>,
    limits: &EncodeLimits,
    commands: &mut G::Commands,
) -> Result<()> {
    let mut bound = Bound::<G> {
        pipeline: None,
        buffers: [const { None }; MAX_ARGS],
        encoder: Encoder::Dispatches,
    };
    commands.wait_for_fence();
    for command in &work.commands[range] {
        match command {
            Command::Barrier => bound.barrier(commands),
            Command::Dispatch(dispatch) => {
                bound.open(false, commands)?;
                bound.dispatch(work, dispatch, limits, commands)?;
            }
            Command::Copy(copy) => {
                bound.open(true, commands)?;
                copy_bytes::<G>(copy, commands)?;
            }
            Command::Fill(fill) => {
                bound.open(true, commands)?;
                let (to, offset) = place::<G>("fill", &fill.to, 0..fill.to.byte_len)?;
                commands.fill_buffer(to, offset..offset + fill.to.byte_len, fill.value);
            }
        }
    }
    commands.update_fence();
    Ok(())
}

/// Copies through pieces of a size that a single buffer is sure to hold on either side.
fn copy_bytes<G: Gpu>(copy: &CopyBytes, commands: &mut G::Commands) -> Result<()> {
    let most = [&copy.from, &copy.to]
        .into_iter()
        .filter_map(|p| p.allocation.memory().as_any().downcast_ref::<MetalMemory<G>>())
        .map(MetalMemory::max_range)
        .min()
        .unwrap_or(usize::MAX)
        .max(TRANSFER_UNIT);
    let mut done = 0;
    while done < copy.to.byte_len {
        let part = done..copy.to.byte_len.min(done.saturating_add(most));
        let (from, from_offset) = place::<G>("copy", &copy.from, part.clone())?;
        let (to, to_offset) = place::<G>("copy", &copy.to, part.clone())?;
        commands.copy_buffer(from, from_offset, to, to_offset, part.len());
        done = part.end;
    }
    Ok(())
}

/// The buffer that holds a part of a place, and the part's offset in it.
fn place<'p, G: Gpu>(what: &str, place: &'p Place, part: Range<usize>) -> Result<(&'p G::Buffer, usize)> {
    let (offset, byte_len) = (place.offset + part.start, part.len());
    if !offset.is_multiple_of(TRANSFER_UNIT) || !byte_len.is_multiple_of(TRANSFER_UNIT) {
        return refuse(
            what,
            format!(
                "{} bytes from byte {}: on metal both must be multiples of {TRANSFER_UNIT}",
                place.byte_len, place.offset
            ),
        );
    }
    let memory = place.allocation.memory().as_any().downcast_ref::<MetalMemory<G>>();
    match memory.and_then(|m| m.locate(offset, byte_len)) {
        Some(found) => Ok(found),
        None => refuse(what, format!("{byte_len} bytes that no metal buffer holds")),
    }
}

impl<'w, G: Gpu> Bound<'w, G> {
    fn barrier(&mut self, commands: &mut G::Commands) {
        match self.encoder {
            Encoder::Dispatches => commands.barrier(),
            // An encoder for copies has no barriers.
            Encoder::Copies | Encoder::CopiesEnded => self.encoder = Encoder::CopiesEnded,
        }
    }

    /// Sees to it that an encoder for copies, or for dispatches, is open.
    fn open(&mut self, for_copies: bool, commands: &mut G::Commands) -> Result<()> {
        let wanted = if for_copies {
            Encoder::Copies
        } else {
            Encoder::Dispatches
        };
        if self.encoder == wanted {
            return Ok(());
        }
        commands.update_fence();
        let begun = if for_copies {
            commands.begin_copies()
        } else {
            commands.begin_dispatches()
        };
        if !begun {
            return Err(MlxError::CommandBufferError(
                "metal: the command buffer gives no further encoder".to_owned(),
            ));
        }
        commands.wait_for_fence();
        self.pipeline = None;
        self.buffers = [const { None }; MAX_ARGS];
        self.encoder = wanted;
        Ok(())
    }

    fn dispatch(
        &mut self,
        work: &'w Work,
        dispatch: &'w Dispatch,
        limits: &EncodeLimits,
        commands: &mut G::Commands,
    ) -> Result<()> {
        let name = dispatch.pipeline.label();
        let Some(pipeline) = dispatch.pipeline.body().as_any().downcast_ref::<MetalPipeline<G>>() else {
            return refuse(name, "the pipeline was not made by a metal device");
        };
        if limits.signposts {
            commands.signpost(name);
        }
        if !self.pipeline.is_some_and(|p| std::ptr::eq(p, pipeline)) {
            commands.set_pipeline(&pipeline.state);
            self.pipeline = Some(pipeline);
        }
        for binding in work.bindings(dispatch) {
            let index = binding.index as usize;
            if index >= MAX_ARGS {
                return refuse(name, format!("argument {index}: the highest is {}", MAX_ARGS - 1));
            }
            match &binding.arg {
                Arg::Bytes { start, byte_len } => {
                    let bytes = work.bytes.get(*start as usize..*start as usize + *byte_len as usize);
                    let Some(bytes) = bytes.filter(|b| (1..=MAX_BYTES).contains(&b.len())) else {
                        return refuse(name, format!("argument {index}: {byte_len} inline bytes"));
                    };
                    commands.set_bytes(bytes, index);
                    self.buffers[index] = None;
                }
                Arg::Buffer {
                    allocation,
                    offset,
                    byte_len,
                } => {
                    let memory = allocation.memory().as_any().downcast_ref::<MetalMemory<G>>();
                    let Some(memory) = memory else {
                        return refuse(name, format!("argument {index}: memory of another device"));
                    };
                    self.buffer(dispatch, memory, index, *offset..*offset + *byte_len, commands)?;
                }
            }
        }
        threadgroup_memory::<G>(dispatch, pipeline, limits, commands)?;
        let group = dispatch.group.map(|n| n as usize);
        match dispatch.grid {
            Grid::Threads(n) => commands.dispatch_threads(n.map(|n| n as usize), group),
            Grid::Threadgroups(n) => commands.dispatch_threadgroups(n.map(|n| n as usize), group),
        }
        Ok(())
    }

    fn buffer(
        &mut self,
        dispatch: &Dispatch,
        memory: &'w MetalMemory<G>,
        index: usize,
        range: Range<usize>,
        commands: &mut G::Commands,
    ) -> Result<()> {
        let name = dispatch.pipeline.label();
        let Some((buffer, offset)) = memory.locate(range.start, range.len()) else {
            let most = memory.max_range();
            return refuse(
                name,
                format!(
                    "argument {index}: {} bytes from byte {} of a mapped file, of which {most} bytes can be bound at once",
                    range.len(),
                    range.start
                ),
            );
        };
        if !offset.is_multiple_of(CONSTANT_ALIGN) {
            let declared = &dispatch.pipeline.kernel().signature.bindings;
            if declared.iter().any(|b| b.index as usize == index && b.space == Space::Constant) {
                return refuse(
                    name,
                    format!(
                        "argument {index}: byte offset {offset}, in the address space constant multiples of {CONSTANT_ALIGN} \
                         are possible"
                    ),
                );
            }
        }
        let same = self.buffers[index].is_some_and(|(b, o)| std::ptr::eq(b, buffer) && o == offset);
        if !same {
            commands.set_buffer(buffer, offset, index);
            self.buffers[index] = Some((buffer, offset));
        }
        Ok(())
    }
}

fn threadgroup_memory<G: Gpu>(
    dispatch: &Dispatch,
    pipeline: &MetalPipeline<G>,
    limits: &EncodeLimits,
    commands: &mut G::Commands,
) -> Result<()> {
    let mut total = pipeline.static_threadgroup_memory;
    for (index, byte_len) in &dispatch.threadgroup_memory {
        let Some(rounded) = byte_len.checked_next_multiple_of(THREADGROUP_UNIT) else {
            return refuse(dispatch.pipeline.label(), format!("{byte_len} bytes of threadgroup memory"));
        };
        total = total.saturating_add(rounded as usize);
        commands.set_threadgroup_memory(rounded as usize, *index as usize);
    }
    if total > limits.threadgroup_memory {
        return refuse(
            dispatch.pipeline.label(),
            format!(
                "{total} bytes of threadgroup memory ({} of them declared in the kernel), {} are possible",
                pipeline.static_threadgroup_memory, limits.threadgroup_memory
            ),
        );
    }
    Ok(())
}

fn refuse<T>(kernel: &str, why: impl std::fmt::Display) -> Result<T> {
    Err(MlxError::InvalidArgument(format!("{kernel}: {why}")))
}
