//! What a CPU body is given: its arguments as slices, and its share of the work.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytemuck::Pod;
use smallvec::SmallVec;

use super::failure::Failure;
use crate::backend::{Allocation, Arg, Dispatch, Work};
use crate::element::Element;
use crate::isa::IsaToken;
use crate::kernel::{ComputePipelineState, ConstantValue};

/// Bytes in whole multiples of which [`Launch::own_part`] shares.
const LINE: usize = 64;

/// The body of a kernel on the CPU: runs part `part` of `parts` of a launch. All parts of a launch run, each once, at the
/// same time or not; they write disjoint bytes, and results must not depend on `parts`.
///
/// The launch shape says how much there is to share: a launch has a part for each thread of the device, but not more than
/// it has threadgroups, so that a norm of one row is not claimed by sixty-four threads.
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
    /// Bit `i` is set when argument `i` may be written while the dispatch runs: by its own declaration, or because it is
    /// bound to the bytes of one that may (in place).
    changing: u64,
    /// Bit `i` is set when argument `i` may be written and no other shares a byte with it.
    sole: u64,
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
            changing: changing(dispatch.pipeline.written(), &args),
            sole: sole(dispatch.pipeline.written(), &args),
            pipeline: dispatch.pipeline.clone(),
            args,
            threadgroups: dispatch.grid.threadgroups(dispatch.group),
            group: dispatch.group,
            claims: Claims::new(most_parts(dispatch, parts)),
            next_chunk: AtomicUsize::new(0),
        })
    }

    pub(super) fn name(&self) -> &str {
        self.pipeline.label()
    }

    pub(super) fn pipeline(&self) -> &ComputePipelineState {
        &self.pipeline
    }
}

impl RawArg {
    fn shares_bytes(&self, other: &RawArg) -> bool {
        let (start, other_start) = (self.ptr as usize, other.ptr as usize);
        start < other_start + other.byte_len && other_start < start + self.byte_len
    }

    fn bit(&self) -> u64 {
        1 << (self.index & 63)
    }
}

/// Which arguments share bytes with one of `written`, and those.
fn changing(written: u64, args: &[RawArg]) -> u64 {
    let changes = |a: &&RawArg| {
        let mut all = args.iter().filter(|w| written & w.bit() != 0);
        written & a.bit() != 0 || all.any(|w| w.shares_bytes(a))
    };
    args.iter().filter(changes).fold(0, |bits, a| bits | a.bit())
}

/// Which of `written` share bytes with no other argument.
fn sole(written: u64, args: &[RawArg]) -> u64 {
    let is_sole =
        |a: &&RawArg| written & a.bit() != 0 && !args.iter().any(|o| o.index != a.index && o.shares_bytes(a));
    args.iter().filter(is_sole).fold(0, |bits, a| bits | a.bit())
}

/// How many of `threads` parts a dispatch has.
fn most_parts(dispatch: &Dispatch, threads: usize) -> usize {
    let groups = dispatch.grid.threadgroups(dispatch.group);
    let groups = groups.iter().fold(1usize, |n, &e| n.saturating_mul(e as usize));
    threads.min(groups).max(1)
}

/// A running dispatch, as its CPU body sees it.
pub struct Launch<'a> {
    resolved: &'a Resolved,
    failure: &'a Failure,
    isa: IsaToken,
    part: usize,
    /// Bit `i` is set when the part's own elements of argument `i` were handed out.
    taken: Cell<u64>,
}

impl<'a> Launch<'a> {
    pub(super) fn new(resolved: &'a Resolved, failure: &'a Failure, isa: IsaToken, part: usize) -> Self {
        Launch {
            resolved,
            failure,
            isa,
            part,
            taken: Cell::new(0),
        }
    }

    /// The instruction set that the body may use, with the proof that the machine has it.
    #[must_use]
    pub fn isa(&self) -> IsaToken {
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

    /// The value of a boolean function constant; `default` if it was not given.
    #[must_use]
    pub fn flag_or(&self, index: u32, default: bool) -> bool {
        self.constant(index)
            .map_or(default, |value| value == ConstantValue::Bool(true))
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
            found => {
                self.fail(match found {
                    None => format!("argument {index}, a parameter struct, is not bound"),
                    Some(arg) => format!(
                        "argument {index}: {} bytes, its parameter struct has {}",
                        arg.byte_len,
                        size_of::<P>()
                    ),
                });
                P::zeroed()
            }
        }
    }

    /// The whole of argument `index` as elements of `T`. An address that is not aligned for `T` fails the launch and
    /// gives an empty slice.
    ///
    /// An argument that the kernel may write, or that is bound to the bytes of one, fails the launch and gives an empty
    /// slice as well: others would write under the slice. Kernels that work in place use [`output`](Self::output) for both.
    #[must_use]
    pub fn input<T: Pod>(&self, index: u32) -> &'a [T] {
        if index < u64::BITS && self.resolved.changing >> index & 1 != 0 {
            self.fail(format!(
                "argument {index} may be written while it is read: it is no input, take it as an output"
            ));
            return &[];
        }
        let (ptr, len) = self.typed::<T>(index);
        if len == 0 {
            return &[];
        }
        // SAFETY: inside the binding, aligned; nobody writes it meanwhile: the encoder fences writers in other dispatches,
        // and that it shares no byte with what this one writes was just looked at.
        unsafe { std::slice::from_raw_parts(ptr, len) }
    }

    /// This part's share of argument `index`, in whole lines of 64 bytes: the number of its first element, and the elements,
    /// which no other part is given. For arguments that the kernel writes and that share bytes with none other, once for
    /// each, and for elements whose size divides 64. Anything else fails the launch and gives nothing.
    #[must_use]
    pub fn own_part<T: Pod>(&self, index: u32) -> (usize, &'a mut [T]) {
        let bit = 1u64.checked_shl(index).unwrap_or(0);
        let size = size_of::<T>();
        let sole = self.resolved.sole & bit != 0;
        if !sole || self.taken.get() & bit != 0 || size == 0 || !LINE.is_multiple_of(size) {
            self.fail(format!(
                "argument {index}: own_part is for what the kernel writes and shares with no other argument, in elements of \
                 1 to 64 bytes, and once"
            ));
            return (0, &mut []);
        }
        self.taken.set(self.taken.get() | bit);
        let output = self.output::<T>(index);
        // In bytes, so that the shares are the same whatever the parts take the elements for.
        let bytes = part_range(output.len() * size, LINE, self.part, self.resolved.claims.parts());
        let elements = bytes.start / size..bytes.end / size;
        let first = elements.start;
        // SAFETY: parts have disjoint ranges, each part runs once and asks once, no other argument has these bytes, and
        // `output`'s own slices are by the word of who takes them.
        (first, unsafe { output.slice_mut(elements) })
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
            None => {
                self.fail(format!("argument {index} is not bound"));
                (std::ptr::dangling_mut(), 0)
            }
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
