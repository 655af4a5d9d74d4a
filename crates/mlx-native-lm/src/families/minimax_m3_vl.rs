//! MiniMax M3: attention to the blocks of keys that an indexer chooses, clipped experts.

use super::Family;
use super::common::{Config, KEYS, Keys, MAX_EXTENT, pre_norm_layer};
use super::experts;
use crate::config::FamilyInput;
use crate::error::{LmError, Result};
use crate::json::Fields;
use crate::rope::RopeConfig;
use crate::spec::{Block, DecoderSpec, Index, Matrix, MlpActivation, Norm, Score};

pub(super) const FAMILY: Family = Family {
    name: "minimax_m3_vl",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    let c = &Config::read_with_eps(&input, input.fields, Keys { ..KEYS }, 1e-6)?;
    let plus_one = c.flag("use_gemma_norm", true)?;
    let normed = c.flag("use_qk_norm", true)?;
    let rope = rope(c)?;
    let activation = MlpActivation::ClippedSwiglu {
        limit: c.positive("swiglu_limit", 7.0)? as f32,
        alpha: c.positive("swiglu_alpha", 1.702)? as f32,
    };
    let dense = c.count_or("dense_intermediate_size", 12_288)?;
    let sparse_layers = flags(c, "mlp_layer_types", "sparse", true, "moe_layer_freq")?;
    let index = Sizes::read(c)?;
    let chosen = flags(c, "layer_types", "full_attention", false, "sparse_attention_freq")?;
    let mut spec = c.decoder("language_model.", |i, path| {
        let own = format!("{path}.self_attn");
        let mut attention = c.attention(&own).turned(Some(rope.clone()));
        if normed {
            attention = attention.normed(&own, c.eps, 0.0);
        }
        if let Some(sizes) = index.as_ref().filter(|_| chosen[i]) {
            attention.index = Some(sizes.index(c, &own, &rope, plus_one));
        }
        let ff = match sparse_layers[i] {
            true => sparse(c, &format!("{path}.block_sparse_moe"), &activation)?,
            false => c.mlp(&format!("{path}.mlp"), dense, activation.clone(), false).block(),
        };
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    spec.head = c.head("language_model.", false)?;
    let spec = if plus_one { spec.norms_plus_one() } else { spec };
    Ok(spec.language_half())
}

/// Which layers have something: by a list of kinds, where `kind` means that they do, or do not; by a list of flags under another
/// key, perhaps in `sparse_attention_config`; all where there is neither.
fn flags(c: &Config<'_>, kinds: &str, kind: &str, means: bool, key: &str) -> Result<Vec<bool>> {
    if let Some(list) = c.layer_strings(kinds)? {
        return Ok(list.into_iter().map(|k| (k == kind) == means).collect());
    }
    let nested = sparse_config(c)?;
    let nested = nested.filter(|n| n.get(key).is_some());
    let flags = Config { fields: nested.unwrap_or(c.fields), ..*c }.layer_flags(key)?;
    Ok(flags.unwrap_or_else(|| vec![true; c.layers]))
}

fn sparse_config<'a>(c: &Config<'a>) -> Result<Option<Fields<'a>>> {
    c.fields.object("sparse_attention_config", "sparse_attention_config.")
}

fn rope(c: &Config<'_>) -> Result<RopeConfig> {
    let parameters = c.fields.object("rope_parameters", "rope_parameters.")?;
    let nested = parameters.map(|p| crate::rope::share(&p, "partial_rotary_factor")).transpose()?.flatten();
    let share = nested.or(crate::rope::share(&c.fields, "partial_rotary_factor")?).unwrap_or(0.5);
    let dims = c.count_or("rotary_dim", ((c.head_dim as f64 * share) as usize).max(1))?;
    let plain = RopeConfig::plain(dims, c.theta_or(5e6)?, false);
    RopeConfig::scaled(plain, &c.fields, parameters)
}

/// Sizes of the indexer.
struct Sizes {
    heads: usize,
    dim: usize,
    group: usize,
    top: usize,
    local: usize,
}

impl Sizes {
    /// None where there is no size of a block.
    fn read(c: &Config<'_>) -> Result<Option<Self>> {
        let nested = sparse_config(c)?;
        let count = |inner: &str, outer: &str| match nested.map(|n| n.count(inner, MAX_EXTENT)).transpose()?.flatten() {
            Some(n) => Ok::<_, LmError>(Some(n)),
            None => c.fields.count(outer, MAX_EXTENT),
        };
        let Some(group) = count("sparse_block_size", "index_block_size")? else { return Ok(None) };
        let required = |inner: &str, outer: &str| c.fields.require(outer, count(inner, outer)?);
        let (heads, dim) = (required("sparse_num_index_heads", "index_n_heads")?, required("sparse_index_dim", "index_head_dim")?);
        if heads.saturating_mul(dim) > MAX_EXTENT || !c.heads.is_multiple_of(heads) {
            let wanted = format!("a divisor of num_attention_heads {}", c.heads);
            return Err(c.fields.invalid("index_n_heads", heads, &wanted));
        }
        let local = match nested.filter(|n| n.get("sparse_local_block").is_some()) {
            Some(n) => Config { fields: n, ..*c }.natural("sparse_local_block", 1)?,
            None => c.natural("index_local_blocks", 1)?,
        };
        let top = required("sparse_topk_blocks", "index_topk_blocks")?;
        Ok(Some(Sizes { heads, dim, group, top, local }))
    }

    fn index(&self, c: &Config<'_>, path: &str, rope: &RopeConfig, plus_one: bool) -> Index {
        let matrix = |name: &str, outputs| Matrix::new(format!("{path}.index_{name}_proj"), outputs, c.hidden);
        let offset = if plus_one { 1.0 } else { 0.0 };
        let norm = |name: &str| Norm::rms(format!("{path}.index_{name}_norm.weight"), self.dim, c.eps).plus(offset);
        Index {
            n_heads: self.heads,
            head_dim: self.dim,
            q: matrix("q", self.heads * self.dim),
            k: matrix("k", self.dim),
            q_norm: Some(norm("q")),
            k_norm: norm("k"),
            rope: RopeConfig { dims: rope.dims.min(self.dim), ..rope.clone() },
            weights: None,
            group: self.group,
            top: self.top,
            local: self.local,
        }
    }
}

fn sparse(c: &Config<'_>, path: &str, activation: &MlpActivation) -> Result<Block> {
    let (n, k) = (c.count_or("num_local_experts", 128)?, c.count_or("num_experts_per_tok", 4)?);
    let mut router = experts::router(c, format!("{path}.gate"), n, k, Score::Sigmoid)?;
    router.correction = Some(format!("{path}.e_score_correction_bias"));
    router.normalise = Some(1e-20);
    router.factor = c.number("routed_scaling_factor", 2.0)? as f32;
    let inner = c.count_or("intermediate_size", 3072)?;
    let all = experts::experts(c, &format!("{path}.switch_mlp"), n, inner, activation.clone());
    let wide = c.count_or("shared_intermediate_size", 3072)?;
    let shared = c.mlp(&format!("{path}.shared_experts"), wide, activation.clone(), false);
    Ok(experts::moe(router, all, Some(experts::shared(shared))))
}
