//! `cargo xtask bench`: the benchmarks of the compute library.

use crate::shell::{Cmd, Result, target_dir};

/// The chore. A filter is a part of a benchmark's name; without one all run.
pub fn main(args: &[String]) -> Result<()> {
    let filter: &[String] = match args {
        [] => &[],
        [filter] if !filter.starts_with('-') => args,
        _ => return Err("bench takes one filter: a part of a benchmark's name".into()),
    };
    // Only bench targets: the unit tests' harness does not know criterion's arguments.
    let cmd = Cmd::line("cargo bench -p mlx-native --benches --features testing");
    cmd.args(["--"]).args(filter).run()?;
    println!("\nresults: {}", target_dir().join("criterion").display());
    println!(
        "A later run compares with this one. Timings mean something only between runs on an idle machine."
    );
    Ok(())
}
