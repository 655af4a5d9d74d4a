//! DeepSeek V3, Kimi K2 and JoyAI: latent attention, experts in groups.

use super::Family;
use super::common::{Config, MAX_EXTENT, pre_norm_layer_of};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, DecoderSpec, Latent, LatentProjection, Matrix, MlpActivation, Norm, Score};

use super::experts;
use crate::rope::{RopeScaling, yarn_scale};

pub(super) const FAMILY: Family = Family {
    name: "deepseek_v3",
    also: &["kimi_k2", "joyai_llm_flash"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    decoder(&Config::read_latent(input)?, "")
}

/// The decoder, with tensors under `prefix`.
pub(super) fn decoder(c: &Config<'_>, prefix: &str) -> Result<DecoderSpec> {
    decoder_with(c, prefix, latent(c, 1e-6)?, false, |own| experts::deepseek(c, own, ["switch_mlp", "gate.e_score_correction_bias"], Score::Sigmoid))
}

/// The same with attention like `template`, its paths to come, and other experts; `mlp_bias` is for the layers without any.
pub(super) fn decoder_with(
    c: &Config<'_>,
    prefix: &str,
    template: Latent,
    mlp_bias: bool,
    sparse: impl Fn(&str) -> Result<Block>,
) -> Result<DecoderSpec> {
    let mut spec = c.decoder(prefix, |i, path| {
        let attention = Block::Latent(Box::new(placed(c, &template, &format!("{path}.self_attn"))));
        let own = format!("{path}.mlp");
        let ff = match c.fields.get("n_routed_experts").is_some() && experts::is_sparse(c, i)? {
            true => sparse(&own)?,
            false => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, mlp_bias).block(),
        };
        Ok(pre_norm_layer_of(c, path, attention, ff))
    })?;
    spec.head.matrix = Some(c.lm_head(prefix));
    spec.dropped = vec!["*rotary_emb.inv_freq".to_owned(), format!("{prefix}model.layers.{}.", c.layers)];
    Ok(spec)
}

/// The family's attention without paths; `eps` is that of the norms of queries and of the latent.
pub(super) fn latent(c: &Config<'_>, eps: f32) -> Result<Latent> {
    latent_of(c, eps, c.count("v_head_dim")?)
}

/// The same with values of `v_dim`.
pub(super) fn latent_of(c: &Config<'_>, eps: f32, v_dim: usize) -> Result<Latent> {
    let (nope, rope) = (c.count("qk_nope_head_dim")?, c.count("qk_rope_head_dim")?);
    let bias = c.flag("attention_bias", false)?;
    let mut latent = latent_with(c, &LatentSizes { nope, rope, v: v_dim, eps }, bias)?;
    let mut rope = c.rope(rope)?;
    rope.traditional = true;
    if let RopeScaling::Yarn { factor, mscale_all_dim, .. } = rope.scaling
        && mscale_all_dim != 0.0
    {
        latent.scale *= yarn_scale(factor, mscale_all_dim).powi(2);
    }
    latent.rope = Some(rope);
    Ok(latent)
}

/// Sizes of a head of latent attention, and the epsilon of its norms.
pub(super) struct LatentSizes {
    pub nope: usize,
    pub rope: usize,
    pub v: usize,
    pub eps: f32,
}

/// Latent attention of such sizes that knows no positions; `bias` is that of the first matrices and of the last.
pub(super) fn latent_with(c: &Config<'_>, sizes: &LatentSizes, bias: bool) -> Result<Latent> {
    let LatentSizes { nope: nope_dim, rope: rope_dim, v: v_dim, eps } = *sizes;
    let rank = c.count("kv_lora_rank")?;
    let q_rank = c.fields.count("q_lora_rank", MAX_EXTENT)?;
    for (key, size) in [("qk_nope_head_dim", nope_dim + rope_dim), ("v_head_dim", nope_dim + v_dim)] {
        if c.heads.saturating_mul(size) > MAX_EXTENT {
            return Err(c.fields.invalid(key, size, &format!("at most {MAX_EXTENT} over {} heads", c.heads)));
        }
    }
    let scale = 1.0 / ((nope_dim + rope_dim) as f32).sqrt();
    let q_width = c.heads * (nope_dim + rope_dim);
    let kv_a = Matrix::new("kv_a_proj_with_mqa", 0, c.hidden).with_bias(bias);
    Ok(Latent {
        n_heads: c.heads,
        nope_dim,
        rope_dim,
        v_dim,
        rank,
        q: match q_rank {
            None => LatentProjection { first: None, last: Matrix::new("q_proj", q_width, c.hidden) },
            Some(q_rank) => LatentProjection {
                first: Some((
                    Matrix::new("q_a_proj", q_rank, c.hidden).with_bias(bias),
                    Norm::rms("q_a_layernorm.weight", q_rank, eps),
                )),
                last: Matrix::new("q_b_proj", q_width, q_rank),
            },
        },
        kv_a: kv_a.clone().part(0, rank, rank + rope_dim),
        k_rope: kv_a.part(rank, rope_dim, rank + rope_dim),
        kv_norm: Norm::rms("kv_a_layernorm.weight", rank, eps),
        embed_q: "embed_q".to_owned(),
        unembed_out: Some("unembed_out".to_owned()),
        o: Matrix::new("o_proj", c.hidden, c.heads * v_dim).with_bias(bias),
        rope: None,
        scale,
        q_factor: 1.0,
        latent_factor: 1.0,
        temperature: None,
        gate: None,
        index: None,
    })
}

/// `template` with its tensors under `path`. Checkpoints that have `kv_b_proj` keep keys and values of every head.
pub(super) fn placed(c: &Config<'_>, template: &Latent, path: &str) -> Latent {
    let mut a = template.clone();
    let place = |name: &mut String| *name = format!("{path}.{name}");
    if let Some((matrix, norm)) = &mut a.q.first {
        place(&mut matrix.path);
        norm.weight.iter_mut().for_each(place);
    }
    for matrix in [&mut a.q.last, &mut a.kv_a, &mut a.k_rope, &mut a.o] {
        place(&mut matrix.path);
    }
    a.kv_norm.weight.iter_mut().for_each(place);
    if let Some(index) = &mut a.index {
        let matrices = [&mut index.q, &mut index.k].into_iter().chain(&mut index.weights);
        matrices.for_each(|matrix| place(&mut matrix.path));
        index.k_norm.weight.iter_mut().chain(&mut index.k_norm.bias).for_each(place);
    }
    a.gate.iter_mut().for_each(|gate| place(&mut gate.matrix.path));
    if c.input.has(&format!("{path}.kv_b_proj.weight")) {
        a.embed_q = "kv_b_proj".to_owned();
        a.unembed_out = None;
    }
    place(&mut a.embed_q);
    a.unembed_out.iter_mut().for_each(place);
    a
}
