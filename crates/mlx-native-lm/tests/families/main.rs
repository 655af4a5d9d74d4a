//! Every model family against mlx-lm: tiny models whose weights follow from a formula, with mlx-lm's logits, greedy tokens
//! and chunked prompts. `golden/README.md` says what the files hold.
//!
//! `cargo xtask families [DIR] [--family NAME] [--device D] [--variant f32|q4|gguf] [--hostile|--no-hostile] [--every]` runs
//! it and prints the table; `hostile.rs` and `hostile_weights.rs` say what the last three are. Each model is written as an ordinary folder and opened by
//! the ordinary loader; those that GGUF has too also as a GGUF file.

mod gguf;
mod golden;
mod hostile;
mod hostile_weights;
mod run;
mod sha256;
mod weights;

use std::path::PathBuf;
use std::process::ExitCode;

use mlx_native::{DeviceKind, MlxDevice};

use golden::Golden;
use run::{run, run_gguf};

struct Options {
    folder: PathBuf,
    families: Vec<String>,
    device: DeviceKind,
    variant: Option<String>,
    /// Hostile configurations: only these, or none of them; both where nothing is said.
    hostile: Option<bool>,
    /// All hostile models are opened and run, not a sample of them.
    every: bool,
}

fn options() -> Result<Options, String> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/families/golden");
    let mut options = Options {
        folder: own,
        families: Vec::new(),
        device: DeviceKind::Cpu,
        variant: None,
        hostile: None,
        every: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--family" => options.families.push(value()?),
            "--variant" => options.variant = Some(value()?),
            "--hostile" => options.hostile = Some(true),
            "--no-hostile" => options.hostile = Some(false),
            "--every" => options.every = true,
            "--device" => {
                let name = value()?;
                options.device = [
                    DeviceKind::Cpu,
                    DeviceKind::Emulator,
                    DeviceKind::Metal,
                    DeviceKind::Cuda,
                ]
                .into_iter()
                .find(|d| d.to_string() == name)
                .ok_or_else(|| format!("no device {name:?}: cpu, emulator, metal, cuda"))?;
            }
            // What the test runner of cargo passes on.
            "--nocapture" | "--quiet" | "--show-output" => {}
            "--test-threads" | "--color" | "--format" => {
                value()?;
            }
            other if other.starts_with('-') => return Err(format!("no option {other}")),
            other => options.folder = PathBuf::from(other),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    match options().and_then(|options| all(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("families: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Cases that run on the emulator too, with its checks, where nothing is asked for: one for each kind of mixer and of
/// feed-forward layer.
#[cfg(feature = "emulator")]
const ON_EMULATOR: &[&str] = &[
    // Windows, sinks, experts with biases; layer norms and two matrices; latent attention with an indexer.
    "gpt_oss",
    "phi",
    "deepseek_v32",
    // The delta rule, Mamba 1 and 2, RWKV-7, a linear recurrent unit, fading linear attention, short convolutions.
    "qwen3_next",
    "mamba",
    "mamba2",
    "rwkv7",
    "recurrent_gemma",
    "bailing_moe_linear",
    "lfm2",
    // Streams that alternate, inputs for each layer, shared keys.
    "gemma3n",
];

/// The table, hostile configurations, and some cases on the emulator; each as far as it is asked for.
fn all(options: &Options) -> Result<bool, String> {
    let mut is_right = options.hostile == Some(true) || table(options)?;
    if options.hostile == Some(false) {
        return Ok(is_right);
    }
    #[cfg(feature = "emulator")]
    if options.families.is_empty() && options.hostile.is_none() && options.device == DeviceKind::Cpu {
        is_right &= table(&Options {
            folder: options.folder.clone(),
            families: ON_EMULATOR.iter().map(|name| (*name).to_owned()).collect(),
            device: DeviceKind::Emulator,
            variant: Some("f32".to_owned()),
            hostile: None,
            every: false,
        })?;
    }
    let device = MlxDevice::open(options.device).map_err(|e| e.to_string())?;
    let cases = Golden::read_all(&options.folder, &options.families)?;
    is_right &= hostile::run(&device, &cases, options.every)?;
    is_right &= hostile_weights::run(&device, &cases, options.every)?;
    Ok(is_right)
}

/// Cases that are known not to run yet. One that does must be struck from the list.
const PENDING: &str = include_str!("pending.txt");

/// Runs what is asked for and prints a row a variant; whether all of it is as it should be.
fn table(options: &Options) -> Result<bool, String> {
    let device = MlxDevice::open(options.device).map_err(|e| e.to_string())?;
    let cases = Golden::read_all(&options.folder, &options.families)?;
    println!(
        "error of logits in parts of the tolerance; {} cases on {}",
        cases.len(),
        options.device
    );
    println!(
        "{:28} {:4} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "family", "", "whole", "earlier", "greedy", "after", "chunked"
    );
    let (mut right, mut all, mut pending) = (0, 0, 0);
    let mut wrong = Vec::new();
    for case in &cases {
        let known = PENDING.lines().any(|line| line == case.case);
        let (mut right_of_case, mut of_case) = (0, 0);
        for (name, variant) in &case.variants {
            if options.variant.as_ref().is_some_and(|wanted| wanted != name) {
                continue;
            }
            of_case += 1;
            let (text, is_right) = match run(&device, case, variant) {
                Ok(outcome) => (outcome.to_string(), outcome.is_right()),
                Err(error) => (error.chars().take(120).collect(), false),
            };
            println!("{:28} {name:4} {text}", case.case);
            right_of_case += usize::from(is_right);
        }
        let wanted = options.variant.as_deref().is_none_or(|wanted| wanted == "gguf");
        if let Some(variant) = case.variants.get("f32").filter(|_| wanted) {
            let (text, is_right) = match run_gguf(&device, case, variant) {
                Ok(None) => (String::new(), true),
                Ok(Some(outcome)) => (outcome.to_string(), outcome.is_right()),
                Err(error) => (error.chars().take(120).collect(), false),
            };
            if !text.is_empty() {
                println!("{:28} gguf {text}", case.case);
                of_case += 1;
                right_of_case += usize::from(is_right);
            }
        }
        right += right_of_case;
        all += of_case;
        // A variant that the case does not have says nothing of it.
        if of_case == 0 {
            continue;
        }
        match (right_of_case == of_case, known) {
            (true, false) => {}
            (false, true) => pending += 1,
            (false, false) => wrong.push(case.case.clone()),
            (true, true) => wrong.push(format!("{} (right, but in pending.txt)", case.case)),
        }
    }
    if all == 0 {
        return Err("nothing to run".to_owned());
    }
    println!("{right} of {all} variants are right; cases that pending.txt knows of: {pending}");
    if !wrong.is_empty() {
        println!("not as they should be: {}", wrong.join(", "));
    }
    Ok(wrong.is_empty())
}
