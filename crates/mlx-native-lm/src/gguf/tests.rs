use std::io::Write as _;

use super::*;
use crate::ModelFolder;

/// Metadata of a file in the making: entries as bytes.
#[derive(Clone, Default)]
struct Made {
    entries: Vec<(String, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>)>,
}

fn text_bytes(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Made {
    fn set(mut self, key: &str, ty: u32, value: Vec<u8>) -> Self {
        self.entries.retain(|(k, _)| k != key);
        self.entries
            .push((key.to_owned(), [&ty.to_le_bytes()[..], &value].concat()));
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.entries.retain(|(k, _)| k != key);
        self
    }

    fn u32(self, key: &str, value: u32) -> Self {
        self.set(key, 4, value.to_le_bytes().to_vec())
    }

    fn f32(self, key: &str, value: f32) -> Self {
        self.set(key, 6, value.to_le_bytes().to_vec())
    }

    fn text(self, key: &str, value: &str) -> Self {
        self.set(key, 8, text_bytes(value))
    }

    fn array(self, key: &str, ty: u32, elements: Vec<Vec<u8>>) -> Self {
        let head = [&ty.to_le_bytes()[..], &(elements.len() as u64).to_le_bytes()].concat();
        self.set(key, 9, [head, elements.concat()].concat())
    }

    fn texts(self, key: &str, values: &[&str]) -> Self {
        self.array(key, 8, values.iter().map(|v| text_bytes(v)).collect())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            out.extend(text_bytes(key));
            out.extend(value);
        }
        let mut at = 0u64;
        for (name, extents) in &self.tensors {
            out.extend(text_bytes(name));
            out.extend((extents.len() as u32).to_le_bytes());
            extents.iter().for_each(|e| out.extend(e.to_le_bytes()));
            out.extend(0u32.to_le_bytes());
            out.extend(at.to_le_bytes());
            at += (extents.iter().product::<u64>() * 4).next_multiple_of(32);
        }
        out.resize(out.len().next_multiple_of(32) + at as usize, 0);
        out
    }

    fn open(&self) -> Result<ModelFolder> {
        let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
        file.write_all(&self.bytes()).unwrap();
        ModelFolder::open(file.path())
    }
}

const TOKENS: &[&str] = &["<s>", "</s>", "a", "b", "Ġ", "ab", "Ġa", "<|im_end|>"];

/// A llama of one layer.
fn llama() -> Made {
    let tensor = |name: &str, extents: &[u64]| (name.to_owned(), extents.to_vec());
    let mut made = Made {
        tensors: vec![
            tensor("token_embd.weight", &[32, 8]),
            tensor("output_norm.weight", &[32]),
        ],
        ..Made::default()
    };
    for name in ["attn_norm", "ffn_norm"] {
        made.tensors.push(tensor(&format!("blk.0.{name}.weight"), &[32]));
    }
    for name in [
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ] {
        made.tensors
            .push(tensor(&format!("blk.0.{name}.weight"), &[32, 32]));
    }
    let kinds = [3, 3, 1, 1, 1, 1, 1, 3]
        .map(|k: i32| k.to_le_bytes().to_vec())
        .to_vec();
    made.text("general.architecture", "llama")
        .u32("llama.embedding_length", 32)
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 64)
        .u32("llama.feed_forward_length", 32)
        .u32("llama.attention.head_count", 2)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts("tokenizer.ggml.tokens", TOKENS)
        .array("tokenizer.ggml.token_type", 5, kinds)
        .texts("tokenizer.ggml.merges", &["a b", "Ġ a"])
        .u32("tokenizer.ggml.bos_token_id", 0)
        .u32("tokenizer.ggml.eos_token_id", 1)
        .text("tokenizer.chat_template", "{{ messages[0]['content'] }}")
}

#[test]
fn a_file_is_a_model() {
    let model = llama().open().unwrap();
    assert_eq!(model.family().name, "llama");
    let spec = model.decoder_spec().unwrap();
    assert_eq!(
        (spec.hidden_size, spec.vocab_size, spec.max_context),
        (32, 8, Some(64))
    );
    assert!(
        spec.head.matrix.is_none(),
        "no output.weight: the table is the head"
    );
    let plan = model.plan(mlx_native::DType::F32, 64).unwrap();
    assert_eq!(plan.parameters(), 8 * 32 + 7 * 32 * 32 + 3 * 32);
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(tokenizer.encode("ab a<|im_end|>").unwrap(), [5, 6, 7]);
    assert_eq!(tokenizer.decode(&[5, 6], true).unwrap(), "ab a");
    assert_eq!(model.eos_token_ids(Some(&tokenizer)).unwrap(), [1, 7]);
    assert!(tokenizer.compile_chat_template().unwrap().is_some());
}

/// SentencePiece's merges follow the scores: `bc` is better than `ab`.
#[test]
fn scores_order_merges_and_bytes_stand_in() {
    let tokens = [
        "<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "c", "ab", "bc", "▁a",
    ];
    let scores = [0.0, 0.0, 0.0, 0.0, -5.0, -6.0, -7.0, -8.0, -2.0, -1.0, -3.0];
    let kinds = [2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1]
        .map(|k: i32| k.to_le_bytes().to_vec())
        .to_vec();
    let made = llama()
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .array("tokenizer.ggml.token_type", 5, kinds)
        .array(
            "tokenizer.ggml.scores",
            6,
            scores.map(|s: f32| s.to_le_bytes().to_vec()).to_vec(),
        )
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2);
    let tokenizer = made.open().unwrap().tokenizer().unwrap();
    // ▁ a b c: bc goes first, then ▁a.
    assert_eq!(tokenizer.encode("abc").unwrap(), [1, 10, 9]);
    assert_eq!(tokenizer.encode("a\n").unwrap(), [1, 10, 3]);
    assert_eq!(tokenizer.decode(&[10, 9], true).unwrap(), "abc");
}

#[test]
fn what_is_wrong_is_one_line_that_names_it() {
    let long = "x".repeat(100);
    let cases: Vec<(Made, &[&str])> = vec![
        (
            llama().without("general.architecture"),
            &["general.architecture", "nothing"],
        ),
        (
            llama().text("general.architecture", "mamba9"),
            &["architecture \"mamba9\"", "qwen3moe"],
        ),
        (
            llama().without("llama.block_count"),
            &["llama.block_count", "nothing"],
        ),
        (llama().u32("llama.attention.head_count", 0), &["head_count"]),
        (llama().u32("llama.block_count", u32::MAX), &["num_hidden_layers"]),
        (
            llama().text("llama.embedding_length", "32"),
            &["llama.embedding_length", "whole number"],
        ),
        (
            llama().f32("llama.attention.layer_norm_rms_epsilon", f32::NAN),
            &["epsilon", "finite"],
        ),
        (
            llama().without("tokenizer.ggml.tokens"),
            &["tokenizer.ggml.tokens"],
        ),
        (
            llama().without("tokenizer.ggml.merges"),
            &["tokenizer.ggml.merges"],
        ),
        (
            llama().text("tokenizer.ggml.pre", "no-such"),
            &["tokenizer.ggml.pre", "no-such"],
        ),
        (llama().text("tokenizer.ggml.model", &long), &["tokenizer", "xxx"]),
        (
            llama().u32("tokenizer.ggml.eos_token_id", 99),
            &["eos_token_id", "99", "below 8"],
        ),
        (
            llama().array("tokenizer.ggml.token_type", 5, vec![vec![0; 4]; 3]),
            &["token_type", "8"],
        ),
        (
            llama()
                .u32("llama.attention.key_length", 16)
                .u32("llama.rope.dimension_count", 6),
            &["6 of 16 elements"],
        ),
        (
            llama().text("llama.rope.scaling.type", "su"),
            &["rope scaling \"su\""],
        ),
        (
            llama().u32("llama.attention.value_length", 8),
            &["keys of 16 and values of 8"],
        ),
    ];
    for (made, words) in cases {
        let spec = made.open().and_then(|model| model.decoder_spec());
        let error = spec.expect_err(words[0]).to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        for word in words {
            assert!(error.contains(word), "{error:?} does not mention {word:?}");
        }
    }
}

#[test]
fn tensors_must_be_those_of_the_model() {
    let plan = |made: Made| {
        let model = made.open().unwrap();
        model.plan(mlx_native::DType::F32, 1).unwrap_err().to_string()
    };
    let mut more = llama();
    more.tensors.push(("blk.0.mystery.weight".to_owned(), vec![32]));
    assert!(plan(more).contains("blk.0.mystery.weight"));
    let mut fewer = llama();
    fewer.tensors.retain(|(name, _)| name != "blk.0.ffn_up.weight");
    assert!(plan(fewer).contains("mlp.up_proj.weight"));
    let mut other = llama();
    other
        .tensors
        .iter_mut()
        .filter(|(n, _)| n.contains("attn_v"))
        .for_each(|(_, e)| e[1] = 16);
    assert!(plan(other).contains("v_proj"));
}

/// The way of splitting has to be one that the library of tokenizers takes, for every name.
#[test]
fn every_way_of_splitting_compiles() {
    for name in [
        "default",
        "gpt-2",
        "smollm",
        "llama-bpe",
        "qwen2",
        "qwen35",
        "gpt-4o",
        "tekken",
        "kimi-k2",
        "falcon",
        "deepseek-coder",
        "deepseek-llm",
        "deepseek-v3",
    ] {
        let model = llama().text("tokenizer.ggml.pre", name).open().unwrap();
        let tokenizer = model.tokenizer().unwrap_or_else(|e| panic!("{name}: {e}"));
        let ids = tokenizer.encode_with("ab ab", false).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "ab ab", "{name}");
    }
}
