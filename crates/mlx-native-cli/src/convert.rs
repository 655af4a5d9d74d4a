//! `mlx-native convert`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use mlx_native::DType;
use mlx_native_lm::convert::{ConvertOptions, Recipe, convert};
use mlx_native_lm::{ModelFolder, QuantMode, QuantSpec};

use crate::report::{self, Progress};

/// Flags of `convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// The model: a folder of Hugging Face's or of MLX's format, or a .gguf file.
    #[arg(long, visible_alias = "hf-path", value_name = "MODEL")]
    pub model: PathBuf,

    /// The folder to write; it must not be there.
    #[arg(long, default_value = "mlx_model", value_name = "FOLDER")]
    pub mlx_path: PathBuf,

    /// Pack the matrices.
    #[arg(short, long)]
    pub quantize: bool,

    /// Elements that share a scale; default: 64 for affine, 32 for mxfp4 and mxfp8, 16 for nvfp4.
    #[arg(long, value_name = "N")]
    pub q_group_size: Option<u32>,

    /// Bits of an element; default: 4, for mxfp8 8.
    #[arg(long, value_name = "N")]
    pub q_bits: Option<u32>,

    /// How elements are packed.
    #[arg(long, default_value = "affine", value_enum)]
    pub q_mode: Mode,

    /// Pack values, down projections and the head finer: the bits of the others and theirs.
    #[arg(long, value_enum, value_name = "RECIPE")]
    pub quant_predicate: Option<Mixed>,

    /// Type of what is not packed; default: what config.json says, else the tensors' own.
    #[arg(long, value_enum)]
    pub dtype: Option<Float>,

    /// Unpack packed matrices.
    #[arg(short, long)]
    pub dequantize: bool,
}

/// Values of `--q-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Integers with a scale and a bias.
    Affine,
    /// 4-bit floats, 32 to a power of two.
    Mxfp4,
    /// 4-bit floats, 16 to an 8-bit float.
    Nvfp4,
    /// 8-bit floats, 32 to a power of two.
    Mxfp8,
}

/// Values of `--quant-predicate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mixed {
    /// 2 and 6 bits.
    #[value(name = "mixed_2_6")]
    TwoAndSix,
    /// 3 and 4 bits.
    #[value(name = "mixed_3_4")]
    ThreeAndFour,
    /// 3 and 6 bits.
    #[value(name = "mixed_3_6")]
    ThreeAndSix,
    /// 4 and 6 bits.
    #[value(name = "mixed_4_6")]
    FourAndSix,
}

/// Values of `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Float {
    /// 16 bits, 11 of them significant.
    Float16,
    /// 16 bits, 8 of them significant.
    Bfloat16,
    /// 32 bits.
    Float32,
}

/// Runs the command.
///
/// # Errors
/// What the model, the disk or the flags had to say.
pub fn run(options: &Convert) -> Result<()> {
    let settings = settings(options)?;
    if options.mlx_path.symlink_metadata().is_ok() {
        bail!(
            "{}: is there already; name another place with --mlx-path, or delete it first",
            options.mlx_path.display()
        );
    }
    let source = ModelFolder::open(&options.model)?;
    let progress = Progress::new(true);
    let report = convert(&source, &options.mlx_path, &settings, |done, total| {
        progress.bytes("writing", done, total);
    });
    progress.clear();
    let report = report?;
    report::out(&format!(
        "{}: {:.2} MB in {} file{}, {:.3} bits per weight\n",
        options.mlx_path.display(),
        report.bytes as f64 / 1e6,
        report.shards,
        if report.shards == 1 { "" } else { "s" },
        report.bits_per_weight()
    ))
}

fn settings(options: &Convert) -> Result<ConvertOptions> {
    let (mode, bits, group) = match options.q_mode {
        Mode::Affine => (QuantMode::Affine, 4, 64),
        Mode::Mxfp4 => (QuantMode::Mxfp4, 4, 32),
        Mode::Nvfp4 => (QuantMode::Nvfp4, 4, 16),
        Mode::Mxfp8 => (QuantMode::Mxfp8, 8, 32),
    };
    let spec = QuantSpec::new(
        options.q_bits.unwrap_or(bits),
        options.q_group_size.unwrap_or(group),
        mode,
    )?;
    let given = options.q_bits.is_some() || options.q_group_size.is_some() || options.q_mode != Mode::Affine;
    if given && !options.quantize {
        bail!("--q-bits, --q-group-size and --q-mode go with --quantize");
    }
    Ok(ConvertOptions {
        quantize: options.quantize.then_some(spec),
        recipe: options.quant_predicate.map(|mixed| match mixed {
            Mixed::TwoAndSix => Recipe::Mixed2And6,
            Mixed::ThreeAndFour => Recipe::Mixed3And4,
            Mixed::ThreeAndSix => Recipe::Mixed3And6,
            Mixed::FourAndSix => Recipe::Mixed4And6,
        }),
        dequantize: options.dequantize,
        dtype: options.dtype.map(|dtype| match dtype {
            Float::Float16 => DType::F16,
            Float::Bfloat16 => DType::BF16,
            Float::Float32 => DType::F32,
        }),
    })
}
