//! Flags, under mlx-lm's names where it has them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mlx_native::{DType, DeviceKind};

/// MLX models from Rust: on a Mac's GPU, on any CPU, or on an emulator of the GPU.
#[derive(Debug, Parser)]
#[command(name = "mlx-native", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Continue a prompt and print the text as it comes.
    Generate(Generate),
    /// Talk with a model at the terminal.
    Chat(crate::converse::Chat),
    /// Say what a model is, which formats it has and how much memory it takes, without running it.
    Inspect(crate::inspect::Inspect),
    /// Write a model as a folder in MLX's format, packed or unpacked.
    Convert(crate::convert::Convert),
    /// Write a model with an adapter added to its matrices.
    Fuse(crate::fuse::Fuse),
    /// Measure how fast prompts are read and texts are written.
    #[command(visible_alias = "benchmark")]
    Bench(crate::bench::Bench),
    /// Measure how well a model foretells a text.
    Perplexity(crate::perplexity::Perplexity),
    /// Answer over HTTP, in the interfaces of OpenAI, Anthropic and Ollama.
    Serve(crate::serve::Serve),
}

/// Flags of `generate`. Of a flag that is given twice the last one counts, as in mlx-lm.
#[derive(Debug, Args)]
#[command(args_override_self = true, allow_negative_numbers = true)]
pub struct Generate {
    /// Folder of an MLX model (config.json, *.safetensors, tokenizer.json), or a .gguf file. Without it a small demo model that is part of
    /// the program runs: it continues texts about Rust.
    #[arg(long, value_name = "FOLDER")]
    pub model: Option<PathBuf>,

    /// Folder of a LoRA adapter, of mlx-lm or PEFT.
    #[arg(long, value_name = "FOLDER")]
    pub adapter_path: Option<PathBuf>,

    #[command(flatten)]
    pub drafting: crate::place::Drafting,

    /// The text to continue; `-` reads it from standard input. \n and \t in it are a line break and a tab.
    #[arg(
        short,
        long,
        default_value = "Ownership in Rust means",
        allow_hyphen_values = true
    )]
    pub prompt: String,

    /// What the system says first. Needs a chat template.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system_prompt: Option<String>,

    /// Beginning of the answer, to be continued. Needs a chat template.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prefill_response: Option<String>,

    /// Continue the prompt as it is, even if the model has a chat template.
    #[arg(long)]
    pub ignore_chat_template: bool,

    /// Further variables of the chat template, such as {"enable_thinking": false}.
    #[arg(long, value_name = "JSON")]
    pub chat_template_config: Option<String>,

    /// Tokens to generate at most.
    #[arg(short, long, default_value_t = 100, value_name = "N")]
    pub max_tokens: usize,

    /// Sampling temperature; 0 takes the likeliest token.
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub temp: f32,

    /// Sample from the likeliest tokens that together have this probability; 1 takes all.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub top_p: f32,

    /// Sample from tokens that are at least this fraction as likely as the likeliest; 0 takes all.
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub min_p: f32,

    /// Tokens that `--min-p` keeps at least.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub min_tokens_to_keep: usize,

    /// Sample from this many of the likeliest tokens; 0 takes all.
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub top_k: usize,

    /// Probability of leaving out the likeliest tokens (XTC).
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub xtc_probability: f32,

    /// Tokens above this probability may be left out by XTC.
    #[arg(long, default_value_t = 0.1, value_name = "P")]
    pub xtc_threshold: f32,

    /// Divide the logits of recent tokens by this (multiply negative ones); 1 or none leaves them.
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f32>,

    /// How many tokens count as recent.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub repetition_context_size: usize,

    /// Seed of the sampler; equal seeds give equal texts. Default: a new one each time.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Further tokens that end the text, by their ids or their texts; may be repeated.
    #[arg(long, value_name = "TOKEN", num_args = 1.., allow_hyphen_values = false)]
    pub extra_eos_token: Vec<String>,

    /// Tokens of the prompt that are processed at once, at most.
    #[arg(long, default_value_t = 2048, value_name = "N")]
    pub prefill_step_size: usize,

    /// Where to run.
    #[arg(long, default_value = "auto", value_enum)]
    pub device: Device,

    /// Type of activations and of the KV cache. `auto`: that of the checkpoint, but f32 on a CPU where that is not bf16.
    #[arg(long, default_value = "auto", value_enum)]
    pub dtype: Dtype,

    /// Threads of the CPU; default: one for each processor.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Print one JSON object at the end instead of the text.
    #[arg(long)]
    pub json: bool,

    /// `false` or `f` leaves out the progress bar and the statistics.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL", value_parser = truth)]
    pub verbose: bool,

    /// For command lines of mlx-lm: no code of a model's is ever run.
    #[arg(long, hide = true)]
    pub trust_remote_code: bool,

    /// For command lines of mlx-lm, whose generate does not look at it either.
    #[arg(long, hide = true)]
    pub use_default_chat_template: bool,
}

/// mlx-lm's reading of a truth value: all is true but `false` and `f`.
fn truth(text: &str) -> Result<bool, std::convert::Infallible> {
    Ok(!matches!(text.to_lowercase().as_str(), "false" | "f"))
}

/// Values of `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The best there is.
    Auto,
    /// The processor.
    Cpu,
    /// The Metal kernels on the processor, thread by thread.
    Emulator,
    /// The GPU of a Mac.
    Metal,
    /// An NVIDIA GPU.
    Cuda,
}

impl Device {
    /// The kind asked for; `None` for the best there is.
    pub fn kind(self) -> Option<DeviceKind> {
        match self {
            Device::Auto => None,
            Device::Cpu => Some(DeviceKind::Cpu),
            Device::Emulator => Some(DeviceKind::Emulator),
            Device::Metal => Some(DeviceKind::Metal),
            Device::Cuda => Some(DeviceKind::Cuda),
        }
    }
}

/// Values of `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// See `--dtype`.
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, 11 of them significant.
    F16,
    /// 16 bits, 8 of them significant.
    Bf16,
}

impl Dtype {
    /// The dtype asked for; `None` for `auto`.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Dtype::Auto => None,
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::Bf16 => Some(DType::BF16),
        }
    }
}
