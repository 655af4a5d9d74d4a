//! The operators. Each is a folder: a public function with its parameters and checks (`mod.rs`), the Metal text
//! (`<op>.metal`), the bodies for the CPU (`cpu.rs`) and the cases that prove and time it (`tests.rs`).
//!
//! All have one style: `op(encoder, registry, device, inputs…, output, &Params)`. The function checks its parameters,
//! then the buffers, picks a kernel and records it; nothing runs before the encoder is committed. Sizes are in the
//! parameters, in elements; buffers must hold at least what the sizes imply, more is fine. Reductions accumulate in f32
//! for every dtype, results are rounded once, to nearest even.
//!
//! Adding an operator is a folder and one line in the list below: `docs/adding-an-op.md`.

pub(crate) mod check;
pub(crate) mod coding;
pub(crate) mod published;
pub(crate) mod published_names;

pub(crate) use crate::registry::Op;

macro_rules! operators {
    ($($op:ident),* $(,)?) => {
        $(pub mod $op;)*

        /// Every operator of this library.
        pub(crate) fn all() -> impl Iterator<Item = &'static Op> {
            [$(&$op::OP),*].into_iter()
        }

        /// The cases of every operator.
        #[cfg(any(test, feature = "testing"))]
        #[must_use]
        pub fn suites() -> Vec<crate::testing::Suite> {
            vec![$($op::tests::suite()),*]
        }
    };
}

// The list: one line for each operator.
operators! {
    add,
    argmax,
    argsort,
    attention,
    copy,
    decoded_matmul,
    elementwise,
    embed,
    flash_attn_vec_tq,
    fused_head_norm_rope,
    fused_norm_add,
    gather,
    hadamard,
    hadamard_quantize_kv,
    index_mask,
    kv_append,
    kv_cache_copy,
    layer_norm,
    linear,
    linear_scan,
    matmul,
    moe_dispatch,
    moe_gate,
    ngram_ids,
    rms_norm,
    rope,
    route,
    rowwise,
    sample,
    sdpa,
    short_conv,
    silu_mul,
    softmax,
    softmax_sample,
    step,
    weighted_sum,
}

/// Modules of 0.1 that have no operator of their own: adapters of others, in a folder of that name.
macro_rules! published_modules {
    ($($(#[$doc:meta])* $module:ident),* $(,)?) => {
        $($(#[$doc])* pub mod $module {
            mod published;
            pub use published::*;
        })*
    };
}

published_modules! {
    /// 0.1's dense products: [`matmul`].
    dense_gemm,
    /// 0.1's look-up of quantised rows: [`decoded_matmul`].
    embedding,
    /// 0.1's encoder methods as functions.
    encode_helpers,
    /// 0.1's attention of one query: [`sdpa`].
    flash_attn_vec,
    /// 0.1's Walsh-Hadamard transform for two lengths: [`hadamard`].
    fwht_standalone,
    /// 0.1's norm of a sum, in bf16: [`fused_norm_add`].
    fused_residual_norm,
    /// 0.1's look-ups that it compares for speed: [`gather`] and [`copy`].
    gather_bench,
    /// 0.1's GELU: [`rowwise`].
    gelu,
    /// 0.1's products with affine codes: [`linear`] and [`decoded_matmul`].
    quantized_matmul,
    /// 0.1's routed products with affine codes: [`decoded_matmul`].
    quantized_matmul_id,
    /// 0.1's products with blocks of GGML: [`decoded_matmul`].
    quantized_matmul_ggml,
    /// 0.1's routed products with blocks of GGML: [`decoded_matmul`].
    quantized_matmul_id_ggml,
    /// 0.1's attention over a sliding window: [`sdpa`].
    sdpa_sliding,
    /// 0.1's soft cap of logits: [`rowwise`].
    softcap,
    /// 0.1's transposes: [`copy`] with strides.
    transpose,
}
