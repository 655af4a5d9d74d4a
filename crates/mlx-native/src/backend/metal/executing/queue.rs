//! The stand-in's GPU: one thread that runs command buffers in the order that suits the host code least.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::super::gpu::{Completion, Ended, GpuError};
use super::buffer::{BufferInner, Ledger};
use super::commands::{Bound, Launch, Step};
use super::gpu::PipelineInner;
use super::{MetalHost, MetalHostOrder};
use crate::backend::emulator::{Emulator, Launch as EmulatorLaunch, LaunchArgument, Severity};
use crate::config::{Config, EmulatorConfig};
use crate::kernel::msl::Access;
use crate::testing::Rng;

/// Metal's code for a resource that was released while in use.
const INVALID_RESOURCE: isize = 9;

/// A command buffer on its way.
pub(super) struct Committed {
    pub label: String,
    pub steps: Vec<Step>,
    /// Whether it waits for the fence, and whether it updates it.
    pub waits: bool,
    pub updates: bool,
    /// A rule that its encoder broke.
    pub problem: Option<String>,
    /// Tell the end first, and then look whether what it needs is still there.
    pub tell_early: bool,
    pub done: Completion,
}

/// A queue of command buffers.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pending: VecDeque<Pending>,
    committed: u64,
    /// Number of the last one that updates the fence.
    updated: Option<u64>,
    closed: bool,
}

struct Pending {
    number: u64,
    /// Number of the one that must have ended before.
    after: Option<u64>,
    work: Committed,
}

/// The thread's own.
struct Runner {
    queue: Arc<Queue>,
    emulator: Arc<Emulator>,
    ledger: Arc<Ledger>,
    config: EmulatorConfig,
    workers: usize,
    order: MetalHostOrder,
    linger: Duration,
    start: Instant,
}

impl Queue {
    /// Starts the thread; it ends when the queue is closed and empty.
    pub fn start(
        emulator: Arc<Emulator>,
        config: &Config,
        host: &MetalHost,
        ledger: Arc<Ledger>,
    ) -> std::io::Result<Arc<Self>> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let runner = Runner {
            queue: queue.clone(),
            emulator,
            ledger,
            config: config.emulator.clone(),
            workers: config.threads.unwrap_or_else(processors),
            order: host.order,
            linger: host.linger,
            start: Instant::now(),
        };
        std::thread::Builder::new()
            .name("mlx metal host code".to_owned())
            .spawn(move || runner.run_all())?;
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn commit(&self, work: Committed) {
        let mut state = self.lock();
        let number = state.committed;
        state.committed += 1;
        let after = state.updated.filter(|_| work.waits);
        if work.updates {
            state.updated = Some(number);
        }
        state.pending.push_back(Pending { number, after, work });
        self.changed.notify_all();
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The next one to run: the last committed one that nothing holds back. `None` when the queue is closed and empty.
    fn next(&self, linger: Duration) -> Option<Committed> {
        let mut state = self.lock();
        while state.pending.is_empty() {
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let deadline = Instant::now() + linger;
        while state.pending.len() == 1 && !state.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
        }
        let is_pending = |n: u64| state.pending.iter().any(|p| p.number == n);
        let free = |p: &Pending| !p.after.is_some_and(is_pending);
        let last = state.pending.iter().rposition(free)?;
        state.pending.remove(last).map(|p| p.work)
    }
}

impl Runner {
    fn run_all(&self) {
        while let Some(work) = self.queue.next(self.linger) {
            let run = std::panic::AssertUnwindSafe(|| self.run(work));
            if std::panic::catch_unwind(run).is_err() {
                // Its message was printed. A test that waits for this command buffer would wait for ever.
                eprintln!("metal host code: a panic on a thread of the GPU's");
                std::process::abort();
            }
        }
    }

    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn run(&self, work: Committed) {
        let start = self.now();
        let mut findings = self.ledger.take_findings();
        findings.extend(work.problem.clone());
        if work.tell_early && findings.is_empty() {
            (work.done)(Ended {
                error: None,
                start,
                end: self.now(),
            });
            // The host has had its time to let go of what it should have kept.
            std::thread::sleep(self.linger);
            if let Err(error) = Held::new(&work.steps) {
                self.ledger.find(format!("{}: {}", work.label, error.description));
            }
            return;
        }
        let result = match findings.first() {
            Some(_) => Err(plain(findings.join("; "))),
            None => self.run_steps(&work.steps),
        };
        (work.done)(Ended {
            error: result.err(),
            start,
            end: self.now(),
        });
    }

    fn run_steps(&self, steps: &[Step]) -> Result<(), GpuError> {
        let held = Held::new(steps)?;
        for (i, unfenced) in steps.split(|s| matches!(s, Step::Barrier)).enumerate() {
            for at in self.permuted(unfenced.len(), i as u64) {
                if let Step::Launch(launch) = &unfenced[at] {
                    self.launch(launch, &held)?;
                }
            }
        }
        held.let_go()
    }

    /// The numbers below `n` in the order of this device.
    fn permuted(&self, n: usize, salt: u64) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        match self.order {
            MetalHostOrder::Encoded => {}
            MetalHostOrder::Reversed => all.reverse(),
            MetalHostOrder::Random(seed) => {
                let mut rng = Rng::new(seed.wrapping_add(salt));
                for i in (1..n).rev() {
                    all.swap(i, rng.range(0, i));
                }
            }
        }
        all
    }

    fn launch(&self, launch: &Launch, held: &Held) -> Result<(), GpuError> {
        let pipeline = held.pipeline(&launch.pipeline)?;
        let mut arguments = Vec::with_capacity(launch.arguments.len());
        for (index, bound) in &launch.arguments {
            let declared = pipeline
                .kernel
                .signature()
                .bindings
                .iter()
                .find(|b| b.index == *index);
            let writes = declared.is_some_and(|b| b.access == Access::ReadWrite);
            arguments.push((*index, held.argument(bound, writes)?));
        }
        let launched = EmulatorLaunch {
            threadgroup_memory: &launch.threadgroup_memory,
            schedule: self.config.schedule,
            poison: self.config.poison,
            workers: self.workers,
            ..EmulatorLaunch::new(launch.grid, launch.group, &arguments)
        };
        // SAFETY: the buffers are held, and offsets lie inside them. Nobody else is at them: this device runs one
        // dispatch after the other, and the library lets neither the host nor another queue at what work in flight uses.
        let report = unsafe { self.emulator.dispatch(&pipeline.kernel, &launched) };
        let report = report.map_err(|e| plain(e.to_string()))?;
        for warning in report.findings.iter().filter(|f| f.severity == Severity::Warning) {
            tracing::warn!("{warning}");
        }
        match report.first_error() {
            None => Ok(()),
            Some(first) => Err(plain(format!("{first}; {} errors in all", report.errors))),
        }
    }
}

fn plain(description: String) -> GpuError {
    GpuError {
        of_command_buffers: false,
        code: 0,
        description,
    }
}

fn released(what: &str) -> GpuError {
    GpuError {
        of_command_buffers: true,
        code: INVALID_RESOURCE,
        description: format!("{what} was released before its command buffer had ended"),
    }
}

/// Strong references to all that a command buffer needs, while it runs.
struct Held {
    buffers: HashMap<*const BufferInner, Arc<BufferInner>>,
    pipelines: HashMap<*const PipelineInner, Arc<PipelineInner>>,
}

impl Held {
    fn new(steps: &[Step]) -> Result<Self, GpuError> {
        let mut held = Held {
            buffers: HashMap::new(),
            pipelines: HashMap::new(),
        };
        for step in steps {
            let Step::Launch(launch) = step else { continue };
            let pipeline = launch.pipeline.upgrade().ok_or_else(|| released("a pipeline"))?;
            for (index, bound) in &launch.arguments {
                if let Bound::Buffer(buffer, _) = bound {
                    let what = || released(&format!("the buffer of argument {index} of {}", pipeline.name));
                    held.buffers
                        .insert(buffer.as_ptr(), buffer.upgrade().ok_or_else(what)?);
                }
            }
            held.pipelines.insert(launch.pipeline.as_ptr(), pipeline);
        }
        Ok(held)
    }

    fn pipeline(&self, weak: &Weak<PipelineInner>) -> Result<&Arc<PipelineInner>, GpuError> {
        self.pipelines
            .get(&weak.as_ptr())
            .ok_or_else(|| released("a pipeline"))
    }

    fn argument<'h>(&'h self, bound: &'h Bound, writes: bool) -> Result<LaunchArgument<'h>, GpuError> {
        Ok(match bound {
            Bound::Bytes(bytes) => LaunchArgument::Bytes(bytes),
            Bound::Buffer(weak, offset) => {
                let buffer = self
                    .buffers
                    .get(&weak.as_ptr())
                    .ok_or_else(|| released("a buffer"))?;
                LaunchArgument::Buffer {
                    // SAFETY: the encoder took no offset beyond the buffer's end.
                    ptr: unsafe { buffer.ptr.as_ptr().add(*offset) },
                    len: buffer.byte_len - offset,
                    writable: writes && buffer.writable,
                }
            }
        })
    }

    /// Gives the references back. Whatever nobody else holds any more was released while this ran.
    fn let_go(self) -> Result<(), GpuError> {
        if self.pipelines.into_values().any(|p| Arc::into_inner(p).is_some()) {
            return Err(released("a pipeline"));
        }
        let last = |b: Arc<BufferInner>| Arc::into_inner(b).map(|b| b.number);
        match self.buffers.into_values().find_map(last) {
            Some(number) => Err(released(&format!("buffer {number}"))),
            None => Ok(()),
        }
    }
}
