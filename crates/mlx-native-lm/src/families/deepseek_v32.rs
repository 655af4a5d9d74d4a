//! DeepSeek V3.2 and GLM 5: DeepSeek V3 with an indexer that chooses the keys attention sees.

use super::Family;
use super::common::{Config, MAX_EXTENT};
use super::{deepseek_v3, experts};
use crate::config::FamilyInput;
use crate::error::{LmError, Result};
use crate::spec::{DecoderSpec, Index, Matrix, Norm, Score};

pub(super) const FAMILY: Family = Family {
    name: "deepseek_v32",
    also: &["glm_moe_dsa"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_latent(input)?;
    // Layers that see all keys, or use the keys that another layer's indexer chose, are not mlx-lm's.
    for (key, built) in [("layer_types", "indexed_attention"), ("indexer_types", "full")] {
        if let Some(other) = c.layer_strings(key)?.into_iter().flatten().find(|kind| *kind != built) {
            return Err(LmError::Unsupported(format!("config.json: {key} has {other:?}; {built} is")));
        }
    }
    let mut template = deepseek_v3::latent(c, 1e-6)?;
    template.index = Some(index(c, &template)?);
    let names = ["switch_mlp", "gate.e_score_correction_bias"];
    deepseek_v3::decoder_with(c, "", template, false, |own| experts::deepseek(c, own, names, Score::Sigmoid))
}

/// The indexer, its paths to come.
fn index(c: &Config<'_>, latent: &crate::spec::Latent) -> Result<Index> {
    let Some((first, _)) = &latent.q.first else {
        return Err(LmError::Config("config.json: q_lora_rank is missing".to_owned()));
    };
    let (heads, dim) = (c.count_or("index_n_heads", 64)?, c.count_or("index_head_dim", 128)?);
    if heads.saturating_mul(dim) > MAX_EXTENT {
        return Err(c.fields.invalid("index_head_dim", dim, "heads of a possible size"));
    }
    let mut rope = c.rope(latent.rope_dim)?;
    let is_glm = c.fields.str("model_type")? == Some("glm_moe_dsa");
    rope.traditional = c.flag("indexer_rope_interleave", is_glm)?;
    let matrix = |name: &str, outputs, inputs| Matrix::new(format!("indexer.{name}"), outputs, inputs);
    Ok(Index {
        n_heads: heads,
        head_dim: dim,
        q: matrix("wq_b", heads * dim, first.outputs),
        k: matrix("wk", dim, c.hidden),
        q_norm: None,
        k_norm: Norm::layer("indexer.k_norm", dim, 1e-5, true),
        rope,
        weights: Some(matrix("weights_proj", heads, c.hidden)),
        group: 1,
        top: c.count_or("index_topk", 2048)?,
        local: 0,
    })
}
