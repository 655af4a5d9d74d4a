//! The decoder: written once against the operators, for every device and every family.

mod cache;
mod linear;
mod loader;

use mlx_native::ops::add::{AddParams, add};
use mlx_native::ops::kv_append::{KvAppendParams, kv_append};
use mlx_native::ops::rms_norm::{RmsNormParams, rms_norm};
use mlx_native::ops::rope::{RopeParams, rope as rotate};
use mlx_native::ops::sdpa::{SdpaParams, sdpa};
use mlx_native::ops::silu_mul::{SiluMulParams, silu_mul};
use mlx_native::weights::ModelWeights;
use mlx_native::{DType, KernelRegistry, MlxBuffer, MlxDevice};

pub use cache::KvCache;
use linear::{Embedding, Linear, Recorder};
use loader::{Loader, u32_of};

use crate::config::DecoderConfig;
use crate::error::{LmError, Result};
use crate::quantization::QuantizationConfig;
use crate::rope::RopeTable;

/// Activations of one chunk of a prompt stay below this many bytes; a longer prompt is fed in more chunks.
const ACTIVATION_BUDGET: usize = 32 << 20;

/// A model on a device: mapped weights, and room for the activations of one chunk.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    device: MlxDevice,
    registry: KernelRegistry,
    dtype: DType,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: MlxBuffer,
    /// `None`: the embedding is the output projection.
    head: Option<Linear>,
    rope: RopeTable,
    freqs: Option<MlxBuffer>,
    scratch: Scratch,
}

#[derive(Debug)]
struct Layer {
    attention_norm: MlxBuffer,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// Weights of the per-head norms of queries and keys.
    qk_norms: Option<(MlxBuffer, MlxBuffer)>,
    mlp_norm: MlxBuffer,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// Activations of a chunk of `rows` tokens.
#[derive(Debug)]
struct Scratch {
    rows: usize,
    ids: MlxBuffer,
    /// Residual stream, its norm, and what a block adds to it: `[rows, hidden]`.
    hidden: MlxBuffer,
    normed: MlxBuffer,
    update: MlxBuffer,
    /// Projections as they come, `[rows, heads, head_dim]`.
    q: MlxBuffer,
    k: MlxBuffer,
    v: MlxBuffer,
    /// Rotated queries and attention's output, `[heads, rows, head_dim]`.
    q_heads: MlxBuffer,
    attention: MlxBuffer,
    gate: MlxBuffer,
    up: MlxBuffer,
    logits: MlxBuffer,
}

impl Decoder {
    /// Builds a model on `device` from `weights`, with activations of `dtype`. Weights stay where they are mapped.
    /// Chunks of a prompt have `prefill_step` tokens at most, fewer where activations would take more than 32 MiB.
    ///
    /// # Errors
    /// [`LmError`] naming the field, tensor or operator at fault.
    pub fn new(
        device: &MlxDevice,
        config: DecoderConfig,
        weights: &ModelWeights,
        quantization: &QuantizationConfig,
        dtype: DType,
        prefill_step: usize,
    ) -> Result<Self> {
        let rope = config.rope.table()?;
        if !dtype.is_float() {
            return Err(LmError::InvalidArgument(format!(
                "activations of {dtype}: f32, f16 and bf16 are possible"
            )));
        }
        let mut registry = KernelRegistry::new();
        let mut l = Loader::new(device, &mut registry, weights, quantization, dtype)?;
        let embedding = l.embedding("model.embed_tokens", config.vocab_size, config.hidden_size)?;
        let layers = (0..config.n_layers)
            .map(|i| Layer::load(&mut l, &config, i))
            .collect::<Result<Vec<_>>>()?;
        let norm = l.vector("model.norm.weight", config.hidden_size)?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(l.linear("lm_head", config.vocab_size, config.hidden_size, false)?),
        };
        l.encoder.commit_and_wait()?;
        let freqs = match &rope.freqs {
            None => None,
            Some(periods) => {
                let mut buffer = device.alloc_tensor(DType::F32, &[periods.len()])?;
                buffer.write(0, periods)?;
                Some(buffer)
            }
        };
        let affordable = ACTIVATION_BUDGET / activation_bytes_per_token(&config, dtype);
        let scratch = Scratch::new(device, &config, dtype, prefill_step.clamp(1, affordable.max(1)))?;
        let device = device.clone();
        Ok(Decoder {
            config,
            device,
            registry,
            dtype,
            embedding,
            layers,
            norm,
            head,
            rope,
            freqs,
            scratch,
        })
    }

    /// What was built.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The device it runs on.
    #[must_use]
    pub fn device(&self) -> &MlxDevice {
        &self.device
    }

    /// The dtype of activations and of the cache.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Tokens that one call of [`forward`](Self::forward) takes at most.
    #[must_use]
    pub fn chunk(&self) -> usize {
        self.scratch.rows
    }

    /// An empty cache for at least `positions` positions.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn new_cache(&self, positions: usize) -> Result<KvCache> {
        let bytes = positions.saturating_mul(kv_bytes_per_token(&self.config, self.dtype));
        if let Some(limit) = self
            .device
            .limits()
            .max_working_set
            .filter(|limit| bytes > *limit)
        {
            return Err(LmError::InvalidArgument(format!(
                "a context of {positions} tokens needs a KV cache of {bytes} bytes, the device has {limit}"
            )));
        }
        KvCache::new(&self.device, &self.config, self.dtype, positions)
    }

    /// Feeds `tokens` behind what `cache` holds, and gives the logits behind the last of them.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] for no tokens, more than [`chunk`](Self::chunk), or an id outside the vocabulary; what the
    /// device reports.
    pub fn forward(&mut self, tokens: &[u32], cache: &mut KvCache) -> Result<Vec<f32>> {
        self.run(tokens, cache, Logits::Last)
    }

    /// Like [`forward`](Self::forward), with the logits behind every token: `tokens.len()` rows of `vocab_size`.
    ///
    /// # Errors
    /// As `forward`.
    pub fn forward_all(&mut self, tokens: &[u32], cache: &mut KvCache) -> Result<Vec<f32>> {
        self.run(tokens, cache, Logits::All)
    }

    /// Feeds `tokens` without asking for logits: all but the last chunk of a prompt.
    ///
    /// # Errors
    /// As `forward`.
    pub fn feed(&mut self, tokens: &[u32], cache: &mut KvCache) -> Result<()> {
        self.run(tokens, cache, Logits::None).map(drop)
    }

    fn run(&mut self, tokens: &[u32], cache: &mut KvCache, wanted: Logits) -> Result<Vec<f32>> {
        let rows = tokens.len();
        if rows == 0 || rows > self.scratch.rows {
            return Err(LmError::InvalidArgument(format!(
                "forward: {rows} tokens, 1 to {} are possible",
                self.scratch.rows
            )));
        }
        if let Some(id) = tokens.iter().find(|id| **id as usize >= self.config.vocab_size) {
            return Err(LmError::InvalidArgument(format!(
                "token id {id} is outside a vocabulary of {}",
                self.config.vocab_size
            )));
        }
        cache.reserve(&self.device, cache.len() + rows)?;
        self.scratch.ids.write(0, tokens)?;
        let logit_rows = match wanted {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => rows,
        };
        if logit_rows * self.config.vocab_size * self.dtype.size_of() > self.scratch.logits.byte_len() {
            self.scratch.logits = self
                .device
                .alloc_tensor(self.dtype, &[logit_rows, self.config.vocab_size])?;
        }
        let mut encoder = self.device.command_encoder()?;
        let s = &self.scratch;
        let mut pass = Pass {
            r: Recorder {
                encoder: &mut encoder,
                registry: &mut self.registry,
                device: &self.device,
            },
            config: &self.config,
            s,
            rope: &self.rope,
            freqs: self.freqs.as_ref(),
            cache,
            rows,
        };
        self.embedding.look_up(&mut pass.r, &s.ids, &s.hidden, rows)?;
        for (i, layer) in self.layers.iter().enumerate() {
            pass.attention(layer, i)?;
            pass.feed_forward(layer)?;
        }
        if logit_rows > 0 {
            let first = (rows - logit_rows) * self.config.hidden_size * self.dtype.size_of();
            let last = s
                .hidden
                .view(first, self.dtype, vec![logit_rows, self.config.hidden_size])?;
            pass.norm(&last, &self.norm, &s.normed, logit_rows, self.config.hidden_size)?;
            match &self.head {
                Some(head) => head.apply(&mut pass.r, &s.normed, &s.logits, logit_rows)?,
                None => self
                    .embedding
                    .as_linear(&mut pass.r, &s.normed, &s.logits, logit_rows)?,
            }
        }
        encoder.commit_and_wait()?;
        cache.advance(rows);
        read_f32(
            &self.scratch.logits,
            self.dtype,
            logit_rows * self.config.vocab_size,
        )
    }
}

#[derive(Clone, Copy)]
enum Logits {
    None,
    Last,
    All,
}

/// One forward pass being recorded.
struct Pass<'a> {
    r: Recorder<'a>,
    config: &'a DecoderConfig,
    s: &'a Scratch,
    rope: &'a RopeTable,
    freqs: Option<&'a MlxBuffer>,
    cache: &'a KvCache,
    rows: usize,
}

impl Pass<'_> {
    fn attention(&mut self, layer: &Layer, index: usize) -> Result<()> {
        let (s, config, rows) = (self.s, self.config, self.rows);
        let (heads, kv_heads, dim) = (config.n_heads, config.n_kv_heads, config.head_dim);
        self.norm(
            &s.hidden,
            &layer.attention_norm,
            &s.normed,
            rows,
            config.hidden_size,
        )?;
        layer.q.apply(&mut self.r, &s.normed, &s.q, rows)?;
        layer.k.apply(&mut self.r, &s.normed, &s.k, rows)?;
        layer.v.apply(&mut self.r, &s.normed, &s.v, rows)?;
        if let Some((q_norm, k_norm)) = &layer.qk_norms {
            self.norm(&s.q, q_norm, &s.q, rows * heads, dim)?;
            self.norm(&s.k, k_norm, &s.k, rows * kv_heads, dim)?;
        }
        let capacity = self.cache.capacity();
        self.rotate(&s.q, &s.q_heads, heads, rows * dim)?;
        self.rotate(&s.k, &self.cache.keys_end(index)?, kv_heads, capacity * dim)?;
        let (keys, values) = self.cache.layer(index);
        self.transpose(&s.v, values, rows, kv_heads, capacity, self.cache.len())?;
        let params = SdpaParams {
            n_heads: u32_of(heads)?,
            n_kv_heads: u32_of(kv_heads)?,
            head_dim: u32_of(dim)?,
            seq_len: u32_of(rows)?,
            kv_seq_len: u32_of(self.cache.len() + rows)?,
            scale: config.attention_scale(),
            kv_capacity: u32_of(capacity)?,
        };
        let r = &mut self.r;
        sdpa(
            r.encoder,
            r.registry,
            r.device,
            &s.q_heads,
            keys,
            values,
            &s.attention,
            &params,
            1,
        )?;
        // Back from [heads, rows, head_dim] to [rows, heads, head_dim]; one row lies the same either way.
        let merged = if rows == 1 { &s.attention } else { &s.q };
        if rows > 1 {
            self.transpose(&s.attention, &s.q, heads, rows, heads, 0)?;
        }
        layer.o.apply(&mut self.r, merged, &s.update, rows)?;
        self.add_update()
    }

    fn feed_forward(&mut self, layer: &Layer) -> Result<()> {
        let (s, config, rows) = (self.s, self.config, self.rows);
        self.norm(&s.hidden, &layer.mlp_norm, &s.normed, rows, config.hidden_size)?;
        layer.gate.apply(&mut self.r, &s.normed, &s.gate, rows)?;
        layer.up.apply(&mut self.r, &s.normed, &s.up, rows)?;
        let params = SiluMulParams {
            n_elements: u32_of(rows * config.intermediate_size)?,
        };
        let r = &mut self.r;
        silu_mul(r.encoder, r.registry, r.device, &s.gate, &s.up, &s.gate, &params)?;
        layer.down.apply(&mut self.r, &s.gate, &s.update, rows)?;
        self.add_update()
    }

    fn norm(
        &mut self,
        x: &MlxBuffer,
        weight: &MlxBuffer,
        y: &MlxBuffer,
        rows: usize,
        dim: usize,
    ) -> Result<()> {
        let params = RmsNormParams {
            rows: u32_of(rows)?,
            dim: u32_of(dim)?,
            eps: self.config.rms_norm_eps,
        };
        let r = &mut self.r;
        Ok(rms_norm(
            r.encoder,
            r.registry,
            r.device,
            x,
            Some(weight),
            y,
            &params,
        )?)
    }

    fn add_update(&mut self) -> Result<()> {
        let n = u32_of(self.rows * self.config.hidden_size)?;
        let (r, s) = (&mut self.r, self.s);
        let params = AddParams {
            n_elements: n,
            b_elements: n,
        };
        Ok(add(
            r.encoder, r.registry, r.device, &s.hidden, &s.update, &s.hidden, &params,
        )?)
    }

    /// Rotates `[rows, heads, head_dim]` into heads `out_head_stride` elements apart.
    fn rotate(&mut self, x: &MlxBuffer, y: &MlxBuffer, heads: usize, out_head_stride: usize) -> Result<()> {
        let (config, dim) = (self.config, u32_of(self.config.head_dim)?);
        // Given frequencies take the place of the base.
        let base = if self.freqs.is_some() { 0.0 } else { self.rope.base };
        let params = RopeParams {
            n_heads: u32_of(heads)?,
            seq_len: u32_of(self.rows)?,
            head_dim: dim,
            dims: u32_of(config.rope.dims)?,
            traditional: config.rope.traditional.into(),
            base,
            scale: self.rope.scale,
            offset: u32_of(self.cache.len())?,
            x_head_stride: dim,
            x_seq_stride: u32_of(heads * config.head_dim)?,
            out_head_stride: u32_of(out_head_stride)?,
            out_seq_stride: dim,
        };
        let r = &mut self.r;
        Ok(rotate(
            r.encoder, r.registry, r.device, x, self.freqs, y, &params,
        )?)
    }

    /// `[outer, inner, head_dim]` to `[inner, capacity, head_dim]`, from row `position` on.
    fn transpose(
        &mut self,
        x: &MlxBuffer,
        y: &MlxBuffer,
        outer: usize,
        inner: usize,
        capacity: usize,
        position: usize,
    ) -> Result<()> {
        let params = KvAppendParams {
            n_kv_heads: u32_of(inner)?,
            head_dim: u32_of(self.config.head_dim)?,
            n_tokens: u32_of(outer)?,
            capacity: u32_of(capacity)?,
            position: u32_of(position)?,
        };
        let r = &mut self.r;
        Ok(kv_append(r.encoder, r.registry, r.device, x, y, &params)?)
    }
}

impl Layer {
    fn load(l: &mut Loader<'_>, config: &DecoderConfig, index: usize) -> Result<Self> {
        let path = format!("model.layers.{index}");
        let (hidden, inner, dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (q_dim, kv_dim) = (config.query_width(), config.kv_width());
        let qk_norms = match config.qk_norm {
            false => None,
            true => Some((
                l.vector(&format!("{path}.self_attn.q_norm.weight"), dim)?,
                l.vector(&format!("{path}.self_attn.k_norm.weight"), dim)?,
            )),
        };
        Ok(Layer {
            attention_norm: l.vector(&format!("{path}.input_layernorm.weight"), hidden)?,
            q: l.linear(
                &format!("{path}.self_attn.q_proj"),
                q_dim,
                hidden,
                config.attention_bias,
            )?,
            k: l.linear(
                &format!("{path}.self_attn.k_proj"),
                kv_dim,
                hidden,
                config.attention_bias,
            )?,
            v: l.linear(
                &format!("{path}.self_attn.v_proj"),
                kv_dim,
                hidden,
                config.attention_bias,
            )?,
            o: l.linear(
                &format!("{path}.self_attn.o_proj"),
                hidden,
                q_dim,
                config.attention_bias,
            )?,
            qk_norms,
            mlp_norm: l.vector(&format!("{path}.post_attention_layernorm.weight"), hidden)?,
            gate: l.linear(&format!("{path}.mlp.gate_proj"), inner, hidden, config.mlp_bias)?,
            up: l.linear(&format!("{path}.mlp.up_proj"), inner, hidden, config.mlp_bias)?,
            down: l.linear(&format!("{path}.mlp.down_proj"), hidden, inner, config.mlp_bias)?,
        })
    }
}

impl Scratch {
    fn new(device: &MlxDevice, config: &DecoderConfig, dtype: DType, rows: usize) -> Result<Self> {
        let tensor = |width: usize| device.alloc_tensor(dtype, &[rows, width]);
        let (q, kv) = (config.query_width(), config.kv_width());
        Ok(Scratch {
            rows,
            ids: device.alloc_tensor(DType::U32, &[rows])?,
            hidden: tensor(config.hidden_size)?,
            normed: tensor(config.hidden_size)?,
            update: tensor(config.hidden_size)?,
            q: tensor(q)?,
            k: tensor(kv)?,
            v: tensor(kv)?,
            q_heads: tensor(q)?,
            attention: tensor(q)?,
            gate: tensor(config.intermediate_size)?,
            up: tensor(config.intermediate_size)?,
            logits: device.alloc_tensor(dtype, &[1, config.vocab_size])?,
        })
    }
}

/// Bytes that one position of the KV cache takes over all layers.
fn kv_bytes_per_token(config: &DecoderConfig, dtype: DType) -> usize {
    (2 * config.n_layers * dtype.size_of()).saturating_mul(config.kv_width())
}

/// Bytes of activations that one token takes in [`Scratch`].
fn activation_bytes_per_token(config: &DecoderConfig, dtype: DType) -> usize {
    let widths = 3 * config.hidden_size
        + 3 * config.query_width()
        + 2 * config.kv_width()
        + 2 * config.intermediate_size;
    dtype.size_of() * widths + DType::U32.size_of()
}

/// The first `n` elements as f32.
fn read_f32(buffer: &MlxBuffer, dtype: DType, n: usize) -> Result<Vec<f32>> {
    use half::slice::HalfFloatSliceExt;
    let mut out = vec![0f32; n];
    match dtype {
        DType::F16 => {
            let mut bits = vec![half::f16::ZERO; n];
            buffer.read_into(0, &mut bits)?;
            bits.convert_to_f32_slice(&mut out);
        }
        DType::BF16 => {
            let mut bits = vec![half::bf16::ZERO; n];
            buffer.read_into(0, &mut bits)?;
            bits.convert_to_f32_slice(&mut out);
        }
        _ => buffer.read_into(0, &mut out)?,
    }
    Ok(out)
}
