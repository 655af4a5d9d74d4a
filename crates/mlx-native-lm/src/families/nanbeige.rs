//! Nanbeige: a stack of Llama layers that runs several times, each time with keys of its own.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use crate::error::LmError;
use crate::spec::{Branch, Layer};

pub(super) const FAMILY: Family = Family {
    name: "nanbeige",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    for unread in ["enable_double_loop_split", "loop_share_kv", "enable_depth_attention"] {
        if c.flag(unread, false)? {
            return Err(LmError::Unsupported(format!("config.json: {unread}")));
        }
    }
    let (rope, inner, activation) = (c.rope(c.head_dim)?, c.count("intermediate_size")?, c.silu()?);
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    let mut spec = c.decoder("", |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(bias, bias).turned(Some(rope.clone()));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), mlp_bias);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })?;
    spec.head = c.head("", false)?;
    let loops = c.fields.count("num_loops", 64)?.unwrap_or(1);
    let between = !c.flag("skip_loop_final_norm", false)?;
    let once = spec.layers.clone();
    for _ in 1..loops {
        if between && let Some(norm) = &spec.norm {
            spec.layers.push(Layer { alternating: None, branches: vec![Branch::normalise(norm.clone())] });
        }
        spec.layers.extend(once.iter().cloned());
    }
    Ok(spec)
}
