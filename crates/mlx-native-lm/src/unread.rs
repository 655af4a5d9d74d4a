//! Fields of configurations that nobody reads, and why that is right.
//!
//! A field that changes what a model computes is read, or refused by name, or it is on a list here, with the reason why it
//! changes nothing. What is on no list is told to the user: it may have been meant to do something.

use crate::json::Document;

/// A list of fields and the reason why they need not be read. A name that ends in `*` stands for all that begin so.
pub(crate) type Unread = &'static [(&'static str, &'static [&'static str])];

/// Of `tokenizer_config.json`.
pub(crate) const TOKENIZER_FIELDS: Unread = &[
    (
        "names a class of another library; tokenizer.json has what it does",
        &[
            "tokenizer_class",
            "auto_map",
            "backend",
            "is_local",
            "local_files_only",
            "processor_class",
            "image_processor_type",
            "_commit_hash",
            "name_or_path",
            "_name_or_path",
            "transformers_version",
            "tokenizer_file",
            "vocab_file",
            "merges_file",
            "special_tokens_map_file",
            "use_fast",
            "from_slow",
            "legacy",
            "is_fast",
            "mlx_*",
            "unsloth_*",
        ],
    ),
    (
        "tokenizer.json has it, and goes before it",
        &[
            "add_prefix_space",
            "trim_offsets",
            "do_lower_case",
            "do_basic_tokenize",
            "strip_accents",
            "tokenize_chinese_chars",
            "never_split",
            "byte_fallback",
            "sp_model_kwargs",
            "spaces_between_special_tokens",
            "use_default_system_prompt",
            "fix_mistral_regex",
            "keep_accents",
            "normalization",
            "remove_space",
            "unicode_normalizer",
            "errors",
            "wordpieces_prefix",
            "clean_text",
            "split_by_punct",
        ],
    ),
    (
        "transformers 5, which mlx-lm uses, does not look at it beside a tokenizer.json",
        &["add_bos_token", "add_eos_token"],
    ),
    (
        "for batches, training or other inputs: a prompt is neither cut nor filled up",
        &[
            "padding",
            "padding_side",
            "truncation",
            "truncation_side",
            "truncation_strategy",
            "max_length",
            "stride",
            "pad_to_multiple_of",
            "pad_token_type_id",
            "pad_token_id",
            "return_token_type_ids",
            "model_input_names",
            "model_max_length_single",
            "max_position_embeddings",
            "response_schema",
            "response_template",
            "tool_parser_type",
        ],
    ),
    (
        "said in the files that count for it",
        &[
            "bos_token_id",
            "eos_token_id",
            "unk_token_id",
            "special_tokens",
            "added_tokens",
            "vocab_size",
        ],
    ),
    (
        "mlx-lm decodes without it, as decoding piece by piece must",
        &["clean_up_tokenization_spaces"],
    ),
];

/// Of `generation_config.json`, beside those that are read.
pub(crate) const GENERATION_FIELDS: Unread = &[
    (
        "mlx-lm's generate takes from this file what ends a text, and no more: flags say the rest",
        &[
            "do_sample",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "typical_p",
            "epsilon_cutoff",
            "eta_cutoff",
            "repetition_penalty",
            "encoder_repetition_penalty",
            "length_penalty",
            "no_repeat_ngram_size",
            "max_length",
            "max_new_tokens",
            "min_length",
            "min_new_tokens",
            "num_beams",
            "num_beam_groups",
            "num_return_sequences",
            "diversity_penalty",
            "early_stopping",
            "penalty_alpha",
            "bad_words_ids",
            "force_words_ids",
            "suppress_tokens",
            "begin_suppress_tokens",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "exponential_decay_length_penalty",
            "sequence_bias",
            "guidance_scale",
            "renormalize_logits",
            "remove_invalid_values",
            "stop_strings",
            "max_time",
            "assistant_*",
            "num_assistant_tokens*",
            "prompt_lookup_*",
            "cache_implementation",
            "cache_config",
            "use_cache",
            "return_*",
            "output_*",
            "max_window_size",
            "chat_format",
            "trust_remote_code",
            "repetition_context_size",
            "top_h",
            "low_memory",
            "watermarking_config",
            "token_healing",
            "dola_layers",
            "use_model_defaults",
            "disable_compile",
            "compile_config",
            "continuous_batching_config",
            "prefill_chunk_size",
            "is_assistant",
        ],
    ),
    (
        "a prompt says how it begins and how it is filled up",
        &[
            "bos_token_id",
            "pad_token_id",
            "decoder_start_token_id",
            "sep_token_id",
            "user_token_id",
            "assistant_token_id",
        ],
    ),
    (
        "says where the file comes from",
        &[
            "_from_model_config",
            "transformers_version",
            "_commit_hash",
            "_name_or_path",
            "generation_kwargs",
        ],
    ),
];

/// The fields of a file that were not read and are on no list.
pub(crate) fn unknown(document: &Document, known: Unread) -> Vec<String> {
    let listed = |field: &str| {
        known
            .iter()
            .any(|(_, names)| names.iter().any(|name| matches(name, field)))
    };
    let unread = document.unread().into_iter();
    unread
        .map(|(field, _)| field)
        .filter(|field| !listed(field))
        .collect()
}

fn matches(name: &str, field: &str) -> bool {
    match name.strip_suffix('*') {
        Some(beginning) => field.starts_with(beginning),
        None => field == name,
    }
}
