//! Where the bytes of a weight file live.

use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::error::{MlxError, Result};

/// A read-only map of a file that this library made. A map that somebody else made may be of another sort, one that loses
/// what was written to it when its pages are given up: such bytes are [`FileBytes::Shared`] or wrapped by
/// [`MlxDevice::wrap_map`], and their pages are left alone.
#[derive(Debug, Clone)]
pub struct FileMap(Arc<Mmap>);

/// Bytes that do not move and do not change: a mapped file, a part of the program, or shared memory.
#[derive(Clone)]
pub enum FileBytes {
    /// A file, mapped read-only by [`FileBytes::map`].
    Mapped(FileMap),
    /// Bytes embedded in the program.
    Static(&'static [u8]),
    /// Bytes in memory, for files that were made or received rather than opened.
    Shared(Arc<[u8]>),
}

impl FileBytes {
    /// Maps a file. Pages are read from disk when they are first used.
    ///
    /// # Errors
    /// [`MlxError::IoError`], naming the file, when it is missing, no regular file, or cannot be mapped.
    pub fn map(path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| MlxError::IoError(format!("{}: {e}", path.display()));
        // Asked before opening: opening a pipe would block.
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            return Err(MlxError::IoError(format!(
                "{}: not a regular file",
                path.display()
            )));
        }
        let file = File::open(path).map_err(failed)?;
        if metadata.len() == 0 {
            return Ok(FileBytes::Static(&[]));
        }
        // SAFETY: the map is read-only and private to this process's reads. Another program that writes the file
        // changes bytes under us: they are weights, any bits of which are valid values, and the header was copied out
        // and checked before use; truncation is documented in the module as fatal.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(FileBytes::Mapped(FileMap(Arc::new(map))))
    }

    /// A read-only buffer over all the bytes, used in place.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] for no bytes, or memory that the device cannot take.
    pub fn wrap(&self, device: &MlxDevice) -> Result<MlxBuffer> {
        match self {
            FileBytes::Mapped(map) => device.wrap_map(&map.0),
            FileBytes::Static(bytes) => device.wrap_static(bytes),
            // SAFETY: the owner is a second reference to the bytes, which therefore live as long as it, and which
            // nobody can write, since an `Arc` with two owners gives no `&mut`.
            FileBytes::Shared(bytes) => unsafe {
                device.wrap_host(bytes.as_ptr(), bytes.len(), Arc::new(bytes.clone()))
            },
        }
    }

    /// Tells the operating system that a part was read for the last time in a while, so that it stops counting as
    /// memory of this process. The bytes stay readable. Does nothing for bytes that are not mapped.
    pub(super) fn release(&self, range: std::ops::Range<usize>) {
        #[cfg(unix)]
        if let FileBytes::Mapped(map) = self {
            // SAFETY: the map is one of `FileBytes::map`, of a file and read-only, so a page that is given up is read again
            // from the file; no content is lost. The range is a hint: failure is harmless.
            let advised = unsafe {
                map.0
                    .unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            if let Err(error) = advised {
                tracing::debug!(%error, "madvise");
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(map) => &map.0,
            FileBytes::Static(bytes) => bytes,
            FileBytes::Shared(bytes) => bytes,
        }
    }
}

impl fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            FileBytes::Mapped(_) => "Mapped",
            FileBytes::Static(_) => "Static",
            FileBytes::Shared(_) => "Shared",
        };
        write!(f, "{kind}({} bytes)", self.len())
    }
}

impl From<&'static [u8]> for FileBytes {
    fn from(bytes: &'static [u8]) -> Self {
        FileBytes::Static(bytes)
    }
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> Self {
        FileBytes::Shared(bytes.into())
    }
}
