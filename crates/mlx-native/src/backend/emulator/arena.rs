//! Threadgroup memory: what is known of the piece of the region that variables are cut from.

use super::abi::MAX_ARGUMENTS;
use super::region::ARENA_BYTES;
use std::ffi::c_void;

/// Bytes between two threadgroup variables, at least: an overrun shows.
pub(super) const GAP: usize = 64;

/// The threadgroup memory of the group that runs.
pub(super) struct Arena {
    /// Bytes handed out, gaps included.
    pub used: usize,
    /// Bytes that an earlier dispatch may have written.
    pub dirty: usize,
    pub variables: Vec<Variable>,
    /// The memory of each `[[threadgroup(n)]]` argument.
    pub pointers: [*mut c_void; MAX_ARGUMENTS],
}

/// One variable.
pub(super) struct Variable {
    pub id: u32,
    pub address: *mut u8,
    pub len: usize,
}

impl Arena {
    /// Nothing handed out, contents unknown.
    pub fn new() -> Self {
        Self {
            used: 0,
            dirty: ARENA_BYTES,
            variables: Vec::new(),
            pointers: [std::ptr::null_mut(); MAX_ARGUMENTS],
        }
    }
}
