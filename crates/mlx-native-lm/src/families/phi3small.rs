//! Phi-3 small: block-sparse attention in some layers, a clipped GELU gate of even and odd columns.

use super::Family;
use super::common::{Config, Keys, KEYS, UNSAID};
use crate::rope::{RopeConfig, RopeScaling};
use crate::spec::{Block, BlockSparse, Branch, DecoderSpec, Head, Layer, Matrix, Mlp, MlpActivation, Norm, Run};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "phi3small",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_keys(input, input.fields, Keys { eps: "layer_norm_epsilon", head_dim: UNSAID, ..KEYS })?;
    let every = c.count("dense_attention_every_n_layers")?;
    let blocks = BlockSparse {
        size: c.count_or("blocksparse_block_size", 64)?,
        local: c.natural("blocksparse_num_local_blocks", 16)?,
        stride: c.count_or("blocksparse_vert_stride", 8)?,
    };
    if !matches!(blocks.size, 32 | 64) {
        return Err(c.fields.invalid("blocksparse_block_size", blocks.size, "32 or 64"));
    }
    let scale = match c.flag("mup_use_scaling", true)? {
        true => c.positive("mup_attn_multiplier", 1.0)? / c.head_dim as f64,
        false => 1.0 / (c.head_dim as f64).sqrt(),
    };
    let mut rope = RopeConfig::plain(c.head_dim, c.positive("rope_embedding_base", 1e6)?, false);
    let stretch = c.positive("rope_position_scale", 1.0)?;
    if stretch != 1.0 {
        rope.scaling = RopeScaling::Linear { factor: (1.0 / stretch) as f32 };
    }
    let norm = |path: String| Norm::layer(&path, c.hidden, c.eps, true);
    let mut spec = c.decoder_named("model", ["embed_tokens", "layers", "final_layernorm"], Head::new(None), |i, path| {
        let own = format!("{path}.self_attn");
        let mut attention =
            c.attention(&own).fused_by_kv_head(&format!("{own}.query_key_value"), true).turned(Some(rope.clone()));
        attention.o = Matrix::new(format!("{own}.dense"), c.hidden, c.hidden).with_bias(true);
        attention.scale = scale as f32;
        attention.blocks = i.is_multiple_of(every).then_some(blocks);
        Ok(Layer::from(vec![
            Branch::pre(norm(format!("{path}.input_layernorm")), Block::Attention(Box::new(attention))),
            Branch::pre(norm(format!("{path}.post_attention_layernorm")), mlp(c, &format!("{path}.mlp"))?.block()),
        ]))
    })?;
    spec.norm = Some(norm("model.final_layernorm".to_owned()));
    spec.embedding.scale = nonzero(c, "mup_embedding_multiplier", 10.0)?;
    spec.head.scale = 1.0 / nonzero(c, "mup_width_multiplier", 8.0)?;
    spec.head.never = [100_256, 100_258, 100_259, 100_260, 100_264, 100_265].into_iter().chain(100_267..100_352).collect();
    Ok(spec)
}

/// A factor; where it is zero there is none.
fn nonzero(c: &Config<'_>, key: &str, default: f64) -> Result<f32> {
    let factor = c.number(key, default)?;
    Ok(if factor == 0.0 { 1.0 } else { factor as f32 })
}

/// The gate is the even rows of one matrix, what it multiplies the odd ones.
fn mlp(c: &Config<'_>, path: &str) -> Result<Mlp> {
    let inner = c.count("ff_intermediate_size")?;
    let limit = c.fields.require("gegelu_limit", c.fields.positive("gegelu_limit")?)? as f32;
    let half = |first: usize| {
        let run = Run { first, block: 1, stride: 2, count: inner };
        Matrix::new(format!("{path}.up_proj"), 0, c.hidden).with_bias(true).picked(vec![run], 2 * inner)
    };
    Ok(Mlp {
        gate: Some(half(0)),
        up: half(1),
        down: Matrix::new(format!("{path}.down_proj"), c.hidden, inner).with_bias(true),
        activation: MlpActivation::ClippedSwiglu { limit, alpha: 1.702 },
        norm: None,
    })
}
