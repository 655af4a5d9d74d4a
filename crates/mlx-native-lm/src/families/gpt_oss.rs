//! gpt-oss: windows in every other layer, sinks, clipped experts with biases.

use super::Family;
use super::common::{Config, KEYS, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, MlpActivation, Score};

use super::experts;

pub(super) const FAMILY: Family = Family {
    name: "gpt_oss",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_with_eps(input, input.fields, KEYS, 1e-5)?;
    let rope = c.rope_from(c.head_dim, 150_000.0)?;
    let (n, k) = (c.count("num_local_experts")?, c.count("num_experts_per_tok")?);
    let inner = c.count("intermediate_size")?;
    let sliding = match c.fields.get("layer_types") {
        Some(_) => c.sliding()?,
        None => (0..c.layers).map(|i| i % 2 == 0).collect(),
    };
    let window = c.count_or("sliding_window", 128)?;
    let mut spec = c.decoder("", |i, path| {
        let own = format!("{path}.self_attn");
        let mut attention =
            c.attention(&own).biased(true, true).turned(Some(rope.clone())).sliding(sliding[i].then_some(window));
        attention.sinks = Some(format!("{own}.sinks"));
        let own = format!("{path}.mlp");
        let mut router = experts::router(c, format!("{own}.router"), n, k, Score::SoftmaxOfChosen)?;
        router.matrix.bias = true;
        let activation = MlpActivation::ClippedSwiglu { limit: 7.0, alpha: 1.702 };
        let mut all = experts::experts(c, &format!("{own}.experts"), n, inner, activation);
        for stack in all.gate.iter_mut().chain([&mut all.up, &mut all.down]) {
            stack.bias = true;
        }
        Ok(pre_norm_layer(c, path, attention, experts::moe(router, all, None)))
    })?;
    spec.head = c.head("", false)?;
    Ok(spec)
}
