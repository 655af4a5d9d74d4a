//! The ladder that every kernel climbs, and the table that shows it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use super::{Case, Rng, Suite, TestDevice, run_case_with};
use crate::device_kind::DeviceKind;
use crate::kernel::KernelRegistry;

/// What ran where, and what failed.
#[derive(Debug, Default)]
pub struct Proof {
    /// Kernel to the columns in which it ran and was right, with the number of cases.
    pub ran: BTreeMap<String, BTreeMap<String, usize>>,
    /// Kernels that a GPU lacks the means for, by device: refused by name, and no failure.
    pub refused: BTreeSet<(String, String)>,
    /// Failures, in words.
    pub failures: Vec<String>,
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
    }
}

/// The kernels of `suite` that a GPU lacks the means for. A GPU of Apple's lacks none, the paravirtual one of a hosted Mac
/// may. Every other device must run them all.
fn refused(suite: &Suite, devices: &[TestDevice], registry: &KernelRegistry) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for d in devices.iter().filter(|d| d.device.kind() == DeviceKind::Metal) {
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

/// Runs the cases of `suite`, and `random` more, on every one of `devices`. Devices of one group must give equal bits.
#[must_use]
pub fn prove_suite(suite: &Suite, devices: &[TestDevice], random: usize) -> Proof {
    let mut rng = Rng::new(suite.op_name().len() as u64 + 17);
    let drawn: Vec<Box<dyn Case>> = (0..random).map(|_| (suite.random)(&mut rng)).collect();
    let cases: Vec<&dyn Case> = suite
        .cases
        .iter()
        .chain(&drawn)
        .map(|c| &**c)
        .filter(|c| !c.is_only_timed())
        .collect();
    let mut proof = Proof::default();
    let mut registry = KernelRegistry::new();
    proof.refused = refused(suite, devices, &registry);
    for case in cases {
        let mut bits: HashMap<&str, (String, Vec<Vec<u8>>)> = HashMap::new();
        for d in devices.iter().filter(|d| case.is_small() || !d.small_only) {
            match run_case_with(case, &d.device, &mut registry, true) {
                // The refusal names its kernel.
                Err(e) if proof.is_refusal(&d.name, &e) => {}
                Err(e) => proof
                    .failures
                    .push(format!("{} on {}: {case:?}: {e}", suite.op_name(), d.name)),
                Ok(outcome) => {
                    let (first, expected) = bits
                        .entry(d.group)
                        .or_insert_with(|| (d.name.clone(), outcome.bytes.clone()));
                    if *expected != outcome.bytes {
                        proof.failures.push(format!(
                            "{} {case:?}: {} and {first} give different bits",
                            suite.op_name(),
                            d.name
                        ));
                        continue;
                    }
                    for kernel in outcome.kernels.into_iter().collect::<BTreeSet<_>>() {
                        *proof
                            .ran
                            .entry(kernel)
                            .or_default()
                            .entry(d.name.clone())
                            .or_default() += 1;
                    }
                }
            }
        }
    }
    // A kernel that no case reaches is not proven.
    for kernel in suite.kernel_names() {
        for d in devices {
            if !proof
                .ran
                .get(kernel)
                .is_some_and(|columns| columns.contains_key(&d.name))
                && !proof.refused.contains(&(kernel.to_owned(), d.name.clone()))
            {
                proof
                    .failures
                    .push(format!("kernel {kernel} did not run on {}", d.name));
            }
        }
    }
    proof
}

/// The table kernel × device: the number of cases that were right; `no` where the GPU lacks the means.
#[must_use]
pub fn kernel_table(proof: &Proof, devices: &[TestDevice]) -> String {
    let width = proof.ran.keys().map(String::len).max().unwrap_or(6).max(6);
    let mut table = String::new();
    for (i, d) in devices.iter().enumerate() {
        let _ = writeln!(table, "{:width$}  ({}) {}", "", i + 1, d.name);
    }
    let _ = write!(table, "{:width$}", "kernel");
    for i in 0..devices.len() {
        let _ = write!(table, " {:>5}", format!("({})", i + 1));
    }
    table.push('\n');
    for (kernel, columns) in &proof.ran {
        let _ = write!(table, "{kernel:width$}");
        for d in devices {
            let none = if proof.refused.contains(&(kernel.clone(), d.name.clone())) {
                "no"
            } else {
                "-"
            };
            let shown = columns.get(&d.name).map_or(none.to_owned(), usize::to_string);
            let _ = write!(table, " {shown:>5}");
        }
        table.push('\n');
    }
    table
}
