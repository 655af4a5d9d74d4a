//! `cargo xtask compare`: this library beside its peers, on the same machine in the same minutes.
//!
//! Peers come from their published packages into `target/compare`: llama.cpp from the source distribution of PyPI's
//! `llama-cpp-python`, built for this processor; MLX and mlx-lm for the CPU. Models are random weights in the shapes of real
//! ones (`tools/compare_models.py`), as an MLX folder and as a GGUF file of as many bits. Ours and theirs take turns; what
//! counts is the ratio of each pair, and of those the median: single numbers of a shared machine mean nothing.

mod peers;

use crate::shell::{Cmd, Result, root, target_dir};
use peers::Peers;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The models, as `tools/compare_models.py` names them.
const MODELS: &[&str] = &["qwen3-0.6b", "qwen3-4b", "llama-3.2-1b", "tiny"];

/// What is asked for.
struct Options {
    model: String,
    bits: u32,
    pairs: usize,
    threads: usize,
    depths: Vec<usize>,
    mlx: bool,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let threads = std::thread::available_parallelism()?.get();
        let mut options = Options {
            model: MODELS[0].to_owned(),
            bits: 4,
            pairs: 5,
            threads,
            depths: vec![512],
            mlx: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} takes a value"));
            match arg.as_str() {
                "--model" => options.model = value()?.clone(),
                "--bits" => options.bits = value()?.parse()?,
                "--pairs" => options.pairs = value()?.parse()?,
                "--threads" => options.threads = value()?.parse()?,
                "--depths" => {
                    let depths = value()?.split(',').map(str::parse);
                    options.depths = depths.collect::<std::result::Result<_, _>>()?;
                }
                "--mlx" => options.mlx = true,
                other => return Err(format!("compare has no option {other}").into()),
            }
        }
        if !MODELS.contains(&options.model.as_str()) {
            return Err(format!("no model '{}', there are {}", options.model, MODELS.join(", ")).into());
        }
        if ![4, 8].contains(&options.bits) || options.pairs == 0 || options.threads == 0 {
            return Err("--bits is 4 or 8, --pairs and --threads are at least 1".into());
        }
        Ok(options)
    }

    fn name(&self) -> String {
        format!("{}-{}bit", self.model, self.bits)
    }
}

/// The chore.
pub fn main(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let dir = target_dir().join("compare");
    let peers = Peers::ready(&dir)?;
    let models = dir.join("models");
    let ours = Ours::ready(&models, &options, &peers)?;
    let gguf = models.join(format!("{}.gguf", options.name()));
    let bytes = std::fs::metadata(ours.folder.join("model.safetensors"))?.len();

    println!(
        "\n{}, {} threads, {} pairs, {:.0} MB of weights",
        options.name(),
        options.threads,
        options.pairs,
        bytes as f64 / 1e6
    );
    println!(
        "reading memory: {:.1} GB/s with all threads",
        bandwidth(options.threads)
    );
    println!(
        "\n| work | ours, tokens/s | llama.cpp | ratio: median (least to greatest) |\n|---|---|---|---|"
    );
    for &depth in &options.depths {
        let mut rows = [Pairs::default(), Pairs::default()];
        for _ in 0..options.pairs {
            let run = ours.run(depth, 32)?;
            let prefill =
                peers.llama_bench(&gguf, &["-p", &depth.to_string(), "-n", "0"], options.threads)?;
            let decode = peers.llama_bench(
                &gguf,
                &["-p", "0", "-n", "32", "-d", &depth.to_string()],
                options.threads,
            )?;
            rows[0].add(run.prompt, prefill);
            rows[1].add(run.decode, decode);
        }
        rows[0].print(&format!("prefill of {depth}"));
        rows[1].print(&format!("decode at depth {depth}"));
    }
    let mut first = Pairs::default();
    for _ in 0..options.pairs {
        let run = ours.run(1, 48)?;
        let decode = peers.llama_bench(&gguf, &["-p", "0", "-n", "48"], options.threads)?;
        first.add(run.decode, decode);
    }
    first.print("decode at depth 0");
    if options.mlx {
        let (run, (prompt, decode)) = (ours.run(32, 8)?, peers.mlx_lm(&ours.folder, 32, 8)?);
        println!(
            "| mlx-lm: prefill of 32 | {:.1} | {prompt:.2} | {:.1} |",
            run.prompt,
            run.prompt / prompt
        );
        println!(
            "| mlx-lm: decode | {:.1} | {decode:.2} | {:.1} |",
            run.decode,
            run.decode / decode
        );
    }
    let started = Instant::now();
    let run = ours.run(1, 1)?;
    println!(
        "\nours: start to end of one token {:.2} s, peak memory {:.0} MB",
        started.elapsed().as_secs_f64(),
        run.peak / 1e6
    );
    Ok(())
}

/// Our program and its model.
struct Ours {
    program: PathBuf,
    folder: PathBuf,
    threads: usize,
}

/// What one run says.
struct Run {
    prompt: f64,
    decode: f64,
    peak: f64,
}

impl Ours {
    fn ready(models: &Path, options: &Options, peers: &Peers) -> Result<Self> {
        let folder = models.join(options.name());
        let gguf = models.join(format!("{}.gguf", options.name()));
        if !folder.join("tokenizer.json").is_file() || !gguf.is_file() {
            let tokenizer = root().join("crates/mlx-native-demo/model");
            Cmd::new(peers.python())
                .args([
                    "tools/compare_models.py",
                    &models.to_string_lossy(),
                    &options.model,
                    &options.bits.to_string(),
                ])
                .args(["--tokenizer", &tokenizer.to_string_lossy()])
                .run()?;
        }
        Cmd::line("cargo build --release -p mlx-native-cli").run()?;
        let program = target_dir().join("release/mlx-native");
        Ok(Ours {
            program,
            folder,
            threads: options.threads,
        })
    }

    /// Speeds after a prompt of about `prompt` tokens.
    fn run(&self, prompt: usize, tokens: usize) -> Result<Run> {
        // A word that the tokenizer has as one token.
        let text = vec!["the"; prompt].join(" ");
        let (ok, output) = Cmd::new(self.program.to_string_lossy())
            .args(["generate", "--json", "--ignore-chat-template", "--prompt", &text])
            .args(["--model", &self.folder.to_string_lossy(), "--device", "cpu"])
            .args([
                "--max-tokens",
                &tokens.to_string(),
                "--threads",
                &self.threads.to_string(),
                "--dtype",
                "bf16",
            ])
            .capture()?;
        let number =
            |name: &str| number_after(&output, name).ok_or_else(|| format!("no {name} in: {output}"));
        if !ok {
            return Err(format!("our program failed: {output}").into());
        }
        Ok(Run {
            prompt: number("prompt_tps")?,
            decode: number("generation_tps")?,
            peak: number("peak_memory_bytes")?,
        })
    }
}

/// The number behind `"name":`.
fn number_after(json: &str, name: &str) -> Option<f64> {
    let rest = json.split_once(&format!("\"{name}\":"))?.1.trim_start();
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && !".-+eE".contains(c))
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Ours and theirs in turn.
#[derive(Default)]
struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    fn add(&mut self, ours: f64, theirs: f64) {
        self.0.push((ours, theirs));
    }

    fn print(&self, work: &str) {
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            (values[values.len() / 2], values[0], values[values.len() - 1])
        };
        let ours = median(self.0.iter().map(|p| p.0).collect()).0;
        let theirs = median(self.0.iter().map(|p| p.1).collect()).0;
        let (ratio, least, greatest) = median(self.0.iter().map(|(ours, theirs)| ours / theirs).collect());
        println!("| {work} | {ours:.1} | {theirs:.1} | {ratio:.2} ({least:.2} to {greatest:.2}) |");
    }
}

/// GB/s of reading memory that no cache holds, with so many threads: the best of three.
fn bandwidth(threads: usize) -> f64 {
    const WORDS: usize = 32 << 20;
    let memory: Vec<Vec<u64>> = (0..threads).map(|i| vec![i as u64; WORDS]).collect();
    let mut best = 0.0f64;
    for _ in 0..3 {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for memory in &memory {
                scope.spawn(|| {
                    let mut sums = [0u64; 8];
                    for line in memory.chunks_exact(8) {
                        for i in 0..8 {
                            sums[i] = sums[i].wrapping_add(line[i]);
                        }
                    }
                    std::hint::black_box(sums);
                });
            }
        });
        best = best.max((threads * WORDS * 8) as f64 / started.elapsed().as_secs_f64() / 1e9);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_json() {
        let json = r#"[{"n_gen": 32, "avg_ts": 41.25, "x": 1}] "peak_memory_bytes":12"#;
        assert_eq!(number_after(json, "avg_ts"), Some(41.25));
        assert_eq!(number_after(json, "peak_memory_bytes"), Some(12.0));
        assert_eq!(number_after(json, "none"), None);
    }

    #[test]
    fn options_are_checked() {
        let parse =
            |words: &str| Options::parse(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let options = parse("--model qwen3-4b --bits 8 --depths 128,2048 --pairs 3").unwrap();
        assert_eq!(
            (options.name().as_str(), options.depths, options.pairs),
            ("qwen3-4b-8bit", vec![128, 2048], 3)
        );
        for wrong in [
            "--model x",
            "--bits 3",
            "--pairs 0",
            "--depths a",
            "--bits",
            "--what",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
