//! RecurrentGemma (Griffin): gated linear recurrent units, attention with a window in some layers.

use super::Family;
use super::common::{Config, Keys, KEYS, UNSAID};
use crate::error::LmError;
use crate::rope::RopeConfig;
use crate::spec::{Block, Branch, Convolution, DecoderSpec, GatedUnit, Head, Layer, Matrix, MlpActivation, Norm};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "recurrent_gemma",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let mut c = Config::read_keys(input, input.fields, Keys { kv_heads: UNSAID, head_dim: UNSAID, ..KEYS })?;
    c.kv_heads = 1;
    let c = &c;
    let kinds = kinds(c)?;
    let window = c.count("attention_window_size")?;
    let inner = c.count("intermediate_size")? / 2;
    if inner == 0 {
        return Err(c.fields.invalid("intermediate_size", 1, "at least 2"));
    }
    let matrix = c.lm_head("");
    let has_head = c.input.has(&format!("{}.weight", matrix.path));
    let head = Head::new(has_head.then_some(matrix));
    // Those of the layers have this epsilon, whatever the file says.
    let norm = |name: String| Norm::rms(name, c.hidden, 1e-5);
    let mut spec = c.decoder_named("model", ["embed_tokens", "layers", "final_norm"], head, |i, path| {
        let own = format!("{path}.temporal_block");
        let mixer = match kinds[i % kinds.len()] {
            true => Block::GatedUnit(Box::new(unit(c, &own)?)),
            false => {
                let rope = RopeConfig::plain(c.head_dim / 2, 10_000.0, false);
                let attention = c.attention(&own).biased(false, true).turned(Some(rope)).sliding(Some(window));
                Block::Attention(Box::new(attention))
            }
        };
        let mlp = c.mlp(&format!("{path}.mlp_block"), inner, MlpActivation::GeluTanh, true);
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(norm(format!("{path}.temporal_pre_norm.weight")), mixer),
                Branch::pre(norm(format!("{path}.channel_pre_norm.weight")), mlp.block()),
            ],
        })
    })?;
    if c.flag("embeddings_scale_by_sqrt_dim", true)? {
        spec.embedding.scale = (c.hidden as f64).sqrt() as f32;
    }
    let cap = c.number("logits_soft_cap", 0.0)?;
    spec.head.cap = (cap > 0.0).then_some(cap as f32);
    Ok(spec.norms_plus_one())
}

/// For each layer of a period, whether it is recurrent.
fn kinds(c: &Config<'_>) -> Result<Vec<bool>> {
    let found = ["block_types", "_block_types"].into_iter().find_map(|key| Some((key, c.fields.get(key)?)));
    let (key, value) = found.ok_or_else(|| LmError::Config("config.json: block_types is missing".to_owned()))?;
    let kind = |v: &serde_json::Value| match v.as_str() {
        Some("recurrent") => Some(true),
        Some("attention") => Some(false),
        _ => None,
    };
    let kinds = value.as_array().and_then(|list| list.iter().map(kind).collect::<Option<Vec<bool>>>());
    let kinds = kinds.filter(|kinds| !kinds.is_empty());
    kinds.ok_or_else(|| c.fields.invalid(key, "something else", "a list of \"recurrent\" and \"attention\""))
}

fn unit(c: &Config<'_>, path: &str) -> Result<GatedUnit> {
    let width = c.hidden;
    let matrix = |name: &str| Matrix::new(format!("{path}.{name}"), width, width).with_bias(true);
    let gate = |name: &str| (format!("{path}.rg_lru.{name}_gate_weight"), format!("{path}.rg_lru.{name}_gate_bias"));
    Ok(GatedUnit {
        n_heads: c.heads,
        head_dim: c.head_dim,
        y: matrix("linear_y"),
        x: matrix("linear_x"),
        conv: Convolution {
            weight: format!("{path}.conv_1d.weight"),
            bias: Some(format!("{path}.conv_1d.bias")),
            channels: width,
            kernel: c.count_or("conv1d_width", 4)?,
            silu: false,
        },
        input_gate: gate("input"),
        recurrent_gate: gate("recurrent"),
        rate: format!("{path}.rg_lru.recurrent_param"),
        o: matrix("linear_out"),
    })
}
