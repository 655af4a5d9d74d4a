//! Granite 4: Granite, some of whose layers are Mamba 2, with experts beside a shared one, or dense.

use super::Family;
use super::common::{Config, pre_norm_layer_of};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, DecoderSpec, GroupedNorm, MlpActivation, Norm};

use super::granite::Multipliers;
use super::mamba2::{self, Sizes};
use super::{experts, granitemoe};
use crate::rope::RopeConfig;

pub(super) const FAMILY: Family = Family {
    name: "granitemoehybrid",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let m = Multipliers::read(c)?;
    let bias = c.flag("attention_bias", false)?;
    let turns = c.fields.str("position_embedding_type")?.unwrap_or("rope") == "rope";
    let rope = RopeConfig::plain(c.head_dim, c.theta_or(10_000.0)?, false);
    let kinds = c.fields.require("layer_types", c.layer_strings("layer_types")?)?;
    let experts = c.fields.get("num_local_experts").and_then(serde_json::Value::as_u64).unwrap_or(0) > 0;
    let mut spec = c.decoder("", |i, path| {
        let mixer = match kinds[i] {
            "mamba" => Block::Mamba2(Box::new(mamba(c, &format!("{path}.mamba"))?)),
            _ => {
                let attention = c.attention(&format!("{path}.self_attn")).biased(bias, bias);
                let mut attention = attention.turned(turns.then(|| rope.clone()));
                attention.scale = m.attention;
                Block::Attention(Box::new(attention))
            }
        };
        let ff = match experts {
            true => {
                let wide = c.count("shared_intermediate_size")?;
                let own = format!("{path}.shared_mlp");
                let names = ["input_linear", "input_linear", "output_linear"];
                let mlp = c.mlp_named(&own, names, wide, MlpActivation::Silu, false).fused(&format!("{own}.input_linear"));
                granitemoe::sparse(c, &format!("{path}.block_sparse_moe"), Some(experts::shared(mlp)))?
            }
            false => {
                let inner = c.count("intermediate_size")?;
                c.mlp(&format!("{path}.mlp"), inner, MlpActivation::Silu, c.flag("mlp_bias", false)?).block()
            }
        };
        Ok(m.scaled(pre_norm_layer_of(c, path, mixer, ff)))
    })?;
    m.apply(&mut spec);
    Ok(spec)
}

fn mamba(c: &Config<'_>, path: &str) -> Result<crate::spec::Mamba2> {
    let sizes = Sizes {
        heads: c.count("mamba_n_heads")?,
        head_dim: c.count("mamba_d_head")?,
        groups: c.count("mamba_n_groups")?,
        state: c.count("mamba_d_state")?,
        kernel: c.count("mamba_d_conv")?,
        bias: c.flag("mamba_proj_bias", false)?,
        conv_bias: c.flag("mamba_conv_bias", true)?,
        dt_limits: mamba2::limits(c, (0.001, 100.0))?,
    };
    let mut mamba = mamba2::layer(c, path, &sizes);
    let norm = Norm::rms(format!("{path}.norm.weight"), sizes.inner(), c.eps);
    mamba.norm = Some(GroupedNorm { norm, gate_first: true });
    Ok(mamba)
}
