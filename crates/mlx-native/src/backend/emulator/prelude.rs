//! The C++ headers that a kernel is compiled behind, carried in the program and laid out in the cache folder.

use super::{EmulatorError, swizzle};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Name prefix of the folder: what lies in it is ours when a diagnostic names a line.
pub(super) const FOLDER_PREFIX: &str = "emu-prelude-";

const HEADERS: [(&str, &str); 12] = [
    ("base.hpp", include_str!("prelude/base.hpp")),
    ("traits.hpp", include_str!("prelude/traits.hpp")),
    ("bfloat.hpp", include_str!("prelude/bfloat.hpp")),
    ("vector.hpp", include_str!("prelude/vector.hpp")),
    ("math.hpp", include_str!("prelude/math.hpp")),
    ("integer.hpp", include_str!("prelude/integer.hpp")),
    ("simdgroup.hpp", include_str!("prelude/simdgroup.hpp")),
    ("matrix.hpp", include_str!("prelude/matrix.hpp")),
    ("atomic.hpp", include_str!("prelude/atomic.hpp")),
    ("intrinsics.hpp", include_str!("prelude/intrinsics.hpp")),
    ("checker.hpp", include_str!("prelude/checker.hpp")),
    ("entry.hpp", include_str!("prelude/entry.hpp")),
];

/// All files of the prelude: `(name, text)`. `prelude.hpp` includes the rest.
pub(super) fn files() -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = HEADERS
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    for n in 2..=4 {
        files.push((format!("swizzle{n}.inc"), swizzle::members(n)));
    }
    let all: String = HEADERS
        .iter()
        .map(|(name, _)| format!("#include \"{name}\"\n"))
        .collect();
    files.push(("prelude.hpp".to_owned(), all));
    files
}

/// Writes the prelude below `cache` unless it is there; returns its folder. Safe against other processes doing the same.
pub(super) fn install(cache: &Path, key: &str) -> Result<PathBuf, EmulatorError> {
    let folder = cache.join(format!("{FOLDER_PREFIX}{key}"));
    if folder.is_dir() {
        return Ok(folder);
    }
    let io = |path: &Path, source| EmulatorError::Io {
        path: path.to_owned(),
        source,
    };
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let unique = COUNT.fetch_add(1, Ordering::Relaxed);
    let fresh = cache.join(format!("{FOLDER_PREFIX}{key}.{}.{unique}", std::process::id()));
    std::fs::create_dir_all(&fresh).map_err(|e| io(&fresh, e))?;
    for (name, text) in files() {
        let path = fresh.join(name);
        std::fs::write(&path, text).map_err(|e| io(&path, e))?;
    }
    match std::fs::rename(&fresh, &folder) {
        Ok(()) => Ok(folder),
        Err(e) => {
            // Somebody else was faster, or the file system is to blame.
            let _ = std::fs::remove_dir_all(&fresh);
            if folder.is_dir() {
                Ok(folder)
            } else {
                Err(io(&folder, e))
            }
        }
    }
}
