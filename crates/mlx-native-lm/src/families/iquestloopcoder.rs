//! IQuest Loop Coder: the stack runs twice; the second run mixes attention to the first run's keys with a window of its own.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::error::LmError;
use crate::spec::{DecoderSpec, Layer, MlpActivation, Mixed};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "iquestloopcoder",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let runs = c.count_or("loop_num", 2)?;
    if runs != 2 {
        return Err(LmError::Unsupported(format!("config.json: loop_num {runs}; 2 is")));
    }
    let plain = c.plain_rope_from(c.head_dim, 500_000.0, false)?;
    let rope = crate::rope::RopeConfig::scaled(plain, &c.fields, c.fields.object("rope_scaling", "rope_scaling.")?)?;
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    let (inner, window) = (c.count("intermediate_size")?, c.count_or("loop_window_size", 64)?);
    let layer = |i: usize, path: &str, is_second: bool| -> Result<Layer> {
        let mut attention =
            c.attention(&format!("{path}.self_attn")).biased(bias, bias).turned(Some(rope.clone()));
        if is_second {
            attention.window = Some(window);
            let gate = format!("model.gate_projections.{i}");
            attention.mixed =
                Some(Mixed { state: i, weight: format!("{gate}.weight"), bias: format!("{gate}.bias") });
        }
        let mlp = c.mlp(&format!("{path}.mlp"), inner, MlpActivation::Silu, mlp_bias);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    };
    let mut spec = c.decoder("", |i, path| layer(i, path, false))?;
    for i in 0..c.layers {
        spec.layers.push(layer(i, &format!("model.layers.{i}"), true)?);
    }
    spec.head = c.head("", false)?;
    Ok(spec)
}
