//! Running a kernel over a grid.

use super::abi::{MAX_ARGUMENTS, MAX_THREADS};
use super::checker::Checker;
use super::compile::LoadedKernel;
use super::engine::{Engine, GroupLaunch};
use super::findings::{Finding, Observation, Place, Severity};
use super::{Emulator, EmulatorError};
use crate::config::Schedule;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The extent of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchGrid {
    /// In threadgroups, all of full size.
    Threadgroups([u32; 3]),
    /// In threads: the kernel sees exactly that many, the last groups of each axis may be smaller.
    Threads([u32; 3]),
}

/// What is bound to one argument.
#[derive(Clone, Copy, Debug)]
pub enum LaunchArgument<'a> {
    /// Memory that the kernel works on in place.
    Buffer {
        /// First byte.
        ptr: *mut u8,
        /// Bytes from there.
        len: usize,
        /// Whether the kernel may write.
        writable: bool,
    },
    /// Bytes by value, read only.
    Bytes(&'a [u8]),
}

/// One run of a kernel.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// How many threads or threadgroups.
    pub grid: LaunchGrid,
    /// Threads of one threadgroup.
    pub group: [u32; 3],
    /// Arguments by index.
    pub arguments: &'a [(u32, LaunchArgument<'a>)],
    /// Dynamic threadgroup memory: index and bytes.
    pub threadgroup_memory: &'a [(u32, u32)],
    /// In which order threads and groups run.
    pub schedule: Schedule,
    /// Not 0: permutes the order in which simdgroup reductions add.
    pub reduction_seed: u64,
    /// Fills threadgroup memory before each group.
    pub poison: u8,
    /// Groups that may run at the same time; a checked kernel runs them one by one.
    pub workers: usize,
}

impl<'a> Launch<'a> {
    /// A launch in forward order on one worker, with threadgroup memory full of NaN.
    pub fn new(grid: LaunchGrid, group: [u32; 3], arguments: &'a [(u32, LaunchArgument<'a>)]) -> Self {
        let schedule = Schedule::Forward;
        Self {
            grid,
            group,
            arguments,
            threadgroup_memory: &[],
            schedule,
            reduction_seed: 0,
            poison: 0xFF,
            workers: 1,
        }
    }
}

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was found, in the order in which it was seen; at most 64 places.
    pub findings: Vec<Finding>,
    /// Errors in all, also where the same place erred many times.
    pub errors: u64,
}

impl Report {
    /// The first finding that is an error.
    pub fn first_error(&self) -> Option<&Finding> {
        self.findings.iter().find(|f| f.severity == Severity::Error)
    }
}

/// The argument tables of a launch.
struct Bound {
    pointers: [*mut c_void; MAX_ARGUMENTS],
    /// Copies of the inline bytes, aligned for any type.
    _bytes: Vec<Vec<u128>>,
    /// Start, length, writable, name.
    ranges: Vec<(usize, usize, bool, String)>,
}

/// The shape of a launch, shared by the workers.
struct Extents {
    groups: [u32; 3],
    threads: [u32; 3],
    count: u64,
}

impl Emulator {
    /// Runs a kernel over a grid and waits for the end. An error finding ends the run early.
    ///
    /// # Errors
    /// Arguments that are missing or do not exist, extents of zero, more threads or memory than a threadgroup has.
    ///
    /// # Safety
    /// Every buffer must be valid for its length for the whole call, and nobody else may write it, or read what the
    /// kernel may write. The kernel itself must stay inside them, unless it was compiled for the checker.
    pub unsafe fn dispatch(
        &self,
        kernel: &LoadedKernel,
        launch: &Launch<'_>,
    ) -> Result<Report, EmulatorError> {
        let shape = shape(kernel, launch)?;
        let bound = bind(kernel, launch)?;
        let workers = if kernel.checked {
            1
        } else {
            (launch.workers as u64).clamp(1, shape.count) as usize
        };
        let mut engines = Vec::with_capacity(workers);
        for _ in 0..workers {
            let mut engine = self.take_engine()?;
            engine.image = kernel.image;
            engine.checker = kernel
                .checked
                .then(|| Checker::new(engine.region.arena() as usize, bound.ranges.iter().cloned()));
            engines.push(engine);
        }
        let run = Run {
            kernel,
            launch,
            shape,
            bound,
            next: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        };
        if let [engine] = &mut engines[..] {
            // SAFETY: as the caller says.
            unsafe { run.work(engine) };
        } else {
            std::thread::scope(|scope| {
                for engine in &mut engines {
                    let run = &run;
                    // SAFETY: as the caller says; groups of one dispatch are independent of each other by contract.
                    scope.spawn(move || unsafe { run.work(engine) });
                }
            });
        }
        let mut report = Report::default();
        for mut engine in engines {
            let (observations, errors) = engine.observations.take();
            report.errors += errors;
            report
                .findings
                .extend(observations.into_iter().map(|o| finding(kernel, o)));
            engine.checker = None;
            self.return_engine(engine);
        }
        Ok(report)
    }
}

fn shape(kernel: &LoadedKernel, launch: &Launch<'_>) -> Result<Extents, EmulatorError> {
    let name = &kernel.signature.name;
    let fail = |message: String| Err(EmulatorError::Launch(format!("kernel `{name}`: {message}")));
    let per_group = launch
        .group
        .iter()
        .try_fold(1u32, |n, e| n.checked_mul(*e))
        .unwrap_or(u32::MAX);
    let most = kernel
        .signature
        .max_threads
        .map_or(MAX_THREADS as u32, |m| m.min(MAX_THREADS as u32));
    if per_group == 0 || per_group > most {
        return fail(format!(
            "a threadgroup of {:?} threads, wanted 1 to {most}",
            launch.group
        ));
    }
    let (groups, threads) = match launch.grid {
        LaunchGrid::Threadgroups(groups) => {
            let threads = [0, 1, 2].map(|i| groups[i].saturating_mul(launch.group[i]));
            (groups, threads)
        }
        LaunchGrid::Threads(threads) => ([0, 1, 2].map(|i| threads[i].div_ceil(launch.group[i])), threads),
    };
    let count = groups
        .iter()
        .try_fold(1u64, |n, e| n.checked_mul(u64::from(*e)))
        .unwrap_or(0);
    if count == 0 {
        return fail(format!("a grid of {:?}", launch.grid));
    }
    Ok(Extents {
        groups,
        threads,
        count,
    })
}

fn bind(kernel: &LoadedKernel, launch: &Launch<'_>) -> Result<Bound, EmulatorError> {
    let signature = &kernel.signature;
    let fail = |message: String| {
        Err(EmulatorError::Launch(format!(
            "kernel `{}`: {message}",
            signature.name
        )))
    };
    let mut bound = Bound {
        pointers: [std::ptr::null_mut(); MAX_ARGUMENTS],
        _bytes: Vec::new(),
        ranges: Vec::new(),
    };
    for (index, argument) in launch.arguments {
        let Some(declared) = signature.bindings.iter().find(|b| b.index == *index) else {
            return fail(format!("there is no argument {index}"));
        };
        let (ptr, len, writable) = match argument {
            LaunchArgument::Buffer { ptr, len, writable } => (*ptr, *len, *writable),
            LaunchArgument::Bytes(bytes) => {
                let mut copy = vec![0u128; bytes.len().div_ceil(16).max(1)];
                let target: *mut u8 = copy.as_mut_ptr().cast();
                // SAFETY: the copy is at least as long as the bytes.
                unsafe { target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
                bound._bytes.push(copy);
                (target, bytes.len(), false)
            }
        };
        bound.pointers[*index as usize] = ptr.cast();
        bound
            .ranges
            .push((ptr as usize, len, writable, declared.name.clone()));
    }
    let given = |index: u32| launch.arguments.iter().any(|(i, _)| *i == index);
    if let Some(missing) = signature.bindings.iter().find(|b| !given(b.index) && !b.optional) {
        return fail(format!(
            "argument {} (`{}`) is missing",
            missing.index, missing.name
        ));
    }
    for t in &signature.threadgroup {
        if !launch
            .threadgroup_memory
            .iter()
            .any(|(i, len)| *i == t.index && *len > 0)
        {
            return fail(format!(
                "threadgroup memory {} (`{}`) has no length",
                t.index, t.name
            ));
        }
    }
    if let Some((index, _)) = launch
        .threadgroup_memory
        .iter()
        .find(|(i, _)| !signature.threadgroup.iter().any(|t| t.index == *i))
    {
        return fail(format!("there is no threadgroup memory {index}"));
    }
    Ok(bound)
}

struct Run<'r, 'a> {
    kernel: &'r LoadedKernel,
    launch: &'r Launch<'a>,
    shape: Extents,
    bound: Bound,
    next: AtomicU64,
    failed: AtomicBool,
}

// SAFETY: the pointers lead to memory that the caller of `dispatch` lends for its duration; everything else is read only.
unsafe impl Sync for Run<'_, '_> {}

impl Run<'_, '_> {
    /// Takes groups until there are none, or one has failed.
    ///
    /// # Safety
    /// As [`Emulator::dispatch`].
    unsafe fn work(&self, engine: &mut Engine) {
        while !self.failed.load(Ordering::Relaxed) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= self.shape.count {
                break;
            }
            let linear = self.place(n);
            // SAFETY: as the caller says; the kernel is loaded and attached to the runtime.
            unsafe { engine.run_group(&self.group(linear)) };
            if engine.stopped {
                self.failed.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Which group comes `n`-th.
    fn place(&self, n: u64) -> u64 {
        let count = self.shape.count;
        match self.launch.schedule {
            Schedule::Forward => n,
            Schedule::Reverse => count - 1 - n,
            Schedule::Random(seed) => {
                // Steps of a length coprime to the count visit every group once.
                let mut step = (seed % count) | 1;
                while gcd(step, count) != 1 {
                    step += 2;
                }
                (u128::from(seed) + u128::from(n) * u128::from(step)).rem_euclid(u128::from(count)) as u64
            }
        }
    }

    fn group(&self, linear: u64) -> GroupLaunch<'_> {
        let [gx, gy, _] = self.shape.groups.map(u64::from);
        let position = [linear % gx, linear / gx % gy, linear / gx / gy].map(|p| p as u32);
        let nominal = self.launch.group;
        let threads = [0, 1, 2].map(|i| nominal[i].min(self.shape.threads[i] - position[i] * nominal[i]));
        let seed = match self.launch.schedule {
            Schedule::Random(seed) => seed ^ linear.wrapping_mul(0x2545_f491_4f6c_dd1d),
            _ => 0,
        };
        GroupLaunch {
            entry: self.kernel.entry,
            position,
            threads,
            nominal_threads: nominal,
            groups: self.shape.groups,
            grid: self.shape.threads,
            buffers: &self.bound.pointers,
            threadgroup_memory: self.launch.threadgroup_memory,
            schedule: self.launch.schedule,
            seed,
            reduction_seed: self.launch.reduction_seed,
            poison: self.launch.poison,
        }
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Looks up the places of an observation.
fn finding(kernel: &LoadedKernel, observation: Observation) -> Finding {
    let lookup = |place: Place| match place {
        Place::Code(pc) => kernel.symbols.locate(pc.wrapping_sub(kernel.image)),
        // SAFETY: the kernel's object is loaded as long as `kernel` is borrowed.
        other => unsafe { other.spelled() },
    };
    let (file, line) = lookup(observation.place).unwrap_or_default();
    let mut message = observation.message;
    if let Some((other_file, other_line)) = observation.other.and_then(lookup) {
        let elsewhere = if other_file == file {
            format!("line {other_line}")
        } else {
            format!("{other_file}:{other_line}")
        };
        message = format!("{message}; the other is at {elsewhere}");
    }
    Finding {
        kind: observation.kind,
        severity: observation.kind.severity(),
        message,
        file,
        line,
        kernel: kernel.signature.name.clone(),
        thread: observation.thread,
        group: observation.group,
    }
}
