//! OpenELM: heads and widths differ from layer to layer.

use super::Family;
use super::common::{Config, KEYS, Keys, MAX_EXTENT};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, Layer, Matrix, MlpActivation};

use crate::error::LmError;
use crate::rope::RopeConfig;

pub(super) const FAMILY: Family = Family {
    name: "openelm",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    // No key says the number of heads of all layers; those of each are read below.
    let keys = Keys {
        hidden: "model_dim",
        layers: "num_transformer_layers",
        heads: "head_dim",
        kv_heads: "none",
        ..KEYS
    };
    let c = &Config::read_with_eps(input, input.fields, keys, 1e-6)?;
    let theta = c.positive("rope_freq_constant", 10_000.0)?;
    let rope = RopeConfig::plain(c.head_dim, theta, false);
    let per_layer = |key: &str| match c.numbers(key)? {
        Some(list) if list.len() == c.layers && !list.contains(&0) => Ok(list),
        _ => Err(c.fields.invalid(key, "something else", "a whole number above 0 for each layer")),
    };
    let (heads, kv_heads) = (per_layer("num_query_heads")?, per_layer("num_kv_heads")?);
    let widths = widths(c)?;
    let qk_norm = c.flag("normalize_qk_projections", true)?;
    if !c.flag("ffn_with_glu", true)? {
        return Err(LmError::Unsupported("config.json: ffn_with_glu false".to_owned()));
    }
    let tied = c.flag("share_input_output_layers", true)?;
    let head = Head::new((!tied).then(|| Matrix::new("lm_head", c.vocab, c.hidden)));
    c.decoder_named("transformer", ["token_embeddings", "layers", "norm"], head, |i, path| {
        if !heads[i].is_multiple_of(kv_heads[i]) {
            return Err(c.fields.invalid("num_kv_heads", kv_heads[i], "a divisor of that layer's num_query_heads"));
        }
        let own = format!("{path}.attn");
        let mut attention = c
            .attention_of(&own, heads[i], kv_heads[i], c.head_dim)
            .fused(&format!("{own}.qkv_proj"), false)
            .turned(Some(rope.clone()));
        if qk_norm {
            attention = attention.normed(&own, c.eps, 0.0);
        }
        attention.o.path = format!("{own}.out_proj");
        let own = format!("{path}.ffn");
        let names = ["proj_1", "proj_1", "proj_2"];
        let mlp = c.mlp_named(&own, names, widths[i], MlpActivation::Silu, false).fused(&format!("{own}.proj_1"));
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(c.rms(&format!("{path}.attn_norm")), Block::Attention(Box::new(attention))),
                Branch::pre(c.rms(&format!("{path}.ffn_norm")), mlp.block()),
            ],
        })
    })
}

/// Inner widths: multiples of `ffn_dim_divisor` near `ffn_multipliers` times the stream's.
fn widths(c: &Config<'_>) -> Result<Vec<usize>> {
    let key = "ffn_multipliers";
    let divisor = c.count("ffn_dim_divisor")?;
    let multipliers = c.fields.require(key, c.fields.positives(key)?)?;
    let width = |m: f64| {
        let exact = m * c.hidden as f64;
        let near = ((exact + divisor as f64 / 2.0) as usize / divisor * divisor).max(divisor);
        // Never less than nine tenths.
        if (near as f64) < 0.9 * exact { near + divisor } else { near }
    };
    if multipliers.len() != c.layers || multipliers.iter().any(|m| *m * c.hidden as f64 > MAX_EXTENT as f64) {
        return Err(c.fields.invalid(key, multipliers.len(), &format!("{} small numbers, one a layer", c.layers)));
    }
    Ok(multipliers.into_iter().map(width).collect())
}
