//! Addresses of code to lines of the kernel's text.

use super::prelude::FOLDER_PREFIX;
use std::path::PathBuf;
use std::sync::Mutex;

/// The line table of one object, read when first asked.
pub(super) struct Symbols {
    object: PathBuf,
    loader: Mutex<Option<addr2line::Loader>>,
}

impl Symbols {
    /// For the object at `path`.
    pub fn new(object: PathBuf) -> Self {
        Self {
            object,
            loader: Mutex::new(None),
        }
    }

    /// File and line of the kernel's text that the code at `offset` came from: the innermost one that is not the
    /// prelude's. `None` where the object does not say.
    pub fn locate(&self, offset: usize) -> Option<(String, u32)> {
        let mut loader = self
            .loader
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if loader.is_none() {
            *loader = addr2line::Loader::new(&self.object).ok();
        }
        // A return address names the instruction behind the call.
        let mut frames = loader.as_ref()?.find_frames(offset as u64 - 1).ok()?;
        while let Ok(Some(frame)) = frames.next() {
            if let Some(location) = frame.location {
                let (file, line) = (location.file?, location.line?);
                if !file.contains(FOLDER_PREFIX) {
                    return Some((file.trim_start_matches("./").to_owned(), line));
                }
            }
        }
        None
    }
}
