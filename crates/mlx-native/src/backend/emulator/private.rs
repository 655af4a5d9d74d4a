//! A folder that nobody else can write: what lies in the cache is loaded and run.

use std::fs::{self, DirBuilder, Metadata};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

const WRITABLE_BY_GROUP_OR_OTHERS: u32 = 0o022;
const WRITABLE_BY_OTHERS: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Makes `path` a folder that only this user can write, with what leads to it.
///
/// # Errors
/// When it cannot be made; when it is a link, or another user's; when others can put another folder in its place.
pub(super) fn folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let metadata = fs::symlink_metadata(path)?;
    let refuse = |why: &str| {
        let message = format!("{why}: compiled kernels are run, so nobody else may write their folder");
        Err(Error::new(ErrorKind::PermissionDenied, message))
    };
    if !metadata.is_dir() {
        return refuse("it is a link, or no folder");
    }
    // SAFETY: geteuid has no preconditions.
    let user = unsafe { libc::geteuid() };
    if metadata.uid() != user {
        return refuse("it belongs to another user");
    }
    if metadata.mode() & WRITABLE_BY_GROUP_OR_OTHERS != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    for parent in path.canonicalize()?.ancestors().skip(1) {
        if can_be_replaced(&fs::metadata(parent)?, user) {
            return refuse(&format!("others can replace what lies in {}", parent.display()));
        }
    }
    Ok(())
}

/// Whether others can rename what lies in a folder.
fn can_be_replaced(folder: &Metadata, user: u32) -> bool {
    let foreign = folder.uid() != user && folder.uid() != 0;
    foreign || (folder.mode() & WRITABLE_BY_OTHERS != 0 && folder.mode() & STICKY == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_can_neither_write_the_folder_nor_replace_it() {
        let root = tempfile::tempdir().unwrap();
        let mode = |p: &Path, mode| fs::set_permissions(p, fs::Permissions::from_mode(mode)).unwrap();
        let cache = root.path().join("a/b");
        folder(&cache).unwrap();
        assert_eq!(fs::metadata(&cache).unwrap().mode() & 0o777, 0o700);
        // One that was left open is closed.
        mode(&cache, 0o777);
        folder(&cache).unwrap();
        assert_eq!(fs::metadata(&cache).unwrap().mode() & 0o022, 0);
        // A parent that everybody can write, as the temporary folder is, is fine with the sticky bit only.
        let parent = root.path().join("a");
        mode(&parent, 0o1777);
        folder(&cache).unwrap();
        mode(&parent, 0o777);
        assert_eq!(folder(&cache).unwrap_err().kind(), ErrorKind::PermissionDenied);
        mode(&parent, 0o755);
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&cache, &link).unwrap();
        assert!(folder(&link).unwrap_err().to_string().contains("link"));
    }
}
