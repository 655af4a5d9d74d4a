//! How texts are split before merging, by the name that `tokenizer.ggml.pre` has for it: normalizer and pre-tokenizer as
//! the models' own `tokenizer.json` have them.

use serde_json::{Value, json};

/// A way of splitting.
pub(super) struct Splitting {
    /// The normalizer.
    pub normalizer: Value,
    /// The pre-tokenizer.
    pub pre_tokenizer: Value,
    /// A word that is a token is not looked at further.
    pub ignore_merges: bool,
    /// Whether a text begins with the first token where the file does not say.
    pub adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3: words with a sign before them, numbers by three digits.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: as Llama 3, numbers digit by digit.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 3.5: marks belong to words.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o: words by their case.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: as GPT-4o, without endings of English, numbers digit by digit.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Kimi K2: as GPT-4o, Chinese apart.
const KIMI_K2: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek V3, behind its rules for numbers and Chinese.
const DEEPSEEK_V3: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/// Letters with a case, as DeepSeek LLM lists them: Georgian's small ones are newer than its list.
const CASED: &str = r"\s?(?:(?![\x{10D0}-\x{10FF}])[\p{Lu}\p{Ll}\p{Lt}])+";

fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

fn digits() -> Value {
    json!({"type": "Digits", "individual_digits": true})
}

fn bytes(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

/// The way of splitting of this name; `None` where it is not known.
pub(super) fn splitting(name: &str) -> Option<Splitting> {
    let steps = match name {
        "gpt-2" | "gpt2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling"
        | "gigachat" | "jina-es" | "jina-de" | "jina-v1-en" | "jina-v2-es" | "jina-v2-de"
        | "jina-v2-code" | "roberta-bpe" => {
            vec![bytes(true)]
        }
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva"
        | "minerva-7b" => {
            vec![digits(), bytes(true)]
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
        | "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" => vec![split(LLAMA3), bytes(false)],
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "kormo" | "hunyuan" | "solar-open" | "megrez" => {
            vec![split(QWEN2), bytes(false)]
        }
        "qwen35" => vec![split(QWEN35), bytes(false)],
        "gpt-4o" | "llama4" => vec![split(GPT4O), bytes(false)],
        "tekken" => vec![split(TEKKEN), bytes(false)],
        "kimi-k2" => vec![split(KIMI_K2), bytes(false)],
        "falcon" => vec![
            json!({"type": "Punctuation", "behavior": "Contiguous"}),
            bytes(true),
            json!({"type": "Digits", "individual_digits": false}),
            split("[0-9][0-9][0-9]"),
        ],
        "deepseek-coder" => vec![
            split(r"[\r\n]"),
            split(r"\s?\p{L}+"),
            split(r"\s?\p{P}+"),
            split("[一-龥ࠀ-一가-\u{d7ff}]+"),
            digits(),
            bytes(false),
        ],
        "deepseek-llm" => vec![
            split(r"[\r\n]"),
            split(CASED),
            split("\\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            split(r"\s+$"),
            split("[一-龥ࠀ-一가-\u{d7ff}]+"),
            digits(),
            bytes(false),
        ],
        "deepseek-v3" => vec![
            split(r"\p{N}{1,3}"),
            split("[一-龥぀-ゟ゠-ヿ]+"),
            split(DEEPSEEK_V3),
            bytes(false),
        ],
        "default" => vec![
            split(r"[\p{P}\$\+<=>\^~\|]+"),
            split(GPT2),
            split(r"\p{N}+"),
            split("[0-9][0-9][0-9]"),
            bytes(false),
        ],
        _ => return None,
    };
    let composed = [
        "qwen2",
        "deepseek-r1-qwen",
        "qwen35",
        "stablelm2",
        "command-r",
        "mpt",
        "olmo",
    ];
    let whole_words = [
        "llama-bpe",
        "llama3",
        "llama-v3",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
        "tekken",
    ];
    Some(Splitting {
        normalizer: if composed.contains(&name) {
            json!({"type": "NFC"})
        } else {
            Value::Null
        },
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
        ignore_merges: whole_words.contains(&name),
        adds_bos: whole_words.contains(&name),
    })
}
