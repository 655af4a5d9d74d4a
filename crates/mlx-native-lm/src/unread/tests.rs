use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::config::{ConfigFile, FamilyInput, GenerationConfig};
use crate::families::Family;
use crate::json::parse_object;

/// What became of a configuration.
enum Walk {
    /// The fields that no one reads and no list has.
    Read(Vec<String>),
    /// What it was refused for.
    Refused(String),
    /// There is no family of its `model_type` yet.
    NoFamily,
}

fn walk(config: &Value, has: &dyn Fn(&str) -> bool) -> Walk {
    let text = serde_json::to_vec(config).unwrap();
    let config = ConfigFile::parse(&text).unwrap();
    let Ok(family) = Family::of(&config) else {
        return Walk::NoFamily;
    };
    let read = || {
        (family.spec)(&FamilyInput::new(config.fields(), has))?;
        config.refuse_unread()?;
        config.quantization()?;
        config.eos_token_ids()
    };
    match read() {
        Ok(_) => Walk::Read(config.unknown()),
        Err(error) => Walk::Refused(error.to_string()),
    }
}

/// Fields with the model types that have them.
fn report(unknown: &BTreeMap<String, Vec<String>>) -> String {
    let lines = unknown
        .iter()
        .map(|(field, models)| format!("{field}: {}\n", models.join(" ")));
    lines.collect()
}

/// Every field of a file changes something and is read, or is refused by name, or is on a list with the reason why it
/// changes nothing.
#[test]
fn no_field_of_the_golden_configurations_is_passed_over() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families/golden");
    let (mut unknown, mut read) = (BTreeMap::<String, Vec<String>>::new(), 0);
    let mut refused = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read(path).unwrap();
        let golden = Value::Object(parse_object("golden file", &text).unwrap());
        let tensors: Vec<&str> = golden["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t[0].as_str().unwrap())
            .collect();
        let case = golden["case"].as_str().unwrap();
        match walk(&golden["config"], &|name| tensors.contains(&name)) {
            Walk::Read(fields) => {
                read += 1;
                for field in fields {
                    unknown.entry(field).or_default().push(case.to_owned());
                }
            }
            Walk::NoFamily => {}
            Walk::Refused(error) => refused.push(format!("{case}: {error}")),
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(read >= 90, "only {read} configurations were read");
    assert!(unknown.is_empty(), "{}", report(&unknown));
}

/// Types whose defaults in transformers are none that mlx-lm builds.
const REFUSED: [&str; 23] = [
    "bailing_hybrid",
    "dbrx",
    "deepseek_v2",
    "dots1",
    "exaone",
    "exaone4",
    "exaone_moe",
    "gemma3",
    "gemma3_text",
    "gemma3n",
    "glm4_moe",
    "gpt_bigcode",
    "kimi_linear",
    "lfm2_moe",
    "mellum",
    "mimo_v2_flash",
    "olmo",
    "olmo3",
    "pixtral",
    "qwen3_moe",
    "qwen3_vl_moe",
    "recurrent_gemma",
    "step3p5",
];

/// The same of what transformers saves for these types: the names that files of real models have.
#[test]
fn no_field_of_real_configurations_is_passed_over() {
    let real = parse_object("real.json", include_bytes!("real.json")).unwrap();
    let (mut unknown, mut refused) = (BTreeMap::<String, Vec<String>>::new(), Vec::new());
    let configs = real["config.json"].as_object().unwrap();
    for (name, config) in configs {
        match walk(config, &|_| false) {
            Walk::Read(fields) => {
                for field in fields {
                    unknown.entry(field).or_default().push(name.clone());
                }
            }
            Walk::NoFamily => {}
            Walk::Refused(error) if !REFUSED.contains(&name.as_str()) => {
                refused.push(format!("{name}: {error}"))
            }
            Walk::Refused(_) => {}
        }
    }
    assert!(unknown.is_empty(), "{}", report(&unknown));
    // What transformers has by default and mlx-lm has not, by name.
    assert!(refused.is_empty(), "{}", refused.join("\n"));

    let text = serde_json::to_vec(&real["generation_config.json"]).unwrap();
    let (_, unknown) = GenerationConfig::parse_all(&text).unwrap();
    assert!(unknown.is_empty(), "generation_config.json: {unknown:?}");
}

/// mlx-lm does not look at the base of this family: any is taken, and named; what is none is refused.
#[test]
fn the_base_of_recurrent_gemma_is_named_where_it_is_not_built_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families/golden");
    let text = std::fs::read(folder.join("recurrent_gemma.json")).unwrap();
    let golden = Value::Object(parse_object("golden file", &text).unwrap());
    let tensors: Vec<&str> = golden["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|t| t[0].as_str())
        .collect();
    let has = |name: &str| tensors.contains(&name);
    let of = |theta: Value| {
        let mut config = golden["config"].clone();
        config["rope_theta"] = theta;
        walk(&config, &has)
    };
    assert!(matches!(of(10_000.0.into()), Walk::Read(unknown) if unknown.is_empty()));
    for theta in [1000.0, 5e5] {
        assert!(matches!(of(theta.into()), Walk::Read(unknown) if unknown == ["rope_theta"]));
    }
    for theta in [Value::from(0), Value::from(-1.0), Value::from("10000")] {
        assert!(matches!(of(theta), Walk::Refused(error) if error.contains("rope_theta")));
    }
}
