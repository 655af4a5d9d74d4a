//! The faults of 0.1 that are not a matter of sizes: what each became.

use mlx_native::ops::{
    argsort, elementwise, gelu, hadamard_quantize_kv, moe_dispatch, moe_gate, rms_norm, rope, sdpa, softcap,
    softmax, softmax_sample,
};
use mlx_native::turboquant::{
    BitWidth, CODEBOOK_4BIT, TurboQuantConfig, compute_lloyd_max_beta_codebook, compute_lloyd_max_codebook,
    turboquant_dequantize, turboquant_quantize,
};
use mlx_native::{
    CapturedNode, CapturedOpKind, ComputeGraph, DType, GgmlQuantizedMatmulIdParams, GgmlType, GraphExecutor,
    MTLSize, MlxBufferPool, MlxDevice, MlxError, Result,
};

use crate::support::{Bench, Rng, close, values};

fn invalid<T: std::fmt::Debug>(result: Result<T>, word: &str) {
    match result {
        Err(MlxError::InvalidArgument(text)) => assert!(text.contains(word), "{text}, wanted {word}"),
        other => panic!("{other:?}, wanted an error about {word}"),
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    let mut b = Bench::cpu();
    let (x, y) = (b.zeros(DType::F32, 8), b.zeros(DType::F32, 8));
    let one = b.zeros(DType::U32, 1);
    for cap in [f32::NAN, 0.0, -1.0, f32::INFINITY] {
        invalid(
            b.try_run(|e, r, d| softcap::dispatch_softcap(e, r, d.metal_device(), &x, &y, &y, cap)),
            "cap",
        );
    }
    for (temperature, random, word) in [
        (f32::NAN, 0.5, "temperature"),
        (0.0, 0.5, "temperature"),
        (-1.0, 0.5, "temperature"),
        (1.0, f32::NAN, "random"),
        (1.0, 1.0, "random"),
        (1.0, -0.1, "random"),
    ] {
        let result = b.try_run(|e, r, d| {
            let device = d.metal_device();
            softmax_sample::dispatch_softmax_sample_f32(
                e,
                r,
                device,
                &x,
                &y,
                &one,
                &x,
                &y,
                8,
                temperature,
                random,
            )
        });
        invalid(result, word);
    }
    let params = sdpa::SdpaParams {
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 8,
        seq_len: 1,
        kv_seq_len: 1,
        scale: f32::NAN,
        kv_capacity: 1,
    };
    invalid(
        b.try_run(|e, r, d| sdpa::sdpa(e, r, d, &x, &x, &x, &y, &params, 1)),
        "scale",
    );
}

#[test]
fn attention_refuses_what_0_1_computed_wrongly() {
    let mut b = Bench::cpu();
    let ok = sdpa::SdpaParams {
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 4,
        seq_len: 2,
        kv_seq_len: 3,
        scale: 1.0,
        kv_capacity: 4,
    };
    let big = [0; 4].map(|_| b.zeros(DType::F32, 5000));
    let mut run = |params: sdpa::SdpaParams, batch: u32| {
        b.try_run(|e, r, d| sdpa::sdpa(e, r, d, &big[0], &big[1], &big[2], &big[3], &params, batch))
    };
    run(ok, 1).unwrap();
    invalid(run(sdpa::SdpaParams { seq_len: 4, ..ok }, 1), "seq_len");
    invalid(run(sdpa::SdpaParams { head_dim: 577, ..ok }, 1), "head_dim");
    invalid(run(sdpa::SdpaParams { kv_capacity: 2, ..ok }, 1), "kv_capacity");
    invalid(
        run(
            sdpa::SdpaParams {
                n_heads: 3,
                n_kv_heads: 2,
                ..ok
            },
            1,
        ),
        "divisible",
    );
    invalid(run(ok, 0), "batch_size");
    // Mixed dtypes: 0.1 reads f16 as f32, past the end.
    let half = b.zeros(DType::F16, 5000);
    invalid(
        b.try_run(|e, r, d| sdpa::sdpa(e, r, d, &big[0], &half, &big[2], &big[3], &ok, 1)),
        "dtype",
    );
}

#[test]
fn sizes_in_a_parameter_buffer_that_contradict_the_call_do_no_harm() {
    let mut b = Bench::cpu();
    let x = b.floats(DType::F32, &Rng(1).floats(64, 2.0));
    let [wanted, got] = [0; 2].map(|_| b.zeros(DType::F32, 64));
    let (index, value) = (b.zeros(DType::U32, 1), b.zeros(DType::F32, 1));
    let lies = [1e9f32, f32::NAN, -1.0, f32::from_bits(u32::MAX)];
    let (right, wrong) = (
        b.floats(DType::F32, &[1e-5, 32.0]),
        b.floats(DType::F32, &[1e-5, lies[0], lies[1], lies[2]]),
    );
    for (params, out) in [(&right, &wanted), (&wrong, &got)] {
        b.run(|e, r, d| {
            rms_norm::dispatch_rms_norm_no_scale_f32(e, r, d.metal_device(), &x, out, params, 2, 32)
        });
    }
    assert_eq!(values(&wanted), values(&got));
    let positions = b.words(&[3, 70_000]);
    let (right, wrong) = (
        b.floats(DType::F32, &[1e4, 32.0, 32.0, 0.0]),
        b.floats(DType::F32, &[1e4, lies[0], lies[1], lies[3]]),
    );
    for (params, out) in [(&right, &wanted), (&wrong, &got)] {
        b.run(|e, r, d| rope::dispatch_rope(e, r, d.metal_device(), &x, out, params, &positions, 2, 32));
    }
    assert_eq!(values(&wanted), values(&got));
    let lies = b.floats(DType::F32, &lies);
    b.run(|e, r, d| {
        let device = d.metal_device();
        softmax::dispatch_softmax(e, r, device, &x, &got, &lies, 2, 32)?;
        softcap::dispatch_softcap(e, r, device, &x, &wanted, &lies, 30.0)?;
        mlx_native::ops::argmax::dispatch_argmax_f32(e, r, device, &x, &index, &value, &lies, 64)?;
        softmax_sample::dispatch_softmax_sample_f32(
            e, r, device, &x, &got, &index, &value, &lies, 64, 1.0, 0.5,
        )
    });
    assert!(index.read::<u32>().unwrap()[0] < 64);
}

#[test]
fn experts_that_are_none_give_rows_of_zeros() {
    let mut b = Bench::cpu();
    let weight = b.bytes(&Rng(2).bytes(2 * 3 * 34));
    let (x, ids) = (b.floats(DType::F32, &[1.0; 32]), b.words(&[2, u32::MAX, 1]));
    let mut out = b.floats(DType::F32, &[9.0; 9]);
    let params = GgmlQuantizedMatmulIdParams {
        n_tokens: 1,
        top_k: 3,
        n: 3,
        k: 32,
        n_experts: 2,
        expert_stride: 3 * 34,
        ggml_type: GgmlType::Q8_0,
    };
    b.run(|e, r, d| mlx_native::quantized_matmul_id_ggml(e, r, d, &x, &weight, &ids, &mut out, &params));
    let got = out.read::<f32>().unwrap();
    assert!(
        got[..6].iter().all(|v| *v == 0.0) && got[6..].iter().all(|v| *v != 9.0),
        "{got:?}"
    );
    // Types that 0.1 had no kernel for and that have none here are named.
    let params = GgmlQuantizedMatmulIdParams {
        ggml_type: GgmlType::F32,
        ..params
    };
    invalid(
        b.try_run(|e, r, d| {
            mlx_native::quantized_matmul_id_ggml(e, r, d, &x, &weight, &ids, &mut out, &params)
        }),
        "ggml_type",
    );
}

#[test]
fn routing_bounds_come_before_buffers_and_nan_chooses_distinct_experts() {
    let mut b = Bench::cpu();
    let tiny = b.zeros(DType::F32, 1);
    let ok = moe_gate::MoeGateParams {
        hidden_dim: 4,
        n_experts: 4,
        top_k: 2,
        seq_len: 1,
        rms_eps: 1e-6,
    };
    let gate = |b: &mut Bench, params: moe_gate::MoeGateParams| {
        b.try_run(|e, r, d| {
            moe_gate::moe_gate(
                e,
                r,
                d.metal_device(),
                &tiny,
                &tiny,
                &tiny,
                &tiny,
                &tiny,
                &tiny,
                &params,
            )
        })
    };
    invalid(gate(&mut b, moe_gate::MoeGateParams { top_k: 5, ..ok }), "top_k");
    invalid(
        gate(
            &mut b,
            moe_gate::MoeGateParams {
                rms_eps: f32::NAN,
                ..ok
            },
        ),
        "",
    );
    let logits = b.floats(DType::F32, &[f32::NAN, 1.0, f32::NAN, 0.5]);
    let (ids, weights, scale) = (
        b.zeros(DType::U32, 4),
        b.zeros(DType::F32, 4),
        b.floats(DType::F32, &[1.0; 4]),
    );
    b.run(|e, r, d| {
        let device = d.metal_device();
        mlx_native::ops::fused_norm_add::dispatch_fused_moe_routing_f32(
            e, r, device, &logits, &ids, &weights, &scale, 4, 4,
        )
    });
    let mut chosen = ids.read::<u32>().unwrap();
    chosen.sort_unstable();
    assert_eq!(chosen, [0, 1, 2, 3]);
}

#[test]
fn argsort_has_an_order_for_nan_and_for_infinities() {
    let mut b = Bench::cpu();
    let x = [f32::NEG_INFINITY, 1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let (input, out) = (b.floats(DType::F32, &x), b.zeros(DType::U32, 5));
    b.run(|e, r, d| argsort::dispatch_argsort_desc_f32(e, r, d.metal_device(), &input, &out, 1, 5));
    // NaN is greater than everything; of equals the higher column comes first.
    assert_eq!(out.read::<u32>().unwrap(), [2, 3, 1, 4, 0]);
}

#[test]
fn the_encoder_reports_misuse_when_it_is_waited_for() {
    let mut b = Bench::cpu();
    let (x, y) = (b.floats(DType::F32, &[1.0; 8]), b.zeros(DType::F32, 8));
    let size = MTLSize::new(1, 1, 1);
    let pipeline = b
        .registry
        .get_pipeline("softmax_f32", b.device.metal_device())
        .unwrap()
        .clone();
    let encoder = || b.device.command_encoder().unwrap();
    // Silent no-ops in 0.1.
    let mut e = encoder();
    e.set_pipeline(&pipeline);
    e.set_buffer(0, &x);
    e.dispatch_threads(size, size);
    assert!(e.commit_and_wait().is_err());
    // Arguments that do not fit the kernel: a slot that it lacks, an offset beyond the buffer, one that is missing.
    for bindings in [
        vec![
            (0, mlx_native::KernelArg::Buffer(&x)),
            (99, mlx_native::KernelArg::Buffer(&y)),
        ],
        vec![
            (0, mlx_native::KernelArg::BufferWithOffset(&x, u64::MAX)),
            (1, mlx_native::KernelArg::Buffer(&y)),
        ],
        vec![(0, mlx_native::KernelArg::Buffer(&x))],
        vec![],
    ] {
        let mut e = encoder();
        e.encode_with_args(&pipeline, &bindings, size, size);
        assert!(e.commit_and_wait().is_err());
    }
    // A second commit, and work after the first: an abort in 0.1.
    let mut e = encoder();
    e.commit_and_wait().unwrap();
    assert!(e.commit_and_wait().is_err());
    let mut e = encoder();
    e.commit();
    e.commit();
    assert!(e.wait_until_completed().is_err());
    let mut e = encoder();
    e.commit_and_wait().unwrap();
    assert!(gelu::dispatch_gelu(&mut e, &mut b.registry, b.device.metal_device(), &x, &y).is_err());
}

/// Two buffers over one allocation gave two mutable slices in 0.1, and slices while work wrote it.
#[test]
fn buffers_that_share_memory_lend_it_to_one_at_a_time() {
    let mut b = Bench::cpu();
    let (mut x, y) = (b.floats(DType::F32, &[1.0; 8]), b.zeros(DType::F32, 8));
    let mut alias = mlx_native::MlxBuffer::from_raw(x.metal_buffer().clone(), DType::F32, vec![8]);
    assert_eq!(values(&alias), vec![1.0; 8]);
    let lent = x.as_mut_slice::<f32>().unwrap();
    assert!(alias.as_mut_slice::<f32>().is_err() && alias.read::<f32>().is_err());
    lent[0] = 5.0;
    assert_eq!(x.as_slice::<f32>().unwrap()[0], 5.0);
    alias.as_mut_slice::<f32>().unwrap()[1] = 6.0;
    assert_eq!(alias.dtype(), DType::F32);
    let before = alias.as_slice::<f32>().unwrap();
    b.run(|e, r, d| elementwise::scalar_mul_f32(e, r, d.metal_device(), &x, &x, 8, 2.0));
    b.run(|e, r, d| elementwise::elementwise_add(e, r, d.metal_device(), &x, &alias, &y, 8, DType::F32));
    assert_eq!(before[..3], [5.0, 6.0, 1.0], "what was seen stays");
    assert_eq!(values(&y)[..3], [20.0, 24.0, 4.0]);
}

#[test]
fn work_that_was_dropped_or_refused_leaves_no_trace() {
    let mut b = Bench::cpu();
    let (x, y) = (b.floats(DType::F32, &[2.0; 8]), b.zeros(DType::F32, 8));
    let mut e = b.device.command_encoder().unwrap();
    elementwise::scalar_mul_f32(&mut e, &mut b.registry, b.device.metal_device(), &x, &y, 8, 3.0).unwrap();
    drop(e);
    assert!(values(&y).iter().all(|v| *v == 0.0));
    let mut e = b.device.command_encoder().unwrap();
    let device = b.device.metal_device();
    elementwise::scalar_mul_f32(&mut e, &mut b.registry, device, &x, &y, 8, 3.0).unwrap();
    assert!(elementwise::scalar_mul_f32(&mut e, &mut b.registry, device, &x, &y, 9, 3.0).is_err());
    e.commit_and_wait().unwrap();
    assert!(values(&y).iter().all(|v| *v == 6.0));
}

/// A norm, a product with it, and a reader of the norm's own output.
fn recorded(
    b: &mut Bench,
    tells: bool,
) -> (
    Vec<CapturedNode>,
    [mlx_native::MlxBuffer; 3],
    mlx_native::MlxBuffer,
) {
    let n = 64;
    let x = b.floats(DType::F32, &Rng(3).floats(n, 2.0));
    let (weight, factor) = (
        b.floats(DType::F32, &[1.5; 32]),
        b.floats(DType::F32, &Rng(4).floats(n, 2.0)),
    );
    let params = b.floats(DType::F32, &[1e-5, 32.0]);
    let outs = [0; 3].map(|_| b.zeros(DType::F32, n));
    let mut e = b.device.command_encoder().unwrap();
    e.start_capture();
    let device = b.device.metal_device();
    let registry = &mut b.registry;
    rms_norm::dispatch_rms_norm(&mut e, registry, device, &x, &weight, &outs[0], &params, 2, 32).unwrap();
    e.memory_barrier();
    if !tells {
        // The caller says that it reads and writes nothing of the norm's.
        e.set_pending_buffer_ranges(vec![(1, 2)], vec![(3, 4)]);
    }
    elementwise::elementwise_mul(
        &mut e,
        registry,
        device,
        &outs[0],
        &factor,
        &outs[1],
        n,
        DType::F32,
    )
    .unwrap();
    e.memory_barrier();
    gelu::dispatch_gelu(&mut e, registry, device, &outs[0], &outs[2]).unwrap();
    let nodes = e.take_capture().unwrap();
    assert!(matches!(
        &nodes[0],
        CapturedNode::Dispatch {
            op_kind: CapturedOpKind::RmsNorm,
            ..
        }
    ));
    assert_eq!(
        (nodes.len(), e.is_capturing(), e.take_capture().is_none()),
        (5, false, true)
    );
    (nodes, outs, factor)
}

#[test]
fn fusion_and_reordering_change_no_result() {
    let mut b = Bench::cpu();
    for tells in [true, false] {
        let (nodes, outs, factor) = recorded(&mut b, tells);
        let plain = ComputeGraph::from_nodes(nodes.clone());
        let mut e = b.device.command_encoder().unwrap();
        assert_eq!(plain.encode_sequential(&mut e), 2);
        e.commit_and_wait().unwrap();
        let wanted: Vec<_> = outs.iter().map(values).collect();
        for reorder in [false, true] {
            b.run(|e, r, d| {
                outs.iter()
                    .try_for_each(|out| moe_dispatch::moe_zero_buffer_encode(e, r, d.metal_device(), out, 64))
            });
            let mut graph = ComputeGraph::from_nodes(nodes.clone());
            let fused = graph.fuse(&mut b.registry, b.device.metal_device()).unwrap();
            assert!(fused <= 1);
            if reorder {
                graph.reorder();
            }
            let mut e = b.device.command_encoder().unwrap();
            graph.encode_with_barriers(&mut e);
            e.commit_and_wait().unwrap();
            // A third reader of the norm sees it, as without fusion.
            for (got, want) in outs.iter().zip(&wanted) {
                close("fused", &values(got), want, 1e-6);
            }
        }
        drop(factor);
    }
}

#[test]
fn a_product_of_the_norm_with_itself_is_not_fused() {
    let mut b = Bench::cpu();
    let (x, weight) = (
        b.floats(DType::F32, &Rng(3).floats(32, 2.0)),
        b.floats(DType::F32, &[1.5; 32]),
    );
    let params = b.floats(DType::F32, &[1e-5, 32.0]);
    let (norm, square) = (b.zeros(DType::F32, 32), b.zeros(DType::F32, 32));
    let executor = GraphExecutor::new(b.device.clone());
    let mut session = executor.begin_recorded().unwrap();
    let device = b.device.metal_device();
    session
        .rms_norm(&mut b.registry, device, &x, &weight, &norm, &params, 1, 32)
        .unwrap();
    session.barrier_between(&[&norm], &[&square]);
    session.barrier();
    session
        .elementwise_mul(&mut b.registry, device, &norm, &norm, &square, 32, DType::F32)
        .unwrap();
    assert_eq!(session.finish_with_fusion(&mut b.registry, device).unwrap(), 0);
    let want: Vec<f64> = values(&norm).iter().map(|v| v * v).collect();
    close("square", &values(&square), &want, 1e-6);
}

#[test]
fn a_pool_never_gives_less_than_was_asked_for() {
    let device = MlxDevice::new().unwrap();
    let mut pool = MlxBufferPool::new(&device);
    pool.release(device.alloc_buffer(100, DType::U8, vec![100]).unwrap());
    assert_eq!(pool.alloc(100, DType::U8, vec![100]).unwrap().byte_len(), 128);
    assert_eq!(pool.alloc(64, DType::U8, vec![64]).unwrap().byte_len(), 100);
    assert_eq!(pool.alloc(0, DType::U8, vec![0]).unwrap().byte_len(), 1);
    assert!(pool.alloc(usize::MAX, DType::U8, vec![1]).is_err());
    assert!(device.alloc_buffer(usize::MAX, DType::U8, vec![1]).is_err());
    assert!(
        device
            .alloc_buffer(isize::MAX as usize, DType::U8, vec![1])
            .is_err()
    );
    invalid(device.alloc_buffer(4, DType::U8, vec![usize::MAX, 2]), "");
}

#[test]
fn the_two_4_bit_formats_stay_as_they_are_and_apart() {
    let config = TurboQuantConfig {
        bit_width: BitWidth::Four,
        head_dim: 64,
    };
    let zeros = [0.0; 64];
    let (packed, norm) = turboquant_quantize(&zeros, &config).unwrap();
    assert!(norm == 0.0 && packed == vec![0; 32]);
    let mut b = Bench::cpu();
    let x = Rng(5).floats(64, 1.0);
    for (values, zero) in [(&x[..], false), (&zeros[..], true)] {
        let (src, codes, norms) = (
            b.floats(DType::F32, values),
            b.zeros(DType::U8, 32),
            b.zeros(DType::F32, 1),
        );
        b.run(|e, r, d| {
            hadamard_quantize_kv::dispatch_hadamard_quantize_kv(
                e,
                r,
                d.metal_device(),
                &src,
                &codes,
                &norms,
                1,
                64,
                1,
                0,
                false,
            )
        });
        let codes = codes.read::<u8>().unwrap();
        if zero {
            assert_eq!(codes, vec![0x77; 32]);
            continue;
        }
        // The even coordinate is the low half on the device, the high half on the host.
        let host = turboquant_quantize(values, &config).unwrap().0;
        assert_eq!(codes, host.iter().map(|c| c.rotate_right(4)).collect::<Vec<_>>());
    }
    // Bytes that are missing count as zeros: the lowest level.
    let short = turboquant_dequantize(&[], 8.0, &config).unwrap();
    let whole = turboquant_dequantize(&[0; 32], 8.0, &config).unwrap();
    assert_eq!(short, whole);
    assert!((whole[0].abs() - (CODEBOOK_4BIT[0].abs() * 8.0)).abs() < 1e-3);
    for head_dim in [0, 3, usize::MAX, 1 << 62] {
        let config = TurboQuantConfig {
            bit_width: BitWidth::Two,
            head_dim,
        };
        assert!(turboquant_dequantize(&[], 1.0, &config).is_err(), "{head_dim}");
        assert!(turboquant_quantize(&[1.0, 2.0], &config).is_err(), "{head_dim}");
    }
}

#[test]
fn codebooks_of_any_size() {
    assert!(compute_lloyd_max_codebook(0).is_empty() && compute_lloyd_max_beta_codebook(128, 0).is_empty());
    for levels in 1..6 {
        let normal = compute_lloyd_max_codebook(levels);
        assert!(normal.len() == levels && normal.is_sorted(), "{normal:?}");
        for dim in [0, 1, 2, 3, 4, 128, 1 << 20] {
            let beta = compute_lloyd_max_beta_codebook(dim, levels);
            assert!(
                beta.len() == levels && beta.is_sorted() && beta.iter().all(|l| l.abs() <= 1.0),
                "{dim}: {beta:?}"
            );
        }
    }
}

#[test]
fn texts_of_ones_own_that_come_to_no_pipeline() {
    let mut b = Bench::cpu();
    let count = b.registry.source_count();
    // A text that is none, and one that the cpu has no body for.
    for text in [
        "this is no kernel",
        "kernel void mine(device float *x [[buffer(0)]]) { x[0] = 1.0f; }",
    ] {
        b.registry.register_source("mine", text);
        match b.registry.get_pipeline("mine", b.device.metal_device()) {
            Err(MlxError::ShaderCompilationError { name, message }) => {
                assert!(name == "mine" && !message.is_empty())
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(
            (b.registry.source_count(), b.registry.is_cached("mine")),
            (count + 1, false)
        );
    }
    let unknown = b.registry.get_pipeline("unknown", b.device.metal_device()).err();
    assert_eq!(unknown, Some(MlxError::KernelNotFound("unknown".to_owned())));
}
