//! From a list of work to what the driver is told: functions in the form that each launch needs, parameters, addresses.
//! All that can be wrong with a list shows here, before anything of it runs.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::bodies::ManyLaunches;
use super::compile::{Compiled, CudaPipeline};
use super::gpu::{Address, Gpu, Launch};
use super::memory::CudaMemory;
use super::text::Form;
use crate::backend::{Arg, Binding, Command, Dispatch, Grid, Limits, Place, Work};
use crate::error::{MlxError, Result};

/// The most threadgroups along y and z.
const MAX_GROUPS_YZ: u32 = 65535;
/// The most threadgroups along x.
const MAX_GROUPS_X: u64 = i32::MAX as u64;
/// Threadgroup memory begins at multiples of this.
const THREADGROUP_UNIT: u32 = 16;

/// What is told to the driver.
pub(super) enum Step<G: Gpu> {
    Launch(LaunchStep<G>),
    Copy {
        from: Address,
        to: Address,
        byte_len: usize,
    },
    Fill {
        to: Address,
        byte_len: usize,
        value: u8,
    },
}

/// A launch, its parameters in the plan.
pub(super) struct LaunchStep<G: Gpu> {
    pub compiled: Arc<Compiled<G>>,
    /// Which of its stages is launched; none: the function itself.
    stage: Option<usize>,
    /// Which of the list's commands it is.
    pub command: usize,
    blocks: [u32; 3],
    threads: [u32; 3],
    shared_memory: u32,
    /// As a range of the plan's parameters.
    parameters: Range<usize>,
}

/// Where a parameter's bytes are.
enum Parameter {
    /// In the list's inline bytes.
    Inline(Range<usize>),
    /// In the plan's own.
    Own(Range<usize>),
    /// The address of scratch memory.
    Scratch,
}

/// A list of work, ready to be told to the driver.
pub(super) struct Plan<G: Gpu> {
    pub steps: Vec<Step<G>>,
    parameters: Vec<Parameter>,
    bytes: Vec<u8>,
    /// Inline bytes that a kernel wants by address: the list's inline bytes must be on the device, from here on.
    inline: Option<Address>,
    /// Bytes of scratch memory that all launches share, one after the other.
    scratch_len: usize,
    scratch: [u8; size_of::<Address>()],
}

/// What is in the scratch memory besides a launch's own: a stage that need not run again for the same input, until something
/// that was before may be written.
struct Left<G: Gpu> {
    compiled: Arc<Compiled<G>>,
    input: Address,
    shape: [u32; 3],
}

impl<G: Gpu> Left<G> {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.compiled, &other.compiled) && self.input == other.input && self.shape == other.shape
    }
}

impl<G: Gpu> Plan<G> {
    /// Plans `work`. `inline` puts the list's inline bytes on the device, where a kernel wants such by address, and says
    /// where they are.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] naming the kernel and the argument; what compiling a further form of a kernel gives;
    /// what `inline` gives.
    pub fn new(work: &Work, limits: &Limits, inline: impl FnOnce(&[u8]) -> Result<Address>) -> Result<Self> {
        let mut plan = Plan {
            steps: Vec::with_capacity(work.commands.len()),
            parameters: Vec::new(),
            bytes: Vec::new(),
            inline: None,
            scratch_len: 0,
            scratch: [0; size_of::<Address>()],
        };
        // All that must still be compiled is begun before any of it is waited for.
        for dispatch in work.commands.iter() {
            if let Command::Dispatch(dispatch) = dispatch {
                let (pipeline, form) = form_of::<G>(dispatch, work.bindings(dispatch))?;
                pipeline.want(form);
            }
        }
        let (mut inline, mut left) = (Some(inline), None);
        for (command, what) in work.commands.iter().enumerate() {
            match what {
                // One stream runs everything in order.
                Command::Barrier => left = None,
                Command::Copy(copy) => plan.steps.push(Step::Copy {
                    from: place::<G>("copy", &copy.from)?,
                    to: place::<G>("copy", &copy.to)?,
                    byte_len: copy.to.byte_len,
                }),
                Command::Fill(fill) => plan.steps.push(Step::Fill {
                    to: place::<G>("fill", &fill.to)?,
                    byte_len: fill.to.byte_len,
                    value: fill.value,
                }),
                Command::Dispatch(dispatch) => {
                    let bindings = work.bindings(dispatch);
                    let compiled = compiled::<G>(dispatch, bindings)?;
                    if plan.inline.is_none()
                        && wants_address(&compiled, bindings)
                        && let Some(put) = inline.take()
                    {
                        plan.inline = Some(put(&work.bytes)?);
                    }
                    plan.launch(work, dispatch, compiled, command, limits, &mut left)?;
                }
            }
        }
        Ok(plan)
    }

    fn launch(
        &mut self,
        work: &Work,
        dispatch: &Dispatch,
        compiled: Arc<Compiled<G>>,
        command: usize,
        limits: &Limits,
        left: &mut Option<Left<G>>,
    ) -> Result<()> {
        let name = dispatch.pipeline.label();
        let start = self.parameters.len();
        let mut n_copied = 0;
        for argument in &compiled.entry.arguments {
            let bound = work.bindings(dispatch).iter().find(|b| b.index == argument.index);
            let length = argument.copied.as_ref().map(|_| compiled.facts.lengths[n_copied]);
            n_copied += usize::from(length.is_some());
            self.argument(name, argument.index, bound.map(|b| &b.arg), length, work)?;
        }
        if let Some(launches) = many_of(work, dispatch, &compiled) {
            self.stages(work, dispatch, &compiled, command, &launches, start, left);
            return Ok(());
        }
        let shared_memory = self.threadgroup_memory(dispatch, &compiled, limits)?;
        let groups = dispatch.grid.threadgroups(dispatch.group);
        let (mut blocks, mut threads) = (groups, dispatch.group);
        let mut shared_memory = shared_memory;
        if let Some(body) = compiled.entry.body {
            blocks[0] = blocks[0].div_ceil(body.groups[0]);
            blocks[1] = blocks[1].div_ceil(body.groups[1]);
            threads = [body.threads, 1, 1];
            shared_memory = body.shared_memory;
        }
        if compiled.entry.mapped {
            let count = groups.iter().try_fold(1u64, |n, g| n.checked_mul(u64::from(*g)));
            let Some(count) = count.filter(|n| *n <= MAX_GROUPS_X) else {
                return refuse(
                    name,
                    format!("{groups:?} threadgroups: {MAX_GROUPS_X} in all are possible"),
                );
            };
            blocks = [count as u32, 1, 1];
            threads = [dispatch.group.iter().product(), 1, 1];
            let all = match dispatch.grid {
                Grid::Threads(n) => n,
                Grid::Threadgroups(n) => [0, 1, 2].map(|i| n[i].wrapping_mul(dispatch.group[i])),
            };
            for n in all.into_iter().chain(dispatch.group).chain(groups) {
                self.bytes.extend_from_slice(&n.to_ne_bytes());
            }
            let end = self.bytes.len();
            self.parameters.push(Parameter::Own(end - 36..end));
        } else if u64::from(blocks[0]) > MAX_GROUPS_X {
            return refuse(
                name,
                format!("{groups:?} threadgroups: {MAX_GROUPS_X} along x are possible"),
            );
        }
        // Asked here for what was recorded before the function was there.
        let in_all: u32 = threads.iter().product();
        if in_all > compiled.facts.max_threads {
            return refuse(
                name,
                format!(
                    "a threadgroup of {in_all} threads, 1 to {} are possible",
                    compiled.facts.max_threads
                ),
            );
        }
        self.steps.push(Step::Launch(LaunchStep {
            compiled,
            stage: None,
            command,
            blocks,
            threads,
            shared_memory,
            parameters: start..self.parameters.len(),
        }));
        Ok(())
    }

    /// Launches the stages that take the place of a function, whose arguments are the parameters from `start` on.
    fn stages(
        &mut self,
        work: &Work,
        dispatch: &Dispatch,
        compiled: &Arc<Compiled<G>>,
        command: usize,
        launches: &ManyLaunches,
        start: usize,
        left: &mut Option<Left<G>>,
    ) {
        let Some(many) = compiled.entry.many else { return };
        self.parameters.push(Parameter::Scratch);
        self.scratch_len = self.scratch_len.max(launches.scratch);
        let now = input_of::<G>(work, dispatch).map(|input| Left {
            compiled: compiled.clone(),
            input,
            shape: launches.shape,
        });
        let is_there = left.as_ref().zip(now.as_ref()).is_some_and(|(l, n)| l.is(n));
        *left = now;
        for (i, (stage, blocks)) in many.0.stages.iter().zip(launches.blocks).enumerate() {
            if i == many.0.shared && is_there {
                continue;
            }
            self.steps.push(Step::Launch(LaunchStep {
                compiled: compiled.clone(),
                stage: Some(i),
                command,
                blocks: [blocks[0], blocks[1], 1],
                threads: [stage.threads, 1, 1],
                shared_memory: stage.shared_memory,
                parameters: start..self.parameters.len(),
            }));
        }
    }

    /// Bytes of scratch memory that must be given before anything is told.
    pub fn scratch_len(&self) -> usize {
        self.scratch_len
    }

    /// Where they are.
    pub fn set_scratch(&mut self, address: Address) {
        self.scratch = address.to_ne_bytes();
    }

    fn argument(
        &mut self,
        name: &str,
        index: u32,
        bound: Option<&Arg>,
        copied: Option<usize>,
        work: &Work,
    ) -> Result<()> {
        let address = match bound {
            // An argument that a function constant left out.
            None if copied.is_none() => 0,
            None => {
                self.own(&vec![0; copied.unwrap_or_default()]);
                return Ok(());
            }
            Some(Arg::Bytes { start, byte_len }) => {
                let range = *start as usize..*start as usize + *byte_len as usize;
                if work.bytes.get(range.clone()).is_none() {
                    return refuse(
                        name,
                        format!("argument {index}: {byte_len} inline bytes that the list does not have"),
                    );
                }
                match copied {
                    Some(wanted) if range.len() < wanted => {
                        return refuse(
                            name,
                            format!(
                                "argument {index}: {byte_len} inline bytes, the kernel's type has {wanted}"
                            ),
                        );
                    }
                    Some(_) => {
                        self.parameters.push(Parameter::Inline(range));
                        return Ok(());
                    }
                    None => self.inline.unwrap_or_default() + u64::from(*start),
                }
            }
            Some(Arg::Buffer {
                allocation, offset, ..
            }) => {
                let Some(memory) = allocation.memory().as_any().downcast_ref::<CudaMemory<G>>() else {
                    return refuse(name, format!("argument {index}: memory of another device"));
                };
                memory.address() + *offset as u64
            }
        };
        self.own(&address.to_ne_bytes());
        Ok(())
    }

    /// Appends a parameter to the plan's own bytes.
    fn own(&mut self, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.parameters.push(Parameter::Own(start..self.bytes.len()));
    }

    /// Appends the places of threadgroup memory, in the order of the entry, and gives the bytes of all.
    fn threadgroup_memory(
        &mut self,
        dispatch: &Dispatch,
        compiled: &Compiled<G>,
        limits: &Limits,
    ) -> Result<u32> {
        let name = dispatch.pipeline.label();
        let mut at = 0u32;
        for index in &compiled.entry.threadgroup {
            let asked = dispatch
                .threadgroup_memory
                .iter()
                .find(|(i, _)| i == index)
                .map_or(0, |(_, n)| *n);
            self.own(&at.to_ne_bytes());
            let end = asked
                .checked_next_multiple_of(THREADGROUP_UNIT)
                .and_then(|n| at.checked_add(n));
            let total = end.and_then(|end| end.checked_add(compiled.facts.shared_memory));
            match (end, total) {
                (Some(end), Some(total)) if total <= limits.max_threadgroup_memory => at = end,
                _ => {
                    return refuse(
                        name,
                        format!(
                            "{asked} bytes of threadgroup memory {index}, {} declared in the kernel, {at} of other \
                             arguments: {} are possible",
                            compiled.facts.shared_memory, limits.max_threadgroup_memory
                        ),
                    );
                }
            }
        }
        Ok(at)
    }

    /// Whether the list's inline bytes are on the device as long as it runs.
    pub fn has_inline(&self) -> bool {
        self.inline.is_some()
    }

    /// The functions of the launches.
    pub fn functions(&self) -> impl Iterator<Item = &Arc<Compiled<G>>> {
        self.steps.iter().filter_map(|step| match step {
            Step::Launch(launch) => Some(&launch.compiled),
            _ => None,
        })
    }

    /// A number that plans of one shape share: the same functions, copies and fills in the same order.
    pub fn shape(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        for step in &self.steps {
            match step {
                Step::Launch(launch) => {
                    (Arc::as_ptr(&launch.compiled), launch.stage).hash(&mut hasher);
                }
                Step::Copy { .. } => 1u8.hash(&mut hasher),
                Step::Fill { .. } => 2u8.hash(&mut hasher),
            }
        }
        self.steps.len().hash(&mut hasher);
        hasher.finish()
    }

    /// What the driver is told of a launch.
    pub fn tell<R>(
        &self,
        step: &LaunchStep<G>,
        work: &Work,
        early: bool,
        tell: impl FnOnce(Launch<'_, G::Function>) -> R,
    ) -> R {
        let parameters: SmallVec<[&[u8]; 16]> = self.parameters[step.parameters.clone()]
            .iter()
            .map(|p| match p {
                Parameter::Inline(range) => &work.bytes[range.clone()],
                Parameter::Own(range) => &self.bytes[range.clone()],
                Parameter::Scratch => &self.scratch[..],
            })
            .collect();
        tell(Launch {
            function: step
                .stage
                .map_or(&step.compiled.function, |i| &step.compiled.stages[i]),
            blocks: step.blocks,
            threads: step.threads,
            shared_memory: step.shared_memory,
            parameters: &parameters,
            early,
        })
    }
}

/// The stages that take the place of a function, where it has them and the sizes are such.
fn many_of<G: Gpu>(work: &Work, dispatch: &Dispatch, compiled: &Compiled<G>) -> Option<ManyLaunches> {
    let many = compiled.entry.many.filter(|_| !compiled.stages.is_empty())?;
    let bindings = work.bindings(dispatch);
    let Arg::Bytes { start, byte_len } = bindings.iter().find(|b| b.index == many.0.sizes)?.arg else {
        return None;
    };
    let bytes = work.bytes.get(start as usize..(start + byte_len) as usize)?;
    let words: SmallVec<[u32; 8]> = bytes
        .chunks_exact(4)
        .map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]))
        .collect();
    (many.0.launches)(&words, compiled.multiprocessors)
}

/// Where argument 0 is.
fn input_of<G: Gpu>(work: &Work, dispatch: &Dispatch) -> Option<Address> {
    let binding = work.bindings(dispatch).iter().find(|b| b.index == 0)?;
    let Arg::Buffer {
        allocation, offset, ..
    } = &binding.arg
    else {
        return None;
    };
    let memory = allocation.memory().as_any().downcast_ref::<CudaMemory<G>>()?;
    Some(memory.address() + *offset as u64)
}

/// The function in the form that a dispatch needs.
fn compiled<G: Gpu>(dispatch: &Dispatch, bindings: &[Binding]) -> Result<Arc<Compiled<G>>> {
    let (pipeline, form) = form_of::<G>(dispatch, bindings)?;
    pipeline.of_form(form)
}

/// The pipeline of a dispatch, and the form that it needs.
fn form_of<'d, G: Gpu>(dispatch: &'d Dispatch, bindings: &[Binding]) -> Result<(&'d CudaPipeline<G>, Form)> {
    let Some(pipeline) = dispatch
        .pipeline
        .body()
        .as_any()
        .downcast_ref::<CudaPipeline<G>>()
    else {
        return refuse(
            dispatch.pipeline.label(),
            "the pipeline was not made by a cuda device",
        );
    };
    let (usual, entry) = pipeline.usual();
    let mut form = Form {
        mapped: usual.mapped || needs_mapping(dispatch),
        pointers: 0,
    };
    for argument in entry.arguments.iter().filter(|a| a.copied.is_some()) {
        let to_buffer = |b: &Binding| b.index == argument.index && matches!(b.arg, Arg::Buffer { .. });
        if bindings.iter().any(to_buffer) {
            form.pointers |= 1 << argument.index;
        }
    }
    Ok((pipeline, form))
}

/// Whether the grid's blocks cannot be its threadgroups as they are.
fn needs_mapping(dispatch: &Dispatch) -> bool {
    let groups = dispatch.grid.threadgroups(dispatch.group);
    let partial = match dispatch.grid {
        Grid::Threadgroups(_) => false,
        Grid::Threads(n) => (0..3).any(|i| !n[i].is_multiple_of(dispatch.group[i])),
    };
    partial || groups[1] > MAX_GROUPS_YZ || groups[2] > MAX_GROUPS_YZ
}

/// Whether inline bytes are bound to an argument that is an address.
fn wants_address<G: Gpu>(compiled: &Compiled<G>, bindings: &[Binding]) -> bool {
    let pointers = compiled.entry.arguments.iter().filter(|a| a.copied.is_none());
    pointers.into_iter().any(|a| {
        let inline = |b: &Binding| b.index == a.index && matches!(b.arg, Arg::Bytes { .. });
        bindings.iter().any(inline)
    })
}

fn place<G: Gpu>(what: &str, place: &Place) -> Result<Address> {
    match place.allocation.memory().as_any().downcast_ref::<CudaMemory<G>>() {
        Some(memory) => Ok(memory.address() + place.offset as u64),
        None => refuse(what, "memory of another device"),
    }
}

fn refuse<T>(what: &str, why: impl std::fmt::Display) -> Result<T> {
    Err(MlxError::InvalidArgument(format!("{what}: {why}")))
}
