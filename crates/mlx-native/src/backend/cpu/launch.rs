//! What a CPU body is given: its arguments as slices, and its share of the work.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytemuck::Pod;
use smallvec::SmallVec;

use super::element::Element;
use super::failure::Failure;
use super::isa::Isa;
use crate::backend::{Allocation, Arg, Dispatch, Work};
use crate::kernel::{ComputePipelineState, ConstantValue};

/// The body of a kernel on the CPU: runs part `part` of `parts` of a launch. All parts of a launch run, each once, at the
/// same time or not; they write disjoint bytes, and results must not depend on `parts`.
pub type CpuBody = fn(launch: &Launch<'_>, part: usize, parts: usize);

/// The parts of a step, handed out one by one.
pub(super) struct Claims {
    next: AtomicUsize,
    parts: usize,
}

impl Claims {
    pub(super) fn new(parts: usize) -> Self {
        Claims {
            next: AtomicUsize::new(0),
            parts,
        }
    }

    pub(super) fn parts(&self) -> usize {
        self.parts
    }

    /// The next part that nobody has claimed.
    pub(super) fn claim(&self) -> Option<usize> {
        // Looked at first, so that late threads do not count on for ever.
        if self.next.load(Ordering::Relaxed) >= self.parts {
            return None;
        }
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|part| *part < self.parts)
    }
}

/// Where the processor sees byte `offset` of an allocation.
///
/// # Errors
/// Words, where it does not see it: the device accepts no such memory.
pub(super) fn host_range(allocation: &Allocation, offset: usize) -> Result<NonNull<u8>, String> {
    match allocation.memory().host_view() {
        // SAFETY: the encoder checked that the range lies inside the allocation.
        Some(view) => Ok(unsafe { view.add(offset) }),
        None => Err(format!(
            "memory of device {}, which the processor cannot address",
            allocation.kind()
        )),
    }
}

/// One dispatch, resolved to addresses.
pub(super) struct Resolved {
    pipeline: ComputePipelineState,
    args: SmallVec<[RawArg; 8]>,
    threadgroups: [u32; 3],
    group: [u32; 3],
    pub(super) claims: Claims,
    next_chunk: AtomicUsize,
}

#[derive(Clone, Copy)]
struct RawArg {
    index: u32,
    ptr: *mut u8,
    byte_len: usize,
}

// SAFETY: the addresses point into memory that the job keeps alive; who writes what when is the encoder's order.
unsafe impl Send for Resolved {}
// SAFETY: as above.
unsafe impl Sync for Resolved {}

impl Resolved {
    pub(super) fn new(work: &Work, dispatch: &Dispatch, parts: usize) -> Result<Self, String> {
        let mut args = SmallVec::new();
        for binding in work.bindings(dispatch) {
            args.push(match &binding.arg {
                Arg::Buffer {
                    allocation,
                    offset,
                    byte_len,
                } => RawArg {
                    index: binding.index,
                    ptr: host_range(allocation, *offset)?.as_ptr(),
                    byte_len: *byte_len,
                },
                Arg::Bytes { start, byte_len } => RawArg {
                    index: binding.index,
                    ptr: work.bytes[*start as usize..].as_ptr().cast_mut(),
                    byte_len: *byte_len as usize,
                },
            });
        }
        Ok(Resolved {
            pipeline: dispatch.pipeline.clone(),
            args,
            threadgroups: dispatch.grid.threadgroups(dispatch.group),
            group: dispatch.group,
            claims: Claims::new(parts),
            next_chunk: AtomicUsize::new(0),
        })
    }

    pub(super) fn name(&self) -> &str {
        self.pipeline.label()
    }

    pub(super) fn body(&self) -> Option<CpuBody> {
        self.pipeline.kernel().cpu
    }
}

/// A running dispatch, as its CPU body sees it.
pub struct Launch<'a> {
    resolved: &'a Resolved,
    failure: &'a Failure,
    isa: Isa,
}

impl<'a> Launch<'a> {
    pub(super) fn new(resolved: &'a Resolved, failure: &'a Failure, isa: Isa) -> Self {
        Launch {
            resolved,
            failure,
            isa,
        }
    }

    /// The instruction set that the body may use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Extent of the grid in threadgroups.
    #[must_use]
    pub fn threadgroups(&self) -> [u32; 3] {
        self.resolved.threadgroups
    }

    /// Threads of a threadgroup.
    #[must_use]
    pub fn group(&self) -> [u32; 3] {
        self.resolved.group
    }

    /// The value of a function constant, if it was given.
    #[must_use]
    pub fn constant(&self, index: u32) -> Option<ConstantValue> {
        self.resolved
            .pipeline
            .constants()
            .iter()
            .find(|c| c.0 == index)
            .map(|c| c.1)
    }

    /// The value of a boolean function constant; false if it was not given.
    #[must_use]
    pub fn flag(&self, index: u32) -> bool {
        self.constant(index) == Some(ConstantValue::Bool(true))
    }

    /// The parameter struct bound to argument `index`. Too few bytes fail the launch and give zeros, which every body
    /// takes for "nothing to do".
    #[must_use]
    pub fn params<P: Pod>(&self, index: u32) -> P {
        match self.arg(index) {
            Some(arg) if arg.byte_len >= size_of::<P>() => {
                // SAFETY: enough bytes, as just checked; any bits are a `P: Pod`; alignment does not matter here.
                unsafe { arg.ptr.cast::<P>().read_unaligned() }
            }
            _ => {
                self.fail(format!(
                    "argument {index}: fewer bytes than its parameter struct has"
                ));
                P::zeroed()
            }
        }
    }

    /// The whole of argument `index` as elements of `T`. An address that is not aligned for `T` fails the launch and
    /// gives an empty slice.
    ///
    /// The argument must not overlap one that the kernel writes; kernels that work in place use [`output`](Self::output)
    /// for both.
    #[must_use]
    pub fn input<T: Pod>(&self, index: u32) -> &'a [T] {
        let (ptr, len) = self.typed::<T>(index);
        if len == 0 {
            return &[];
        }
        // SAFETY: inside the binding, aligned; nobody writes it meanwhile: the encoder fences writers in other dispatches,
        // and operators refuse arguments that overlap their outputs.
        unsafe { std::slice::from_raw_parts(ptr, len) }
    }

    /// The whole of argument `index`, to be written by parts.
    #[must_use]
    pub fn output<T: Pod>(&self, index: u32) -> Output<'a, T> {
        let (ptr, len) = self.typed::<T>(index);
        Output {
            ptr,
            len,
            life: PhantomData,
        }
    }

    /// Claims the next `chunk` of `total` items for this part, until none is left: for work whose parts differ in cost.
    /// Every claim of one launch must pass the same numbers.
    #[must_use]
    pub fn next_chunk(&self, total: usize, chunk: usize) -> Option<Range<usize>> {
        let start = self
            .resolved
            .next_chunk
            .fetch_add(1, Ordering::Relaxed)
            .checked_mul(chunk)?;
        (start < total).then(|| start..total.min(start + chunk))
    }

    /// Fails the whole submission with a message; the first one counts.
    pub fn fail(&self, message: String) {
        self.failure
            .set(format!("kernel {}: {message}", self.resolved.name()));
    }

    fn arg(&self, index: u32) -> Option<&RawArg> {
        self.resolved.args.iter().find(|a| a.index == index)
    }

    fn typed<T>(&self, index: u32) -> (*mut T, usize) {
        match self.arg(index) {
            Some(arg) if (arg.ptr as usize).is_multiple_of(align_of::<T>()) => {
                (arg.ptr.cast(), arg.byte_len / size_of::<T>().max(1))
            }
            _ => {
                self.fail(format!(
                    "argument {index} is not aligned to {} bytes",
                    align_of::<T>()
                ));
                (std::ptr::dangling_mut(), 0)
            }
        }
    }
}

/// An argument that the parts of a launch write, each its own elements.
#[derive(Clone, Copy)]
pub struct Output<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

impl<'a, T: Pod> Output<'a, T> {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements of `range`, for this part alone.
    ///
    /// # Panics
    /// When the range leaves the argument; the pool turns the panic into an error of the submission.
    ///
    /// # Safety
    /// No other part, and no other slice of this part, may use these elements as long as the slice lives.
    #[must_use]
    pub unsafe fn slice_mut(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {} elements",
            self.len
        );
        // SAFETY: inside the argument; exclusive by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }
}

impl<T: Element> Output<'_, T> {
    /// Reads the elements from `start` on as f32, as many as `target` holds.
    ///
    /// # Panics
    /// As [`slice_mut`](Self::slice_mut).
    ///
    /// # Safety
    /// Nobody may write these elements meanwhile.
    pub unsafe fn load(&self, start: usize, target: &mut [f32]) {
        assert!(
            start <= self.len && target.len() <= self.len - start,
            "{start} + {} of {}",
            target.len(),
            self.len
        );
        // SAFETY: inside the argument; not written meanwhile by the caller's word.
        T::widen(
            unsafe { std::slice::from_raw_parts(self.ptr.add(start), target.len()) },
            target,
        );
    }

    /// Writes `source`, rounded, to the elements from `start` on.
    ///
    /// # Panics
    /// As [`slice_mut`](Self::slice_mut).
    ///
    /// # Safety
    /// As [`slice_mut`](Self::slice_mut).
    pub unsafe fn store(&self, start: usize, source: &[f32]) {
        // SAFETY: by the caller's word.
        T::narrow(source, unsafe { self.slice_mut(start..start + source.len()) });
    }
}

/// The share of part `part` of `parts` in `total` items, in whole multiples of `granule` but for the last.
#[must_use]
pub fn part_range(total: usize, granule: usize, part: usize, parts: usize) -> Range<usize> {
    let granules = total.div_ceil(granule.max(1));
    let edge = |p: usize| (granules * p / parts.max(1) * granule.max(1)).min(total);
    edge(part)..edge(part + 1)
}

#[cfg(test)]
mod tests {
    use super::part_range;

    #[test]
    fn parts_cover_everything_once() {
        for (total, granule, parts) in [
            (0, 4, 3),
            (1, 1, 2),
            (7, 4, 2),
            (33, 16, 5),
            (64, 16, 4),
            (5, 8, 2),
        ] {
            let ranges: Vec<_> = (0..parts).map(|p| part_range(total, granule, p, parts)).collect();
            assert_eq!(ranges[0].start, 0);
            assert_eq!(ranges[parts - 1].end, total);
            assert!(ranges.windows(2).all(|w| w[0].end == w[1].start));
            assert!(ranges.iter().all(|r| r.start % granule == 0 || r.start == total));
        }
    }
}
