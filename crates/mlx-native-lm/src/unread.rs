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

/// Of `config.json`, beside those that the model's family reads.
pub(crate) const CONFIG_FIELDS: Unread = &[
    (
        "says where the model comes from, or names classes of other libraries",
        &[
            "_*", "architectures", "auto_map", "custom_pipelines", "is_bert_config", "model_name", "model_version", "name_or_path", "task_specific_params",
            "transformers_version", "transformers.js_config", "unsloth_*", "mlx_*", "license", "language", "library_name", "base_model", "finetuning_task",
            "chat_format", "onnx", "tensor_namespace", "schema_version", "hf_url", "id2label", "label2id", "num_labels", "problem_type",
        ],
    ),
    (
        "matters in training only",
        &[
            "attention_dropout", "attention_dropout_prob", "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout", "hidden_dropout_prob", "dropout",
            "classifier_dropout", "embedding_dropout", "ffn_dropout", "initializer_range", "init_*", "router_aux_loss_coef", "router_z_loss_coef",
            "output_router_logits", "aux_loss_alpha", "seq_aux", "router_jitter_noise", "input_jitter_noise", "ep_size", "gradient_checkpointing",
            "rescale_prenorm_residual", "summary_*", "z_loss", "residual_dropout", "embedding_initializer_range", "router_dtype",
        ],
    ),
    (
        "a way to compute the same, or what to return beside logits",
        &[
            "use_cache", "pretraining_tp", "attn_implementation", "use_flash_attn", "use_flash_attention*", "return_dict", "return_dict_in_generate",
            "output_attentions", "output_hidden_states", "torchscript", "use_bfloat16", "fp32_residual*", "bf16", "fp16", "fp32", "use_mamba_kernels",
            "use_fused_*", "use_cache_*", "kv_channels", "tp_degree", "fused_*", "chunk_size_feed_forward", "is_decoder", "is_encoder_decoder",
            "tie_encoder_decoder", "add_cross_attention", "cross_attention_hidden_size", "pruned_heads", "use_dynamic_ntk", "use_logn_attn_cache",
        ],
    ),
    (
        "MLX writes how weights are packed twice, and the first counts",
        &["quantization_config"],
    ),
    (
        "the tensors have their dtype, and a flag sets that of activations",
        &["torch_dtype", "dtype", "params_dtype", "compute_dtype"],
    ),
    (
        "how a text begins, ends and is filled up is the tokenizer's, or read elsewhere",
        &[
            "bos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "decoder_start_token_id", "forced_*",
            "tokenizer_class", "prefix", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "tokenizer_*", "image_token_*", "video_token_*",
            "vision_*_token_id", "audio_token_*", "boi_token_*", "eoi_token_*", "boa_token_*", "eoa_token_*",
        ],
    ),
    (
        "mlx-lm's generate reads how to sample from its flags",
        &[
            "do_sample", "temperature", "top_p", "top_k", "typical_p", "num_beams", "num_beam_groups", "length_penalty", "repetition_penalty",
            "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "max_length", "min_length", "early_stopping", "diversity_penalty",
            "num_return_sequences", "output_scores", "remove_invalid_values", "exponential_decay_length_penalty",
        ],
    ),
    (
        "of parts of the model that make no text: images, sounds, layers that guess several tokens ahead",
        &["vision_config", "audio_config", "num_nextn_predict_layers", "mtp_*", "num_mtp_*", "vision_*", "mm_*", "projector_*", "multimodal_*"],
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
