use serde_json::json;

use super::*;

fn parse(text: &str) -> Value {
    Value::Object(parse_object("t.json", text.as_bytes()).unwrap())
}

#[test]
fn python_s_numbers_are_numbers() {
    let found = parse(
        r#"{"a": [0.0, Infinity], "b": -Infinity, "c":NaN, "d": 1e999, "e": -1e999, "f": "NaN \" Infinity", "NaN": 1}"#,
    );
    let float = |name: &str| json!({"__float__": name});
    let wanted = json!({"a": [0.0, float("Infinity")], "b": float("-Infinity"), "c": float("NaN"), "d": float("Infinity"),
        "e": float("-Infinity"), "f": "NaN \" Infinity", "NaN": 1});
    assert_eq!(found, wanted);
    assert_eq!(number(&found["b"]), Some(f64::NEG_INFINITY));
    assert!(number(&found["c"]).unwrap().is_nan());
}

#[test]
fn whole_numbers_keep_their_digits() {
    let found = parse(r#"{"a": 18446744073709551615, "b": 18446744073709551616, "c": -9223372036854775809}"#);
    assert_eq!(found["a"], json!(u64::MAX));
    assert_eq!(found["b"], json!({"__int__": "18446744073709551616"}));
    assert_eq!(found["c"], json!({"__int__": "-9223372036854775809"}));
    assert_eq!(number(&found["b"]), Some(1.844_674_407_370_955_2e19));
}

#[test]
fn what_is_no_json_stays_none() {
    for text in [
        "{\"a\": infinity}",
        "{\"a\": nan}",
        "{\"a\": +Infinity}",
        "{\"a\": 00000012345678901234567890}",
        "{\"a\": \"",
        "{\"a\": Infinityx}",
        "[Infinity]",
        "{\"a\\",
    ] {
        let error = parse_object("t.json", text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("t.json"), "{text}: {error}");
    }
}

#[test]
fn fields_that_nobody_asked_for_are_found() {
    let text = br#"{"a": 1, "b": {"c": 1, "d": 2, "n": null}, "e": {"f": 1}, "g": null, "h": true}"#;
    let document = Document::parse("t.json", text).unwrap();
    let names = |document: &Document| {
        document
            .unread()
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&document), ["a", "b", "e", "h"]);
    let fields = document.fields();
    assert_eq!(fields.count("a", 9).unwrap(), Some(1));
    assert_eq!(
        fields.object("b", "b.").unwrap().unwrap().count("c", 9).unwrap(),
        Some(1)
    );
    assert!(fields.get("e").is_some());
    assert_eq!(names(&document), ["b.d", "h"]);
    assert_eq!(names(&document.clone()), ["b.d", "h"]);
    assert_eq!(fields.object("b", "b.").unwrap().unwrap().entries().count(), 3);
    assert_eq!(names(&document), ["h"]);
}

#[test]
fn ids_below_zero_stand_for_none() {
    let document = Document::parse(
        "t.json",
        br#"{"a": -1, "b": [0, -1, 7], "c": 1.5, "d": [[1]], "e": 4294967296}"#,
    )
    .unwrap();
    let fields = document.fields();
    assert_eq!(fields.token_ids("a").unwrap(), Some(vec![]));
    assert_eq!(fields.token_ids("b").unwrap(), Some(vec![0, 7]));
    assert_eq!(fields.token_ids("x").unwrap(), None);
    for key in ["c", "d", "e"] {
        assert!(fields.token_ids(key).is_err());
    }
}

#[test]
fn other_encodings_are_named() {
    for (text, word) in [
        (&b"\xEF\xBB\xBF{}"[..], "byte order mark"),
        (&b"\xFF\xFE{\0}\0"[..], "UTF-16"),
        (&b"\xFE\xFF\0{\0}"[..], "UTF-16"),
    ] {
        let error = parse_object("config.json", text).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("config.json"), "{error}");
    }
}
