//! Threadgroup memory as an engine hands it out: variables are cut from its arena as the kernel asks for them.

use super::abi::{MAX_ARGUMENTS, MAX_THREADGROUP_MEMORY};
use super::arena::{GAP, Variable};
use super::engine::{Engine, GroupLaunch};
use super::region::ARENA_BYTES;

impl Engine {
    /// Fresh threadgroup memory, filled with the poison byte.
    pub fn reset_arena(&mut self, launch: &GroupLaunch<'_>) {
        let dirty = self.arena.used.max(self.arena.dirty).min(ARENA_BYTES);
        // SAFETY: the arena has ARENA_BYTES bytes and no fiber is alive.
        unsafe { self.region.arena().write_bytes(launch.poison, dirty) };
        (self.arena.used, self.arena.dirty) = (0, 0);
        self.arena.variables.clear();
        self.arena.pointers = [std::ptr::null_mut(); MAX_ARGUMENTS];
        for &(index, len) in launch.threadgroup_memory {
            let address = self.variable(u32::MAX - index, len as usize, false);
            if let (Some(slot), Some(address)) = (self.arena.pointers.get_mut(index as usize), address) {
                *slot = address.cast();
            }
        }
    }

    /// The memory of threadgroup variable `id`; made when first asked for. `None` when there is no room.
    pub fn variable(&mut self, id: u32, len: usize, zeroed: bool) -> Option<*mut u8> {
        if let Some(known) = self.arena.variables.iter().find(|v| v.id == id) {
            return Some(known.address);
        }
        let total: usize = self.arena.variables.iter().map(|v| v.len).sum();
        let start = self.arena.used.next_multiple_of(GAP);
        if len > MAX_THREADGROUP_MEMORY
            || total + len > MAX_THREADGROUP_MEMORY
            || start + len + GAP > ARENA_BYTES
        {
            return None;
        }
        // SAFETY: start + len is inside the arena.
        let address = unsafe { self.region.arena().add(start) };
        if zeroed {
            // SAFETY: as above; nobody has been given this piece yet.
            unsafe { address.write_bytes(0, len) };
            let serial = self.serial;
            if let Some(checker) = &mut self.checker {
                checker.initialised(address as usize, len, true, serial);
            }
        }
        self.arena.used = start + len + GAP;
        self.arena.variables.push(Variable { id, address, len });
        Some(address)
    }

    /// The threadgroup variable that contains the bytes, as offset and length.
    pub fn variable_at(&self, address: usize, len: usize) -> Option<usize> {
        let inside =
            |v: &&Variable| address >= v.address as usize && address + len <= v.address as usize + v.len;
        self.arena
            .variables
            .iter()
            .find(inside)
            .map(|v| address - v.address as usize)
    }

    /// Words for the threadgroup variable next to a stray address.
    pub fn nearest_variable(&self, address: usize) -> String {
        let distance = |v: &&Variable| {
            let start = v.address as usize;
            if address < start {
                start - address
            } else {
                address.saturating_sub(start + v.len)
            }
        };
        match self.arena.variables.iter().min_by_key(distance) {
            None => "the kernel has no threadgroup memory".to_owned(),
            Some(v) => {
                let offset = address as i128 - v.address as i128;
                format!(
                    "nearest is threadgroup memory of {} bytes: offset {offset}",
                    v.len
                )
            }
        }
    }
}
