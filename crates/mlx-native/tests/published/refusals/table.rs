//! A right call of every published operator.

use mlx_native::DType::{self, BF16, F16, F32, U8, U32};
use mlx_native::ops;
use mlx_native::ops::copy::StridedCopyParams;
use mlx_native::ops::dense_gemm::DenseGemmF16Params;
use mlx_native::ops::elementwise::CastDirection;
use mlx_native::ops::embedding::EmbeddingGatherParams;
use mlx_native::ops::flash_attn_vec::FlashAttnVecParams;
use mlx_native::ops::flash_attn_vec_tq::FlashAttnVecTqParams;
use mlx_native::ops::moe_dispatch::{ExpertWeights, MoeDispatchParams};
use mlx_native::ops::moe_gate::MoeGateParams;
use mlx_native::ops::sdpa::SdpaParams;
use mlx_native::ops::sdpa_sliding::SdpaSlidingParams;
use mlx_native::{
    GgmlQuantizedMatmulIdParams, GgmlQuantizedMatmulParams, GgmlType, QuantizedMatmulIdParams,
    QuantizedMatmulParams,
};

use super::Operator;

/// One line of data, one of code for each: the name, buffers, sizes, and which of these are special as `Operator` says.
macro_rules! operators {
    ($($name:literal buffers [$($buffer:tt),*] sizes [$($size:expr),*] $(unread [$($unread:literal),*])?
        $(free [$($free:literal),*])? $(zero [$($zero:literal),*])? $(wide [$($wide:literal),*])? $(open [$($open:literal),*])? => |$c:ident| $call:expr;)*) => {
        &[$(Operator {
            name: $name,
            buffers: &[$($buffer),*],
            unread: &[$($($unread),*)?],
            sizes: &[$($size),*],
            free: &[$($($free),*)?],
            may_be_zero: &[$($($zero),*)?],
            wide: &[$($($wide),*)?],
            open: &[$($($open),*)?],
            call: |$c| $call,
        }),*]
    };
}

#[rustfmt::skip]
pub const OPERATORS: &[Operator] = operators! {
    "argmax_f32" buffers [(F32, 33), (U32, 1), (F32, 1), (U32, 1)] sizes [33] unread [3] =>
        |c| ops::argmax::dispatch_argmax_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], c.u(0));
    "argsort_desc_f32" buffers [(F32, 66), (U32, 66)] sizes [2, 33] =>
        |c| ops::argsort::dispatch_argsort_desc_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.u(0), c.u(1));
    "strided_copy_f32" buffers [(F32, 100), (F32, 6)] sizes [2, 3, 97, 1] zero [2, 3] =>
        |c| ops::copy::dispatch_strided_copy_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &StridedCopyParams { rows: c.u(0), cols: c.u(1), stride_row: c.u(2), stride_col: c.u(3) });
    "dense_gemm_f16" buffers [(F16, 14), (F16, 35), (F16, 10)] sizes [2, 5, 7] =>
        |c| ops::dense_gemm::dispatch_dense_gemm_f16(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &DenseGemmF16Params { m: c.u(0), n: c.u(1), k: c.u(2) });
    "dense_matvec_f16w_f32io" buffers [(F32, 7), (F16, 35), (F32, 5)] sizes [1, 5, 7] =>
        |c| ops::dense_gemm::dispatch_dense_matvec_f16w_f32io(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &DenseGemmF16Params { m: c.u(0), n: c.u(1), k: c.u(2) });
    "elementwise_add F32" buffers [(F32, 33), (F32, 33), (F32, 33)] sizes [33] wide [0] =>
        |c| ops::elementwise::elementwise_add(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.sizes[0], DType::F32);
    "elementwise_add F16" buffers [(F16, 33), (F16, 33), (F16, 33)] sizes [33] wide [0] =>
        |c| ops::elementwise::elementwise_add(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.sizes[0], DType::F16);
    "elementwise_add BF16" buffers [(BF16, 33), (BF16, 33), (BF16, 33)] sizes [33] wide [0] =>
        |c| ops::elementwise::elementwise_add(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.sizes[0], DType::BF16);
    "elementwise_mul F32" buffers [(F32, 33), (F32, 33), (F32, 33)] sizes [33] wide [0] =>
        |c| ops::elementwise::elementwise_mul(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.sizes[0], DType::F32);
    "elementwise_mul F16" buffers [(F16, 33), (F16, 33), (F16, 33)] sizes [33] wide [0] =>
        |c| ops::elementwise::elementwise_mul(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.sizes[0], DType::F16);
    "elementwise_mul BF16" buffers [(BF16, 33), (BF16, 33), (BF16, 33)] sizes [33] wide [0] =>
        |c| ops::elementwise::elementwise_mul(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.sizes[0], DType::BF16);
    "scalar_mul_f32" buffers [(F32, 33), (F32, 33)] sizes [33] wide [0] =>
        |c| ops::elementwise::scalar_mul_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.sizes[0], 2.0);
    "scalar_mul_bf16" buffers [(BF16, 33), (BF16, 33)] sizes [33] wide [0] =>
        |c| ops::elementwise::scalar_mul_bf16(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.sizes[0], 2.0);
    "scalar_mul_bf16_with_encoder" buffers [(BF16, 33), (BF16, 33)] sizes [33] =>
        |c| ops::elementwise::dispatch_scalar_mul_bf16_with_encoder(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.u(0), 2.0);
    "embedding_gather_scale_f32" buffers [(F32, 99), (F32, 33)] sizes [2, 33] zero [0] wide [1] =>
        |c| ops::elementwise::embedding_gather_scale_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.u(0), c.sizes[1], 2.0);
    "cast F16ToF32" buffers [(F16, 33), (F32, 33)] sizes [33] wide [0] =>
        |c| ops::elementwise::cast(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.sizes[0], CastDirection::F16ToF32);
    "cast F32ToF16" buffers [(F32, 33), (F16, 33)] sizes [33] wide [0] =>
        |c| ops::elementwise::cast(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.sizes[0], CastDirection::F32ToF16);
    "cast BF16ToF32" buffers [(BF16, 33), (F32, 33)] sizes [33] wide [0] =>
        |c| ops::elementwise::cast(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.sizes[0], CastDirection::BF16ToF32);
    "cast F32ToBF16" buffers [(F32, 33), (BF16, 33)] sizes [33] wide [0] =>
        |c| ops::elementwise::cast(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.sizes[0], CastDirection::F32ToBF16);
    "cast_f32_to_bf16" buffers [(F32, 33), (BF16, 33)] sizes [33] =>
        |c| ops::elementwise::dispatch_cast_f32_to_bf16_with_encoder(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.u(0));
    "cast_bf16_to_f32" buffers [(BF16, 33), (F32, 33)] sizes [33] =>
        |c| ops::elementwise::dispatch_cast_bf16_to_f32_with_encoder(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.u(0));
    "embedding_gather 4" buffers [(U8, 32), (BF16, 2), (BF16, 2), (U32, 5), (F32, 320)] sizes [64, 32, 5] wide [0, 1, 2] =>
        |c| ops::embedding::embedding_gather(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], &EmbeddingGatherParams { embed_dim: c.sizes[0], group_size: c.sizes[1], bits: 4, n_tokens: c.sizes[2] });
    "embedding_gather 6" buffers [(U8, 48), (BF16, 2), (BF16, 2), (U32, 5), (F32, 320)] sizes [64, 32, 5] wide [0, 1, 2] =>
        |c| ops::embedding::embedding_gather(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], &EmbeddingGatherParams { embed_dim: c.sizes[0], group_size: c.sizes[1], bits: 6, n_tokens: c.sizes[2] });
    "flash_attn_vec" buffers [(F32, 128), (F32, 160), (F32, 160), (F32, 128), (U8, 17408)] sizes [4, 1, 32, 3, 5, 7] free [5] =>
        |c| ops::flash_attn_vec::flash_attn_vec(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], &FlashAttnVecParams { num_heads: c.u(0), num_kv_heads: c.u(1), head_dim: c.u(2), kv_seq_len: c.u(3), kv_capacity: c.u(4), scale: 1.0, mask_type: 2, sliding_window: c.u(5), softcap: 0.0 });
    "flash_attn_vec f16" buffers [(F32, 128), (F16, 160), (F16, 160), (F32, 128), (U8, 17408)] sizes [4, 1, 32, 3, 5, 7] free [5] =>
        |c| ops::flash_attn_vec::flash_attn_vec(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], &FlashAttnVecParams { num_heads: c.u(0), num_kv_heads: c.u(1), head_dim: c.u(2), kv_seq_len: c.u(3), kv_capacity: c.u(4), scale: 1.0, mask_type: 2, sliding_window: c.u(5), softcap: 0.0 });
    "flash_attn_vec_tq" buffers [(F32, 128), (U8, 80), (F32, 5), (U8, 80), (F32, 5), (F32, 128), (F32, 4352)] sizes [4, 1, 32, 3, 5, 7] free [5] =>
        |c| ops::flash_attn_vec_tq::flash_attn_vec_tq(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], &c.buffers[5], &c.buffers[6], &FlashAttnVecTqParams { num_heads: c.u(0), num_kv_heads: c.u(1), head_dim: c.u(2), kv_seq_len: c.u(3), kv_capacity: c.u(4), scale: 1.0, mask_type: 2, sliding_window: c.u(5), softcap: 0.0 });
    "fused_head_norm_rope_bf16" buffers [(BF16, 66), (BF16, 66), (BF16, 33), (F32, 15), (F32, 15)] sizes [2, 33, 15] zero [2] =>
        |c| ops::fused_head_norm_rope::dispatch_fused_head_norm_rope_bf16(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], Some(&c.buffers[2]), &c.buffers[3], &c.buffers[4], c.u(0), c.u(1), c.u(2), 1e-5);
    "fused_head_norm_rope_f32" buffers [(F32, 68), (F32, 68), (F32, 34), (U32, 1), (F32, 15)] sizes [2, 34, 15] zero [2] =>
        |c| ops::fused_head_norm_rope::dispatch_fused_head_norm_rope_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], Some(&c.buffers[2]), &c.buffers[3], Some(&c.buffers[4]), c.u(0), c.u(1), c.u(2), 1e-5, 1e4);
    "fused_norm_add_bf16" buffers [(BF16, 66), (BF16, 66), (BF16, 33), (BF16, 66)] sizes [33, 2] =>
        |c| ops::fused_norm_add::dispatch_fused_norm_add_bf16(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], c.u(0), c.u(1), 1e-5);
    "fused_norm_add_no_weight_bf16" buffers [(BF16, 66), (BF16, 66), (BF16, 66)] sizes [33, 2] =>
        |c| ops::fused_norm_add::dispatch_fused_norm_add_no_weight_bf16(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.u(0), c.u(1), 1e-5);
    "fused_norm_add_f32" buffers [(F32, 66), (F32, 66), (F32, 33), (F32, 66)] sizes [33, 2] =>
        |c| ops::fused_norm_add::dispatch_fused_norm_add_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], c.u(0), c.u(1), 1e-5);
    "fused_residual_norm_f32" buffers [(F32, 66), (F32, 66), (F32, 33), (F32, 66), (F32, 66)] sizes [2, 33] =>
        |c| ops::fused_norm_add::dispatch_fused_residual_norm_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], Some(&c.buffers[4]), c.u(0), c.u(1), 1e-5);
    "fused_residual_norm_scalar_f32 true" buffers [(F32, 66), (F32, 66), (F32, 33), (F32, 66), (F32, 33)] sizes [2, 33] =>
        |c| ops::fused_norm_add::dispatch_fused_residual_norm_scalar_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], c.u(0), c.u(1), 1e-5, true);
    "fused_residual_norm_scalar_f32 false" buffers [(F32, 66), (F32, 66), (F32, 33), (F32, 66), (F32, 1)] sizes [2, 33] =>
        |c| ops::fused_norm_add::dispatch_fused_residual_norm_scalar_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], c.u(0), c.u(1), 1e-5, false);
    "fused_norm_add_scalar_f32 true" buffers [(F32, 66), (F32, 66), (F32, 33), (F32, 66), (F32, 33)] sizes [2, 33] =>
        |c| ops::fused_norm_add::dispatch_fused_norm_add_scalar_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], c.u(0), c.u(1), 1e-5, true);
    "fused_norm_add_scalar_f32 false" buffers [(F32, 66), (F32, 66), (F32, 33), (F32, 66), (F32, 1)] sizes [2, 33] =>
        |c| ops::fused_norm_add::dispatch_fused_norm_add_scalar_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], c.u(0), c.u(1), 1e-5, false);
    "fused_moe_routing_f32" buffers [(F32, 9), (U32, 3), (F32, 3), (F32, 9)] sizes [9, 3] =>
        |c| ops::fused_norm_add::dispatch_fused_moe_routing_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], c.u(0), c.u(1));
    "fused_residual_norm_bf16" buffers [(BF16, 66), (BF16, 66), (BF16, 33), (BF16, 66), (BF16, 66)] sizes [2, 33] =>
        |c| ops::fused_residual_norm::dispatch_fused_residual_norm_bf16(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], Some(&c.buffers[4]), c.u(0), c.u(1), 1e-5);
    "fwht_f32" buffers [(F32, 64)] sizes [2, 32] =>
        |c| ops::fwht_standalone::dispatch_fwht_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], c.u(0), c.u(1));
    "gather_f32" buffers [(F32, 66), (U32, 3), (F32, 99)] sizes [2, 33, 3] =>
        |c| ops::gather::dispatch_gather_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.u(0), c.u(1), c.u(2));
    "gather_nibble" buffers [(U8, 51), (F32, 544), (F32, 102)] sizes [3, 34] zero [0, 1] =>
        |c| ops::gather_bench::dispatch_gather_nibble(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.u(0), c.u(1));
    "gather_f16_seq" buffers [(F16, 102), (F32, 102)] sizes [3, 34] zero [0, 1] =>
        |c| ops::gather_bench::dispatch_gather_f16_seq(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.u(0), c.u(1));
    "gelu_f32" buffers [(F32, 33), (F32, 33)] sizes [] =>
        |c| ops::gelu::dispatch_gelu(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1]);
    "softcap_f32" buffers [(F32, 33), (F32, 33), (F32, 2)] sizes [] unread [2] =>
        |c| ops::softcap::dispatch_softcap(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], 30.0);
    "softmax_f32" buffers [(F32, 66), (F32, 66), (F32, 2)] sizes [2, 33] unread [2] =>
        |c| ops::softmax::dispatch_softmax(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.u(0), c.u(1));
    "rms_norm_f32" buffers [(F32, 66), (F32, 33), (F32, 66), (F32, 1)] sizes [2, 33] =>
        |c| ops::rms_norm::dispatch_rms_norm(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], c.u(0), c.u(1));
    "rms_norm_mul_f32" buffers [(F32, 66), (F32, 33), (F32, 66), (F32, 66), (F32, 1)] sizes [2, 33] =>
        |c| ops::rms_norm::dispatch_rms_norm_mul(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], c.u(0), c.u(1));
    "rope_f32" buffers [(F32, 68), (F32, 68), (F32, 1), (U32, 2)] sizes [2, 34] =>
        |c| ops::rope::dispatch_rope(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], c.u(0), c.u(1));
    "gelu_f16" buffers [(F16, 33), (F16, 33)] sizes [] =>
        |c| ops::gelu::dispatch_gelu(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1]);
    "softcap_f16" buffers [(F16, 33), (F16, 33), (F32, 2)] sizes [] unread [2] =>
        |c| ops::softcap::dispatch_softcap(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], 30.0);
    "softmax_f16" buffers [(F16, 66), (F16, 66), (F32, 2)] sizes [2, 33] unread [2] =>
        |c| ops::softmax::dispatch_softmax(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.u(0), c.u(1));
    "rms_norm_f16" buffers [(F16, 66), (F32, 33), (F16, 66), (F32, 1)] sizes [2, 33] =>
        |c| ops::rms_norm::dispatch_rms_norm(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], c.u(0), c.u(1));
    "rms_norm_mul_f16" buffers [(F16, 66), (F32, 33), (F16, 66), (F16, 66), (F32, 1)] sizes [2, 33] =>
        |c| ops::rms_norm::dispatch_rms_norm_mul(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], c.u(0), c.u(1));
    "rope_f16" buffers [(F16, 68), (F16, 68), (F32, 1), (U32, 2)] sizes [2, 34] =>
        |c| ops::rope::dispatch_rope(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], c.u(0), c.u(1));
    "gelu_bf16" buffers [(BF16, 33), (BF16, 33)] sizes [] =>
        |c| ops::gelu::dispatch_gelu(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1]);
    "softcap_bf16" buffers [(BF16, 33), (BF16, 33), (F32, 2)] sizes [] unread [2] =>
        |c| ops::softcap::dispatch_softcap(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], 30.0);
    "softmax_bf16" buffers [(BF16, 66), (BF16, 66), (F32, 2)] sizes [2, 33] unread [2] =>
        |c| ops::softmax::dispatch_softmax(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.u(0), c.u(1));
    "rms_norm_bf16" buffers [(BF16, 66), (BF16, 33), (BF16, 66), (F32, 1)] sizes [2, 33] =>
        |c| ops::rms_norm::dispatch_rms_norm(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], c.u(0), c.u(1));
    "rms_norm_mul_bf16" buffers [(BF16, 66), (BF16, 33), (BF16, 66), (BF16, 66), (F32, 1)] sizes [2, 33] =>
        |c| ops::rms_norm::dispatch_rms_norm_mul(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], c.u(0), c.u(1));
    "rope_bf16" buffers [(BF16, 68), (BF16, 68), (F32, 1), (U32, 2)] sizes [2, 34] =>
        |c| ops::rope::dispatch_rope(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], c.u(0), c.u(1));
    "hadamard_transform" buffers [(F32, 64)] sizes [32, 2] zero [0, 1] =>
        |c| ops::hadamard::dispatch_hadamard_transform(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], c.u(0), c.u(1));
    "hadamard_quantize_kv" buffers [(F32, 64), (U8, 96), (F32, 6)] sizes [2, 32, 3, 2] zero [0, 1, 3] =>
        |c| ops::hadamard_quantize_kv::dispatch_hadamard_quantize_kv(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.u(0), c.u(1), c.u(2), c.u(3), false);
    "hadamard_quantize_kv sliding" buffers [(F32, 64), (U8, 96), (F32, 6)] sizes [2, 32, 3, 2] free [3] zero [0, 1] =>
        |c| ops::hadamard_quantize_kv::dispatch_hadamard_quantize_kv(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.u(0), c.u(1), c.u(2), c.u(3), true);
    "kv_cache_copy" buffers [(BF16, 66), (BF16, 165)] sizes [3, 33, 2, 5] zero [0, 1, 2] =>
        |c| ops::kv_cache_copy::dispatch_kv_cache_copy(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.u(0), c.u(1), c.u(2), c.u(3), false);
    "kv_cache_copy sliding" buffers [(BF16, 66), (BF16, 165)] sizes [3, 33, 2, 5] free [0] zero [1, 2] =>
        |c| ops::kv_cache_copy::dispatch_kv_cache_copy(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.u(0), c.u(1), c.u(2), c.u(3), true);
    "kv_cache_copy_f32" buffers [(F32, 66), (F32, 165)] sizes [3, 33, 2, 5] zero [0, 1, 2] =>
        |c| ops::kv_cache_copy::dispatch_kv_cache_copy_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.u(0), c.u(1), c.u(2), c.u(3), false);
    "kv_cache_copy_f32 sliding" buffers [(F32, 66), (F32, 165)] sizes [3, 33, 2, 5] free [0] zero [1, 2] =>
        |c| ops::kv_cache_copy::dispatch_kv_cache_copy_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.u(0), c.u(1), c.u(2), c.u(3), true);
    "kv_cache_copy_batch_f32" buffers [(F32, 66), (F32, 330)] sizes [2, 33, 5, 4] zero [0, 1, 3] =>
        |c| ops::kv_cache_copy::dispatch_kv_cache_copy_batch_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.u(0), c.u(1), c.u(2), c.u(3));
    "kv_cache_copy_batch_f32_to_f16" buffers [(F32, 66), (F16, 330)] sizes [2, 33, 5, 4] zero [0, 1, 3] =>
        |c| ops::kv_cache_copy::dispatch_kv_cache_copy_batch_f32_to_f16(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.u(0), c.u(1), c.u(2), c.u(3));
    "moe_dispatch" buffers [(F32, 7), (F32, 35), (F32, 35), (F32, 35), (F32, 7), (F32, 5), (F32, 5), (F32, 5), (F32, 7)] sizes [7, 5, 1] wide [0, 1, 2] =>
        |c| {
            let weights = [ExpertWeights { gate_proj: &c.buffers[1], up_proj: &c.buffers[2], down_proj: &c.buffers[3] }];
            let params = MoeDispatchParams { input_dim: c.sizes[0], intermediate_dim: c.sizes[1], n_selected: c.sizes[2] };
            ops::moe_dispatch::moe_dispatch(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &weights, &[0.5], &c.buffers[4], &c.buffers[5], &c.buffers[6], &c.buffers[7], &c.buffers[8], &params)
        };
    "moe_swiglu_fused" buffers [(F32, 66), (F32, 33)] sizes [33] wide [0] =>
        |c| ops::moe_dispatch::moe_swiglu_fused_encode(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.sizes[0]);
    "moe_swiglu_fused_offset" buffers [(F32, 68), (F32, 34)] sizes [8, 4, 33] zero [0, 1] wide [0, 1, 2] =>
        |c| ops::moe_dispatch::moe_swiglu_fused_encode_offset(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], c.sizes[0], &c.buffers[1], c.sizes[1], c.sizes[2]);
    "moe_zero_buffer" buffers [(F32, 33)] sizes [33] wide [0] =>
        |c| ops::moe_dispatch::moe_zero_buffer_encode(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], c.sizes[0]);
    "moe_accumulate" buffers [(F32, 33), (F32, 33)] sizes [33] wide [0] =>
        |c| ops::moe_dispatch::moe_accumulate_encode(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], 0.5, c.sizes[0]);
    "moe_accumulate_offset" buffers [(F32, 33), (F32, 35)] sizes [8, 33] zero [0] wide [0, 1] =>
        |c| ops::moe_dispatch::moe_accumulate_encode_offset(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.sizes[0], 0.5, c.sizes[1]);
    "moe_swiglu_batch" buffers [(F32, 198), (F32, 99)] sizes [33, 3] wide [0, 1] =>
        |c| ops::moe_dispatch::moe_swiglu_batch_encode(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.sizes[0], c.sizes[1]);
    "moe_weighted_sum" buffers [(F32, 99), (F32, 3), (F32, 33)] sizes [33, 3] wide [0, 1] =>
        |c| ops::moe_dispatch::moe_weighted_sum_encode(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.sizes[0], c.sizes[1]);
    "moe_gather_topk_weights" buffers [(F32, 9), (U32, 9), (F32, 9), (U32, 3), (F32, 3)] sizes [9, 3] wide [0, 1] =>
        |c| ops::moe_dispatch::moe_gather_topk_weights_encode(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], c.sizes[0], c.sizes[1]);
    "moe_gate" buffers [(BF16, 66), (F32, 297), (F32, 33), (F32, 9), (U32, 6), (F32, 6)] sizes [33, 9, 3, 2] wide [0, 1, 2, 3] =>
        |c| ops::moe_gate::moe_gate(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], &c.buffers[5], &MoeGateParams { hidden_dim: c.sizes[0], n_experts: c.sizes[1], top_k: c.sizes[2], seq_len: c.sizes[3], rms_eps: 1e-6 });
    "quantized_matmul 4" buffers [(F32, 132), (U8, 180), (BF16, 15), (BF16, 15)] sizes [2, 66, 5, 32] open [3] =>
        |c| ops::quantized_matmul::quantized_matmul(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &QuantizedMatmulParams { m: c.u(0), k: c.u(1), n: c.u(2), group_size: c.u(3), bits: 4 }).map(drop);
    "quantized_matmul 6" buffers [(F32, 132), (U8, 255), (BF16, 15), (BF16, 15)] sizes [2, 66, 5, 32] open [3] =>
        |c| ops::quantized_matmul::quantized_matmul(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &QuantizedMatmulParams { m: c.u(0), k: c.u(1), n: c.u(2), group_size: c.u(3), bits: 6 }).map(drop);
    "quantized_matmul 8" buffers [(F32, 132), (U8, 340), (BF16, 15), (BF16, 15)] sizes [2, 66, 5, 32] open [3] =>
        |c| ops::quantized_matmul::quantized_matmul(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &QuantizedMatmulParams { m: c.u(0), k: c.u(1), n: c.u(2), group_size: c.u(3), bits: 8 }).map(drop);
    "quantized_matmul_simd" buffers [(F32, 512), (U8, 1024), (BF16, 64), (BF16, 64)] sizes [2, 256, 8, 32] open [3] =>
        |c| ops::quantized_matmul::quantized_matmul_simd(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &QuantizedMatmulParams { m: c.u(0), k: c.u(1), n: c.u(2), group_size: c.u(3), bits: 4 }).map(drop);
    "quantized_matmul_simd_bf16" buffers [(BF16, 512), (U8, 2048), (BF16, 64), (BF16, 64)] sizes [2, 256, 8, 32] open [3] =>
        |c| ops::quantized_matmul::dispatch_quantized_matmul_simd_bf16(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &QuantizedMatmulParams { m: c.u(0), k: c.u(1), n: c.u(2), group_size: c.u(3), bits: 8 }).map(drop);
    "quantized_matmul_simd_bf16_expert" buffers [(BF16, 512), (U8, 4096), (BF16, 128), (BF16, 128)] sizes [2, 256, 8, 32, 2048, 128, 128] zero [4, 5, 6] open [3] =>
        |c| ops::quantized_matmul::dispatch_quantized_matmul_simd_bf16_expert(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &QuantizedMatmulParams { m: c.u(0), k: c.u(1), n: c.u(2), group_size: c.u(3), bits: 8 }, c.u(4), c.u(5), c.u(6)).map(drop);
    "quantized_matmul_id" buffers [(F32, 132), (U8, 540), (BF16, 45), (BF16, 45), (U32, 4)] sizes [2, 66, 5, 32, 2, 3] open [3] =>
        |c| ops::quantized_matmul_id::quantized_matmul_id(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], &QuantizedMatmulIdParams { m: c.u(0), k: c.u(1), n: c.u(2), group_size: c.u(3), bits: 4, n_expert_used: c.u(4), num_experts: c.u(5) }).map(drop);
    "quantized_matmul_ggml Q4_0" buffers [(F32, 128), (U8, 180), (F32, 10)] sizes [2, 5, 64] =>
        |c| {
            let [x, w, out] = c.buffers else { unreachable!() };
            let params = GgmlQuantizedMatmulParams { m: c.sizes[0] as u32, n: c.sizes[1] as u32, k: c.sizes[2] as u32, ggml_type: GgmlType::Q4_0 };
            ops::quantized_matmul_ggml::quantized_matmul_ggml(c.encoder, c.registry, c.device, x, w, out, &params)
        };
    "quantized_matmul_id_ggml Q4_0" buffers [(F32, 128), (U8, 540), (U32, 4), (F32, 20)] sizes [2, 2, 5, 64, 3, 180] =>
        |c| {
            let [x, w, ids, out] = c.buffers else { unreachable!() };
            let params = GgmlQuantizedMatmulIdParams { n_tokens: c.sizes[0] as u32, top_k: c.sizes[1] as u32, n: c.sizes[2] as u32, k: c.sizes[3] as u32, n_experts: c.sizes[4] as u32, expert_stride: c.sizes[5] as u64, ggml_type: GgmlType::Q4_0 };
            ops::quantized_matmul_id_ggml::quantized_matmul_id_ggml(c.encoder, c.registry, c.device, x, w, ids, out, &params)
        };
    "quantized_matmul_ggml Q8_0" buffers [(F32, 128), (U8, 340), (F32, 10)] sizes [2, 5, 64] =>
        |c| {
            let [x, w, out] = c.buffers else { unreachable!() };
            let params = GgmlQuantizedMatmulParams { m: c.sizes[0] as u32, n: c.sizes[1] as u32, k: c.sizes[2] as u32, ggml_type: GgmlType::Q8_0 };
            ops::quantized_matmul_ggml::quantized_matmul_ggml(c.encoder, c.registry, c.device, x, w, out, &params)
        };
    "quantized_matmul_id_ggml Q8_0" buffers [(F32, 128), (U8, 1020), (U32, 4), (F32, 20)] sizes [2, 2, 5, 64, 3, 340] =>
        |c| {
            let [x, w, ids, out] = c.buffers else { unreachable!() };
            let params = GgmlQuantizedMatmulIdParams { n_tokens: c.sizes[0] as u32, top_k: c.sizes[1] as u32, n: c.sizes[2] as u32, k: c.sizes[3] as u32, n_experts: c.sizes[4] as u32, expert_stride: c.sizes[5] as u64, ggml_type: GgmlType::Q8_0 };
            ops::quantized_matmul_id_ggml::quantized_matmul_id_ggml(c.encoder, c.registry, c.device, x, w, ids, out, &params)
        };
    "quantized_matmul_ggml Q6_K" buffers [(F32, 512), (U8, 1050), (F32, 10)] sizes [2, 5, 256] =>
        |c| {
            let [x, w, out] = c.buffers else { unreachable!() };
            let params = GgmlQuantizedMatmulParams { m: c.sizes[0] as u32, n: c.sizes[1] as u32, k: c.sizes[2] as u32, ggml_type: GgmlType::Q6_K };
            ops::quantized_matmul_ggml::quantized_matmul_ggml(c.encoder, c.registry, c.device, x, w, out, &params)
        };
    "quantized_matmul_id_ggml Q6_K" buffers [(F32, 512), (U8, 3150), (U32, 4), (F32, 20)] sizes [2, 2, 5, 256, 3, 1050] =>
        |c| {
            let [x, w, ids, out] = c.buffers else { unreachable!() };
            let params = GgmlQuantizedMatmulIdParams { n_tokens: c.sizes[0] as u32, top_k: c.sizes[1] as u32, n: c.sizes[2] as u32, k: c.sizes[3] as u32, n_experts: c.sizes[4] as u32, expert_stride: c.sizes[5] as u64, ggml_type: GgmlType::Q6_K };
            ops::quantized_matmul_id_ggml::quantized_matmul_id_ggml(c.encoder, c.registry, c.device, x, w, ids, out, &params)
        };
    "quantized_matmul_ggml Q4_K" buffers [(F32, 512), (U8, 720), (F32, 10)] sizes [2, 5, 256] =>
        |c| {
            let [x, w, out] = c.buffers else { unreachable!() };
            let params = GgmlQuantizedMatmulParams { m: c.sizes[0] as u32, n: c.sizes[1] as u32, k: c.sizes[2] as u32, ggml_type: GgmlType::Q4_K };
            ops::quantized_matmul_ggml::quantized_matmul_ggml(c.encoder, c.registry, c.device, x, w, out, &params)
        };
    "quantized_matmul_id_ggml Q4_K" buffers [(F32, 512), (U8, 2160), (U32, 4), (F32, 20)] sizes [2, 2, 5, 256, 3, 720] =>
        |c| {
            let [x, w, ids, out] = c.buffers else { unreachable!() };
            let params = GgmlQuantizedMatmulIdParams { n_tokens: c.sizes[0] as u32, top_k: c.sizes[1] as u32, n: c.sizes[2] as u32, k: c.sizes[3] as u32, n_experts: c.sizes[4] as u32, expert_stride: c.sizes[5] as u64, ggml_type: GgmlType::Q4_K };
            ops::quantized_matmul_id_ggml::quantized_matmul_id_ggml(c.encoder, c.registry, c.device, x, w, ids, out, &params)
        };
    "rms_norm_no_scale_bf16" buffers [(BF16, 66), (BF16, 66), (F32, 1)] sizes [2, 33] =>
        |c| ops::rms_norm::dispatch_rms_norm_no_scale_bf16(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.u(0), c.u(1));
    "rms_norm_no_scale_f32" buffers [(F32, 66), (F32, 66), (F32, 1)] sizes [2, 33] =>
        |c| ops::rms_norm::dispatch_rms_norm_no_scale_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], c.u(0), c.u(1));
    "rope_neox_bf16" buffers [(BF16, 204), (BF16, 204), (F32, 1), (U32, 2)] sizes [2, 3, 34, 30] zero [3] =>
        |c| ops::rope::dispatch_rope_neox_bf16(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], c.u(0), c.u(1), c.u(2), c.u(3));
    "rope_neox_f32" buffers [(F32, 204), (F32, 204), (F32, 1), (U32, 2), (F32, 15)] sizes [2, 3, 34, 30] zero [3] =>
        |c| ops::rope::dispatch_rope_neox_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], Some(&c.buffers[4]), c.u(0), c.u(1), c.u(2), c.u(3));
    "sdpa f32" buffers [(F32, 264), (F32, 165), (F32, 165), (F32, 264)] sizes [4, 1, 33, 2, 3, 5, 1] zero [5] =>
        |c| ops::sdpa::sdpa(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &SdpaParams { n_heads: c.u(0), n_kv_heads: c.u(1), head_dim: c.u(2), seq_len: c.u(3), kv_seq_len: c.u(4), scale: 1.0, kv_capacity: c.u(5) }, c.u(6));
    "sdpa_sliding f32" buffers [(F32, 264), (F32, 165), (F32, 165), (F32, 264)] sizes [4, 1, 33, 2, 3, 5, 1, 2] zero [5] open [7] =>
        |c| ops::sdpa_sliding::sdpa_sliding(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &SdpaSlidingParams { n_heads: c.u(0), n_kv_heads: c.u(1), head_dim: c.u(2), seq_len: c.u(3), kv_seq_len: c.u(4), window_size: c.u(7), scale: 1.0, kv_capacity: c.u(5) }, c.u(6));
    "sdpa bf16" buffers [(BF16, 264), (BF16, 165), (BF16, 165), (BF16, 264)] sizes [4, 1, 33, 2, 3, 5, 1] zero [5] =>
        |c| ops::sdpa::sdpa(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &SdpaParams { n_heads: c.u(0), n_kv_heads: c.u(1), head_dim: c.u(2), seq_len: c.u(3), kv_seq_len: c.u(4), scale: 1.0, kv_capacity: c.u(5) }, c.u(6));
    "sdpa_sliding bf16" buffers [(BF16, 264), (BF16, 165), (BF16, 165), (BF16, 264)] sizes [4, 1, 33, 2, 3, 5, 1, 2] zero [5] open [7] =>
        |c| ops::sdpa_sliding::sdpa_sliding(c.encoder, c.registry, c.device, &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &SdpaSlidingParams { n_heads: c.u(0), n_kv_heads: c.u(1), head_dim: c.u(2), seq_len: c.u(3), kv_seq_len: c.u(4), window_size: c.u(7), scale: 1.0, kv_capacity: c.u(5) }, c.u(6));
    "softmax_sample_f32" buffers [(F32, 33), (F32, 33), (U32, 1), (F32, 1), (F32, 3)] sizes [33] unread [4] =>
        |c| ops::softmax_sample::dispatch_softmax_sample_f32(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], &c.buffers[2], &c.buffers[3], &c.buffers[4], c.u(0), 1.0, 0.5);
    "transpose_2d F32" buffers [(F32, 66), (F32, 66)] sizes [2, 33] wide [0, 1] =>
        |c| ops::transpose::transpose_2d(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.sizes[0], c.sizes[1], DType::F32);
    "transpose_2d F16" buffers [(F16, 66), (F16, 66)] sizes [2, 33] wide [0, 1] =>
        |c| ops::transpose::transpose_2d(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.sizes[0], c.sizes[1], DType::F16);
    "permute_021_bf16" buffers [(BF16, 198), (BF16, 198)] sizes [2, 3, 33] wide [0, 1, 2] =>
        |c| ops::transpose::permute_021_bf16(c.encoder, c.registry, c.device.metal_device(), &c.buffers[0], &c.buffers[1], c.sizes[0], c.sizes[1], c.sizes[2]);
};
