//! Typed, shaped memory of a device.
//!
//! A [`MlxBuffer`] is a byte range of an [`Allocation`] with an element type and a shape. It has no address: what kernels
//! are bound to, and what hazards compare, is (allocation, byte range). How the host gets at the bytes is in [`host`].

mod host;

use std::ffi::c_void;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;

pub use host::{HostRead, HostWrite};

use crate::backend::Allocation;
use crate::dtype::DType;
use crate::error::{MlxError, Result, invalid};
use host::HostState;

/// A byte range of an allocation as a pair of numbers, `(first, one past the last)`: the unit in which hazards are found.
///
/// The numbers are places in a space that all allocations of the process share and none reuses
/// ([`Allocation::base`]); they are not addresses.
pub type MemRange = (usize, usize);

/// A range of a device's memory with an element type and a shape.
///
/// Type and shape are what the operators check and what kernels are chosen by; the bytes may be looked at as any
/// [`Pod`](bytemuck::Pod) type. [`view`](Self::view) gives further buffers over the same bytes. `Send` and `Sync`.
///
/// # Host access
/// [`read`](Self::read), [`read_into`](Self::read_into) and [`write`](Self::write) copy; they work on every device.
/// [`host_read`](Self::host_read) and [`host_write`](Self::host_write) lend the bytes until the guard is dropped.
/// [`as_slice`](Self::as_slice) and [`as_mut_slice`](Self::as_mut_slice) give plain slices, with what it takes to keep them
/// sound. All of them wait for work in flight that conflicts. While bytes are lent, a commit of work that conflicts is an
/// error that names the buffer, and so is a conflicting access through another buffer over the same bytes.
///
/// ```
/// use mlx_native::{DType, MlxDevice};
/// let device = MlxDevice::new()?;
/// let mut x = device.alloc_tensor(DType::F32, &[2, 3])?;
/// x.host_write::<f32>()?.copy_from_slice(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
/// let row = x.view(12, DType::F32, vec![3])?;
/// assert_eq!(*row.host_read::<f32>()?, [3.0, 4.0, 5.0]);
/// # Ok::<(), mlx_native::MlxError>(())
/// ```
pub struct MlxBuffer {
    allocation: Arc<Allocation>,
    offset: usize,
    byte_len: usize,
    dtype: DType,
    shape: SmallVec<[usize; 4]>,
    element_count: usize,
    /// What `as_slice` and `as_mut_slice` of this handle have lent.
    host: HostState,
    /// What `metal_buffer` gave.
    metal: OnceLock<Box<Buffer>>,
}

/// Memory of a device, as [`MlxBuffer::metal_buffer`] gives it. Clones are the same memory.
#[derive(Debug)]
pub struct Buffer(MlxBuffer);

impl Buffer {
    pub(crate) fn of(buffer: &MlxBuffer) -> Self {
        Buffer(buffer.share())
    }

    pub(crate) fn handle(&self) -> &MlxBuffer {
        &self.0
    }

    /// Its bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.0.byte_len() as u64
    }

    /// The address at which the host sees the first byte: [`MlxBuffer::contents_ptr`].
    #[must_use]
    pub fn contents(&self) -> *mut c_void {
        self.0.contents_ptr()
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Buffer(self.0.share())
    }
}

impl MlxBuffer {
    /// All of `allocation`.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] when the number of elements overflows.
    pub(crate) fn new(allocation: Arc<Allocation>, dtype: DType, shape: &[usize]) -> Result<Self> {
        let byte_len = allocation.byte_len();
        Ok(MlxBuffer {
            allocation,
            offset: 0,
            byte_len,
            dtype,
            shape: SmallVec::from_slice(shape),
            element_count: element_count_of(dtype, shape)?,
            host: HostState::default(),
            metal: OnceLock::new(),
        })
    }

    /// A second handle of the same bytes. Kept inside the crate: what is lent belongs to a handle.
    pub(crate) fn share(&self) -> MlxBuffer {
        self.end_loan();
        MlxBuffer {
            allocation: self.allocation.clone(),
            offset: self.offset,
            byte_len: self.byte_len,
            dtype: self.dtype,
            shape: self.shape.clone(),
            element_count: self.element_count,
            host: HostState::default(),
            metal: OnceLock::new(),
        }
    }

    /// The same memory under another type and shape.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn relabel(mut self, dtype: DType, shape: &[usize]) -> Result<MlxBuffer> {
        self.end_loan();
        self.element_count = element_count_of(dtype, shape)?;
        self.dtype = dtype;
        self.shape = SmallVec::from_slice(shape);
        Ok(self)
    }

    /// Whether this is the whole allocation, and the only handle of it.
    pub(crate) fn is_whole(&self) -> bool {
        self.end_loan();
        self.offset == 0
            && self.byte_len == self.allocation.byte_len()
            && Arc::strong_count(&self.allocation) == 1
    }

    /// A buffer over memory that [`metal_buffer`](Self::metal_buffer) gave: no copy, the same bytes. A shape whose number of
    /// elements overflows is left out, and the buffer is one of bytes.
    #[must_use]
    pub fn from_raw(inner: Buffer, dtype: DType, shape: Vec<usize>) -> Self {
        let handle = inner.0;
        match handle.share().relabel(dtype, &shape) {
            Ok(buffer) => buffer,
            Err(_) => {
                let mut bytes = handle.share();
                (bytes.dtype, bytes.element_count) = (DType::U8, bytes.byte_len);
                bytes.shape = SmallVec::from_slice(&[bytes.byte_len]);
                bytes
            }
        }
    }

    /// The memory by itself, without dtype and shape.
    #[must_use]
    pub fn metal_buffer(&self) -> &Buffer {
        self.metal.get_or_init(|| Box::new(Buffer::of(self)))
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
        self.element_count
    }

    /// First byte of this buffer in the allocation.
    #[must_use]
    pub fn byte_offset(&self) -> usize {
        self.offset
    }

    /// The address at which the host sees the first byte; null where the device's memory is apart from the host's. Reading
    /// or writing through it is the caller's responsibility: nothing waits, and nothing is refused.
    #[must_use]
    pub fn contents_ptr(&self) -> *mut c_void {
        self.end_loan();
        self.allocation
            .memory()
            .host_view()
            // Inside the allocation, or one past its end for an empty view.
            .map_or(std::ptr::null_mut(), |view| {
                view.as_ptr().wrapping_add(self.offset).cast()
            })
    }

    /// The bytes as a pair of numbers that hazards compare.
    #[must_use]
    pub fn mem_range(&self) -> MemRange {
        let start = self.allocation.base() + self.offset;
        (start, start + self.byte_len)
    }

    /// A buffer over a part of this one's bytes: `shape` elements of `dtype` from `byte_offset` on.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] when the range leaves this buffer, the offset is no multiple of the element size, or
    /// a size overflows.
    pub fn view(&self, byte_offset: usize, dtype: DType, shape: Vec<usize>) -> Result<MlxBuffer> {
        self.end_loan();
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
            element_count: element_count_of(dtype, &shape)?,
            shape: SmallVec::from_vec(shape),
            host: HostState::default(),
            metal: OnceLock::new(),
        })
    }

    /// Whether the memory may be written; mapped weights may not.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.allocation.writable()
    }

    /// The memory, for a use of this buffer by recorded work.
    pub(crate) fn allocation(&self) -> &Arc<Allocation> {
        self.end_loan();
        &self.allocation
    }

    /// The bytes of this buffer in its allocation.
    fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.byte_len
    }
}

/// Bytes of a dense tensor, with overflow as an error.
pub(crate) fn byte_len_of(dtype: DType, shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(dtype.size_of(), |n, &extent| n.checked_mul(extent))
        .ok_or_else(|| MlxError::InvalidArgument(format!("the size of {dtype} {shape:?} overflows")))
}

/// Elements of a tensor, with overflow as an error.
fn element_count_of(dtype: DType, shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &extent| n.checked_mul(extent))
        .ok_or_else(|| {
            MlxError::InvalidArgument(format!("the number of elements of {dtype} {shape:?} overflows"))
        })
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
