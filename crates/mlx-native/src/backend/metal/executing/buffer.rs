//! Buffers of the stand-in, and the graveyard of released ones.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::collections::{HashSet, VecDeque};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What Metal gives at least.
const ALIGN: usize = 256;
/// Bytes of released memory that are kept.
const GRAVEYARD: usize = 32 << 20;
/// Fills released memory: NaN in every floating-point format.
const POISON: u8 = 0xFF;

/// A buffer, as the host code holds it: command buffers hold it weakly.
pub(in super::super) struct Buffer(pub(super) Arc<BufferInner>);

/// What a buffer is.
pub(super) struct BufferInner {
    pub number: u64,
    pub ptr: NonNull<u8>,
    pub byte_len: usize,
    /// Whether the GPU may write: mapped files are mapped for reading.
    pub writable: bool,
    memory: Keeper,
    ledger: Arc<Ledger>,
}

enum Keeper {
    Heap(Layout),
    #[allow(dead_code)] // held for its Drop
    Owner(Arc<dyn Any + Send + Sync>),
}

// SAFETY: the memory is owned or kept by the owner, and plain.
unsafe impl Send for BufferInner {}
// SAFETY: as above.
unsafe impl Sync for BufferInner {}

impl BufferInner {
    /// Zeroed memory.
    pub fn allocate(number: u64, byte_len: usize, ledger: &Arc<Ledger>) -> Option<Self> {
        let layout = Layout::from_size_align(byte_len, ALIGN)
            .ok()
            .filter(|l| l.size() > 0)?;
        // SAFETY: the size is not zero.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(BufferInner {
            number,
            ptr,
            byte_len,
            writable: true,
            memory: Keeper::Heap(layout),
            ledger: ledger.clone(),
        })
    }

    /// Pages that `owner` keeps.
    pub fn wrap(
        number: u64,
        ptr: NonNull<u8>,
        byte_len: usize,
        owner: Arc<dyn Any + Send + Sync>,
        ledger: &Arc<Ledger>,
    ) -> Self {
        BufferInner {
            number,
            ptr,
            byte_len,
            writable: false,
            memory: Keeper::Owner(owner),
            ledger: ledger.clone(),
        }
    }
}

impl Drop for BufferInner {
    fn drop(&mut self) {
        self.ledger.released(self.number);
        if let Keeper::Heap(layout) = self.memory {
            // SAFETY: allocated with this layout, and nobody else owns it.
            unsafe { self.ptr.as_ptr().write_bytes(POISON, layout.size()) };
            let grave = Grave {
                number: self.number,
                ptr: self.ptr,
                layout,
            };
            self.ledger.bury(grave);
        }
    }
}

/// Released memory, full of poison.
struct Grave {
    number: u64,
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: memory that nobody else owns.
unsafe impl Send for Grave {}

impl Grave {
    fn is_intact(&self) -> bool {
        // SAFETY: the grave owns the memory, which was filled when it was made.
        let bytes = unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.layout.size()) };
        bytes.iter().all(|b| *b == POISON)
    }
}

impl Drop for Grave {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and this is the only owner.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) };
    }
}

/// What is known of all buffers of a device, and what the host code did wrong outside of command buffers.
#[derive(Default)]
pub(super) struct Ledger {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    resident: HashSet<u64>,
    graves: VecDeque<Grave>,
    buried: usize,
    findings: Vec<String>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the host code did wrong.
    pub fn find(&self, what: String) {
        self.lock().findings.push(what);
    }

    /// What was found since the last call.
    pub fn take_findings(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().findings)
    }

    /// Looks at all released memory.
    pub fn inspect(&self) {
        let mut entries = self.lock();
        let all: Vec<u64> = entries
            .graves
            .iter()
            .filter(|g| !g.is_intact())
            .map(|g| g.number)
            .collect();
        for number in all {
            entries.findings.push(written(number));
        }
    }

    pub fn add_resident(&self, number: u64) {
        let mut entries = self.lock();
        if !entries.resident.insert(number) {
            entries
                .findings
                .push(format!("buffer {number} was put into the residency set twice"));
        }
    }

    pub fn remove_resident(&self, number: u64) {
        let mut entries = self.lock();
        if !entries.resident.remove(&number) {
            entries.findings.push(format!(
                "buffer {number} was taken out of the residency set and is not in it"
            ));
        }
    }

    fn released(&self, number: u64) {
        let mut entries = self.lock();
        if entries.resident.remove(&number) {
            entries
                .findings
                .push(format!("buffer {number} was released in the residency set"));
        }
    }

    fn bury(&self, grave: Grave) {
        let mut entries = self.lock();
        entries.buried += grave.layout.size();
        entries.graves.push_back(grave);
        while entries.buried > GRAVEYARD {
            let Some(oldest) = entries.graves.pop_front() else {
                break;
            };
            entries.buried -= oldest.layout.size();
            if !oldest.is_intact() {
                entries.findings.push(written(oldest.number));
            }
        }
    }
}

fn written(number: u64) -> String {
    format!("buffer {number} was written after its release")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_memory_is_poisoned_and_watched() {
        let ledger = Arc::new(Ledger::default());
        let buffer = BufferInner::allocate(7, 100, &ledger).unwrap();
        let ptr = buffer.ptr.as_ptr();
        // SAFETY: inside the buffer.
        assert_eq!(unsafe { ptr.read() }, 0);
        drop(buffer);
        // SAFETY: the graveyard keeps the memory.
        assert_eq!(unsafe { ptr.add(99).read() }, POISON);
        ledger.inspect();
        assert!(ledger.take_findings().is_empty());
        // SAFETY: as above; nobody else is at it.
        unsafe { ptr.add(50).write(1) };
        ledger.inspect();
        assert_eq!(ledger.take_findings(), ["buffer 7 was written after its release"]);
        // It is found too when the graveyard is full.
        drop(BufferInner::allocate(8, GRAVEYARD, &ledger).unwrap());
        assert_eq!(ledger.take_findings(), ["buffer 7 was written after its release"]);
    }

    #[test]
    fn the_residency_set_is_a_set() {
        let ledger = Arc::new(Ledger::default());
        let owner: Arc<dyn Any + Send + Sync> = Arc::new(());
        let mut byte = 0u8;
        let buffer = BufferInner::wrap(3, NonNull::from(&mut byte), 1, owner, &ledger);
        ledger.add_resident(3);
        ledger.add_resident(3);
        ledger.remove_resident(4);
        drop(buffer);
        let found = ledger.take_findings();
        let words = [
            "put into the residency set twice",
            "buffer 4 was taken out",
            "buffer 3 was released in",
        ];
        assert!(
            found.len() == 3 && found.iter().zip(words).all(|(f, w)| f.contains(w)),
            "{found:?}"
        );
    }
}
