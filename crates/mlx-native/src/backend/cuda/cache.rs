//! Machine code on disk: one file for each kernel, its constants, its form and the GPU's architecture.
//!
//! A file is named by a hash of all that it depends on, and by the version of NVRTC that made it. Where NVRTC is not to be
//! found, a file of any version will do.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::nvrtc::OPTIONS;
use super::text::PRELUDE;
use crate::backend::fingerprint::Fingerprint;

/// A folder of machine code.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    /// Of what all kernels share: the prelude and the compiler's options.
    common: Fingerprint,
}

static TEMPORARY: AtomicU32 = AtomicU32::new(0);

impl Cache {
    /// `folder`: the library's cache folder.
    pub fn new(folder: &Path) -> Self {
        let mut common = Fingerprint::new();
        for (name, text) in PRELUDE {
            common.add(name);
            common.add(text);
        }
        for option in OPTIONS {
            common.add(option);
        }
        Cache {
            folder: folder.join("cuda"),
            common,
        }
    }

    /// What a text compiled for an architecture is called.
    pub fn key(&self, text: &str, architecture: &str) -> String {
        let mut key = self.common;
        key.add(text);
        key.add(architecture);
        format!("{:032x}", key.0)
    }

    fn path(&self, key: &str, version: (u32, u32)) -> PathBuf {
        self.folder
            .join(format!("{key}-{}.{}.cubin", version.0, version.1))
    }

    /// What is stored under `key`, of NVRTC's version `version` or of any.
    pub fn find(&self, key: &str, version: Option<(u32, u32)>) -> Option<Vec<u8>> {
        if let Some(version) = version {
            return fs::read(self.path(key, version)).ok();
        }
        let mut found: Vec<PathBuf> = fs::read_dir(&self.folder)
            .ok()?
            .flatten()
            .map(|e| e.path())
            .filter(|p| {
                let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                name.starts_with(key) && name.ends_with(".cubin")
            })
            .collect();
        found.sort();
        fs::read(found.last()?).ok()
    }

    /// Stores `image`; other processes see the whole file or none.
    ///
    /// # Errors
    /// In words; nothing is left behind.
    pub fn store(&self, key: &str, version: (u32, u32), image: &[u8]) -> Result<(), String> {
        let text = |e: std::io::Error| e.to_string();
        fs::create_dir_all(&self.folder).map_err(text)?;
        let path = self.path(key, version);
        let unique = TEMPORARY.fetch_add(1, Relaxed);
        let temporary = path.with_extension(format!("{}-{unique}.tmp", std::process::id()));
        let result = fs::write(&temporary, image).and_then(|()| fs::rename(&temporary, &path));
        if result.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        result.map_err(text)
    }

    /// Takes away what the driver does not load.
    pub fn discard(&self, key: &str, version: (u32, u32)) {
        let _ = fs::remove_file(self.path(key, version));
    }
}
