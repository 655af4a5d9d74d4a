//! Llama 4: attention in chunks, every fourth layer without positions; one expert a token beside a shared one.

use super::Family;
use super::common::{Config, pre_norm_layer};
use super::experts;
use crate::error::LmError;
use crate::rope::RopeConfig;
use crate::spec::{Block, DecoderSpec, MlpActivation, Score, Temperature};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "llama4",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    let c = &Config::read(&input)?;
    let bias = c.flag("attention_bias", false)?;
    let plain = c.plain_rope(c.head_dim, true)?;
    let rope = RopeConfig::scaled(plain, &c.fields, c.fields.object("rope_scaling", "rope_scaling.")?)?;
    let (chunk, normed) = (c.count("attention_chunk_size")?, c.flag("use_qk_norm", false)?);
    let tempered = match c.fields.get("attn_temperature_tuning") {
        Some(v) => v.as_bool().unwrap_or_else(|| crate::json::number(v) != Some(0.0)),
        None => true,
    };
    let temperature = Temperature {
        scale: c.number("attn_scale", 0.1)? as f32,
        shift: 1,
        every: c.count_or("floor_scale", 8192)?,
    };
    let step = c.count("interleave_moe_layer_step")?;
    let mut spec = c.decoder("language_model.", |i, path| {
        let turns = !(i + 1).is_multiple_of(4);
        let mut attention = c
            .attention(&format!("{path}.self_attn"))
            .biased(bias, bias)
            .turned(turns.then(|| rope.clone()));
        if turns {
            attention.chunk = Some(chunk);
            if normed {
                attention = attention.normed_plain(1e-6, true);
            }
        } else if tempered {
            attention.temperature = Some(temperature);
        }
        let own = format!("{path}.feed_forward");
        let ff = match i % step == step - 1 {
            true => sparse(c, &own)?,
            false => c.mlp(&own, c.count("intermediate_size_mlp")?, MlpActivation::Silu, false).block(),
        };
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    spec.head.matrix = Some(c.lm_head("language_model."));
    spec.dropped = vec!["*vision_model".to_owned(), "*multi_modal_projector".to_owned()];
    Ok(spec)
}

fn sparse(c: &Config<'_>, path: &str) -> Result<Block> {
    let (n, k) = (c.count("num_local_experts")?, c.count("num_experts_per_tok")?);
    if k != 1 {
        return Err(LmError::Unsupported(format!("config.json: num_experts_per_tok {k}; 1 is")));
    }
    let inner = c.count("intermediate_size")?;
    let router = experts::router(c, format!("{path}.router"), n, k, Score::Sigmoid)?;
    let all = experts::experts(c, &format!("{path}.experts"), n, inner, MlpActivation::Silu);
    let shared = c.mlp(&format!("{path}.shared_expert"), inner, MlpActivation::Silu, false);
    let mut block = experts::moe(router, all, Some(experts::shared(shared)));
    if let Block::Moe(moe) = &mut block {
        moe.weights_before = true;
    }
    Ok(block)
}
