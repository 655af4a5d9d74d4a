//! One worker's memory: everything its fibers stand on, in one aligned piece of address space.
//!
//! ```text
//! base            World                 what the prelude finds by masking its stack pointer
//! + GROUP_AT      GroupArguments
//! + LANES_AT      LaneArguments x 1024
//! + SLOTS_AT      32 simdgroups x (inputs, results) x 32 lanes x 64 bytes
//! + ARENA_AT      threadgroup memory
//! + HEADER_BYTES  1024 stacks, each with an inaccessible page below it
//! ```
//! Being aligned to its size is the point: compiled kernels reach the world without thread-local storage, on any worker.

use super::EmulatorError;
use super::abi::{GroupArguments, LaneArguments, MAX_THREADS, REGION_BYTES, SIMD_WIDTH, SLOT_BYTES, World};
use super::fault;
use std::ptr::NonNull;

const GROUP_AT: usize = 4 << 10;
const LANES_AT: usize = 8 << 10;
const SLOTS_AT: usize = 64 << 10;
const ARENA_AT: usize = 512 << 10;
/// Room for threadgroup memory with gaps between variables.
pub(super) const ARENA_BYTES: usize = 256 << 10;
const HEADER_BYTES: usize = 1 << 20;
const STACK_BYTES: usize = 128 << 10;
const GUARD_BYTES: usize = 16 << 10;
/// Bytes of the slots of one simdgroup, one way.
pub(super) const SLOTS_BYTES: usize = SIMD_WIDTH * SLOT_BYTES;

const _: () = {
    assert!(HEADER_BYTES + MAX_THREADS * STACK_BYTES <= REGION_BYTES);
    assert!(LANES_AT + MAX_THREADS * size_of::<LaneArguments>() <= SLOTS_AT);
    assert!(SLOTS_AT + 2 * MAX_THREADS * SLOT_BYTES <= ARENA_AT);
    assert!(ARENA_AT + ARENA_BYTES <= HEADER_BYTES);
};

/// The mapping. Not shared: one worker at a time.
pub(super) struct Region {
    base: NonNull<u8>,
    guarded: usize,
}

// SAFETY: the region is plain memory owned by this value; whoever owns the value is the only one to touch it.
unsafe impl Send for Region {}

impl Region {
    /// Reserves the address space; pages come into being when touched.
    pub fn new() -> Result<Self, EmulatorError> {
        let fail = || EmulatorError::Launch("no address space for the stacks of a threadgroup".to_owned());
        let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nobody's memory.
        let raw = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                2 * REGION_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return Err(fail());
        }
        let start = raw as usize;
        let base = start.next_multiple_of(REGION_BYTES);
        let (before, after) = (base - start, start + REGION_BYTES - base);
        // SAFETY: both pieces lie inside the mapping made above, outside the aligned part that is kept.
        unsafe {
            if before > 0 {
                libc::munmap(raw, before);
            }
            if after > 0 {
                libc::munmap((base + REGION_BYTES) as *mut libc::c_void, after);
            }
        }
        let base = NonNull::new(base as *mut u8).ok_or_else(fail)?;
        fault::register(base.as_ptr() as usize);
        Ok(Self { base, guarded: 0 })
    }

    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < REGION_BYTES);
        // SAFETY: every offset used is below REGION_BYTES, the length of the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// The addresses of the region.
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.base.as_ptr() as usize) < REGION_BYTES
    }

    /// What the prelude finds by masking.
    pub fn world(&self) -> *mut World {
        self.at(0).cast()
    }

    /// The arguments of the current group.
    pub fn group(&self) -> *mut GroupArguments {
        self.at(GROUP_AT).cast()
    }

    /// The arguments of lane `i`.
    pub fn lane(&self, i: usize) -> *mut LaneArguments {
        self.at(LANES_AT + i * size_of::<LaneArguments>()).cast()
    }

    /// Input slots of simdgroup `s`.
    pub fn inputs(&self, s: usize) -> *mut u8 {
        self.at(SLOTS_AT + 2 * s * SLOTS_BYTES)
    }

    /// Result slots of simdgroup `s`.
    pub fn results(&self, s: usize) -> *mut u8 {
        self.at(SLOTS_AT + (2 * s + 1) * SLOTS_BYTES)
    }

    /// Threadgroup memory.
    pub fn arena(&self) -> *mut u8 {
        self.at(ARENA_AT)
    }

    /// First address above the stack of lane `i`, staggered so that stacks do not compete for the same cache sets.
    pub fn stack_top(&self, i: usize) -> *mut u8 {
        self.at(HEADER_BYTES + (i + 1) * STACK_BYTES - (i % 16) * 256 - 64)
    }

    /// Makes a page below each of the first `n` stacks inaccessible.
    pub fn guard_stacks(&mut self, n: usize) {
        while self.guarded < n {
            let low = self.at(HEADER_BYTES + self.guarded * STACK_BYTES);
            // SAFETY: the page lies in this mapping, and no stack is that deep yet. A failure costs the guard only.
            unsafe { libc::mprotect(low.cast(), GUARD_BYTES, libc::PROT_NONE) };
            self.guarded += 1;
        }
    }

    /// The lane whose stack's guard contains `address`.
    pub fn overflowed(&self, address: usize) -> Option<usize> {
        let offset = address.wrapping_sub(self.base.as_ptr() as usize + HEADER_BYTES);
        let lane = offset / STACK_BYTES;
        (lane < self.guarded && offset % STACK_BYTES < GUARD_BYTES).then_some(lane)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        fault::unregister(self.base.as_ptr() as usize);
        // SAFETY: the mapping is exactly this long and nobody uses it any more: fibers never outlive a dispatch.
        unsafe { libc::munmap(self.base.as_ptr().cast(), REGION_BYTES) };
    }
}
