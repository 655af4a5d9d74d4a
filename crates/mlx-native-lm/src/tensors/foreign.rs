//! Layouts of other programs, as mlx-lm reads them.

use mlx_native::weights::TensorType;

use super::stored::{Derived, StoredTensors};
use crate::error::{LmError, Result};
use crate::json::Fields;

/// What a checkpoint needs, by its family and configuration.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rules {
    /// Experts that are stored one by one are put together.
    experts: bool,
    /// `kv_b_proj` is taken apart: heads, rows of a head's key, rows of its value.
    heads: Option<[usize; 3]>,
    /// gpt-oss's blocks of 4-bit floats.
    harmony: bool,
    /// Packed by AutoAWQ or GPTQ: 4 bits, eight columns to a word.
    awq: bool,
    /// fp8 with a scale for each 128 x 128.
    fp8: bool,
}

/// Families whose experts are a stack named `switch_mlp`.
const STACKED: &[&str] = &[
    "deepseek",
    "deepseek_v2",
    "deepseek_v3",
    "dots1",
    "glm4_moe",
    "glm4_moe_lite",
    "kimi_k25",
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
];
/// Families whose heads are kept apart as `embed_q` and `unembed_out`.
const APART: &[&str] = &["deepseek_v3"];

impl Rules {
    /// The rules for a configuration.
    pub fn of(family: &str, config: &Fields<'_>) -> Result<Self> {
        let size = |key: &str| config.count(key, 1 << 24);
        let heads = match APART.contains(&family) {
            false => None,
            true => match (
                size("num_attention_heads")?,
                size("qk_nope_head_dim")?,
                size("v_head_dim")?,
            ) {
                (Some(n), Some(k), Some(v)) => Some([n, k, v]),
                _ => None,
            },
        };
        let foreign = config.get("quantization").is_none();
        let section = config.object("quantization_config", "quantization_config.")?;
        let method = match section.filter(|_| foreign) {
            Some(section) => section.str("quant_method")?,
            None => None,
        };
        Ok(Rules {
            experts: STACKED.contains(&family),
            heads,
            harmony: family == "gpt_oss",
            awq: matches!(method, Some("awq" | "gptq")),
            fp8: method == Some("fp8"),
        })
    }
}

/// How a tensor is made of others.
#[derive(Debug)]
pub(crate) enum Make {
    /// Put one behind the other.
    Stack(Vec<String>),
    /// The bytes of another, under another type.
    Same(String),
    /// Rows `first`, `first + 2`, and so on, of matrices of as many bytes a row.
    EverySecond { from: String, first: usize, row: usize },
    /// Of each head the first rows, with rows and columns changed over.
    Keys { from: String, heads: [usize; 3] },
    /// Of each head the other rows.
    Values { from: String, heads: [usize; 3] },
    /// e4m3 with a scale for each 128 x 128, as bf16.
    Fp8 { from: String, scales: String },
    /// Words of AWQ as rows of MLX.
    AwqWords(String),
    /// A matrix of 2-byte elements with rows and columns changed over.
    Transposed(String),
    /// `-zero · scale`, transposed; no zeros: 8.
    AwqBiases { scales: String, zeros: Option<String> },
}

/// Adds to `t` what it makes of foreign tensors.
pub(crate) fn derive(t: &mut StoredTensors, rules: &Rules) -> Result<()> {
    let names: Vec<String> = t.names().map(str::to_owned).collect();
    if rules.awq {
        awq(t, &names)?;
    }
    if rules.fp8 {
        fp8(t, &names)?;
    }
    if rules.harmony {
        harmony(t, &names);
    }
    if rules.experts {
        experts(t)?;
    }
    if let Some(heads) = rules.heads {
        apart(t, &names, heads)?;
    }
    Ok(())
}

fn misfit(name: &str, what: impl std::fmt::Display) -> LmError {
    LmError::Weights(format!("{name}: {what}"))
}

fn awq(t: &mut StoredTensors, names: &[String]) -> Result<()> {
    if let Some(name) = names.iter().find(|n| n.ends_with(".g_idx")) {
        return Err(LmError::Unsupported(format!(
            "{name}: columns in an order of their own (g_idx)"
        )));
    }
    for name in names {
        let Some(path) = name.strip_suffix(".qweight") else {
            continue;
        };
        let (scales, zeros) = (format!("{path}.scales"), format!("{path}.qzeros"));
        let shape = |name: &str| t.any(name).map(|i| (i.dtype, i.shape.to_vec()));
        let words = shape(name);
        let Some((TensorType::I32 | TensorType::U32, words)) = words.filter(|(_, s)| s.len() == 2) else {
            return Err(misfit(name, "wanted a matrix of I32"));
        };
        let (inputs, outputs) = (words[0], words[1] * 8);
        let groups = match shape(&scales) {
            Some((TensorType::F16 | TensorType::BF16, s)) if s.len() == 2 && s[1] == outputs => s[0],
            _ => {
                return Err(misfit(
                    &scales,
                    format!("wanted F16 or BF16, [groups, {outputs}]"),
                ));
            }
        };
        let zeros = match shape(&zeros) {
            None => None,
            Some((TensorType::I32 | TensorType::U32, s)) if s == [groups, words[1]] => Some(zeros),
            Some(_) => return Err(misfit(&zeros, format!("wanted I32 [{groups}, {}]", words[1]))),
        };
        let dtype = t.any(&scales).map_or(TensorType::F16, |i| i.dtype);
        if !inputs.is_multiple_of(8) {
            return Err(misfit(name, format!("{inputs} columns are no whole words")));
        }
        let planes = [
            (
                "weight",
                TensorType::U32,
                inputs / 8,
                Make::AwqWords(name.clone()),
            ),
            (
                "biases",
                dtype,
                groups,
                Make::AwqBiases {
                    scales: format!("{path}.scales"),
                    zeros: zeros.clone(),
                },
            ),
        ];
        for (plane, dtype, columns, make) in planes {
            let shape = vec![outputs, columns];
            t.add(format!("{path}.{plane}"), Derived { dtype, shape, make });
        }
        // Under its own name: read from the file.
        let make = Make::Transposed(scales.clone());
        t.add(
            scales,
            Derived {
                dtype,
                shape: vec![outputs, groups],
                make,
            },
        );
        t.consume(name);
        zeros.iter().for_each(|z| t.consume(z));
    }
    Ok(())
}

fn fp8(t: &mut StoredTensors, names: &[String]) -> Result<()> {
    for name in names {
        let Some(path) = name.strip_suffix("_scale_inv") else {
            continue;
        };
        let (weight, scales) = (t.any(path), t.any(name));
        let fits = match (weight, scales) {
            (Some(w), Some(s)) if w.shape.len() == 2 => {
                let blocks = [w.shape[0].div_ceil(128), w.shape[1].div_ceil(128)];
                w.dtype == TensorType::F8E4M3 && s.dtype == TensorType::F32 && s.shape == blocks
            }
            _ => false,
        };
        let Some(shape) = weight.filter(|_| fits).map(|w| w.shape.to_vec()) else {
            return Err(misfit(
                path,
                format!("wanted F8_E4M3 with {name}, F32, one for each 128 x 128"),
            ));
        };
        t.add(
            path.to_owned(),
            Derived {
                dtype: TensorType::BF16,
                shape,
                make: Make::Fp8 {
                    from: path.to_owned(),
                    scales: name.clone(),
                },
            },
        );
        t.consume(name);
    }
    Ok(())
}

/// `gate_up_proj` has rows of the gate and of `up` in turn; blocks are 16 bytes, two codes in each.
fn harmony(t: &mut StoredTensors, names: &[String]) {
    for name in names {
        let (Some(at), false) = (name.find(".mlp.experts."), name.contains("gate_proj")) else {
            continue;
        };
        let (path, last) = name.split_at(at + ".mlp.experts.".len());
        let Some((part, kind)) = last.rsplit_once('_') else {
            continue;
        };
        let suffix = match kind {
            "blocks" => "weight",
            "scales" => "scales",
            "bias" => "bias",
            _ => continue,
        };
        let Some(info) = t.any(name) else { continue };
        let (mut dtype, mut shape) = (info.dtype, info.shape.to_vec());
        if kind == "blocks" {
            let (Some(16), TensorType::U8) = (shape.pop(), dtype) else {
                continue;
            };
            dtype = TensorType::U32;
            shape.iter_mut().last().into_iter().for_each(|n| *n *= 4);
        }
        let rows_at = if kind == "bias" { 1 } else { 2 };
        let Some(rows_at) = shape.len().checked_sub(rows_at) else {
            continue;
        };
        if part == "down_proj" {
            let make = Make::Same(name.clone());
            t.add(
                format!("{path}down_proj.{suffix}"),
                Derived { dtype, shape, make },
            );
        } else if part == "gate_up_proj" {
            let row = shape[rows_at + 1..].iter().product::<usize>() * dtype.size_of();
            shape[rows_at] /= 2;
            for (first, half) in ["gate_proj", "up_proj"].into_iter().enumerate() {
                let make = Make::EverySecond {
                    from: name.clone(),
                    first,
                    row,
                };
                let shape = shape.clone();
                t.add(format!("{path}{half}.{suffix}"), Derived { dtype, shape, make });
            }
        } else {
            continue;
        }
        t.consume(name);
    }
}

/// `P.experts.0.up_proj.weight`, `P.experts.1.up_proj.weight`, … as `P.switch_mlp.up_proj.weight`.
fn experts(t: &mut StoredTensors) -> Result<()> {
    let first: Vec<String> = t
        .names()
        .filter(|n| n.contains(".experts.0."))
        .map(str::to_owned)
        .collect();
    for name in first {
        let Some((path, rest)) = name.split_once(".experts.0.") else {
            continue;
        };
        let Some((part, plane)) = rest.split_once('.') else {
            continue;
        };
        let target = match part {
            "w1" => "gate_proj",
            "w2" => "down_proj",
            "w3" => "up_proj",
            "gate_proj" | "up_proj" | "down_proj" => part,
            _ => continue,
        };
        let mut all = Vec::new();
        let Some((dtype, shape)) = t.info(&name).map(|i| (i.dtype, i.shape.to_vec())) else {
            continue;
        };
        loop {
            let next = format!("{path}.experts.{}.{part}.{plane}", all.len());
            match t.info(&next) {
                None => break,
                Some(i) if i.dtype == dtype && i.shape == shape => all.push(next),
                Some(i) => {
                    return Err(misfit(
                        &next,
                        format!("{} {:?}, the first one {dtype} {shape:?}", i.dtype, i.shape),
                    ));
                }
            }
        }
        all.iter().for_each(|name| t.consume(name));
        let shape = [&[all.len()], &shape[..]].concat();
        let make = Make::Stack(all);
        t.add(
            format!("{path}.switch_mlp.{target}.{plane}"),
            Derived { dtype, shape, make },
        );
    }
    Ok(())
}

/// Keys and values of every head as matrices of their own. A packed `kv_b_proj` stays: attention reads it as it is.
fn apart(t: &mut StoredTensors, names: &[String], heads: [usize; 3]) -> Result<()> {
    let [n, k, v] = heads;
    for name in names {
        let Some(path) = name.strip_suffix("kv_b_proj.weight") else {
            continue;
        };
        let Some((dtype, shape)) = t.info(name).map(|i| (i.dtype, i.shape.to_vec())) else {
            continue;
        };
        if !matches!(dtype, TensorType::F32 | TensorType::F16 | TensorType::BF16) {
            continue;
        }
        let rank = match shape[..] {
            [rows, rank] if rows == n * (k + v) => rank,
            _ => {
                return Err(misfit(
                    name,
                    format!("found {shape:?}, wanted {} rows", n * (k + v)),
                ));
            }
        };
        let from = name.clone();
        let keys = Derived {
            dtype,
            shape: vec![n, rank, k],
            make: Make::Keys {
                from: from.clone(),
                heads,
            },
        };
        let values = Derived {
            dtype,
            shape: vec![n, v, rank],
            make: Make::Values { from, heads },
        };
        t.add(format!("{path}embed_q.weight"), keys);
        t.add(format!("{path}unembed_out.weight"), values);
        t.consume(name);
    }
    Ok(())
}

impl Make {
    /// The bytes of the tensor, of `shape`.
    pub fn run(&self, t: &StoredTensors, shape: &[usize]) -> Result<Vec<u8>> {
        Ok(match self {
            Make::Stack(names) => {
                let mut all = Vec::new();
                for name in names {
                    all.extend_from_slice(&t.bytes(name)?);
                }
                all
            }
            Make::Same(name) => t.weights().bytes(name)?.to_vec(),
            Make::EverySecond { from, first, row } => {
                let bytes = t.weights().bytes(from)?;
                let rows = bytes.chunks_exact((*row).max(1)).skip(*first).step_by(2);
                rows.flatten().copied().collect()
            }
            Make::Keys {
                from,
                heads: [n, k, v],
            } => {
                let bytes = t.bytes(from)?;
                let size = t.any(from).map_or(1, |i| i.dtype.size_of());
                let rank = shape[1];
                let mut out = Vec::with_capacity(n * k * rank * size);
                for head in 0..*n {
                    for c in 0..rank {
                        for r in 0..*k {
                            let at = ((head * (k + v) + r) * rank + c) * size;
                            out.extend_from_slice(&bytes[at..at + size]);
                        }
                    }
                }
                out
            }
            Make::Values {
                from,
                heads: [n, k, v],
            } => {
                let bytes = t.bytes(from)?;
                let row = shape[2] * t.any(from).map_or(1, |i| i.dtype.size_of());
                let of_head = |head: usize| &bytes[(head * (k + v) + k) * row..(head + 1) * (k + v) * row];
                (0..*n).flat_map(|head| of_head(head).iter().copied()).collect()
            }
            Make::Fp8 { from, scales } => {
                fp8_values(t.weights().bytes(from)?, t.weights().bytes(scales)?, shape)
            }
            Make::AwqWords(from) => awq_words(t.weights().bytes(from)?, shape),
            Make::Transposed(from) => {
                let (bytes, [rows, columns]) = (t.weights().bytes(from)?, [shape[0], shape[1]]);
                let at = |r: usize, c: usize| 2 * (c * rows + r);
                let cells = (0..rows).flat_map(|r| (0..columns).map(move |c| at(r, c)));
                cells.flat_map(|at| [bytes[at], bytes[at + 1]]).collect()
            }
            Make::AwqBiases { scales, zeros } => awq_biases(t, scales, zeros.as_deref(), shape)?,
        })
    }
}

/// e4m3 by its bits: 1 sign, 4 exponent, 3 mantissa; all ones is NaN.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 0x7f) {
        (_, 0x7f) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

fn fp8_values(weight: &[u8], scales: &[u8], shape: &[usize]) -> Vec<u8> {
    let columns = shape[1];
    let wide = columns.div_ceil(128);
    let table: Vec<f32> = (0..=255).map(e4m3).collect();
    let scale = |block: usize| {
        let b = &scales[4 * block..4 * block + 4];
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    };
    let value = |(i, byte): (usize, &u8)| {
        let block = i / columns / 128 * wide + i % columns / 128;
        half::bf16::from_f32(table[*byte as usize] * scale(block)).to_le_bytes()
    };
    weight.iter().enumerate().flat_map(value).collect()
}

/// Where the eight columns of a word lie in it.
const AWQ_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

fn word(bytes: &[u8], i: usize) -> u32 {
    let b = &bytes[4 * i..4 * i + 4];
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

/// The code of output `column` in a row of words.
fn awq_code(bytes: &[u8], words: usize, row: usize, column: usize) -> u32 {
    let word = word(bytes, row * words + column / 8);
    word >> (4 * AWQ_ORDER[column % 8]) & 15
}

/// `[inputs, outputs / 8]` words as `[outputs, inputs / 8]`.
fn awq_words(bytes: &[u8], shape: &[usize]) -> Vec<u8> {
    let (outputs, words) = (shape[0], shape[0] / 8);
    let mut out = Vec::with_capacity(4 * outputs * shape[1]);
    for column in 0..outputs {
        for group in 0..shape[1] {
            let codes = (0..8).map(|j| awq_code(bytes, words, 8 * group + j, column) << (4 * j));
            out.extend_from_slice(&codes.fold(0, |word, code| word | code).to_le_bytes());
        }
    }
    out
}

fn awq_biases(t: &StoredTensors, scales: &str, zeros: Option<&str>, shape: &[usize]) -> Result<Vec<u8>> {
    let bytes = t.weights().bytes(scales)?;
    let is_f16 = t
        .weights()
        .info(scales)
        .is_some_and(|i| i.dtype == TensorType::F16);
    let zeros = zeros.map(|z| t.weights().bytes(z)).transpose()?;
    let (outputs, groups) = (shape[0], shape[1]);
    let mut out = Vec::with_capacity(2 * outputs * groups);
    for column in 0..outputs {
        for group in 0..groups {
            let at = 2 * (group * outputs + column);
            let bits = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            let zero = zeros.map_or(8, |z| awq_code(z, outputs / 8, group, column)) as f32;
            let half = if is_f16 {
                half::f16::from_f32(-zero * half::f16::from_bits(bits).to_f32()).to_bits()
            } else {
                half::bf16::from_f32(-zero * half::bf16::from_bits(bits).to_f32()).to_bits()
            };
            out.extend_from_slice(&half.to_le_bytes());
        }
    }
    Ok(out)
}
