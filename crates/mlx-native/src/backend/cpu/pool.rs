//! One pool of threads that walks recorded lists.
//!
//! Every thread walks every list. A dispatch has as many parts as the pool has threads; whoever comes first claims the next
//! part, and a barrier in the list waits until all parts before it are *done*, not until all threads have come. So a
//! thread that the operating system has taken off its processor between two parts holds nobody up: the others run its
//! share. There is no fork and join per operator; between two lists threads spin for a moment, then sleep.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use super::event::Event;
use super::failure::Failure;
use super::launch::{Launch, Resolved};
use super::pipeline::CpuPipeline;
use super::transfer::Transfer;
use crate::backend::submission::{panic_text, release};
use crate::backend::{Command, Completion, QueueId, Timing, Work};
use crate::error::{MlxError, Result};
use crate::isa::IsaToken;

enum Step {
    Run(Box<Resolved>),
    Transfer(Transfer),
    /// Wait until this many parts of the job are done.
    Barrier(usize),
}

struct Job {
    /// Which job of the pool this is.
    number: u64,
    /// Points into `work`.
    steps: Vec<Step>,
    /// Let go of at the end, before the end is reported.
    work: Mutex<Option<Arc<Work>>>,
    isa: IsaToken,
    failure: Failure,
    done: Mutex<Option<Completion>>,
    started: OnceLock<Instant>,
    /// Counts parts that are done, of `total`.
    completed: Event,
    total: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Arc<Job>>,
    next_number: u64,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Counts changes of the queue: a job came, or the first one ended.
    changed: Event,
    closing: AtomicBool,
}

/// The threads, shared by every device of the process that asks for the same number of them.
pub(super) struct Pool {
    queue: QueueId,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// The pool of `threads` threads.
    pub(super) fn shared(threads: usize) -> Result<Arc<Pool>> {
        static POOLS: OnceLock<Mutex<HashMap<usize, Weak<Pool>>>> = OnceLock::new();
        let mut pools = POOLS
            .get_or_init(Mutex::default)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = pools.get(&threads).and_then(Weak::upgrade);
        // After a fork the child has the list of its parent, but none of the threads.
        if let Some(pool) = known.filter(|pool| pool.queue.is_of_this_process()) {
            return Ok(pool);
        }
        let pool = Arc::new(Pool::start(threads)?);
        pools.insert(threads, Arc::downgrade(&pool));
        Ok(pool)
    }

    fn start(parts: usize) -> Result<Pool> {
        let shared = Arc::new(Shared::default());
        let mut pool = Pool {
            queue: QueueId::unique(),
            shared: shared.clone(),
            threads: Vec::with_capacity(parts),
        };
        for i in 0..parts {
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("mlx-cpu-{i}"))
                .stack_size(4 << 20)
                .spawn(move || worker(&shared))
                .map_err(|e| {
                    MlxError::DeviceUnavailable(format!("cpu: cannot start thread {i} of {parts}: {e}"))
                })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// The queue that every device of this pool submits to.
    pub(super) fn queue(&self) -> QueueId {
        self.queue
    }

    /// Queues a list. `done` is told when it has run.
    pub(super) fn submit(&self, work: Arc<Work>, isa: IsaToken, done: Completion) {
        let (steps, total) = match self.steps(&work) {
            Ok(steps) => steps,
            Err(message) => {
                let result = Err(MlxError::WorkFailed(message));
                return done.finish(
                    release(work).map_err(MlxError::WorkFailed).and(result),
                    Timing::default(),
                );
            }
        };
        if total == 0 {
            return done.finish(Ok(()), Timing::default());
        }
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.next_number += 1;
        let job = Job {
            number: queue.next_number,
            steps,
            work: Mutex::new(Some(work)),
            isa,
            failure: Failure::default(),
            done: Mutex::new(Some(done)),
            started: OnceLock::new(),
            completed: Event::default(),
            total,
        };
        queue.jobs.push_back(Arc::new(job));
        drop(queue);
        self.shared.changed.advance();
    }

    /// The steps of a list, and how many parts they have in all.
    fn steps(&self, work: &Work) -> std::result::Result<(Vec<Step>, usize), String> {
        let parts = self.threads.len();
        let mut total = 0;
        let mut steps = Vec::with_capacity(work.commands.len());
        for command in &work.commands {
            let step = match command {
                Command::Dispatch(dispatch) => Step::Run(Box::new(Resolved::new(work, dispatch, parts)?)),
                Command::Copy(copy) => Step::Transfer(Transfer::copy(copy, parts)?),
                Command::Fill(fill) => Step::Transfer(Transfer::fill(fill, parts)?),
                Command::Barrier => Step::Barrier(total),
            };
            total += match &step {
                Step::Run(resolved) => resolved.claims.parts(),
                Step::Transfer(transfer) => transfer.claims.parts(),
                Step::Barrier(_) => 0,
            };
            steps.push(step);
        }
        Ok((steps, total))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !self.queue.is_of_this_process() {
            // The threads stayed with the process that this one was forked off: waiting for them would be for ever.
            return;
        }
        self.shared.closing.store(true, Ordering::Release);
        self.shared.changed.advance();
        let me = std::thread::current().id();
        if self.threads.iter().any(|thread| thread.thread().id() == me) {
            // The last handle of the device was held by memory that a list kept alive, and goes with the list, here, on a
            // thread of the pool. Nobody can wait for himself: the threads end on their own.
            return;
        }
        for thread in self.threads.drain(..) {
            // A worker that panicked has nothing left to give back.
            let _ = thread.join();
        }
    }
}

/// Walks one job after the other, in the order in which they came.
fn worker(shared: &Shared) {
    let mut walked = 0;
    loop {
        // Asked before the queue is looked at: a change that comes after the look ends the wait.
        let seen = shared.changed.count();
        let closing = shared.closing.load(Ordering::Acquire);
        let first = shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .jobs
            .front()
            .cloned();
        match first {
            Some(job) if job.number != walked => {
                walked = job.number;
                walk(&job, shared);
            }
            None if closing => return,
            // There is no job, or others are still at the last parts of this one.
            _ => shared.changed.wait_for(seen + 1),
        }
    }
}

fn walk(job: &Job, shared: &Shared) {
    job.started.get_or_init(Instant::now);
    let done = || {
        if job.completed.advance() == job.total {
            finish(job, shared);
        }
    };
    for step in &job.steps {
        match step {
            Step::Barrier(before) => job.completed.wait_for(*before),
            Step::Run(resolved) => {
                while let Some(part) = resolved.claims.claim() {
                    run(job, resolved, part);
                    done();
                }
            }
            Step::Transfer(transfer) => {
                while let Some(part) = transfer.claims.claim() {
                    if !job.failure.happened() {
                        transfer.run(part);
                    }
                    done();
                }
            }
        }
    }
}

fn run(job: &Job, resolved: &Resolved, part: usize) {
    if job.failure.happened() {
        return;
    }
    let Some(body) = CpuPipeline::body_of(resolved.pipeline()) else {
        job.failure
            .set(format!("kernel {}: no body for the cpu", resolved.name()));
        return;
    };
    let launch = Launch::new(resolved, &job.failure, job.isa, part);
    // A panic is a bug in a body; it must not take the pool, nor hang the others at the next barrier.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&launch, part, resolved.claims.parts()))) {
        launch.fail(format!("panicked: {}", panic_text(&*panic)));
    }
}

/// Lets go of the job's buffers, makes way for the next job, and reports the end. Nobody touches the buffers any more: all
/// parts were claimed and are done.
fn finish(job: &Job, shared: &Shared) {
    let work = job.work.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Err(message) = release(work) {
        job.failure.set(message);
    }
    let device = job.started.get().map(Instant::elapsed);
    shared
        .queue
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .jobs
        .pop_front();
    shared.changed.advance();
    let done = job.done.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(done) = done {
        done.finish(job.failure.take_result(), Timing { device });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBody;
    use crate::backend::{Backend as _, PipelineBody};
    use crate::kernel::{Bodies, ComputePipelineState, Kernel, SourceText};
    use crate::{CommandEncoder, Config, DType, DeviceKind, KernelArg, MTLSize, MlxDevice};

    const TEXT: &str =
        "kernel void k(device uint *x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] += 1; }";

    #[test]
    fn sleepers_are_woken_when_their_count_is_reached() {
        let event = Arc::new(Event::default());
        let waiters: Vec<_> = (1..=3)
            .map(|target| {
                let event = event.clone();
                std::thread::spawn(move || {
                    event.wait_for(target);
                    event.count() >= target
                })
            })
            .collect();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(30));
            event.advance();
        }
        assert!(waiters.into_iter().all(|w| w.join().unwrap()));
    }

    fn pipeline(body: CpuBody) -> ComputePipelineState {
        let source = Arc::new(SourceText::new(TEXT.into()));
        let signature = source.signature("k").unwrap().unwrap();
        let kernel = Kernel {
            name: "k".into(),
            source,
            signature,
            bodies: Bodies::of(body),
        };
        let backend = super::super::CpuBackend::new(&Config::default()).unwrap();
        let made: Arc<dyn PipelineBody> = backend.compile(&kernel, &[]).unwrap();
        ComputePipelineState::new(kernel, Default::default(), made, 1024, backend.pipeline_domain())
    }

    fn encode(encoder: &mut CommandEncoder, p: &ComputePipelineState, x: &crate::MlxBuffer) {
        // Three threadgroups: up to three parts.
        let (grid, group) = (MTLSize::new(3, 1, 1), MTLSize::new(1, 1, 1));
        encoder
            .try_encode_with_args(p, &[(0, KernelArg::Buffer(x))], grid, group)
            .unwrap();
    }

    fn count_up(launch: &Launch<'_>, part: usize, parts: usize) {
        let x = launch.output::<u32>(0);
        for i in super::super::part_range(x.len(), 1, part, parts) {
            // SAFETY: parts have disjoint ranges.
            unsafe { x.slice_mut(i..i + 1)[0] += 1 };
        }
    }

    #[test]
    fn a_panicking_body_is_an_error_and_the_pool_lives_on() {
        fn panics(_: &Launch<'_>, part: usize, _: usize) {
            assert!(part != 1, "part one breaks");
        }
        let config = Config {
            threads: Some(3),
            ..Config::default()
        };
        let device = MlxDevice::with_config(DeviceKind::Cpu, &config).unwrap();
        let x = device.alloc_tensor(DType::U32, &[100]).unwrap();
        let (bad, good) = (pipeline(panics), pipeline(count_up));
        let mut encoder = device.command_encoder().unwrap();
        encode(&mut encoder, &bad, &x);
        encode(&mut encoder, &good, &x);
        let error = encoder.commit_and_wait().unwrap_err();
        assert!(
            matches!(&error, MlxError::WorkFailed(text) if text.contains("part one breaks") && !error.is_transient()),
            "{error}"
        );
        let mut encoder = device.command_encoder().unwrap();
        encode(&mut encoder, &good, &x);
        encoder.commit_and_wait().unwrap();
        assert_eq!(
            x.read::<u32>().unwrap(),
            [1; 100],
            "what came behind the failure did not run, later work did"
        );
    }

    #[test]
    fn many_small_lists_from_many_threads_run_in_order_of_submission() {
        let config = Config {
            threads: Some(2),
            ..Config::default()
        };
        let device = MlxDevice::with_config(DeviceKind::Cpu, &config).unwrap();
        let good = pipeline(count_up);
        let x = device.alloc_tensor(DType::U32, &[7]).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let mut encoder = device.command_encoder().unwrap();
                        encode(&mut encoder, &good, &x);
                        encode(&mut encoder, &good, &x);
                        encoder.try_commit().unwrap();
                    }
                });
            }
        });
        assert_eq!(x.as_slice::<u32>().unwrap(), [800; 7]);
    }
}
