//! Hostile configurations: every field of every golden configuration in turn set to something that no model has. Each gives
//! one clear error, or a model that runs; nothing panics, and nothing is allocated for sizes that the tensors do not have.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use mlx_native::{DType, MlxDevice};
use mlx_native_lm::families::Family;
use mlx_native_lm::{ConfigFile, DecoderSpec, FamilyInput, LmError, ModelOptions, open_decoder};
use serde_json::{Value, json};

use crate::golden::Golden;
use crate::weights::write_folder;

/// Models of a case that are opened, of those mutations that a family lets pass.
const OPENED: usize = 6;
/// Layers that a mutation may ask for before the tensors are looked at.
const MOST_LAYERS: usize = 1 << 13;

/// Runs all cases; whether nothing was found. Errors that are no single line, or that are empty, are findings too.
pub fn run(device: &MlxDevice, cases: &[Golden], every: bool) -> Result<bool, String> {
    // The message of a caught panic is in the finding.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut tried, mut opened, mut findings) = (0, 0, Vec::new());
    for case in cases {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let variant = case.variants.get("f32").ok_or("no variant f32")?;
        write_folder(folder.path(), case, variant)?;
        let mut passed = Vec::new();
        for (what, config) in mutations(&case.config) {
            tried += 1;
            match caught(|| spec(case, &config)) {
                Err(panic) => findings.push(format!("{}: {what}: {panic}", case.case)),
                Ok(Err(error)) => check_error(&mut findings, case, &what, &error),
                Ok(Ok(spec)) if spec.layers.len() > MOST_LAYERS => {
                    findings.push(format!("{}: {what}: {} layers", case.case, spec.layers.len()));
                }
                Ok(Ok(_)) => passed.push((what, config)),
            }
        }
        // Evenly over those that passed, so that all parts of the configuration are among them.
        let step = if every { 1 } else { (passed.len() / OPENED).max(1) };
        for (what, config) in passed.into_iter().step_by(step) {
            opened += 1;
            match caught(|| open(device, folder.path(), &config)) {
                Err(panic) => findings.push(format!("{}: {what}: {panic}", case.case)),
                Ok(Err(error)) => check_error(&mut findings, case, &what, &error),
                Ok(Ok(())) => {}
            }
        }
    }
    drop(std::panic::take_hook());
    println!(
        "{tried} hostile configurations of {} cases, {opened} of them opened",
        cases.len()
    );
    findings.iter().for_each(|finding| println!("  {finding}"));
    Ok(findings.is_empty())
}

/// Adds an error that is not one clear line.
pub fn check_error(findings: &mut Vec<String>, case: &Golden, what: &str, error: &LmError) {
    let text = error.to_string();
    if text.is_empty() || text.contains('\n') || text.len() > 4000 {
        findings.push(format!("{}: {what}: no clear line: {text:?}", case.case));
    }
}

/// What `f` gives, or the message of its panic.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        format!("panicked: {}", text.unwrap_or_default())
    })
}

/// What the family makes of a configuration.
fn spec(case: &Golden, config: &Value) -> mlx_native_lm::Result<DecoderSpec> {
    let file = ConfigFile::parse(config.to_string().as_bytes())?;
    let has = |name: &str| case.tensors.iter().any(|t| t.name == name);
    let family = Family::of(&file)?;
    (family.spec)(&FamilyInput::new(file.fields(), &has))
}

/// Opens the folder with another configuration and runs some tokens; a model that opens may refuse them.
fn open(device: &MlxDevice, folder: &Path, config: &Value) -> mlx_native_lm::Result<()> {
    let written = std::fs::write(folder.join("config.json"), config.to_string());
    written.map_err(|e| LmError::InvalidArgument(e.to_string()))?;
    open_and_run(device, folder)
}

/// Opens the model and runs a prompt and two single tokens of it.
pub fn open_and_run(device: &MlxDevice, folder: &Path) -> mlx_native_lm::Result<()> {
    let options = ModelOptions {
        dtype: Some(DType::F32),
        prefill_step: 64,
    };
    let mut decoder = open_decoder(device, folder, &options)?;
    let mut state = decoder.new_state(1)?;
    decoder.forward_all(&[1, 2, 3, 5, 7, 11, 13, 17, 19, 23], &mut state)?;
    decoder.forward(&[4], &mut state)?;
    decoder.forward(&[6], &mut state)?;
    Ok(())
}

/// Every field set to each of [`replacements`], one at a time, with what was done.
fn mutations(config: &Value) -> Vec<(String, Value)> {
    let mut paths = Vec::new();
    collect(config, &mut String::new(), &mut paths);
    let mut all = Vec::new();
    for path in paths {
        for replacement in replacements() {
            let mut mutated = config.clone();
            let Some(slot) = mutated.pointer_mut(&path) else {
                continue;
            };
            let what = format!(
                "{path} = {}",
                replacement
                    .as_ref()
                    .map_or("missing".to_owned(), Value::to_string)
            );
            match replacement {
                Some(value) => *slot = value,
                None => remove(&mut mutated, &path),
            }
            all.push((what, mutated));
        }
    }
    all
}

fn remove(config: &mut Value, path: &str) {
    let Some((parent, key)) = path.rsplit_once('/') else {
        return;
    };
    match config.pointer_mut(parent) {
        Some(Value::Object(map)) => drop(map.remove(key)),
        Some(Value::Array(list)) => {
            if let Ok(i) = key.parse::<usize>()
                && i < list.len()
            {
                list.remove(i);
            }
        }
        _ => {}
    }
}

/// Zero, negative, huge, fractions, other types, missing, and what stands for NaN and infinity.
fn replacements() -> Vec<Option<Value>> {
    vec![
        None,
        Some(json!(0)),
        Some(json!(1)),
        Some(json!(3)),
        Some(json!(-1)),
        Some(json!(0.37)),
        Some(json!(65_536)),
        Some(json!(u32::MAX)),
        Some(json!(u64::MAX)),
        Some(json!(1e300)),
        Some(json!(null)),
        Some(json!(true)),
        Some(json!("text")),
        Some(json!([])),
        Some(json!([1])),
        Some(json!({})),
        Some(json!({"__float__": "NaN"})),
        Some(json!({"__float__": "Infinity"})),
    ]
}

/// Paths of all fields, of lists the first element only.
fn collect(value: &Value, path: &mut String, paths: &mut Vec<String>) {
    let mut inside = |key: String, value: &Value| {
        let len = path.len();
        path.push('/');
        path.push_str(&key.replace('~', "~0").replace('/', "~1"));
        paths.push(path.clone());
        collect(value, path, paths);
        path.truncate(len);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| inside(key.clone(), value)),
        Value::Array(list) => list
            .iter()
            .take(1)
            .for_each(|value| inside("0".to_owned(), value)),
        _ => {}
    }
}
