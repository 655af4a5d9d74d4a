//! Compiled kernels on disk: one binary archive for each kernel and set of constants.
//!
//! An archive is a hint. Metal itself holds a function against what the archive has for it, so that a file of another
//! system, of another kernel or half a file costs a compilation and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::kernel::ConstantValue;

/// What a compiled kernel depends on.
pub(super) struct ArchiveKey<'a> {
    pub text: &'a str,
    pub name: &'a str,
    pub constants: &'a [(u32, ConstantValue)],
    pub fast_math: bool,
}

/// A folder of archives for one GPU and one build of the operating system.
#[derive(Debug)]
pub(super) struct Archives {
    folder: PathBuf,
}

static TEMPORARY: AtomicU32 = AtomicU32::new(0);

impl Archives {
    /// `cache`: the library's cache folder; `gpu` and `os`: as the device names them.
    pub fn new(cache: &Path, gpu: &str, os: &str) -> Self {
        let mut hash = Hash::default();
        hash.piece(gpu.as_bytes());
        hash.piece(os.as_bytes());
        Archives {
            folder: cache.join("metal").join(hash.hex()),
        }
    }

    /// Where the archive for `key` is or would be.
    pub fn path(&self, key: &ArchiveKey<'_>) -> PathBuf {
        let mut hash = Hash::default();
        hash.piece(key.text.as_bytes());
        hash.piece(key.name.as_bytes());
        hash.piece(&[u8::from(key.fast_math)]);
        for (index, value) in key.constants {
            hash.piece(format!("{index} {value:?}").as_bytes());
        }
        self.folder.join(format!("{}.metalar", hash.hex()))
    }

    /// Puts a file in place: `save` writes it under another name first, so that nobody ever sees half of it.
    ///
    /// # Errors
    /// In words; nothing is left behind.
    pub fn store(&self, path: &Path, save: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
        let text = |e: std::io::Error| e.to_string();
        fs::create_dir_all(&self.folder).map_err(text)?;
        let unique = TEMPORARY.fetch_add(1, Relaxed);
        let temporary = path.with_extension(format!("{}-{unique}.tmp", std::process::id()));
        let result = save(&temporary).and_then(|()| fs::rename(&temporary, path).map_err(text));
        if result.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    /// Takes away an archive that cannot be read.
    pub fn discard(&self, path: &Path) {
        if let Err(e) = fs::remove_file(path) {
            tracing::debug!(path = %path.display(), error = %e, "metal: a broken archive stays");
        }
    }
}

/// FNV-1a of 128 bits: the same on every machine and in every version, which the standard library's hash does not promise.
pub(super) struct Hash(u128);

impl Default for Hash {
    fn default() -> Self {
        Hash(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Hash {
    /// Adds a piece with its length, so that pieces do not run into each other.
    pub fn piece(&mut self, bytes: &[u8]) {
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    pub fn value(&self) -> u128 {
        self.0
    }

    fn hex(&self) -> String {
        format!("{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_part_of_the_key_counts() {
        let base = || ArchiveKey {
            text: "kernel",
            name: "f",
            constants: &[],
            fast_math: false,
        };
        let one = [(1, ConstantValue::U32(1))];
        let bool_one = [(1, ConstantValue::Bool(true))];
        let two = [(1, ConstantValue::U32(1)), (2, ConstantValue::U32(1))];
        let keys = [
            base(),
            ArchiveKey { text: "kernel ", ..base() },
            ArchiveKey { text: "kerne", name: "lf", ..base() },
            ArchiveKey { name: "g", ..base() },
            ArchiveKey { fast_math: true, ..base() },
            ArchiveKey { constants: &one, ..base() },
            ArchiveKey { constants: &bool_one, ..base() },
            ArchiveKey { constants: &two, ..base() },
        ];
        let mut seen = HashSet::new();
        for (gpu, os) in [("M1", "23F79"), ("M2", "23F79"), ("M1", "24A1"), ("M12", "3F79")] {
            let archives = Archives::new(Path::new("/c"), gpu, os);
            for key in &keys {
                let path = archives.path(key);
                assert_eq!(path, archives.path(key));
                assert!(path.starts_with("/c/metal"));
                assert!(seen.insert(path), "two keys share a file");
            }
        }
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Of a piece: its length and then its bytes. The value is that of the published parameters, worked out by hand
        // for no bytes at all: eight steps over zeros.
        let mut hash = Hash::default();
        hash.piece(&[]);
        let prime = 0x0000_0000_0100_0000_0000_0000_0000_013b_u128;
        let expected = (0..8).fold(Hash::default().0, |h, _| h.wrapping_mul(prime));
        assert_eq!(hash.value(), expected);
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let cache = std::env::temp_dir().join(format!("mlx-native-archive-{}", std::process::id()));
        let archives = Archives::new(&cache, "M1", "os");
        let path = archives.path(&ArchiveKey {
            text: "",
            name: "f",
            constants: &[],
            fast_math: false,
        });
        let failed = archives.store(&path, |temporary| {
            fs::write(temporary, "half").unwrap();
            Err("no room".to_owned())
        });
        assert_eq!(failed, Err("no room".to_owned()));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        for contents in ["one", "two"] {
            archives
                .store(&path, |temporary| {
                    assert_ne!(temporary, path);
                    fs::write(temporary, contents).map_err(|e| e.to_string())
                })
                .unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
        }
        archives.discard(&path);
        archives.discard(&path);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        fs::remove_dir_all(cache).unwrap();
    }
}
