//! The same step with the operators of this library: no barriers, no parameter buffers, one style of call.

use mlx_native::ops::add::{AddParams, add};
use mlx_native::ops::copy::{CopyParams, copy};
use mlx_native::ops::decoded_matmul::{Coded, DecodedMatmulParams, decoded_matmul, decoded_rows};
use mlx_native::ops::fused_head_norm_rope::{
    Angles, HeadNorm, HeadNormRopeParams, Pairs, Theta, head_norm_rope,
};
use mlx_native::ops::fused_norm_add::{FusedNormOperands, FusedNormParams, Residual, fused_norm};
use mlx_native::ops::kv_cache_copy::{KvCacheCopyParams, kv_cache_copy};
use mlx_native::ops::moe_gate::{GateInputs, RouteParams, moe_gate_route};
use mlx_native::ops::rms_norm::{RmsNormParams, rms_norm};
use mlx_native::ops::rowwise::{Function, RowwiseParams, rowwise};
use mlx_native::ops::sdpa::{SdpaParams, sdpa};
use mlx_native::ops::softmax_sample::{SoftmaxSampleParams, softmax_sample};
use mlx_native::ops::weighted_sum::{WeightedSumParams, weighted_sum};
use mlx_native::{CommandEncoder, DType, KernelRegistry, MlxBuffer, MlxDevice};

use super::{
    CAP, CAPACITY, EPS, EXPERTS, GROUP, HEAD_DIM, HEADS, HIDDEN, INTERMEDIATE, KV_HEADS, Layer, Quantized,
    Result, TEMPERATURE, THETA, TOP_K, VOCAB, WINDOW,
};

/// What every operator is given.
struct Recorder<'a> {
    device: &'a MlxDevice,
    registry: &'a mut KernelRegistry,
    encoder: CommandEncoder,
}

impl Recorder<'_> {
    fn f32s(&self, shape: &[usize]) -> Result<MlxBuffer> {
        Ok(self.device.alloc_tensor(DType::F32, shape)?)
    }

    fn words(&self, values: &[u32]) -> Result<MlxBuffer> {
        let mut buffer = self.device.alloc_tensor(DType::U32, &[values.len()])?;
        buffer.write(0, values)?;
        Ok(buffer)
    }

    /// `input · wᵀ` of `m` rows, or of the matrices that `ids` choose.
    fn product(
        &mut self,
        w: &Quantized,
        input: &MlxBuffer,
        ids: Option<&MlxBuffer>,
        m: usize,
        rows_per_x: usize,
    ) -> Result<MlxBuffer> {
        let output = self.f32s(&[m, w.n])?;
        let codes = w.codes.view(0, DType::U8, vec![w.codes.byte_len()])?;
        let weight = Coded::Affine {
            bits: 4,
            group_size: GROUP as u32,
            codes: &codes,
            scales: &w.scales,
            biases: &w.biases,
            rounds_weight: true,
        };
        let params = DecodedMatmulParams {
            m: m as u32,
            n: w.n as u32,
            k: w.k as u32,
            rows_per_x: rows_per_x as u32,
            n_matrices: if ids.is_some() { EXPERTS as u32 } else { 1 },
        };
        decoded_matmul(
            &mut self.encoder,
            self.registry,
            self.device,
            input,
            weight,
            ids,
            &output,
            &params,
        )?;
        Ok(output)
    }

    fn norm(&mut self, x: &MlxBuffer, weight: &MlxBuffer) -> Result<MlxBuffer> {
        let output = self.f32s(&[HIDDEN])?;
        let params = RmsNormParams {
            rows: 1,
            dim: HIDDEN as u32,
            eps: EPS,
        };
        rms_norm(
            &mut self.encoder,
            self.registry,
            self.device,
            x,
            Some(weight),
            &output,
            &params,
        )?;
        Ok(output)
    }
}

impl Layer {
    /// One token through the layer: the next token, and the logarithm of its probability.
    pub(super) fn own_step(
        &self,
        device: &MlxDevice,
        registry: &mut KernelRegistry,
        token: u32,
        position: usize,
        random: f32,
    ) -> Result<(u32, f32)> {
        let mut r = Recorder {
            device,
            registry,
            encoder: device.command_encoder()?,
        };
        let (id, positions) = (r.words(&[token])?, r.words(&[position as u32])?);
        let e = &self.embedding;
        let codes = e.codes.view(0, DType::U8, vec![e.codes.byte_len()])?;
        let table = Coded::Affine {
            bits: 4,
            group_size: GROUP as u32,
            codes: &codes,
            scales: &e.scales,
            biases: &e.biases,
            rounds_weight: false,
        };
        let x = r.f32s(&[HIDDEN])?;
        let (rows, columns) = (VOCAB as u32, HIDDEN as u32);
        decoded_rows(
            &mut r.encoder,
            r.registry,
            device,
            &id,
            table,
            &x,
            1,
            rows,
            columns,
        )?;
        let normed = r.norm(&x, &self.norm)?;
        let attended = self.attend(&mut r, &normed, &positions, position)?;
        let projected = r.product(&self.o, &attended, None, 1, 1)?;
        let h = r.f32s(&[HIDDEN])?;
        let operands = FusedNormOperands {
            weight: Some(&self.norm),
            scalar: None,
            scalar_is_vector: false,
            output: &h,
            sum: None,
        };
        let params = FusedNormParams {
            rows: 1,
            dim: HIDDEN as u32,
            eps: EPS,
            residual: Residual::Behind,
        };
        fused_norm(
            &mut r.encoder,
            r.registry,
            device,
            &x,
            &projected,
            &operands,
            &params,
        )?;
        let output = self.mix(&mut r, &h)?;
        let normed = r.norm(&output, &self.norm)?;
        let logits = r.product(&self.head, &normed, None, 1, 1)?;
        let n_elements = VOCAB as u32;
        let params = RowwiseParams {
            p: [CAP, 0.0, 0.0, 0.0],
            ..RowwiseParams::dense(1, n_elements)
        };
        let cap = Function::Cap;
        rowwise(
            &mut r.encoder,
            r.registry,
            device,
            cap,
            &logits,
            None,
            None,
            &logits,
            &params,
        )?;
        let (probabilities, next, logprob) = (r.f32s(&[VOCAB])?, r.words(&[0])?, r.f32s(&[1])?);
        let params = SoftmaxSampleParams {
            n_elements,
            temperature: TEMPERATURE,
            random,
        };
        softmax_sample(
            &mut r.encoder,
            r.registry,
            device,
            &logits,
            &probabilities,
            &next,
            &logprob,
            &params,
        )?;
        r.encoder.commit_and_wait()?;
        Ok((next.read::<u32>()?[0], logprob.read::<f32>()?[0]))
    }

    fn attend(
        &self,
        r: &mut Recorder<'_>,
        normed: &MlxBuffer,
        positions: &MlxBuffer,
        position: usize,
    ) -> Result<MlxBuffer> {
        let q = r.product(&self.q, normed, None, 1, 1)?;
        let k = r.product(&self.k, normed, None, 1, 1)?;
        let v = r.product(&self.v, normed, None, 1, 1)?;
        for (rows, heads) in [(&q, HEADS), (&k, KV_HEADS)] {
            let norm = Some(HeadNorm {
                weight: Some(&self.head_norm),
                eps: EPS,
            });
            let angles = Angles::Computed {
                positions,
                theta: Theta::Value(THETA),
                factors: None,
            };
            let params = HeadNormRopeParams {
                n_tokens: 1,
                n_heads: heads as u32,
                head_dim: HEAD_DIM as u32,
                n_pairs: HEAD_DIM as u32 / 2,
                pairs: Pairs::Apart(HEAD_DIM as u32 / 2),
            };
            head_norm_rope(
                &mut r.encoder,
                r.registry,
                r.device,
                rows,
                norm,
                angles,
                rows,
                &params,
            )?;
        }
        for (rows, cache) in [(&k, &self.k_cache), (&v, &self.v_cache)] {
            let params = KvCacheCopyParams {
                n_heads: KV_HEADS as u32,
                head_dim: HEAD_DIM as u32,
                n_tokens: 1,
                capacity: CAPACITY as u32,
                position: position as u32,
                is_ring: false,
            };
            kv_cache_copy(&mut r.encoder, r.registry, r.device, rows, cache, &params)?;
        }
        // The window, as views of the caches: its keys are all that a single query sees.
        let first = (position + 1).saturating_sub(WINDOW as usize + 1);
        let len = (KV_HEADS * CAPACITY - first) * HEAD_DIM;
        let seen = |cache: &MlxBuffer| cache.view(first * HEAD_DIM * 4, DType::F32, vec![len]);
        let (keys, values) = (seen(&self.k_cache)?, seen(&self.v_cache)?);
        let (keys, values) = (padded(r, &keys, first)?, padded(r, &values, first)?);
        let output = r.f32s(&[HEADS * HEAD_DIM])?;
        let params = SdpaParams {
            n_heads: HEADS as u32,
            n_kv_heads: KV_HEADS as u32,
            head_dim: HEAD_DIM as u32,
            seq_len: 1,
            kv_seq_len: (position + 1 - first) as u32,
            scale: 1.0 / (HEAD_DIM as f32).sqrt(),
            kv_capacity: CAPACITY as u32,
        };
        sdpa(
            &mut r.encoder,
            r.registry,
            r.device,
            &q,
            &keys,
            &values,
            &output,
            &params,
            1,
        )?;
        Ok(output)
    }

    fn mix(&self, r: &mut Recorder<'_>, h: &MlxBuffer) -> Result<MlxBuffer> {
        let half = r.device.alloc_tensor(DType::BF16, &[HIDDEN])?;
        let params = CopyParams {
            n_elements: HIDDEN as u32,
        };
        copy(&mut r.encoder, r.registry, r.device, h, &half, &params)?;
        let (ids, weights) = (r.words(&[0; TOP_K])?, r.f32s(&[TOP_K])?);
        let inputs = GateInputs {
            x: &half,
            router: &self.router,
            norm_weight: &self.norm,
            scale: Some(&self.expert_scale),
        };
        let params = RouteParams {
            n_tokens: 1,
            n_experts: EXPERTS as u32,
            top_k: TOP_K as u32,
            normalize: true,
        };
        let hidden = HIDDEN as u32;
        moe_gate_route(
            &mut r.encoder,
            r.registry,
            r.device,
            &inputs,
            &ids,
            &weights,
            hidden,
            EPS,
            &params,
        )?;
        let gate_up = r.product(&self.gate_up, h, Some(&ids), TOP_K, TOP_K)?;
        let up_len = (2 * TOP_K - 1) * INTERMEDIATE;
        let up = gate_up.view(4 * INTERMEDIATE, DType::F32, vec![up_len])?;
        let hidden = r.f32s(&[TOP_K, INTERMEDIATE])?;
        let stride = 2 * INTERMEDIATE as u32;
        let params = RowwiseParams {
            a_stride: stride,
            b_stride: stride,
            ..RowwiseParams::dense(TOP_K as u32, INTERMEDIATE as u32)
        };
        rowwise(
            &mut r.encoder,
            r.registry,
            r.device,
            Function::GeluTanhMul,
            &gate_up,
            Some(&up),
            None,
            &hidden,
            &params,
        )?;
        let down = r.product(&self.down, &hidden, Some(&ids), TOP_K, 1)?;
        let output = r.f32s(&[HIDDEN])?;
        let params = WeightedSumParams {
            rows: 1,
            terms: TOP_K as u32,
            dim: HIDDEN as u32,
        };
        weighted_sum(
            &mut r.encoder,
            r.registry,
            r.device,
            &down,
            &weights,
            &output,
            &params,
        )?;
        let params = AddParams {
            n_elements: HIDDEN as u32,
            b_elements: HIDDEN as u32,
        };
        add(&mut r.encoder, r.registry, r.device, &output, h, &output, &params)?;
        Ok(output)
    }
}

/// Rows of a cache from its first one that counts on, in a buffer of the cache's size: `sdpa` wants whole heads.
fn padded(r: &mut Recorder<'_>, rows: &MlxBuffer, first: usize) -> Result<MlxBuffer> {
    let whole = r.f32s(&[KV_HEADS, CAPACITY, HEAD_DIM])?;
    let len = (KV_HEADS * CAPACITY - first) * HEAD_DIM;
    r.encoder.copy_bytes(rows, 0, &whole, 0, len * 4)?;
    Ok(whole)
}
