//! `mlx-native fuse`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use mlx_native_lm::ModelFolder;
use mlx_native_lm::convert::fuse;

use crate::report::{self, Progress};

/// Flags of `fuse`.
#[derive(Debug, Args)]
pub struct Fuse {
    /// The model: a folder of Hugging Face's or of MLX's format, or a .gguf file.
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,

    /// Folder of a LoRA or DoRA adapter, of mlx-lm or PEFT.
    #[arg(long, default_value = "adapters", value_name = "FOLDER")]
    pub adapter_path: PathBuf,

    /// The folder to write; it must not be there.
    #[arg(long, default_value = "fused_model", value_name = "FOLDER")]
    pub save_path: PathBuf,

    /// Write all matrices unpacked.
    #[arg(long, visible_alias = "de-quantize")]
    pub dequantize: bool,
}

/// Runs the command.
///
/// # Errors
/// What the model, the adapter or the disk had to say.
pub fn run(options: &Fuse) -> Result<()> {
    if options.save_path.symlink_metadata().is_ok() {
        bail!(
            "{}: is there already; name another place with --save-path, or delete it first",
            options.save_path.display()
        );
    }
    let source = ModelFolder::open(&options.model)?;
    let progress = Progress::new(true);
    let tell = |done, total| progress.bytes("writing", done, total);
    let report = fuse(
        &source,
        &options.adapter_path,
        &options.save_path,
        options.dequantize,
        tell,
    );
    progress.clear();
    let report = report?;
    report::out(&format!(
        "{}: {:.2} MB, {:.3} bits per weight\n",
        options.save_path.display(),
        report.bytes as f64 / 1e6,
        report.bits_per_weight()
    ))
}
