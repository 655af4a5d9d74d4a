//! `mlx-native bench`: how fast prompts are read and texts are written.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use mlx_native::quant::WeightFormat;
use mlx_native::{DType, DeviceKind, KernelRegistry, MlxDevice, ops};
use mlx_native_lm::{
    Batch, Decoder, DecoderSpec, NewSequence, Plan, QuantMode, QuantSpec, RandomFormat, RandomModel, Sampler,
    SamplingParams,
};
use serde_json::{Value, json};

use crate::convert::Mode;
use crate::place::{self, Place};
use crate::report::{self, Progress, peak_memory_bytes};

/// Flags of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Folder of an MLX model, or a .gguf file; without it, and without --random, the demo model.
    #[arg(long, value_name = "MODEL", conflicts_with = "random")]
    pub model: Option<PathBuf>,

    /// A published shape with made-up weights: qwen3-0.6b, qwen3-4b, llama-3.2-1b, qwen3-30b-a3b, gemma3-4b, gpt-oss-20b.
    #[arg(long, value_name = "SHAPE")]
    pub random: Option<String>,

    /// Bits of made-up weights; 16 leaves them bf16.
    #[arg(long, default_value_t = 4, value_name = "N", requires = "random")]
    pub q_bits: u32,

    /// Elements of made-up weights that share a scale; default: 64 for affine, 32 for mxfp4 and mxfp8, 16 for nvfp4.
    #[arg(long, value_name = "N", requires = "random")]
    pub q_group_size: Option<u32>,

    /// How made-up weights are packed.
    #[arg(long, default_value = "affine", value_enum, requires = "random")]
    pub q_mode: Mode,

    /// Write the made-up model as a folder in MLX's format, and measure nothing.
    #[arg(long, value_name = "FOLDER", requires = "random")]
    pub save: Option<PathBuf>,

    /// Lengths of prompts, with commas between; 0 leaves them out.
    #[arg(short, long, default_value = "512", value_delimiter = ',', value_name = "N")]
    pub prompt_tokens: Vec<usize>,

    /// Tokens that are written, with commas between; 0 leaves them out.
    #[arg(short, long, default_value = "128", value_delimiter = ',', value_name = "N")]
    pub generation_tokens: Vec<usize>,

    /// Tokens that are there before, with commas between.
    #[arg(
        long,
        short = 'd',
        default_value = "0",
        value_delimiter = ',',
        value_name = "N"
    )]
    pub depth: Vec<usize>,

    /// Sequences at a time.
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    pub batch_size: usize,

    /// Times that each test is run, behind one that does not count.
    #[arg(short, long, default_value_t = 5, value_name = "N")]
    pub num_trials: usize,

    /// Seconds between trials.
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub delay: u64,

    /// How results are printed.
    #[arg(short, long, default_value = "md", value_enum)]
    pub output: Output,

    /// Where to run.
    #[command(flatten)]
    pub place: Place,
}

/// Values of `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table.
    Md,
    /// A list of objects.
    Json,
}

/// What is measured.
#[derive(Clone, Copy)]
struct Test {
    prompt: usize,
    generated: usize,
    depth: usize,
}

impl Test {
    /// As llama-bench has it.
    fn name(self) -> String {
        let mut name = match (self.prompt, self.generated) {
            (p, 0) => format!("pp{p}"),
            (_, g) => format!("tg{g}"),
        };
        if self.depth > 0 {
            let _ = write!(name, " @ d{}", self.depth);
        }
        name
    }
}

/// What the device does at best, as far as its own operators show.
struct Best {
    /// Bytes a second of a copy, read and written.
    bandwidth: f64,
    /// Operations a second of a product of matrices in f32.
    flops: f64,
}

/// Runs the command.
///
/// # Errors
/// What the model or the device had to say.
pub fn run(options: &Bench) -> Result<()> {
    if options.batch_size != 1 {
        bail!(
            "--batch-size {}: one sequence at a time is measured so far",
            options.batch_size
        );
    }
    if options.num_trials == 0 {
        bail!("--num-trials 0: wanted at least one");
    }
    if let Some(target) = &options.save {
        return random(options)?.save(target).map_err(Into::into);
    }
    let progress = Progress::new(options.output == Output::Md);
    progress.stage("loading");
    let device = options.place.open()?;
    let (name, mut decoder, plan, spec) = open(options, &device)?;
    progress.stage("measuring the device");
    let best = best(&device)?;
    let mut results = Vec::new();
    for test in tests(options) {
        progress.stage("running");
        let times = measure(&mut decoder, test, options)?;
        results.push(result(&name, &device, &plan, &spec, &best, test, &times, options));
    }
    progress.clear();
    match options.output {
        Output::Json => report::out(&format!("{:#}\n", Value::Array(results))),
        Output::Md => report::out(&table(&results, &best)),
    }
}

fn random(options: &Bench) -> Result<RandomModel> {
    let format = match (options.q_bits, options.q_mode) {
        (16, Mode::Affine) => WeightFormat::Dense(DType::BF16),
        (bits, Mode::Affine) => WeightFormat::affine(bits, options.q_group_size.unwrap_or(64), DType::BF16)?,
        (_, Mode::Mxfp4) => WeightFormat::Mxfp4,
        (_, Mode::Mxfp8) => WeightFormat::Mxfp8,
        (_, Mode::Nvfp4) => WeightFormat::Nvfp4 { global_scale: false },
    };
    if let (Some(group), false) = (options.q_group_size, options.q_mode == Mode::Affine) {
        let mode = match options.q_mode {
            Mode::Mxfp8 => QuantMode::Mxfp8,
            Mode::Nvfp4 => QuantMode::Nvfp4,
            _ => QuantMode::Mxfp4,
        };
        QuantSpec::new(if mode == QuantMode::Mxfp8 { 8 } else { 4 }, group, mode)?;
    }
    let shape = options.random.as_deref().unwrap_or_default();
    Ok(RandomModel::new(shape, RandomFormat { format })?)
}

fn open(options: &Bench, device: &MlxDevice) -> Result<(String, Decoder, Plan, DecoderSpec)> {
    let dtype = options.place.dtype.dtype();
    if let Some(shape) = &options.random {
        let model = random(options)?;
        let default = match device.kind() {
            DeviceKind::Metal | DeviceKind::Cuda => DType::BF16,
            _ => DType::F32,
        };
        let (decoder, plan) =
            model.decoder(device, dtype.unwrap_or(default), options.place.prefill_step_size)?;
        return Ok((format!("{shape} (random)"), decoder, plan, model.spec()?));
    }
    let folder = place::files(options.model.as_ref())?;
    let (plan, spec) = (folder.plan(DType::F32, 1)?, folder.decoder_spec()?);
    let name = match &options.model {
        Some(path) => path
            .file_name()
            .map_or(path.display().to_string(), |n| n.display().to_string()),
        None => "demo".to_owned(),
    };
    let decoder = folder.decoder(device, &options.place.options())?;
    Ok((name, decoder, plan, spec))
}

fn tests(options: &Bench) -> Vec<Test> {
    let mut tests = Vec::new();
    for &depth in &options.depth {
        let prompts = options.prompt_tokens.iter().map(|&prompt| (prompt, 0));
        let texts = options.generation_tokens.iter().map(|&generated| (0, generated));
        let both = prompts.chain(texts).filter(|(p, g)| p + g > 0);
        tests.extend(both.map(|(prompt, generated)| Test {
            prompt,
            generated,
            depth,
        }));
    }
    tests
}

/// Tokens without a meaning, the same every time.
fn token(i: usize, vocab: usize) -> u32 {
    let mixed = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    (mixed % vocab.max(1) as u64) as u32
}

/// Seconds of each trial.
fn measure(decoder: &mut Decoder, test: Test, options: &Bench) -> Result<Vec<f64>> {
    let (vocab, chunk) = (decoder.spec().vocab_size, decoder.chunk());
    let mut times = Vec::new();
    for trial in 0..=options.num_trials {
        if trial > 1 && options.delay > 0 {
            std::thread::sleep(Duration::from_secs(options.delay));
        }
        let mut state = decoder.new_state(test.depth + test.prompt + test.generated)?;
        let before: Vec<u32> = (0..test.depth).map(|i| token(i, vocab)).collect();
        for piece in before.chunks(chunk) {
            decoder.feed(piece, &mut state)?;
        }
        let start = Instant::now();
        if test.generated == 0 {
            let prompt: Vec<u32> = (0..test.prompt).map(|i| token(test.depth + i, vocab)).collect();
            let pieces = prompt.len().div_ceil(chunk);
            for (i, piece) in prompt.chunks(chunk).enumerate() {
                match i + 1 == pieces {
                    true => drop(decoder.forward(piece, &mut state)?),
                    false => decoder.feed(piece, &mut state)?,
                }
            }
        } else {
            // As texts are written: the likeliest token, chosen on the device, the host one step behind.
            let params = SamplingParams {
                temperature: 0.0,
                ..SamplingParams::default()
            };
            let sampler = Sampler::new(&params)?;
            let mut batch = Batch::new(decoder)?;
            let new = NewSequence {
                state,
                history: Vec::new(),
                sampling: sampler.on_device(),
                max_tokens: test.generated,
            };
            let id = batch.add(decoder, new)?;
            batch.append(id, &[token(test.depth, vocab)])?;
            while batch.has_work() {
                batch.step(decoder)?;
            }
        }
        // The first one warms up.
        if trial > 0 {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(times)
}

/// What the device does at best: a long copy, and a product of matrices, the fastest of some.
fn best(device: &MlxDevice) -> Result<Best> {
    const COPIED: usize = 1 << 24;
    const WIDE: usize = 1024;
    let (n, wide) = match device.kind() {
        // It stands for no device's speed.
        DeviceKind::Emulator => (1 << 12, 64),
        _ => (COPIED, WIDE),
    };
    let mut registry = KernelRegistry::new();
    let fastest = |record: &mut dyn FnMut(&mut mlx_native::CommandEncoder) -> Result<()>| -> Result<f64> {
        let mut fastest = f64::INFINITY;
        for _ in 0..5 {
            let mut encoder = device.command_encoder()?;
            record(&mut encoder)?;
            let start = Instant::now();
            encoder.commit_and_wait()?;
            fastest = fastest.min(start.elapsed().as_secs_f64());
        }
        Ok(fastest)
    };
    let (from, to) = (
        device.alloc_tensor(DType::F32, &[n])?,
        device.alloc_tensor(DType::F32, &[n])?,
    );
    let params = ops::copy::CopyParams {
        n_elements: u32::try_from(n)?,
    };
    let seconds = fastest(&mut |encoder| {
        Ok(ops::copy::copy(
            encoder,
            &mut registry,
            device,
            &from,
            &to,
            &params,
        )?)
    })?;
    let bandwidth = 8.0 * n as f64 / seconds;
    let matrix = || device.alloc_tensor(DType::F32, &[wide, wide]);
    let (x, w, y) = (
        matrix()?,
        mlx_native::quant::Weight::dense(matrix()?, &[wide, wide])?,
        matrix()?,
    );
    let params = ops::linear::LinearParams {
        m: u32::try_from(wide)?,
    };
    let seconds = fastest(&mut |encoder| {
        Ok(ops::linear::linear(
            encoder,
            &mut registry,
            device,
            &x,
            &w,
            None,
            &y,
            &params,
        )?)
    })?;
    Ok(Best {
        bandwidth,
        flops: 2.0 * (wide as f64).powi(3) / seconds,
    })
}

fn result(
    name: &str,
    device: &MlxDevice,
    plan: &Plan,
    spec: &DecoderSpec,
    best: &Best,
    test: Test,
    times: &[f64],
    options: &Bench,
) -> Value {
    let tokens = (test.prompt + test.generated) as f64;
    let speeds: Vec<f64> = times.iter().map(|t| tokens / t).collect();
    let mean = speeds.iter().sum::<f64>() / speeds.len() as f64;
    let squares: f64 = speeds.iter().map(|s| (s - mean).powi(2)).sum();
    let deviation = (squares / (speeds.len() as f64 - 1.0).max(1.0)).sqrt();
    let (bytes, elements) = plan.active(spec);
    // A token of a text reads every active weight; one of a prompt multiplies with it.
    let (bandwidth, flops) = (mean * bytes / best.bandwidth, mean * 2.0 * elements / best.flops);
    json!({
        "model": name,
        "model_size": plan.bytes(),
        "model_n_params": plan.parameters(),
        "backend": device.kind().to_string(),
        "n_threads": options.place.threads,
        "n_prompt": test.prompt,
        "n_gen": test.generated,
        "n_depth": test.depth,
        "n_batch": options.batch_size,
        "test": test.name(),
        "samples_ns": times.iter().map(|t| (t * 1e9) as u64).collect::<Vec<_>>(),
        "samples_ts": speeds,
        "avg_ns": (times.iter().sum::<f64>() / times.len() as f64 * 1e9) as u64,
        "avg_ts": mean,
        "stddev_ts": deviation,
        "share_of_bandwidth": bandwidth,
        "share_of_flops": flops,
        "measured_bandwidth": best.bandwidth,
        "measured_flops": best.flops,
        "peak_memory_bytes": peak_memory_bytes(),
    })
}

/// llama-bench's table, with the share of what the device does at best: of its bandwidth for texts, of its operations for
/// prompts.
fn table(results: &[Value], best: &Best) -> String {
    let rows: Vec<[String; 7]> = results
        .iter()
        .map(|r| {
            let x = |key: &str| r[key].as_f64().unwrap_or(0.0);
            let share = match r["n_gen"].as_u64() {
                Some(0) => format!("{:.0} % of flops", 100.0 * x("share_of_flops")),
                _ => format!("{:.0} % of bandwidth", 100.0 * x("share_of_bandwidth")),
            };
            [
                r["model"].as_str().unwrap_or_default().to_owned(),
                format!("{:.2} MiB", x("model_size") / (1u64 << 20) as f64),
                format!("{:.2} M", x("model_n_params") / 1e6),
                r["backend"].as_str().unwrap_or_default().to_owned(),
                r["test"].as_str().unwrap_or_default().to_owned(),
                format!("{:.2} ± {:.2}", x("avg_ts"), x("stddev_ts")),
                share,
            ]
        })
        .collect();
    let heads = ["model", "size", "params", "backend", "test", "t/s", "share"].map(str::to_owned);
    let width = |i: usize| {
        let cells = rows.iter().chain([&heads]).map(|row| row[i].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        let mut line = String::from("|");
        for (i, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[i] - cell.chars().count());
            // Numbers to the right.
            let _ = match i {
                1 | 2 | 5 | 6 => write!(line, " {pad}{cell} |"),
                _ => write!(line, " {cell}{pad} |"),
            };
        }
        line
    };
    let mut text = format!("{}\n|", line(&heads));
    for (i, width) in widths.iter().enumerate() {
        let colon = if matches!(i, 1 | 2 | 5 | 6) { ":" } else { "-" };
        let _ = write!(text, " {}{colon} |", "-".repeat(width.saturating_sub(1)));
    }
    text.push('\n');
    for row in &rows {
        text += &line(row);
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "\nmeasured: {:.1} GB/s of a copy, {:.1} GFLOP/s of a product in f32",
        best.bandwidth / 1e9,
        best.flops / 1e9
    );
    text
}
