//! The kernel names of 0.1, and our kernels behind them.
//!
//! [`KernelRegistry`](crate::KernelRegistry) knows both. A name of 0.1 gives the kernel that the published function of that name
//! uses; its signature is ours: a program that binds arguments by hand is held against it, and told what does not fit.

use crate::kernel::ConstantValue::{Bool, U32};
use crate::ops::rowwise::Function;
use crate::registry::KernelName;

macro_rules! names {
    ($($name:literal => $kernel:literal $([$($index:literal = $value:expr),*])?;)*) => {
        &[
            KernelName { name: "placeholder", kernel: None, constants: &[] },
            $(KernelName { name: $name, kernel: Some($kernel), constants: &[$($(($index, $value)),*)?] },)*
        ]
    };
}

/// Every name of 0.1 whose kernel has another name here, or needs constants.
pub(crate) const NAMES: &[KernelName] = names! {
    "argmax_f32" => "argmax_f32" [0 = Bool(true)];
    "argsort_desc_f32" => "argsort_f32";
    "cast_bf16_to_f32" => "copy_bf16_f32";
    "cast_f16_to_f32" => "copy_f16_f32";
    "cast_f32_to_bf16" => "copy_f32_bf16";
    "cast_f32_to_f16" => "copy_f32_f16";
    "dense_gemm_f16" => "matmul_gemm32_f16_f16" [0 = Bool(true)];
    "dense_matvec_f16" => "matmul_gemv_f16_f16" [1 = U32(1)];
    "dense_matvec_f16w_f32io" => "matmul_gemv_f32_f16" [1 = U32(1)];
    "elementwise_add_bf16" => "add_bf16";
    "elementwise_add_f16" => "add_f16";
    "elementwise_add_f32" => "add_f32";
    "embedding_gather_4bit" => "decoded_rows";
    "embedding_gather_6bit" => "decoded_rows";
    "embedding_gather_scale_f32" => "scalar_mul_f32";
    "flash_attn_vec_tq_dk256" => "tq_partial";
    "flash_attn_vec_tq_dk512" => "tq_partial";
    "fused_gelu_mul" => "rowwise_f32" [0 = U32(Function::GeluTanhMul as u32)];
    "fused_head_norm_rope_bf16" => "head_norm_rope_bf16" [
        0 = Bool(true), 1 = Bool(true), 2 = Bool(true), 3 = Bool(false), 4 = Bool(false), 5 = Bool(false), 6 = Bool(false)
    ];
    "fused_head_norm_rope_f32" => "head_norm_rope_f32" [
        0 = Bool(true), 1 = Bool(true), 2 = Bool(false), 3 = Bool(true), 4 = Bool(false), 5 = Bool(false), 6 = Bool(false)
    ];
    "fused_moe_routing_f32" => "moe_route" [0 = Bool(true)];
    "fused_norm_add_bf16" => "fused_norm_bf16" [0 = Bool(false), 1 = Bool(true), 2 = Bool(false), 3 = Bool(false)];
    "fused_norm_add_f32" => "fused_norm_f32" [0 = Bool(false), 1 = Bool(true), 2 = Bool(false), 3 = Bool(false)];
    "fused_norm_add_no_weight_bf16" => "fused_norm_bf16" [
        0 = Bool(false), 1 = Bool(false), 2 = Bool(false), 3 = Bool(false)
    ];
    "fused_norm_add_scalar_f32" => "fused_norm_f32" [0 = Bool(false), 1 = Bool(true), 2 = Bool(false), 3 = Bool(true)];
    "fused_residual_norm_bf16" => "fused_norm_bf16" [0 = Bool(true), 1 = Bool(true), 2 = Bool(true), 3 = Bool(false)];
    "fused_residual_norm_f32" => "fused_norm_f32" [0 = Bool(true), 1 = Bool(true), 2 = Bool(true), 3 = Bool(false)];
    "fused_residual_norm_scalar_f32" => "fused_norm_f32" [0 = Bool(true), 1 = Bool(true), 2 = Bool(false), 3 = Bool(true)];
    "fwht_standalone_f32_d256" => "hadamard_f32";
    "fwht_standalone_f32_d512" => "hadamard_f32";
    "gather_bench_f16_seq" => "copy_f16_f32";
    "gather_bench_nibble" => "gather_codes_4_f32";
    "gather_f32" => "gather_32";
    "gelu_bf16" => "rowwise_bf16" [0 = U32(Function::GeluTanh as u32)];
    "gelu_f16" => "rowwise_f16" [0 = U32(Function::GeluTanh as u32)];
    "gelu_f32" => "rowwise_f32" [0 = U32(Function::GeluTanh as u32)];
    "hadamard_quantize_kv" => "hadamard_quantize_kv_f32";
    "hadamard_quantize_kv_fast_d256" => "hadamard_quantize_kv_f32";
    "hadamard_quantize_kv_fast_d512" => "hadamard_quantize_kv_f32";
    "hadamard_transform" => "hadamard_f32";
    "kernel_mul_mv_id_q4_0_f32" => "decoded_matmul_q4_0" [0 = Bool(true), 1 = Bool(false), 2 = Bool(false)];
    "kernel_mul_mv_id_q6_K_f32" => "decoded_matmul_q6_k" [0 = Bool(true), 1 = Bool(false), 2 = Bool(false)];
    "kernel_mul_mv_id_q8_0_f32" => "decoded_matmul_q8_0" [0 = Bool(true), 1 = Bool(false), 2 = Bool(false)];
    "kernel_mul_mv_q4_0_f32" => "decoded_matmul_q4_0" [0 = Bool(false), 1 = Bool(false), 2 = Bool(false)];
    "kernel_mul_mv_q6_K_f32" => "decoded_matmul_q6_k" [0 = Bool(false), 1 = Bool(false), 2 = Bool(false)];
    "kernel_mul_mv_q8_0_f32" => "decoded_matmul_q8_0" [0 = Bool(false), 1 = Bool(false), 2 = Bool(false)];
    "kv_cache_copy" => "kv_cache_copy_16";
    "kv_cache_copy_batch_f32" => "kv_cache_copy_32";
    "kv_cache_copy_batch_f32_to_f16" => "kv_cache_copy_f32_f16";
    "kv_cache_copy_f32" => "kv_cache_copy_32";
    "moe_accumulate" => "moe_accumulate_f32";
    "moe_gate" => "moe_gate_bf16" [0 = Bool(true)];
    "moe_gather_topk_weights" => "weigh_sorted" [0 = Bool(true)];
    "moe_swiglu_batch" => "rowwise_f32" [0 = U32(Function::GeluTanhMul as u32)];
    "moe_swiglu_fused" => "rowwise_f32" [0 = U32(Function::GeluTanhMul as u32)];
    "moe_weighted_sum" => "weighted_sum_f32";
    "naive_matvec_f32" => "matmul_gemv_f32_f32" [1 = U32(1)];
    "permute_021_bf16" => "copy_strided_16";
    "quantized_matmul" => "decoded_matmul_affine_f32" [0 = Bool(false), 1 = Bool(true), 2 = Bool(true)];
    "quantized_matmul_id" => "decoded_matmul_affine_f32" [0 = Bool(true), 1 = Bool(true), 2 = Bool(true)];
    "quantized_matmul_simd" => "decoded_matmul_affine_f32" [0 = Bool(false), 1 = Bool(true), 2 = Bool(false)];
    "quantized_matmul_simd_bf16" => "decoded_matmul_affine_bf16" [0 = Bool(false), 1 = Bool(true), 2 = Bool(false)];
    "quantized_matmul_simd_bf16_expert" => "decoded_matmul_affine_bf16" [
        0 = Bool(false), 1 = Bool(true), 2 = Bool(false)
    ];
    "rms_norm_bf16" => "rms_norm_bf16" [0 = Bool(true), 1 = Bool(true), 2 = Bool(false), 3 = Bool(true), 4 = Bool(false)];
    "rms_norm_f16" => "rms_norm_f16_f32" [0 = Bool(true), 1 = Bool(true), 2 = Bool(false), 3 = Bool(true), 4 = Bool(false)];
    "rms_norm_f32" => "rms_norm_f32" [0 = Bool(true), 1 = Bool(true), 2 = Bool(false), 3 = Bool(true), 4 = Bool(false)];
    "rms_norm_mul_bf16" => "rms_norm_bf16" [
        0 = Bool(true), 1 = Bool(true), 2 = Bool(true), 3 = Bool(true), 4 = Bool(false)
    ];
    "rms_norm_mul_f16" => "rms_norm_f16_f32" [
        0 = Bool(true), 1 = Bool(true), 2 = Bool(true), 3 = Bool(true), 4 = Bool(false)
    ];
    "rms_norm_mul_f32" => "rms_norm_f32" [
        0 = Bool(true), 1 = Bool(true), 2 = Bool(true), 3 = Bool(true), 4 = Bool(false)
    ];
    "rms_norm_no_scale_bf16" => "rms_norm_bf16" [
        0 = Bool(false), 1 = Bool(true), 2 = Bool(false), 3 = Bool(true), 4 = Bool(false)
    ];
    "rms_norm_no_scale_f32" => "rms_norm_f32" [
        0 = Bool(false), 1 = Bool(true), 2 = Bool(false), 3 = Bool(true), 4 = Bool(false)
    ];
    "rope_bf16" => "head_norm_rope_bf16" [
        0 = Bool(false), 1 = Bool(false), 2 = Bool(false), 3 = Bool(true), 4 = Bool(false), 5 = Bool(true), 6 = Bool(true)
    ];
    "rope_f16" => "head_norm_rope_f16" [
        0 = Bool(false), 1 = Bool(false), 2 = Bool(false), 3 = Bool(true), 4 = Bool(false), 5 = Bool(true), 6 = Bool(true)
    ];
    "rope_f32" => "head_norm_rope_f32" [
        0 = Bool(false), 1 = Bool(false), 2 = Bool(false), 3 = Bool(true), 4 = Bool(false), 5 = Bool(true), 6 = Bool(true)
    ];
    "rope_neox_bf16" => "head_norm_rope_bf16" [
        0 = Bool(false), 1 = Bool(false), 2 = Bool(false), 3 = Bool(true), 4 = Bool(false), 5 = Bool(true), 6 = Bool(false)
    ];
    "rope_neox_f32" => "head_norm_rope_f32" [
        0 = Bool(false), 1 = Bool(false), 2 = Bool(false), 3 = Bool(true), 4 = Bool(true), 5 = Bool(true), 6 = Bool(false)
    ];
    "sdpa_sliding" => "attention_rows_d64_f32" [0 = U32(1), 1 = Bool(true), 2 = Bool(false)];
    "sdpa_sliding_bf16" => "attention_rows_d64_bf16" [0 = U32(1), 1 = Bool(true), 2 = Bool(false)];
    "flash_attn_vec_dk256" => "attention_rows_d256_f32" [0 = U32(1), 1 = Bool(true), 2 = Bool(false)];
    "flash_attn_vec_f16kv_dk256" => "attention_rows_d256_f16" [0 = U32(1), 1 = Bool(true), 2 = Bool(false)];
    "flash_attn_vec_reduce_dk256" => "attention_merge_f32";
    "flash_attn_vec_dk512" => "attention_rows_d512_f32" [0 = U32(1), 1 = Bool(true), 2 = Bool(false)];
    "flash_attn_vec_f16kv_dk512" => "attention_rows_d512_f16" [0 = U32(1), 1 = Bool(true), 2 = Bool(false)];
    "flash_attn_vec_reduce_dk512" => "attention_merge_f32";
    "softcap_bf16" => "rowwise_bf16" [0 = U32(Function::Cap as u32)];
    "softcap_f16" => "rowwise_f16" [0 = U32(Function::Cap as u32)];
    "softcap_f32" => "rowwise_f32" [0 = U32(Function::Cap as u32)];
    "strided_copy_f32" => "copy_strided_32";
    "transpose_2d_f16" => "copy_strided_16";
    "transpose_2d_f32" => "copy_strided_32";
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceKind, KernelRegistry, MlxDevice, MlxError};

    /// The names of 0.1 whose kernels have them here too.
    const SAME: &[&str] = &[
        "elementwise_mul_bf16",
        "elementwise_mul_f16",
        "elementwise_mul_f32",
        "scalar_mul_bf16",
        "scalar_mul_f32",
        "softmax_bf16",
        "softmax_f16",
        "softmax_f32",
        "softmax_sample_f32",
        "zero_buffer",
    ];

    #[test]
    fn every_name_gives_a_pipeline() {
        every_name_gives_one_of(DeviceKind::Cpu);
    }

    /// A device that compiles the texts needs the value of every function constant, which the CPU's bodies do not all ask for.
    #[cfg(feature = "emulator")]
    #[test]
    fn every_name_gives_a_pipeline_of_a_device_that_compiles() {
        every_name_gives_one_of(DeviceKind::Emulator);
    }

    fn every_name_gives_one_of(kind: DeviceKind) {
        let device = MlxDevice::open(kind).unwrap();
        let mut registry = KernelRegistry::new();
        for name in NAMES
            .iter()
            .filter(|n| n.kernel.is_some())
            .map(|n| n.name)
            .chain(SAME.iter().copied())
        {
            assert!(
                !registry.is_cached(name) || registry.get_pipeline(name, &device).is_ok(),
                "{name}"
            );
            let first: *const _ = registry
                .get_pipeline(name, &device)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let second: *const _ = registry.get_pipeline(name, &device).unwrap();
            assert_eq!(first, second, "{name}");
            assert!(registry.is_cached(name), "{name}");
        }
        let empty = registry.get_pipeline("placeholder", &device);
        assert!(matches!(empty, Err(MlxError::ShaderCompilationError { .. })));
        assert!(registry.source_count() >= 95);
    }

    #[test]
    fn a_text_of_ones_own_takes_the_place_of_a_name() {
        let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
        let mut registry = KernelRegistry::new();
        registry.register_source(
            "moe_gate",
            "kernel void moe_gate(device float *x [[buffer(0)]]) {}",
        );
        assert!(
            registry.get_pipeline("moe_gate", &device).is_err(),
            "the cpu has no body for it"
        );
        assert_eq!(registry.kernel("moe_gate").unwrap().signature.bindings.len(), 1);
    }
}
