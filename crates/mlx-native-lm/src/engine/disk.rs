//! The prompt cache on disk: pages of 64 positions in files of their own, found again after a restart.
//!
//! The name of a page is a hash of all that it depends on: the model, its adapter, the type of its states, the salt of the request, and
//! every token up to its end, in a chain over the pages. A file is written under another name, synchronised and renamed, and carries a checksum:
//! what is half written, damaged or of another model is never taken, whenever the program was ended.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use crate::error::{LmError, Result};
use crate::model::PAGE;

/// First bytes of a file.
const MAGIC: &[u8; 8] = b"mlxnkv01";
const HEAD: usize = 8 + 32 + 8 + 32;
/// Pages that wait to be written at most; what comes then is not kept.
const WAITING: usize = 8;
const ENDING: &str = "page";

/// A page's name.
type Key = [u8; 32];

#[derive(Debug, Clone, Copy)]
struct Known {
    bytes: u64,
    used: u64,
}

/// What there is in the folder.
#[derive(Debug, Default)]
struct Index {
    pages: HashMap<Key, Known>,
    bytes: u64,
    clock: u64,
}

impl Index {
    fn scan(folder: &Path) -> std::io::Result<Self> {
        let mut found: Vec<(SystemTime, Key, u64)> = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            // Begun by a run that was ended; one that still runs in another process does without this page.
            if name.ends_with(".page-part") {
                let _ = fs::remove_file(entry.path());
                continue;
            }
            let Some(key) = name.strip_suffix(".page").and_then(key_of) else {
                continue;
            };
            if let Ok(about) = entry.metadata() {
                found.push((
                    about.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                    key,
                    about.len(),
                ));
            }
        }
        found.sort_unstable();
        let mut index = Index::default();
        found
            .into_iter()
            .for_each(|(_, key, bytes)| index.add(key, bytes));
        Ok(index)
    }

    fn add(&mut self, key: Key, bytes: u64) {
        self.clock += 1;
        let used = self.clock;
        if let Some(old) = self.pages.insert(key, Known { bytes, used }) {
            self.bytes -= old.bytes;
        }
        self.bytes += bytes;
    }

    fn forget(&mut self, key: &Key) {
        if let Some(old) = self.pages.remove(key) {
            self.bytes -= old.bytes;
        }
    }
}

/// The folders that are open in this process: engines that share a folder share what is known of it, and its limit.
static OPEN: Mutex<Vec<(PathBuf, Weak<Mutex<Index>>)>> = Mutex::new(Vec::new());

/// What there is in `folder`, which has to be there.
fn index_of(folder: &Path) -> std::io::Result<Arc<Mutex<Index>>> {
    let place = folder.canonicalize()?;
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|(_, index)| index.strong_count() > 0);
    if let Some(index) = open
        .iter()
        .find(|(p, _)| *p == place)
        .and_then(|(_, index)| index.upgrade())
    {
        return Ok(index);
    }
    let index = Arc::new(Mutex::new(Index::scan(&place)?));
    open.push((place, Arc::downgrade(&index)));
    Ok(index)
}

/// A folder of pages.
#[derive(Debug)]
pub(super) struct DiskCache {
    folder: PathBuf,
    root: [u8; 32],
    max_bytes: u64,
    index: Arc<Mutex<Index>>,
    writer: Option<SyncSender<(Key, Vec<u8>)>>,
    thread: Option<JoinHandle<()>>,
}

impl DiskCache {
    /// Opens `folder`, which is made where it is not there, for states that depend on `fingerprint`, with `max_bytes` in it at most.
    ///
    /// # Errors
    /// [`LmError::Folder`] when the folder cannot be made, read or written.
    pub fn open(folder: &Path, fingerprint: &[u8], max_bytes: u64) -> Result<Self> {
        let cannot = |e: std::io::Error| LmError::Folder(format!("prompt cache {}: {e}", folder.display()));
        fs::create_dir_all(folder).map_err(cannot)?;
        let index = index_of(folder).map_err(cannot)?;
        let (writer, pages) = sync_channel(WAITING);
        let thread = {
            let (folder, index) = (folder.to_owned(), index.clone());
            std::thread::Builder::new()
                .name("prompt cache".to_owned())
                .spawn(move || write_pages(&folder, &index, max_bytes, &pages))
                .map_err(cannot)?
        };
        // The folder must take files, or nothing is kept and nobody is told.
        let trial = folder.join(format!("{}.page-part", std::process::id()));
        File::create(&trial).map_err(cannot)?;
        let _ = fs::remove_file(&trial);
        Ok(DiskCache {
            folder: folder.to_owned(),
            root: Sha256::digest([&MAGIC[..], fingerprint].concat()).into(),
            max_bytes,
            index,
            writer: Some(writer),
            thread: Some(thread),
        })
    }

    /// The names of the pages that `tokens` fill.
    fn keys(&self, tokens: &[u32], salt: &str) -> impl Iterator<Item = Key> {
        let mut parent: Key = Sha256::digest([&self.root[..], salt.as_bytes()].concat()).into();
        tokens.chunks_exact(PAGE).map(move |page| {
            let mut hash = Sha256::new();
            hash.update(parent);
            page.iter().for_each(|id| hash.update(id.to_le_bytes()));
            parent = hash.finalize().into();
            parent
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Index> {
        // Every change of it is one step: whoever panicked left it whole.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many pages of `tokens` from the first on are there.
    pub fn known(&self, tokens: &[u32], salt: &str) -> usize {
        let index = self.lock();
        self.keys(tokens, salt)
            .take_while(|key| index.pages.contains_key(key))
            .count()
    }

    /// The pages of `tokens` from the first on, as many as there are and are whole.
    pub fn read(&self, tokens: &[u32], salt: &str) -> Vec<Vec<u8>> {
        let mut pages = Vec::new();
        let mut keys = Vec::new();
        for key in self.keys(tokens, salt) {
            if !self.lock().pages.contains_key(&key) {
                break;
            }
            match read_page(&self.folder, &key) {
                Some(page) => pages.push(page),
                None => {
                    self.lock().forget(&key);
                    let _ = fs::remove_file(path_of(&self.folder, &key));
                    break;
                }
            }
            keys.push(key);
        }
        // Those at the end go first when room is needed: without them the others are still of use.
        let mut index = self.lock();
        for key in keys.iter().rev() {
            index.clock += 1;
            let clock = index.clock;
            if let Some(known) = index.pages.get_mut(key) {
                known.used = clock;
            }
        }
        pages
    }

    /// Whether page `page` of `tokens` is there.
    pub fn has(&self, tokens: &[u32], salt: &str, page: usize) -> bool {
        let key = self.keys(tokens, salt).nth(page);
        key.is_some_and(|key| self.lock().pages.contains_key(&key))
    }

    /// Has page `page` of `tokens` written; `false` when the disk is behind, and it should be asked again.
    pub fn write(&self, tokens: &[u32], salt: &str, page: usize, bytes: Vec<u8>) -> bool {
        let Some((key, writer)) = self.keys(tokens, salt).nth(page).zip(self.writer.as_ref()) else {
            return true;
        };
        if bytes.len() as u64 + HEAD as u64 > self.max_bytes {
            return true;
        }
        !matches!(writer.try_send((key, bytes)), Err(TrySendError::Full(_)))
    }
}

impl Drop for DiskCache {
    /// What waits is written.
    fn drop(&mut self) {
        self.writer = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn key_of(hex: &str) -> Option<Key> {
    let bytes = hex.as_bytes();
    if bytes.len() != 64 || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(bytes.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

fn path_of(folder: &Path, key: &Key) -> PathBuf {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    folder.join(format!("{hex}.{ENDING}"))
}

/// The contents of a page; `None` where it is not there, damaged, or another.
fn read_page(folder: &Path, key: &Key) -> Option<Vec<u8>> {
    let mut file = File::open(path_of(folder, key)).ok()?;
    let size = file.metadata().ok()?.len();
    let mut head = [0; HEAD];
    file.read_exact(&mut head).ok()?;
    let (magic, rest) = head.split_at(8);
    let (of, rest) = rest.split_at(32);
    let (length, sum) = rest.split_at(8);
    let length = u64::from_le_bytes(length.try_into().ok()?);
    // The size on disk bounds what is allocated.
    if magic != MAGIC || of != key || length != size.checked_sub(HEAD as u64)? {
        return None;
    }
    let mut page = vec![0; usize::try_from(length).ok()?];
    file.read_exact(&mut page).ok()?;
    (Sha256::digest(&page)[..] == *sum).then_some(page)
}

fn write_pages(folder: &Path, index: &Mutex<Index>, max_bytes: u64, pages: &Receiver<(Key, Vec<u8>)>) {
    let lock = || index.lock().unwrap_or_else(PoisonError::into_inner);
    while let Ok((key, page)) = pages.recv() {
        let bytes = (page.len() + HEAD) as u64;
        // Room first, so that the folder never has more than it may.
        loop {
            let mut index = lock();
            if index.bytes + bytes <= max_bytes {
                break;
            }
            let Some(oldest) = index
                .pages
                .iter()
                .min_by_key(|(_, known)| known.used)
                .map(|(key, _)| *key)
            else {
                break;
            };
            index.forget(&oldest);
            drop(index);
            let _ = fs::remove_file(path_of(folder, &oldest));
        }
        match write_page(folder, &key, &page) {
            Ok(()) => lock().add(key, bytes),
            Err(error) => tracing::warn!("prompt cache {}: {error}", folder.display()),
        }
    }
}

fn write_page(folder: &Path, key: &Key, page: &[u8]) -> std::io::Result<()> {
    let place = path_of(folder, key);
    // Somebody else may write the same page: each has a name of its own until it is whole.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Relaxed);
    let part = place.with_extension(format!("{}-{count}.page-part", std::process::id()));
    let result = (|| {
        let mut file = File::create(&part)?;
        file.write_all(MAGIC)?;
        file.write_all(key)?;
        file.write_all(&(page.len() as u64).to_le_bytes())?;
        file.write_all(&Sha256::digest(page))?;
        file.write_all(page)?;
        file.sync_data()?;
        fs::rename(&part, &place)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&part);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(cache: &DiskCache, tokens: &[u32], salt: &str) -> Vec<usize> {
        cache.read(tokens, salt).iter().map(Vec::len).collect()
    }

    #[test]
    fn pages_come_back_and_what_is_damaged_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let tokens: Vec<u32> = (0..200).collect();
        let open = |print: &[u8], most: u64| DiskCache::open(folder.path(), print, most).unwrap();
        let cache = open(b"model", 1 << 20);
        for page in 0..3 {
            assert!(cache.write(&tokens, "", page, vec![page as u8; 100 + page]));
        }
        drop(cache);
        let part = folder.path().join("left.page-part");
        fs::write(&part, b"half").unwrap();
        let cache = open(b"model", 1 << 20);
        assert!(!part.exists(), "what was begun is cleared away");
        assert_eq!(pages(&cache, &tokens, ""), [100, 101, 102]);
        assert_eq!(cache.known(&tokens[..130], ""), 2);
        // Another text, salt or model.
        let mut other = tokens.clone();
        other[70] = 9;
        assert_eq!(cache.known(&other, ""), 1);
        assert_eq!(cache.known(&tokens, "salt"), 0);
        assert_eq!(open(b"another", 1 << 20).known(&tokens, ""), 0);
        // Every way a file may be damaged.
        let second = path_of(folder.path(), &cache.keys(&tokens, "").nth(1).unwrap());
        let whole = fs::read(&second).unwrap();
        // What is open in one process is known to all of it: the folder is looked at again once nobody has it open.
        drop(cache);
        for damage in [0, 9, 44, 50, HEAD, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[damage] ^= 1;
            for bytes in [bytes, whole[..damage].to_vec(), [&whole[..], b"x"].concat()] {
                fs::write(&second, &bytes).unwrap();
                assert_eq!(pages(&open(b"model", 1 << 20), &tokens, ""), [100], "{damage}");
                assert!(!second.exists());
            }
        }
        // A limit holds, and the oldest go.
        let small = open(b"model", 400);
        for page in 0..3 {
            while !small.write(&tokens, "x", page, vec![1; 50]) {}
        }
        drop(small);
        let left: u64 = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().len())
            .sum();
        assert!(left <= 400, "{left}");
        assert_eq!(open(b"model", 400).known(&tokens, "x"), 3);
    }
}
