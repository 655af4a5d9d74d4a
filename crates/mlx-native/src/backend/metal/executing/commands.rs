//! A command buffer of the stand-in: the state of its encoder, and Metal's rules for it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Weak};

use smallvec::SmallVec;

use super::super::gpu::{Commands, Completion};
use super::MetalHostDefect as Defect;
use super::buffer::{Buffer, BufferInner};
use super::gpu::{ExecutingGpu, MAX_THREADGROUP_MEMORY, Pipeline, PipelineInner, in_pool};
use super::queue::{Committed, Queue};
use crate::backend::emulator::LaunchGrid;
use crate::kernel::msl::{BindingDecl, Space};

/// Buffer arguments of an encoder.
const ARGUMENTS: usize = 31;
/// The most inline bytes of one argument.
const MAX_BYTES: usize = 4096;

/// One encoder of a command buffer: steps, and what its fence orders.
#[derive(Default)]
pub(super) struct Encoder {
    pub copies: bool,
    pub steps: Vec<Step>,
    pub waits: bool,
    pub updates: bool,
}

/// One step of an encoder.
#[allow(clippy::large_enum_variant, reason = "nearly all are launches")]
pub(super) enum Step {
    Launch(Launch),
    Barrier,
    /// Bytes of one buffer to another: buffers and offsets, and how many.
    Copy([(Weak<BufferInner>, usize); 2], usize),
    /// A buffer, the bytes of it to set, and to what.
    Fill(Weak<BufferInner>, Range<usize>, u8),
}

/// A dispatch with all that the encoder had bound.
pub(super) struct Launch {
    pub pipeline: Weak<PipelineInner>,
    pub arguments: SmallVec<[(u32, Bound); 8]>,
    pub grid: LaunchGrid,
    pub group: [u32; 3],
    pub threadgroup_memory: SmallVec<[(u32, u32); 2]>,
}

/// What is bound to an argument.
#[derive(Clone)]
pub(super) enum Bound {
    /// A buffer, kept alive by nobody here, from an offset on.
    Buffer(Weak<BufferInner>, usize),
    Bytes(Arc<[u8]>),
}

pub(in super::super) struct ExecutingCommands {
    label: String,
    defect: Option<Defect>,
    queue: Arc<Queue>,
    pipeline: Option<Arc<PipelineInner>>,
    /// What is bound stays bound, from dispatch to dispatch and from pipeline to pipeline.
    bound: [Option<Bound>; ARGUMENTS],
    threadgroup_memory: BTreeMap<usize, usize>,
    /// Those that were ended, and the open one behind them.
    encoders: Vec<Encoder>,
    open: Encoder,
    /// The first rule that was broken.
    problem: Option<String>,
}

impl ExecutingCommands {
    pub(super) fn new(label: &str, defect: Option<Defect>, queue: Arc<Queue>) -> Self {
        ExecutingCommands {
            label: label.to_owned(),
            defect,
            queue,
            pipeline: None,
            bound: [const { None }; ARGUMENTS],
            threadgroup_memory: BTreeMap::new(),
            encoders: Vec::new(),
            open: Encoder::default(),
            problem: None,
        }
    }

    fn broken(&mut self, what: String) {
        self.problem.get_or_insert(what);
    }

    fn bind(&mut self, index: usize, bound: Bound) {
        let index = index + usize::from(self.defect == Some(Defect::NextIndex));
        match self.bound.get_mut(index) {
            Some(place) => *place = Some(bound),
            None => self.broken(format!("argument {index}: the highest is {}", ARGUMENTS - 1)),
        }
    }

    fn dispatch(&mut self, grid: [usize; 3], group: [usize; 3], make: fn([u32; 3]) -> LaunchGrid) {
        match self.launch(grid, group, make) {
            Ok(launch) => self.step(false, Step::Launch(launch)),
            Err(what) => self.broken(what),
        }
    }

    /// A step for an encoder of the kind `copies`.
    fn step(&mut self, copies: bool, step: Step) {
        in_pool();
        if self.open.updates {
            self.broken("work after the update of the fence".to_owned());
        }
        if self.open.copies != copies {
            self.broken("work in an encoder of another kind".to_owned());
        }
        self.open.steps.push(step);
    }

    /// Ends the encoder and begins another.
    fn next_encoder(&mut self, copies: bool) -> bool {
        in_pool();
        let open = Encoder {
            copies,
            ..Encoder::default()
        };
        self.encoders.push(std::mem::replace(&mut self.open, open));
        self.pipeline = None;
        self.bound = [const { None }; ARGUMENTS];
        self.threadgroup_memory.clear();
        true
    }

    /// Holds the range of a copy or fill against Metal's rules.
    fn transferred(&mut self, buffer: &Buffer, offset: usize, byte_len: usize) {
        let is_inside = offset
            .checked_add(byte_len)
            .is_some_and(|end| end <= buffer.0.byte_len);
        if !is_inside || byte_len == 0 || !offset.is_multiple_of(4) || !byte_len.is_multiple_of(4) {
            self.broken(format!(
                "a copy or fill of {byte_len} bytes from byte {offset} of a buffer of {} bytes",
                buffer.0.byte_len
            ));
        }
    }

    fn launch(
        &self,
        grid: [usize; 3],
        group: [usize; 3],
        make: fn([u32; 3]) -> LaunchGrid,
    ) -> Result<Launch, String> {
        let pipeline = self.pipeline.as_ref().ok_or("a dispatch without a pipeline")?;
        let fail = |what: String| Err(format!("{}: {what}", pipeline.name));
        let (Some(extents), Some(threads)) = (extents(grid), extents(group)) else {
            return fail(format!("a grid of {grid:?} in groups of {group:?}"));
        };
        let per_group = group
            .iter()
            .try_fold(1usize, |n, e| n.checked_mul(*e))
            .unwrap_or(usize::MAX);
        if per_group > pipeline.facts.max_threads {
            return fail(format!(
                "{per_group} threads in a group, its most are {}",
                pipeline.facts.max_threads
            ));
        }
        let signature = pipeline.kernel.signature();
        let mut arguments = SmallVec::new();
        for declared in &signature.bindings {
            match self.bound.get(declared.index as usize).and_then(Option::as_ref) {
                None if declared.optional => {}
                None => {
                    return fail(format!(
                        "argument {} (`{}`) is not bound",
                        declared.index, declared.name
                    ));
                }
                Some(bound) => {
                    check(declared, bound).map_err(|what| format!("{}: {what}", pipeline.name))?;
                    arguments.push((declared.index, bound.clone()));
                }
            }
        }
        let mut memory = SmallVec::new();
        let mut total = pipeline.facts.static_threadgroup_memory;
        for declared in &signature.threadgroup {
            let Some(byte_len) = self.threadgroup_memory.get(&(declared.index as usize)) else {
                return fail(format!(
                    "threadgroup memory {} (`{}`) has no length",
                    declared.index, declared.name
                ));
            };
            total = total.saturating_add(*byte_len);
            memory.push((declared.index, u32::try_from(*byte_len).unwrap_or(u32::MAX)));
        }
        if total > MAX_THREADGROUP_MEMORY {
            return fail(format!(
                "{total} bytes of threadgroup memory, {MAX_THREADGROUP_MEMORY} are possible"
            ));
        }
        Ok(Launch {
            pipeline: Arc::downgrade(pipeline),
            arguments,
            grid: make(extents),
            group: threads,
            threadgroup_memory: memory,
        })
    }
}

/// Metal's extents, none of which may be zero.
fn extents(size: [usize; 3]) -> Option<[u32; 3]> {
    let mut out = [0; 3];
    for (to, from) in out.iter_mut().zip(size) {
        *to = u32::try_from(from).ok().filter(|n| *n > 0)?;
    }
    Some(out)
}

/// Holds what is bound against the declaration: the offset's alignment, and that a kernel which writes gets what it may
/// write.
fn check(declared: &BindingDecl, bound: &Bound) -> Result<(), String> {
    let Bound::Buffer(buffer, offset) = bound else {
        return match declared.space {
            Space::Constant => Ok(()),
            // Metal has no such rule; inline bytes are the parameters, and the parameters are constants.
            Space::Device if declared.access == crate::kernel::msl::Access::Read => Ok(()),
            Space::Device => Err(format!(
                "argument {} (`{}`) is written and bound to inline bytes",
                declared.index, declared.name
            )),
        };
    };
    let unit = match declared.space {
        Space::Constant => alignment(&declared.ty).max(4),
        Space::Device => alignment(&declared.ty),
    };
    if !offset.is_multiple_of(unit) {
        return Err(format!(
            "argument {} (`{}`): offset {offset} for {} is no multiple of {unit}",
            declared.index, declared.name, declared.ty
        ));
    }
    let writable = buffer.upgrade().is_none_or(|b| b.writable);
    if !writable && declared.access == crate::kernel::msl::Access::ReadWrite {
        return Err(format!(
            "argument {} (`{}`) is written and bound to a mapped file",
            declared.index, declared.name
        ));
    }
    Ok(())
}

/// The alignment in bytes of MSL's plain types; 1 for others, of which nothing is known here.
fn alignment(ty: &str) -> usize {
    let (packed, ty) = match ty.strip_prefix("packed_") {
        Some(rest) => (true, rest),
        None => (false, ty),
    };
    let name = ty.trim_end_matches(['2', '3', '4']);
    let lanes = match &ty[name.len()..] {
        "" => 1,
        "2" => 2,
        "3" | "4" => 4,
        _ => return 1,
    };
    let scalar = match name {
        "bool" | "char" | "uchar" => 1,
        "short" | "ushort" | "half" | "bfloat" => 2,
        "int" | "uint" | "float" | "atomic_uint" | "atomic_int" | "atomic_float" => 4,
        "long" | "ulong" => 8,
        // `int32_t` and the like end in no lanes.
        _ => return crate::kernel::msl::ConstantType::from_name(ty).map_or(1, |t| alignment(t.name())),
    };
    if packed { scalar } else { scalar * lanes }
}

impl Commands<ExecutingGpu> for ExecutingCommands {
    fn wait_for_fence(&mut self) {
        in_pool();
        if !self.open.steps.is_empty() || self.open.updates {
            self.broken("a wait for the fence that does not come first".to_owned());
        }
        self.open.waits = self.defect != Some(Defect::NoFenceWait);
    }

    fn update_fence(&mut self) {
        in_pool();
        self.open.updates = self.defect != Some(Defect::NoFenceUpdate);
    }

    fn set_pipeline(&mut self, pipeline: &Pipeline) {
        in_pool();
        self.pipeline = Some(pipeline.0.clone());
    }

    fn set_buffer(&mut self, buffer: &Buffer, offset: usize, index: usize) {
        in_pool();
        let offset = match self.defect {
            Some(Defect::NoBuffer(missing)) if missing == index => return,
            Some(Defect::StaleBuffers) if matches!(self.bound.get(index), Some(Some(_))) => return,
            Some(Defect::Shifted(bytes)) => offset + bytes,
            _ => offset,
        };
        if offset >= buffer.0.byte_len {
            return self.broken(format!(
                "argument {index}: offset {offset} in a buffer of {} bytes",
                buffer.0.byte_len
            ));
        }
        self.bind(index, Bound::Buffer(Arc::downgrade(&buffer.0), offset));
    }

    fn set_bytes(&mut self, bytes: &[u8], index: usize) {
        in_pool();
        let any = |b: &Option<Bound>| matches!(b, Some(Bound::Bytes(_)));
        if self.defect == Some(Defect::StaleBytes) && self.bound.iter().any(any) {
            return;
        }
        if !(1..=MAX_BYTES).contains(&bytes.len()) {
            return self.broken(format!("argument {index}: {} inline bytes", bytes.len()));
        }
        self.bind(index, Bound::Bytes(bytes.into()));
    }

    fn set_threadgroup_memory(&mut self, byte_len: usize, index: usize) {
        in_pool();
        let byte_len = match self.defect {
            Some(Defect::NoThreadgroupMemory) => return,
            Some(Defect::MoreThreadgroupMemory(more)) => byte_len + more,
            _ => byte_len,
        };
        if !byte_len.is_multiple_of(16) || index >= ARGUMENTS {
            return self.broken(format!(
                "{byte_len} bytes of threadgroup memory for argument {index}"
            ));
        }
        self.threadgroup_memory.insert(index, byte_len);
    }

    fn dispatch_threads(&mut self, threads: [usize; 3], group: [usize; 3]) {
        self.dispatch(threads, group, LaunchGrid::Threads);
    }

    fn dispatch_threadgroups(&mut self, groups: [usize; 3], group: [usize; 3]) {
        self.dispatch(groups, group, LaunchGrid::Threadgroups);
    }

    fn barrier(&mut self) {
        if self.defect != Some(Defect::NoBarriers) {
            self.step(false, Step::Barrier);
        }
    }

    fn begin_copies(&mut self) -> bool {
        self.next_encoder(true)
    }

    fn begin_dispatches(&mut self) -> bool {
        self.next_encoder(false)
    }

    fn copy_buffer(
        &mut self,
        from: &Buffer,
        from_offset: usize,
        to: &Buffer,
        to_offset: usize,
        byte_len: usize,
    ) {
        self.transferred(from, from_offset, byte_len);
        self.transferred(to, to_offset, byte_len);
        let apart = from_offset + byte_len <= to_offset || to_offset + byte_len <= from_offset;
        if !to.0.writable || Arc::ptr_eq(&from.0, &to.0) && !apart {
            self.broken("a copy to a mapped file, or onto itself".to_owned());
        }
        let weak = |buffer: &Buffer| Arc::downgrade(&buffer.0);
        self.step(
            true,
            Step::Copy([(weak(from), from_offset), (weak(to), to_offset)], byte_len),
        );
    }

    fn fill_buffer(&mut self, buffer: &Buffer, range: Range<usize>, value: u8) {
        self.transferred(buffer, range.start, range.len());
        if !buffer.0.writable {
            self.broken("a fill of a mapped file".to_owned());
        }
        self.step(true, Step::Fill(Arc::downgrade(&buffer.0), range, value));
    }

    fn signpost(&mut self, _label: &str) {
        in_pool();
    }

    fn commit(mut self, done: Completion) {
        in_pool();
        self.encoders.push(self.open);
        self.queue.commit(Committed {
            label: self.label,
            encoders: self.encoders,
            problem: self.problem,
            tell_early: self.defect == Some(Defect::EarlyEnd),
            done,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::alignment;

    #[test]
    fn types_have_their_alignment() {
        let rows = [
            ("float", 4),
            ("float2", 8),
            ("float3", 16),
            ("packed_float3", 4),
            ("uint4", 16),
            ("half4", 8),
            ("bfloat", 2),
            ("uchar", 1),
            ("uint32_t", 4),
            ("int8_t", 1),
            ("atomic_uint", 4),
            ("Params", 1),
            ("Params4", 1),
        ];
        for (ty, bytes) in rows {
            assert_eq!(alignment(ty), bytes, "{ty}");
        }
    }
}
