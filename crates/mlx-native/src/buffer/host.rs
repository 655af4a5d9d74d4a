//! How the host gets at the bytes of a buffer.
//!
//! The bytes are shared: with views of the same allocation, with recorded work, with the device. What is lent to the host as
//! a reference must not be written behind its back, whoever tries, and none of that may rest on the caller reading this.
//! `docs/decisions/0001-host-views.md` has the reasons for the three ways:
//!
//! - *Copies* ([`MlxBuffer::read`], [`read_into`](MlxBuffer::read_into), [`write`](MlxBuffer::write)) wait for the work in
//!   flight that conflicts and hold the allocation while they copy. No reference into the memory is made.
//! - *Guards* ([`MlxBuffer::host_read`], [`host_write`](MlxBuffer::host_write)) lend a byte range until they are dropped.
//!   The allocation knows of it: a commit of conflicting work, and conflicting access through another handle, are errors.
//! - *Plain slices*, whose end nobody can see. [`MlxBuffer::as_slice`] gives a copy that belongs to the handle, or memory
//!   that nobody may write. [`MlxBuffer::as_mut_slice`] lends like a guard; the loan ends when the handle is used again, or
//!   dropped, which proves that the slice is gone, since it borrowed the handle mutably.
//!
//! Where the device has memory of its own, what is lent is a mirror; one that was lent for writing is uploaded when the loan
//! ends, which is before any work that uses the bytes can be committed.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;

use super::MlxBuffer;
use crate::backend::host::HostBytes;
use crate::backend::{Allocation, Memory};
use crate::error::{MlxError, Result, invalid};

/// The alignment of every memory and mirror: element types may not need more.
const MOST_ALIGN: usize = 64;

/// From so many bytes of copies on, one handle's `as_slice` warns.
const MANY_BYTES: usize = 256 << 20;

/// What a handle has lent as plain slices.
#[derive(Default)]
pub(super) struct HostState {
    /// Whether `loan` is there: a look that costs nothing.
    lent: AtomicBool,
    loan: Mutex<Option<Loan>>,
    /// Copies that slices of `as_slice` may still point into; they live until the handle is borrowed mutably.
    copies: Mutex<Vec<Arc<HostBytes>>>,
}

/// Bytes that are lent, and what takes them back.
struct Loan {
    allocation: Arc<Allocation>,
    range: Range<usize>,
    number: u64,
    writes: bool,
    /// `None` where the host sees the memory itself.
    mirror: Option<HostBytes>,
    ptr: NonNull<u8>,
}

// SAFETY: the pointer leads into the allocation or the mirror, which the loan keeps, and belongs to no thread.
unsafe impl Send for Loan {}
// SAFETY: a shared `Loan` gives shared access only.
unsafe impl Sync for Loan {}

impl Loan {
    fn new(buffer: &MlxBuffer, operation: &str, writes: bool) -> Result<Self> {
        let range = buffer.range();
        let what = format!(
            "{operation}() of a buffer {} {:?}",
            buffer.dtype,
            &buffer.shape[..]
        );
        let allocation = buffer.allocation.clone();
        let (number, (mirror, ptr)) = allocation.lend(operation, range.clone(), writes, what, |memory| {
            match memory.host_view() {
                // SAFETY: the range is inside the allocation.
                Some(view) => Ok((None, unsafe { view.add(range.start) })),
                None => {
                    let mirror = mirror_of(memory, &range)?;
                    let ptr = mirror.ptr();
                    Ok((Some(mirror), ptr))
                }
            }
        })?;
        Ok(Loan {
            allocation,
            range,
            number,
            writes,
            mirror,
            ptr,
        })
    }

    fn end(&mut self) -> Result<()> {
        let Some(number) = std::num::NonZeroU64::new(std::mem::take(&mut self.number)) else {
            return Ok(());
        };
        self.allocation
            .give_back(number.get(), |memory| match &self.mirror {
                Some(mirror) if self.writes => memory.upload(self.range.start, mirror.as_slice()),
                _ => Ok(()),
            })
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // A failure is kept in the allocation, for who waits for a writer next.
        let _ = self.end();
    }
}

fn mirror_of(memory: &dyn Memory, range: &Range<usize>) -> Result<HostBytes> {
    let mut mirror = HostBytes::zeroed(range.len())?;
    memory.download(range.start, mirror.as_mut_slice())?;
    Ok(mirror)
}

/// The elements of a buffer, lent for reading until this is dropped: [`MlxBuffer::host_read`].
pub struct HostRead<'a, T> {
    loan: Loan,
    len: usize,
    life: PhantomData<&'a [T]>,
}

/// The elements of a buffer, lent for reading and writing until this is dropped: [`MlxBuffer::host_write`].
pub struct HostWrite<'a, T> {
    loan: Loan,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

impl<T: Pod> HostWrite<'_, T> {
    /// Ends the access, and says whether the device has the bytes. Dropping the guard ends it too; a failure is then told
    /// to whoever next reads the buffer.
    ///
    /// # Errors
    /// [`MlxError::CommandBufferError`] when a device with memory of its own did not take the bytes.
    pub fn finish(mut self) -> Result<()> {
        self.loan.end()
    }
}

impl<T: Pod> Deref for HostRead<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements are inside what was lent, aligned and initialised; any bits are a `T: Pod`. As long as the
        // loan stands, nobody writes them.
        unsafe { std::slice::from_raw_parts(self.loan.ptr.as_ptr().cast(), self.len) }
    }
}

impl<T: Pod> Deref for HostWrite<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: as in `deref_mut`.
        unsafe { std::slice::from_raw_parts(self.loan.ptr.as_ptr().cast(), self.len) }
    }
}

impl<T: Pod> DerefMut for HostWrite<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: `len` elements are inside what was lent, aligned and initialised; any bits are a `T: Pod`. As long as the
        // loan stands, nobody else reads or writes them.
        unsafe { std::slice::from_raw_parts_mut(self.loan.ptr.as_ptr().cast(), self.len) }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for HostRead<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for HostWrite<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl MlxBuffer {
    /// Lends the elements for reading, once work in flight that writes the allocation has ended.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] when `T` has no size, does not divide the byte length or is not aligned here, or when
    /// somebody holds some of the bytes for writing; [`MlxError::CommandBufferError`] when work that writes the buffer
    /// failed.
    pub fn host_read<T: Pod>(&self) -> Result<HostRead<'_, T>> {
        self.end_loan();
        Ok(HostRead {
            len: self.len_as::<T>("host_read")?,
            loan: Loan::new(self, "host_read", false)?,
            life: PhantomData,
        })
    }

    /// Lends the elements for reading and writing, once work in flight that reads or writes the allocation has ended.
    ///
    /// # Errors
    /// As [`host_read`](Self::host_read), also when somebody holds some of the bytes for reading;
    /// [`MlxError::InvalidArgument`] for read-only memory.
    pub fn host_write<T: Pod>(&mut self) -> Result<HostWrite<'_, T>> {
        self.end_loan();
        self.check_writable("host_write")?;
        Ok(HostWrite {
            len: self.len_as::<T>("host_write")?,
            loan: Loan::new(self, "host_write", true)?,
            life: PhantomData,
        })
    }

    /// The elements as they are when work in flight that writes the allocation has ended.
    ///
    /// Nothing tells when the slice is let go of, so it is one that nobody writes: the memory itself where it is read-only
    /// (mapped weights), a copy otherwise. The copy belongs to this buffer, until it is borrowed mutably or dropped; a
    /// second call gives the same copy while the contents are the same. Code that looks at changing contents again and
    /// again takes [`read_into`](Self::read_into) or [`host_read`](Self::host_read), which keep nothing.
    ///
    /// # Errors
    /// As [`host_read`](Self::host_read); also [`MlxError::BufferAllocationError`] when there is no memory for the copy.
    pub fn as_slice<T: Pod>(&self) -> Result<&[T]> {
        self.end_loan();
        let len = self.len_as::<T>("as_slice")?;
        if let Some(view) = self
            .allocation
            .memory()
            .host_view()
            .filter(|_| !self.is_writable())
        {
            // SAFETY: inside the allocation, which lives as long as `self`; aligned, as checked; nobody writes the memory.
            return Ok(unsafe { std::slice::from_raw_parts(view.as_ptr().add(self.offset).cast(), len) });
        }
        let range = self.range();
        let copy = self
            .allocation
            .with_idle("as_slice", &range, false, |memory| mirror_of(memory, &range))?;
        let mut copies = self.host.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match copies.last().filter(|last| last.as_slice() == copy.as_slice()) {
            Some(last) => last.clone(),
            None => {
                let kept = Arc::new(copy);
                copies.push(kept.clone());
                let bytes = copies.len().saturating_mul(range.len());
                if bytes >= MANY_BYTES && bytes - range.len() < MANY_BYTES {
                    tracing::warn!(
                        copies = copies.len(),
                        bytes,
                        "as_slice keeps a copy for each change of the contents; read_into and host_read keep none"
                    );
                }
                kept
            }
        };
        // SAFETY: the copy stays where it is, unwritten, until `self` is borrowed mutably or dropped: `copies` only grows
        // through `&self`. It holds `len` elements, aligned for any element type that `len_as` lets pass.
        Ok(unsafe { std::slice::from_raw_parts(kept.ptr().as_ptr().cast(), len) })
    }

    /// The elements as a mutable slice, once work in flight that reads or writes the allocation has ended.
    ///
    /// The bytes are lent until this buffer is used again in any way, or dropped: that proves that the slice is gone. Until
    /// then a commit of work that uses them is refused; record the work afterwards, or use [`write`](Self::write).
    ///
    /// # Errors
    /// As [`host_write`](Self::host_write).
    pub fn as_mut_slice<T: Pod>(&mut self) -> Result<&mut [T]> {
        self.end_loan();
        self.host
            .copies
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        let len = self.len_as::<T>("as_mut_slice")?;
        self.check_writable("as_mut_slice")?;
        let loan = Loan::new(self, "as_mut_slice", true)?;
        let ptr = loan.ptr;
        *self.host.loan.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(loan);
        *self.host.lent.get_mut() = true;
        // SAFETY: `len` elements are inside what was lent, aligned and initialised; any bits are a `T: Pod`. The loan stands
        // until this handle is used again, which the slice's borrow of it rules out while the slice lives.
        Ok(unsafe { std::slice::from_raw_parts_mut(ptr.as_ptr().cast(), len) })
    }

    /// A copy of the contents, once work in flight that writes the allocation has ended.
    ///
    /// # Errors
    /// As [`host_read`](Self::host_read), but for alignment, which does not matter.
    pub fn read<T: Pod>(&self) -> Result<Vec<T>> {
        let mut out = vec![T::zeroed(); self.byte_len / size_of::<T>().max(1)];
        self.read_into(0, &mut out)?;
        Ok(out)
    }

    /// Copies elements from index `first` (in units of `T`) on into `out`.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] when the range leaves the buffer, or somebody holds some of it for writing;
    /// [`MlxError::CommandBufferError`] when work that writes the buffer failed.
    pub fn read_into<T: Pod>(&self, first: usize, out: &mut [T]) -> Result<()> {
        self.end_loan();
        let range = self.copy_range::<T>("read", first, out.len())?;
        if range.is_empty() {
            return Ok(());
        }
        self.allocation.with_idle("read", &range, false, |memory| {
            memory.download(range.start, bytemuck::cast_slice_mut(out))
        })
    }

    /// Copies `data` over the contents from element `first` (in units of `T`) on, once work in flight that reads or
    /// writes the allocation has ended.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] when the range leaves the buffer, the memory is read-only, or somebody holds some of
    /// it; [`MlxError::CommandBufferError`] when work that writes the buffer failed.
    pub fn write<T: Pod>(&mut self, first: usize, data: &[T]) -> Result<()> {
        self.end_loan();
        let range = self.copy_range::<T>("write", first, data.len())?;
        self.check_writable("write")?;
        if range.is_empty() {
            return Ok(());
        }
        self.allocation.with_idle("write", &range, true, |memory| {
            memory.upload(range.start, bytemuck::cast_slice(data))
        })
    }

    /// Ends what `as_mut_slice` lent. To be called wherever a handle is used: the slice borrowed the handle mutably, so that
    /// a use proves it gone.
    pub(super) fn end_loan(&self) {
        if self.host.lent.load(Ordering::Acquire) {
            // A failure to write a mirror back is kept in the allocation.
            drop(
                self.host
                    .loan
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(),
            );
            self.host.lent.store(false, Ordering::Release);
        }
    }

    fn len_as<T>(&self, operation: &str) -> Result<usize> {
        let size = size_of::<T>();
        if size == 0 || !self.byte_len.is_multiple_of(size) {
            return invalid!(
                "{operation}: a buffer of {} bytes is no slice of {size}-byte elements",
                self.byte_len
            );
        }
        // Every memory begins at a multiple of the most that is possible, unless a caller wrapped one that does not.
        let start = self
            .allocation
            .memory()
            .host_view()
            .map_or(0, |view| view.as_ptr() as usize);
        if align_of::<T>() > MOST_ALIGN || !start.wrapping_add(self.offset).is_multiple_of(align_of::<T>()) {
            return invalid!(
                "{operation}: byte offset {} is not aligned to {} bytes",
                self.offset,
                align_of::<T>()
            );
        }
        Ok(self.byte_len / size)
    }

    /// Elements as a byte range of the allocation.
    fn copy_range<T>(&self, operation: &str, first: usize, count: usize) -> Result<Range<usize>> {
        let size = size_of::<T>();
        let range = first.checked_mul(size).zip(count.checked_mul(size));
        match range {
            Some((start, len)) if start.checked_add(len).is_some_and(|end| end <= self.byte_len) => {
                Ok(self.offset + start..self.offset + start + len)
            }
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
