//! Every layout against mlx-lm: `tests/golden/layouts.json`, which `tools/golden_layouts.py` writes, has the tensors of folders
//! as Hugging Face has them and the hashes of those that mlx-lm makes of them.

use std::collections::{BTreeMap, BTreeSet};

use mlx_native::weights::{ModelWeights, SafetensorsFile};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::ConfigFile;
use crate::error::LmError;
use crate::families::Family;
use crate::tensors::StoredTensors;

#[derive(Deserialize)]
struct Case {
    config: Value,
    from: Vec<(String, String, Vec<usize>)>,
    to: Vec<(String, String, Vec<usize>, String)>,
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_str(include_str!("../../../tests/golden/layouts.json")).unwrap()
}

fn fnv(bytes: &[u8]) -> u64 {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn stream(name: &str, n: usize) -> impl Iterator<Item = u64> {
    let start = fnv(name.as_bytes());
    (1..=n as u64).map(move |i| {
        let mut z = start.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// The elements that follow from a name.
fn fill(name: &str, dtype: &str, shape: &[usize]) -> Vec<u8> {
    let z = stream(name, shape.iter().product());
    let float = |z: u64| (2 * (z >> 40) as i64 + 1 - (1 << 24)) as f32 / (1 << 24) as f32;
    match dtype {
        "F32" => z.flat_map(|z| float(z).to_le_bytes()).collect(),
        "F16" => z
            .flat_map(|z| half::f16::from_f32(float(z)).to_le_bytes())
            .collect(),
        "I32" => z.flat_map(|z| ((z >> 32) as u32).to_le_bytes()).collect(),
        "F8_E4M3" => z.map(|z| (z >> 56) as u8 & 0x77).collect(),
        _ => z.map(|z| (z >> 56) as u8).collect(),
    }
}

fn weights(tensors: &[(String, String, Vec<usize>)]) -> ModelWeights {
    let (mut header, mut body) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape) in tensors {
        let bytes = fill(name, dtype, shape);
        let offsets = [body.len(), body.len() + bytes.len()];
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
        );
        body.extend(bytes);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let file = [&(text.len() as u64).to_le_bytes()[..], &text, &body].concat();
    ModelWeights::from_files(vec![SafetensorsFile::from_bytes("model", file).unwrap()]).unwrap()
}

fn open(config: &Value, tensors: &[(String, String, Vec<usize>)]) -> crate::Result<StoredTensors> {
    let config = ConfigFile::parse(config.to_string().as_bytes())?;
    let family = Family::of(&config)?;
    StoredTensors::of(weights(tensors), family.name, &config.fields())
}

#[test]
fn layouts_become_what_mlx_lm_makes_of_them() {
    let mut wrong = Vec::new();
    for (name, case) in cases() {
        let stored = match open(&case.config, &case.from) {
            Ok(stored) => stored,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        let from: BTreeSet<&str> = case.from.iter().map(|f| f.0.as_str()).collect();
        let wanted: BTreeSet<&str> = case.to.iter().map(|t| t.0.as_str()).collect();
        for (tensor, dtype, shape, hash) in &case.to {
            let found = stored
                .info(tensor)
                .map(|i| (i.dtype.to_string(), i.shape.to_vec()));
            if found != Some((dtype.clone(), shape.clone())) {
                wrong.push(format!("{name}: {tensor} is {found:?}, wanted {dtype} {shape:?}"));
            } else if format!("{:016x}", fnv(&stored.bytes(tensor).unwrap())) != *hash {
                wrong.push(format!("{name}: {tensor} has other elements"));
            }
        }
        // What mlx-lm drops is still there under its own name: the family says whether that is right.
        for left in stored.names().filter(|n| !wanted.contains(n)) {
            if stored.in_file(left) != Some(left) || !from.contains(left) {
                wrong.push(format!("{name}: {left} is left"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn mlx_layouts_stay_as_they_are() {
    for (name, case) in cases() {
        // Packed ones have foreign sections in their configurations.
        if name.contains(':') {
            continue;
        }
        let made: Vec<_> = case
            .to
            .iter()
            .map(|t| (t.0.clone(), t.1.clone(), t.2.clone()))
            .collect();
        let stored = open(&case.config, &made).unwrap();
        for (tensor, ..) in &made {
            assert_eq!(
                stored.in_file(tensor),
                Some(tensor.as_str()),
                "{name}: {tensor} was made"
            );
        }
        assert_eq!(stored.names().count(), made.len(), "{name}");
    }
}

#[test]
fn damaged_layouts_are_refused_by_the_tensor_s_name() {
    let (mut errors, mut opened) = (0, 0);
    for (name, case) in cases() {
        for i in 0..case.from.len().min(24) {
            for change in 0..4 {
                let mut from: Vec<_> = case.from.clone();
                let shape = &mut from[i].2;
                match change {
                    0 => drop(shape.pop()),
                    1 => shape.push(3),
                    2 => shape.iter_mut().for_each(|n| *n = 1),
                    _ => drop(from.remove(i)),
                }
                // No panic; what is made can be read, or says why not.
                match open(&case.config, &from) {
                    Err(LmError::Weights(_) | LmError::Unsupported(_)) => errors += 1,
                    Err(e) => panic!("{name}: {e}"),
                    Ok(stored) => {
                        opened += 1;
                        let names: Vec<String> = stored.names().map(str::to_owned).collect();
                        for tensor in names {
                            stored
                                .bytes(&tensor)
                                .unwrap_or_else(|e| panic!("{name}: {tensor}: {e}"));
                        }
                    }
                }
            }
        }
    }
    assert!(errors > 100 && opened > 100, "{errors} errors, {opened} opened");
}
