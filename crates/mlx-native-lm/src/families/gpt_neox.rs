//! GPT-NeoX (Pythia): attention and MLP side by side, each behind a norm of its own.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, Layer, Matrix, MlpActivation, Norm, Part};

use crate::rope::RopeConfig;

pub(super) const FAMILY: Family = Family {
    name: "gpt_neox",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_keys(input, input.fields, Keys { eps: "layer_norm_eps", ..KEYS })?;
    let share = c.number("rotary_pct", 0.25)?.clamp(0.0, 1.0);
    let base = c.positive("rotary_emb_base", 10_000.0)?;
    let rope = RopeConfig::plain(c.rotary_dims(c.head_dim, share)?, c.theta_or(base)?, false);
    let side_by_side = c.flag("use_parallel_residual", true)?;
    let head = Head::new(Some(Matrix::new("model.embed_out", c.vocab, c.hidden)));
    let mut spec = c.decoder_named("model", ["embed_in", "h", "final_layer_norm"], head, |_, path| {
        let own = format!("{path}.attention");
        let mut attention = c
            .attention_of(&own, c.heads, c.heads, c.head_dim)
            .fused_by_kv_head(&format!("{own}.query_key_value"), true)
            .turned(Some(rope.clone()));
        attention.o.path = format!("{own}.dense");
        attention.o.bias = true;
        let names = ["dense_h_to_4h", "dense_4h_to_h"];
        let mlp = c.mlp_of_two(&format!("{path}.mlp"), names, 4 * c.hidden, MlpActivation::GeluTanh, true);
        let norm = |name: &str| Norm::layer(&format!("{path}.{name}"), c.hidden, c.eps, true);
        let attention = Block::Attention(Box::new(attention));
        let (before, after) = (norm("input_layernorm"), norm("post_attention_layernorm"));
        Ok(Layer {
            alternating: None,
            branches: match side_by_side {
                true => vec![Branch::parallel(
                    None,
                    vec![Part::behind(before, attention), Part::behind(after, mlp.block())],
                )],
                false => vec![Branch::pre(before, attention), Branch::pre(after, mlp.block())],
            },
        })
    })?;
    spec.norm = Some(Norm::layer("model.final_layer_norm", c.hidden, c.eps, true));
    spec.dropped.extend(["*.attention.bias".to_owned(), "*.attention.masked_bias".to_owned()]);
    Ok(spec)
}
