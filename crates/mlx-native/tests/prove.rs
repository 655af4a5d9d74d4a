//! Proves every kernel on every device of this machine, and prints the table kernel × device.
//!
//! `cargo test -p mlx-native --features emulator,testing --test prove [-- FILTER…]`; a filter is part of an operator's
//! name. `--long` draws ten times as many random cases.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_native::ops::suites;
use mlx_native::testing::{Proof, kernel_table, prove_suite, test_devices};

fn main() -> ExitCode {
    let (flags, filters): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|a| a.starts_with('-'));
    if flags.iter().any(|f| f == "--list") {
        return ExitCode::SUCCESS;
    }
    let random = if flags.iter().any(|f| f == "--long") {
        80
    } else {
        8
    };
    let devices = test_devices();
    let suites: Vec<_> = suites()
        .into_iter()
        .filter(|s| filters.is_empty() || filters.iter().any(|f| s.op_name().contains(f)))
        .collect();
    let (next, total) = (AtomicUsize::new(0), Mutex::new(Proof::default()));
    let (passed, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(suite) = suites.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = std::time::Instant::now();
                    let proof = prove_suite(suite, &devices, random);
                    let verdict = if proof.failures.is_empty() { "ok" } else { "FAILED" };
                    println!(
                        "test prove::{} ... {verdict} ({:.1} s)",
                        suite.op_name(),
                        start.elapsed().as_secs_f32()
                    );
                    if proof.failures.is_empty() {
                        &passed
                    } else {
                        &failed
                    }
                    .fetch_add(1, Ordering::Relaxed);
                    total.lock().expect("no panic while it is held").merge(proof);
                }
            });
        }
    });
    let proof = total.into_inner().expect("no panic while it was held");
    println!(
        "\nCases that were right, kernel x device:\n\n{}",
        kernel_table(&proof, &devices)
    );
    for failure in proof.failures.iter().take(60) {
        println!("FAILED {failure}");
    }
    let (passed, failed) = (passed.into_inner(), failed.into_inner());
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
