//! Names of kernels to texts, and to the pipelines that devices made of them.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{ComputePipelineState, ConstantValue, Constants, Kernel, SourceText};
use crate::backend::Backend;
use crate::backend::cpu::CpuBody;
use crate::buffer::MlxBuffer;
use crate::device::{DeviceRef, MlxDevice};
use crate::dtype::DType;
use crate::error::{MlxError, Result};
use crate::ops::published_names::{self, PublishedName};
use crate::ops;

/// Maps kernel names to Metal texts, and caches the pipelines made of them, per device kind and function constants.
///
/// A new registry knows every kernel of this library. [`register_source`](Self::register_source) adds kernels of your own
/// at run time: they run on `metal`, `cuda` and the `emulator`.
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
    entries: HashMap<Arc<str>, Entry>,
    /// Texts of this library by address, so that a text with several kernels is parsed once.
    texts: HashMap<(usize, usize), Arc<SourceText>>,
    /// Names that a text was registered under at run time: they mean that text alone.
    own: HashSet<Arc<str>>,
    /// Memory for intermediate results, one piece for each device.
    scratch: Vec<(Arc<dyn Backend>, MlxBuffer)>,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    source: Arc<SourceText>,
    cpu: Option<CpuBody>,
    /// Boxed, so that the address handed out by `get_pipeline` stays the same when the list grows.
    #[allow(clippy::vec_box)]
    pipelines: Vec<Box<CachedPipeline>>,
}

#[derive(Debug)]
struct CachedPipeline {
    domain: u64,
    constants: Constants,
    state: ComputePipelineState,
}

impl Default for KernelRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl KernelRegistry {
    /// A registry that knows every kernel of this library; none is compiled yet.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = KernelRegistry {
            entries: HashMap::new(),
            texts: HashMap::new(),
            own: HashSet::new(),
            scratch: Vec::new(),
        };
        for op in ops::all() {
            registry.register_op(op);
        }
        registry
    }

    /// Adds the kernels of one operator of this library.
    pub(crate) fn register_op(&mut self, op: &ops::Op) {
        let key = (op.source.as_ptr() as usize, op.source.len());
        let source = self
            .texts
            .entry(key)
            .or_insert_with(|| Arc::new(SourceText::new(Cow::Borrowed(op.source))))
            .clone();
        for (name, body) in op.kernels {
            let name: Arc<str> = Arc::from(*name);
            let entry = Entry {
                name: name.clone(),
                source: source.clone(),
                cpu: Some(*body),
                pipelines: Vec::new(),
            };
            self.entries.entry(name).or_insert(entry);
        }
    }

    /// Registers `source`, Metal Shading Language text that defines a kernel of the host name `name`. A text registered
    /// earlier under this name is replaced and its pipelines are dropped; a body for the `cpu` device goes with it. The
    /// text is read when a pipeline is first asked for.
    pub fn register_source(&mut self, name: impl Into<String>, source: impl Into<Cow<'static, str>>) {
        let name: Arc<str> = Arc::from(name.into());
        let source = Arc::new(SourceText::new(source.into()));
        self.own.insert(name.clone());
        self.entries.insert(
            name.clone(),
            Entry {
                name,
                source,
                cpu: None,
                pipelines: Vec::new(),
            },
        );
    }

    /// The pipeline of kernel `name` on `device`, compiled on first use.
    ///
    /// # Errors
    /// [`MlxError::KernelNotFound`] for an unknown name, [`MlxError::ShaderCompilationError`] when the text does not
    /// compile, [`MlxError::Unsupported`] when the device has no body for the kernel.
    pub fn get_pipeline(
        &mut self,
        name: &str,
        device: &(impl AsRef<DeviceRef> + ?Sized),
    ) -> Result<&ComputePipelineState> {
        self.get_pipeline_with_constants(name, device, &[])
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
        let (name, constants) = match self.published(name).filter(|_| constants.is_empty()) {
            Some(published) => (kernel_of(published)?, published.constants),
            None => (name, constants),
        };
        let entry = self
            .entries
            .get_mut(name)
            .ok_or_else(|| MlxError::KernelNotFound(name.to_owned()))?;
        let found = entry
            .pipelines
            .iter()
            .position(|p| p.domain == domain && p.constants[..] == *constants);
        let index = match found {
            Some(index) => index,
            None => {
                let state = build(entry, device, constants)?;
                entry.pipelines.push(Box::new(CachedPipeline {
                    domain,
                    constants: constants.into(),
                    state,
                }));
                entry.pipelines.len() - 1
            }
        };
        Ok(&entry.pipelines[index].state)
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
        self.entries.contains_key(name) || self.published(name).is_some()
    }

    /// What a name of 0.1 stands for, unless a text of one's own has taken its place.
    fn published(&self, name: &str) -> Option<&'static PublishedName> {
        published_names::find(name).filter(|_| !self.own.contains(name))
    }

    /// The registered names, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(|k| &**k)
    }

    /// What is known of kernel `name`: text, signature, body.
    ///
    /// # Errors
    /// [`MlxError::KernelNotFound`]; [`MlxError::ShaderCompilationError`] when the text cannot be parsed or does not
    /// define the kernel.
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let published = self.published(name).filter(|_| !self.entries.contains_key(name));
        let name = match published {
            Some(published) => kernel_of(published)?,
            None => name,
        };
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| MlxError::KernelNotFound(name.to_owned()))?;
        describe(entry)
    }

    /// Whether some pipeline of kernel `name` has been made.
    #[must_use]
    pub fn is_cached(&self, name: &str) -> bool {
        let (name, constants) = match self.published(name) {
            Some(published) if !self.entries.contains_key(name) => {
                (published.kernel.unwrap_or_default(), Some(published.constants))
            }
            _ => (name, None),
        };
        self.entries.get(name).is_some_and(|e| {
            let mut pipelines = e.pipelines.iter();
            pipelines.any(|p| constants.is_none_or(|constants| p.constants[..] == *constants))
        })
    }

    /// Number of pipelines made so far.
    #[must_use]
    pub fn cached_count(&self) -> usize {
        self.entries.values().map(|e| e.pipelines.len()).sum()
    }

    /// Number of registered names, those of 0.1 included.
    #[must_use]
    pub fn source_count(&self) -> usize {
        let published = published_names::NAMES.iter().filter(|n| !self.entries.contains_key(n.name)).count();
        self.entries.len() + published
    }
}

/// Our kernel behind a name of 0.1.
fn kernel_of(published: &PublishedName) -> Result<&'static str> {
    published.kernel.ok_or_else(|| MlxError::ShaderCompilationError {
        name: published.name.to_owned(),
        message: "its text is empty, as in 0.1".to_owned(),
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
        cpu: entry.cpu,
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
    let max_threads = body
        .max_threads()
        .unwrap_or(backend.limits().max_threads_per_threadgroup);
    Ok(ComputePipelineState::new(
        kernel,
        constants.into(),
        body,
        max_threads,
        backend.pipeline_domain(),
    ))
}

fn check_constants(kernel: &Kernel, constants: &[(u32, ConstantValue)]) -> Result<()> {
    use super::msl::ConstantType;
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
