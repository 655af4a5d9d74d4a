//! One pool of threads that walks recorded lists.
//!
//! Every thread walks every list: it runs its part of each dispatch, and waits for the others only where the list has a
//! barrier. There is no fork and join per operator; between two lists threads spin for a moment, then sleep.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use super::event::{Barrier, Event};
use super::isa::Isa;
use super::launch::{Launch, Resolved};
use crate::backend::{Command, Submission, Timing, Work};
use crate::error::{MlxError, Result};

/// The first failure of a job.
#[derive(Debug, Default)]
pub(super) struct Failure {
    failed: AtomicBool,
    message: Mutex<Option<String>>,
}

impl Failure {
    pub(super) fn set(&self, message: String) {
        self.message
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(message);
        self.failed.store(true, Ordering::Release);
    }

    fn happened(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn into_result(self) -> Result<()> {
        match self.message.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(message) => Err(MlxError::CommandBufferError(message)),
            None => Ok(()),
        }
    }
}

#[allow(clippy::large_enum_variant, reason = "nearly all steps are of the large kind")]
enum Step {
    Run(Resolved),
    Barrier,
}

struct Job {
    /// Points into `work`, which is only kept for that.
    steps: Vec<Step>,
    #[allow(dead_code)]
    work: Work,
    isa: Isa,
    failure: Failure,
    done: Arc<Submission>,
}

struct Shared {
    queue: Mutex<VecDeque<Arc<Job>>>,
    /// Counts published jobs.
    published: Event,
    barrier: Barrier,
    closing: AtomicBool,
}

/// The threads, shared by every device of the process that asks for the same number of them.
pub(super) struct Pool {
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
        if let Some(pool) = pools.get(&threads).and_then(Weak::upgrade) {
            return Ok(pool);
        }
        let pool = Arc::new(Pool::start(threads)?);
        pools.insert(threads, Arc::downgrade(&pool));
        Ok(pool)
    }

    fn start(parts: usize) -> Result<Pool> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            published: Event::default(),
            barrier: Barrier::new(parts),
            closing: AtomicBool::new(false),
        });
        let mut pool = Pool {
            shared: shared.clone(),
            threads: Vec::with_capacity(parts),
        };
        for part in 0..parts {
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("mlx-cpu-{part}"))
                .stack_size(4 << 20)
                .spawn(move || worker(&shared, part, parts))
                .map_err(|e| {
                    MlxError::DeviceNotFound(format!("cpu: cannot start thread {part} of {parts}: {e}"))
                })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Queues a list. `done` is told when it has run.
    pub(super) fn submit(&self, work: Work, isa: Isa, done: Arc<Submission>) {
        let steps = work
            .commands
            .iter()
            .map(|command| match command {
                Command::Dispatch(dispatch) => Step::Run(Resolved::new(&work, dispatch)),
                Command::Barrier => Step::Barrier,
            })
            .collect();
        let job = Arc::new(Job {
            steps,
            work,
            isa,
            failure: Failure::default(),
            done,
        });
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(job);
        self.shared.published.advance();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.published.advance();
        for thread in self.threads.drain(..) {
            // A worker that panicked has nothing left to give back.
            let _ = thread.join();
        }
    }
}

/// Walks one job after the other. All threads see the same jobs in the same order.
fn worker(shared: &Shared, part: usize, parts: usize) {
    let mut seen = 0;
    loop {
        // Asked before the queue is looked at: whatever was queued before the closing is then seen. A job stays in the
        // queue until all threads have walked it.
        let closing = shared.closing.load(Ordering::Acquire);
        let job = shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .front()
            .cloned();
        let Some(job) = job else {
            if closing {
                return;
            }
            seen = shared.published.wait_beyond(seen);
            continue;
        };
        let start = Instant::now();
        walk(&job, shared, part, parts);
        if part == 0 {
            shared.barrier.wait();
            shared
                .queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            finish(job, start);
        } else {
            drop(job);
            shared.barrier.wait();
        }
        // Nobody may look at the queue before the leader has removed the job.
        shared.barrier.wait();
    }
}

fn walk(job: &Job, shared: &Shared, part: usize, parts: usize) {
    for step in &job.steps {
        match step {
            Step::Barrier => shared.barrier.wait(),
            Step::Run(resolved) if !job.failure.happened() => {
                let Some(body) = resolved.body() else {
                    job.failure
                        .set(format!("kernel {}: no body for the cpu", resolved.name()));
                    continue;
                };
                let launch = Launch::new(resolved, &job.failure, job.isa);
                // A panic is a bug in a body; it must not take the pool, nor hang the other parts at the next barrier.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&launch, part, parts))) {
                    launch.fail(format!("panicked: {}", panic_text(&*panic)));
                }
            }
            Step::Run(_) => {}
        }
    }
}

/// Lets go of the work's buffers, then reports its end.
fn finish(job: Arc<Job>, start: Instant) {
    let Ok(job) = Arc::try_unwrap(job) else {
        // Cannot happen: the others dropped theirs before the barrier.
        return;
    };
    let Job {
        steps,
        work,
        failure,
        done,
        ..
    } = job;
    drop(steps);
    drop(work);
    done.finish(
        failure.into_result(),
        Timing {
            device: Some(start.elapsed()),
        },
    );
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBody;
    use crate::backend::{Backend as _, PipelineBody};
    use crate::kernel::{ComputePipelineState, Kernel, SourceText};
    use crate::{CommandEncoder, Config, DType, DeviceKind, KernelArg, MTLSize, MlxDevice};

    const TEXT: &str =
        "kernel void k(device uint *x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] += 1; }";

    fn pipeline(body: CpuBody) -> ComputePipelineState {
        let source = Arc::new(SourceText::new(TEXT.into()));
        let signature = source.signature("k").unwrap().unwrap();
        let kernel = Kernel {
            name: "k".into(),
            source,
            signature,
            cpu: Some(body),
        };
        let backend = super::super::CpuBackend::new(&Config::default()).unwrap();
        let made: Arc<dyn PipelineBody> = backend.compile(&kernel, &[]).unwrap();
        ComputePipelineState::new(kernel, Default::default(), made, 1024, backend.pipeline_domain())
    }

    fn encode(encoder: &mut CommandEncoder, p: &ComputePipelineState, x: &crate::MlxBuffer) {
        let one = MTLSize::new(1, 1, 1);
        encoder
            .encode_with_args(p, &[(0, KernelArg::Buffer(x))], one, one)
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
            matches!(&error, MlxError::CommandBufferError(text) if text.contains("part one breaks")),
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
                        encoder.commit().unwrap();
                    }
                });
            }
        });
        assert_eq!(x.as_slice::<u32>().unwrap(), [800; 7]);
    }
}
