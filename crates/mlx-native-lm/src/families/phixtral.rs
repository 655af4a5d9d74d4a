//! Phixtral: Phi-2 with experts.

use super::Family;
use super::common::{Config, Keys, UNSAID};
use super::experts;
use crate::rope::RopeConfig;
use crate::spec::{Block, Branch, DecoderSpec, Head, Layer, Matrix, MlpActivation, Norm, Part, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "phixtral",
    also: &["phi-msft"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys = Keys { hidden: "model_dim", layers: "num_layers", heads: "num_heads", kv_heads: UNSAID, head_dim: UNSAID, eps: UNSAID };
    let c = &Config::read_naming_vocab(input, keys, 1e-5, "num_vocab")?;
    let inner = c.hidden * 4;
    let (n, k) = (c.count_or("num_local_experts", 4)?, c.count_or("num_experts_per_tok", 2)?);
    let turning = c.count_or("rotary_dim", 32)?;
    let norm = |path: &str| Norm::layer(path, c.hidden, c.eps, true);
    let head = Head::new(Some(Matrix::new("lm_head.linear", c.vocab, c.hidden).with_bias(true)));
    let mut spec = c.decoder_named("transformer", ["embd.wte", "h", "ln"], head, |_, path| {
        let own = format!("{path}.mixer");
        let rope = RopeConfig::plain(turning, 10_000.0, false);
        let mut attention = c.attention(&own).fused(&format!("{own}.Wqkv"), true).turned(Some(rope));
        attention.o = Matrix::new(format!("{own}.out_proj"), c.hidden, c.hidden).with_bias(true);
        let own = format!("{path}.moe");
        let router = experts::router(c, format!("{own}.gate"), n, k, Score::SoftmaxOfChosen)?;
        let names = [None, Some("fc1"), Some("fc2")];
        let all = experts::experts_of(&format!("{own}.switch_mlp"), names, n, [inner, c.hidden], MlpActivation::GeluTanh);
        let parts = vec![Part::from(Block::Attention(Box::new(attention))), experts::moe(router, all.biased(true), None).into()];
        Ok(Layer { alternating: None, branches: vec![Branch::parallel(Some(norm(&format!("{path}.ln"))), parts)] })
    })?;
    spec.norm = Some(norm("lm_head.ln"));
    Ok(spec)
}
