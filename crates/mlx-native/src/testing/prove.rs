//! The ladder that every kernel climbs, and the table that shows it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::{Case, Prepared, Rng, Suite, TestDevice, test_devices_of};
use crate::device_kind::DeviceKind;
use crate::registry::KernelRegistry;

/// The column of inputs and reference in the table of times.
const REFERENCE: &str = "inputs and reference";

/// What ran where, and what failed.
#[derive(Debug, Default)]
pub struct Proof {
    /// Kernel to the columns in which it ran and was right, with the number of cases.
    pub ran: BTreeMap<String, BTreeMap<String, usize>>,
    /// Kernels that a GPU lacks the means for, by device: refused by name, and no failure.
    pub refused: BTreeSet<(String, String)>,
    /// Failures, in words.
    pub failures: Vec<String>,
    /// What each case took, in seconds: operator, case, and for each device its time.
    pub took: Vec<CaseTime>,
}

/// What a case took.
#[derive(Debug)]
pub struct CaseTime {
    /// Name of the operator.
    pub op: &'static str,
    /// The case, as it prints itself.
    pub case: String,
    /// Seconds by column, and under `reference` those of inputs and reference.
    pub seconds: Vec<(String, f32)>,
}

impl CaseTime {
    /// Seconds in all columns.
    #[must_use]
    pub fn total(&self) -> f32 {
        self.seconds.iter().map(|s| s.1).sum()
    }
}

impl Proof {
    fn is_refusal(&self, device: &str, error: &str) -> bool {
        let refused = self.refused.iter().filter(|r| r.1 == device);
        refused
            .into_iter()
            .any(|(kernel, _)| error.starts_with(&format!("not supported: kernel {kernel:?} on ")))
    }

    /// Adds what another proof found.
    pub fn merge(&mut self, other: Proof) {
        for (kernel, columns) in other.ran {
            let mine = self.ran.entry(kernel).or_default();
            for (column, count) in columns {
                *mine.entry(column).or_default() += count;
            }
        }
        self.refused.extend(other.refused);
        self.failures.extend(other.failures);
        self.took.extend(other.took);
    }
}

/// The kernels of `suite` that a GPU lacks the means for. A GPU of Apple's lacks none, the paravirtual one of a hosted Mac
/// may. Every other device must run them all.
fn refused(suite: &Suite, devices: &[TestDevice], registry: &KernelRegistry) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for d in devices.iter().filter(|d| d.name == "metal") {
        for name in suite.kernel_names() {
            if registry
                .kernel(name)
                .is_ok_and(|k| d.device.supports(&k).is_err())
            {
                all.insert((name.to_owned(), d.name.clone()));
            }
        }
    }
    all
}

/// How an operator's cases went.
#[derive(Debug)]
pub struct SuiteEnd {
    /// Name of the operator.
    pub op: &'static str,
    /// Whether all was right.
    pub ok: bool,
    /// Seconds that its cases took, on the thread that ran them.
    pub seconds: f32,
}

/// One case that waits to be run.
struct Job<'s> {
    suite: usize,
    case: &'s dyn Case,
}

/// What is known of the cases of one suite.
struct Progress {
    left: usize,
    proof: Proof,
}

/// Runs the cases of every suite, and `random` more of each, on every device. Each of `threads` threads opens devices of
/// its own and takes case after case, the costly ones first. Devices of one group must give equal bits. `kind` leaves the
/// devices of one kind. `ended` is told
/// when the last case of a suite is done.
///
/// # Panics
/// When a device that must be there cannot be opened.
pub fn prove(
    suites: &[Suite],
    random: usize,
    threads: usize,
    kind: Option<DeviceKind>,
    ended: impl Fn(SuiteEnd) + Sync,
) -> Proof {
    let drawn: Vec<Vec<Box<dyn Case>>> = suites
        .iter()
        .map(|suite| {
            let mut rng = Rng::new(suite.op_name().len() as u64 + 17);
            (0..random).map(|_| (suite.random)(&mut rng)).collect()
        })
        .collect();
    let mut jobs = Vec::new();
    for (suite, more) in drawn.iter().enumerate() {
        let cases = suites[suite].cases.iter().chain(more).map(|c| &**c);
        jobs.extend(
            cases
                .filter(|c| !c.is_only_timed())
                .map(|case| Job { suite, case }),
        );
    }
    let operations = |job: &Job<'_>| job.case.cost().map_or(0.0, |(_, operations)| operations);
    jobs.sort_by(|a, b| operations(b).total_cmp(&operations(a)));
    let progress: Vec<Mutex<Progress>> = (0..suites.len())
        .map(|suite| {
            Mutex::new(Progress {
                left: jobs.iter().filter(|j| j.suite == suite).count(),
                proof: Proof::default(),
            })
        })
        .collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let devices = test_devices_of(kind);
                let mut registry = KernelRegistry::new();
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let suite = &suites[job.suite];
                    let refused = refused(suite, &devices, &registry);
                    let found = prove_case(suite, job.case, refused, &devices, &mut registry);
                    let mut progress = progress[job.suite].lock().unwrap_or_else(PoisonError::into_inner);
                    progress.proof.merge(found);
                    progress.left -= 1;
                    if progress.left == 0 {
                        unreached(suite, &devices, &mut progress.proof);
                        ended(SuiteEnd {
                            op: suite.op_name(),
                            ok: progress.proof.failures.is_empty(),
                            seconds: progress.proof.took.iter().map(CaseTime::total).sum(),
                        });
                    }
                }
            });
        }
    });
    let mut all = Proof::default();
    for one in progress {
        all.merge(one.into_inner().unwrap_or_else(PoisonError::into_inner).proof);
    }
    all
}

/// Runs one case on every one of `devices`.
fn prove_case(
    suite: &Suite,
    case: &dyn Case,
    refused: BTreeSet<(String, String)>,
    devices: &[TestDevice],
    registry: &mut KernelRegistry,
) -> Proof {
    let mut proof = Proof {
        refused,
        ..Proof::default()
    };
    let mut seconds = Vec::new();
    let mut clock = Instant::now();
    let mut lap = |name: &str| {
        seconds.push((name.to_owned(), clock.elapsed().as_secs_f32()));
        clock = Instant::now();
    };
    let prepared = Prepared::new(case);
    lap(REFERENCE);
    let op = suite.op_name();
    let mut bits: HashMap<&str, (String, Vec<Vec<u8>>)> = HashMap::new();
    for d in devices.iter().filter(|d| case.is_small() || !d.small_only) {
        let result = prepared.run(&d.device, registry);
        lap(&d.name);
        match result {
            // The refusal names its kernel.
            Err(e) if proof.is_refusal(&d.name, &e) => {}
            Err(e) => proof.failures.push(format!("{op} on {}: {case:?}: {e}", d.name)),
            Ok(outcome) => {
                let (first, expected) = bits
                    .entry(d.group)
                    .or_insert_with(|| (d.name.clone(), outcome.bytes.clone()));
                if *expected != outcome.bytes {
                    let what = format!("{op} {case:?}: {} and {first} give different bits", d.name);
                    proof.failures.push(what);
                    continue;
                }
                for kernel in outcome.kernels.into_iter().collect::<BTreeSet<_>>() {
                    let columns = proof.ran.entry(kernel).or_default();
                    *columns.entry(d.name.clone()).or_default() += 1;
                }
            }
        }
    }
    proof.took.push(CaseTime {
        op,
        case: format!("{case:?}"),
        seconds,
    });
    proof
}

/// A kernel that no case reaches is not proven.
fn unreached(suite: &Suite, devices: &[TestDevice], proof: &mut Proof) {
    for kernel in suite.kernel_names() {
        for d in devices {
            let ran = proof
                .ran
                .get(kernel)
                .is_some_and(|columns| columns.contains_key(&d.name));
            if !ran && !proof.refused.contains(&(kernel.to_owned(), d.name.clone())) {
                proof
                    .failures
                    .push(format!("kernel {kernel} did not run on {}", d.name));
            }
        }
    }
}

/// Seconds of each operator by column, and the cases that took longest.
#[must_use]
pub fn time_table(proof: &Proof, slowest: usize) -> String {
    let mut columns: Vec<&str> = Vec::new();
    let mut rows: BTreeMap<&str, BTreeMap<&str, f32>> = BTreeMap::new();
    for (case, name, seconds) in proof
        .took
        .iter()
        .flat_map(|c| c.seconds.iter().map(move |(n, s)| (c, n, s)))
    {
        if !columns.contains(&&**name) {
            columns.push(name);
        }
        *rows.entry(case.op).or_default().entry(name).or_default() += seconds;
    }
    let mut table = String::new();
    for (i, name) in columns.iter().enumerate() {
        let _ = writeln!(table, "{:20}  ({}) {name}", "", i + 1);
    }
    let head: String = (1..=columns.len())
        .map(|i| format!(" {:>7}", format!("({i})")))
        .collect();
    let _ = writeln!(table, "{:20}{head} {:>8}", "operator", "all");
    for (op, row) in &rows {
        let cells: String = columns
            .iter()
            .map(|c| format!(" {:>7.1}", row.get(c).copied().unwrap_or(0.0)))
            .collect();
        let _ = writeln!(table, "{op:20}{cells} {:>8.1}", row.values().sum::<f32>());
    }
    let mut cases: Vec<&CaseTime> = proof.took.iter().collect();
    cases.sort_by(|a, b| b.total().total_cmp(&a.total()));
    for case in cases.into_iter().take(slowest) {
        let most = case.seconds.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let (name, seconds) = most.map_or(("", 0.0), |(n, s)| (n, *s));
        let _ = writeln!(
            table,
            "{:6.2} s ({seconds:.2} {name}): {} {}",
            case.total(),
            case.op,
            case.case
        );
    }
    table
}

/// The table kernel × device: the number of cases that were right; `no` where the GPU lacks the means.
#[must_use]
pub fn kernel_table(proof: &Proof, columns: &[String]) -> String {
    let width = proof.ran.keys().map(String::len).max().unwrap_or(6).max(6);
    let mut table = String::new();
    for (i, name) in columns.iter().enumerate() {
        let _ = writeln!(table, "{:width$}  ({}) {name}", "", i + 1);
    }
    let _ = write!(table, "{:width$}", "kernel");
    for i in 0..columns.len() {
        let _ = write!(table, " {:>5}", format!("({})", i + 1));
    }
    table.push('\n');
    for (kernel, ran) in &proof.ran {
        let _ = write!(table, "{kernel:width$}");
        for name in columns {
            let none = if proof.refused.contains(&(kernel.clone(), name.clone())) {
                "no"
            } else {
                "-"
            };
            let shown = ran.get(name).map_or(none.to_owned(), usize::to_string);
            let _ = write!(table, " {shown:>5}");
        }
        table.push('\n');
    }
    table
}
