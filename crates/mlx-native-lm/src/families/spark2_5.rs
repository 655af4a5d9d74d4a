//! Spark 2.5: windows, a rotation for each kind of layer, a gate for each head, GELU.

use super::Family;
use super::common::{Config, KEYS, pre_norm_layer};
use crate::error::LmError;
use crate::spec::{DecoderSpec, GateShape, Matrix, MlpActivation};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "spark2_5",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_with_eps(input, input.fields, KEYS, 1e-6)?;
    for (key, wanted) in [("hidden_act", "gelu"), ("gate_attn_act_mode", "sigmoid")] {
        if let Some(other) = c.fields.str(key)?.filter(|v| *v != wanted) {
            return Err(LmError::Unsupported(format!("config.json: {key} {other:?}; {wanted:?} is")));
        }
    }
    if !c.flag("headwise_attn_output_gate", true)? {
        return Err(LmError::Unsupported("config.json: headwise_attn_output_gate false".to_owned()));
    }
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    let (sliding, window) = (c.sliding_or_every(4)?, c.count("sliding_window")?);
    let ropes = [rope(c, false)?, rope(c, true)?];
    let inner = c.count("intermediate_size")?;
    let head = c.head("", true)?;
    let table = match input.has("model.embedding.weight") {
        true => "embedding",
        false => "embed_tokens",
    };
    let mut spec = c.decoder_named("model", [table, "layers", "norm"], head, |i, path| {
        let own = format!("{path}.self_attn");
        let mut attention = c
            .attention(&own)
            .fused(&format!("{own}.q_k_v_proj"), bias)
            .turned(Some(ropes[usize::from(sliding[i])].clone()))
            .sliding(sliding[i].then_some(window))
            .gated(format!("{own}.g_proj"), GateShape::Head);
        attention.o = Matrix::new(format!("{own}.out_proj"), c.hidden, c.heads * c.head_dim).with_bias(bias);
        attention.gate.iter_mut().for_each(|gate| gate.matrix.bias = bias);
        let mlp = c.mlp(&format!("{path}.mlp"), inner, MlpActivation::GeluErf, mlp_bias);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })?;
    if spec.head.matrix.is_none() {
        spec.dropped.push("lm_head.".to_owned());
    }
    Ok(spec)
}

/// The base and the share alone; parameters of a method are passed over.
fn rope(c: &Config<'_>, slides: bool) -> Result<crate::rope::RopeConfig> {
    let parameters = c.rope_parameters(slides)?;
    let theta = parameters.map(|p| p.positive("rope_theta")).transpose()?.flatten().unwrap_or(10_000.0);
    let share = parameters.map(|p| crate::rope::share(&p, "partial_rotary_factor")).transpose()?.flatten();
    let dims = (c.head_dim as f64 * share.unwrap_or(1.0)) as usize;
    Ok(crate::rope::RopeConfig::plain(dims, theta, false))
}
