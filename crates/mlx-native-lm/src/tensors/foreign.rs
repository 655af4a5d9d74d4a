//! Ways of packing of other programs, as mlx-lm reads them.

use mlx_native::weights::TensorType;

use super::made::{Make, bytes_of};
use super::stored::{StoredTensors, Tensor};
use crate::error::{LmError, Result};
use crate::json::Fields;

/// Repacks what another program has packed.
pub(super) fn unpack(t: &mut StoredTensors, config: &Fields<'_>) -> Result<()> {
    let foreign = config.get("quantization").is_none();
    let section = config.object("quantization_config", "quantization_config.")?;
    let method = match section.filter(|_| foreign) {
        Some(section) => section.str("quant_method")?,
        None => None,
    };
    if let Some("awq" | "gptq") = method {
        awq(t)?;
    }
    // By their names, whatever the configuration says.
    integers(t)?;
    fp8(t)
}

pub(super) fn misfit(name: &str, what: impl std::fmt::Display) -> LmError {
    LmError::Weights(format!("{name}: {what}"))
}

/// Words of 4 bits with a scale for each group; codes are 8 too large.
fn integers(t: &mut StoredTensors) -> Result<()> {
    for name in t.named(|n| n.ends_with(".weight_packed")) {
        let Some(path) = name.strip_suffix(".weight_packed") else {
            continue;
        };
        // Others are read by the family that has them.
        if t.take(&format!("{path}.weight_shape")).is_none() {
            continue;
        }
        let scales = t.take(&format!("{path}.weight_scale"));
        let words = t.take(&name);
        let (Some(words), Some(scales)) = (words, scales) else {
            return Err(misfit(&name, "no weight_scale beside it"));
        };
        if !matches!(words.dtype, TensorType::I32 | TensorType::U32) {
            return Err(misfit(&name, format!("found {}, wanted I32", words.dtype)));
        }
        let shape = words.shape.clone();
        t.add(
            format!("{path}.weight"),
            TensorType::U32,
            shape,
            Make::Same(words),
        );
        let biases = Make::Times(scales.clone(), vec![-8.0]);
        t.add(
            format!("{path}.biases"),
            scales.dtype,
            scales.shape.clone(),
            biases,
        );
        t.put(format!("{path}.scales"), scales);
    }
    Ok(())
}

fn awq(t: &mut StoredTensors) -> Result<()> {
    if let Some(name) = t.names().find(|n| n.ends_with(".g_idx")) {
        return Err(LmError::Unsupported(format!(
            "{name}: columns in an order of their own (g_idx)"
        )));
    }
    let mut dtype = None;
    for name in t.named(|n| n.ends_with(".qweight")) {
        let Some(path) = name.strip_suffix(".qweight") else {
            continue;
        };
        let (scales, zeros) = (format!("{path}.scales"), format!("{path}.qzeros"));
        let Some(words) = t
            .take(&name)
            .filter(|w| w.shape.len() == 2 && matches!(w.dtype, TensorType::I32 | TensorType::U32))
        else {
            return Err(misfit(&name, "wanted a matrix of I32"));
        };
        let (inputs, outputs) = (words.shape[0], words.shape[1].saturating_mul(8));
        let found = t.take(&scales).filter(|s| {
            matches!(s.dtype, TensorType::F16 | TensorType::BF16)
                && s.shape.len() == 2
                && s.shape[1] == outputs
        });
        let Some(found) = found else {
            return Err(misfit(
                &scales,
                format!("wanted F16 or BF16, [groups, {outputs}]"),
            ));
        };
        let groups = found.shape[0];
        let zeros = match t.take(&zeros) {
            None => None,
            Some(z)
                if matches!(z.dtype, TensorType::I32 | TensorType::U32)
                    && z.shape == [groups, words.shape[1]] =>
            {
                Some(z)
            }
            Some(_) => {
                return Err(misfit(
                    &zeros,
                    format!("wanted I32 [{groups}, {}]", words.shape[1]),
                ));
            }
        };
        if !inputs.is_multiple_of(8) {
            return Err(misfit(&name, format!("{inputs} columns are no whole words")));
        }
        dtype = Some(found.dtype);
        let weight = Make::AwqWords(words);
        t.add(
            format!("{path}.weight"),
            TensorType::U32,
            vec![outputs, inputs / 8],
            weight,
        );
        let biases = Make::AwqBiases {
            scales: found.clone(),
            zeros,
        };
        t.add(
            format!("{path}.biases"),
            found.dtype,
            vec![outputs, groups],
            biases,
        );
        let turned = Make::Turned {
            block: found.dtype.size_of(),
            rows: groups,
            columns: outputs,
            from: found.clone(),
        };
        t.add(scales, found.dtype, vec![outputs, groups], turned);
    }
    // All floats get the dtype of the scales.
    let Some(dtype) = dtype else { return Ok(()) };
    for name in t.named(|_| true) {
        let Some(tensor) = t.get(&name).cloned() else {
            continue;
        };
        let float = matches!(tensor.dtype, TensorType::F32 | TensorType::F16 | TensorType::BF16);
        if float && tensor.dtype != dtype {
            t.add(name, dtype, tensor.shape.clone(), Make::Cast(tensor));
        }
    }
    Ok(())
}

/// e4m3 with a scale for all, for each matrix of a stack, or for each 128 x 128; the scales of inputs are not used.
fn fp8(t: &mut StoredTensors) -> Result<()> {
    for name in t.named(|n| n.ends_with("_scale_inv")) {
        let Some(path) = name.strip_suffix("_scale_inv") else {
            continue;
        };
        let (Some(weight), Some(scales)) = (t.get(path).cloned(), t.get(&name).cloned()) else {
            return Err(misfit(&name, format!("there is no {path}")));
        };
        // Powers of two for each 32 x 1 or 32 x 32 stay packed.
        if scales.dtype == TensorType::U8 || scales.dtype == TensorType::F8E8M0 {
            continue;
        }
        let rows = |shape: &[usize]| shape.iter().rev().nth(1).copied().unwrap_or(1);
        let blocks = match (&weight.shape[..], &scales.shape[..]) {
            ([m, n], [a, b]) if [m.div_ceil(128), n.div_ceil(128)] == [*a, *b] => Some([128, 128]),
            (_, s) if s.iter().product::<usize>() == 1 => Some([usize::MAX, usize::MAX]),
            ([e, ..], [n, 1, 1]) if weight.shape.len() == 3 && e == n => {
                Some([rows(&weight.shape), usize::MAX])
            }
            _ => None,
        };
        let float = matches!(scales.dtype, TensorType::F32 | TensorType::BF16 | TensorType::F16);
        let fits = weight.dtype == TensorType::F8E4M3 && float;
        let Some(blocks) = blocks.filter(|_| fits) else {
            return Err(misfit(
                path,
                format!("wanted F8_E4M3 with {name}, a float for all or for each 128 x 128"),
            ));
        };
        let shape = weight.shape.clone();
        let make = Make::Fp8 {
            from: weight,
            scales,
            blocks,
        };
        t.add(path, TensorType::BF16, shape, make);
        t.take(&name);
    }
    for name in t.named(|n| n.ends_with("activation_scale")) {
        t.take(&name);
    }
    Ok(())
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

/// `weight` of e4m3, as bf16 times its scales. Blocks go over all matrices of a stack.
pub(super) fn fp8_values(weight: &[u8], scales: &[f32], shape: &[usize], blocks: [usize; 2]) -> Vec<u8> {
    let columns = shape.last().copied().unwrap_or(1).max(1);
    let wide = columns.div_ceil(blocks[1]);
    let table: Vec<f32> = (0..=255).map(e4m3).collect();
    let value = |(i, byte): (usize, &u8)| {
        let block = i / columns / blocks[0] * wide + i % columns / blocks[1];
        table[usize::from(*byte)] * scales[block]
    };
    bytes_of(weight.iter().enumerate().map(value), TensorType::BF16)
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
pub(super) fn awq_words(bytes: &[u8], shape: &[usize]) -> Vec<u8> {
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

/// `-zero · scale` of scales `[groups, outputs]`, as `of`, which is `[outputs, groups]`.
pub(super) fn awq_biases(scales: &[f32], zeros: Option<&[u8]>, of: &Tensor) -> Vec<u8> {
    let (outputs, groups) = (of.shape[0], of.shape[1]);
    let value = |i: usize| {
        let (column, group) = (i / groups, i % groups);
        let zero = zeros.map_or(8, |z| awq_code(z, outputs / 8, group, column)) as f32;
        -zero * scales[group * outputs + column]
    };
    bytes_of((0..outputs * groups).map(value), of.dtype)
}
