//! Submitting: a list of work goes into the stream, and a thread waits for its end.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::compile::Compiled;
use super::gpu::{Address, Failure, Gpu};
use super::health::Health;
use super::plan::{Plan, Step};
use crate::backend::submission::release;
use crate::backend::{Command, Completion, Limits, Timing, Work};
use crate::config::CudaConfig;
use crate::error::{MlxError, Result};

/// The stream of a device. Work of any thread goes through here, one list at a time.
pub(super) struct Queue<G: Gpu> {
    gpu: Arc<G>,
    health: Arc<Health>,
    limits: Limits,
    /// Wait after every step, so that a failure names its kernel.
    synchronous: bool,
    /// Lists of so many steps and more are run as graphs.
    graphs_from: usize,
    /// None once the device is being dropped.
    state: Mutex<Option<State<G>>>,
    waiter: Option<JoinHandle<()>>,
}

struct State<G: Gpu> {
    flights: Sender<Flight<G>>,
    /// Graphs of the shapes that ran last, the latest at the end.
    graphs: Vec<KeptGraph<G>>,
    /// Memory that lists use one after the other: address and bytes.
    scratch: Option<(Address, usize)>,
}

struct KeptGraph<G: Gpu> {
    shape: u64,
    /// The list that it is for, where that one comes again; otherwise lists of its shape share it.
    list: Option<Weak<Work>>,
    graph: G::Graph,
    /// Loaded as long as the graph may run; also, the shape is made of their addresses.
    _functions: Vec<Arc<Compiled<G>>>,
}

/// Graphs that are kept: a model has a few shapes of lists.
const KEPT_GRAPHS: usize = 16;

impl<G: Gpu> KeptGraph<G> {
    /// Whether it was made of this very list.
    fn is_of(&self, work: &Arc<Work>) -> bool {
        self.list
            .as_ref()
            .is_some_and(|w| w.as_ptr() == Arc::as_ptr(work))
    }

    /// Whether its list is gone, and nothing can ask for it any more.
    fn is_over(&self) -> bool {
        self.list.as_ref().is_some_and(|w| w.strong_count() == 0)
    }
}

/// A list of work in the stream.
struct Flight<G: Gpu> {
    work: Arc<Work>,
    /// Keeps the functions loaded, and knows where inline bytes are.
    plan: Option<Plan<G>>,
    inline: Option<Address>,
    /// Graphs whose last run is this list's or an earlier one's.
    retired: Vec<KeptGraph<G>>,
    span: Option<(G::Event, G::Event)>,
    /// What went wrong before all of it was in the stream.
    error: Option<MlxError>,
    done: Completion,
}

impl<G: Gpu> Queue<G> {
    /// Starts the thread that waits.
    ///
    /// # Errors
    /// [`MlxError::DeviceUnavailable`] when there is no thread to be had.
    pub fn new(gpu: Arc<G>, health: Arc<Health>, limits: Limits, config: &CudaConfig) -> Result<Self> {
        let (flights, arrivals) = channel::<Flight<G>>();
        let (waiter, waiter_health) = (gpu.clone(), health.clone());
        let waiter = std::thread::Builder::new()
            .name("mlx cuda".to_owned())
            .spawn(move || {
                // Ends when the device, and with it the sender, is dropped.
                for flight in arrivals {
                    flight.end(&*waiter, &waiter_health);
                }
            })
            .map_err(|e| MlxError::DeviceUnavailable(format!("cuda: {e}")))?;
        Ok(Queue {
            gpu,
            health,
            limits,
            synchronous: config.synchronous,
            graphs_from: config
                .graphs_from
                .filter(|_| !config.synchronous)
                .unwrap_or(usize::MAX),
            state: Mutex::new(Some(State {
                flights,
                graphs: Vec::new(),
                scratch: None,
            })),
            waiter: Some(waiter),
        })
    }

    /// Puts `work` into the stream; `done` is told the end.
    pub fn submit(&self, work: Arc<Work>, done: Completion) {
        // Held until the flight is on its way: lists reach stream and thread in one order.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut flight = Flight {
            work,
            plan: None,
            inline: None,
            retired: Vec::new(),
            span: None,
            error: None,
            done,
        };
        let unsent = match &mut *state {
            Some(state) => {
                flight.error = self.launch(&mut flight, state).err();
                state.flights.send(flight).err().map(|e| e.0)
            }
            None => Some(flight),
        };
        if let Some(mut flight) = unsent {
            flight.error.get_or_insert(MlxError::CommandBufferError(
                "cuda: the thread that waits is gone".to_owned(),
            ));
            flight.end(&*self.gpu, &self.health);
        }
    }

    fn launch(&self, flight: &mut Flight<G>, state: &mut State<G>) -> Result<()> {
        self.health.check()?;
        let work = flight.work.clone();
        let queue_error = |e: Failure| self.health.error("the queue", &e);
        let State { graphs, scratch, .. } = state;
        let (start, result) = match graphs.iter().position(|g| g.is_of(&work)) {
            Some(at) => {
                let start = self.gpu.record().map_err(queue_error)?;
                let kept = graphs.remove(at);
                let result = self.gpu.run_again(&kept.graph);
                let kept_in = if result.is_ok() {
                    graphs
                } else {
                    &mut flight.retired
                };
                kept_in.push(kept);
                (start, result.map_err(|e| self.health.error(&names(&work), &e)))
            }
            None => {
                let inline = &mut flight.inline;
                let plan = Plan::new(&work, &self.limits, |bytes| self.put(bytes, inline))?;
                let plan = flight.plan.insert(plan);
                if plan.scratch_len() > 0 {
                    let address = self.scratch(plan.scratch_len(), scratch, graphs, &mut flight.retired)?;
                    plan.set_scratch(address);
                }
                let start = self.gpu.record().map_err(queue_error)?;
                let result = if !plan.steps.is_empty() && plan.steps.len() >= self.graphs_from {
                    self.run_as_graph(&work, plan, graphs, &mut flight.retired)
                } else {
                    self.steps(&work, plan, work.repeats)
                        .map_err(|(name, e)| self.health.error(&name, &e))
                };
                (start, result)
            }
        };
        // Also when a step failed: those before it are in the stream, and use the memory of the list.
        let end = self.gpu.record().map_err(queue_error);
        match end {
            Ok(end) => flight.span = Some((start, end)),
            Err(error) => {
                let _ = self.gpu.wait_for_all();
                return result.and(Err(error));
            }
        }
        result
    }

    /// Scratch memory of `len` bytes at least. Where it must grow, graphs that know the old one are kept no more.
    fn scratch(
        &self,
        len: usize,
        scratch: &mut Option<(Address, usize)>,
        graphs: &mut Vec<KeptGraph<G>>,
        retired: &mut Vec<KeptGraph<G>>,
    ) -> Result<Address> {
        if let Some((address, _)) = scratch.filter(|s| s.1 >= len) {
            return Ok(address);
        }
        let error = |e: Failure| self.health.error("scratch memory", &e);
        if let Some((address, _)) = scratch.take() {
            retired.append(graphs);
            self.gpu.wait_for_all().map_err(error)?;
            self.gpu.free(address);
        }
        let address = self.gpu.allocate(len, false).map_err(error)?;
        *scratch = Some((address, len));
        Ok(address)
    }

    /// Puts inline bytes on the device.
    fn put(&self, bytes: &[u8], at: &mut Option<Address>) -> Result<Address> {
        let error = |e: Failure| self.health.error("inline bytes", &e);
        let address = self.gpu.allocate(bytes.len(), false).map_err(error)?;
        *at = Some(address);
        self.gpu.upload(address, bytes).map_err(error)?;
        Ok(address)
    }

    /// Runs a list as one. The driver needs a fraction of the time that single launches take, also where parameters have
    /// changed since the last list of this shape. Graphs that are not kept any more go to `retired`.
    fn run_as_graph(
        &self,
        work: &Arc<Work>,
        plan: &Plan<G>,
        graphs: &mut Vec<KeptGraph<G>>,
        retired: &mut Vec<KeptGraph<G>>,
    ) -> Result<()> {
        let shape = plan.shape();
        // Inline bytes on the device are given back with the list's end.
        let list = (work.repeats && !plan.has_inline()).then(|| Arc::downgrade(work));
        retired.extend(graphs.extract_if(.., |g| g.is_over()));
        // A list that comes again has a graph of its own, whose launches may start early.
        let known = graphs
            .iter()
            .position(|g| list.is_none() && g.list.is_none() && g.shape == shape)
            .map(|i| graphs.remove(i));
        let queue_error = |e: Failure| self.health.error("the queue", &e);
        self.gpu.begin_graph().map_err(queue_error)?;
        let put = self.steps(work, plan, list.is_some());
        let names = put
            .as_ref()
            .err()
            .map_or_else(|| names(work), |(name, _)| name.clone());
        let made = self
            .gpu
            .run_graph(put.map_err(|(_, e)| e), known.as_ref().map(|k| &k.graph));
        let kept = match made {
            Ok(None) => known,
            Ok(Some(graph)) => {
                retired.extend(known);
                let mut functions: Vec<Arc<Compiled<G>>> = plan.functions().cloned().collect();
                functions.sort_by_key(Arc::as_ptr);
                functions.dedup_by_key(|f| Arc::as_ptr(f));
                Some(KeptGraph {
                    shape,
                    list,
                    graph,
                    _functions: functions,
                })
            }
            Err(e) => {
                retired.extend(known);
                return Err(self.health.error(&names, &e));
            }
        };
        if graphs.len() >= KEPT_GRAPHS {
            retired.push(graphs.remove(0));
        }
        graphs.extend(kept);
        Ok(())
    }

    /// Tells the driver every step; of one that fails, what it is. `early`: launches behind launches may start early.
    fn steps(&self, work: &Work, plan: &Plan<G>, early: bool) -> std::result::Result<(), (String, Failure)> {
        let mut is_behind_launch = false;
        for step in &plan.steps {
            let (name, done) = self.step(work, plan, step, early && is_behind_launch);
            is_behind_launch = matches!(step, Step::Launch(_));
            let done = if self.synchronous {
                done.and_then(|()| self.gpu.wait_for_all())
            } else {
                done
            };
            done.map_err(|e| (name.to_owned(), e))?;
        }
        Ok(())
    }

    fn step<'w>(
        &self,
        work: &'w Work,
        plan: &Plan<G>,
        step: &Step<G>,
        early: bool,
    ) -> (&'w str, std::result::Result<(), Failure>) {
        match step {
            Step::Launch(launch) => {
                let name = match &work.commands[launch.command] {
                    Command::Dispatch(dispatch) => dispatch.pipeline.label(),
                    _ => "launch",
                };
                (name, plan.tell(launch, work, early, |l| self.gpu.launch(l)))
            }
            Step::Copy { from, to, byte_len } => ("copy", self.gpu.copy(*from, *to, *byte_len)),
            Step::Fill { to, byte_len, value } => ("fill", self.gpu.fill(*to, *byte_len, *value)),
        }
    }
}

impl<G: Gpu> Drop for Queue<G> {
    /// Waits for the thread: what it holds of the driver must be gone before the process may end. Not if it is that thread
    /// which drops the device, with the last list that knew it.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(State {
            flights,
            graphs,
            scratch,
        }) = state.take()
        else {
            return;
        };
        drop(flights);
        if let Some(waiter) = self.waiter.take()
            && waiter.thread().id() != std::thread::current().id()
        {
            // If it panicked, whoever waited for its work was told so.
            let _ = waiter.join();
        }
        // Their last runs must have ended, also where the thread was not waited for.
        let _ = self.gpu.wait_for_all();
        drop(graphs);
        if let Some((address, _)) = scratch {
            self.gpu.free(address);
        }
    }
}

impl<G: Gpu> Flight<G> {
    /// Waits for the end of the work, lets go of what it used, and reports.
    fn end(self, gpu: &G, health: &Health) {
        let Flight {
            work,
            plan,
            inline,
            retired,
            span,
            error,
            done,
        } = self;
        let mut result = error.map_or(Ok(()), Err);
        let mut device = None;
        if let Some((start, end)) = &span {
            match gpu.wait(end) {
                Ok(()) => {
                    let seconds = gpu.seconds(start, end).ok();
                    device = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
                }
                Err(failure) => {
                    let failed = health.error(&names(&work), &failure);
                    result = result.and(Err(failed));
                }
            }
        }
        drop((span, retired));
        if let Some(address) = inline {
            gpu.free(address);
        }
        // Before the end is told: who waits finds the buffers free again.
        let released = release(plan).and(release(work));
        if let Err(why) = released {
            tracing::error!(why, "cuda");
            result = result.and(Err(MlxError::CommandBufferError(why)));
        }
        done.finish(result, Timing { device });
    }
}

/// The dispatches of a list, in words: a failure while it ran may be of any.
fn names(work: &Work) -> String {
    let mut labels = work.commands.iter().filter_map(|c| match c {
        Command::Dispatch(d) => Some(d.pipeline.label()),
        _ => None,
    });
    let first = labels.next().unwrap_or("no dispatch");
    let (others, last) = labels.fold((0, first), |(n, _), label| (n + 1, label));
    if others == 0 {
        return first.to_owned();
    }
    format!(
        "one of {} dispatches ({first} to {last}; CudaConfig::synchronous finds out which)",
        others + 1
    )
}
