use serde_json::json;

use super::*;

fn with_config(config: &Value) -> Result<Tokenizer> {
    Tokenizer::from_json(
        mlx_native_demo::TOKENIZER.as_bytes(),
        Some(config.to_string().as_bytes()),
    )
}

fn demo() -> Tokenizer {
    Tokenizer::from_json(
        mlx_native_demo::TOKENIZER.as_bytes(),
        Some(mlx_native_demo::TOKENIZER_CONFIG.as_bytes()),
    )
    .unwrap()
}

#[test]
fn the_demo_s_tokens() {
    let tokenizer = demo();
    assert_eq!(
        tokenizer.encode("Ownership in Rust means").unwrap(),
        [50, 819, 1872, 293, 579, 1523]
    );
    assert_eq!(
        tokenizer.decode(&[50, 819, 1872, 293, 579, 1523], false).unwrap(),
        "Ownership in Rust means"
    );
    assert_eq!(
        (tokenizer.vocab_size(), tokenizer.model_max_length()),
        (4096, Some(512))
    );
    assert_eq!(
        (tokenizer.eos_token(), tokenizer.bos_token()),
        (Some(("<|endoftext|>", 0)), None)
    );
    assert_eq!(
        (tokenizer.token_id("<|im_end|>"), tokenizer.token_id("no such")),
        (Some(2), None)
    );
    assert_eq!(
        (tokenizer.token(33).as_deref(), tokenizer.token(4096)),
        (Some(">"), None)
    );
    assert!(tokenizer.is_special(0) && !tokenizer.is_special(33) && !tokenizer.is_special(9999));
    assert!(tokenizer.chain().is_some());
    assert!(tokenizer.chat_template().is_none());
    assert!(tokenizer.encode("").unwrap().is_empty());
}

#[test]
fn special_tokens_in_the_text_are_themselves() {
    let tokenizer = demo();
    let ids = tokenizer.encode("<|im_start|>a").unwrap();
    assert_eq!(ids[0], 1);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<|im_start|>a");
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a");
    // Ids outside the vocabulary have no text.
    assert_eq!(tokenizer.decode(&[33, 70_000], false).unwrap(), ">");
}

/// transformers 5.24 leaves a first token to `tokenizer.json`, whatever `add_bos_token` says.
#[test]
fn a_first_token_is_added_once() {
    let bos = |add: Value| with_config(&json!({"bos_token": "<|im_start|>", "add_bos_token": add})).unwrap();
    let plain = demo().encode("text").unwrap();
    let with_bos = [&[1][..], &plain].concat();

    // A tokenizer.json that adds it by itself.
    let mut file: Value = serde_json::from_str(mlx_native_demo::TOKENIZER).unwrap();
    file["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    });
    let templated = |add: Value| {
        let config = json!({"bos_token": {"content": "<|im_start|>"}, "add_bos_token": add}).to_string();
        Tokenizer::from_json(file.to_string().as_bytes(), Some(config.as_bytes())).unwrap()
    };
    for add in [json!(null), json!(true), json!(false)] {
        assert_eq!(bos(add.clone()).encode("text").unwrap(), plain);
        assert_eq!(templated(add.clone()).encode("text").unwrap(), with_bos);
        assert_eq!(
            templated(add.clone()).encode("<|im_start|>text").unwrap(),
            with_bos
        );
        assert_eq!(templated(add).encode_with("text", false).unwrap(), plain);
    }
}

/// Ids from transformers 5.24 with the same files.
#[test]
fn tokens_that_the_configuration_names_are_added_ones() {
    let ids = |config: Value, text: &str| with_config(&config).unwrap().encode(text).unwrap();
    assert_eq!(
        ids(json!({"eos_token": "<nowhere>"}), "a<nowhere>b"),
        [68, 4096, 69]
    );
    assert_eq!(
        ids(
            json!({"extra_special_tokens": ["<x1>"], "additional_special_tokens": ["<x2>"]}),
            "a<x1>b"
        ),
        [68, 4096, 69]
    );
    assert_eq!(
        ids(json!({"extra_special_tokens": {"image_token": "<x1>"}}), "a<x1>b"),
        [68, 4096, 69]
    );
    assert_eq!(
        ids(json!({"additional_special_tokens": ["<x2>"]}), "a<x2>b"),
        [68, 4096, 69]
    );
    let spaced = json!({"added_tokens_decoder": {"2": {"content": "<|im_end|>", "special": true, "lstrip": true, "rstrip": true,
        "normalized": false, "single_word": false}}});
    assert_eq!(ids(spaced, "a  <|im_end|>  b"), [68, 2, 69]);
    let split = json!({"split_special_tokens": true, "eos_token": "<|im_end|>"});
    assert_eq!(ids(split, "a<|im_end|>b"), [68, 31, 95, 376, 66, 438, 95, 33, 69]);

    // A token of the vocabulary that tokenizer.json does not list among the added ones.
    let mut file: Value = serde_json::from_str(mlx_native_demo::TOKENIZER).unwrap();
    file["added_tokens"]
        .as_array_mut()
        .unwrap()
        .retain(|token| token["content"] != "<|im_end|>");
    file["model"]["vocab"]["<|im_end|>"] = json!(2);
    let ids = |config: Value| {
        let tokenizer =
            Tokenizer::from_json(file.to_string().as_bytes(), Some(config.to_string().as_bytes())).unwrap();
        tokenizer.encode("a<|im_end|>b").unwrap()
    };
    assert_eq!(ids(json!({"eos_token": "<|im_end|>"})), [68, 2, 69]);
    assert_eq!(
        ids(json!({"added_tokens_decoder": {"2": {"content": "<|im_end|>", "special": true}}})),
        [68, 2, 69]
    );
    assert_eq!(ids(json!({})), [68, 31, 95, 376, 66, 438, 95, 33, 69]);
}

/// Files at which the library of tokenizers panics, on loading or on encoding.
#[test]
fn the_library_s_panics_are_errors() {
    let file = |key: &str, value: Value| {
        let mut file: Value = serde_json::from_str(mlx_native_demo::TOKENIZER).unwrap();
        file[key] = value;
        file.to_string()
    };
    let tokenizer = |key: &str, value: Value| Tokenizer::from_json(file(key, value).as_bytes(), None);
    for charsmap in ["AAAA", "", "/////w==", "BAAAAAAAAAA="] {
        let found = tokenizer(
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": charsmap}),
        );
        if let Err(error) = found.and_then(|t| t.encode("naïve text")) {
            let error = error.to_string();
            assert!(
                error.starts_with("tokenizer: ") && error.lines().count() == 1,
                "{error}"
            );
        }
    }
    assert!(
        tokenizer(
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})
        )
        .is_err()
    );
}

#[test]
fn a_run_of_spaces_that_the_library_cannot_split_is_refused() {
    let tokenizer = demo();
    let error = tokenizer.encode(&" ".repeat(1_000_000)).unwrap_err().to_string();
    assert!(error.contains("1000000 spaces"), "{error}");
    let ids = tokenizer.encode(&format!("a{}b", " ".repeat(990_000))).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap().len(), 990_002);
}

#[test]
fn tokens_for_thinking_are_known() {
    assert!(!demo().has_thinking_tokens());
    let with = |tokens: &[&str]| {
        with_config(&json!({"extra_special_tokens": tokens}))
            .unwrap()
            .has_thinking_tokens()
    };
    assert!(with(&["<think>", "</think>"]) && with(&["<|channel>", "<channel|>"]));
    assert!(with(&["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"]));
    assert!(!with(&["<think>"]) && !with(&["<|open|>", "<|close|>", "<|sep|>"]));
}

#[test]
fn truncation_and_padding_of_the_file_do_not_count() {
    let mut file: Value = serde_json::from_str(mlx_native_demo::TOKENIZER).unwrap();
    file["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 3,
        "pad_type_id": 0, "pad_token": "<|pad|>"});
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), None).unwrap();
    assert_eq!(tokenizer.encode("Ownership in Rust means").unwrap().len(), 6);
}

#[test]
fn tokens_that_only_the_configuration_has_are_added() {
    let added = |id: &str, content: Value| {
        with_config(
            &json!({"added_tokens_decoder": {id: {"content": content, "special": true},
            "0": {"content": "<|endoftext|>"}}}),
        )
    };
    let tokenizer = added("4096", json!("<think>")).unwrap();
    assert_eq!(
        (tokenizer.token_id("<think>"), tokenizer.vocab_size()),
        (Some(4096), 4097)
    );
    assert_eq!(tokenizer.encode("<think>").unwrap(), [4096]);
    assert!(
        added("5000", json!("<think>"))
            .unwrap_err()
            .to_string()
            .contains("\"<think>\"")
    );
    assert!(
        added("x", json!("<think>"))
            .unwrap_err()
            .to_string()
            .contains("added_tokens_decoder.x")
    );
    assert!(added("4096", json!(7)).is_err());
}

#[test]
fn damaged_files_are_refused_by_name() {
    for text in [
        "",
        "{",
        "{}",
        "[]",
        "{\"version\": \"1.0\", \"model\": {\"type\": \"None\"}}",
    ] {
        let message = Tokenizer::from_json(text.as_bytes(), None)
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("tokenizer: tokenizer.json: ") && !message.contains('\n'),
            "{message}"
        );
    }
    let half = &mlx_native_demo::TOKENIZER.as_bytes()[..100_000];
    assert!(Tokenizer::from_json(half, None).is_err());
    for (config, wanted) in [
        (json!({"bos_token": 3}), "bos_token: found a number"),
        (json!({"split_special_tokens": "yes"}), "split_special_tokens"),
        (json!([]), "wanted an object"),
    ] {
        let message = with_config(&config).unwrap_err().to_string();
        assert!(
            message.starts_with("tokenizer_config.json: ") && message.contains(wanted),
            "{message}"
        );
    }
}

#[test]
fn chat_templates_of_the_configuration() {
    let vocabulary = mlx_native_demo::files()
        .into_iter()
        .find(|(name, _)| *name == "tokenizer.json")
        .unwrap()
        .1;
    let with =
        |config: serde_json::Value| Tokenizer::from_json(vocabulary, Some(config.to_string().as_bytes()));
    let shown = |config| {
        let template = with(config).unwrap().compile_chat_template().unwrap().unwrap();
        template
            .render(
                &[crate::ChatMessage::new("user", "hi")],
                &crate::ChatOptions::default(),
            )
            .unwrap()
    };
    let own = "{{ messages[0].content }} {{ eos_token }} {{ pad_token }} {{ bos_token is defined }}";
    let tokens =
        serde_json::json!({"eos_token": {"content": "<|im_end|>"}, "pad_token": "not in the vocabulary"});
    let mut single = tokens.clone();
    single["chat_template"] = own.into();
    assert_eq!(shown(single.clone()), "hi <|im_end|> not in the vocabulary False");
    let mut named = tokens;
    let entry = |name: &str, template: &str| serde_json::json!({"name": name, "template": template});
    named["chat_template"] = serde_json::json!([entry("tool_use", "tools"), entry("default", own)]);
    assert_eq!(shown(named.clone()), shown(single));

    // Without a default one the tokenizer is usable, a chat is not.
    for none in [
        serde_json::json!([entry("tool_use", "tools")]),
        serde_json::json!([]),
        serde_json::json!({"tool_use": "x"}),
    ] {
        named["chat_template"] = none;
        let tokenizer = with(named.clone()).unwrap();
        let error = tokenizer.compile_chat_template().unwrap_err().to_string();
        assert!(error.contains("default"), "{error}");
    }
    named["chat_template"] = serde_json::json!({"default": "one", "tool_use": "two"});
    let template = with(named.clone())
        .unwrap()
        .compile_chat_template()
        .unwrap()
        .unwrap();
    let mut options = crate::ChatOptions::default();
    let chat = [crate::ChatMessage::new("user", "hi")];
    assert_eq!(template.render(&chat, &options).unwrap(), "one");
    options
        .variables
        .insert("tools".to_owned(), serde_json::json!([]));
    assert_eq!(template.render(&chat, &options).unwrap(), "two");
    named["chat_template"] = serde_json::json!(7);
    assert!(with(named).unwrap_err().to_string().contains("chat_template"));
    let mut plain = Tokenizer::from_json(vocabulary, None).unwrap();
    assert!(plain.compile_chat_template().unwrap().is_none());
    // A damaged template is no obstacle to a tokenizer, only to its use.
    plain.set_chat_template("{% if %}");
    assert!(
        plain
            .compile_chat_template()
            .unwrap_err()
            .to_string()
            .contains("line 1")
    );
}
