//! BitNet b1.58: ternary matrices, a norm before each layer's last one, squared ReLU.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::spec::{DecoderSpec, MlpActivation, Norm};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "bitnet",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner) = (c.rope(c.head_dim)?, c.count("intermediate_size")?);
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    c.decoder("", |_, path| {
        let own = format!("{path}.self_attn");
        let mut attention = c.attention(&own).biased(bias, bias).turned(Some(rope.clone()));
        attention.out_norm = Some(c.rms(&format!("{own}.attn_sub_norm")));
        let own = format!("{path}.mlp");
        let mut mlp = c.mlp(&own, inner, MlpActivation::Relu2, mlp_bias);
        mlp.norm = Some(Norm::rms(format!("{own}.ffn_sub_norm.weight"), inner, c.eps));
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })
}
