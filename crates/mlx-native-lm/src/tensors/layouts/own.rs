//! Steps that only one family or two have.

use std::sync::Arc;

use mlx_native::weights::TensorType;

use super::super::foreign::misfit;
use super::super::layout::{halves, joined, picked, rename, turned};
use super::super::made::Make;
use super::super::stored::{StoredTensors, Tensor};
use crate::error::Result;
use crate::json::Fields;

/// The decoder's tensors, under one prefix or another, as `language_model`'s; Mistral 4 alone has none.
pub(super) fn mistral3(t: &mut StoredTensors, config: &Fields<'_>) -> Result<()> {
    if config.str("model_type")? == Some("mistral4") {
        return Ok(());
    }
    for name in t.named(|n| !n.starts_with("language_model.")) {
        let own = match name.strip_prefix("model.language_model.") {
            Some(rest) => format!("language_model.model.{rest}"),
            None => format!("language_model.{name}"),
        };
        rename(t, &name, &own)?;
    }
    Ok(())
}

/// Without experts the shared layer is the only one.
pub(super) fn granite_dense(t: &mut StoredTensors, config: &Fields<'_>) -> Result<()> {
    let experts = config
        .get("num_local_experts")
        .and_then(serde_json::Value::as_u64);
    if experts.unwrap_or(0) > 0 {
        return Ok(());
    }
    for name in t.named(|n| n.ends_with(".shared_mlp.input_linear.weight")) {
        let Some(path) = name.strip_suffix(".shared_mlp.input_linear.weight") else {
            continue;
        };
        let Some(both) = t.take(&name) else { continue };
        let [gate, up] = halves(&name, &both, 2)?;
        t.put(format!("{path}.mlp.gate_proj.weight"), gate);
        t.put(format!("{path}.mlp.up_proj.weight"), up);
        let down = format!("{path}.shared_mlp.output_linear.weight");
        rename(t, &down, &format!("{path}.mlp.down_proj.weight"))?;
    }
    Ok(())
}

fn reshaped(t: &mut StoredTensors, name: &str, shape: Vec<usize>) {
    if let Some(tensor) = t.get(name).filter(|x| x.shape != shape).cloned() {
        t.add(name, tensor.dtype, shape, Make::Same(tensor));
    }
}

/// Decays and their biases as vectors, no longer than there are heads.
pub(super) fn flat(t: &mut StoredTensors, config: &Fields<'_>) -> Result<()> {
    for name in t.named(|n| n.ends_with(".dt_bias") || n.ends_with(".A_log")) {
        let Some(n) = t
            .get(&name)
            .filter(|x| x.shape.len() > 1)
            .map(|x| x.shape.iter().product())
        else {
            continue;
        };
        // Kimi Linear keeps its decays as they are.
        if name.ends_with(".A_log") && config.str("model_type")? == Some("kimi_linear") {
            continue;
        }
        reshaped(t, &name, vec![n]);
    }
    let inner = config.object("text_config", "text_config.")?;
    let section = inner
        .as_ref()
        .unwrap_or(config)
        .object("linear_attn_config", "linear_attn_config.")?;
    let heads = match section {
        Some(section) => section.count("num_heads", 1 << 24)?,
        None => None,
    };
    let Some(heads) = heads else { return Ok(()) };
    for name in t.named(|n| n.ends_with(".A_log")) {
        let Some(log) = t.get(&name).filter(|x| x.shape.len() == 1 && x.shape[0] > heads) else {
            continue;
        };
        let some = picked(log, 1, [0, 1, heads]);
        t.put(name, some);
    }
    Ok(())
}

/// Queries, keys and values of the delta rule in one matrix, and in one convolution.
pub(super) fn together(t: &mut StoredTensors, _: &Fields<'_>) -> Result<()> {
    for name in t.named(|n| n.ends_with(".q_conv.conv.weight")) {
        let Some(path) = name.strip_suffix(".q_conv.conv.weight") else {
            continue;
        };
        for (kind, planes) in [
            ("proj", ["weight", "scales", "biases"].as_slice()),
            ("conv.conv", &["weight"]),
        ] {
            for plane in planes {
                let names = ["q", "k", "v"].map(|p| format!("{path}.{p}_{kind}.{plane}"));
                if names.iter().all(|n| t.contains(n)) {
                    let parts = names
                        .iter()
                        .filter_map(|n| Some((n.clone(), t.take(n)?)))
                        .collect();
                    t.put(format!("{path}.qkv_{kind}.{plane}"), joined(parts, false)?);
                }
            }
        }
    }
    Ok(())
}

/// Packed small floats: bytes as words, `weight_scale` as `scales`.
pub(super) fn words(t: &mut StoredTensors, _: &Fields<'_>) -> Result<()> {
    for name in t.named(|n| n.ends_with(".weight_packed")) {
        let Some(path) = name.strip_suffix(".weight_packed") else {
            continue;
        };
        let Some(packed) = t.take(&name) else { continue };
        t.put(format!("{path}.weight"), as_words(&name, packed)?);
        rename(t, &format!("{path}.weight_scale"), &format!("{path}.scales"))?;
    }
    Ok(())
}

/// Bytes, four to a word.
fn as_words(name: &str, bytes: Arc<Tensor>) -> Result<Arc<Tensor>> {
    if matches!(bytes.dtype, TensorType::U32 | TensorType::I32) {
        return Ok(Arc::new(Tensor {
            dtype: TensorType::U32,
            shape: bytes.shape.clone(),
            make: Make::Same(bytes),
        }));
    }
    let mut shape = bytes.shape.clone();
    match shape.last_mut() {
        Some(last) if bytes.dtype.size_of() == 1 && last.is_multiple_of(4) => *last /= 4,
        _ => {
            return Err(misfit(
                name,
                format!(
                    "found {} {:?}, wanted bytes of whole words",
                    bytes.dtype, bytes.shape
                ),
            ));
        }
    }
    Ok(Arc::new(Tensor {
        dtype: TensorType::U32,
        shape,
        make: Make::Same(bytes),
    }))
}

/// `gate_up_proj` has rows of the gate and of `up` in turn; blocks are 16 bytes, two codes in each.
pub(super) fn harmony(t: &mut StoredTensors, _: &Fields<'_>) -> Result<()> {
    for name in t.named(|n| n.contains(".mlp.experts.") && !n.contains("gate_proj")) {
        let Some((path, last)) = name.split_once(".mlp.experts.") else {
            continue;
        };
        let Some((part, kind)) = last.rsplit_once('_') else {
            continue;
        };
        let plane = match kind {
            "blocks" => "weight",
            "scales" => "scales",
            "bias" => "bias",
            _ => continue,
        };
        let Some(mut tensor) = t.get(&name).cloned() else {
            continue;
        };
        let mut shape = tensor.shape.clone();
        if kind == "blocks" {
            let fits = shape.pop() == Some(16) && tensor.dtype == TensorType::U8 && shape.len() == 3;
            if !fits {
                return Err(misfit(
                    &name,
                    format!(
                        "found {} {:?}, wanted U8 [experts, rows, blocks, 16]",
                        tensor.dtype, tensor.shape
                    ),
                ));
            }
            shape[2] *= 4;
            tensor = Arc::new(Tensor {
                dtype: TensorType::U32,
                shape: shape.clone(),
                make: Make::Same(tensor),
            });
        }
        let axis = if kind == "bias" { 1 } else { 2 };
        match part {
            "down_proj" => t.put(format!("{path}.mlp.experts.down_proj.{plane}"), tensor),
            "gate_up_proj" => {
                let rows = shape.len().checked_sub(axis).map(|at| shape[at]);
                let Some(half) = rows.filter(|n| n.is_multiple_of(2)).map(|n| n / 2) else {
                    return Err(misfit(&name, format!("{shape:?} has no halves")));
                };
                for (first, to) in ["gate_proj", "up_proj"].into_iter().enumerate() {
                    let every = picked(&tensor, axis, [first, 2, half]);
                    t.put(format!("{path}.mlp.experts.{to}.{plane}"), every);
                }
            }
            _ => continue,
        }
        t.take(&name);
    }
    Ok(())
}

/// Matrices multiply from the right, and there is no `model.` before names.
pub(super) fn gpt2(t: &mut StoredTensors, _: &Fields<'_>) -> Result<()> {
    let kinds = [
        ".attn.c_attn.weight",
        ".attn.c_proj.weight",
        ".mlp.c_fc.weight",
        ".mlp.c_proj.weight",
    ];
    for name in t.named(|n| !n.starts_with("model.")) {
        let matrix = name.starts_with("h.") && kinds.iter().any(|k| name.ends_with(k));
        if let Some(from) = t.get(&name).filter(|f| matrix && f.shape.len() == 2) {
            let turned = turned(from.clone());
            t.put(name.clone(), turned);
        }
        rename(t, &name, &format!("model.{name}"))?;
    }
    Ok(())
}

/// Lists of one number as numbers.
pub(super) fn apertus(t: &mut StoredTensors, _: &Fields<'_>) -> Result<()> {
    for name in t.named(|n| n.ends_with("alpha_p") || n.ends_with("alpha_n")) {
        if t.get(&name).is_some_and(|x| x.shape == [1]) {
            reshaped(t, &name, vec![]);
        }
    }
    Ok(())
}

/// One row for each head.
pub(super) fn rwkv7(t: &mut StoredTensors, config: &Fields<'_>) -> Result<()> {
    let (hidden, head) = (
        config.count("hidden_size", 1 << 24)?,
        config.count("head_dim", 1 << 24)?,
    );
    let (Some(hidden), Some(head)) = (hidden, head.filter(|n| *n > 0)) else {
        return Ok(());
    };
    let kinds = ["k_k", "k_a", "g_norm"];
    for name in t.named(|n| kinds.iter().any(|k| n.contains(k))) {
        let size = t.get(&name).map(|x| x.shape.iter().product::<usize>());
        if hidden.is_multiple_of(head) && size == Some(hidden) {
            reshaped(t, &name, vec![hidden / head, head]);
        }
    }
    Ok(())
}

/// Experts one below the other.
pub(super) fn dbrx(t: &mut StoredTensors, config: &Fields<'_>) -> Result<()> {
    let section = config.object("ffn_config", "ffn_config.")?;
    let n = match section {
        Some(section) => section.count("moe_num_experts", 1 << 16)?,
        None => None,
    };
    let Some(n) = n.filter(|n| *n > 0) else {
        return Ok(());
    };
    for name in t.named(|n| n.contains(".experts.mlp.")) {
        let Some(all) = t.get(&name).cloned() else {
            continue;
        };
        let rows = match all.shape[..] {
            [rows, _] if rows.is_multiple_of(n) => rows / n,
            _ => {
                return Err(misfit(
                    &name,
                    format!("{:?} are no rows of {n} experts", all.shape),
                ));
            }
        };
        for e in 0..n {
            let one = picked(&all, 2, [e * rows, 1, rows]);
            let one = if name.ends_with("w2") { turned(one) } else { one };
            t.put(
                format!("{}.weight", name.replace(".mlp.", &format!(".{e}."))),
                one,
            );
        }
        t.take(&name);
    }
    Ok(())
}

/// Queries of a group of heads, its keys and its values in turn; `up` before the gate.
pub(super) fn hunyuan(t: &mut StoredTensors, config: &Fields<'_>) -> Result<()> {
    if !t.contains("model.layers.0.mlp.gate_and_up_proj.weight") {
        return Ok(());
    }
    let count = |key: &str| config.count(key, 1 << 24);
    let (hidden, heads, kv) = (
        count("hidden_size")?,
        count("num_attention_heads")?,
        count("num_key_value_heads")?,
    );
    let (Some(hidden), Some(heads)) = (hidden, heads.filter(|n| *n > 0)) else {
        return Ok(());
    };
    let kv = kv.filter(|n| *n > 0).unwrap_or(heads);
    let (dim, groups) = (hidden / heads, heads / kv);
    for name in t.named(|n| n.contains("qkv_proj")) {
        let Some(all) = t.take(&name) else { continue };
        let columns: usize = all.shape.iter().skip(1).product();
        if all.shape.first() != Some(&(kv * (groups + 2) * dim)) {
            return Err(misfit(
                &name,
                format!("found {:?}, wanted {} rows", all.shape, kv * (groups + 2) * dim),
            ));
        }
        let grouped = Arc::new(Tensor {
            dtype: all.dtype,
            shape: vec![kv, groups + 2, dim * columns],
            make: Make::Same(all.clone()),
        });
        for (to, first, n) in [
            ("q_proj", 0, groups),
            ("k_proj", groups, 1),
            ("v_proj", groups + 1, 1),
        ] {
            let part = picked(&grouped, 2, [first, 1, n]);
            let shape = [&[kv * n * dim], &all.shape[1..]].concat();
            t.add(name.replace("qkv_proj", to), all.dtype, shape, Make::Same(part));
        }
    }
    for name in t.named(|n| n.contains("gate_and_up_proj")) {
        let Some(both) = t.take(&name) else { continue };
        let axis = both.shape.len();
        let [up, gate] = halves(&name, &both, axis)?;
        t.put(name.replace("gate_and_up_proj", "up_proj"), up);
        t.put(name.replace("gate_and_up_proj", "gate_proj"), gate);
    }
    Ok(())
}

/// `ssm_multipliers` where the configuration has none.
const SSM: [f64; 5] = [
    0.353_553_390_593_273_8,
    0.25,
    0.353_553_390_593_273_8,
    0.5,
    0.353_553_390_593_273_8,
];

/// The multipliers of the configuration go into the matrices.
pub(super) fn falcon_h1(t: &mut StoredTensors, config: &Fields<'_>) -> Result<()> {
    let raw = t
        .get("model.layers.0.mamba.conv1d.weight")
        .is_some_and(|c| c.shape.len() == 3 && c.shape[2] > c.shape[1]);
    if !raw {
        return Ok(());
    }
    let number =
        |key: &str, default: f64| Ok::<_, crate::LmError>(config.f64(key)?.unwrap_or(default) as f32);
    let list =
        |key: &str, default: &[f64]| Ok::<_, crate::LmError>(config.floats(key)?.unwrap_or(default.to_vec()));
    let at = |list: &[f64], i: usize| list.get(i).copied().unwrap_or(1.0) as f32;
    let mlp = list("mlp_multipliers", &[0.883_883_476_483_184_4, 0.585_937_5])?;
    let attention = number("attention_in_multiplier", 1.0)?;
    let simple = [
        (
            "embed_tokens.weight",
            number("embedding_multiplier", 5.656_854_249_492_381)?,
        ),
        ("lm_head.weight", number("lm_head_multiplier", 0.039_062_5)?),
        ("q_proj.weight", attention),
        ("k_proj.weight", attention),
        ("o_proj.weight", number("attention_out_multiplier", 0.937_5)?),
        (
            "out_proj.weight",
            number("ssm_out_multiplier", 0.235_702_260_395_515_87)?,
        ),
        ("gate_proj.weight", at(&mlp, 0)),
        ("down_proj.weight", at(&mlp, 1)),
    ];
    let size = |key: &str| Ok::<_, crate::LmError>(config.count(key, 1 << 24)?.unwrap_or(0));
    let inner = size("mamba_d_ssm")?;
    let state = size("mamba_n_groups")?.saturating_mul(size("mamba_d_state")?);
    let runs = [inner, inner, state, state, size("mamba_n_heads")?];
    let (each, whole) = (list("ssm_multipliers", &SSM)?, number("ssm_in_multiplier", 1.25)?);
    for name in t.named(|_| true) {
        let Some(tensor) = t.get(&name).cloned() else {
            continue;
        };
        let numbers = match simple.iter().find(|(end, _)| name.ends_with(end)) {
            Some((_, number)) => vec![*number],
            None if name.ends_with("in_proj.weight") => {
                let rows = tensor.shape.first().copied().unwrap_or(0);
                if runs.iter().sum::<usize>() != rows {
                    return Err(misfit(
                        &name,
                        format!("found {:?}, wanted rows of {runs:?}", tensor.shape),
                    ));
                }
                let round = |v: f32| match tensor.dtype {
                    TensorType::BF16 => half::bf16::from_f32(v).to_f32(),
                    TensorType::F16 => half::f16::from_f32(v).to_f32(),
                    _ => v,
                };
                let of = |(i, n): (usize, &usize)| {
                    std::iter::repeat_n(round(round(whole) * round(at(&each, i))), *n)
                };
                runs.iter().enumerate().flat_map(of).collect()
            }
            None if name.contains("conv1d.weight") && tensor.shape.len() == 3 => {
                t.put(name, turned(tensor));
                continue;
            }
            None => continue,
        };
        t.add(
            name,
            tensor.dtype,
            tensor.shape.clone(),
            Make::Times(tensor, numbers),
        );
    }
    Ok(())
}

/// mxfp8 by its bytes, a dense layer under another name, a shared expert behind the others, the gate and `up` in one.
pub(super) fn minimax_m3(t: &mut StoredTensors, config: &Fields<'_>) -> Result<()> {
    for name in t.named(|n| n.ends_with(".weight_scale_inv")) {
        let Some(path) = name.strip_suffix("_scale_inv") else {
            continue;
        };
        let Some(weight) = t.take(path) else { continue };
        t.put(path, as_words(path, weight)?);
        rename(t, &name, &format!("{}.scales", path.trim_end_matches(".weight")))?;
    }
    for name in t.named(|n| n.contains(".block_sparse_moe.")) {
        let Some((path, rest)) = name.split_once(".block_sparse_moe.") else {
            continue;
        };
        if ["gate_proj.", "up_proj.", "down_proj."]
            .iter()
            .any(|p| rest.starts_with(p))
        {
            rename(t, &name, &format!("{path}.mlp.{rest}"))?;
        }
    }
    let inner = config.object("text_config", "text_config.")?;
    let n = inner
        .as_ref()
        .unwrap_or(config)
        .count("num_local_experts", 1 << 16)?;
    for name in t.named(|n| n.contains(".block_sparse_moe.switch_mlp.")) {
        let Some(all) = t.get(&name).cloned() else {
            continue;
        };
        let Some(n) = n.filter(|n| all.shape.len() == 3 && all.shape[0] == n + 1) else {
            continue;
        };
        t.put(name.clone(), picked(&all, 3, [0, 1, n]));
        let last = picked(&all, 3, [n, 1, 1]);
        let to = name.replace(".switch_mlp.", ".shared_experts.");
        t.add(to, all.dtype, all.shape[1..].to_vec(), Make::Same(last));
    }
    for name in t.named(|n| n.contains(".gate_up_proj.")) {
        let Some(both) = t.take(&name) else { continue };
        for (half, to) in halves(&name, &both, 2)?
            .into_iter()
            .zip([".gate_proj.", ".up_proj."])
        {
            t.put(name.replace(".gate_up_proj.", to), half);
        }
    }
    Ok(())
}

/// Rows of the head have the length one.
pub(super) fn unit_rows(t: &mut StoredTensors, _: &Fields<'_>) -> Result<()> {
    unit(t, true);
    Ok(())
}

/// Columns of the head have the length one, if the configuration says so.
pub(super) fn unit_columns(t: &mut StoredTensors, config: &Fields<'_>) -> Result<()> {
    if config.bool("norm_head")? == Some(true) {
        unit(t, false);
    }
    Ok(())
}

fn unit(t: &mut StoredTensors, rows: bool) {
    let float = |d: TensorType| matches!(d, TensorType::F32 | TensorType::F16 | TensorType::BF16);
    let Some(from) = t
        .get("lm_head.weight")
        .filter(|h| h.shape.len() == 2 && float(h.dtype))
        .cloned()
    else {
        return;
    };
    t.add(
        "lm_head.weight",
        from.dtype,
        from.shape.clone(),
        Make::Unit { from, rows },
    );
}
