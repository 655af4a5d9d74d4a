//! AFM (Apple): keys and values on a grid of 8 bits; the last layers use those of the last layer that has its own.

use super::Family;
use super::common::{Config, Keys, KEYS, UNSAID, pre_norm_layer};
use crate::rope::RopeConfig;
use crate::spec::{Attention, DecoderSpec, Head, HeadNorm, Matrix, MlpActivation, Norm, Values};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "afm7",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys = Keys {
        hidden: "hidden_dim",
        layers: "num_layers",
        heads: "num_heads",
        kv_heads: "num_kv_heads",
        head_dim: UNSAID,
        ..KEYS
    };
    let mut c = Config::read_with_eps(input, input.fields, keys, 1e-5)?;
    let sharing = c.natural("num_kv_reuse_layers", 0)?;
    if sharing >= c.layers {
        return Err(c.fields.invalid("num_kv_reuse_layers", sharing, &format!("less than num_layers {}", c.layers)));
    }
    let inner = (c.hidden as f64 * c.positive("hidden_dim_scale_factor", 3.25)?) as usize;
    if !(1..=super::common::MAX_EXTENT).contains(&inner) {
        return Err(c.fields.invalid("hidden_dim_scale_factor", inner, "a width that a layer can have"));
    }
    c.layers -= sharing;
    let c = &c;
    let layer = |path: &str, attention: Attention| {
        let mlp = c.mlp(&format!("{path}.mlp"), inner, MlpActivation::Silu, false);
        pre_norm_layer(c, path, attention, mlp.block())
    };
    let names = ["embedding", "layers", "output_norm"];
    let mut spec = c.decoder_named("model", names, Head::new(None), |_, path| {
        let own = format!("{path}.self_attn");
        let mut attention = attention(c, &own)?.fused(&format!("{own}.qkv_proj"), false);
        let step = |name: &str| format!("{own}.quant_{name}_scale");
        attention.grid = Some((step("key"), step("value")));
        Ok(layer(path, attention))
    })?;
    for i in 0..sharing {
        let path = format!("model.kv_reuse_layers.{i}");
        let mut attention = attention(c, &format!("{path}.self_attn"))?;
        (attention.k, attention.v, attention.k_norm) = (None, Values::Shared, None);
        attention.shared_with = Some(c.layers - 1);
        spec.layers.push(layer(&path, attention));
    }
    Ok(spec)
}

/// The family's attention: norms behind the rotation, whose epsilon the file does not say.
fn attention(c: &Config<'_>, path: &str) -> Result<Attention> {
    let rope = RopeConfig::plain(c.head_dim, c.positive("rope_theta", 50_000.0)?, true);
    let norm = |name: &str| {
        let norm = Norm::rms(format!("{path}.{name}.weight"), c.head_dim, 1e-5);
        Some(HeadNorm { norm, after_rope: true })
    };
    let mut attention = c.attention(path).turned(Some(rope));
    (attention.q_norm, attention.k_norm) = (norm("q_norm"), norm("k_norm"));
    attention.o = Matrix::new(format!("{path}.out_proj"), c.hidden, c.heads * c.head_dim);
    Ok(attention)
}
