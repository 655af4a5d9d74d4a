//! Proves every kernel on every device of this machine, and prints the table kernel × device.
//!
//! `cargo test -p mlx-native --features emulator,testing --test prove [-- FILTER…]`; a filter is part of an operator's
//! name. `--long` draws ten times as many random cases, `--small` leaves out what the emulator would not run in a moment
//! (for devices that are as slow), `--times` also prints where the time went, `--device=cuda` runs on the devices of one kind.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_native::DeviceKind;
use mlx_native::ops::suites;
use mlx_native::testing::{kernel_table, prove, test_devices_of, time_table};

/// Cases named in the table of times.
const SLOWEST: usize = 25;

fn main() -> ExitCode {
    let (flags, filters): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|a| a.starts_with('-'));
    let given = |name: &str| flags.iter().any(|f| f == name);
    if given("--list") {
        return ExitCode::SUCCESS;
    }
    let kind = match flags.iter().find_map(|f| f.strip_prefix("--device=")) {
        None => None,
        Some(name) => {
            let kinds = [
                DeviceKind::Cpu,
                DeviceKind::Emulator,
                DeviceKind::Metal,
                DeviceKind::Cuda,
            ];
            let found = kinds.into_iter().find(|k| k.name() == name);
            if found.is_none_or(|kind| test_devices_of(Some(kind)).is_empty()) {
                eprintln!("prove: there is no device {name:?} here");
                return ExitCode::FAILURE;
            }
            found
        }
    };
    let random = if given("--long") { 80 } else { 8 };
    let mut suites: Vec<_> = suites()
        .into_iter()
        .filter(|s| filters.is_empty() || filters.iter().any(|f| s.op_name().contains(f)))
        .collect();
    if given("--small") {
        for suite in &mut suites {
            suite.cases.retain(|case| case.is_small());
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (passed, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let proof = prove(&suites, random, threads, kind, |end| {
        let (verdict, count) = if end.ok {
            ("ok", &passed)
        } else {
            ("FAILED", &failed)
        };
        count.fetch_add(1, Ordering::Relaxed);
        println!("test prove::{} ... {verdict} ({:.1} s)", end.op, end.seconds);
    });
    if given("--times") {
        println!("\nSeconds, operator x device:\n\n{}", time_table(&proof, SLOWEST));
    }
    let columns: Vec<String> = test_devices_of(kind).into_iter().map(|d| d.name).collect();
    println!(
        "\nCases that were right, kernel x device:\n\n{}",
        kernel_table(&proof, &columns)
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
