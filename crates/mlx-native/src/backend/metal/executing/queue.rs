//! The stand-in's GPU: one thread that runs encoders in the order that suits the host code least.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::super::gpu::{Completion, Ended, GpuError};
use super::buffer::{BufferInner, Ledger};
use super::commands::{Bound, Encoder, Launch, Step};
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
    pub encoders: Vec<Encoder>,
    /// A rule that an encoder broke.
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
    encoders: u64,
    /// Number of the last encoder that updates the fence.
    updated: Option<u64>,
    closed: bool,
}

/// An encoder that waits for its turn.
struct Pending {
    number: u64,
    /// Number of the one that must have ended before.
    after: Option<u64>,
    encoder: Arc<Encoder>,
    owner: Arc<Mutex<CommandBuffer>>,
}

/// What the encoders of a command buffer share.
struct CommandBuffer {
    label: String,
    problem: Option<String>,
    tell_early: bool,
    /// All its encoders, to be held on to when the first of them runs.
    encoders: Vec<Arc<Encoder>>,
    held: Option<Held>,
    left: usize,
    start: Option<f64>,
    error: Option<GpuError>,
    done: Option<Completion>,
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
        let encoders: Vec<Arc<Encoder>> = work.encoders.into_iter().map(Arc::new).collect();
        let owner = Arc::new(Mutex::new(CommandBuffer {
            label: work.label,
            problem: work.problem,
            tell_early: work.tell_early,
            encoders: encoders.clone(),
            held: None,
            left: encoders.len(),
            start: None,
            error: None,
            done: Some(work.done),
        }));
        let mut state = self.lock();
        for encoder in encoders {
            let number = state.encoders;
            state.encoders += 1;
            let after = state.updated.filter(|_| encoder.waits);
            if encoder.updates {
                state.updated = Some(number);
            }
            state.pending.push_back(Pending {
                number,
                after,
                encoder,
                owner: owner.clone(),
            });
        }
        self.changed.notify_all();
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The next one to run: the last committed one that nothing holds back. `None` when the queue is closed and empty.
    fn next(&self, linger: Duration) -> Option<Pending> {
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
        state.pending.remove(last)
    }
}

impl Runner {
    fn run_all(&self) {
        while let Some(next) = self.queue.next(self.linger) {
            let run = std::panic::AssertUnwindSafe(|| self.run(next));
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

    fn run(&self, next: Pending) {
        let Pending { encoder, owner, .. } = next;
        let mut buffer = owner.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.start.is_none() {
            self.begin(&mut buffer);
        }
        if buffer.error.is_none()
            && let Some(held) = &buffer.held
        {
            buffer.error = self.run_encoder(&encoder, held).err();
        }
        buffer.left -= 1;
        if buffer.left > 0 {
            return;
        }
        if let Some(held) = buffer.held.take() {
            let released = held.let_go().err();
            buffer.error = buffer.error.take().or(released);
        }
        let ended = Ended {
            error: buffer.error.take(),
            start: buffer.start.unwrap_or_default(),
            end: self.now(),
        };
        let done = buffer.done.take();
        drop(buffer);
        if let Some(done) = done {
            done(ended);
        }
    }

    /// The first encoder of a command buffer is about to run.
    fn begin(&self, buffer: &mut CommandBuffer) {
        buffer.start = Some(self.now());
        let mut findings = self.ledger.take_findings();
        findings.extend(buffer.problem.take());
        if !findings.is_empty() {
            buffer.error = Some(plain(findings.join("; ")));
            return;
        }
        if buffer.tell_early
            && let Some(done) = buffer.done.take()
        {
            done(Ended {
                error: None,
                start: self.now(),
                end: self.now(),
            });
            // The host has its time to let go of what it should keep.
            std::thread::sleep(self.linger);
        }
        match Held::new(&buffer.encoders) {
            Ok(_) if buffer.tell_early => {}
            Ok(held) => buffer.held = Some(held),
            Err(error) if buffer.tell_early => self
                .ledger
                .find(format!("{}: {}", buffer.label, error.description)),
            Err(error) => buffer.error = Some(error),
        }
    }

    fn run_encoder(&self, encoder: &Encoder, held: &Held) -> Result<(), GpuError> {
        for (i, unfenced) in encoder.steps.split(|s| matches!(s, Step::Barrier)).enumerate() {
            for at in self.permuted(unfenced.len(), i as u64) {
                match &unfenced[at] {
                    Step::Launch(launch) => self.launch(launch, held)?,
                    Step::Copy([(from, from_offset), (to, to_offset)], byte_len) => {
                        let (from, to) = (held.buffer(from)?, held.buffer(to)?);
                        // SAFETY: the encoder took only ranges inside the buffers, which are held and do not overlap;
                        // who else might be at them, see `launch`.
                        unsafe {
                            let (from, to) = (from.ptr.add(*from_offset), to.ptr.add(*to_offset));
                            to.copy_from_nonoverlapping(from, *byte_len);
                        }
                    }
                    Step::Fill(buffer, range, value) => {
                        let buffer = held.buffer(buffer)?;
                        // SAFETY: as above.
                        unsafe { buffer.ptr.add(range.start).write_bytes(*value, range.len()) };
                    }
                    Step::Barrier => {}
                }
            }
        }
        Ok(())
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

/// Strong references to all that a command buffer needs, while it runs, by address.
struct Held {
    buffers: HashMap<usize, Arc<BufferInner>>,
    pipelines: HashMap<usize, Arc<PipelineInner>>,
}

impl Held {
    fn new(encoders: &[Arc<Encoder>]) -> Result<Self, GpuError> {
        let mut held = Held {
            buffers: HashMap::new(),
            pipelines: HashMap::new(),
        };
        for step in encoders.iter().flat_map(|e| &e.steps) {
            match step {
                Step::Launch(launch) => {
                    let pipeline = launch.pipeline.upgrade().ok_or_else(|| released("a pipeline"))?;
                    for (index, bound) in &launch.arguments {
                        if let Bound::Buffer(buffer, _) = bound {
                            let what = format!("the buffer of argument {index} of {}", pipeline.name);
                            held.hold(buffer, &what)?;
                        }
                    }
                    held.pipelines.insert(launch.pipeline.as_ptr() as usize, pipeline);
                }
                Step::Copy(ends, _) => {
                    for (buffer, _) in ends {
                        held.hold(buffer, "a buffer of a copy")?;
                    }
                }
                Step::Fill(buffer, ..) => held.hold(buffer, "the buffer of a fill")?,
                Step::Barrier => {}
            }
        }
        Ok(held)
    }

    fn hold(&mut self, buffer: &Weak<BufferInner>, what: &str) -> Result<(), GpuError> {
        let strong = buffer.upgrade().ok_or_else(|| released(what))?;
        self.buffers.insert(buffer.as_ptr() as usize, strong);
        Ok(())
    }

    fn buffer(&self, weak: &Weak<BufferInner>) -> Result<&Arc<BufferInner>, GpuError> {
        self.buffers
            .get(&(weak.as_ptr() as usize))
            .ok_or_else(|| released("a buffer"))
    }

    fn pipeline(&self, weak: &Weak<PipelineInner>) -> Result<&Arc<PipelineInner>, GpuError> {
        self.pipelines
            .get(&(weak.as_ptr() as usize))
            .ok_or_else(|| released("a pipeline"))
    }

    fn argument<'h>(&'h self, bound: &'h Bound, writes: bool) -> Result<LaunchArgument<'h>, GpuError> {
        Ok(match bound {
            Bound::Bytes(bytes) => LaunchArgument::Bytes(bytes),
            Bound::Buffer(weak, offset) => {
                let buffer = self.buffer(weak)?;
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
