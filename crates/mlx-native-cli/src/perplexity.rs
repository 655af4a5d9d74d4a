//! `mlx-native perplexity`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use mlx_native_lm::perplexity;

use crate::place::Place;
use crate::report::{self, Progress, peak_memory_bytes};

/// Longest text that is read: 1 GiB.
const MAX_TEXT: u64 = 1 << 30;

/// Flags of `perplexity`.
#[derive(Debug, Args)]
pub struct Perplexity {
    /// Folder of an MLX model, or a .gguf file; without it the demo model.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,

    /// A text file.
    #[arg(long, value_name = "FILE")]
    pub data_path: PathBuf,

    /// Tokens of a window; each window is foretold on its own.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub sequence_length: usize,

    /// Windows at most; -1 takes all.
    #[arg(long, default_value_t = 256, value_name = "N", allow_hyphen_values = true)]
    pub num_samples: i64,

    /// Where to run.
    #[command(flatten)]
    pub place: Place,

    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// What the file, the model or the device had to say.
pub fn run(options: &Perplexity) -> Result<()> {
    let path = options.data_path.display();
    let found = std::fs::metadata(&options.data_path).with_context(|| format!("{path}"))?;
    if !found.is_file() || found.len() > MAX_TEXT {
        bail!("{path}: no regular file of at most {MAX_TEXT} bytes");
    }
    let text = std::fs::read_to_string(&options.data_path).with_context(|| format!("{path}"))?;
    let samples = match options.num_samples {
        -1 => None,
        n if n > 0 => Some(usize::try_from(n)?),
        n => bail!("--num-samples {n}: wanted -1 or a number above 0"),
    };
    let progress = Progress::new(!options.json);
    progress.stage("loading");
    let device = options.place.open()?;
    let mut model = options.place.model(options.model.as_ref(), &device)?;
    let tokens = model
        .tokenizer()
        .encode(&text)
        .with_context(|| format!("{path}"))?;
    let start = Instant::now();
    let result = perplexity(
        model.decoder_mut(),
        &tokens,
        options.sequence_length,
        samples,
        |done, total| progress.prompt(done * options.sequence_length, total * options.sequence_length),
    );
    progress.clear();
    let result = result?;
    let seconds = start.elapsed().as_secs_f64();
    let speed = result.tokens as f64 / seconds;
    if options.json {
        let object = serde_json::json!({
            "perplexity": result.perplexity,
            "standard_error": result.standard_error,
            "samples": result.samples,
            "tokens": result.tokens,
            "seconds": seconds,
            "tokens_per_second": speed,
            "peak_memory_bytes": peak_memory_bytes(),
        });
        return report::out(&format!("{object}\n"));
    }
    report::out(&format!(
        "Perplexity: {:.3} ± {:.3}\n{} tokens in {} windows of {}, {seconds:.2} seconds, {speed:.0} tokens/s\n",
        result.perplexity, result.standard_error, result.tokens, result.samples, options.sequence_length
    ))
}
