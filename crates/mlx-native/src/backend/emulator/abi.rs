//! The line between Rust and the compiled kernels: mirrors of the structures in `prelude/base.hpp`.

use std::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};

/// Version of this line; part of the cache key of every object.
pub(super) const ABI: u32 = 1;
/// Threads of a simdgroup.
pub(super) const SIMD_WIDTH: usize = 32;
/// Most threads of a threadgroup.
pub(super) const MAX_THREADS: usize = 1024;
/// Most bytes of threadgroup memory of a threadgroup, as on every Apple GPU.
pub(super) const MAX_THREADGROUP_MEMORY: usize = 32 << 10;
/// Argument indices end below this.
pub(super) const MAX_ARGUMENTS: usize = 31;
/// Bytes that a lane may deposit or receive in a simdgroup operation.
pub(super) const SLOT_BYTES: usize = 64;
/// Size and alignment of a worker's region (see `region.rs`).
pub(super) const REGION_BYTES: usize = 256 << 20;

/// `emu_group`
#[repr(C)]
pub(super) struct GroupArguments {
    pub position: [c_uint; 3],
    pub threads: [c_uint; 3],
    pub nominal_threads: [c_uint; 3],
    pub groups: [c_uint; 3],
    pub grid: [c_uint; 3],
    pub simdgroups: c_uint,
    pub buffers: *const *mut c_void,
    pub threadgroup: *const *mut c_void,
}

/// `emu_lane`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LaneArguments {
    pub position: [c_uint; 3],
    pub index: c_uint,
}

/// `emu_world`
#[repr(C)]
pub(super) struct World {
    pub lane: *const LaneArguments,
    pub group: *const GroupArguments,
    pub engine: *mut c_void,
    pub reduction_seed: c_ulong,
}

/// `emu_simd_function`
pub(super) type SimdFunction =
    unsafe extern "C" fn(input: *const u8, output: *mut u8, mask: c_uint, stride: c_uint, seed: c_ulong);

/// `emu_entry_function`
pub(super) type EntryFunction = unsafe extern "C" fn();

/// `emu_runtime`
#[repr(C)]
pub(super) struct Runtime {
    pub simd: unsafe extern "C" fn(
        engine: *mut c_void,
        function: SimdFunction,
        input: *const c_void,
        size: c_uint,
        whole: bool,
        line: c_int,
        file: *const c_char,
        site: *const c_void,
    ) -> *const c_void,
    pub barrier: unsafe extern "C" fn(
        engine: *mut c_void,
        flags: c_int,
        line: c_int,
        file: *const c_char,
        site: *const c_void,
    ),
    pub simdgroup_barrier: unsafe extern "C" fn(
        engine: *mut c_void,
        flags: c_int,
        line: c_int,
        file: *const c_char,
        site: *const c_void,
    ),
    pub threadgroup_variable:
        unsafe extern "C" fn(engine: *mut c_void, id: c_uint, size: c_ulong, zeroed: bool) -> *mut c_void,
    pub atomic: unsafe extern "C" fn(
        engine: *mut c_void,
        p: *const c_void,
        size: c_ulong,
        writes: bool,
        line: c_int,
        file: *const c_char,
    ),
    pub access: unsafe extern "C" fn(
        engine: *mut c_void,
        p: *const c_void,
        size: c_ulong,
        writes: bool,
        pc: *const c_void,
    ),
    pub trap: unsafe extern "C" fn(
        engine: *mut c_void,
        kind: c_int,
        value: c_long,
        file: *const c_char,
        line: c_uint,
    ),
}
