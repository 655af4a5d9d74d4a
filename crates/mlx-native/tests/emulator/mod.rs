//! Shared by the emulator's tests, and the tests by theme.

mod defects;
mod language;
mod spaces;

use mlx_native::backend::emulator::{
    CompileOptions, Emulator, EmulatorError, EmulatorSettings, Finding, FindingKind, Launch, LaunchArgument,
    LaunchGrid, LoadedKernel, Report,
};
use mlx_native::{ConstantValue, Schedule};
use std::sync::{Arc, OnceLock};

/// Every schedule that a kernel must survive.
pub const SCHEDULES: [Schedule; 5] = [
    Schedule::Forward,
    Schedule::Reverse,
    Schedule::Random(1),
    Schedule::Random(2),
    Schedule::Random(3),
];

/// One emulator for the whole test program; its cache is shared with other runs.
pub fn emulator() -> &'static Emulator {
    static EMULATOR: OnceLock<Emulator> = OnceLock::new();
    EMULATOR.get_or_init(|| {
        let cache_dir = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        Emulator::new(&EmulatorSettings {
            clang: None,
            cache_dir,
        })
        .expect("the emulator's tests need clang")
    })
}

/// The text as a `.metal` file; `body` starts on line 3.
pub fn metal(body: &str) -> String {
    format!("#include <metal_stdlib>\nusing namespace metal;\n{body}")
}

/// Compiles one kernel.
pub fn compile(body: &str, kernel: &str, checked: bool) -> Arc<LoadedKernel> {
    try_compile(body, kernel, &[], checked).unwrap_or_else(|e| panic!("{e}"))
}

pub fn try_compile(
    body: &str,
    kernel: &str,
    constants: &[(u32, ConstantValue)],
    checked: bool,
) -> Result<Arc<LoadedKernel>, EmulatorError> {
    let options = CompileOptions {
        checked,
        file: Some("planted.metal"),
    };
    emulator().compile(&metal(body), kernel, constants, &options)
}

/// A buffer of plain numbers for a launch.
pub fn buffer<T: Copy>(data: &mut [T]) -> LaunchArgument<'static> {
    LaunchArgument::Buffer {
        ptr: data.as_mut_ptr().cast(),
        len: size_of_val(data),
        writable: true,
    }
}

/// As [`buffer`], bound for reading.
pub fn input<T: Copy>(data: &[T]) -> LaunchArgument<'static> {
    LaunchArgument::Buffer {
        ptr: data.as_ptr().cast_mut().cast(),
        len: size_of_val(data),
        writable: false,
    }
}

/// Runs a kernel; the buffers must outlive the call, as they do in every test here.
pub fn run(kernel: &LoadedKernel, launch: &Launch<'_>) -> Report {
    // SAFETY: the tests pass slices that they own and do not touch during the call.
    unsafe { emulator().dispatch(kernel, launch) }.unwrap_or_else(|e| panic!("{e}"))
}

/// `n` threads in one group.
pub fn one_group(n: u32) -> (LaunchGrid, [u32; 3]) {
    (LaunchGrid::Threadgroups([1, 1, 1]), [n, 1, 1])
}

/// The only kind of finding in a report, with its first line.
pub fn only(report: &Report, kind: FindingKind) -> &Finding {
    let first = report
        .findings
        .first()
        .unwrap_or_else(|| panic!("no finding, wanted {kind:?}"));
    assert!(
        report.findings.iter().all(|f| f.kind == kind),
        "wanted {kind:?} only: {:#?}",
        report.findings
    );
    assert_eq!(first.file, "planted.metal");
    first
}
