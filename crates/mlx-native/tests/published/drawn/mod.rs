//! Drawn cases of every published operator against its formula in f64, through the published functions.

mod attention;
mod caches;
mod elements;
mod norms;
mod products;
mod routing;

use super::support::{Bench, Rng};

type Draw = fn(&mut Bench, &mut Rng);

/// Each operator and how to draw, run and check one case of it.
const ALL: &[(&str, Draw)] = &[
    ("argmax", elements::argmax),
    ("argsort", elements::argsort),
    ("copy", elements::strided_copy),
    ("elementwise", elements::elementwise),
    ("cast", elements::cast),
    ("gelu", elements::gelu),
    ("softcap", elements::softcap),
    ("softmax", elements::softmax),
    ("softmax_sample", elements::softmax_sample),
    ("gather", elements::gather),
    ("gather_bench", elements::gather_bench),
    ("transpose", elements::transpose),
    ("rms_norm", norms::rms_norm),
    ("fused_norm_add", norms::fused_norm_add),
    ("fused_residual_norm", norms::fused_residual_norm),
    ("fused_head_norm_rope", norms::fused_head_norm_rope),
    ("rope", norms::rope),
    ("rope_neox", norms::rope_neox),
    ("dense_gemm", products::dense_gemm),
    ("embedding", products::embedding),
    ("quantized_matmul", products::quantized_matmul),
    ("quantized_matmul_bf16", products::quantized_matmul_bf16),
    ("quantized_matmul_id", products::quantized_matmul_id),
    ("quantized_matmul_ggml", products::quantized_matmul_ggml),
    ("moe_gate", routing::moe_gate),
    ("fused_moe_routing", routing::fused_moe_routing),
    ("moe_gather_topk_weights", routing::gather_topk_weights),
    ("moe_dispatch", routing::moe_dispatch),
    ("moe parts", routing::parts),
    ("sdpa", attention::sdpa),
    ("sdpa_sliding", attention::sdpa_sliding),
    ("flash_attn_vec", attention::flash_attn_vec),
    ("flash_attn_vec_tq", attention::flash_attn_vec_tq),
    ("hadamard", caches::hadamard),
    ("hadamard_quantize_kv", caches::hadamard_quantize_kv),
    ("kv_cache_copy", caches::kv_cache_copy),
];

fn run(bench: &mut Bench, cases: u64) {
    for (name, draw) in ALL {
        for case in 0..cases {
            // Which case it was is in the message of a failure, which comes behind this line.
            println!("{name}, case {case}");
            draw(bench, &mut Rng(case + 1));
        }
    }
}

#[test]
fn on_the_cpu() {
    run(&mut Bench::cpu(), 24);
}

#[cfg(feature = "emulator")]
#[test]
fn on_the_emulator() {
    run(&mut Bench::emulator(), 2);
}
