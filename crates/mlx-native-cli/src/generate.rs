//! `mlx-native generate`.

use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;

use anyhow::{Context as _, Result, bail};
use mlx_native::{Config, MlxDevice};
use mlx_native_lm::{
    Event, GenerateOptions, Generation, Model, ModelOptions, SamplingParams, generate, generate_with_draft,
};
use serde_json::{Map, Value};

use crate::args::Generate;
use crate::chat;
use crate::report::{self, Progress, peak_memory_bytes};

/// Longest prompt read from standard input: 64 MiB.
const MAX_STDIN: u64 = 64 << 20;

/// Runs the command.
///
/// # Errors
/// What the model, the device or the terminal had to say.
pub fn run(options: &Generate) -> Result<()> {
    let variables = chat::variables(options)?;
    let prompt = read_prompt(&options.prompt)?;
    let progress = Progress::new(options.verbose);
    progress.stage("loading");
    let device = open_device(options)?;
    let mut model = open_model(options, &device)?;
    let mut draft = (options.drafting).open_with(&model_options(options), &device, &model)?;
    let prompt_ids = encode(options, &model, prompt, variables)?;
    let stop_ids = model.stop_ids(&options.extra_eos_token)?;
    let settings = GenerateOptions {
        max_tokens: options.max_tokens,
        sampling: SamplingParams {
            xtc_special_tokens: model.xtc_special_tokens(&stop_ids)?,
            ..sampling(options)
        },
        stop_ids,
    };
    let context = model.context_length();
    let unknown = model.unknown_fields().join(", ");
    note_on_context(&progress, context, prompt_ids.len(), 0);
    let mut cache = model.decoder().new_state(prompt_ids.len())?;
    let (decoder, tokenizer) = model.parts();
    let mut out = Out {
        stdout: std::io::stdout(),
        quiet: options.json,
        error: None,
    };
    let on_event = |event: Event<'_>| match event {
        Event::Prefill { done, total } => {
            progress.prompt(done, total);
            ControlFlow::Continue(())
        }
        Event::Token { text, .. } => {
            progress.clear();
            out.print(text)
        }
    };
    let result = match &mut draft {
        None => generate(decoder, tokenizer, &mut cache, &prompt_ids, &settings, on_event),
        Some(draft) => generate_with_draft(
            decoder,
            draft,
            tokenizer,
            &mut cache,
            &prompt_ids,
            &settings,
            on_event,
        ),
    };
    progress.clear();
    let generation = result?;
    if let Some(error) = out.error {
        return heard(Err(error)).map(|_| ());
    }
    note_on_context(&progress, context, prompt_ids.len(), generation.token_ids.len());
    if !unknown.is_empty() {
        report::note(&format!(
            "these fields are not known and have no effect: {unknown}"
        ));
    }
    finish(options, &prompt_ids, &generation)?;
    if let Some((guessed, accepted)) = draft
        .map(|d| d.acceptance())
        .filter(|_| options.verbose && !options.json)
    {
        report::line(&format!("draft: {accepted} of {guessed} guesses were right"));
    }
    Ok(())
}

/// Says it where a text is longer than the model was made for: with a prompt that is, and with what was generated.
fn note_on_context(progress: &Progress, context: Option<usize>, prompt: usize, generated: usize) {
    let Some(context) = context.filter(|context| prompt + generated > *context) else {
        return;
    };
    if generated == 0 {
        progress.clear();
        report::note(&format!(
            "the prompt has {prompt} tokens, the model was made for texts of at most {context}"
        ));
    } else if prompt <= context {
        report::note(&format!(
            "prompt and text have {} tokens, the model was made for texts of at most {context}",
            prompt + generated
        ));
    }
}

fn read_prompt(prompt: &str) -> Result<String> {
    // As in mlx-lm: what a shell makes hard to write.
    let prompt = prompt.replace("\\n", "\n").replace("\\t", "\t");
    if prompt != "-" {
        return Ok(prompt);
    }
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_STDIN + 1)
        .read_to_string(&mut text)
        .context("the prompt on standard input")?;
    if text.len() as u64 > MAX_STDIN {
        bail!("the prompt on standard input is longer than {MAX_STDIN} bytes");
    }
    Ok(text)
}

/// The prompt's tokens: of a chat where the model has a template for it, else of the bare text.
fn encode(
    options: &Generate,
    model: &Model,
    prompt: String,
    variables: Map<String, Value>,
) -> Result<Vec<u32>> {
    let template = if options.ignore_chat_template {
        None
    } else {
        model.chat_template()?
    };
    let Some(template) = template else {
        for flag in chat::unused_flags(options) {
            report::note(&format!("{flag} has no effect: no chat template is in use"));
        }
        return model.tokenizer().encode(&prompt).context("the prompt");
    };
    let text = chat::text(options, &template, prompt, variables)?;
    // The template spells out the special tokens.
    model.tokenizer().encode_with(&text, false).context("the prompt")
}

fn open_device(options: &Generate) -> Result<MlxDevice> {
    let mut config = Config::default();
    config.threads = options.threads;
    Ok(match options.device.kind() {
        Some(kind) => MlxDevice::with_config(kind, &config)?,
        None => MlxDevice::best(&config)?,
    })
}

fn model_options(options: &Generate) -> ModelOptions {
    ModelOptions {
        dtype: options.dtype.dtype(),
        prefill_step: options.prefill_step_size,
    }
}

fn open_model(options: &Generate, device: &MlxDevice) -> Result<Model> {
    let (folder, adapter) = (options.model.as_ref(), options.adapter_path.as_ref());
    crate::place::adapted_model(folder, adapter, device, &model_options(options))
}

fn sampling(options: &Generate) -> SamplingParams {
    SamplingParams {
        temperature: options.temp,
        top_p: options.top_p,
        min_p: options.min_p,
        min_tokens_to_keep: options.min_tokens_to_keep,
        top_k: options.top_k,
        xtc_probability: options.xtc_probability,
        xtc_threshold: options.xtc_threshold,
        repetition_penalty: options.repetition_penalty,
        repetition_context_size: options.repetition_context_size,
        seed: options.seed,
        ..SamplingParams::default()
    }
}

/// Text on its way out; the first error stops it.
struct Out {
    stdout: std::io::Stdout,
    quiet: bool,
    error: Option<std::io::Error>,
}

impl Out {
    fn print(&mut self, text: &str) -> ControlFlow<()> {
        if self.quiet || text.is_empty() {
            return ControlFlow::Continue(());
        }
        match self
            .stdout
            .write_all(text.as_bytes())
            .and_then(|()| self.stdout.flush())
        {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// What became of something written to standard output: whether somebody listens. A reader such as `head` that went has
/// what it wanted.
fn heard(written: std::io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("standard output"),
    }
}

fn finish(options: &Generate, prompt_ids: &[u32], g: &Generation) -> Result<()> {
    let peak = peak_memory_bytes();
    if options.json {
        let object = serde_json::json!({
            "prompt_token_ids": prompt_ids,
            "token_ids": g.token_ids,
            "text": g.text,
            "prompt_tps": g.prompt_tps(),
            "generation_tps": g.generation_tps(),
            "peak_memory_bytes": peak,
            "finish_reason": g.finish_reason.name(),
        });
        return heard(writeln!(std::io::stdout(), "{object}")).map(|_| ());
    }
    if heard(writeln!(std::io::stdout()))? && options.verbose {
        report::line(&format!(
            "prompt: {} tokens, {:.3} tokens/s",
            prompt_ids.len(),
            g.prompt_tps()
        ));
        report::line(&format!(
            "generation: {} tokens, {:.3} tokens/s",
            g.chosen_tokens,
            g.generation_tps()
        ));
        if let Some(peak) = peak {
            report::line(&format!("peak memory: {:.3} MB", peak as f64 / 1e6));
        }
    }
    Ok(())
}
