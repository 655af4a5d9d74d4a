//! Tensors as Hugging Face's folders lay them out, turned into MLX's layout: the steps that `layouts.rs` lists for a family.
//! A step finds its tensors by their names and leaves a folder of MLX as it is.

use std::sync::Arc;

use mlx_native::weights::TensorType;

use super::foreign::misfit;
use super::layouts::LAYOUTS;
use super::made::Make;
use super::stored::{StoredTensors, Tensor};
use crate::error::Result;
use crate::json::Fields;

/// One step. In names, `^` at the start of a pattern stands for the start of a name, `$` at its end for the end.
pub(super) enum Step {
    /// Takes out what has one of the patterns in its name.
    Drop(&'static [&'static str]),
    /// Puts the second for the first, in this order.
    Rename(&'static [(&'static str, &'static str)]),
    /// Puts names under a prefix that they are not under.
    Under(&'static str),
    /// Experts `at`, number, first of a pair: stacked as `to`, second of the pair.
    Stack {
        at: &'static str,
        to: &'static str,
        parts: &'static [(&'static str, &'static str)],
    },
    /// `[channels, 1, width]` as `[channels, width, 1]`.
    Conv(&'static [&'static str]),
    /// One added to vectors, where the folder is one of Hugging Face.
    PlusOne {
        raw: fn(&StoredTensors) -> bool,
        ends: &'static [&'static str],
    },
    /// The first and the second half of the rows.
    Halves(&'static str, [&'static str; 2]),
    /// The first and the second half of the columns, each with rows and columns changed over.
    TurnedHalves(&'static str, [&'static str; 2]),
    /// Rows and columns changed over, under another name.
    Turned(&'static str, &'static str),
    /// `kv_b_proj` as the keys and the values of every head.
    Apart,
    /// What only one family has.
    Other(fn(&mut StoredTensors, &Fields<'_>) -> Result<()>),
}

/// Turns the tensors of a folder into those that MLX's folder has.
pub(super) fn apply(t: &mut StoredTensors, family: &str, config: &Fields<'_>) -> Result<()> {
    let said = generation(config.str("model_type")?.unwrap_or(family), config);
    let of = |name: &str| LAYOUTS.iter().find(|(names, _)| names.contains(&name));
    let Some((_, steps)) = of(said).or_else(|| of(family)) else {
        return Ok(());
    };
    // Whether it is a folder of Hugging Face shows before anything is changed.
    let raw: Vec<bool> = steps
        .iter()
        .map(|s| matches!(s, Step::PlusOne { raw, .. } if raw(t)))
        .collect();
    for (step, raw) in steps.iter().zip(raw) {
        run(t, step, raw, config)?;
    }
    Ok(())
}

/// A family, or what it is called in mlx-lm: one family's third generation says so in its architecture only.
pub(crate) fn generation<'a>(family: &'a str, config: &Fields<'_>) -> &'a str {
    let all = config.get("architectures").and_then(serde_json::Value::as_array);
    let third = all.is_some_and(|all| all.iter().any(|a| a == "BailingMoeV3ForCausalLM"));
    if third && family == "bailing_hybrid" {
        "bailing_moe_v3"
    } else {
        family
    }
}

/// Whether a name has a pattern in it.
pub(super) fn has(name: &str, pattern: &str) -> bool {
    match (pattern.strip_prefix('^'), pattern.strip_suffix('$')) {
        (Some(_), Some(whole)) => name == &whole[1..],
        (Some(start), None) => name.starts_with(start),
        (None, Some(end)) => name.ends_with(end),
        (None, None) => name.contains(pattern),
    }
}

/// A name with `to` for the pattern.
fn renamed(name: &str, pattern: &str, to: &str) -> String {
    match (pattern.strip_prefix('^'), pattern.strip_suffix('$')) {
        (Some(_), Some(_)) => to.to_owned(),
        (Some(start), None) => format!("{to}{}", &name[start.len()..]),
        (None, Some(end)) => format!("{}{to}", &name[..name.len() - end.len()]),
        (None, None) => name.replace(pattern, to),
    }
}

fn run(t: &mut StoredTensors, step: &Step, raw: bool, config: &Fields<'_>) -> Result<()> {
    match step {
        Step::Drop(patterns) => {
            for name in t.named(|n| patterns.iter().any(|p| has(n, p))) {
                t.take(&name);
            }
        }
        Step::Rename(pairs) => {
            for (pattern, to) in *pairs {
                for name in t.named(|n| has(n, pattern)) {
                    rename(t, &name, &renamed(&name, pattern, to))?;
                }
            }
        }
        Step::Under(prefix) => {
            for name in t.named(|n| !n.starts_with(prefix)) {
                rename(t, &name, &format!("{prefix}{name}"))?;
            }
        }
        Step::Stack { at, to, parts } => stack(t, at, to, parts)?,
        Step::Conv(patterns) => {
            for name in t.named(|n| patterns.iter().any(|p| has(n, p))) {
                let Some(conv) = t.get(&name).filter(|c| c.shape.len() == 3 && c.shape[2] != 1) else {
                    continue;
                };
                let turned = turned(conv.clone());
                t.put(name, turned);
            }
        }
        Step::PlusOne { ends, .. } if raw => {
            for name in t.named(|n| ends.iter().any(|p| has(n, p))) {
                let Some(norm) = t.get(&name).filter(|n| n.shape.len() == 1).cloned() else {
                    continue;
                };
                t.add(name, norm.dtype, norm.shape.clone(), Make::Plus(norm, 1.0));
            }
        }
        Step::PlusOne { .. } => {}
        Step::Halves(pattern, targets) => {
            for name in t.named(|n| has(n, pattern)) {
                let Some(both) = t.take(&name) else { continue };
                for (half, to) in halves(&name, &both, 2)?.into_iter().zip(targets) {
                    t.put(renamed(&name, pattern, to), half);
                }
            }
        }
        Step::TurnedHalves(pattern, targets) => {
            for name in t.named(|n| has(n, pattern)) {
                let Some(both) = t.take(&name) else { continue };
                for (half, to) in halves(&name, &both, 1)?.into_iter().zip(targets) {
                    t.put(renamed(&name, pattern, to), turned(half));
                }
            }
        }
        Step::Turned(pattern, to) => {
            for name in t.named(|n| has(n, pattern)) {
                let Some(from) = t.take(&name).filter(|f| f.shape.len() >= 2) else {
                    return Err(misfit(&name, "wanted a matrix"));
                };
                t.put(renamed(&name, pattern, to), turned(from));
            }
        }
        Step::Apart => apart(t, config)?,
        Step::Other(f) => f(t, config)?,
    }
    Ok(())
}

/// Gives a tensor another name; two of one name do not fit together.
pub(super) fn rename(t: &mut StoredTensors, from: &str, to: &str) -> Result<()> {
    if from == to {
        return Ok(());
    }
    if t.contains(to) {
        return Err(misfit(from, format!("means {to}, which is there too")));
    }
    if let Some(tensor) = t.take(from) {
        t.put(to, tensor);
    }
    Ok(())
}

/// The last two extents changed over.
pub(super) fn turned(from: Arc<Tensor>) -> Arc<Tensor> {
    let mut shape = from.shape.clone();
    let n = shape.len();
    let (rows, columns) = (shape[n - 2], shape[n - 1]);
    shape.swap(n - 2, n - 1);
    let dtype = from.dtype;
    let make = match rows == 1 || columns == 1 {
        true => Make::Same(from),
        false => Make::Turned {
            block: dtype.size_of(),
            rows,
            columns,
            from,
        },
    };
    Arc::new(Tensor { dtype, shape, make })
}

/// Of the extent `axis` from the end those places from `first` on, each `step`-th, `count` of them.
pub(super) fn picked(from: &Arc<Tensor>, axis: usize, [first, step, count]: [usize; 3]) -> Arc<Tensor> {
    let mut shape = from.shape.clone();
    let at = shape.len() - axis;
    let block = shape[at + 1..].iter().product::<usize>() * from.dtype.size_of();
    let size = shape[at];
    shape[at] = count;
    let make = Make::Picked {
        from: from.clone(),
        block,
        size,
        first,
        step,
        count,
    };
    Arc::new(Tensor {
        dtype: from.dtype,
        shape,
        make,
    })
}

/// The two halves of the extent `axis` from the end.
pub(super) fn halves(name: &str, both: &Arc<Tensor>, axis: usize) -> Result<[Arc<Tensor>; 2]> {
    let size = both.shape.len().checked_sub(axis).map(|at| both.shape[at]);
    let Some(half) = size
        .filter(|n| n.is_multiple_of(2) && both.shape.len() >= 2)
        .map(|n| n / 2)
    else {
        return Err(misfit(name, format!("{:?} has no halves", both.shape)));
    };
    Ok([0, half].map(|first| picked(both, axis, [first, 1, half])))
}

/// Tensors of one type and shape, one behind the other along their first extent, or along a new one.
pub(super) fn joined(parts: Vec<(String, Arc<Tensor>)>, new: bool) -> Result<Arc<Tensor>> {
    let Some((_, first)) = parts.first().cloned() else {
        return Err(misfit("experts", "there are none"));
    };
    let rest = if new { 0 } else { 1 };
    let misfitting = parts
        .iter()
        .find(|(_, p)| p.dtype != first.dtype || p.shape.get(rest..) != first.shape.get(rest..));
    if let Some((name, p)) = misfitting {
        return Err(misfit(
            name,
            format!(
                "{} {:?}, the first one {} {:?}",
                p.dtype, p.shape, first.dtype, first.shape
            ),
        ));
    }
    let mut shape = first.shape.clone();
    match new {
        true => shape.insert(0, parts.len()),
        false => shape[0] = parts.iter().map(|(_, p)| p.shape[0]).sum(),
    }
    Ok(Arc::new(Tensor {
        dtype: first.dtype,
        shape,
        make: Make::Joined(parts.into_iter().map(|(_, p)| p).collect()),
    }))
}

fn stack(t: &mut StoredTensors, at: &str, to: &str, parts: &[(&str, &str)]) -> Result<()> {
    let start = format!("{at}0.");
    for name in t.named(|n| n.contains(&start)) {
        let Some((path, rest)) = name.split_once(&start) else {
            continue;
        };
        let Some((part, plane)) = rest.split_once('.') else {
            continue;
        };
        let Some((_, target)) = parts.iter().find(|(own, _)| *own == part) else {
            continue;
        };
        let mut all = Vec::new();
        loop {
            let next = format!("{path}{at}{}.{part}.{plane}", all.len());
            let Some(tensor) = t.take(&next) else { break };
            all.push((next, tensor));
        }
        t.put(format!("{path}{to}{target}.{plane}"), joined(all, true)?);
    }
    Ok(())
}

/// Keys and values of every head as matrices of their own. A packed `kv_b_proj` stays: attention reads it as it is.
fn apart(t: &mut StoredTensors, config: &Fields<'_>) -> Result<()> {
    let names = t.named(|n| n.ends_with(".kv_b_proj.weight"));
    if names.is_empty() {
        return Ok(());
    }
    let inner = config.object("text_config", "text_config.")?;
    let size = |key: &str| -> Result<Option<usize>> {
        let own = match &inner {
            Some(inner) => inner.count(key, 1 << 24)?,
            None => None,
        };
        Ok(own.or(config.count(key, 1 << 24)?))
    };
    let head = size("head_dim")?;
    let (n, k, v) = (
        size("num_attention_heads")?,
        size("qk_nope_head_dim")?.or(head),
        size("v_head_dim")?.or(head),
    );
    let (Some(n), Some(k), Some(v)) = (n, k, v) else {
        return Ok(());
    };
    for name in names {
        let Some(path) = name.strip_suffix("kv_b_proj.weight") else {
            continue;
        };
        let Some(both) = t.get(&name).cloned() else {
            continue;
        };
        if !matches!(both.dtype, TensorType::F32 | TensorType::F16 | TensorType::BF16) {
            continue;
        }
        let rank = match both.shape[..] {
            [rows, rank] if n.checked_mul(k.saturating_add(v)) == Some(rows) => rank,
            _ => {
                let wanted = n.saturating_mul(k.saturating_add(v));
                return Err(misfit(
                    &name,
                    format!("found {:?}, wanted {wanted} rows", both.shape),
                ));
            }
        };
        let heads = Arc::new(Tensor {
            dtype: both.dtype,
            shape: vec![n, k + v, rank],
            make: Make::Same(both),
        });
        t.put(
            format!("{path}embed_q.weight"),
            turned(picked(&heads, 2, [0, 1, k])),
        );
        t.put(format!("{path}unembed_out.weight"), picked(&heads, 2, [k, 1, v]));
        t.take(&name);
    }
    Ok(())
}
