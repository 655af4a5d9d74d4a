//! A program moved over from 0.1: a small decoder layer with routed experts that generates a few tokens, written against the
//! interface of 0.1 alone ([`Layer::step`]), and once more with the operators of this library ([`Layer::own_step`]). Both print
//! the same tokens.
//!
//! `cargo run -p mlx-native --example from_0_1 [cpu|emulator|…]`; without an argument the best device of the machine. The emulator
//! needs `--features emulator`.

use std::error::Error;

use mlx_native::ops::elementwise::{CastDirection, cast};
use mlx_native::ops::embedding::{EmbeddingGatherParams, embedding_gather};
use mlx_native::ops::fused_head_norm_rope::dispatch_fused_head_norm_rope_f32;
use mlx_native::ops::fused_norm_add::dispatch_fused_norm_add_f32;
use mlx_native::ops::kv_cache_copy::dispatch_kv_cache_copy_batch_f32;
use mlx_native::ops::moe_dispatch::{moe_swiglu_batch_encode, moe_weighted_sum_encode};
use mlx_native::ops::moe_gate::{MoeGateParams, moe_gate};
use mlx_native::ops::quantized_matmul_id::{QuantizedMatmulIdParams, quantized_matmul_id};
use mlx_native::ops::sdpa_sliding::{SdpaSlidingParams, sdpa_sliding};
use mlx_native::ops::softmax_sample::dispatch_softmax_sample_f32;
use mlx_native::{
    DType, GraphExecutor, GraphSession, KernelRegistry, MlxBuffer, MlxDevice, QuantizedMatmulParams,
};

#[path = "from_0_1/own.rs"]
mod own;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const HIDDEN: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const EXPERTS: usize = 6;
const TOP_K: usize = 2;
const INTERMEDIATE: usize = 32;
const VOCAB: usize = 96;
const CAPACITY: usize = 16;
const WINDOW: u32 = 4;
const GROUP: usize = 32;
const EPS: f32 = 1e-6;
const THETA: f32 = 1e4;
const CAP: f32 = 30.0;
const TEMPERATURE: f32 = 0.8;
const STEPS: usize = 12;

/// A small generator of pseudo-random numbers, so that weights are the same everywhere.
struct Random(u32);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0.rotate_right(9)
    }

    /// In [-1, 1).
    fn signed(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn floats(device: &MlxDevice, shape: &[usize], value: impl FnMut() -> f32) -> Result<MlxBuffer> {
    let len = shape.iter().product::<usize>();
    let mut buffer = device.alloc_buffer(len * 4, DType::F32, shape.to_vec())?;
    let values: Vec<f32> = std::iter::repeat_with(value).take(len).collect();
    buffer.as_mut_slice::<f32>()?.copy_from_slice(&values);
    Ok(buffer)
}

/// A matrix `[n, k]` of 4-bit codes, or a stack of them.
struct Quantized {
    codes: MlxBuffer,
    scales: MlxBuffer,
    biases: MlxBuffer,
    n: usize,
    k: usize,
}

impl Quantized {
    fn new(device: &MlxDevice, random: &mut Random, stack: usize, n: usize, k: usize) -> Result<Self> {
        let (words, groups) = (stack * n * k / 8, stack * n * k / GROUP);
        let mut codes = device.alloc_buffer(words * 4, DType::U32, vec![stack, n, k / 8])?;
        codes
            .as_mut_slice::<u32>()?
            .iter_mut()
            .for_each(|word| *word = random.bits());
        let mut parts = Vec::new();
        let scale = 1.0 / (k as f32).sqrt() / 4.0;
        for center in [1.0, -7.5] {
            let mut buffer = device.alloc_buffer(groups * 2, DType::BF16, vec![stack, n, k / GROUP])?;
            for v in buffer.as_mut_slice::<u16>()? {
                // The upper half of an f32 is a bf16.
                let value = center * scale * (1.0 + 0.2 * random.signed());
                *v = (value.to_bits() >> 16) as u16;
            }
            parts.push(buffer);
        }
        let (Some(biases), Some(scales)) = (parts.pop(), parts.pop()) else {
            return Err("two parts".into());
        };
        Ok(Quantized {
            codes,
            scales,
            biases,
            n,
            k,
        })
    }

    /// `input · wᵀ`, in the session.
    fn apply(
        &self,
        session: &mut GraphSession<'_>,
        registry: &mut KernelRegistry,
        device: &MlxDevice,
        input: &MlxBuffer,
    ) -> Result<MlxBuffer> {
        let params = QuantizedMatmulParams {
            m: 1,
            k: self.k as u32,
            n: self.n as u32,
            group_size: GROUP as u32,
            bits: 4,
        };
        session.barrier();
        Ok(session.quantized_matmul(
            registry,
            device,
            input,
            &self.codes,
            &self.scales,
            &self.biases,
            &params,
        )?)
    }
}

impl Quantized {
    /// `input · w[id]ᵀ` for `used` ids of each of `m` rows, in the session.
    fn route(
        &self,
        session: &mut GraphSession<'_>,
        registry: &mut KernelRegistry,
        device: &MlxDevice,
        input: &MlxBuffer,
        ids: &MlxBuffer,
        m: usize,
        used: usize,
    ) -> Result<MlxBuffer> {
        let params = QuantizedMatmulIdParams {
            m: m as u32,
            k: self.k as u32,
            n: self.n as u32,
            group_size: GROUP as u32,
            bits: 4,
            n_expert_used: used as u32,
            num_experts: EXPERTS as u32,
        };
        session.barrier();
        let (codes, scales, biases) = (&self.codes, &self.scales, &self.biases);
        let encoder = session.encoder_mut();
        Ok(quantized_matmul_id(
            encoder, registry, device, input, codes, scales, biases, ids, &params,
        )?)
    }
}

/// The weights, the cache and the buffers of a step.
struct Layer {
    embedding: Quantized,
    q: Quantized,
    k: Quantized,
    v: Quantized,
    o: Quantized,
    gate_up: Quantized,
    down: Quantized,
    head: Quantized,
    norm: MlxBuffer,
    head_norm: MlxBuffer,
    router: MlxBuffer,
    expert_scale: MlxBuffer,
    norm_params: MlxBuffer,
    cap_params: MlxBuffer,
    sample_params: MlxBuffer,
    k_cache: MlxBuffer,
    v_cache: MlxBuffer,
}

impl Layer {
    fn new(device: &MlxDevice) -> Result<Self> {
        let mut random = Random(42);
        let mut quantized = |stack, n, k| Quantized::new(device, &mut random, stack, n, k);
        let embedding = quantized(1, VOCAB, HIDDEN)?;
        let (q, o) = (
            quantized(1, HEADS * HEAD_DIM, HIDDEN)?,
            quantized(1, HIDDEN, HEADS * HEAD_DIM)?,
        );
        let (k, v) = (
            quantized(1, KV_HEADS * HEAD_DIM, HIDDEN)?,
            quantized(1, KV_HEADS * HEAD_DIM, HIDDEN)?,
        );
        let gate_up = quantized(EXPERTS, 2 * INTERMEDIATE, HIDDEN)?;
        let (down, head) = (
            quantized(EXPERTS, HIDDEN, INTERMEDIATE)?,
            quantized(1, VOCAB, HIDDEN)?,
        );
        let mut near_one = || 1.0 + 0.1 * random.signed();
        let norm = floats(device, &[HIDDEN], &mut near_one)?;
        let head_norm = floats(device, &[HEAD_DIM], &mut near_one)?;
        let expert_scale = floats(device, &[EXPERTS], &mut near_one)?;
        let router = floats(device, &[EXPERTS, HIDDEN], || random.signed())?;
        let list = |values: Vec<f32>| {
            let mut values = values.into_iter();
            floats(device, &[values.len()], || values.next().unwrap_or_default())
        };
        Ok(Layer {
            embedding,
            q,
            k,
            v,
            o,
            gate_up,
            down,
            head,
            norm,
            head_norm,
            router,
            expert_scale,
            norm_params: list(vec![EPS, HIDDEN as f32])?,
            cap_params: list(vec![CAP, f32::from_bits(VOCAB as u32)])?,
            sample_params: list(vec![VOCAB as f32, TEMPERATURE, 0.0])?,
            k_cache: floats(device, &[KV_HEADS, CAPACITY, HEAD_DIM], || 0.0)?,
            v_cache: floats(device, &[KV_HEADS, CAPACITY, HEAD_DIM], || 0.0)?,
        })
    }

    /// One token through the layer: the next token, and the logarithm of its probability.
    fn step(
        &mut self,
        executor: &GraphExecutor,
        registry: &mut KernelRegistry,
        token: u32,
        position: usize,
        random_val: f32,
    ) -> Result<(u32, f32)> {
        let device = executor.device();
        let metal = device.metal_device();
        let f32s = |n: usize| device.alloc_buffer(n * 4, DType::F32, vec![n]);
        let words = |values: &[u32]| -> Result<MlxBuffer> {
            let mut buffer = device.alloc_buffer(values.len() * 4, DType::U32, vec![values.len()])?;
            buffer.as_mut_slice::<u32>()?.copy_from_slice(values);
            Ok(buffer)
        };
        let (id, positions) = (words(&[token])?, words(&[position as u32])?);
        let mut session = executor.begin_recorded()?;

        let x = f32s(HIDDEN)?;
        let e = &self.embedding;
        let rows = EmbeddingGatherParams {
            embed_dim: HIDDEN,
            group_size: GROUP,
            bits: 4,
            n_tokens: 1,
        };
        embedding_gather(
            session.encoder_mut(),
            registry,
            metal,
            &e.codes,
            &e.scales,
            &e.biases,
            &id,
            &x,
            &rows,
        )?;
        session.barrier();
        let normed = f32s(HIDDEN)?;
        session.rms_norm(
            registry,
            metal,
            &x,
            &self.norm,
            &normed,
            &self.norm_params,
            1,
            HIDDEN as u32,
        )?;

        // Attention.
        let q = self.q.apply(&mut session, registry, device, &normed)?;
        let k = self.k.apply(&mut session, registry, device, &normed)?;
        let v = self.v.apply(&mut session, registry, device, &normed)?;
        let (rotated_q, rotated_k) = (f32s(HEADS * HEAD_DIM)?, f32s(KV_HEADS * HEAD_DIM)?);
        session.barrier();
        for (from, to, heads) in [(&q, &rotated_q, HEADS), (&k, &rotated_k, KV_HEADS)] {
            dispatch_fused_head_norm_rope_f32(
                session.encoder_mut(),
                registry,
                metal,
                from,
                to,
                Some(&self.head_norm),
                &positions,
                None,
                heads as u32,
                HEAD_DIM as u32,
                HEAD_DIM as u32 / 2,
                EPS,
                THETA,
            )?;
        }
        session.barrier();
        for (from, cache) in [(&rotated_k, &self.k_cache), (&v, &self.v_cache)] {
            let (heads, dim) = (KV_HEADS as u32, HEAD_DIM as u32);
            dispatch_kv_cache_copy_batch_f32(
                session.encoder_mut(),
                registry,
                metal,
                from,
                cache,
                heads,
                dim,
                CAPACITY as u32,
                position as u32,
            )?;
        }
        session.barrier();
        let attended = f32s(HEADS * HEAD_DIM)?;
        let window = SdpaSlidingParams {
            n_heads: HEADS as u32,
            n_kv_heads: KV_HEADS as u32,
            head_dim: HEAD_DIM as u32,
            seq_len: 1,
            kv_seq_len: position as u32 + 1,
            window_size: WINDOW,
            scale: 1.0 / (HEAD_DIM as f32).sqrt(),
            kv_capacity: CAPACITY as u32,
        };
        let (k_cache, v_cache) = (&self.k_cache, &self.v_cache);
        sdpa_sliding(
            session.encoder_mut(),
            registry,
            device,
            &rotated_q,
            k_cache,
            v_cache,
            &attended,
            &window,
            1,
        )?;
        let projected = self.o.apply(&mut session, registry, device, &attended)?;
        session.barrier();
        let h = f32s(HIDDEN)?;
        dispatch_fused_norm_add_f32(
            session.encoder_mut(),
            registry,
            metal,
            &x,
            &projected,
            &self.norm,
            &h,
            HIDDEN as u32,
            1,
            EPS,
        )?;

        let output = self.experts(&mut session, registry, &h)?;
        let final_norm = f32s(HIDDEN)?;
        session.barrier();
        session.rms_norm(
            registry,
            metal,
            &output,
            &self.norm,
            &final_norm,
            &self.norm_params,
            1,
            HIDDEN as u32,
        )?;
        let logits = self.head.apply(&mut session, registry, device, &final_norm)?;
        let flat = device.alloc_buffer(VOCAB * 4, DType::F32, vec![VOCAB])?;
        session.barrier();
        cast_flat(&mut session, registry, device, &logits, &flat)?;
        session.barrier();
        let capped = f32s(VOCAB)?;
        session.softcap(registry, metal, &flat, &capped, &self.cap_params, CAP)?;
        session.barrier();
        let (scratch, next, logprob) = (f32s(VOCAB)?, words(&[0])?, f32s(1)?);
        self.sample_params.as_mut_slice::<f32>()?[2] = random_val;
        dispatch_softmax_sample_f32(
            session.encoder_mut(),
            registry,
            metal,
            &capped,
            &scratch,
            &next,
            &logprob,
            &self.sample_params,
            VOCAB as u32,
            TEMPERATURE,
            random_val,
        )?;
        session.finish_with_fusion_and_reorder(registry, metal)?;
        Ok((next.as_slice::<u32>()?[0], logprob.as_slice::<f32>()?[0]))
    }

    /// The routed experts, and the residual.
    fn experts(
        &self,
        session: &mut GraphSession<'_>,
        registry: &mut KernelRegistry,
        h: &MlxBuffer,
    ) -> Result<MlxBuffer> {
        let device = session.device().clone();
        let metal = device.metal_device();
        let f32s = |n: usize| device.alloc_buffer(n * 4, DType::F32, vec![n]);
        let half = device.alloc_buffer(HIDDEN * 2, DType::BF16, vec![1, HIDDEN])?;
        session.barrier();
        cast(
            session.encoder_mut(),
            registry,
            metal,
            h,
            &half,
            HIDDEN,
            CastDirection::F32ToBF16,
        )?;
        session.barrier();
        let (ids, weights) = (
            device.alloc_buffer(TOP_K * 4, DType::U32, vec![1, TOP_K])?,
            f32s(TOP_K)?,
        );
        let gate = MoeGateParams {
            hidden_dim: HIDDEN,
            n_experts: EXPERTS,
            top_k: TOP_K,
            seq_len: 1,
            rms_eps: EPS,
        };
        let (router, norm, scale) = (&self.router, &self.norm, &self.expert_scale);
        moe_gate(
            session.encoder_mut(),
            registry,
            metal,
            &half,
            router,
            norm,
            scale,
            &ids,
            &weights,
            &gate,
        )?;
        session.barrier();
        let gate_up = self
            .gate_up
            .route(session, registry, &device, h, &ids, 1, TOP_K)?;
        let hidden = f32s(TOP_K * INTERMEDIATE)?;
        session.barrier();
        moe_swiglu_batch_encode(
            session.encoder_mut(),
            registry,
            metal,
            &gate_up,
            &hidden,
            INTERMEDIATE,
            TOP_K,
        )?;
        let down = self
            .down
            .route(session, registry, &device, &hidden, &ids, TOP_K, 1)?;
        session.barrier();
        let mixed = f32s(HIDDEN)?;
        moe_weighted_sum_encode(
            session.encoder_mut(),
            registry,
            metal,
            &down,
            &weights,
            &mixed,
            HIDDEN,
            TOP_K,
        )?;
        session.barrier();
        let output = f32s(HIDDEN)?;
        session.elementwise_add(registry, metal, h, &mixed, &output, HIDDEN, DType::F32)?;
        Ok(output)
    }
}

/// The logits as a vector: `quantized_matmul` gives a matrix of one row, `softcap` wants equal shapes.
fn cast_flat(
    session: &mut GraphSession<'_>,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    from: &MlxBuffer,
    to: &MlxBuffer,
) -> Result<()> {
    let params = mlx_native::ops::copy::StridedCopyParams {
        rows: 1,
        cols: VOCAB as u32,
        stride_row: VOCAB as u32,
        stride_col: 1,
    };
    let encoder = session.encoder_mut();
    Ok(mlx_native::ops::copy::dispatch_strided_copy_f32(
        encoder,
        registry,
        device.metal_device(),
        from,
        to,
        &params,
    )?)
}

/// The tokens and their log-probabilities, by the function given.
fn generate(mut step: impl FnMut(u32, usize, f32) -> Result<(u32, f32)>) -> Result<(Vec<u32>, f32)> {
    let mut random = Random(7);
    let (mut token, mut tokens, mut total) = (1, Vec::new(), 0.0);
    for position in 0..STEPS {
        let (next, logprob) = step(token, position, random.signed().abs())?;
        token = next;
        tokens.push(next);
        total += logprob;
    }
    Ok((tokens, total))
}

fn main() -> Result<()> {
    // The one line that is not 0.1's: which device.
    let device = match std::env::args().nth(1) {
        Some(kind) => MlxDevice::open(kind.parse()?)?,
        None => MlxDevice::new()?,
    };
    run(device)
}

/// Generates both ways; an error if they differ.
pub fn run(device: MlxDevice) -> Result<()> {
    println!("device: {}", device.name());
    let mut registry = KernelRegistry::new();
    let executor = GraphExecutor::new(device);
    let mut layer = Layer::new(executor.device())?;
    let published =
        generate(|token, position, random| layer.step(&executor, &mut registry, token, position, random))?;
    println!(
        "0.1's interface: {:?}, log-probability {:.4}",
        published.0, published.1
    );
    let layer = Layer::new(executor.device())?;
    let own = generate(|token, position, random| {
        layer.own_step(executor.device(), &mut registry, token, position, random)
    })?;
    println!("own operators:   {:?}, log-probability {:.4}", own.0, own.1);
    if published.0 != own.0 || (published.1 - own.1).abs() > 1e-4 {
        return Err("the two disagree".into());
    }
    Ok(())
}
