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
    assert!(tokenizer.is_byte_level());
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

#[test]
fn a_first_token_is_added_once() {
    let bos = |add: Value| with_config(&json!({"bos_token": "<|im_start|>", "add_bos_token": add})).unwrap();
    let plain = demo().encode("text").unwrap();
    let with_bos = [&[1][..], &plain].concat();
    assert_eq!(bos(json!(true)).encode("text").unwrap(), with_bos);
    assert_eq!(bos(json!(true)).encode("<|im_start|>text").unwrap(), with_bos);
    assert_eq!(bos(json!(true)).encode_with("text", false).unwrap(), plain);
    assert_eq!(bos(json!(null)).encode("text").unwrap(), plain);

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
    for add in [json!(null), json!(true)] {
        assert_eq!(templated(add.clone()).encode("text").unwrap(), with_bos);
        assert_eq!(templated(add).encode("<|im_start|>text").unwrap(), with_bos);
    }
    assert_eq!(templated(json!(false)).encode("text").unwrap(), plain);
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
        (
            json!({"eos_token": "<nowhere>"}),
            "eos_token: found \"<nowhere>\", wanted a token of the vocabulary",
        ),
        (json!({"bos_token": 3}), "bos_token: found a number"),
        (json!({"add_bos_token": "yes"}), "add_bos_token"),
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

    named["chat_template"] = serde_json::json!([entry("tool_use", "tools")]);
    assert!(
        with(named.clone())
            .unwrap_err()
            .to_string()
            .contains("chat_template")
    );
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
