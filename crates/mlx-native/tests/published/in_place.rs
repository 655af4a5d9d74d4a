//! Outputs that are inputs: what programs of 0.1 write in place gives what it gives into a buffer of its own.

use mlx_native::ops::fused_norm_add as fused;
use mlx_native::ops::{
    elementwise, fused_head_norm_rope as heads, fused_residual_norm, gelu, moe_dispatch, rms_norm, rope,
    softcap, softmax,
};
use mlx_native::{CommandEncoder, DType, KernelRegistry, MlxBuffer, MlxDevice, Result};

use crate::support::{Bench, FLOATS, Rng};

type Call<'a> = &'a dyn Fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice, &[MlxBuffer]) -> Result<()>;

/// Runs `call` on buffers of `dtypes` and `lens`, then again with buffer `to` being buffer `from`.
fn same(b: &mut Bench, name: &str, shapes: &[(DType, usize)], pairs: &[(usize, usize)], call: Call<'_>) {
    let mut draw = Rng(77);
    let drawn: Vec<Vec<f32>> = shapes.iter().map(|(_, n)| draw.floats(*n, 2.0)).collect();
    let make = |b: &Bench| -> Vec<MlxBuffer> {
        let one = |((dtype, n), x): (&(DType, usize), &Vec<f32>)| match dtype {
            DType::U32 => b.words(&vec![5; *n]),
            dtype => b.floats(*dtype, x),
        };
        shapes.iter().zip(&drawn).map(one).collect()
    };
    for (from, to) in pairs {
        let buffers = make(b);
        b.run(|e, r, d| call(e, r, d, &buffers));
        let want = buffers[*to].read::<u8>().unwrap();
        let mut buffers = make(b);
        // A handle of its own on the memory, as clones of a program's buffers are.
        let alias = buffers[*from]
            .view(0, shapes[*from].0, vec![shapes[*from].1])
            .unwrap();
        buffers[*to] = alias;
        let result = b.try_run(|e, r, d| call(e, r, d, &buffers));
        assert!(result.is_ok(), "{name}, {to} in place of {from}: {result:?}");
        let got = buffers[*from].read::<u8>().unwrap();
        assert!(got == want, "{name}, {to} in place of {from}: other numbers");
    }
}

#[rustfmt::skip] // A line for each operator.
fn all(b: &mut Bench) {
    use DType::{BF16, F32, U32};
    let (rows, dim) = (3, 34);
    let n = rows * dim;
    let (r32, d32) = (rows as u32, dim as u32);
    for t in FLOATS {
        let w = if t == BF16 { BF16 } else { F32 };
        same(b, "add", &[(t, n), (t, n), (t, n)], &[(0, 2), (1, 2)], &|e, r, d, x| elementwise::elementwise_add(e, r, d.metal_device(), &x[0], &x[1], &x[2], n, t));
        same(b, "mul", &[(t, n), (t, n), (t, n)], &[(0, 2), (1, 2)], &|e, r, d, x| elementwise::elementwise_mul(e, r, d.metal_device(), &x[0], &x[1], &x[2], n, t));
        same(b, "gelu", &[(t, n), (t, n)], &[(0, 1)], &|e, r, d, x| gelu::dispatch_gelu(e, r, d.metal_device(), &x[0], &x[1]));
        same(b, "softcap", &[(t, n), (t, n), (F32, 2)], &[(0, 1)], &|e, r, d, x| softcap::dispatch_softcap(e, r, d.metal_device(), &x[0], &x[1], &x[2], 3.0));
        same(b, "softmax", &[(t, n), (t, n), (F32, 2)], &[(0, 1)], &|e, r, d, x| softmax::dispatch_softmax(e, r, d.metal_device(), &x[0], &x[1], &x[2], r32, d32));
        same(b, "rms_norm", &[(t, n), (w, dim), (t, n), (F32, 2)], &[(0, 2)], &|e, r, d, x| rms_norm::dispatch_rms_norm(e, r, d.metal_device(), &x[0], &x[1], &x[2], &x[3], r32, d32));
        same(b, "rms_norm_mul", &[(t, n), (w, dim), (t, n), (t, n), (F32, 2)], &[(0, 3), (2, 3)], &|e, r, d, x| rms_norm::dispatch_rms_norm_mul(e, r, d.metal_device(), &x[0], &x[1], &x[2], &x[3], &x[4], r32, d32));
        same(b, "rope", &[(t, n), (t, n), (F32, 4), (U32, rows)], &[(0, 1)], &|e, r, d, x| rope::dispatch_rope(e, r, d.metal_device(), &x[0], &x[1], &x[2], &x[3], r32, d32));
    }
    same(b, "no_scale bf16", &[(BF16, n), (BF16, n), (F32, 2)], &[(0, 1)], &|e, r, d, x| rms_norm::dispatch_rms_norm_no_scale_bf16(e, r, d.metal_device(), &x[0], &x[1], &x[2], r32, d32));
    same(b, "no_scale f32", &[(F32, n), (F32, n), (F32, 2)], &[(0, 1)], &|e, r, d, x| rms_norm::dispatch_rms_norm_no_scale_f32(e, r, d.metal_device(), &x[0], &x[1], &x[2], r32, d32));
    same(b, "scalar_mul f32", &[(F32, n), (F32, n)], &[(0, 1)], &|e, r, d, x| elementwise::scalar_mul_f32(e, r, d.metal_device(), &x[0], &x[1], n, 1.5));
    same(b, "scalar_mul bf16", &[(BF16, n), (BF16, n)], &[(0, 1)], &|e, r, d, x| elementwise::scalar_mul_bf16(e, r, d.metal_device(), &x[0], &x[1], n, 1.5));
    same(b, "norm_add bf16", &[(BF16, n), (BF16, n), (BF16, dim), (BF16, n)], &[(0, 3), (1, 3)], &|e, r, d, x| fused::dispatch_fused_norm_add_bf16(e, r, d.metal_device(), &x[0], &x[1], &x[2], &x[3], d32, r32, 1e-5));
    same(b, "norm_add bare", &[(BF16, n), (BF16, n), (BF16, n)], &[(0, 2), (1, 2)], &|e, r, d, x| fused::dispatch_fused_norm_add_no_weight_bf16(e, r, d.metal_device(), &x[0], &x[1], &x[2], d32, r32, 1e-5));
    same(b, "norm_add f32", &[(F32, n), (F32, n), (F32, dim), (F32, n)], &[(0, 3), (1, 3)], &|e, r, d, x| fused::dispatch_fused_norm_add_f32(e, r, d.metal_device(), &x[0], &x[1], &x[2], &x[3], d32, r32, 1e-5));
    same(b, "residual_norm f32", &[(F32, n), (F32, n), (F32, dim), (F32, n), (F32, n)], &[(0, 4), (1, 4), (0, 3), (1, 3)], &|e, r, d, x| fused::dispatch_fused_residual_norm_f32(e, r, d.metal_device(), &x[0], &x[1], &x[2], &x[3], Some(&x[4]), r32, d32, 1e-5));
    same(b, "residual_norm bf16", &[(BF16, n), (BF16, n), (BF16, dim), (BF16, n), (BF16, n)], &[(0, 4), (1, 4), (0, 3), (1, 3)], &|e, r, d, x| fused_residual_norm::dispatch_fused_residual_norm_bf16(e, r, d.metal_device(), &x[0], &x[1], &x[2], &x[3], Some(&x[4]), r32, d32, 1e-5));
    same(b, "residual_norm scalar", &[(F32, n), (F32, n), (F32, dim), (F32, n), (F32, dim)], &[(0, 3), (1, 3)], &|e, r, d, x| fused::dispatch_fused_residual_norm_scalar_f32(e, r, d.metal_device(), &x[0], &x[1], &x[2], &x[3], &x[4], r32, d32, 1e-5, true));
    same(b, "norm_add scalar", &[(F32, n), (F32, n), (F32, dim), (F32, n), (F32, 1)], &[(0, 3), (1, 3)], &|e, r, d, x| fused::dispatch_fused_norm_add_scalar_f32(e, r, d.metal_device(), &x[0], &x[1], &x[2], &x[3], &x[4], r32, d32, 1e-5, false));
    same(b, "head_norm_rope bf16", &[(BF16, n), (BF16, n), (BF16, dim), (F32, 15), (F32, 15)], &[(0, 1)], &|e, r, d, x| heads::dispatch_fused_head_norm_rope_bf16(e, r, d.metal_device(), &x[0], &x[1], Some(&x[2]), &x[3], &x[4], r32, d32, 15, 1e-5));
    same(b, "head_norm_rope f32", &[(F32, n), (F32, n), (F32, dim), (U32, 1), (F32, 15)], &[(0, 1)], &|e, r, d, x| heads::dispatch_fused_head_norm_rope_f32(e, r, d.metal_device(), &x[0], &x[1], Some(&x[2]), &x[3], Some(&x[4]), r32, d32, 15, 1e-5, 1e4));
    same(b, "neox bf16", &[(BF16, n), (BF16, n), (F32, 4), (U32, 1)], &[(0, 1)], &|e, r, d, x| rope::dispatch_rope_neox_bf16(e, r, d.metal_device(), &x[0], &x[1], &x[2], &x[3], 1, r32, d32, 30));
    same(b, "neox f32", &[(F32, n), (F32, n), (F32, 4), (U32, rows), (F32, 15)], &[(0, 1)], &|e, r, d, x| rope::dispatch_rope_neox_f32(e, r, d.metal_device(), &x[0], &x[1], &x[2], &x[3], Some(&x[4]), r32, 1, d32, 30));
}

/// Into the gates themselves: two handles of different lengths on one memory.
fn gates(b: &mut Bench) {
    let n = 66;
    let x = Rng(8).floats(2 * n, 2.0);
    let (both, out) = (b.floats(DType::F32, &x), b.zeros(DType::F32, n));
    b.run(|e, r, d| moe_dispatch::moe_swiglu_fused_encode(e, r, d.metal_device(), &both, &out, n));
    b.run(|e, r, d| moe_dispatch::moe_swiglu_fused_encode(e, r, d.metal_device(), &both, &both, n));
    assert!(both.read::<f32>().unwrap()[..n] == out.read::<f32>().unwrap()[..]);
}

#[test]
fn on_the_cpu() {
    all(&mut Bench::cpu());
    gates(&mut Bench::cpu());
}

#[cfg(feature = "emulator")]
#[test]
fn on_the_emulator() {
    all(&mut Bench::emulator());
    gates(&mut Bench::emulator());
}
