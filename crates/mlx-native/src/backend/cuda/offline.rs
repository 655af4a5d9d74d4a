//! Compiling every kernel of the library without a GPU: which there are, with which constants, as the cases of the operators
//! ask for them; by NVRTC to intermediate code, and by `ptxas` to the machine code of several architectures.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::bodies;
use super::nvrtc::TextCompiler;
use super::nvrtc::{Nvrtc, Output};
use super::text::{self, Form, Wanted};
use crate::backend::null::NullBackend;
use crate::backend::{
    Backend, Completion, DeviceId, HostRegion, Limits, Memory, PipelineBody, QueueId, Work,
};
use crate::device::MlxDevice;
use crate::device_kind::DeviceKind;
use crate::error::Result;
use crate::kernel::{ConstantValue, Constants, Kernel};
use crate::ops::suites;
use crate::registry::KernelRegistry;
use crate::testing::{Context, Rng};

/// What to compile with.
#[derive(Debug, Clone)]
pub struct Offline {
    /// The library NVRTC.
    pub nvrtc: PathBuf,
    /// The assembler `ptxas`, of the same version.
    pub ptxas: PathBuf,
    /// Compute capabilities, times ten, to make machine code for. The lowest is that of the intermediate code.
    pub capabilities: Vec<u32>,
    /// Threads to compile on.
    pub threads: usize,
    /// Folder for what is made: the intermediate code of each text stays there.
    pub folder: PathBuf,
    /// Only these operators; all where none is named.
    pub operators: Vec<String>,
}

/// What became of it.
#[derive(Debug, Default)]
pub struct OfflineReport {
    /// A line for each text that was compiled.
    pub lines: Vec<String>,
    /// Kernels that compiled for every architecture, in every form that was tried.
    pub compiled: BTreeSet<String>,
    /// In words.
    pub failures: Vec<String>,
}

/// Kernels of one text with one set of constants.
struct Job {
    op: &'static str,
    kernels: BTreeSet<String>,
    constants: Constants,
    source: String,
    form: fn(&str, &str) -> Form,
    what: &'static str,
}

/// Compiles every kernel that the cases of the library's operators run.
///
/// # Errors
/// When NVRTC cannot be loaded. What does not compile is in the report.
pub fn compile_offline(options: &Offline) -> std::result::Result<OfflineReport, String> {
    let nvrtc = Nvrtc::load(Some(&options.nvrtc))?;
    std::fs::create_dir_all(&options.folder).map_err(|e| format!("{}: {e}", options.folder.display()))?;
    let mut report = OfflineReport::default();
    let is_asked = |op: &str| options.operators.is_empty() || options.operators.iter().any(|o| o == op);
    let mut jobs = jobs(&mut report);
    jobs.retain(|j| is_asked(j.op));
    let (next, report) = (AtomicUsize::new(0), Mutex::new(report));
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    let result = run(job, &nvrtc, options);
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    let (n, seconds) = (job.kernels.len(), start.elapsed().as_secs_f32());
                    let name = format!("{} {:?} {}", job.op, job.constants, job.what);
                    match result {
                        Ok(facts) => {
                            report
                                .lines
                                .push(format!("{name}: {n} kernels, {seconds:.1} s, {facts}"));
                            report.compiled.extend(job.kernels.iter().cloned());
                        }
                        Err(why) => report.failures.push(format!("{name}: {why}")),
                    }
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    for suite in suites().iter().filter(|s| is_asked(s.op_name())) {
        for kernel in suite
            .kernel_names()
            .filter(|k| !report.compiled.contains(*k))
            .collect::<Vec<_>>()
        {
            report.failures.push(format!(
                "{kernel} was not compiled: no case asks for it, or see above"
            ));
        }
    }
    Ok(report)
}

fn run(job: &Job, nvrtc: &Nvrtc, options: &Offline) -> std::result::Result<String, String> {
    let wanted: Vec<Wanted<'_>> = job
        .kernels
        .iter()
        .map(|kernel| Wanted {
            kernel,
            form: (job.form)(&job.source, kernel),
            max_threads: None,
            body: bodies::find(kernel, &job.constants)
                .filter(|_| (job.form)(&job.source, kernel) == Form::default()),
            many: false,
        })
        .collect();
    let unit = text::unit(&job.source, &job.constants, &wanted).map_err(|e| e.to_string())?;
    let lowest = options
        .capabilities
        .iter()
        .min()
        .copied()
        .ok_or("no architecture is asked for")?;
    let mut ptx = nvrtc.compile(&unit.text, Output::Ptx(lowest))?;
    while ptx.last() == Some(&0) {
        ptx.pop();
    }
    let name = format!("{}-{}-{}", job.op, constants_name(&job.constants), job.what);
    let path = options.folder.join(format!("{name}.ptx"));
    std::fs::write(&path, &ptx).map_err(|e| e.to_string())?;
    let mut facts = format!("{} KB of intermediate code", ptx.len() / 1024);
    for capability in &options.capabilities {
        let assembled = assemble(&options.ptxas, &path, &capability.to_string())?;
        let _ = write!(facts, "; sm_{capability}: {assembled}");
    }
    for capability in &options.capabilities {
        if let Some(assembled) = many(job, &wanted, *capability, nvrtc, options)? {
            let _ = write!(facts, "; sm_{capability}a: {assembled}");
        }
    }
    Ok(facts)
}

/// The functions for much work of bodies that have such for this architecture alone.
fn many(
    job: &Job,
    wanted: &[Wanted<'_>],
    capability: u32,
    nvrtc: &Nvrtc,
    options: &Offline,
) -> std::result::Result<Option<String>, String> {
    let has = |w: &&Wanted<'_>| {
        w.body
            .and_then(|b| b.many)
            .is_some_and(|m| m.capability == capability)
    };
    let wanted: Vec<Wanted<'_>> = (wanted.iter().filter(has))
        .map(|w| Wanted { many: true, ..*w })
        .collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let unit = text::unit(&job.source, &job.constants, &wanted).map_err(|e| e.to_string())?;
    let mut ptx = nvrtc.compile(&unit.text, Output::ExactPtx(capability))?;
    while ptx.last() == Some(&0) {
        ptx.pop();
    }
    let name = format!("{}-{}-many", job.op, constants_name(&job.constants));
    let path = options.folder.join(format!("{name}.ptx"));
    std::fs::write(&path, &ptx).map_err(|e| e.to_string())?;
    assemble(&options.ptxas, &path, &format!("{capability}a")).map(Some)
}

fn constants_name(constants: &[(u32, ConstantValue)]) -> String {
    let parts: Vec<String> = constants
        .iter()
        .map(|(i, v)| match v {
            ConstantValue::Bool(b) => format!("{i}_{b}"),
            ConstantValue::U32(n) | ConstantValue::F32Bits(n) => format!("{i}_{n}"),
            ConstantValue::I32(n) => format!("{i}_{n}"),
        })
        .collect();
    parts.join("-")
}

/// Runs the assembler; says how many registers the hungriest kernel has, and whether any spills.
fn assemble(ptxas: &Path, ptx: &Path, capability: &str) -> std::result::Result<String, String> {
    let output = Command::new(ptxas)
        .args([format!("-arch=sm_{capability}"), "-v".to_owned(), "-o".to_owned()])
        .arg(ptx.with_extension(format!("sm_{capability}.cubin")))
        .arg(ptx)
        .output()
        .map_err(|e| format!("{}: {e}", ptxas.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let errors: Vec<&str> = said
            .lines()
            .filter(|l| l.contains("error") || l.contains("fatal"))
            .take(8)
            .collect();
        return Err(format!("sm_{capability}: {}", errors.join("\n")));
    }
    let before = |line: &str, mark: &str| -> u32 {
        let words = line.split(mark).next().unwrap_or_default();
        words
            .rsplit(|c: char| !c.is_ascii_digit())
            .find(|w| !w.is_empty())
            .and_then(|w| w.parse().ok())
            .unwrap_or(0)
    };
    let registers = said
        .lines()
        .filter(|l| l.contains(" registers"))
        .map(|l| before(l, " registers"))
        .max();
    let spills = said
        .lines()
        .filter(|l| l.contains("spill stores") && before(l, " bytes spill stores") > 0)
        .count();
    Ok(format!(
        "up to {} registers, {spills} spill",
        registers.unwrap_or(0)
    ))
}

/// What the cases ask for, and each text's first kernel in the forms that they may not.
fn jobs(report: &mut OfflineReport) -> Vec<Job> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let device = MlxDevice::of(Arc::new(Collector {
        null: NullBackend::new(),
        seen: seen.clone(),
    }));
    let mut jobs: Vec<Job> = Vec::new();
    for suite in suites() {
        let mut registry = KernelRegistry::new();
        for case in suite.cases.iter().filter(|c| !c.is_only_timed()) {
            if let Err(why) = record(&**case, &device, &mut registry) {
                report
                    .failures
                    .push(format!("{}: {case:?}: {why}", suite.op_name()));
            }
        }
        let asked = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        add(&mut jobs, suite.op_name(), asked, report);
    }
    // The longest first, so that no thread is left with one at the end.
    jobs.sort_by_key(|j| std::cmp::Reverse(j.source.len() * j.kernels.len()));
    jobs
}

fn add(jobs: &mut Vec<Job>, op: &'static str, asked: Vec<(Kernel, Constants)>, report: &mut OfflineReport) {
    // A kernel is compiled with the first set of constants that asks for it: more sets would take minutes, and show little.
    let mut first: BTreeMap<String, (Kernel, Constants)> = BTreeMap::new();
    // Of bodies, one for each text.
    let mut with_body: BTreeMap<String, (Kernel, Constants)> = BTreeMap::new();
    for (kernel, constants) in asked {
        if let Some(body) = bodies::find(&kernel.name, &constants) {
            let texts = body.texts.iter().chain(body.many.iter().flat_map(|m| m.texts));
            let names: String = texts.map(|(name, _)| *name).collect();
            with_body
                .entry(names)
                .or_insert_with(|| (kernel.clone(), constants.clone()));
        }
        first
            .entry(kernel.name.to_string())
            .or_insert((kernel, constants));
    }
    let mut groups: Vec<Job> = Vec::new();
    for (name, (kernel, constants)) in first {
        let source = match kernel.source.flat() {
            Ok(source) => source.to_owned(),
            Err(why) => {
                report.failures.push(format!("{name}: {why}"));
                continue;
            }
        };
        let known = groups
            .iter_mut()
            .find(|g| g.constants == constants && g.source == source);
        match known {
            Some(group) => {
                group.kernels.insert(name);
            }
            None => groups.push(Job {
                op,
                kernels: BTreeSet::from([name]),
                constants,
                source,
                form: text::usual_form,
                what: "usual",
            }),
        }
    }
    if let Some(group) = groups.first() {
        let kernels: BTreeSet<String> = group.kernels.iter().take(1).cloned().collect();
        let other = |form, what| Job {
            op,
            kernels: kernels.clone(),
            constants: group.constants.clone(),
            source: group.source.clone(),
            form,
            what,
        };
        let mapped = other(
            |_, _| Form {
                mapped: true,
                pointers: 0,
            },
            "mapped",
        );
        let pointers = other(
            |_, _| Form {
                mapped: false,
                pointers: u32::MAX,
            },
            "pointers",
        );
        jobs.extend([mapped, pointers]);
    }
    jobs.extend(groups);
    for (_, (kernel, constants)) in with_body {
        if let Ok(source) = kernel.source.flat() {
            jobs.push(Job {
                op,
                kernels: BTreeSet::from([kernel.name.to_string()]),
                constants,
                source: source.to_owned(),
                form: text::usual_form,
                what: "body",
            });
        }
    }
}

fn record(case: &dyn crate::testing::Case, device: &MlxDevice, registry: &mut KernelRegistry) -> Result<()> {
    let mut rng = Rng::new(1);
    let mut inputs = Vec::new();
    for tensor in case.inputs(&mut rng) {
        inputs.push(device.alloc_tensor(tensor.dtype(), tensor.shape())?);
    }
    let mut outputs = Vec::new();
    for (dtype, shape) in case.outputs() {
        outputs.push(device.alloc_tensor(dtype, &shape)?);
    }
    let mut encoder = device.command_encoder()?;
    case.encode(&mut Context {
        device,
        registry,
        encoder: &mut encoder,
        inputs: &inputs,
        outputs: &outputs,
    })
}

/// A device that notes which kernels it is asked for.
#[derive(Debug)]
struct Collector {
    null: NullBackend,
    seen: Arc<Mutex<Vec<(Kernel, Constants)>>>,
}

impl Backend for Collector {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Cuda
    }
    fn name(&self) -> String {
        self.null.name()
    }
    fn limits(&self) -> &Limits {
        self.null.limits()
    }
    fn id(&self) -> DeviceId {
        self.null.id()
    }
    fn queue(&self) -> QueueId {
        self.null.queue()
    }
    fn pipeline_domain(&self) -> u64 {
        DeviceKind::Cuda as u64
    }
    fn accepts(&self, memory: &dyn Memory) -> bool {
        self.null.accepts(memory)
    }
    fn allocate(&self, byte_len: usize) -> Result<Arc<dyn Memory>> {
        self.null.allocate(byte_len)
    }
    fn wrap(&self, region: HostRegion) -> Result<Arc<dyn Memory>> {
        self.null.wrap(region)
    }
    fn supports(&self, kernel: &Kernel) -> std::result::Result<(), String> {
        kernel.source.flat().map(|_| ())
    }
    fn compile(&self, kernel: &Kernel, constants: &[(u32, ConstantValue)]) -> Result<Arc<dyn PipelineBody>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push((kernel.clone(), constants.into()));
        self.null.compile(kernel, constants)
    }
    fn submit(&self, work: Arc<Work>, done: Completion) {
        self.null.submit(work, done);
    }
}
