//! Names of kernels to texts, and to the pipelines that devices made of them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::Backend;
use crate::backend::cpu::CpuBody;
use crate::buffer::MlxBuffer;
use crate::device::{DeviceRef, MlxDevice};
use crate::dtype::DType;
use crate::error::{MlxError, Result};
use crate::kernel::{Bodies, ComputePipelineState, ConstantValue, Constants, Kernel, SourceText};

/// What the registry and the harness know of an operator.
pub(crate) struct Op {
    /// Name of the operator: its folder.
    #[cfg_attr(not(any(test, feature = "testing")), allow(dead_code))]
    pub name: &'static str,
    /// Metal text that defines its kernels.
    pub source: &'static str,
    /// Host names of the kernels, with their bodies for the CPU.
    pub kernels: &'static [(&'static str, CpuBody)],
}

/// Maps kernel names to Metal texts, and to the pipelines that devices made of them. Pipelines are cached in their device,
/// so that a second registry finds them.
///
/// A new registry knows every kernel of this library. [`register_source`](Self::register_source) adds kernels of your own
/// at run time: they run on `metal`, `cuda` and the `emulator`, and with a Rust function given to
/// [`register_body`](Self::register_body) on the `cpu`.
///
/// ```
/// use mlx_native::{KernelRegistry, MlxDevice};
/// let device = MlxDevice::new()?;
/// let mut registry = KernelRegistry::new();
/// let pipeline = registry.get_pipeline("add_f32", &device)?;
/// assert_eq!(pipeline.label(), "add_f32");
/// # Ok::<(), mlx_native::MlxError>(())
/// ```
#[derive(Debug)]
pub struct KernelRegistry {
    /// Kernels of this library, shared by all registries.
    base: Arc<KernelTable>,
    /// Kernels registered here; they come before those of `base`.
    own: HashMap<Arc<str>, Entry>,
    /// Pipelines handed out by reference. Boxed, so that an address stays the same when a list grows.
    #[allow(clippy::vec_box)]
    pipelines: HashMap<Arc<str>, Vec<Box<CachedPipeline>>>,
    /// Memory for intermediate results, one piece for each device.
    scratch: Vec<(Arc<dyn Backend>, MlxBuffer)>,
}

/// Kernels by name, and further names for them.
#[derive(Debug, Default)]
pub(crate) struct KernelTable {
    kernels: HashMap<Arc<str>, Entry>,
    names: HashMap<&'static str, &'static KernelName>,
}

/// A further name for a kernel.
#[derive(Debug)]
pub(crate) struct KernelName {
    /// The name.
    pub name: &'static str,
    /// The kernel; none for an empty text.
    pub kernel: Option<&'static str>,
    /// The function constants that the name stands for, in ascending order of index.
    pub constants: &'static [(u32, ConstantValue)],
}

#[derive(Debug, Clone)]
struct Entry {
    /// What the device's cache calls it: no two entries of the process share a number.
    number: u64,
    name: Arc<str>,
    source: Arc<SourceText>,
    bodies: Bodies,
}

#[derive(Debug)]
struct CachedPipeline {
    domain: u64,
    constants: Constants,
    state: ComputePipelineState,
}

impl Entry {
    fn new(name: Arc<str>, source: Arc<SourceText>, bodies: Bodies) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Entry {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            source,
            bodies,
        }
    }

    /// The kernels of one operator. Its text is parsed once for all of them.
    fn of_op(op: &Op) -> impl Iterator<Item = Entry> {
        let source = Arc::new(SourceText::of_library(op.source));
        op.kernels
            .iter()
            .map(move |(name, body)| Entry::new(Arc::from(*name), source.clone(), Bodies::of(*body)))
    }
}

impl KernelTable {
    /// The kernels of `ops`.
    pub(crate) fn of(ops: impl Iterator<Item = &'static Op>) -> Self {
        let kernels = ops.flat_map(Entry::of_op).map(|e| (e.name.clone(), e)).collect();
        KernelTable {
            kernels,
            names: HashMap::new(),
        }
    }

    /// The same with further names. Asked for without constants, a name gives the kernel with those that it stands for.
    pub(crate) fn with_names(mut self, names: &'static [KernelName]) -> Self {
        self.names = names.iter().map(|n| (n.name, n)).collect();
        self
    }
}

impl KernelRegistry {
    /// A registry that knows the kernels of `base`; none is compiled yet.
    pub(crate) fn with_base(base: Arc<KernelTable>) -> Self {
        KernelRegistry {
            base,
            own: HashMap::new(),
            pipelines: HashMap::new(),
            scratch: Vec::new(),
        }
    }

    /// Adds the kernels of one operator that are not known yet.
    pub(crate) fn register_op(&mut self, op: &Op) {
        if op.kernels.iter().all(|(name, _)| self.contains(name)) {
            return;
        }
        for entry in Entry::of_op(op) {
            if !self.contains(&entry.name) {
                self.own.insert(entry.name.clone(), entry);
            }
        }
    }

    /// Registers `source`, Metal Shading Language text that defines a kernel of the host name `name`. A text registered
    /// earlier under this name is replaced and its pipelines are dropped; a body for the `cpu` device goes with it. The
    /// text is read when a pipeline is first asked for.
    ///
    /// # Trust
    /// The text is code, and is run with what the device can do: the `emulator` compiles it for the processor and runs it
    /// inside this process, with all of its rights; a GPU runs it on memory that the driver maps for this process. Reading
    /// the signature is safe for any text, running it is not: register text that you would compile into your program.
    pub fn register_source(&mut self, name: impl Into<String>, source: impl Into<Cow<'static, str>>) {
        let source = Arc::new(SourceText::new(source.into()));
        self.replace(Entry::new(Arc::from(name.into()), source, Bodies::default()));
    }

    /// Gives kernel `name` a body for the `cpu` device, in place of one that it may have. Pipelines made earlier are
    /// dropped.
    ///
    /// The body is the twin of the kernel's text: it gets the same arguments by the same indices, checked against the same
    /// signature, and does in parts what the text does in threads.
    ///
    /// # Errors
    /// [`MlxError::KernelNotFound`] where no text is registered under the name: the signature comes from there.
    pub fn register_body(&mut self, name: &str, body: CpuBody) -> Result<()> {
        let known = self.entry(name)?;
        let mut bodies = known.bodies.clone();
        bodies.insert(body);
        self.replace(Entry::new(known.name.clone(), known.source.clone(), bodies));
        Ok(())
    }

    fn replace(&mut self, entry: Entry) {
        self.pipelines.remove(&entry.name);
        self.own.insert(entry.name.clone(), entry);
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.own
            .get(name)
            .or_else(|| self.base.kernels.get(name))
            .ok_or_else(|| MlxError::KernelNotFound(name.to_owned()))
    }

    /// The pipeline of kernel `name` on `device`, compiled on first use.
    ///
    /// # Errors
    /// [`MlxError::KernelNotFound`] for an unknown name, [`MlxError::ShaderCompilationError`] when the text does not
    /// compile, or is one that [`register_source`](Self::register_source) added and the device has no body for;
    /// [`MlxError::Unsupported`] when it has none for a kernel of this library.
    pub fn get_pipeline(
        &mut self,
        name: &str,
        device: &(impl AsRef<DeviceRef> + ?Sized),
    ) -> Result<&ComputePipelineState> {
        // Programs of 0.1 look for this error where a text of theirs comes to no pipeline.
        let is_own = self.own.contains_key(name);
        self.get_pipeline_with_constants(name, device, &[])
            .map_err(|error| match error {
                MlxError::Unsupported(message) if is_own => MlxError::ShaderCompilationError {
                    name: name.to_owned(),
                    message,
                },
                other => other,
            })
    }

    /// Like [`get_pipeline`](Self::get_pipeline), with values for the kernel's function constants, `(index, value)` in
    /// ascending order of index. Constants that are not given stay undefined, as in Metal.
    ///
    /// # Errors
    /// As `get_pipeline`; also [`MlxError::InvalidArgument`] for a constant that the text does not declare, or of another
    /// type than it declares.
    pub fn get_pipeline_with_constants(
        &mut self,
        name: &str,
        device: &(impl AsRef<DeviceRef> + ?Sized),
        constants: &[(u32, ConstantValue)],
    ) -> Result<&ComputePipelineState> {
        let device = device.as_ref();
        let domain = device.backend().pipeline_domain();
        let found = self.pipelines.get(name).and_then(|all| {
            all.iter()
                .position(|p| p.domain == domain && p.constants[..] == *constants)
        });
        let index = match found {
            Some(index) => index,
            None => {
                let state = self.pipeline(name, device, constants)?;
                let all = self.pipelines.entry(Arc::from(name)).or_default();
                all.push(Box::new(CachedPipeline {
                    domain,
                    constants: constants.into(),
                    state,
                }));
                all.len() - 1
            }
        };
        Ok(&self.pipelines[name][index].state)
    }

    /// The pipeline of kernel `name` on `device`, from the device's cache, or compiled for it.
    ///
    /// # Errors
    /// As [`get_pipeline_with_constants`](Self::get_pipeline_with_constants).
    pub fn pipeline(
        &self,
        name: &str,
        device: &(impl AsRef<DeviceRef> + ?Sized),
        constants: &[(u32, ConstantValue)],
    ) -> Result<ComputePipelineState> {
        let (name, constants) = match self.further_name(name).filter(|_| constants.is_empty()) {
            Some(further) => (kernel_of(further)?, further.constants),
            None => (name, constants),
        };
        let entry = self.entry(name)?;
        let device = device.as_ref();
        device.cached_pipeline(entry.number, constants, || build(entry, device, constants))
    }

    /// At least `byte_len` bytes on `device` for what an operator keeps between two of its kernels. All operators get the
    /// same bytes: the encoder puts barriers between their uses, and a device runs one submission after the other.
    pub(crate) fn scratch(&mut self, device: &MlxDevice, byte_len: usize) -> Result<MlxBuffer> {
        let backend = device.as_ref().backend();
        let known = self
            .scratch
            .iter()
            .position(|(owner, _)| Arc::ptr_eq(owner, backend));
        if let Some(buffer) = known
            .map(|i| &self.scratch[i].1)
            .filter(|b| b.byte_len() >= byte_len)
        {
            return Ok(buffer.share());
        }
        // Rounded up, so that a context that grows key by key does not allocate each time.
        let byte_len = byte_len.checked_next_power_of_two().unwrap_or(byte_len);
        let buffer = device.alloc_buffer(byte_len, DType::U8, vec![byte_len])?;
        let shared = buffer.share();
        match known {
            Some(i) => self.scratch[i].1 = buffer,
            None => self.scratch.push((backend.clone(), buffer)),
        }
        Ok(shared)
    }

    /// Whether a text is registered under `name`.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.entry(name).is_ok() || self.further_name(name).is_some()
    }

    /// What a further name stands for, unless a text of one's own has taken its place.
    fn further_name(&self, name: &str) -> Option<&'static KernelName> {
        self.base
            .names
            .get(name)
            .copied()
            .filter(|_| !self.own.contains_key(name))
    }

    /// The registered names, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let base = self
            .base
            .kernels
            .keys()
            .filter(|name| !self.own.contains_key(&***name));
        self.own.keys().chain(base).map(|k| &**k)
    }

    /// What is known of kernel `name`: text, signature, bodies.
    ///
    /// # Errors
    /// [`MlxError::KernelNotFound`]; [`MlxError::ShaderCompilationError`] when the text cannot be parsed or does not
    /// define the kernel.
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        match (self.entry(name), self.further_name(name)) {
            (Err(_), Some(further)) => describe(self.entry(kernel_of(further)?)?),
            (entry, _) => describe(entry?),
        }
    }

    /// Whether some pipeline of kernel `name` was handed out by [`get_pipeline`](Self::get_pipeline).
    #[must_use]
    pub fn is_cached(&self, name: &str) -> bool {
        self.pipelines.get(name).is_some_and(|all| !all.is_empty())
    }

    /// Number of pipelines handed out by [`get_pipeline`](Self::get_pipeline).
    #[must_use]
    pub fn cached_count(&self) -> usize {
        self.pipelines.values().map(Vec::len).sum()
    }

    /// Number of registered names, further names of kernels included.
    #[must_use]
    pub fn source_count(&self) -> usize {
        let further = self
            .base
            .names
            .keys()
            .filter(|name| self.entry(name).is_err())
            .count();
        self.names().count() + further
    }
}

/// The kernel behind a further name.
fn kernel_of(further: &KernelName) -> Result<&'static str> {
    further.kernel.ok_or_else(|| MlxError::ShaderCompilationError {
        name: further.name.to_owned(),
        message: "its text is empty".to_owned(),
    })
}

fn describe(entry: &Entry) -> Result<Kernel> {
    let name = &entry.name;
    let failed = |message: String| MlxError::ShaderCompilationError {
        name: name.to_string(),
        message,
    };
    let signature = entry
        .source
        .signature(name)
        .map_err(failed)?
        .ok_or_else(|| failed(format!("the text defines no kernel of the host name {name:?}")))?;
    Ok(Kernel {
        name: name.clone(),
        source: entry.source.clone(),
        signature,
        bodies: entry.bodies.clone(),
    })
}

fn build(
    entry: &Entry,
    device: &DeviceRef,
    constants: &[(u32, ConstantValue)],
) -> Result<ComputePipelineState> {
    let kernel = describe(entry)?;
    check_constants(&kernel, constants)?;
    let backend = device.backend();
    backend.supports(&kernel).map_err(|why| {
        MlxError::Unsupported(format!(
            "kernel {:?} on device {}: {why}",
            kernel.name,
            backend.kind()
        ))
    })?;
    let body = backend.compile(&kernel, constants)?;
    Ok(ComputePipelineState::new(
        kernel,
        constants.into(),
        body,
        backend.limits().max_threads_per_threadgroup,
        backend.pipeline_domain(),
    ))
}

fn check_constants(kernel: &Kernel, constants: &[(u32, ConstantValue)]) -> Result<()> {
    use crate::kernel::msl::ConstantType;
    let module = kernel
        .source
        .module()
        .map_err(|message| MlxError::ShaderCompilationError {
            name: kernel.name.to_string(),
            message,
        })?;
    for (index, value) in constants {
        let declared = module.constants.iter().find(|c| c.index == *index);
        let fits = declared.is_some_and(|c| {
            matches!(
                (value, c.ty),
                (ConstantValue::Bool(_), ConstantType::Bool)
                    | (ConstantValue::U32(_), ConstantType::UInt)
                    | (ConstantValue::I32(_), ConstantType::Int)
                    | (ConstantValue::F32Bits(_), ConstantType::Float)
            )
        });
        if !fits {
            let what = declared.map_or("is not declared".to_owned(), |c| {
                format!("is declared as {:?}", c.ty)
            });
            return crate::error::invalid!(
                "kernel {:?}: function constant {index} = {value:?} {what}",
                kernel.name
            );
        }
    }
    Ok(())
}
