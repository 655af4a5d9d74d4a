//! Compiles every kernel of the library for NVIDIA GPUs, without one.
//!
//! `cargo xtask cuda --offline` runs it: it takes the paths of NVRTC, of ptxas and of a folder for what is made, and the
//! architectures (`80 90 120`).

use std::process::ExitCode;

use mlx_native::testing::{Offline, compile_offline};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let [nvrtc, ptxas, folder, rest @ ..] = &args[..] else {
        eprintln!("usage: cuda_offline NVRTC PTXAS FOLDER CAPABILITY... [OPERATOR...]");
        return ExitCode::FAILURE;
    };
    let (capabilities, operators): (Vec<&String>, Vec<&String>) = rest
        .iter()
        .partition(|a| a.starts_with(|c: char| c.is_ascii_digit()));
    let Ok(capabilities) = capabilities
        .iter()
        .map(|c| c.parse())
        .collect::<Result<Vec<u32>, _>>()
    else {
        eprintln!("a capability is a number such as 90");
        return ExitCode::FAILURE;
    };
    let options = Offline {
        nvrtc: nvrtc.into(),
        ptxas: ptxas.into(),
        folder: folder.into(),
        capabilities,
        operators: operators.into_iter().cloned().collect(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let report = match compile_offline(&options) {
        Ok(report) => report,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    for line in &report.lines {
        println!("{line}");
    }
    for failure in report.failures.iter().take(40) {
        println!("FAILED {failure}");
    }
    let (passed, failed) = (report.compiled.len(), report.failures.len());
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
