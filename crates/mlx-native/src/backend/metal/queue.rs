//! Submitting: lists of work become command buffers, and their ends become the end of the submission.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::profile::CommandBounds;
use super::encode::{EncodeLimits, encode};
use super::failure::command_buffer_error;
use super::gpu::{Commands, Ended, Gpu};
use super::split;
use crate::backend::submission::release;
use crate::backend::{Command, Completion, Timing, Work};
use crate::config::MetalTrace;
use crate::error::{MlxError, Result};

/// A queue of the device. Work of any thread goes through here, one list at a time, so that command buffers are committed
/// in the order of their lists; each waits on the device for the one before.
pub(super) struct Queue<G: Gpu> {
    gpu: Arc<G>,
    bounds: CommandBounds,
    threadgroup_memory: usize,
    gate: Arc<Gate>,
    state: Mutex<State>,
}

struct State {
    /// Lists submitted so far.
    submitted: u64,
    trace: Option<MetalTrace>,
    tracing: bool,
}

impl<G: Gpu> Queue<G> {
    pub fn new(gpu: Arc<G>, bounds: CommandBounds, trace: Option<MetalTrace>) -> Self {
        Queue {
            threadgroup_memory: gpu.facts().max_threadgroup_memory,
            gate: Arc::new(Gate::new(bounds.in_flight)),
            gpu,
            bounds,
            state: Mutex::new(State {
                submitted: 0,
                trace,
                tracing: false,
            }),
        }
    }

    /// Encodes and commits `work`; waits while too many command buffers are on their way. `done` is told the end, once.
    pub fn submit(&self, work: Arc<Work>, done: Completion) {
        let flight = Arc::new(Flight::new(done));
        let result = G::pool(|| {
            let mut state = lock(&self.state);
            let number = state.submitted;
            state.submitted += 1;
            let result = self
                .start_trace(&mut state, number)
                .and_then(|()| self.commit_parts(&work, &flight, number, state.tracing));
            self.stop_trace(&mut state, number);
            result
        });
        // This share of the list goes before the end is told: who waits finds the buffers free again. The lock is free by
        // then, since what an owner's destructor does is not known here: it may submit work.
        let released = release(work).map_err(MlxError::CommandBufferError);
        flight.end(result.and(released).err(), None);
    }

    fn commit_parts(
        &self,
        work: &Arc<Work>,
        flight: &Arc<Flight>,
        number: u64,
        signposts: bool,
    ) -> Result<()> {
        let limits = EncodeLimits {
            threadgroup_memory: self.threadgroup_memory,
            signposts,
        };
        for (i, part) in split::parts(work, &self.bounds).into_iter().enumerate() {
            let slot = self.gate.enter();
            let Some(mut commands) = self.gpu.begin(&format!("mlx-native {number}.{i}")) else {
                return Err(MlxError::CommandBufferError(
                    "metal: the queue gives no command buffer".to_owned(),
                ));
            };
            encode::<G>(work, part.clone(), &limits, &mut commands)?;
            let flight = flight.clone();
            flight.begin();
            // The list's buffers and pipelines, and the device with its fence: the command buffer keeps nothing alive.
            let (kept, gpu) = (work.clone(), self.gpu.clone());
            commands.commit(Box::new(move |ended: Ended| {
                let error = ended
                    .error
                    .as_ref()
                    .map(|e| command_buffer_error(e, &place(&kept, &part)));
                // The place first: whoever waits for it holds the lock that a destructor might want.
                drop(slot);
                let released = release(kept).map_err(MlxError::CommandBufferError);
                drop(gpu);
                flight.end(error.or(released.err()), Some((ended.start, ended.end)));
            }));
        }
        Ok(())
    }

    fn start_trace(&self, state: &mut State, number: u64) -> Result<()> {
        let Some(trace) = state.trace.as_ref().filter(|t| t.first == number) else {
            return Ok(());
        };
        self.gpu.start_trace(&trace.path).map_err(|why| {
            MlxError::IoError(format!("metal: no trace to {}: {why}", trace.path.display()))
        })?;
        state.tracing = true;
        Ok(())
    }

    fn stop_trace(&self, state: &mut State, number: u64) {
        let last = state.trace.as_ref().map(|t| t.first.saturating_add(t.count.max(1)) - 1);
        if state.tracing && last == Some(number) {
            self.gpu.stop_trace();
            state.tracing = false;
        }
    }
}

/// A list of work on its way: some command buffers, one end.
struct Flight {
    state: Mutex<FlightState>,
}

struct FlightState {
    /// Taken when the end is reported.
    done: Option<Completion>,
    /// Command buffers that have not ended, and one for the thread that submits.
    open: usize,
    error: Option<MlxError>,
    span: Option<(f64, f64)>,
}

impl Flight {
    fn new(done: Completion) -> Self {
        Flight {
            state: Mutex::new(FlightState {
                done: Some(done),
                open: 1,
                error: None,
                span: None,
            }),
        }
    }

    fn begin(&self) {
        lock(&self.state).open += 1;
    }

    /// One less is open. The first error counts; the last one to end reports.
    fn end(&self, error: Option<MlxError>, span: Option<(f64, f64)>) {
        let mut state = lock(&self.state);
        state.error = state.error.take().or(error);
        state.span = match (state.span, span) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
        state.open -= 1;
        if state.open > 0 {
            return;
        }
        let result = state.error.take().map_or(Ok(()), Err);
        let device = state
            .span
            .and_then(|(start, end)| Duration::try_from_secs_f64(end - start).ok());
        let done = state.done.take();
        drop(state);
        if let Some(done) = done {
            done.finish(result, Timing { device });
        }
    }
}

/// Lets in so many command buffers, and makes the next one wait.
#[derive(Debug)]
struct Gate {
    most: u32,
    inside: Mutex<u32>,
    left: Condvar,
}

/// A place inside; dropped when the command buffer has ended.
struct Slot(Arc<Gate>);

impl Gate {
    fn new(most: u32) -> Self {
        Gate {
            most: most.max(1),
            inside: Mutex::new(0),
            left: Condvar::new(),
        }
    }

    fn enter(self: &Arc<Self>) -> Slot {
        let mut inside = lock(&self.inside);
        while *inside >= self.most {
            inside = self.left.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
        *inside += 1;
        Slot(self.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *lock(&self.0.inside) -= 1;
        self.0.left.notify_one();
    }
}

/// The dispatches of a part, in words.
fn place(work: &Work, part: &Range<usize>) -> String {
    let dispatches = |range: Range<usize>| {
        work.commands[range].iter().filter_map(|c| match c {
            Command::Dispatch(d) => Some(d.pipeline.label()),
            Command::Barrier | Command::Copy(_) | Command::Fill(_) => None,
        })
    };
    let before = dispatches(0..part.start).count();
    let mut inside = dispatches(part.clone());
    let first = inside.next().unwrap_or_default();
    let (count, last) = inside.fold((1, first), |(n, _), label| (n + 1, label));
    let all = dispatches(0..work.commands.len()).count();
    format!("dispatches {} to {} of {all} ({first} to {last})", before + 1, before + count)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
