use serde_json::json;

use super::*;
use crate::families::{FAMILIES, Family};
use crate::rope::{RopeConfig, RopeScaling};
use crate::spec::{Attention, Block, DecoderSpec};

/// The demo's configuration with some keys replaced.
fn with(changes: Value) -> ConfigFile {
    let mut config: Value = serde_json::from_str(mlx_native_demo::CONFIG).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    ConfigFile::parse(config.to_string().as_bytes()).unwrap()
}

fn read(changes: Value) -> Result<DecoderSpec> {
    let config = with(changes);
    let none = |_: &str| false;
    (Family::of(&config)?.spec)(&FamilyInput::new(config.fields(), &none))
}

/// The attention of the first layer.
fn attention(spec: &DecoderSpec) -> &Attention {
    match &spec.layers[0].branches[0].parts[0].block {
        Block::Attention(attention) => attention,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_the_demo() {
    let spec = read(json!({})).unwrap();
    assert_eq!(
        (spec.layers.len(), spec.hidden_size, spec.vocab_size),
        (8, 256, 4096)
    );
    let a = attention(&spec);
    assert_eq!((a.n_heads, a.n_kv_heads, a.k_dim, a.v_dim), (4, 2, 64, 64));
    assert_eq!(
        (a.q.outputs, a.k.as_ref().unwrap().outputs, a.o.inputs),
        (256, 128, 256)
    );
    assert_eq!((spec.norm.as_ref().unwrap().eps, a.scale), (1e-6, 0.125));
    assert!(a.q_norm.is_some() && spec.head.matrix.is_none() && !a.q.bias && !a.o.bias);
    let rope = a.rope.as_ref().unwrap().table().unwrap();
    assert_eq!((rope.base, rope.scale, rope.freqs), (10_000.0, 1.0, None));
    assert_eq!(with(json!({})).eos_token_ids().unwrap(), [0]);
}

#[test]
fn families_are_found_by_type() {
    let name = |model_type: &str| Family::of(&with(json!({ "model_type": model_type }))).map(|f| f.name);
    assert_eq!(name("qwen3").unwrap(), "qwen3");
    assert_eq!(name("llama").unwrap(), "llama");
    assert_eq!(name("mistral").unwrap(), "llama");
    let message = name("gpt-17").unwrap_err().to_string();
    assert!(
        message.contains("\"gpt-17\"") && message.contains("iquestcoder"),
        "{message}"
    );
    assert!(
        Family::of(&with(json!({"model_type": null})))
            .unwrap_err()
            .to_string()
            .contains("model_type is missing")
    );
    assert!(
        attention(&read(json!({"model_type": "llama"})).unwrap())
            .q_norm
            .is_none()
    );
    let names: Vec<&str> = FAMILIES
        .iter()
        .flat_map(|f| f.also.iter().chain([&f.name]))
        .copied()
        .collect();
    let distinct: std::collections::HashSet<&&str> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "each type has one family");
}

#[test]
fn defaults_are_mlx_lm_s() {
    let config = read(json!({
        "model_type": "llama", "head_dim": null, "num_key_value_heads": null, "tie_word_embeddings": null,
        "attention_bias": null, "rope_theta": null, "hidden_act": null,
    }))
    .unwrap();
    let a = attention(&config);
    let theta = a.rope.as_ref().unwrap().theta;
    assert_eq!((a.k_dim, a.n_kv_heads, theta), (64, 4, 10_000.0));
    assert!(config.head.matrix.is_none() && !a.q.bias);
}

#[test]
fn absurd_values_are_refused_by_name() {
    let cases = [
        (
            json!({"hidden_size": 0}),
            "hidden_size: found 0, wanted a whole number from 1 to",
        ),
        (json!({"hidden_size": "256"}), "hidden_size: found \"256\""),
        (json!({"hidden_size": null}), "hidden_size is missing"),
        (
            json!({"num_hidden_layers": 1_000_000_000u64}),
            "num_hidden_layers: found 1000000000",
        ),
        (json!({"vocab_size": 1e30}), "vocab_size"),
        (json!({"vocab_size": 4096.5}), "vocab_size"),
        (json!({"head_dim": -64}), "head_dim: found -64"),
        (json!({"head_dim": 16_777_216}), "head_dim"),
        (
            json!({"num_attention_heads": 3, "head_dim": null}),
            "num_attention_heads",
        ),
        (
            json!({"num_key_value_heads": 3}),
            "num_key_value_heads: found 3, wanted a divisor of num_attention_heads 4",
        ),
        (
            json!({"intermediate_size": [1]}),
            "intermediate_size: found a list",
        ),
        (json!({"rms_norm_eps": -1.0}), "rms_norm_eps"),
        (json!({"rms_norm_eps": {"__float__": "NaN"}}), "rms_norm_eps"),
        (
            json!({"rms_norm_eps": {"__float__": "Infinity"}}),
            "rms_norm_eps: found inf",
        ),
        (json!({"rope_theta": 0}), "rope_theta: found 0"),
        (
            json!({"rope_theta": {"__float__": "Infinity"}}),
            "rope_theta: found inf",
        ),
        (
            json!({"tie_word_embeddings": "yes"}),
            "tie_word_embeddings: found \"yes\"",
        ),
        (json!({"hidden_act": "relu2"}), "hidden_act \"relu2\""),
        (
            json!({"layer_types": ["full_attention", "sliding_attention"]}),
            "layer_types: found something else, wanted a list of 8 strings",
        ),
        (
            json!({"layer_types": "all"}),
            "layer_types: found something else, wanted a list of 8 strings",
        ),
        (
            json!({"rope_scaling": 4}),
            "rope_scaling: found 4, wanted an object",
        ),
        (
            json!({"rope_scaling": {"type": "linear"}}),
            "rope_scaling.factor is missing",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": -1}}),
            "rope_scaling.factor: found -1",
        ),
        (
            json!({"rope_scaling": {"type": "llama3", "factor": 2, "high_freq_factor": 1}}),
            "rope_scaling.high_freq_factor",
        ),
    ];
    for (changes, wanted) in cases {
        let message = read(changes.clone()).unwrap_err().to_string();
        assert!(message.contains(wanted), "{changes}: {message}");
        assert!(
            message.contains("config.json: ") && !message.contains('\n'),
            "{message}"
        );
    }
    for text in ["", "[]", "null", "{", "{\"a\": nan}"] {
        assert!(
            ConfigFile::parse(text.as_bytes())
                .unwrap_err()
                .to_string()
                .starts_with("config.json: "),
            "{text}"
        );
    }
    let deep = "[".repeat(1_000_000);
    assert!(ConfigFile::parse(format!("{{\"a\":{deep}").as_bytes()).is_err());
}

/// The rotation of the first layer.
fn rope(changes: Value) -> RopeConfig {
    attention(&read(changes).unwrap()).rope.clone().unwrap()
}

#[test]
fn rope_scaling_of_every_kind() {
    let scaled = |scaling: Value| rope(json!({ "rope_scaling": scaling, "max_position_embeddings": 8192 }));
    let table = |scaling: Value| scaled(scaling).table().unwrap();
    assert_eq!(table(json!({"type": "linear", "factor": 4.0})).scale, 0.25);
    let default = scaled(json!({"rope_type": "default", "factor": 4.0})).scaling;
    assert_eq!(default, RopeScaling::Default);
    let mrope = scaled(json!({"type": "mrope", "mrope_section": [1, 1, 1]})).scaling;
    assert_eq!(mrope, RopeScaling::Default);
    let dynamic = table(json!({"rope_type": "dynamic", "factor": 2.0}));
    assert_eq!(dynamic.base_at(100), 10_000.0);
    assert!((dynamic.base_at(16_384) / (10_000.0 * 3f32.powf(64.0 / 62.0)) - 1.0).abs() < 1e-6);
    let yarn = table(json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}));
    assert!((yarn.factor - (0.1 * 4f32.ln() + 1.0)).abs() < 1e-6);
    assert_eq!(yarn.freqs.as_ref().unwrap()[0], 1.0);
    let factors: Vec<f64> = (1..=32).map(f64::from).collect();
    let long = table(
        json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors,
        "original_max_position_embeddings": 4096}),
    );
    assert!((long.factor - (1.0 + 2f32.ln() / 4096f32.ln()).sqrt()).abs() < 1e-6);
    assert!((long.freqs.unwrap()[1] / (2.0 * 10_000f32.powf(2.0 / 64.0)) - 1.0).abs() < 1e-6);
    let short = read(
        json!({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0],
        "original_max_position_embeddings": 4096}}),
    );
    assert!(short.unwrap_err().to_string().contains("long_factor"));
    let message = scaled(json!({"rope_type": "spiral", "factor": 2.0}))
        .table()
        .unwrap_err()
        .to_string();
    assert!(message.contains("\"spiral\""), "{message}");
}

#[test]
fn a_nested_base_goes_before_one_at_the_top() {
    let nested = json!({"rope_type": "default", "rope_theta": 5e5});
    for top in [json!(null), json!(10_000.0)] {
        let rope = rope(json!({"rope_theta": top, "rope_parameters": nested}));
        assert_eq!((rope.theta, rope.scaling), (5e5, RopeScaling::Default));
    }
    // The older name of the same section.
    let older = json!({"type": "linear", "factor": 2.0, "rope_theta": 100.0});
    assert_eq!(rope(json!({"rope_scaling": older})).theta, 100.0);
}

/// What is left unread and would change the result is refused by name.
#[test]
fn what_a_family_does_not_read_is_refused_where_it_matters() {
    let refused = |changes: Value| {
        let config = with(changes);
        (Family::of(&config).unwrap().spec)(&FamilyInput::new(config.fields(), &|_| false)).unwrap();
        config.refuse_unread().map_err(|e| e.to_string())
    };
    let of_kinds = json!({"full_attention": {"rope_type": "default", "rope_theta": 100.0}});
    let gemma = json!({"sliding_attention": {"rope_type": "default", "partial_rotary_factor": 0.5}});
    for (changes, word) in [
        (
            json!({"rope_parameters": of_kinds}),
            "rope_parameters.full_attention",
        ),
        (
            json!({"model_type": "gemma3_text", "hidden_act": "gelu", "rope_parameters": gemma}),
            "rope_parameters.sliding_attention.partial_rotary_factor",
        ),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (
            json!({"use_bidirectional_attention": true}),
            "use_bidirectional_attention",
        ),
        (
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
            "rope_parameters.partial_rotary_factor",
        ),
        (
            json!({"model_type": "olmo2", "sliding_window": 4, "hidden_act": "silu"}),
            "sliding_window",
        ),
    ] {
        let error = refused(changes).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
    for changes in [
        json!({}),
        json!({"partial_rotary_factor": 1.0}),
        json!({"sliding_window": null, "use_sliding_window": false}),
        json!({"model_type": "olmo2", "sliding_window": 4, "use_sliding_window": false}),
        json!({"model_type": "olmo2", "sliding_window": 1_000_000}),
    ] {
        assert_eq!(refused(changes), Ok(()));
    }
}

#[test]
fn a_window_is_not_passed_over() {
    let window = |changes: Value| attention(&read(changes).unwrap()).window;
    assert_eq!(
        window(json!({"model_type": "mistral", "sliding_window": 4})),
        Some(4)
    );
    assert_eq!(
        window(json!({"model_type": "mistral", "sliding_window": null})),
        None
    );
    assert_eq!(window(json!({"model_type": "llama", "sliding_window": 4})), None);
    // Qwen turns it on, from a layer on.
    let qwen = |on: bool, first: usize| json!({"model_type": "qwen3", "sliding_window": 4, "use_sliding_window": on, "max_window_layers": first});
    assert_eq!(window(qwen(true, 0)), Some(4));
    assert_eq!(window(qwen(true, 1)), None);
    assert_eq!(window(qwen(false, 0)), None);
    let kinds = vec!["sliding_attention"; 8];
    assert_eq!(
        window(json!({"sliding_window": 4, "layer_types": kinds})),
        Some(4)
    );
    let error = read(json!({"sliding_window": null, "layer_types": kinds}))
        .unwrap_err()
        .to_string();
    assert!(error.contains("sliding_window is missing"), "{error}");
}

/// Families whose files have a window for all layers apply it, those whose files turn it on do that.
#[test]
fn windows_of_families_without_kinds_of_layers() {
    let first = |changes: Value| attention(&read(changes).unwrap()).window;
    let experts = json!({"num_local_experts": 4, "num_experts_per_tok": 2});
    for model_type in ["phi3", "mixtral", "starcoder2"] {
        let with = |window: Value, on: Value| {
            let mut changes = experts.clone();
            for (key, value) in [
                ("model_type", json!(model_type)),
                ("sliding_window", window),
                ("use_sliding_window", on),
                ("norm_epsilon", json!(1e-5)),
            ] {
                changes[key] = value;
            }
            changes
        };
        assert_eq!(first(with(json!(4), json!(null))), Some(4), "{model_type}");
        assert_eq!(first(with(json!(4), json!(true))), Some(4), "{model_type}");
        assert_eq!(first(with(json!(4), json!(false))), None, "{model_type}");
        assert_eq!(first(with(json!(null), json!(null))), None, "{model_type}");
    }
    let qwen = |on: Value| {
        first(
            json!({"model_type": "qwen2", "sliding_window": 4, "use_sliding_window": on, "max_window_layers": 0}),
        )
    };
    assert_eq!(
        (qwen(json!(true)), qwen(json!(false)), qwen(json!(null))),
        (Some(4), None, None)
    );
}

/// What has no effect in transformers and mlx-lm has none here, and is told.
#[test]
fn a_window_of_llama_is_told_as_a_field_without_effect() {
    let config = with(json!({"model_type": "llama", "sliding_window": 4}));
    (Family::of(&config).unwrap().spec)(&FamilyInput::new(config.fields(), &|_| false)).unwrap();
    config.refuse_unread().unwrap();
    assert_eq!(told(&config), ["sliding_window"]);
    for unused in [json!(null), json!(1_000_000)] {
        let config = with(json!({"model_type": "llama", "sliding_window": unused}));
        (Family::of(&config).unwrap().spec)(&FamilyInput::new(config.fields(), &|_| false)).unwrap();
        assert!(told(&config).is_empty());
    }
}

/// Wavelengths that old checkpoints keep in each layer are let go, as in mlx-lm, and none elsewhere.
#[test]
fn wavelengths_in_checkpoints() {
    let dropped = read(json!({})).unwrap().dropped;
    let goes = |name: &str| {
        dropped
            .iter()
            .any(|p| name.contains(p.strip_prefix('*').unwrap_or(p)))
    };
    assert!(goes("model.layers.0.self_attn.rotary_emb.inv_freq"));
    assert!(goes("gpt_neox.layers.3.attention.rotary_emb.inv_freq"));
    assert!(goes("model.layers.0.attention.rope.inv_freq"));
    assert!(!goes("model.rotary_emb.inv_freq") && !goes("model.inv_freq"));
}

/// What nobody reads and nobody knows, once everything was read.
fn told(config: &ConfigFile) -> Vec<String> {
    config.eos_token_ids().unwrap();
    config.quantization().unwrap();
    config.unknown()
}

/// transformers 5 writes the rotation of each kind of layer by its name; older files say the same in other fields.
#[test]
fn rotations_by_kind_of_layer() {
    let kinds = ["sliding_attention", "full_attention"].repeat(4);
    let parameters = json!({
        "full_attention": {"rope_type": "linear", "rope_theta": 7e5, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    });
    let rope_of = |spec: &DecoderSpec, layer: usize| {
        let Block::Attention(a) = &spec.layers[layer].branches[0].parts[0].block else {
            panic!("no attention");
        };
        let rope = a.rope.as_ref().unwrap();
        (a.window, rope.theta, rope.scaling.clone())
    };
    for (model_type, act) in [("gemma3_text", "gelu_pytorch_tanh"), ("olmo3", "silu")] {
        let config = with(
            json!({"model_type": model_type, "hidden_act": act, "sliding_window": 16,
            "layer_types": kinds, "rope_parameters": parameters, "rope_theta": null}),
        );
        let spec =
            (Family::of(&config).unwrap().spec)(&FamilyInput::new(config.fields(), &|_| false)).unwrap();
        config.refuse_unread().unwrap();
        assert_eq!(told(&config), Vec::<String>::new(), "{model_type}");
        let linear = RopeScaling::Linear { factor: 8.0 };
        assert_eq!(
            rope_of(&spec, 0),
            (Some(16), 300.0, RopeScaling::Default),
            "{model_type}"
        );
        assert_eq!(rope_of(&spec, 1), (None, 7e5, linear), "{model_type}");
    }
    // The older fields, and the list of layers before the pattern.
    let older = json!({"model_type": "gemma3_text", "hidden_act": "gelu", "sliding_window": 16, "rope_theta": 7e5,
        "rope_local_base_freq": 300.0, "sliding_window_pattern": 2});
    let spec = read(older).unwrap();
    assert_eq!(rope_of(&spec, 0), (Some(16), 300.0, RopeScaling::Default));
    assert_eq!(rope_of(&spec, 1), (None, 7e5, RopeScaling::Default));
}

#[test]
fn llama3_wavelengths_are_mlx_lm_s() {
    let rope = rope(
        json!({"head_dim": 16, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    );
    let freqs = rope.table().unwrap().freqs.unwrap();
    // mlx-lm 0.32.2: Llama3RoPE(16, base=10000, …)._freqs.
    let wanted = [
        1.0,
        4.091_911,
        76.673_85,
        252.982_21,
        800.0,
        2529.822,
        8000.0,
        25298.22f32,
    ];
    assert_eq!(freqs.len(), wanted.len());
    for (found, wanted) in freqs.iter().zip(wanted) {
        assert!((found / wanted - 1.0).abs() < 1e-5, "{found}, wanted {wanted}");
    }
}

#[test]
fn ends_of_text_are_an_id_or_a_list() {
    let ids = |value: Value| with(json!({ "eos_token_id": value })).eos_token_ids();
    assert_eq!(ids(json!(7)).unwrap(), [7]);
    assert_eq!(ids(json!([7, 9])).unwrap(), [7, 9]);
    assert_eq!(ids(json!(null)).unwrap(), Vec::<u32>::new());
    // Python's programs leave -1 for none.
    assert_eq!(ids(json!(-1)).unwrap(), Vec::<u32>::new());
    for bad in [json!("7"), json!([7, 0.5]), json!(4_294_967_296u64)] {
        assert!(ids(bad).unwrap_err().to_string().contains("eos_token_id: found"));
    }
}

#[test]
fn generation_config_is_optional_in_every_part() {
    assert_eq!(
        GenerationConfig::parse(b"{}").unwrap(),
        GenerationConfig::default()
    );
    let config = GenerationConfig::parse(mlx_native_demo::GENERATION_CONFIG.as_bytes()).unwrap();
    assert_eq!(
        (config.eos_token_ids, config.do_sample),
        (None, Some(true)),
        "0 is not true to Python"
    );
    assert_eq!(
        (config.temperature, config.top_p, config.top_k),
        (Some(0.7), Some(0.9), None)
    );
    assert!(
        GenerationConfig::parse(b"{\"top_p\": \"most\"}")
            .unwrap_err()
            .to_string()
            .contains("generation_config.json: top_p")
    );
}
