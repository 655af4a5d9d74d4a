//! Kernels to functions: text, machine code on disk, the compiler, and the forms that a kernel is launched in.

use std::any::Any;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::bodies;
use super::cache::Cache;
use super::gpu::{FunctionFacts, Gpu};
use super::later::{Later, Workers};
use super::nvrtc::{Output, TextCompiler};
use super::text::{self, Entry, Form, Wanted};
use crate::backend::{Limits, PipelineBody};
use crate::error::{MlxError, Result};
use crate::kernel::msl::{self, rewrite::UNSET_CONSTANT_SYMBOL};
use crate::kernel::{ConstantValue, Constants, Kernel};

/// Finds the compiler, when one is first needed.
pub(super) type Finder = Box<dyn Fn() -> std::result::Result<Box<dyn TextCompiler>, String> + Send + Sync>;

/// Makes functions.
pub(super) struct Compiler<G: Gpu> {
    gpu: Arc<G>,
    cache: Option<Cache>,
    find: Finder,
    found: OnceLock<std::result::Result<Box<dyn TextCompiler>, String>>,
    workers: Workers,
}

/// A function with all that a launch of it needs to know.
pub(super) struct Compiled<G: Gpu> {
    pub function: G::Function,
    pub entry: Entry,
    pub facts: FunctionFacts,
    /// The stages that take its place where there is much to do; none where the GPU or the body has none.
    pub stages: Vec<G::Function>,
    pub multiprocessors: u32,
}

/// What a loaded image has.
struct Loaded<G: Gpu> {
    function: G::Function,
    facts: FunctionFacts,
    stages: Vec<G::Function>,
}

/// A kernel with its constants: functions in the forms that were wanted so far.
pub(super) struct CudaPipeline<G: Gpu> {
    compiler: Arc<Compiler<G>>,
    name: Arc<str>,
    text: Arc<str>,
    constants: Constants,
    declared_threads: Option<u32>,
    max_threadgroup_memory: u32,
    /// The form of launches that leave the choice, and the entry in it.
    form: Form,
    entry: Entry,
    /// What a threadgroup may ask for before the function is there.
    accepted_threads: Option<u32>,
    made: Mutex<HashMap<Form, Arc<Later<Arc<Compiled<G>>>>>>,
}

impl<G: Gpu> PipelineBody for CudaPipeline<G> {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn max_threads(&self) -> Option<u32> {
        self.of_form(self.form).ok().map(|made| made.facts.max_threads)
    }
    fn accepted_threads(&self) -> Option<u32> {
        self.accepted_threads.or_else(|| self.max_threads())
    }
}

impl<G: Gpu> CudaPipeline<G> {
    /// The form of launches that leave the choice, and the entry in it.
    pub fn usual(&self) -> (Form, &Entry) {
        (self.form, &self.entry)
    }

    /// Has the function made in another form, beside others.
    pub fn want(&self, form: Form) {
        self.later(form, true);
    }

    /// The function in a form, compiled when it is first wanted.
    ///
    /// # Errors
    /// [`MlxError::ShaderCompilationError`].
    pub fn of_form(&self, form: Form) -> Result<Arc<Compiled<G>>> {
        let made = self.later(form, false).wait();
        made.map_err(|message| failed(&self.name, message))
    }

    fn later(&self, form: Form, beside: bool) -> Arc<Later<Arc<Compiled<G>>>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(&form) {
            return known.clone();
        }
        let (compiler, name, text) = (self.compiler.clone(), self.name.clone(), self.text.clone());
        let (constants, threads) = (self.constants.clone(), self.declared_threads);
        let memory = self.max_threadgroup_memory;
        let later = Later::new(move || {
            let made = compiler.make(&name, &text, &constants, threads, form)?;
            if made.facts.shared_memory > memory {
                return Err(format!(
                    "it declares {} bytes of threadgroup memory, {memory} are possible",
                    made.facts.shared_memory
                ));
            }
            Ok(Arc::new(made))
        });
        made.insert(form, later.clone());
        drop(made);
        if beside {
            self.compiler.workers.add(&later);
        }
        later
    }
}

fn failed(name: &str, message: String) -> MlxError {
    MlxError::ShaderCompilationError {
        name: name.to_owned(),
        message,
    }
}

impl<G: Gpu> Compiler<G> {
    /// `cache`: the folder for machine code; none is kept without.
    pub fn new(gpu: Arc<G>, cache: Option<&Path>, find: Finder) -> Self {
        Compiler {
            gpu,
            cache: cache.map(Cache::new),
            find,
            found: OnceLock::new(),
            workers: Workers::new(std::thread::available_parallelism().map_or(1, usize::from)),
        }
    }

    /// Waits until no thread compiles any more, and has none begin: the compiler must be left before the process may end.
    pub fn end(&self) {
        self.workers.end();
    }

    /// Makes a pipeline of `kernel`. Those of the library are compiled on other threads while more are asked for, since a
    /// model needs dozens: they are known to compile, and what goes wrong all the same is told when a list is submitted.
    ///
    /// # Errors
    /// [`MlxError::ShaderCompilationError`] with the compiler's words, or with why there is no compiler.
    pub fn compile(
        self: &Arc<Self>,
        kernel: &Kernel,
        constants: &[(u32, ConstantValue)],
        limits: &Limits,
    ) -> Result<CudaPipeline<G>> {
        let fail = |message: String| failed(&kernel.name, message);
        let flat = kernel.source.flat().map_err(fail)?;
        // A text instantiates its templates many times over; only one of them is wanted.
        let text = msl::only(flat, &kernel.name);
        let form = text::usual_form(&text, &kernel.name);
        let declared_threads = kernel.signature.max_threads;
        let unit = self.unit(&kernel.name, &text, constants, declared_threads, form);
        let (_, entry) = unit.map_err(fail)?;
        let is_later = kernel.source.is_of_library() && self.compiler().is_ok();
        let most = declared_threads.unwrap_or(limits.max_threads_per_threadgroup);
        let pipeline = CudaPipeline {
            compiler: self.clone(),
            name: kernel.name.clone(),
            text: text.into(),
            constants: constants.into(),
            declared_threads,
            max_threadgroup_memory: limits.max_threadgroup_memory,
            form,
            entry,
            accepted_threads: is_later.then_some(most),
            made: Mutex::default(),
        };
        if is_later {
            pipeline.want(form);
        } else {
            pipeline.of_form(form)?;
        }
        Ok(pipeline)
    }

    /// The text for the compiler, and the entry in it.
    fn unit(
        &self,
        name: &str,
        text: &str,
        constants: &[(u32, ConstantValue)],
        max_threads: Option<u32>,
        form: Form,
    ) -> std::result::Result<(String, Entry), String> {
        // A body counts its blocks itself, and has them all whole.
        let body = bodies::find(name, constants).filter(|_| form == Form::default());
        let wanted = Wanted {
            kernel: name,
            form,
            max_threads,
            body,
            many: body
                .and_then(|b| b.many)
                .is_some_and(|m| m.capability == self.gpu.facts().capability),
        };
        let mut unit = text::unit(text, constants, &[wanted]).map_err(|e| e.to_string())?;
        let entry = unit.entries.remove(0);
        Ok((unit.text, entry))
    }

    fn make(
        &self,
        name: &str,
        text: &str,
        constants: &[(u32, ConstantValue)],
        max_threads: Option<u32>,
        form: Form,
    ) -> std::result::Result<Compiled<G>, String> {
        let (text, entry) = self.unit(name, text, constants, max_threads, form)?;
        let Loaded {
            function,
            facts,
            stages,
        } = self.load(&text, &entry)?;
        Ok(Compiled {
            function,
            entry,
            facts,
            stages,
            multiprocessors: self.gpu.facts().multiprocessors,
        })
    }

    fn load_image(&self, image: &[u8], entry: &Entry) -> std::result::Result<Loaded<G>, String> {
        let variables: Vec<&str> = entry
            .arguments
            .iter()
            .filter_map(|a| a.copied.as_deref())
            .collect();
        let shared_memory = entry.body.map_or(0, |b| b.shared_memory);
        let load = |symbol: &str, variables: &[&str], shared_memory| {
            self.gpu
                .load(image, symbol, variables, shared_memory)
                .map_err(|e| e.to_string())
        };
        let (function, facts) = load(&entry.symbol, &variables, shared_memory)?;
        let stages = entry.many.iter().flat_map(|many| many.0.stages);
        let stages = stages.map(|s| Ok(load(&entry.stage(s.function), &[], s.shared_memory)?.0));
        Ok(Loaded {
            function,
            facts,
            stages: stages.collect::<std::result::Result<_, String>>()?,
        })
    }

    fn load(&self, text: &str, entry: &Entry) -> std::result::Result<Loaded<G>, String> {
        let load = |image: &[u8]| self.load_image(image, entry);
        let compiler = self.compiler();
        let version = compiler.as_ref().ok().map(|c| c.version());
        let output = compiler
            .as_ref()
            .map_or(Output::Cubin(self.gpu.facts().capability), |c| self.output(*c));
        let output = match output {
            Output::Cubin(n) if entry.many.is_some() => Output::Exact(n),
            other => other,
        };
        let cached = self
            .cache
            .as_ref()
            .map(|c| (c, c.key(text, &output.architecture())));
        if let Some((cache, key)) = &cached
            && let Some(image) = cache.find(key, version)
        {
            match load(&image) {
                Ok(loaded) => return Ok(loaded),
                Err(why) => {
                    tracing::debug!(key, why, "cuda: stored machine code cannot be used");
                    if let Some(version) = version {
                        cache.discard(key, version);
                    }
                }
            }
        }
        let compiler = compiler?;
        let image = compiler.compile(text, output).map_err(complaint)?;
        let loaded = load(&image)?;
        if let Some((cache, key)) = cached
            && let Err(why) = cache.store(&key, compiler.version(), &image)
        {
            tracing::debug!(why, "cuda: machine code cannot be stored");
        }
        Ok(loaded)
    }

    fn compiler(&self) -> std::result::Result<&dyn TextCompiler, String> {
        match self.found.get_or_init(|| (self.find)()) {
            Ok(compiler) => Ok(&**compiler),
            Err(why) => Err(why.clone()),
        }
    }

    /// Machine code where the compiler knows the GPU, or else what the driver compiles further.
    fn output(&self, compiler: &dyn TextCompiler) -> Output {
        let wanted = self.gpu.facts().capability;
        let known = compiler.capabilities();
        match known.iter().rev().find(|c| **c <= wanted) {
            Some(&nearest) if nearest != wanted => Output::Ptx(nearest),
            _ => Output::Cubin(wanted),
        }
    }
}

/// The compiler's words, or what they mean: a constant without a value is an unresolved variable, and the assembler names it
/// with its namespace.
fn complaint(words: String) -> String {
    let unset = words
        .split(UNSET_CONSTANT_SYMBOL)
        .nth(1)
        .filter(|_| words.contains("nresolved"));
    let Some(rest) = unset else { return words };
    // `12transpose_ahE`: the length of the name, the name.
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let name = digits
        .parse()
        .ok()
        .and_then(|n: usize| rest.get(digits.len()..digits.len() + n));
    name.map_or(words.clone(), |name| {
        format!("it uses function constant `{name}`, which is not set")
    })
}
