//! What a dispatch is held against before it is recorded: the kernel's signature and the device's limits.

use smallvec::SmallVec;

use super::{CommandEncoder, KernelArg, Request};
use crate::backend::{Allocation, Grid};
use crate::buffer::{MemRange, MlxBuffer};
use crate::error::{Result, invalid};

/// Argument indices are below this, as in Metal.
const MAX_ARGS: u64 = 31;

/// Byte ranges of one dispatch.
type Ranges = SmallVec<[MemRange; 8]>;

impl CommandEncoder {
    /// Holds a request against the kernel's signature and the device's limits, and gives the byte ranges that it reads
    /// and writes.
    pub(super) fn check(&self, request: &Request<'_>) -> Result<(Ranges, Ranges)> {
        let pipeline = request.pipeline;
        let name = pipeline.label();
        if self.submission.is_some() {
            return invalid!("{name}: the encoder was committed, nothing more can be recorded");
        }
        if pipeline.domain() != self.backend.pipeline_domain() {
            return invalid!("{name}: the pipeline was made for another device than this encoder's");
        }
        let (mut reads, mut writes, mut bound) = (Ranges::new(), Ranges::new(), 0u64);
        for (index, arg) in request.bindings {
            let bit = if *index < MAX_ARGS { 1u64 << index } else { 0 };
            if pipeline.declared() & bit == 0 {
                return invalid!("{name}: the kernel has no argument {index}");
            }
            if bound & bit != 0 {
                return invalid!("{name}: argument {index} is bound twice");
            }
            bound |= bit;
            let is_written = pipeline.written() & bit != 0;
            let range = match arg {
                KernelArg::Buffer(b) => self.check_buffer(name, *index, b, 0, is_written)?,
                KernelArg::BufferWithOffset(b, offset) => {
                    self.check_buffer(name, *index, b, *offset, is_written)?
                }
                KernelArg::Bytes(bytes) if bytes.is_empty() || bytes.len() > 4096 || is_written => {
                    return invalid!(
                        "{name}: argument {index}: inline bytes must be 1 to 4096 and read-only, found {}",
                        bytes.len()
                    );
                }
                KernelArg::Bytes(_) => continue,
            };
            // Memory that nobody can write takes part in no hazard.
            match arg {
                _ if is_written => writes.push(range),
                KernelArg::Buffer(b) | KernelArg::BufferWithOffset(b, _) if b.is_writable() => {
                    reads.push(range)
                }
                _ => {}
            }
        }
        if pipeline.required() & !bound != 0 {
            let missing = (pipeline.required() & !bound).trailing_zeros();
            return invalid!("{name}: argument {missing} is not bound");
        }
        self.check_launch(name, request)?;
        Ok((reads, writes))
    }

    fn check_buffer(
        &self,
        name: &str,
        index: u64,
        b: &MlxBuffer,
        offset: u64,
        is_written: bool,
    ) -> Result<MemRange> {
        let (start, end) = b.mem_range();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if offset > b.byte_len() || !offset.is_multiple_of(b.dtype().size_of()) {
            return invalid!(
                "{name}: argument {index}: byte offset {offset} in a {} buffer of {} bytes",
                b.dtype(),
                b.byte_len()
            );
        }
        self.check_memory(&format_args!("{name}: argument {index}"), b, is_written)?;
        Ok((start + offset, end))
    }

    /// Whether the device can use the memory of `b`, and write it where it is to be written.
    pub(super) fn check_memory(
        &self,
        what: &dyn std::fmt::Display,
        b: &MlxBuffer,
        is_written: bool,
    ) -> Result<()> {
        if is_written && !b.is_writable() {
            return invalid!("{what}: it is written, the buffer's memory is read-only");
        }
        self.check_allocation(what, b.allocation())
    }

    /// Whether the device can use the memory of `allocation`.
    pub(super) fn check_allocation(
        &self,
        what: &dyn std::fmt::Display,
        allocation: &Allocation,
    ) -> Result<()> {
        if allocation.device() != self.backend.id() && !self.backend.accepts(&**allocation.memory()) {
            return invalid!(
                "{what}: memory of device {} {} on device {} {}",
                allocation.kind(),
                allocation.device(),
                self.backend.kind(),
                self.backend.id()
            );
        }
        Ok(())
    }

    fn check_launch(&self, name: &str, request: &Request<'_>) -> Result<()> {
        let limits = self.backend.limits();
        let threads: u64 = request.group.iter().map(|&n| u64::from(n)).product();
        let most = request.pipeline.max_total_threads_per_threadgroup();
        if threads == 0 || threads > u64::from(most) {
            return invalid!(
                "{name}: a threadgroup of {:?} threads, 1 to {most} are possible",
                request.group
            );
        }
        let (Grid::Threads(extents) | Grid::Threadgroups(extents)) = request.grid;
        if extents.contains(&0) {
            return invalid!("{name}: an empty grid {extents:?}");
        }
        let memory: u64 = request.threadgroup_memory.iter().map(|m| u64::from(m.1)).sum();
        if memory > u64::from(limits.max_threadgroup_memory) {
            return invalid!(
                "{name}: {memory} bytes of threadgroup memory, {} are possible",
                limits.max_threadgroup_memory
            );
        }
        let declared = &request.pipeline.kernel().signature.threadgroup;
        let given = |i: u32| request.threadgroup_memory.iter().any(|m| m.0 == i && m.1 > 0);
        if declared.len() != request.threadgroup_memory.len() || !declared.iter().all(|d| given(d.index)) {
            return invalid!(
                "{name}: threadgroup memory is declared at {:?}, given at {:?}",
                declared.iter().map(|d| d.index).collect::<Vec<_>>(),
                request.threadgroup_memory
            );
        }
        Ok(())
    }
}
