//! What families share: reading the usual keys, and the usual layers.

use crate::config::{CONFIG_FILE, FamilyInput};
use crate::error::{LmError, Result};
use crate::json::Fields;
use crate::rope::{RopeConfig, share, theta};
use crate::spec::{
    Attention, Block, Branch, DecoderSpec, Embedding, GateShape, Head, HeadNorm, Layer, Matrix, Mlp,
    MlpActivation, Norm, OutputGate, Run, Values,
};

/// Largest extent of one dimension that is taken for a real model's.
pub(super) const MAX_EXTENT: usize = 1 << 24;
/// Most layers.
pub(super) const MAX_LAYERS: usize = 1 << 12;

/// The usual keys of a configuration, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Config<'a> {
    pub input: &'a FamilyInput<'a>,
    pub fields: Fields<'a>,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    pub eps: f32,
}

/// Names of the usual keys, where a family has others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys {
    pub hidden: &'static str,
    pub layers: &'static str,
    pub heads: &'static str,
    pub kv_heads: &'static str,
    pub head_dim: &'static str,
    pub eps: &'static str,
}

/// The name of a key that a family does not have.
pub(super) const UNSAID: &str = "none";

pub(super) const KEYS: Keys = Keys {
    hidden: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    eps: "rms_norm_eps",
};

impl<'a> Config<'a> {
    /// Reads the usual keys under their usual names.
    pub fn read(input: &'a FamilyInput<'a>) -> Result<Self> {
        Self::read_keys(input, input.fields, KEYS)
    }

    /// Reads them out of `fields`, under the names `keys`.
    pub fn read_keys(input: &'a FamilyInput<'a>, fields: Fields<'a>, keys: Keys) -> Result<Self> {
        fields.require(keys.eps, fields.f64(keys.eps)?)?;
        Self::read_with_eps(input, fields, keys, 0.0)
    }

    /// Reads the keys of a decoder without attention: one head as wide as the stream stands for the heads.
    pub fn read_unheaded(input: &'a FamilyInput<'a>, keys: Keys, eps: f64) -> Result<Self> {
        let fields = input.fields;
        let count = |key: &str, most| fields.require(key, fields.count(key, most)?);
        let hidden = count(keys.hidden, MAX_EXTENT)?;
        Ok(Config {
            input,
            fields,
            hidden,
            layers: count(keys.layers, MAX_LAYERS)?,
            heads: 1,
            kv_heads: 1,
            head_dim: hidden,
            vocab: count("vocab_size", MAX_EXTENT)?,
            eps: eps_or(&fields, keys.eps, eps)?,
        })
    }

    /// Reads the keys of a decoder with latent attention, whose heads have sizes of their own.
    pub fn read_latent(input: &'a FamilyInput<'a>) -> Result<Self> {
        let keys = Keys {
            kv_heads: "none",
            head_dim: "qk_nope_head_dim",
            ..KEYS
        };
        Self::read_keys(input, input.fields, keys)
    }

    /// Reads the usual keys, the vocabulary being said elsewhere.
    pub fn read_with_vocab(input: &'a FamilyInput<'a>, vocab: usize) -> Result<Self> {
        let fields = input.fields;
        let read = Self::read_all(input, fields, KEYS, 0.0, Some(vocab))?;
        fields.require(KEYS.eps, fields.f64(KEYS.eps)?)?;
        Ok(read)
    }

    /// The same with another name of the vocabulary's size, and an epsilon where the file says none.
    pub fn read_naming_vocab(input: &'a FamilyInput<'a>, keys: Keys, eps: f64, vocab: &str) -> Result<Self> {
        let fields = input.fields;
        let vocab = fields.require(vocab, fields.count(vocab, MAX_EXTENT)?)?;
        Self::read_all(input, fields, keys, eps, Some(vocab))
    }

    /// The same, `default` being the epsilon of norms where the file says none.
    pub fn read_with_eps(
        input: &'a FamilyInput<'a>,
        fields: Fields<'a>,
        keys: Keys,
        default: f64,
    ) -> Result<Self> {
        Self::read_all(input, fields, keys, default, None)
    }

    fn read_all(
        input: &'a FamilyInput<'a>,
        fields: Fields<'a>,
        keys: Keys,
        default: f64,
        vocab: Option<usize>,
    ) -> Result<Self> {
        let count = |key: &str, most| fields.require(key, fields.count(key, most)?);
        let hidden = count(keys.hidden, MAX_EXTENT)?;
        let heads = count(keys.heads, MAX_EXTENT)?;
        let kv_heads = fields.count(keys.kv_heads, MAX_EXTENT)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let wanted = format!("a divisor of {} {heads}", keys.heads);
            return Err(fields.invalid(keys.kv_heads, kv_heads, &wanted));
        }
        let head_dim = match fields.count(keys.head_dim, MAX_EXTENT)? {
            Some(dim) => dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let wanted = format!(
                    "a divisor of {} {hidden}, since {} is missing",
                    keys.hidden, keys.head_dim
                );
                return Err(fields.invalid(keys.heads, heads, &wanted));
            }
        };
        if heads.checked_mul(head_dim).is_none_or(|width| width > MAX_EXTENT) {
            let wanted = format!("at most {MAX_EXTENT} over {heads} heads");
            return Err(fields.invalid(keys.head_dim, head_dim, &wanted));
        }
        Ok(Config {
            input,
            fields,
            hidden,
            // A family that counts its layers otherwise puts the number in later.
            layers: match keys.layers {
                UNSAID => 1,
                key => count(key, MAX_LAYERS)?,
            },
            heads,
            kv_heads,
            head_dim,
            vocab: match vocab {
                Some(vocab) => vocab,
                None => count("vocab_size", MAX_EXTENT)?,
            },
            eps: eps_or(&fields, keys.eps, default)?,
        })
    }

    /// A whole number that must be there.
    pub fn count(&self, key: &str) -> Result<usize> {
        self.fields.require(key, self.fields.count(key, MAX_EXTENT)?)
    }

    /// A whole number, or `default`.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.fields.count(key, MAX_EXTENT)?.unwrap_or(default))
    }

    /// A whole number that may be zero, or `default`.
    pub fn natural(&self, key: &str, default: usize) -> Result<usize> {
        let is_zero = self.fields.get(key).and_then(crate::json::number) == Some(0.0);
        if is_zero {
            Ok(0)
        } else {
            self.count_or(key, default)
        }
    }

    /// Numbers, one a layer and perhaps more; null stands for zero.
    pub fn per_layer(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.fields.get(key) else {
            return Ok(None);
        };
        let of = |v: &serde_json::Value| {
            if v.is_null() {
                Some(0.0)
            } else {
                crate::json::number(v)
            }
        };
        let list = value
            .as_array()
            .and_then(|list| list.iter().map(of).collect::<Option<Vec<f64>>>());
        match list {
            Some(list) if list.iter().all(|v| v.is_finite()) => Ok(Some(list)),
            _ => Err(self
                .fields
                .invalid(key, "something else", "a list of finite numbers")),
        }
    }

    /// Flags, one a layer: true and false, or 1 and 0.
    pub fn layer_flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        let Some(value) = self.fields.get(key) else {
            return Ok(None);
        };
        let of = |v: &serde_json::Value| v.as_bool().or_else(|| Some(crate::json::number(v)? != 0.0));
        let list = value
            .as_array()
            .and_then(|list| list.iter().map(of).collect::<Option<Vec<bool>>>());
        match list {
            Some(list) if list.len() >= self.layers => Ok(Some(list)),
            _ => Err(self.fields.invalid(
                key,
                "something else",
                &format!("a list of {} flags, one a layer", self.layers),
            )),
        }
    }

    /// Which layers slide by `layer_types`, or by a period whose last layer sees all, where there is no such list.
    pub fn sliding_or_every(&self, period: usize) -> Result<Vec<bool>> {
        match self.fields.get("layer_types") {
            Some(_) => self.sliding(),
            None => Ok((0..self.layers)
                .map(|i| !(i + 1).is_multiple_of(period))
                .collect()),
        }
    }

    /// The parameters of a kind of layer, `rope_parameters.KIND`.
    pub fn rope_parameters(&self, slides: bool) -> Result<Option<Fields<'a>>> {
        let all = self.fields.object("rope_parameters", "rope_parameters.")?;
        let (kind, path) = match slides {
            true => ("sliding_attention", "rope_parameters.sliding_attention."),
            false => ("full_attention", "rope_parameters.full_attention."),
        };
        match all {
            Some(all) => all.object(kind, path),
            None => Ok(None),
        }
    }

    /// The rotation of a kind of layer where `rope_parameters` has an object for each kind, as transformers 5 writes them;
    /// `theta` is the base where that names none.
    pub fn nested_rope(&self, slides: bool, dims: usize, theta: f64) -> Result<Option<RopeConfig>> {
        let Some(parameters) = self.rope_parameters(slides)? else {
            return Ok(None);
        };
        let theta = parameters.positive("rope_theta")?.unwrap_or(theta);
        RopeConfig::scaled(
            RopeConfig::plain(dims, theta, false),
            &self.fields,
            Some(parameters),
        )
        .map(Some)
    }

    /// The rotation of a kind of layer: the share, the base and the method that its parameters say.
    pub fn rope_of_kind(&self, slides: bool, head_dim: usize, default_share: f64) -> Result<RopeConfig> {
        let Some(parameters) = self.rope_parameters(slides)? else {
            return Ok(RopeConfig::plain(
                self.rotary_share(head_dim, default_share),
                10_000.0,
                false,
            ));
        };
        let part = share(&parameters, "partial_rotary_factor")?.unwrap_or(default_share);
        let theta = parameters.positive("rope_theta")?.unwrap_or(10_000.0);
        let plain = RopeConfig::plain(self.rotary_share(head_dim, part), theta, false);
        RopeConfig::scaled(plain, &self.fields, Some(parameters))
    }

    fn rotary_share(&self, head_dim: usize, share: f64) -> usize {
        (head_dim as f64 * share) as usize
    }

    /// A flag, or `default`.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.fields.bool(key)?.unwrap_or(default))
    }

    /// A finite number, or `default`.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.fields.f64(key)? {
            Some(v) if !v.is_finite() => Err(self.fields.invalid(key, v, "a finite number")),
            Some(v) => Ok(v),
            None => Ok(default),
        }
    }

    /// A finite number above zero, or `default`.
    pub fn positive(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.fields.positive(key)?.unwrap_or(default))
    }

    /// A list of strings as long as there are layers, if it is there.
    pub fn layer_strings(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.fields.get(key) else {
            return Ok(None);
        };
        let list = value
            .as_array()
            .map(|list| list.iter().map(|v| v.as_str()).collect::<Option<Vec<_>>>());
        match list.flatten() {
            Some(list) if list.len() == self.layers => Ok(Some(list)),
            _ => Err(self.fields.invalid(
                key,
                "something else",
                &format!("a list of {} strings, one a layer", self.layers),
            )),
        }
    }

    /// A list of whole numbers, if it is there.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.fields.get(key) else {
            return Ok(None);
        };
        let list = value.as_array().map(|list| {
            list.iter()
                .map(|v| v.as_u64().map(|n| n as usize).filter(|n| *n <= MAX_EXTENT))
                .collect::<Option<Vec<_>>>()
        });
        list.flatten().map(Some).ok_or_else(|| {
            self.fields
                .invalid(key, "something else", "a list of whole numbers")
        })
    }

    /// The window of all layers, where `sliding_window` says one and `use_sliding_window` does not turn it off: as
    /// transformers has it for families without `layer_types`.
    pub fn window(&self) -> Result<Option<usize>> {
        let window = self.fields.count("sliding_window", u32::MAX as usize)?;
        let on = self.fields.bool("use_sliding_window")?.unwrap_or(true);
        Ok(window.filter(|_| on))
    }

    /// The window of each layer: `sliding_window` where `layer_types` says that it slides, and where `use_sliding_window`
    /// is true and there is no such list, from layer `max_window_layers` on.
    pub fn windows(&self) -> Result<Vec<Option<usize>>> {
        let window = self.fields.count("sliding_window", u32::MAX as usize)?;
        let on = self.fields.bool("use_sliding_window")? == Some(true);
        let first = self
            .fields
            .get("max_window_layers")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(28);
        if on && window.is_some() && self.fields.get("layer_types").is_none() {
            return Ok((0..self.layers as u64)
                .map(|i| window.filter(|_| i >= first))
                .collect());
        }
        let of = |slides: bool| match slides {
            true => self.fields.require("sliding_window", window).map(Some),
            false => Ok(None),
        };
        self.sliding()?.into_iter().map(of).collect()
    }

    /// Which layers slide, by `layer_types`; none where there is no such list.
    pub fn sliding(&self) -> Result<Vec<bool>> {
        let Some(kinds) = self.layer_strings("layer_types")? else {
            return Ok(vec![false; self.layers]);
        };
        kinds
            .into_iter()
            .map(|kind| match kind {
                "full_attention" => Ok(false),
                "sliding_attention" => Ok(true),
                other => Err(LmError::Unsupported(format!(
                    "{CONFIG_FILE}: layer_types has {other:?}; full_attention and sliding_attention are"
                ))),
            })
            .collect()
    }

    /// `max_position_embeddings`.
    pub fn max_context(&self) -> Result<Option<usize>> {
        self.fields.count("max_position_embeddings", u32::MAX as usize)
    }

    /// The rotation of `dims` features, by the usual keys.
    pub fn rope(&self, dims: usize) -> Result<RopeConfig> {
        RopeConfig::read(&self.fields, dims)
    }

    /// The base of the rotation, nested or not, or `default`.
    pub fn theta_or(&self, default: f64) -> Result<f64> {
        Ok(theta(&self.fields)?.unwrap_or(default))
    }

    /// The same, `theta` being the base where the file says none.
    pub fn rope_from(&self, dims: usize, theta: f64) -> Result<RopeConfig> {
        let mut rope = self.rope(dims)?;
        rope.theta = self.theta_or(theta)? as f32;
        Ok(rope)
    }

    /// Features of a head that turn, by `partial_rotary_factor`.
    pub fn rotary_dims(&self, head_dim: usize, default: f64) -> Result<usize> {
        // Newer files of transformers have it beside the base.
        let nested = self.fields.object("rope_parameters", "rope_parameters.")?;
        let nested = nested
            .map(|n| share(&n, "partial_rotary_factor"))
            .transpose()?
            .flatten();
        let share = nested
            .or(share(&self.fields, "partial_rotary_factor")?)
            .unwrap_or(default);
        Ok((head_dim as f64 * share) as usize)
    }

    /// The base alone, `theta` where the file says none.
    pub fn plain_rope_from(&self, dims: usize, theta: f64, traditional: bool) -> Result<RopeConfig> {
        Ok(RopeConfig::plain(dims, self.theta_or(theta)?, traditional))
    }

    /// The base alone, whatever scaling the file names.
    pub fn plain_rope(&self, dims: usize, traditional: bool) -> Result<RopeConfig> {
        Ok(RopeConfig::plain(dims, self.theta_or(10_000.0)?, traditional))
    }

    /// RMS norm of the stream with the weight `path.weight`.
    pub fn rms(&self, path: &str) -> Norm {
        Norm::rms(format!("{path}.weight"), self.hidden, self.eps)
    }

    /// Attention with matrices `q_proj`, `k_proj`, `v_proj`, `o_proj` under `path`, no biases, no rotation.
    pub fn attention(&self, path: &str) -> Attention {
        self.attention_of(path, self.heads, self.kv_heads, self.head_dim)
    }

    /// The same with other heads.
    pub fn attention_of(&self, path: &str, heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let matrix = |name: &str, outputs, inputs| Matrix::new(format!("{path}.{name}"), outputs, inputs);
        Attention {
            n_heads: heads,
            n_kv_heads: kv_heads,
            k_dim: head_dim,
            v_dim: head_dim,
            q: matrix("q_proj", q, self.hidden),
            k: Some(matrix("k_proj", kv, self.hidden)),
            v: Values::Own(matrix("v_proj", kv, self.hidden)),
            o: matrix("o_proj", self.hidden, q),
            q_norm: None,
            k_norm: None,
            v_norm: None,
            rope: None,
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            cap: None,
            sinks: None,
            window: None,
            chunk: None,
            clip: None,
            v_scale: 1.0,
            q_factor: 1.0,
            q_gain: None,
            temperature: None,
            gate: None,
            out_norm: None,
            shared_with: None,
            token_mix: None,
            reuse_projected: false,
            mixed: None,
            short_ring: false,
            blocks: None,
            grid: None,
            index: None,
        }
    }

    /// A gated feed-forward layer with `gate_proj`, `up_proj`, `down_proj` under `path`.
    pub fn mlp(&self, path: &str, inner: usize, activation: MlpActivation, bias: bool) -> Mlp {
        self.mlp_named(
            path,
            ["gate_proj", "up_proj", "down_proj"],
            inner,
            activation,
            bias,
        )
    }

    /// The same under other names.
    pub fn mlp_named(
        &self,
        path: &str,
        [gate, up, down]: [&str; 3],
        inner: usize,
        activation: MlpActivation,
        bias: bool,
    ) -> Mlp {
        let matrix = |name: &str, outputs, inputs| {
            Matrix::new(format!("{path}.{name}"), outputs, inputs).with_bias(bias)
        };
        Mlp {
            gate: Some(matrix(gate, inner, self.hidden)),
            up: matrix(up, inner, self.hidden),
            down: matrix(down, self.hidden, inner),
            activation,
            norm: None,
        }
    }

    /// A feed-forward layer of two matrices.
    pub fn mlp_of_two(
        &self,
        path: &str,
        [up, down]: [&str; 2],
        inner: usize,
        activation: MlpActivation,
        bias: bool,
    ) -> Mlp {
        let matrix = |name: &str, outputs, inputs| {
            Matrix::new(format!("{path}.{name}"), outputs, inputs).with_bias(bias)
        };
        Mlp {
            gate: None,
            up: matrix(up, inner, self.hidden),
            down: matrix(down, self.hidden, inner),
            activation,
            norm: None,
        }
    }

    /// `hidden_act`, which mlx-lm takes for SiLU.
    pub fn silu(&self) -> Result<MlpActivation> {
        match self.fields.str("hidden_act")? {
            None | Some("silu" | "swish") => Ok(MlpActivation::Silu),
            Some(other) => Err(LmError::Unsupported(format!(
                "{CONFIG_FILE}: hidden_act {other:?}; silu is"
            ))),
        }
    }

    /// The head: `lm_head`, or the table where `tie_word_embeddings` says so.
    pub fn head(&self, prefix: &str, tied_by_default: bool) -> Result<Head> {
        let tied = self.flag("tie_word_embeddings", tied_by_default)?;
        Ok(Head::new((!tied).then(|| self.lm_head(prefix))))
    }

    pub fn lm_head(&self, prefix: &str) -> Matrix {
        Matrix::new(format!("{prefix}lm_head"), self.vocab, self.hidden)
    }

    /// A decoder of the usual names: `PREFIXmodel.embed_tokens`, `PREFIXmodel.layers.N`, `PREFIXmodel.norm`.
    pub fn decoder(&self, prefix: &str, layer: impl Fn(usize, &str) -> Result<Layer>) -> Result<DecoderSpec> {
        let head = self.head(prefix, true)?;
        let model = format!("{prefix}model");
        let names = ["embed_tokens", "layers", "norm"];
        let mut spec = self.decoder_named(&model, names, head, layer)?;
        if spec.head.matrix.is_none() {
            spec.dropped.push(format!("{prefix}lm_head."));
        }
        Ok(spec)
    }

    /// A decoder with its table, layers and last norm under other names.
    pub fn decoder_named(
        &self,
        path: &str,
        [table, layers, norm]: [&str; 3],
        head: Head,
        layer: impl Fn(usize, &str) -> Result<Layer>,
    ) -> Result<DecoderSpec> {
        let layers = (0..self.layers)
            .map(|i| layer(i, &format!("{path}.{layers}.{i}")))
            .collect::<Result<_>>()?;
        Ok(DecoderSpec {
            hidden_size: self.hidden,
            vocab_size: self.vocab,
            max_context: self.max_context()?,
            embedding: Embedding::new(format!("{path}.{table}")),
            alternating: None,
            turned: Vec::new(),
            layer_inputs: None,
            layers,
            norm: Some(self.rms(&format!("{path}.{norm}"))),
            head,
            dropped: ["*attn", "*attention"]
                .iter()
                .flat_map(|at| [format!("{at}.rotary_emb.inv_freq"), format!("{at}.rope.inv_freq")])
                .collect(),
        })
    }
}

/// A norm's epsilon, or `default`.
pub(super) fn eps_or(fields: &Fields<'_>, key: &str, default: f64) -> Result<f32> {
    let eps = fields.f64(key)?.unwrap_or(default);
    if !(0.0..=1.0).contains(&eps) {
        return Err(fields.invalid(key, eps, "a number from 0 to 1"));
    }
    Ok(eps as f32)
}

/// Names of the four norms of a layer that has them on both sides of its two branches.
pub(super) const SANDWICH: [&str; 4] = [
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
];

/// Attention and MLP, each with a norm on both sides.
pub(super) fn sandwich_layer(c: &Config<'_>, path: &str, attention: Attention, ff: Block) -> Layer {
    sandwich_layer_of(c, path, SANDWICH, Block::Attention(Box::new(attention)), ff)
}

/// The same with other names and another mixer.
pub(super) fn sandwich_layer_of(
    c: &Config<'_>,
    path: &str,
    names: [&str; 4],
    mixer: Block,
    ff: Block,
) -> Layer {
    let norm = |name: &str| Some(c.rms(&format!("{path}.{name}")));
    Layer {
        alternating: None,
        branches: vec![
            Branch::new(norm(names[0]), mixer, norm(names[1])),
            Branch::new(norm(names[2]), ff, norm(names[3])),
        ],
    }
}

/// Attention and MLP, each with a norm behind: `post_attention_layernorm`, `post_feedforward_layernorm`.
pub(super) fn post_norm_layer(c: &Config<'_>, path: &str, attention: Attention, ff: Block) -> Layer {
    let norm = |name: &str| Some(c.rms(&format!("{path}.{name}")));
    Layer {
        alternating: None,
        branches: vec![
            Branch::new(
                None,
                Block::Attention(Box::new(attention)),
                norm("post_attention_layernorm"),
            ),
            Branch::new(None, ff, norm("post_feedforward_layernorm")),
        ],
    }
}

/// Attention and MLP, each behind a norm: `input_layernorm`, `post_attention_layernorm`.
pub(super) fn pre_norm_layer(c: &Config<'_>, path: &str, attention: Attention, ff: Block) -> Layer {
    pre_norm_layer_of(c, path, Block::Attention(Box::new(attention)), ff)
}

/// The same with another mixer.
pub(super) fn pre_norm_layer_of(c: &Config<'_>, path: &str, mixer: Block, ff: Block) -> Layer {
    Layer {
        alternating: None,
        branches: vec![
            Branch::pre(c.rms(&format!("{path}.input_layernorm")), mixer),
            Branch::pre(c.rms(&format!("{path}.post_attention_layernorm")), ff),
        ],
    }
}

impl Attention {
    /// With biases on queries, keys and values, and on the output.
    pub(super) fn biased(mut self, qkv: bool, o: bool) -> Self {
        self.q.bias = qkv;
        self.k = self.k.map(|k| k.with_bias(qkv));
        if let Values::Own(v) = &mut self.v {
            v.bias = qkv;
        }
        self.o.bias = o;
        self
    }

    /// With RMS norms of each head, before the rotation.
    pub(super) fn normed(mut self, path: &str, eps: f32, offset: f32) -> Self {
        let norm = |name: &str, dim| HeadNorm {
            norm: Norm::rms(format!("{path}.{name}.weight"), dim, eps).plus(offset),
            after_rope: false,
        };
        (self.q_norm, self.k_norm) = (Some(norm("q_norm", self.k_dim)), Some(norm("k_norm", self.k_dim)));
        self
    }

    /// With RMS norms over all heads together.
    pub(super) fn normed_whole(mut self, path: &str, eps: f32) -> Self {
        let norm = |name: &str, dim| HeadNorm {
            norm: Norm::rms(format!("{path}.{name}.weight"), dim, eps),
            after_rope: false,
        };
        self.q_norm = Some(norm("q_norm", self.n_heads * self.k_dim));
        self.k_norm = Some(norm("k_norm", self.n_kv_heads * self.k_dim));
        self
    }

    /// With norms of each head of other names, before the rotation or behind it.
    pub(super) fn normed_by(mut self, q: &str, k: &str, eps: f32, after_rope: bool) -> Self {
        let norm = |name: &str, dim| HeadNorm {
            norm: Norm::rms(format!("{name}.weight"), dim, eps),
            after_rope,
        };
        (self.q_norm, self.k_norm) = (Some(norm(q, self.k_dim)), Some(norm(k, self.k_dim)));
        self
    }

    /// With norms of each head without weights.
    pub(super) fn normed_plain(mut self, eps: f32, after_rope: bool) -> Self {
        let norm = |dim| HeadNorm {
            norm: Norm::rms_plain(dim, eps),
            after_rope,
        };
        (self.q_norm, self.k_norm) = (Some(norm(self.k_dim)), Some(norm(self.k_dim)));
        self
    }

    /// With values of another size.
    pub(super) fn valued(mut self, v_dim: usize) -> Self {
        self.v_dim = v_dim;
        if let Values::Own(v) = &mut self.v {
            v.outputs = self.n_kv_heads * v_dim;
        }
        self.o.inputs = self.n_heads * v_dim;
        self
    }

    /// With a gate of the output from the matrix `path`.
    pub(super) fn gated(mut self, path: String, shape: GateShape) -> Self {
        let outputs = match shape {
            GateShape::Head => self.n_heads,
            GateShape::Element => self.n_heads * self.v_dim,
        };
        let matrix = Matrix::new(path, outputs, self.q.inputs);
        self.gate = Some(OutputGate {
            matrix,
            shape,
            softplus: false,
        });
        self
    }

    /// With a rotation.
    pub(super) fn turned(mut self, rope: Option<RopeConfig>) -> Self {
        self.rope = rope;
        self
    }

    /// With a window.
    pub(super) fn sliding(mut self, window: Option<usize>) -> Self {
        self.window = window;
        self
    }

    /// Queries, keys and values as rows of one matrix `path`, one behind the other.
    pub(super) fn fused(mut self, path: &str, bias: bool) -> Self {
        let (q, k, v) = (
            self.n_heads * self.k_dim,
            self.n_kv_heads * self.k_dim,
            self.n_kv_heads * self.v_dim,
        );
        let of = q + k + v;
        let inputs = self.q.inputs;
        let part = |first, rows| {
            Matrix::new(path, rows, inputs)
                .with_bias(bias)
                .part(first, rows, of)
        };
        (self.q, self.k, self.v) = (part(0, q), Some(part(q, k)), Values::Own(part(q + k, v)));
        self
    }

    /// Queries, keys and values as rows of one matrix that has, for each kv head, its queries, then its key and its value.
    pub(super) fn fused_by_kv_head(mut self, path: &str, bias: bool) -> Self {
        let (dim, per) = (self.k_dim, self.n_heads / self.n_kv_heads);
        let group = (per + 2) * dim;
        let of = group * self.n_kv_heads;
        let inputs = self.q.inputs;
        let part = |first: usize, count: usize| {
            let run = Run {
                first: first * dim,
                block: count * dim,
                stride: group,
                count: self.n_kv_heads * count * dim,
            };
            Matrix::new(path, 0, inputs).with_bias(bias).picked(vec![run], of)
        };
        (self.q, self.k, self.v) = (part(0, per), Some(part(per, 1)), Values::Own(part(per + 1, 1)));
        self
    }
}

impl Mlp {
    /// Gate and up as rows of one matrix, in this order.
    pub(super) fn fused(mut self, path: &str) -> Self {
        let (inner, inputs, bias) = (self.up.outputs, self.up.inputs, self.up.bias);
        let part = |first| {
            Matrix::new(path, inner, inputs)
                .with_bias(bias)
                .part(first, inner, 2 * inner)
        };
        (self.gate, self.up) = (Some(part(0)), part(inner));
        self
    }

    pub(super) fn block(self) -> Block {
        Block::Mlp(Box::new(self))
    }
}

impl DecoderSpec {
    /// The weights of all norms are stored less one.
    pub(super) fn norms_plus_one(mut self) -> Self {
        self.for_each_norm(|norm| norm.offset = 1.0);
        self
    }

    /// The language half of a checkpoint of several modes: tensors of the others are left unread.
    pub(super) fn language_half(mut self) -> Self {
        let parts = [
            "vision_tower",
            "vision_model",
            "visual",
            "model.visual",
            "model.vision",
            "vision_embed",
            "multi_modal_projector",
            "mm_projector",
            "image_newline",
            "audio_tower",
            "embed_audio",
            "embed_vision",
            "model.audio",
            "model.embed_audio",
            "model.embed_vision",
            "patch_merge_mlp",
        ];
        self.dropped.extend(parts.map(str::to_owned));
        self
    }
}
