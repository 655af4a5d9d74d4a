//! What a dispatch is held against before it is recorded: the kernel's signature and the device's limits.

use smallvec::SmallVec;

use super::{CommandEncoder, KernelArg, Request, overlap};
use crate::backend::{Allocation, Grid};
use crate::buffer::{MemRange, MlxBuffer};
use crate::error::{Result, invalid};
use crate::kernel::ComputePipelineStateRef;

/// Argument indices are below this, as in Metal.
const MAX_ARGS: u64 = 31;

/// Byte ranges of one dispatch.
type Ranges = SmallVec<[MemRange; 8]>;

impl CommandEncoder {
    /// Holds a request against the kernel's signature and the device's limits, and gives the byte ranges that it reads
    /// and writes.
    pub(super) fn check(&self, request: &Request<'_>) -> Result<(Ranges, Ranges)> {
        let pipeline = &request.pipeline;
        let name = pipeline.label();
        if self.submission.is_some() {
            return invalid!("{name}: the encoder was committed, nothing more can be recorded");
        }
        if pipeline.domain() != self.backend.pipeline_domain() {
            return invalid!("{name}: the pipeline was made for another device than this encoder's");
        }
        let (mut reads, mut writes, mut bound) = (Ranges::new(), Ranges::new(), 0u64);
        let mut ranges: SmallVec<[(u32, MemRange, bool); 8]> = SmallVec::new();
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
            ranges.push((*index as u32, range, is_written));
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
            return invalid!(
                "{name}: argument {missing}{} is not bound",
                named(pipeline, missing)
            );
        }
        check_shared(pipeline, &ranges)?;
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
        let product = |extents: [u32; 3]| extents.iter().try_fold(1u64, |n, &e| n.checked_mul(u64::from(e)));
        let threads = product(request.group);
        let most = request.pipeline.accepted_threads();
        if !threads.is_some_and(|n| (1..=u64::from(most)).contains(&n)) {
            return invalid!(
                "{name}: a threadgroup of {:?} threads, 1 to {most} are possible",
                request.group
            );
        }
        let (Grid::Threads(extents) | Grid::Threadgroups(extents)) = request.grid;
        if extents.contains(&0) {
            return invalid!("{name}: an empty grid {extents:?}");
        }
        let in_all = match request.grid {
            Grid::Threads(n) => product(n),
            Grid::Threadgroups(n) => product(n).zip(threads).and_then(|(n, t)| n.checked_mul(t)),
        };
        if in_all.is_none() {
            return invalid!(
                "{name}: a grid of {extents:?} in groups of {:?} has 2^64 threads or more",
                request.group
            );
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

/// The name of an argument, for an error: ` ("x")`.
fn named(pipeline: &ComputePipelineStateRef, index: u32) -> String {
    let bindings = &pipeline.kernel().signature.bindings;
    let found = bindings.iter().find(|b| b.index == index);
    found.map_or(String::new(), |b| format!(" (`{}`)", b.name))
}

/// Refuses bytes that the kernel writes and that are bound to another argument too, unless the kernel's text says that the
/// two may be the same, and they are exactly.
fn check_shared(pipeline: &ComputePipelineStateRef, ranges: &[(u32, MemRange, bool)]) -> Result<()> {
    for (i, (index, range, _)) in ranges.iter().enumerate().filter(|(_, r)| r.2) {
        let others = ranges.iter().enumerate().filter(|(j, r)| !r.2 || *j > i);
        for (_, (other, other_range, _)) in others {
            if !overlap(*range, *other_range) {
                continue;
            }
            let declared = pipeline.kernel().signature.in_place.iter();
            let may_be_same = declared
                .into_iter()
                .any(|p| *p == (*index, *other) || *p == (*other, *index));
            if may_be_same && range == other_range {
                continue;
            }
            let name = pipeline.label();
            let (written, shared) = (named(pipeline, *index), named(pipeline, *other));
            return if may_be_same {
                invalid!(
                    "{name}: arguments {index}{written} and {other}{shared} share memory, but are not the same {} bytes: one has {}, \
                     and begins {} bytes from the other",
                    range.1 - range.0,
                    other_range.1 - other_range.0,
                    range.0.abs_diff(other_range.0)
                )
            } else {
                invalid!(
                    "{name}: argument {index}{written}, which is written, shares memory with argument {other}{shared}"
                )
            };
        }
    }
    Ok(())
}
