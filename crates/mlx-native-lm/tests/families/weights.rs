//! Weights by formula, packed as MLX packs them, written as an ordinary folder.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::golden::{self, Golden, Packed, Variant};
use crate::sha256::sha256_hex;

/// A tensor to be written.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

fn fnv1a(text: &str) -> u64 {
    let step = |h: u64, byte: u8| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The `i`-th number of splitmix64 from `start` on.
fn splitmix(start: u64, i: u64) -> u64 {
    let mut z = start.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn stream(name: &str, seed: u64, n: usize) -> impl Iterator<Item = u64> {
    let start = fnv1a(&format!("{name}#{seed}"));
    (0..n as u64).map(move |i| splitmix(start, i))
}

/// `c + a·u` with `u` between -1 and 1, of the tensor's name.
pub fn formula(name: &str, seed: u64, n: usize, c: f64, a: f64) -> Vec<f32> {
    let (c, a) = (c as f32, a as f32);
    let element = |z: u64| {
        let k = (z >> 40) as i64;
        let u = (2 * k + 1 - (1 << 24)) as f32 / (1 << 24) as f32;
        c + a * u
    };
    stream(name, seed, n).map(element).collect()
}

/// A tensor whose elements are not f32: random bits, signs, rounded values, ternary codes.
fn special(name: &str, dtype: &str, seed: u64, n: usize, c: f64, a: f64) -> Result<(Dtype, Vec<u8>), String> {
    let z = stream(name, seed, n);
    Ok(match dtype {
        "U32" => (
            Dtype::U32,
            z.flat_map(|z| ((z >> 32) as u32).to_le_bytes()).collect(),
        ),
        "U8" => {
            let byte = |z: u64| {
                (0..4)
                    .map(|j| (((z >> (16 * j)) & 0xffff) % 3) << (2 * j))
                    .sum::<u64>() as u8
            };
            (Dtype::U8, z.map(byte).collect())
        }
        "I8" => (
            Dtype::I8,
            z.map(|z| if z >> 63 == 0 { 1 } else { 0xff }).collect(),
        ),
        "F32" => {
            let sign = |z: u64| if z >> 63 == 0 { 1.0f32 } else { -1.0 };
            (Dtype::F32, z.flat_map(|z| sign(z).to_le_bytes()).collect())
        }
        "F16" if name.ends_with("signs") => {
            let sign = |z: u64| half::f16::from_f32(if z >> 63 == 0 { 1.0 } else { -1.0 }).to_le_bytes();
            (Dtype::F16, z.flat_map(sign).collect())
        }
        "F16" => {
            let round = |v: f32| half::f16::from_f32(v).to_le_bytes();
            (
                Dtype::F16,
                formula(name, seed, n, c, a).into_iter().flat_map(round).collect(),
            )
        }
        other => return Err(format!("{name}: no formula for {other}")),
    })
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Writes `config.json` and `model.safetensors` of a variant.
pub fn write_folder(folder: &Path, case: &Golden, variant: &Variant) -> Result<(), String> {
    let config = config_of(case, variant).to_string();
    std::fs::write(folder.join("config.json"), config).map_err(|e| e.to_string())?;
    write_tensors(folder, &tensors_of(case, variant)?)
}

/// The configuration of a variant.
pub fn config_of(case: &Golden, variant: &Variant) -> serde_json::Value {
    let mut config = case.config.clone();
    if let Some(quantization) = &variant.quantization {
        config["quantization"] = quantization.clone();
    }
    config
}

/// Writes `model.safetensors`.
pub fn write_tensors(folder: &Path, tensors: &[Tensor]) -> Result<(), String> {
    let views: Vec<(String, TensorView<'_>)> = tensors
        .iter()
        .map(|t| {
            Ok((
                t.name.clone(),
                TensorView::new(t.dtype, t.shape.clone(), &t.bytes).map_err(|e| e.to_string())?,
            ))
        })
        .collect::<Result<_, String>>()?;
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).map_err(|e| e.to_string())
}

/// The tensors of a variant.
pub fn tensors_of(case: &Golden, variant: &Variant) -> Result<Vec<Tensor>, String> {
    let mut tensors = Vec::new();
    for golden::Tensor {
        name,
        dtype,
        shape,
        c,
        a,
        signs,
    } in &case.tensors
    {
        let n: usize = shape.iter().product();
        if dtype != "F32" || *signs {
            let (dtype, bytes) = special(name, dtype, case.weights_seed, n, *c, *a)?;
            tensors.push(Tensor {
                name: name.clone(),
                dtype,
                shape: shape.clone(),
                bytes,
            });
            continue;
        }
        let values = formula(name, case.weights_seed, n, *c, *a);
        let path = name.strip_suffix(".weight").unwrap_or(name);
        match variant
            .packed
            .iter()
            .find(|p| p.0 == path && name.ends_with(".weight"))
        {
            None => tensors.push(Tensor {
                name: name.clone(),
                dtype: Dtype::F32,
                shape: shape.clone(),
                bytes: bytes_of(&values),
            }),
            Some(packed) => tensors.extend(pack(packed, shape, &values)?),
        }
    }
    Ok(tensors)
}

/// MLX's affine packing on the CPU, per group: `value = q · scale + bias`, an edge of the range being exact.
fn pack(packed: &Packed, shape: &[usize], values: &[f32]) -> Result<[Tensor; 3], String> {
    let Packed(path, bits, group, words_shape, words_hash, planes_hash) = packed;
    let n = ((1u32 << bits) - 1) as f32;
    let (mut codes, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    for group in values.chunks(*group) {
        let (lo, hi) = group
            .iter()
            .fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), v| {
                (l.min(*v), h.max(*v))
            });
        let mask = lo.abs() > hi.abs();
        let mut scale = ((hi - lo) / n).max(1e-7);
        scale = if mask { scale } else { -scale };
        let edge = if mask { lo } else { hi };
        let q0 = (edge / scale).round_ties_even();
        let mut bias = 0.0;
        if q0 != 0.0 {
            scale = edge / q0;
            bias = edge;
        }
        codes.extend(
            group
                .iter()
                .map(|x| ((x - bias) / scale).round_ties_even().clamp(0.0, n) as u32),
        );
        scales.push(scale);
        biases.push(bias);
    }
    // A stream of codes, the first in the lowest bits: 3, 5 and 6 bits do not divide a word.
    let mut words = Vec::with_capacity(codes.len() * bits / 8);
    let (mut held, mut n_held) = (0u64, 0);
    for code in codes {
        held |= u64::from(code) << n_held;
        n_held += bits;
        while n_held >= 8 {
            words.push(held as u8);
            held >>= 8;
            n_held -= 8;
        }
    }
    let (scales, biases) = (bytes_of(&scales), bytes_of(&biases));
    if sha256_hex(&words) != *words_hash || sha256_hex(&[&scales[..], &biases[..]].concat()) != *planes_hash {
        return Err(format!("{path}: packed otherwise than the golden file says"));
    }
    let mut groups = shape.to_vec();
    if let Some(last) = groups.last_mut() {
        *last /= group;
    }
    let tensor = |name: &str, dtype, shape: &[usize], bytes| Tensor {
        name: format!("{path}.{name}"),
        dtype,
        shape: shape.to_vec(),
        bytes,
    };
    Ok([
        tensor("weight", Dtype::U32, words_shape, words),
        tensor("scales", Dtype::F32, &groups, scales),
        tensor("biases", Dtype::F32, &groups, biases),
    ])
}
