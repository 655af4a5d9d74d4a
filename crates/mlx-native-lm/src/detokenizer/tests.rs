use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::folder::ModelFolder;
use crate::token_text::byte_of;

fn demo() -> Tokenizer {
    ModelFolder::from_files(mlx_native_demo::files())
        .unwrap()
        .tokenizer()
        .unwrap()
}

/// A vocabulary of the SentencePiece kind, with byte tokens, as Llama 2 and Mistral have it.
fn spm(strip: bool) -> Tokenizer {
    let mut vocab = vec!["<unk>".to_string(), "<s>".to_string(), "</s>".to_string()];
    vocab.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    vocab.extend(["▁", "▁▁", "a", "b", "▁a", "▁ab", "ä", "日", "▁本", "\u{FFFD}"].map(String::from));
    let map: serde_json::Map<String, serde_json::Value> = vocab
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), id.into()))
        .collect();
    let mut decoders = vec![
        serde_json::json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        serde_json::json!({"type": "ByteFallback"}),
        serde_json::json!({"type": "Fuse"}),
    ];
    if strip {
        decoders.push(serde_json::json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let special = |id: usize| {
        serde_json::json!({"id": id, "content": vocab[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "added_tokens": [special(0), special(1), special(2)],
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": map, "merges": []},
    });
    Tokenizer::from_json(json.to_string().as_bytes(), None).unwrap()
}

/// The pieces of `ids`, the last one from the end of the text.
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut pieces: Vec<String> = ids.iter().map(|id| detokenizer.push(*id).unwrap()).collect();
    pieces.push(detokenizer.finish().unwrap());
    pieces
}

#[track_caller]
fn check(tokenizer: &Tokenizer, ids: &[u32]) {
    assert_eq!(
        pieces(tokenizer, ids).concat(),
        tokenizer.decode(ids, false).unwrap(),
        "{ids:?}"
    );
}

const TEXTS: &[&str] = &[
    "",
    "Ownership in Rust means that 1 + 1 == 2.",
    "  two spaces, a\ttab\n\n```rust\nfn main() {}\n```",
    "日本語の文章です。漢字かな交じり文。",
    "🦀 👩‍👩‍👧‍👦 🇫🇷 e\u{301} ﷽ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "naïve café, Ελληνικά, русский, עברית, العربية, हिन्दी, ไทย",
    "<|im_start|>user\nhello<|im_end|>",
    "replacement \u{FFFD} as it is",
];

#[test]
fn no_piece_ends_inside_a_character() {
    let tokenizer = demo();
    for text in TEXTS {
        let ids = tokenizer.encode_with(text, false).unwrap();
        let pieces = pieces(&tokenizer, &ids);
        assert_eq!(&pieces.concat(), text);
        if !text.contains('\u{FFFD}') {
            assert!(pieces.iter().all(|p| !p.contains('\u{FFFD}')), "{pieces:?}");
        }
        assert_eq!(pieces.last().unwrap(), "", "{text}");
    }
}

#[test]
fn every_byte_is_where_the_table_has_it() {
    // All 256 characters of the table, as the tokenizer's crate has it.
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    let mut seen: Vec<u8> = alphabet.iter().map(|c| byte_of(*c).unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
    assert_eq!(
        (byte_of('Ġ'), byte_of('Ċ'), byte_of('a'), byte_of('é')),
        (Some(32), Some(10), Some(97), Some(0xE9))
    );
    assert_eq!(
        (byte_of(' '), byte_of('日'), byte_of('\u{144}')),
        (None, None, None)
    );
}

#[test]
fn what_is_incomplete_at_the_end_is_replaced_once() {
    let tokenizer = demo();
    // The first three bytes of a crab, each a token.
    let ids: Vec<u32> = ["ð", "Ł", "¦"]
        .iter()
        .map(|t| tokenizer.token_id(t).unwrap())
        .collect();
    assert_eq!(pieces(&tokenizer, &ids), ["", "", "", "\u{FFFD}"]);
    // What cannot become a character is replaced as soon as that is certain.
    let a = tokenizer.token_id("a").unwrap();
    assert_eq!(pieces(&tokenizer, &[ids[0], a]), ["", "\u{FFFD}a", ""]);
    assert_eq!(pieces(&tokenizer, &[ids[2], a]), ["\u{FFFD}", "a", ""]);
}

#[test]
fn sentencepiece_spaces_and_bytes() {
    let tokenizer = spm(true);
    let id = |t: &str| tokenizer.token_id(t).unwrap();
    let (sp, a, sa) = (id("▁"), id("a"), id("▁a"));
    assert_eq!(pieces(&tokenizer, &[sa, sa, a]), ["a", " a", "a", ""]);
    assert_eq!(pieces(&tokenizer, &[sp, sa]), ["", " a", ""]);
    assert_eq!(pieces(&tokenizer, &[a, sp, sa]), ["a", " ", " a", ""]);
    // é as two bytes: shown as soon as it is whole, also within a run of bytes.
    let (c3, a9) = (id("<0xC3>"), id("<0xA9>"));
    assert_eq!(pieces(&tokenizer, &[sa, c3, a9, a]), ["a", "", "é", "a", ""]);
    assert_eq!(pieces(&tokenizer, &[c3, a9, c3, a9]), ["", "é", "", "é", ""]);
    assert_eq!(pieces(&tokenizer, &[sa, id("<0x0A>"), sa]), ["a", "\n", " a", ""]);
    // What is no character is one U+FFFD for each byte.
    assert_eq!(pieces(&tokenizer, &[sa, c3]), ["a", "", "\u{FFFD}"]);
    assert_eq!(
        pieces(&tokenizer, &[id("<0xE2>"), id("<0x82>"), a]),
        ["", "", "\u{FFFD}\u{FFFD}a", ""]
    );
    assert_eq!(pieces(&tokenizer, &[99_999, sa]), ["", "a", ""]);
    assert_eq!(pieces(&spm(false), &[sa, sa]), [" a", " a", ""]);
}

#[test]
fn a_detokenizer_can_be_used_again() {
    for tokenizer in [demo(), spm(true)] {
        let ids: Vec<u32> = (250..290).collect();
        let mut detokenizer = Detokenizer::new(&tokenizer);
        let mut once = || {
            let mut text: String = ids.iter().map(|id| detokenizer.push(*id).unwrap()).collect();
            text += &detokenizer.finish().unwrap();
            text
        };
        assert_eq!(once(), once());
    }
}

#[test]
fn the_cost_does_not_grow_with_the_text() {
    for tokenizer in [demo(), spm(true)] {
        let mut detokenizer = Detokenizer::new(&tokenizer);
        for i in 0..20_000u32 {
            detokenizer.push(200 + i % 60).unwrap();
            match &detokenizer.state {
                State::Chain(state) => assert!(state.pending.len() < 4),
                State::Window { ids, .. } => assert!(ids.len() <= 60),
            }
        }
    }
}

/// The demo's tokenizer with another decoder.
fn with_decoder(decoder: serde_json::Value) -> Tokenizer {
    let mut file: serde_json::Value = serde_json::from_str(mlx_native_demo::TOKENIZER).unwrap();
    file["decoder"] = decoder;
    Tokenizer::from_json(file.to_string().as_bytes(), None).unwrap()
}

fn library(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    tokenizer.decode_with_library(ids, false).unwrap()
}

#[test]
fn a_byte_level_decoder_may_be_inside_a_sequence() {
    let byte_level =
        || json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    for decoder in [
        json!({"type": "Sequence", "decoders": [byte_level()]}),
        json!({"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": [byte_level()]}, {"type": "Fuse"}]}),
        json!({"type": "Sequence", "decoders": [byte_level(), {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
        json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, byte_level()]}),
        json!({"type": "Sequence", "decoders": [byte_level(), {"type": "Replace", "pattern": {"Regex": "q+"}, "content": "x"}]}),
    ] {
        let tokenizer = with_decoder(decoder.clone());
        assert_eq!(
            pieces(&tokenizer, &[131, 111, 131, 111]).concat(),
            "ïï",
            "{decoder}"
        );
        for text in TEXTS {
            let ids = tokenizer.encode_with(text, false).unwrap();
            let found = pieces(&tokenizer, &ids);
            assert_eq!(found.concat(), library(&tokenizer, &ids), "{decoder}");
            if !text.contains('\u{FFFD}') {
                assert!(
                    found.iter().all(|p| !p.contains('\u{FFFD}')),
                    "{decoder}: {found:?}"
                );
            }
        }
    }
}

/// Decoders of every kind: streamed, they make what the library makes of all at once.
#[test]
fn decoders_stream_what_the_library_decodes() {
    let replace =
        |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let strip = |c: &str, start: usize, stop: usize| json!({"type": "Strip", "content": c, "start": start, "stop": stop});
    let fuse = json!({"type": "Fuse"});
    let all = |steps: Vec<serde_json::Value>| json!({"type": "Sequence", "decoders": steps});
    let decoders = [
        serde_json::Value::Null,
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        json!({"type": "Metaspace", "replacement": "e", "prepend_scheme": "never", "split": true}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "BPEDecoder", "suffix": "e"}),
        all(vec![replace("Ġ", " "), fuse.clone(), strip(" ", 1, 0)]),
        all(vec![replace("Ġ", " "), fuse.clone(), strip("s", 0, 1)]),
        all(vec![
            replace("in", "out"),
            fuse.clone(),
            strip("s", 2, 3),
            replace("t", "TT"),
        ]),
        all(vec![replace("Ġ", " "), strip(" ", 1, 0)]),
    ];
    for decoder in decoders {
        let tokenizer = with_decoder(decoder.clone());
        for text in [
            "Ownership in Rust means",
            " sss and a ss",
            "it's here . no , do not",
            "x",
        ] {
            let ids = tokenizer.encode_with(text, false).unwrap();
            for end in 1..=ids.len() {
                let found = pieces(&tokenizer, &ids[..end]).concat();
                assert_eq!(found, library(&tokenizer, &ids[..end]), "{decoder} {text}");
            }
        }
    }
}

/// These end the library in a panic; nothing of it is seen here.
#[test]
fn what_the_library_panics_at_is_no_panic() {
    let strip =
        |start: usize, stop: usize| json!({"type": "Strip", "content": "a", "start": start, "stop": stop});
    let fused = with_decoder(json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, strip(0, 1)]}));
    assert_eq!(pieces(&fused, &[68, 68, 68]), ["", "a", "a", ""]);
    assert_eq!(fused.decode(&[68, 68, 68], false).unwrap(), "aa");
    assert_eq!(fused.decode(&[], false).unwrap(), "");
    assert_eq!(pieces(&with_decoder(strip(5, 5)), &[68, 69, 68]).concat(), "b");
    // One that only the library knows.
    let regex = json!({"type": "Replace", "pattern": {"Regex": "[^x]"}, "content": ""});
    let tokenizer = with_decoder(
        json!({"type": "Sequence", "decoders": [regex, strip(0, 1), {"type": "CTC", "pad_token": "x", "word_delimiter_token": "|", "cleanup": true}]}),
    );
    let mut detokenizer = Detokenizer::new(&tokenizer);
    let error = detokenizer.push(68).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer") && error.lines().count() == 1,
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any ids, most of them bytes that make no characters.
    #[test]
    fn pieces_are_the_whole_byte_level(ids in prop::collection::vec(prop_oneof![0u32..260, 0u32..4200], 0..60)) {
        check(byte_level(), &ids);
    }

    #[test]
    fn pieces_are_the_whole_text(text in ".{0,40}") {
        let tokenizer = byte_level();
        let ids = tokenizer.encode_with(&text, false).unwrap();
        prop_assert_eq!(pieces(tokenizer, &ids).concat(), text);
    }

    #[test]
    fn pieces_are_the_whole_sentencepiece(
        ids in prop::collection::vec(prop_oneof![3 => 259u32..270, 1 => 0u32..275], 0..40),
        strip: bool,
    ) {
        check(&sentencepiece()[usize::from(strip)], &ids);
    }
}

fn byte_level() -> &'static Tokenizer {
    static TOKENIZER: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    TOKENIZER.get_or_init(demo)
}

fn sentencepiece() -> &'static [Tokenizer; 2] {
    static TOKENIZERS: std::sync::OnceLock<[Tokenizer; 2]> = std::sync::OnceLock::new();
    TOKENIZERS.get_or_init(|| [spm(false), spm(true)])
}
