//! `cargo xtask golden`: makes the golden files again, with the published MLX whose version is pinned here.
//!
//! The files are committed, so this runs only when the scripts or the pins change; `git diff` then shows what moved.

use crate::install;
use crate::shell::{Cmd, Result, folder_size, root};

/// The reference. A newer MLX quantises some formats otherwise: changing a pin is a decision, not an update.
const PINNED: &[&str] = &[
    "mlx==0.32.4",
    "mlx-cpu==0.32.4",
    "mlx-lm==0.32.2",
    "numpy==2.4.6",
    "gguf==0.19.0",
];

/// What is made: the name on the command line, the script, the folder, and the most bytes that the folder may hold.
const SETS: &[(&str, &str, &str, u64)] = &[
    (
        "ops",
        "tools/golden.py",
        "crates/mlx-native/tests/golden",
        2_000_000,
    ),
    (
        "ggml",
        "tools/golden_ggml.py",
        "crates/mlx-native/tests/golden",
        2_000_000,
    ),
    (
        "models",
        "tools/golden_models.py",
        "crates/mlx-native-lm/tests/models",
        2_000_000,
    ),
    (
        "adapters",
        "tools/golden_adapters.py",
        "crates/mlx-native-lm/tests/adapters",
        400_000,
    ),
];

/// The chore.
pub fn main(args: &[String]) -> Result<()> {
    if let Some(unknown) = args
        .iter()
        .find(|arg| !SETS.iter().any(|set| set.0 == arg.as_str()))
    {
        return Err(format!("golden makes 'ops', 'ggml', 'models' and 'adapters', not '{unknown}'").into());
    }
    let python = install::python("golden-venv", PINNED)?;
    for (name, script, folder, most) in SETS {
        if !args.is_empty() && !args.iter().any(|arg| arg == name) {
            continue;
        }
        // One thread and no TF32: the same sums in the same order on every machine of a kind.
        Cmd::new(&python)
            .args([script, folder])
            .env("MLX_ENABLE_TF32", "0")
            .env("OMP_NUM_THREADS", "1")
            .run()?;
        let (bytes, files) = folder_size(&root().join(folder), "")?;
        println!("{folder}: {files} files, {bytes} bytes");
        if bytes > *most {
            return Err(format!(
                "{folder} holds {bytes} bytes, more than the {most} that the repository takes"
            )
            .into());
        }
    }
    Ok(())
}
