//! Capture, graphs and sessions, as 0.1 has them.

use std::time::Instant;

use mlx_native::ops::flash_attn_vec::{FlashAttnVecParams, flash_attn_vec, tmp_buffer_bytes};
use mlx_native::ops::sdpa::SdpaParams;
use mlx_native::ops::sdpa_sliding::{SdpaSlidingParams, sdpa_sliding};
use mlx_native::ops::{elementwise, fused_norm_add, gelu, rms_norm, softmax};
use mlx_native::{CapturedNode, CapturedOpKind, ComputeGraph, DType, GraphExecutor, GraphSession, MlxBuffer};

use crate::support::{Bench, Rng, values};

/// The kinds of the dispatches that `record` captures.
fn kinds(
    b: &mut Bench,
    record: impl FnOnce(
        &mut mlx_native::CommandEncoder,
        &mut mlx_native::KernelRegistry,
        &mlx_native::MlxDevice,
    ) -> mlx_native::Result<()>,
) -> Vec<CapturedOpKind> {
    let mut encoder = b.device.command_encoder().unwrap();
    encoder.start_capture();
    record(&mut encoder, &mut b.registry, &b.device).unwrap();
    let nodes = encoder.take_capture().unwrap();
    let kind = |node: &CapturedNode| match node {
        CapturedNode::Dispatch { op_kind, .. } => Some(*op_kind),
        _ => None,
    };
    nodes.iter().filter_map(kind).collect()
}

#[test]
fn operators_say_what_they_are() {
    let mut b = Bench::cpu();
    let x = b.zeros(DType::F32, 64);
    let [y, z, w] = [0; 3].map(|_| b.zeros(DType::F32, 64));
    let tmp = b.zeros(DType::U8, tmp_buffer_bytes(1, 32));
    use CapturedOpKind::{ElemAdd, ElemMul, Other, RmsNorm, Sdpa, Softmax};
    let got = kinds(&mut b, |e, r, d| {
        let device = d.metal_device();
        rms_norm::dispatch_rms_norm(e, r, device, &x, &w, &y, &z, 2, 32)?;
        elementwise::elementwise_mul(e, r, device, &x, &y, &z, 64, DType::F32)?;
        elementwise::elementwise_add(e, r, device, &x, &y, &z, 64, DType::F32)?;
        softmax::dispatch_softmax(e, r, device, &x, &y, &w, 2, 32)
    });
    assert_eq!(got, [RmsNorm, ElemMul, ElemAdd, Softmax]);
    let got = kinds(&mut b, |e, r, d| {
        let device = d.metal_device();
        rms_norm::dispatch_rms_norm_no_scale_f32(e, r, device, &x, &y, &z, 2, 32)?;
        rms_norm::dispatch_rms_norm_mul(e, r, device, &x, &w, &z, &y, &x, 2, 32)?;
        elementwise::scalar_mul_f32(e, r, device, &x, &y, 64, 2.0)?;
        fused_norm_add::dispatch_fused_norm_add_f32(e, r, device, &x, &z, &w, &y, 32, 2, 1e-5)?;
        gelu::dispatch_gelu(e, r, device, &x, &y)
    });
    assert!(
        got.len() == 5 && got.iter().all(|kind| *kind == Other && kind.is_reorderable()),
        "{got:?}"
    );
    let dense = SdpaParams {
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 32,
        seq_len: 1,
        kv_seq_len: 2,
        scale: 1.0,
        kv_capacity: 2,
    };
    let got = kinds(&mut b, |e, r, d| {
        let sliding = SdpaSlidingParams {
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 32,
            seq_len: 1,
            kv_seq_len: 2,
            window_size: 1,
            scale: 1.0,
            kv_capacity: 2,
        };
        mlx_native::ops::sdpa::sdpa(e, r, d, &x, &y, &z, &w, &dense, 1)?;
        sdpa_sliding(e, r, d, &x, &y, &z, &w, &sliding, 1)
    });
    assert!(
        got.iter().all(|kind| *kind == Sdpa && !kind.is_reorderable()) && got.len() >= 2,
        "{got:?}"
    );
    let flash = FlashAttnVecParams {
        num_heads: 1,
        num_kv_heads: 1,
        head_dim: 32,
        kv_seq_len: 2,
        kv_capacity: 2,
        scale: 1.0,
        mask_type: 0,
        sliding_window: 0,
        softcap: 0.0,
    };
    let got = kinds(&mut b, |e, r, d| {
        flash_attn_vec(e, r, d, &x, &y, &z, &w, &tmp, &flash)
    });
    assert_eq!(got[0], Sdpa);
}

#[test]
fn kinds_and_ranges_tag_the_next_dispatch_alone() {
    let mut b = Bench::cpu();
    let (x, y) = (b.zeros(DType::F32, 8), b.zeros(DType::F32, 8));
    let pipeline = b
        .registry
        .get_pipeline("softmax_f32", b.device.metal_device())
        .unwrap()
        .clone();
    let mut encoder = b.device.command_encoder().unwrap();
    encoder.start_capture();
    encoder.memory_barrier();
    encoder.set_op_kind(CapturedOpKind::ElemAdd);
    encoder.set_pending_buffer_ranges(vec![(10, 20)], vec![(30, 40)]);
    let size = mlx_native::MTLSize::new(1, 1, 1);
    for _ in 0..2 {
        let bytes = [1u32, 8];
        encoder.encode_threadgroups_with_args(
            &pipeline,
            &[
                (0, mlx_native::KernelArg::Buffer(&x)),
                (1, mlx_native::KernelArg::Buffer(&y)),
                (2, mlx_native::KernelArg::Bytes(mlx_native::as_bytes(&bytes))),
            ],
            size,
            mlx_native::MTLSize::new(32, 1, 1),
        );
    }
    let nodes = encoder.take_capture().unwrap();
    assert!(matches!(nodes[0], CapturedNode::Barrier) && nodes.len() == 3);
    let CapturedNode::Dispatch {
        op_kind,
        reads,
        writes,
        bindings,
        threads_per_threadgroup,
        ..
    } = &nodes[1]
    else {
        panic!("no dispatch");
    };
    assert_eq!(
        (*op_kind, threads_per_threadgroup.width),
        (CapturedOpKind::ElemAdd, 32)
    );
    assert!(
        reads.contains(&(10, 20)) && writes.contains(&(30, 40)),
        "{reads:?} {writes:?}"
    );
    assert_eq!(
        bindings.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    let CapturedNode::Dispatch { op_kind, reads, .. } = &nodes[2] else {
        panic!("no dispatch")
    };
    assert!(*op_kind == CapturedOpKind::Other && !reads.contains(&(10, 20)));
    // A second capture begins anew.
    encoder.start_capture();
    encoder.memory_barrier();
    encoder.start_capture();
    assert_eq!(encoder.take_capture().unwrap().len(), 0);
}

/// `steps` times `y = 2x`, `x = y + 1`.
fn chain(session: &mut GraphSession<'_>, b: &mut Bench, [x, y, one]: [&MlxBuffer; 3], steps: usize) {
    let device = b.device.metal_device();
    for _ in 0..steps {
        session.barrier_between(&[x], &[y]);
        elementwise::scalar_mul_f32(session.encoder_mut(), &mut b.registry, device, x, y, 8, 2.0).unwrap();
        session.barrier_between(&[y, one], &[x]);
        session
            .elementwise_add(&mut b.registry, device, y, one, x, 8, DType::F32)
            .unwrap();
    }
}

#[test]
fn every_way_to_finish_gives_the_same() {
    type Finish = fn(GraphSession<'_>, &mut Bench);
    let ways: [(&str, Finish); 9] = [
        ("finish", |s, _| s.finish().unwrap()),
        ("commit", |s, _| s.commit().wait_until_completed().unwrap()),
        ("timing", |s, _| {
            let _ = s.finish_with_timing(Instant::now()).unwrap();
        }),
        ("fusion", |s, b| {
            assert_eq!(
                s.finish_with_fusion(&mut b.registry, b.device.metal_device())
                    .unwrap(),
                0
            )
        }),
        ("fusion, timing", |s, b| {
            let _ = s
                .finish_with_fusion_and_timing(&mut b.registry, b.device.metal_device(), Instant::now())
                .unwrap();
        }),
        ("reorder", |s, b| {
            let _ = s
                .finish_with_fusion_and_reorder(&mut b.registry, b.device.metal_device())
                .unwrap();
        }),
        ("reorder, timing", |s, b| {
            let device = b.device.metal_device();
            let _ = s
                .finish_with_fusion_reorder_and_timing(&mut b.registry, device, Instant::now())
                .unwrap();
        }),
        ("optimized", |s, b| {
            let _ = s
                .finish_optimized(&mut b.registry, b.device.metal_device())
                .unwrap();
        }),
        ("optimized, timing", |s, b| {
            let device = b.device.metal_device();
            let _ = s
                .finish_optimized_with_timing(&mut b.registry, device, Instant::now())
                .unwrap();
        }),
    ];
    let mut b = Bench::cpu();
    // More than the 64 dispatches of the first of two encoders.
    let steps = 40;
    let want = (0..steps).fold(0.125f64, |x, _| 2.0 * x + 1.0) as f32;
    for recorded in [false, true] {
        for (name, finish) in &ways {
            let (x, y, one) = (
                b.floats(DType::F32, &[0.125; 8]),
                b.zeros(DType::F32, 8),
                b.floats(DType::F32, &[1.0; 8]),
            );
            let executor = GraphExecutor::new(b.device.clone());
            let mut session = if recorded {
                executor.begin_recorded()
            } else {
                executor.begin()
            }
            .unwrap();
            assert_eq!(session.is_recording(), recorded);
            chain(&mut session, &mut b, [&x, &y, &one], steps);
            assert_eq!(session.barrier_count() as usize, 2 * steps - 1);
            session.dump_group_stats();
            assert_eq!(session.tracker_overhead_ns(), 0);
            finish(session, &mut b);
            assert_eq!(
                x.read::<f32>().unwrap(),
                [want; 8],
                "{name}, recorded: {recorded}"
            );
        }
        // Dropped, it has done nothing.
        let (x, y, one) = (
            b.floats(DType::F32, &[0.125; 8]),
            b.zeros(DType::F32, 8),
            b.floats(DType::F32, &[1.0; 8]),
        );
        let executor = GraphExecutor::new(b.device.clone());
        let mut session = if recorded {
            executor.begin_recorded()
        } else {
            executor.begin()
        }
        .unwrap();
        chain(&mut session, &mut b, [&x, &y, &one], 3);
        drop(session);
        assert_eq!(x.read::<f32>().unwrap(), [0.125; 8]);
    }
}

#[test]
fn two_encoders_share_a_graph_behind_its_first_64_dispatches() {
    let mut b = Bench::cpu();
    let (x, y, one) = (
        b.floats(DType::F32, &[0.0; 8]),
        b.zeros(DType::F32, 8),
        b.floats(DType::F32, &[1.0; 8]),
    );
    let device = b.device.metal_device();
    let mut encoder = b.device.command_encoder().unwrap();
    encoder.start_capture();
    for _ in 0..50 {
        elementwise::elementwise_add(&mut encoder, &mut b.registry, device, &x, &one, &y, 8, DType::F32)
            .unwrap();
        elementwise::elementwise_add(&mut encoder, &mut b.registry, device, &y, &one, &x, 8, DType::F32)
            .unwrap();
    }
    let graph = ComputeGraph::from_nodes(encoder.take_capture().unwrap());
    assert_eq!(
        (graph.dispatch_count(), graph.barrier_count(), graph.len()),
        (100, 0, 100)
    );
    let [mut first, mut second] = [0; 2].map(|_| b.device.command_encoder().unwrap());
    let (barriers0, barriers1) = graph.encode_dual_buffer(&mut first, &mut second);
    // Each dispatch but the first of an encoder waits for the one before.
    assert_eq!((barriers0, barriers1), (63, 35));
    second.commit_and_wait().unwrap();
    first.wait_until_completed().unwrap();
    assert_eq!(x.read::<f32>().unwrap(), [100.0; 8]);
    let mut encoder = b.device.command_encoder().unwrap();
    assert_eq!(graph.encode_with_barriers(&mut encoder), 99);
    encoder.commit_and_wait().unwrap();
    assert_eq!(x.read::<f32>().unwrap(), [200.0; 8]);
}

#[test]
fn reordering_fills_groups_with_what_is_independent() {
    let mut b = Bench::cpu();
    // Two chains, one behind the other: their members go side by side.
    let chains: Vec<[MlxBuffer; 3]> = (0..2)
        .map(|i| [0; 3].map(|_| b.floats(DType::F32, &Rng(i + 7).floats(8, 1.0))))
        .collect();
    let device = b.device.metal_device();
    let mut encoder = b.device.command_encoder().unwrap();
    encoder.start_capture();
    for [x, y, z] in &chains {
        elementwise::scalar_mul_f32(&mut encoder, &mut b.registry, device, x, y, 8, 3.0).unwrap();
        encoder.memory_barrier();
        elementwise::scalar_mul_f32(&mut encoder, &mut b.registry, device, y, z, 8, 5.0).unwrap();
        encoder.memory_barrier();
    }
    let mut graph = ComputeGraph::from_nodes(encoder.take_capture().unwrap());
    assert_eq!(
        (
            graph.dispatch_count(),
            graph.barrier_count(),
            graph.unannotated_dispatch_count()
        ),
        (4, 4, 0)
    );
    assert_eq!(graph.reorder(), 2);
    assert_eq!((graph.dispatch_count(), graph.barrier_count()), (4, 0));
    let mut encoder = b.device.command_encoder().unwrap();
    assert_eq!(graph.encode_with_barriers(&mut encoder), 1);
    encoder.commit_and_wait().unwrap();
    for [x, _, z] in &chains {
        let want: Vec<f64> = values(x)
            .iter()
            .map(|x| f64::from(*x as f32 * 3.0 * 5.0))
            .collect();
        crate::support::close("chain", &values(z), &want, 1e-6);
    }
}
