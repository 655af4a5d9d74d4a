//! Typed, shaped memory of a device.
//!
//! # Who may touch the bytes, and when
//! A buffer's bytes are shared: with views of the same allocation, with recorded work, with the device. Three rules keep
//! host access in order; `docs/decisions/0001-host-views.md` has the reasons.
//!
//! 1. Every allocation knows the submitted work that reads or writes it ([`Allocation::mark`], called by the encoder
//!    *before* the work is handed to the device). [`MlxBuffer::as_slice`] and [`MlxBuffer::read`] wait for the writers,
//!    [`MlxBuffer::as_mut_slice`] and [`MlxBuffer::write`] for readers and writers. So no slice is handed out while the
//!    device is at the bytes.
//! 2. [`MlxBuffer::read`] and [`MlxBuffer::write`] copy through raw pointers: they never make a reference into the
//!    memory, and so are sound whatever else exists.
//! 3. A slice, once handed out, is plain: nothing can take it back. *Do not hold it across a commit of work that writes
//!    the same bytes, nor across `as_mut_slice` or `write` through another view*; take a new one afterwards. Within one
//!    buffer the borrow checker sees to it. Across views and encoders it is the one thing that types cannot see; what is
//!    at stake is stale or torn numbers: elements are [`bytemuck::Pod`], so that every bit pattern is a value.

use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use smallvec::SmallVec;

use crate::backend::{Memory, Submission};
use crate::dtype::DType;
use crate::error::{MlxError, Result, invalid};

/// A byte range of the address space, `(first, one past the last)`: the unit in which hazards are found.
pub type MemRange = (usize, usize);

/// Memory of a device, and the submitted work that is still at it.
pub struct Allocation {
    memory: Arc<dyn Memory>,
    in_flight: Mutex<SmallVec<[InFlight; 2]>>,
}

struct InFlight {
    work: Arc<Submission>,
    writes: bool,
}

impl Allocation {
    pub(crate) fn new(memory: Arc<dyn Memory>) -> Arc<Self> {
        Arc::new(Allocation {
            memory,
            in_flight: Mutex::default(),
        })
    }

    /// The memory itself.
    #[must_use]
    pub fn memory(&self) -> &Arc<dyn Memory> {
        &self.memory
    }

    /// Notes that `work` reads the allocation, or writes it. To be called before the work can start.
    pub(crate) fn mark(&self, work: &Arc<Submission>, writes: bool) {
        let mut list = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = list.last_mut().filter(|last| Arc::ptr_eq(&last.work, work)) {
            last.writes |= writes;
            return;
        }
        // A failed writer stays until somebody has been told.
        list.retain(|f| !f.work.is_done() || (f.writes && f.work.has_untold_error()));
        list.push(InFlight {
            work: work.clone(),
            writes,
        });
    }

    /// Waits for the writers in flight, or for all work. The first error of a writer is reported, unless whoever waited
    /// for that work was told already.
    fn wait(&self, for_readers_too: bool) -> Result<()> {
        let waiting: SmallVec<[(Arc<Submission>, bool); 2]> = {
            let mut list = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            if list.is_empty() {
                return Ok(());
            }
            let all = list
                .iter()
                .filter(|f| f.writes || for_readers_too)
                .map(|f| (f.work.clone(), f.writes))
                .collect();
            list.retain(|f| !f.work.is_done());
            all
        };
        let mut first = Ok(());
        for (work, writes) in &waiting {
            let result = work.wait();
            if *writes && first.is_ok() {
                first = result;
            }
        }
        let mut list = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|f| !waiting.iter().any(|(work, _)| Arc::ptr_eq(work, &f.work)));
        first
    }
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocation")
            .field("byte_len", &self.memory.byte_len())
            .finish()
    }
}

/// A range of a device's memory with an element type and a shape.
///
/// Type and shape are what the operators check and what kernels are chosen by; the bytes may be looked at as any
/// [`Pod`] type. [`view`](Self::view) gives further buffers over the same bytes. `Send` and `Sync`.
///
/// ```
/// use mlx_native::{DType, MlxDevice};
/// let device = MlxDevice::new()?;
/// let mut x = device.alloc_buffer(4 * 6, DType::F32, vec![2, 3])?;
/// x.as_mut_slice::<f32>()?.copy_from_slice(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
/// let row = x.view(12, DType::F32, vec![3])?;
/// assert_eq!(row.as_slice::<f32>()?, &[3.0, 4.0, 5.0]);
/// # Ok::<(), mlx_native::MlxError>(())
/// ```
pub struct MlxBuffer {
    allocation: Arc<Allocation>,
    offset: usize,
    byte_len: usize,
    dtype: DType,
    shape: SmallVec<[usize; 4]>,
}

impl MlxBuffer {
    pub(crate) fn new(allocation: Arc<Allocation>, dtype: DType, shape: &[usize]) -> Self {
        let byte_len = allocation.memory.byte_len();
        MlxBuffer {
            allocation,
            offset: 0,
            byte_len,
            dtype,
            shape: SmallVec::from_slice(shape),
        }
    }

    /// A second handle of the same bytes. Kept inside the crate: handles are what host access is counted by.
    pub(crate) fn share(&self) -> MlxBuffer {
        MlxBuffer {
            allocation: self.allocation.clone(),
            offset: self.offset,
            byte_len: self.byte_len,
            dtype: self.dtype,
            shape: self.shape.clone(),
        }
    }

    /// The same memory under another type and shape.
    pub(crate) fn relabel(mut self, dtype: DType, shape: &[usize]) -> MlxBuffer {
        self.dtype = dtype;
        self.shape = SmallVec::from_slice(shape);
        self
    }

    /// Whether this is the whole allocation, and the only handle of it.
    pub(crate) fn is_whole(&self) -> bool {
        self.offset == 0
            && self.byte_len == self.allocation.memory.byte_len()
            && Arc::strong_count(&self.allocation) == 1
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Bytes of this buffer: of the whole allocation, or of the view.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.byte_len
    }

    /// Product of the shape; 1 for an empty shape. Independent of [`byte_len`](Self::byte_len).
    #[must_use]
    pub fn element_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// First byte of this buffer in the allocation.
    #[must_use]
    pub fn byte_offset(&self) -> usize {
        self.offset
    }

    /// The address of the first byte. Reading or writing through it is the caller's responsibility.
    #[must_use]
    pub fn contents_ptr(&self) -> *mut c_void {
        self.ptr().cast()
    }

    /// The bytes as a range of the address space.
    #[must_use]
    pub fn mem_range(&self) -> MemRange {
        let start = self.ptr() as usize;
        (start, start + self.byte_len)
    }

    /// A buffer over a part of this one's bytes: `shape` elements of `dtype` from `byte_offset` on.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] when the range leaves this buffer, the offset is no multiple of the element size, or
    /// a size overflows.
    pub fn view(&self, byte_offset: usize, dtype: DType, shape: Vec<usize>) -> Result<MlxBuffer> {
        let byte_len = byte_len_of(dtype, &shape)?;
        if byte_offset
            .checked_add(byte_len)
            .is_none_or(|end| end > self.byte_len)
        {
            return invalid!(
                "view: {byte_len} bytes ({dtype} {shape:?}) from byte {byte_offset} leave a buffer of {} bytes",
                self.byte_len
            );
        }
        if !(self.offset + byte_offset).is_multiple_of(dtype.size_of()) {
            return invalid!("view: byte offset {byte_offset} is no multiple of the size of {dtype}");
        }
        Ok(MlxBuffer {
            allocation: self.allocation.clone(),
            offset: self.offset + byte_offset,
            byte_len,
            dtype,
            shape: SmallVec::from_vec(shape),
        })
    }

    /// The bytes as a slice of `T`, once work in flight that writes the allocation has ended. See the
    /// module documentation for how long the slice may be held.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] when `T` has no size, does not divide the byte length or is not aligned here;
    /// [`MlxError::CommandBufferError`] when work that writes the buffer failed.
    pub fn as_slice<T: Pod>(&self) -> Result<&[T]> {
        let len = self.len_as::<T>("as_slice")?;
        self.allocation.wait(false)?;
        // SAFETY: inside the allocation, which lives as long as `self`; aligned and sized as checked; initialised, since
        // memory comes zeroed; any bits are a `T: Pod`; no submitted work writes it (rules 1 and 3 of the module).
        Ok(unsafe { std::slice::from_raw_parts(self.ptr().cast::<T>(), len) })
    }

    /// The bytes as a mutable slice of `T`, once work in flight that reads or writes the allocation has ended.
    ///
    /// # Errors
    /// As [`as_slice`](Self::as_slice); also [`MlxError::InvalidArgument`] for read-only memory.
    pub fn as_mut_slice<T: Pod>(&mut self) -> Result<&mut [T]> {
        let len = self.len_as::<T>("as_mut_slice")?;
        self.check_writable("as_mut_slice")?;
        self.allocation.wait(true)?;
        // SAFETY: as in `as_slice`; `&mut self` excludes other slices from this handle, rule 3 those from other handles.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.ptr().cast::<T>(), len) })
    }

    /// A copy of the contents, once work in flight that writes the allocation has ended.
    ///
    /// # Errors
    /// As [`as_slice`](Self::as_slice), but for alignment, which does not matter.
    pub fn read<T: Pod>(&self) -> Result<Vec<T>> {
        let mut out = vec![T::zeroed(); self.byte_len / size_of::<T>().max(1)];
        self.read_into(0, &mut out)?;
        Ok(out)
    }

    /// Copies elements from index `first` (in units of `T`) on into `out`.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] when the range leaves the buffer; [`MlxError::CommandBufferError`] when work that
    /// writes the buffer failed.
    pub fn read_into<T: Pod>(&self, first: usize, out: &mut [T]) -> Result<()> {
        let start = self.copy_range::<T>("read", first, out.len())?;
        self.allocation.wait(false)?;
        // SAFETY: the range is inside the allocation; `out` is a slice of the host's, and Pod.
        unsafe { std::ptr::copy(self.ptr().add(start), out.as_mut_ptr().cast(), size_of_val(out)) };
        Ok(())
    }

    /// Copies `data` over the contents from element `first` (in units of `T`) on, once work in flight that reads or
    /// writes the allocation has ended.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] when the range leaves the buffer or the memory is read-only;
    /// [`MlxError::CommandBufferError`] when work that writes the buffer failed.
    pub fn write<T: Pod>(&mut self, first: usize, data: &[T]) -> Result<()> {
        let start = self.copy_range::<T>("write", first, data.len())?;
        self.check_writable("write")?;
        self.allocation.wait(true)?;
        // SAFETY: the range is inside writable memory of the allocation.
        unsafe { std::ptr::copy(data.as_ptr().cast(), self.ptr().add(start), size_of_val(data)) };
        Ok(())
    }

    /// Whether the memory may be written; mapped weights may not.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.allocation.memory.writable()
    }

    pub(crate) fn allocation(&self) -> &Arc<Allocation> {
        &self.allocation
    }

    fn ptr(&self) -> *mut u8 {
        // SAFETY: `offset` is inside the allocation (or one past its end for an empty view).
        unsafe { self.allocation.memory.host_ptr().as_ptr().add(self.offset) }
    }

    fn len_as<T>(&self, operation: &str) -> Result<usize> {
        let size = size_of::<T>();
        if size == 0 || !self.byte_len.is_multiple_of(size) {
            return invalid!(
                "{operation}: a buffer of {} bytes is no slice of {size}-byte elements",
                self.byte_len
            );
        }
        if !(self.ptr() as usize).is_multiple_of(align_of::<T>()) {
            return invalid!(
                "{operation}: byte offset {} is not aligned to {} bytes",
                self.offset,
                align_of::<T>()
            );
        }
        Ok(self.byte_len / size)
    }

    fn copy_range<T>(&self, operation: &str, first: usize, count: usize) -> Result<usize> {
        let size = size_of::<T>();
        let range = first.checked_mul(size).zip(count.checked_mul(size));
        match range {
            Some((start, len)) if start.checked_add(len).is_some_and(|end| end <= self.byte_len) => Ok(start),
            _ => invalid!(
                "{operation}: {count} elements of {size} bytes from element {first} leave a buffer of {} bytes",
                self.byte_len
            ),
        }
    }

    fn check_writable(&self, operation: &str) -> Result<()> {
        if self.is_writable() {
            return Ok(());
        }
        Err(MlxError::InvalidArgument(format!(
            "{operation}: the buffer's memory is read-only (mapped from a file)"
        )))
    }
}

/// Bytes of a dense tensor, with overflow as an error.
pub(crate) fn byte_len_of(dtype: DType, shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(dtype.size_of(), |n, &extent| n.checked_mul(extent))
        .ok_or_else(|| MlxError::InvalidArgument(format!("the size of {dtype} {shape:?} overflows")))
}

impl fmt::Debug for MlxBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MlxBuffer")
            .field("dtype", &self.dtype)
            .field("shape", &self.shape)
            .field("byte_len", &self.byte_len)
            .finish()
    }
}
