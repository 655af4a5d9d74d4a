//! Hostile tensors: those of a golden case with one that is missing, of another shape or dtype, or that holds no numbers.
//! Each gives one clear error, or a model that runs; nothing panics, and no value of a tensor leads out of a buffer.

use mlx_native::MlxDevice;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::golden::{Golden, Variant};
use crate::hostile::{caught, check_error, open_and_run};
use crate::weights::{Tensor, config_of, tensors_of, write_folder, write_tensors};

/// Damaged tensors of a variant that are tried, where not every one is.
const TRIED: usize = 12;

/// Runs all cases; whether nothing was found.
pub fn run(device: &MlxDevice, cases: &[Golden], every: bool) -> Result<bool, String> {
    // The message of a caught panic is in the finding.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut tried, mut findings) = (0, Vec::new());
    for case in cases {
        for (name, variant) in &case.variants {
            tried += run_variant(device, case, variant, every, &mut findings)
                .map_err(|e| format!("{} {name}: {e}", case.case))?;
        }
    }
    drop(std::panic::take_hook());
    println!("{tried} hostile sets of tensors of {} cases", cases.len());
    findings.iter().for_each(|finding| println!("  {finding}"));
    Ok(findings.is_empty())
}

fn run_variant(
    device: &MlxDevice,
    case: &Golden,
    variant: &Variant,
    every: bool,
    findings: &mut Vec<String>,
) -> Result<usize, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let folder = folder.path();
    write_folder(folder, case, variant)?;
    let tensors = tensors_of(case, variant)?;
    let mut tried = 0;
    let mut attempt = |what: &str, must_fail: bool| {
        tried += 1;
        match caught(|| open_and_run(device, folder)) {
            Err(panic) => findings.push(format!("{}: {what}: {panic}", case.case)),
            Ok(Err(error)) => check_error(findings, case, what, &error),
            Ok(Ok(())) if must_fail => findings.push(format!("{}: {what}: runs", case.case)),
            Ok(Ok(())) => {}
        }
    };
    // Values that are no numbers, first: indices that are chosen by them must stay within.
    for (what, value) in [("NaN", f32::NAN), ("infinity", f32::INFINITY), ("1e38", 1e38)] {
        let filled: Vec<Tensor> = tensors.iter().map(|t| filled(t, value)).collect();
        write_tensors(folder, &filled)?;
        attempt(&format!("all of them {what}"), false);
    }
    // Evenly over all damages, and not the same kind of damage of each tensor.
    let n = tensors.len() * DAMAGES.len();
    let step = if every { 1 } else { (n / TRIED).max(1) | 1 };
    for i in (0..n).step_by(step) {
        let (at, damage) = (i / DAMAGES.len(), DAMAGES[i % DAMAGES.len()]);
        let mut damaged = tensors.clone();
        let Some(must_fail) = damage.apply(&mut damaged, at) else {
            continue;
        };
        write_tensors(folder, &damaged)?;
        attempt(&format!("{} {damage:?}", tensors[at].name), must_fail);
    }
    write_tensors(folder, &tensors)?;
    if variant.quantization.is_some() {
        for (what, quantization) in quantizations() {
            let mut config = config_of(case, variant);
            config["quantization"] = quantization;
            std::fs::write(folder.join("config.json"), config.to_string()).map_err(|e| e.to_string())?;
            attempt(&what, false);
        }
    }
    Ok(tried)
}

/// What is done to one tensor.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Missing,
    OneRowMore,
    OneColumnLess,
    Flat,
    Nested,
    Empty,
    Integers,
    Halves,
    Bytes,
}

const DAMAGES: [Damage; 9] = [
    Damage::Missing,
    Damage::OneRowMore,
    Damage::OneColumnLess,
    Damage::Flat,
    Damage::Nested,
    Damage::Empty,
    Damage::Integers,
    Damage::Halves,
    Damage::Bytes,
];

impl Damage {
    /// Damages tensor `at`; whether no model can be made of what is left, and `None` where the damage does nothing.
    fn apply(self, tensors: &mut Vec<Tensor>, at: usize) -> Option<bool> {
        let t = &mut tensors[at];
        let (dtype, before) = (t.dtype, t.shape.clone());
        match self {
            // A bias or a head may be left out.
            Damage::Missing => {
                tensors.remove(at);
                return Some(false);
            }
            Damage::OneRowMore => *t.shape.first_mut()? += 1,
            Damage::OneColumnLess => *t.shape.last_mut()? -= 1,
            Damage::Flat => t.shape = vec![t.shape.iter().product()],
            Damage::Nested => t.shape.insert(0, 1),
            Damage::Empty => *t.shape.first_mut()? = 0,
            Damage::Integers => t.dtype = Dtype::I32,
            Damage::Halves => t.dtype = Dtype::F16,
            Damage::Bytes => t.dtype = Dtype::U8,
        }
        let width_now = t.dtype.bitsize() / 8;
        if t.shape == before && t.dtype == dtype {
            return None;
        }
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        t.bytes.resize(count(&t.shape) * width_now, 0x55);
        // Another float is as good, and so is another rank of as many values. Packed words that are fewer are of fewer bits.
        let others = count(&t.shape) != count(&before) && dtype != Dtype::U32;
        Some(others || matches!(self, Damage::Integers | Damage::Bytes) && t.dtype != dtype)
    }
}

/// The tensor with every float set to `value`.
fn filled(tensor: &Tensor, value: f32) -> Tensor {
    let mut t = tensor.clone();
    match t.dtype {
        Dtype::F32 => t.bytes = value.to_le_bytes().repeat(t.bytes.len() / 4),
        Dtype::F16 => t.bytes = half::f16::from_f32(value).to_le_bytes().repeat(t.bytes.len() / 2),
        _ => {}
    }
    t
}

/// Values of `quantization` that fit no packing, or another one.
fn quantizations() -> Vec<(String, Value)> {
    let mut all = vec![
        json!(null),
        json!("affine"),
        json!([]),
        json!({}),
        json!({"bits": 4}),
        json!({"group_size": 32}),
        json!({"group_size": 32, "bits": 4, "mode": "unheard-of"}),
        json!({"group_size": 32, "bits": 4, "mode": "mxfp4"}),
    ];
    for bits in [
        json!(0),
        json!(-4),
        json!(1),
        json!(7),
        json!(8),
        json!(1u64 << 40),
        json!(4.5),
        json!("4"),
    ] {
        all.push(json!({"group_size": 32, "bits": bits}));
    }
    for group in [
        json!(0),
        json!(-32),
        json!(7),
        json!(128),
        json!(u64::MAX),
        json!("32"),
    ] {
        all.push(json!({"group_size": group, "bits": 4}));
    }
    all.into_iter()
        .map(|q| (format!("quantization {q}"), q))
        .collect()
}
