//! What compiled kernels call: the table of functions of [`super::abi::Runtime`].
//!
//! All of it runs on fibers; see `engine.rs` for what that asks of the code.

use super::abi::{Runtime, SIMD_WIDTH, SLOT_BYTES, SimdFunction};
use super::checker::{Class, Conflict, Moment};
use super::engine::{self, Engine, State};
use super::findings::{FindingKind, Place};
use super::region::ARENA_BYTES;
use std::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};

/// The table.
pub(super) static RUNTIME: Runtime = Runtime {
    simd,
    barrier,
    simdgroup_barrier,
    threadgroup_variable,
    atomic,
    access,
    trap,
};

/// # Safety
/// Called by the prelude, on a fiber of `engine`; `input` has `size` bytes, at most [`SLOT_BYTES`].
unsafe extern "C" fn simd(
    engine: *mut c_void,
    function: SimdFunction,
    input: *const c_void,
    size: c_uint,
    whole: bool,
    line: c_int,
    file: *const c_char,
    site: *const c_void,
) -> *const c_void {
    let engine: *mut Engine = engine.cast();
    // SAFETY: the slot belongs to the current lane and has room for what the prelude's static_assert allows.
    unsafe {
        let current = (*engine).current.unwrap_or(0);
        let (s, l) = (current / SIMD_WIDTH, current % SIMD_WIDTH);
        let slot = (*engine).region.inputs(s).add(l * SLOT_BYTES);
        std::ptr::copy_nonoverlapping(input.cast::<u8>(), slot, (size as usize).min(SLOT_BYTES));
        engine::wait(engine, State::AtSimd, |lane| {
            lane.function = Some(function);
            lane.whole = whole;
            lane.site = site as usize;
            lane.line = line as u32;
            lane.place = Place::Line(file, line as u32);
        });
        (*engine).region.results(s).add(l * SLOT_BYTES).cast()
    }
}

/// # Safety
/// Called by the prelude, on a fiber of `engine`.
unsafe extern "C" fn barrier(
    engine: *mut c_void,
    flags: c_int,
    line: c_int,
    file: *const c_char,
    site: *const c_void,
) {
    // SAFETY: as the caller says.
    unsafe { wait_at(engine, State::AtBarrier, flags, line, file, site) }
}

/// # Safety
/// Called by the prelude, on a fiber of `engine`.
unsafe extern "C" fn simdgroup_barrier(
    engine: *mut c_void,
    flags: c_int,
    line: c_int,
    file: *const c_char,
    site: *const c_void,
) {
    // SAFETY: as the caller says.
    unsafe { wait_at(engine, State::AtSimdBarrier, flags, line, file, site) }
}

unsafe fn wait_at(
    engine: *mut c_void,
    state: State,
    flags: c_int,
    line: c_int,
    file: *const c_char,
    site: *const c_void,
) {
    // SAFETY: the callers run on a fiber of the engine.
    unsafe {
        engine::wait(engine.cast(), state, |lane| {
            lane.flags = flags;
            lane.site = site as usize;
            lane.line = line as u32;
            lane.place = Place::Line(file, line as u32);
        });
    }
}

/// # Safety
/// Called by the prelude, on a fiber of `engine`.
unsafe extern "C" fn threadgroup_variable(
    engine: *mut c_void,
    id: c_uint,
    size: c_ulong,
    zeroed: bool,
) -> *mut c_void {
    let engine: *mut Engine = engine.cast();
    // SAFETY: one reference at a time, none across a switch.
    unsafe {
        match (*engine).variable(id, size as usize, zeroed) {
            Some(address) => address.cast(),
            None => {
                let lane = (*engine).current.unwrap_or(0);
                (*engine).observe(FindingKind::ThreadgroupMemory, lane, Place::Unknown, None, || {
                    format!("a threadgroup variable of {size} bytes does not fit: a threadgroup has 32768 bytes in all")
                });
                engine::abandon(engine)
            }
        }
    }
}

/// # Safety
/// Called by instrumented code, on a fiber of `engine`.
unsafe extern "C" fn access(
    engine: *mut c_void,
    p: *const c_void,
    size: c_ulong,
    writes: bool,
    pc: *const c_void,
) {
    // SAFETY: as the caller says.
    unsafe {
        check(
            engine.cast(),
            p as usize,
            size as usize,
            writes,
            false,
            Place::Code(pc as usize),
        )
    }
}

/// # Safety
/// Called by the prelude, on a fiber of `engine`.
unsafe extern "C" fn atomic(
    engine: *mut c_void,
    p: *const c_void,
    size: c_ulong,
    writes: bool,
    line: c_int,
    file: *const c_char,
) {
    // SAFETY: as the caller says.
    unsafe {
        check(
            engine.cast(),
            p as usize,
            size as usize,
            writes,
            true,
            Place::Line(file, line as u32),
        )
    }
}

/// # Safety
/// Called by instrumented code, on a fiber of `engine`.
unsafe extern "C" fn trap(
    engine: *mut c_void,
    kind: c_int,
    value: c_long,
    file: *const c_char,
    line: c_uint,
) {
    let engine: *mut Engine = engine.cast();
    // SAFETY: as the caller says.
    unsafe {
        let lane = (*engine).current.unwrap_or(0);
        let place = Place::Line(file, line);
        if kind == 0 {
            let message = || format!("index {value} is outside its array");
            (*engine).observe(FindingKind::OutOfBounds, lane, place, None, message);
        } else {
            let message = || "an integer division by zero".to_owned();
            (*engine).observe(FindingKind::DivisionByZero, lane, place, None, message);
        }
        engine::abandon(engine)
    }
}

/// Judges one access of the current lane. An access that must not happen ends the group before it does.
///
/// # Safety
/// Must run on a fiber of the engine.
unsafe fn check(engine: *mut Engine, address: usize, len: usize, writes: bool, atomic: bool, place: Place) {
    // SAFETY: the reference ends before `abandon`.
    let allowed = unsafe {
        let e = &mut *engine;
        match e.current {
            Some(lane) if len > 0 => e.judge(lane, address, len, writes, atomic, place),
            _ => true,
        }
    };
    if !allowed {
        // SAFETY: as the caller says.
        unsafe { engine::abandon(engine) }
    }
}

impl Engine {
    /// Whether the access may happen.
    fn judge(
        &mut self,
        lane: usize,
        address: usize,
        len: usize,
        writes: bool,
        atomic: bool,
        place: Place,
    ) -> bool {
        let arena = self.region.arena() as usize;
        if self.region.contains(address) {
            // Stacks are private to their thread; the header is ours.
            return address.wrapping_sub(arena) >= ARENA_BYTES
                || self.judge_threadgroup(lane, address, len, writes, atomic, place);
        }
        let now = self.moment(lane, Class::Device, atomic, place);
        let image = self.image;
        let Some(checker) = &mut self.checker else {
            return true;
        };
        let verb = if writes { "write" } else { "read" };
        match checker.buffer(address, len) {
            Some(buffer) if writes && !buffer.writable => {
                let message = format!("a write to `{}`, which is bound for reading", buffer.name);
                self.observe(FindingKind::ReadOnlyWrite, lane, place, None, || message);
                false
            }
            Some(buffer) => {
                let (name, offset) = (buffer.name.clone(), address - buffer.start);
                if let Some(conflict) = checker.device_access(address, len, writes, now) {
                    self.report_race(
                        lane,
                        place,
                        writes,
                        now,
                        &conflict,
                        &format!("`{name}`+{}", offset + conflict.byte),
                    );
                }
                true
            }
            None if in_image(image, address) => true,
            None => {
                let nearest = checker.nearest(address);
                self.observe(FindingKind::OutOfBounds, lane, place, None, || {
                    format!("a {verb} of {len} bytes out of bounds; {nearest}")
                });
                false
            }
        }
    }

    fn judge_threadgroup(
        &mut self,
        lane: usize,
        address: usize,
        len: usize,
        writes: bool,
        atomic: bool,
        place: Place,
    ) -> bool {
        let Some(offset) = self.variable_at(address, len) else {
            let nearest = self.nearest_variable(address);
            let verb = if writes { "write" } else { "read" };
            self.observe(FindingKind::OutOfBounds, lane, place, None, || {
                format!("a {verb} of {len} bytes out of bounds; {nearest}")
            });
            return false;
        };
        let now = self.moment(lane, Class::Threadgroup, atomic, place);
        let serial = self.serial;
        let Some(checker) = &mut self.checker else {
            return true;
        };
        let conflict = checker
            .arena
            .access(address, len, writes, now, Class::Threadgroup);
        if !checker.initialised(address, len, writes, serial) {
            self.observe(FindingKind::UninitialisedThreadgroup, lane, place, None, || {
                format!(
                    "a read of threadgroup memory that nobody has written, at offset {offset} of its variable"
                )
            });
        }
        if let Some(conflict) = conflict {
            let what = format!(
                "threadgroup memory, offset {} of its variable",
                offset + conflict.byte
            );
            self.report_race(lane, place, writes, now, &conflict, &what);
        }
        true
    }

    fn moment(&self, lane: usize, class: Class, atomic: bool, place: Place) -> Moment {
        let class = usize::from(class == Class::Threadgroup);
        let code = match place {
            Place::Code(pc) => u32::try_from(pc.wrapping_sub(self.image)).unwrap_or(0),
            _ => 0,
        };
        Moment {
            group: self.serial,
            epoch: self.epochs[class],
            simdgroup_epoch: self.simdgroups[lane / SIMD_WIDTH].epochs[class],
            barriers: self.barriers,
            lane: lane as u32,
            atomic,
            code,
        }
    }

    fn report_race(
        &mut self,
        lane: usize,
        place: Place,
        writes: bool,
        now: Moment,
        conflict: &Conflict,
        what: &str,
    ) {
        let earlier = conflict.earlier;
        let other = if earlier.code == 0 {
            Place::Unknown
        } else {
            Place::Code(self.image + earlier.code as usize)
        };
        let fenced = earlier.group == now.group && earlier.barriers != now.barriers;
        let kind = if fenced {
            FindingKind::WrongMemFlags
        } else {
            FindingKind::Race
        };
        let verbs = match (conflict.earlier_was_write, writes) {
            (true, true) => "written by two threads",
            (true, false) => "read by one thread after a write by another",
            _ => "written by one thread after a read by another",
        };
        let scope = if earlier.group == now.group {
            "of one group"
        } else {
            "of different groups"
        };
        let why = if fenced {
            "the barrier between does not cover this memory"
        } else {
            "nothing orders them"
        };
        self.observe(kind, lane, place, Some(other), || {
            format!(
                "{what} is {verbs} (threads {} and {lane} {scope}): {why}",
                earlier.lane
            )
        });
    }
}

/// Constant tables and literals of the kernel.
fn in_image(image: usize, address: usize) -> bool {
    // SAFETY: dladdr reads the loader's tables and writes the structure only.
    unsafe {
        let mut info = std::mem::zeroed::<libc::Dl_info>();
        libc::dladdr(address as *const c_void, &mut info) != 0 && info.dli_fbase as usize == image
    }
}
