//! Falcon-H1: attention and Mamba 2 side by side behind one norm; its factors are folded into the weights.

use super::Family;
use super::common::{Config, KEYS};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, GroupedNorm, Layer, MlpActivation, Norm};

use super::mamba2::{self, Sizes};

pub(super) const FAMILY: Family = Family {
    name: "falcon_h1",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_with_eps(input, input.fields, KEYS, 1e-5)?;
    let rope = c.plain_rope(c.head_dim, c.flag("rope_traditional", false)?)?;
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    let projectors_bias = c.flag("projectors_bias", false)?;
    let inner = c.count("intermediate_size")?;
    let sizes = Sizes {
        heads: c.count("mamba_n_heads")?,
        head_dim: c.count("mamba_d_head")?,
        groups: c.count_or("mamba_n_groups", 1)?,
        state: c.count("mamba_d_state")?,
        kernel: c.count_or("mamba_d_conv", 4)?,
        bias: c.flag("mamba_proj_bias", false)?,
        conv_bias: c.flag("mamba_conv_bias", true)?,
        dt_limits: (0.0, f32::INFINITY),
    };
    let (normed, norm_first) = (c.flag("mamba_rms_norm", false)?, c.flag("mamba_norm_before_gate", false)?);
    let names = ["embed_tokens", "layers", "final_layernorm"];
    let mut spec = c.decoder_named("model", names, c.head("", true)?, |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(bias, bias).turned(Some(rope.clone()));
        let own = format!("{path}.mamba");
        let mut mamba = mamba2::layer(c, &own, &sizes);
        mamba.o.bias = projectors_bias;
        if normed {
            let norm = Norm::rms(format!("{own}.norm.weight"), sizes.inner(), c.eps);
            mamba.norm = Some(GroupedNorm { norm, gate_first: !norm_first });
        }
        let mlp = c.mlp(&format!("{path}.feed_forward"), inner, MlpActivation::Silu, mlp_bias);
        let parts = vec![Block::Mamba2(Box::new(mamba)).into(), Block::Attention(Box::new(attention)).into()];
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::parallel(Some(c.rms(&format!("{path}.input_layernorm"))), parts),
                Branch::pre(c.rms(&format!("{path}.pre_ff_layernorm")), mlp.block()),
            ],
        })
    })?;
    if spec.head.matrix.is_none() {
        let table = c.positive("embedding_multiplier", 5.656_854_249_492_381)?;
        spec.head.scale = (c.positive("lm_head_multiplier", 0.039_062_5)? / table) as f32;
        spec.dropped.push("lm_head.".to_owned());
    }
    Ok(spec)
}
