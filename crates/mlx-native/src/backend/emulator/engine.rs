//! The scheduler: fibers for threads, a rendez-vous for simdgroup operations, barriers.
//!
//! A lane runs until it has to wait. When the last lane of a simdgroup arrives at the same operation it computes for
//! all and goes on without a switch. When no lane can run, simdgroup operations fire for the lanes that wait at the
//! lowest address (that is where divergent code reconverges), and when all that is left waits at threadgroup barriers,
//! those are compared and released.
//!
//! Functions here run on fibers' stacks and are re-entered from other fibers while they wait. They therefore work on a
//! raw pointer to the engine and never hold a reference across a switch; nothing in them may panic.

use super::EmulatorError;
use super::abi::{EntryFunction, GroupArguments, LaneArguments, MAX_ARGUMENTS, SIMD_WIDTH};
use super::abi::{SLOT_BYTES, SimdFunction};
use super::arena::Arena;
use super::checker::Checker;
use super::fault::{self, Fault};
use super::fiber;
use super::findings::{FindingKind, Observation, Observations, Place};
use super::region::Region;
use crate::config::Schedule;
use std::ffi::c_void;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Running,
    AtSimd,
    AtSimdBarrier,
    AtBarrier,
    Done,
}

/// What the scheduler knows of a thread.
#[derive(Clone, Copy)]
pub(super) struct Lane {
    pub stack: *mut u8,
    pub state: State,
    /// Where it waits: the call's address and line. The optimiser may merge two calls into one; their lines tell them
    /// apart.
    pub site: usize,
    pub line: u32,
    pub place: Place,
    pub flags: i32,
    pub function: Option<SimdFunction>,
    /// The operation needs every lane.
    pub whole: bool,
}

/// Bit masks over the lanes of a simdgroup.
#[derive(Clone, Copy, Default)]
pub(super) struct Simdgroup {
    pub all: u32,
    pub runnable: u32,
    pub waiting: u32,
    pub done: u32,
    /// Epochs of device and threadgroup memory.
    pub epochs: [u32; 2],
}

/// Bits of `mem_flags`.
const MEM_DEVICE: i32 = 1;
const MEM_THREADGROUP: i32 = 2;
/// What a group is run with.
pub(super) struct GroupLaunch<'l> {
    pub entry: EntryFunction,
    pub position: [u32; 3],
    /// Threads of this group: less than nominal at the edge of a grid counted in threads.
    pub threads: [u32; 3],
    pub nominal_threads: [u32; 3],
    pub groups: [u32; 3],
    pub grid: [u32; 3],
    pub buffers: &'l [*mut c_void; MAX_ARGUMENTS],
    /// Dynamic threadgroup memory: index and bytes.
    pub threadgroup_memory: &'l [(u32, u32)],
    pub schedule: Schedule,
    /// Distinguishes this group's random order from the others'.
    pub seed: u64,
    pub reduction_seed: u64,
    pub poison: u8,
}

/// [`Engine::fail`] as the signal handler calls it.
///
/// # Safety
/// `engine` must be an [`Engine`] whose fiber has just faulted.
unsafe fn on_fault(engine: *mut c_void, fault: Fault) -> *mut u8 {
    // SAFETY: by the caller's word.
    unsafe { Engine::fail(engine.cast(), fault) }
}

/// Everything one worker needs to run threadgroups, one after the other.
pub(super) struct Engine {
    pub region: Region,
    pub lanes: Vec<Lane>,
    pub simdgroups: Vec<Simdgroup>,
    /// The lane that runs; none while the scheduler's own stack does.
    pub current: Option<usize>,
    main_stack: *mut u8,
    schedule: Schedule,
    random: u64,
    entry: Option<EntryFunction>,
    pub arena: Arena,
    /// Set by an error after which the group cannot go on.
    pub stopped: bool,
    pub observations: Observations,
    pub checker: Option<Checker>,
    /// Epochs of device and threadgroup memory, barriers, group: time as the checker counts it.
    pub epochs: [u32; 2],
    pub barriers: u32,
    pub serial: u32,
    /// Where the kernel's object is loaded.
    pub image: usize,
    /// Set by the signal handler.
    fault: Option<Fault>,
}

// SAFETY: the raw pointers lead into the engine's own region or to memory that the dispatch keeps alive while it runs;
// an engine is used by one thread at a time.
unsafe impl Send for Engine {}

impl Engine {
    /// An engine without work.
    pub fn new() -> Result<Box<Self>, EmulatorError> {
        fault::call(on_fault);
        let mut engine = Box::new(Self {
            region: Region::new()?,
            lanes: Vec::new(),
            simdgroups: Vec::new(),
            current: None,
            main_stack: std::ptr::null_mut(),
            schedule: Schedule::Forward,
            random: 1,
            entry: None,
            arena: Arena::new(),
            stopped: false,
            observations: Observations::default(),
            checker: None,
            epochs: [1; 2],
            barriers: 0,
            serial: 0,
            image: 0,
            fault: None,
        });
        let raw: *mut Engine = &mut *engine;
        // SAFETY: the world lies at the start of the region, which is mapped and owned by this engine.
        unsafe {
            let world = engine.region.world();
            (*world).engine = raw.cast();
            (*world).group = engine.region.group();
        }
        Ok(engine)
    }

    /// Runs one threadgroup to its end, or until an error stops it.
    ///
    /// # Safety
    /// The entry must be that of a kernel compiled against this runtime and attached to it; the buffers must satisfy it.
    pub unsafe fn run_group(&mut self, launch: &GroupLaunch<'_>) {
        self.serial = self.serial.wrapping_add(1).max(1);
        self.schedule = launch.schedule;
        self.random = (launch.seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1;
        self.entry = Some(launch.entry);
        self.stopped = false;
        self.epochs = [self.epochs[0].wrapping_add(1), self.epochs[1].wrapping_add(1)];
        self.reset_arena(launch);
        self.write_arguments(launch);
        let n = launch.threads.iter().product::<u32>() as usize;
        self.place_lanes(n);
        let engine: *mut Engine = self;
        // SAFETY: the fibers were prepared just now; control comes back here when all are done or one stops the group.
        unsafe {
            if let Some(first) = next_lane(engine) {
                enter(engine, first);
                let to = (*(*engine).lanes.as_ptr().add(first)).stack;
                fiber::switch(&raw mut (*engine).main_stack, to);
            }
        }
        if let Some(fault) = self.fault.take() {
            self.report_fault(fault);
        }
        self.current = None;
    }

    /// Notes a fault of the current fiber, from the signal handler; returns the stack to go on with.
    ///
    /// # Safety
    /// `engine` must be one whose fiber has just faulted.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub unsafe fn fail(engine: *mut Engine, fault: Fault) -> *mut u8 {
        // SAFETY: plain stores; the fiber is not resumed, so nothing else runs on the engine.
        unsafe {
            (*engine).stopped = true;
            (*engine).fault = Some(fault);
            (*engine).main_stack
        }
    }

    fn report_fault(&mut self, fault: Fault) {
        let lane = self.current.unwrap_or(0);
        let place = Place::Code(fault.code + 1);
        let overflowed = self.region.overflowed(fault.address).is_some();
        let kind = if fault.signal == libc::SIGFPE {
            FindingKind::DivisionByZero
        } else {
            FindingKind::Fault
        };
        self.observe(kind, lane, place, None, || match kind {
            FindingKind::DivisionByZero => "an integer division by zero".to_owned(),
            _ if overflowed => {
                "the stack of a thread is full: too many or too large local variables".to_owned()
            }
            _ => format!("an access to unmapped memory at {:#x}", fault.address),
        });
    }

    fn write_arguments(&mut self, launch: &GroupLaunch<'_>) {
        let simdgroups = launch.threads.iter().product::<u32>().div_ceil(SIMD_WIDTH as u32);
        let arguments = GroupArguments {
            position: launch.position,
            threads: launch.threads,
            nominal_threads: launch.nominal_threads,
            groups: launch.groups,
            grid: launch.grid,
            simdgroups,
            buffers: launch.buffers.as_ptr(),
            threadgroup: self.arena.pointers.as_ptr(),
        };
        let [nx, ny, nz] = launch.threads;
        // SAFETY: the places lie in the region, are aligned, and no fiber reads them now.
        unsafe {
            self.region.group().write(arguments);
            (*self.region.world()).reduction_seed = launch.reduction_seed;
            let mut index = 0;
            for z in 0..nz {
                for y in 0..ny {
                    for x in 0..nx {
                        self.region.lane(index as usize).write(LaneArguments {
                            position: [x, y, z],
                            index,
                        });
                        index += 1;
                    }
                }
            }
        }
    }

    fn place_lanes(&mut self, n: usize) {
        self.region.guard_stacks(n);
        self.lanes.clear();
        for i in 0..n {
            // SAFETY: the stack of lane i is unused and far larger than the prepared frame.
            let stack = unsafe { fiber::prepare(self.region.stack_top(i), run_lane) };
            let state = State::Running;
            let place = Place::Unknown;
            self.lanes.push(Lane {
                stack,
                state,
                site: 0,
                line: 0,
                place,
                flags: 0,
                function: None,
                whole: false,
            });
        }
        self.simdgroups.clear();
        for s in 0..n.div_ceil(SIMD_WIDTH) {
            let lanes = (n - s * SIMD_WIDTH).min(SIMD_WIDTH);
            let all = if lanes == SIMD_WIDTH {
                u32::MAX
            } else {
                (1 << lanes) - 1
            };
            self.simdgroups.push(Simdgroup {
                all,
                runnable: all,
                epochs: [1; 2],
                ..Simdgroup::default()
            });
        }
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// One of the lanes in `mask` (not empty), as the schedule has it.
    fn pick(&mut self, mask: u32) -> usize {
        match self.schedule {
            Schedule::Reverse => 31 - mask.leading_zeros() as usize,
            Schedule::Random(_) => {
                let mut rest = mask;
                for _ in 0..self.next_random() % u64::from(mask.count_ones().max(1)) {
                    rest &= rest - 1;
                }
                rest.trailing_zeros() as usize
            }
            _ => mask.trailing_zeros() as usize,
        }
    }

    /// Reports something about lane `lane`.
    pub fn observe(
        &mut self,
        kind: FindingKind,
        lane: usize,
        place: Place,
        other: Option<Place>,
        message: impl FnOnce() -> String,
    ) {
        if !self.observations.is_new(kind, place) {
            return;
        }
        // SAFETY: lane and group arguments were written before the first fiber started.
        let (thread, group) = unsafe {
            (
                (*self.region.lane(lane)).position,
                (*self.region.group()).position,
            )
        };
        self.observations.push(Observation {
            kind,
            place,
            other,
            message: message(),
            thread,
            group,
        });
    }

    /// Lets the lanes of `mask` in simdgroup `s`, which all wait at one operation, have their results and go on.
    fn fire(&mut self, s: usize, mask: u32) {
        let base = s * SIMD_WIDTH;
        let leader = base + mask.trailing_zeros() as usize;
        let Lane {
            state,
            function,
            place,
            whole,
            flags,
            ..
        } = self.lanes[leader];
        if state == State::AtSimd {
            let lanes = (0..SIMD_WIDTH).filter(|l| mask >> l & 1 != 0).map(|l| base + l);
            let stranger = lanes
                .clone()
                .find(|l| self.lanes[*l].function.map(|f| f as usize) != function.map(|f| f as usize));
            if let Some(stranger) = stranger {
                let other = Some(self.lanes[stranger].place);
                self.observe(FindingKind::MismatchedSimd, leader, place, other, || {
                    format!(
                        "lanes {} and {} meet with different simdgroup operations",
                        leader - base,
                        stranger - base
                    )
                });
                self.stopped = true;
                return;
            }
            if whole && mask != u32::MAX {
                self.observe(FindingKind::MismatchedSimd, leader, place, None, || {
                    format!("a simdgroup matrix operation needs all 32 lanes, here are {mask:#010x}")
                });
                self.stopped = true;
                return;
            }
            if let Some(function) = function {
                // SAFETY: the function belongs to the operation whose inputs lie in these slots, 64 bytes a lane.
                unsafe {
                    let seed = (*self.region.world()).reduction_seed;
                    function(
                        self.region.inputs(s),
                        self.region.results(s),
                        mask,
                        SLOT_BYTES as u32,
                        seed,
                    );
                }
            }
        } else {
            self.advance_simdgroup(s, flags);
        }
        for l in 0..SIMD_WIDTH {
            if mask >> l & 1 != 0 {
                self.lanes[base + l].state = State::Running;
            }
        }
        let group = &mut self.simdgroups[s];
        group.runnable |= mask;
        group.waiting &= !mask;
    }

    fn advance_simdgroup(&mut self, s: usize, flags: i32) {
        let epochs = &mut self.simdgroups[s].epochs;
        epochs[0] = epochs[0].wrapping_add(u32::from(flags & MEM_DEVICE != 0));
        epochs[1] = epochs[1].wrapping_add(u32::from(flags & MEM_THREADGROUP != 0));
    }

    /// Lanes of a simdgroup that wait at its lowest simdgroup operation; none when all wait at threadgroup barriers.
    fn meeting(&self, s: usize) -> u32 {
        let waiting = self.simdgroups[s].waiting;
        let mut best: Option<(usize, u32)> = None;
        let mut mask = 0;
        for l in (0..SIMD_WIDTH).filter(|l| waiting >> l & 1 != 0) {
            let lane = &self.lanes[s * SIMD_WIDTH + l];
            if lane.state == State::AtBarrier {
                continue;
            }
            let key = (lane.site, lane.line);
            match best {
                Some(b) if b < key => {}
                Some(b) if b == key => mask |= 1 << l,
                _ => (best, mask) = (Some(key), 1 << l),
            }
        }
        mask
    }

    /// With no lane runnable: fires what can fire. False when nothing could.
    fn settle(&mut self) -> bool {
        let mut fired = false;
        for s in 0..self.simdgroups.len() {
            let mask = self.meeting(s);
            if mask == 0 {
                continue;
            }
            fired = true;
            let live = self.simdgroups[s].all & !self.simdgroups[s].done;
            if mask != live {
                let lane = s * SIMD_WIDTH + mask.trailing_zeros() as usize;
                let place = self.lanes[lane].place;
                self.observe(FindingKind::DivergentSimd, lane, place, None, || {
                    format!("a simdgroup operation in divergent flow: lanes {mask:#010x} of {live:#010x}")
                });
            }
            self.fire(s, mask);
        }
        fired
    }

    /// With every live lane at a threadgroup barrier: releases them, or says why not. False when the group is over.
    fn release_barrier(&mut self) -> bool {
        let mut first: Option<usize> = None;
        let mut done = 0;
        for i in 0..self.lanes.len() {
            if self.lanes[i].state == State::Done {
                done += 1;
                continue;
            }
            let Some(first) = first else {
                first = Some(i);
                continue;
            };
            if self.lanes[i].line != self.lanes[first].line || self.lanes[i].flags != self.lanes[first].flags
            {
                let (place, other) = (self.lanes[first].place, self.lanes[i].place);
                self.observe(FindingKind::DifferentBarriers, first, place, Some(other), || {
                    format!("threads {first} and {i} of one group wait at different threadgroup barriers")
                });
                self.stopped = true;
                return false;
            }
        }
        let Some(first) = first else { return false };
        let Lane { place, flags, .. } = self.lanes[first];
        if done > 0 {
            let waiting = self.lanes.len() - done;
            self.observe(FindingKind::BarrierNotReached, first, place, None, || {
                format!("a threadgroup barrier that {waiting} threads wait at, but {done} have returned")
            });
            self.stopped = true;
            return false;
        }
        self.barriers = self.barriers.wrapping_add(1);
        self.epochs[0] = self.epochs[0].wrapping_add(u32::from(flags & MEM_DEVICE != 0));
        self.epochs[1] = self.epochs[1].wrapping_add(u32::from(flags & MEM_THREADGROUP != 0));
        for group in &mut self.simdgroups {
            group.runnable = group.all & !group.done;
            group.waiting = 0;
        }
        for lane in &mut self.lanes {
            lane.state = State::Running;
        }
        true
    }

    fn runnable(&mut self) -> Option<usize> {
        let n = self.simdgroups.len();
        let start = match self.schedule {
            Schedule::Random(_) => (self.next_random() % n.max(1) as u64) as usize,
            Schedule::Reverse => self.current.map_or(n - 1, |c| c / SIMD_WIDTH),
            _ => self.current.map_or(0, |c| c / SIMD_WIDTH),
        };
        for i in 0..n {
            let s = if self.schedule == Schedule::Reverse {
                (start + n - i) % n
            } else {
                (start + i) % n
            };
            let mask = self.simdgroups[s].runnable;
            if mask != 0 {
                return Some(s * SIMD_WIDTH + self.pick(mask));
            }
        }
        None
    }
}

/// The lane to run next; `None` when the group is over.
///
/// # Safety
/// `engine` must be valid; no reference to it may be alive.
unsafe fn next_lane(engine: *mut Engine) -> Option<usize> {
    loop {
        // SAFETY: the reference lives for one step, without a switch in it.
        let e = unsafe { &mut *engine };
        if e.stopped {
            return None;
        }
        if let Some(lane) = e.runnable() {
            return Some(lane);
        }
        if !e.settle() && !e.release_barrier() {
            return None;
        }
    }
}

/// Makes `lane` the current one.
///
/// # Safety
/// `engine` must be valid.
unsafe fn enter(engine: *mut Engine, lane: usize) {
    // SAFETY: the world lies in the engine's region.
    unsafe {
        (*engine).current = Some(lane);
        (*(*engine).region.world()).lane = (*engine).region.lane(lane);
    }
}

/// Goes on with whoever can run, from the fiber of `lane`.
///
/// # Safety
/// Must run on the fiber of `lane`, the current one.
unsafe fn leave(engine: *mut Engine, lane: usize) {
    // SAFETY: saved stacks are those of fibers that wait, or of the scheduler's caller, which waits in `run_group`.
    unsafe {
        let next = next_lane(engine);
        if next == Some(lane) {
            return;
        }
        let save = &raw mut (*(*engine).lanes.as_mut_ptr().add(lane)).stack;
        match next {
            Some(next) => {
                let to = (*(*engine).lanes.as_ptr().add(next)).stack;
                enter(engine, next);
                fiber::switch(save, to);
            }
            None => fiber::switch(save, (*engine).main_stack),
        }
    }
}

/// Ends the group at once: this fiber is never resumed.
///
/// # Safety
/// Must run on a fiber of the engine.
pub(super) unsafe fn abandon(engine: *mut Engine) -> ! {
    // SAFETY: `run_group` waits on the main stack; fibers hold nothing that needs dropping.
    unsafe {
        (*engine).stopped = true;
        let mut nowhere = std::ptr::null_mut();
        fiber::switch(&raw mut nowhere, (*engine).main_stack);
    }
    std::process::abort()
}

/// First function of every fiber.
extern "C" fn run_lane() -> ! {
    // SAFETY: runs on a fiber, so the world is this engine's; the entry was set before any fiber started.
    unsafe {
        let engine: *mut Engine = (*fiber::world()).engine.cast();
        if let Some(entry) = (*engine).entry {
            entry();
        }
        if let Some(lane) = (*engine).current {
            let l = &mut *(*engine).lanes.as_mut_ptr().add(lane);
            l.state = State::Done;
            let bit = 1 << (lane % SIMD_WIDTH);
            let group = &mut *(*engine).simdgroups.as_mut_ptr().add(lane / SIMD_WIDTH);
            group.runnable &= !bit;
            group.done |= bit;
            leave(engine, lane);
        }
    }
    // A finished lane is never picked again.
    std::process::abort()
}

/// Lets the current lane wait in `state`, with what `fill` writes about it.
///
/// # Safety
/// Must run on a fiber of the engine.
pub(super) unsafe fn wait(engine: *mut Engine, state: State, fill: impl FnOnce(&mut Lane)) -> usize {
    // SAFETY: references end before the switch in `leave`.
    unsafe {
        let Some(current) = (*engine).current else {
            std::process::abort()
        };
        let s = current / SIMD_WIDTH;
        {
            let e = &mut *engine;
            let lane = &mut e.lanes[current];
            lane.state = state;
            fill(lane);
            let key = (lane.site, lane.line, state);
            let group = &mut e.simdgroups[s];
            let bit = 1 << (current % SIMD_WIDTH);
            group.runnable &= !bit;
            group.waiting |= bit;
            let (waiting, live) = (group.waiting, group.all & !group.done);
            if state != State::AtBarrier && waiting == live {
                let base = s * SIMD_WIDTH;
                let together = (0..SIMD_WIDTH).filter(|l| waiting >> l & 1 != 0).all(|l| {
                    let other = &e.lanes[base + l];
                    (other.site, other.line, other.state) == key
                });
                if together {
                    e.fire(s, waiting);
                }
            }
        }
        leave(engine, current);
        current
    }
}
