use crate::dtype::DType;
use crate::encoder::{CapturedNode, CapturedOpKind};
use crate::graph::{ComputeGraph, GraphExecutor};
use crate::ops::add::{AddParams, add};
use crate::registry::KernelRegistry;
use crate::testing::Bench;
use crate::{MlxBuffer, MlxDevice};

const N: AddParams = AddParams {
    n_elements: 4,
    b_elements: 4,
};

/// Two independent chains, recorded one after the other: `y = x + x; z = y + y` and `v = u + u; w = v + v`.
fn two_chains(bench: &mut Bench, kind: CapturedOpKind) -> (ComputeGraph, Vec<MlxBuffer>) {
    let mut buffers: Vec<MlxBuffer> = (0..6).map(|_| bench.buffer(DType::F32, &[4])).collect();
    buffers[0].write(0, &[1f32, 2.0, 3.0, 4.0]).unwrap();
    buffers[3].write(0, &[5f32, 6.0, 7.0, 8.0]).unwrap();
    bench.encoder.start_capture();
    for (from, to) in [(0, 1), (1, 2), (3, 4), (4, 5)] {
        let (a, o) = (&buffers[from], &buffers[to]);
        add(
            &mut bench.encoder,
            &mut bench.registry,
            &bench.device,
            a,
            a,
            o,
            &N,
        )
        .unwrap();
    }
    let mut nodes = bench.encoder.take_capture().unwrap();
    if let CapturedNode::Dispatch { op_kind, .. } = &mut nodes[2] {
        assert_eq!(*op_kind, CapturedOpKind::ElemAdd);
        *op_kind = kind;
    }
    (ComputeGraph::from_nodes(nodes), buffers)
}

fn barriers(graph: &ComputeGraph, device: &MlxDevice) -> u32 {
    graph.encode_with_barriers(&mut device.command_encoder().unwrap())
}

#[test]
fn reorder_brings_independent_chains_together_and_changes_no_result() {
    let mut bench = Bench::new();
    let (mut graph, buffers) = two_chains(&mut bench, CapturedOpKind::ElemAdd);
    // In recorded order: chain 1, a barrier, its second step with the start of chain 2, a barrier, the rest.
    assert_eq!((graph.dispatch_count(), barriers(&graph, &bench.device)), (4, 2));
    assert!(graph.reorder() > 0);
    assert_eq!(barriers(&graph, &bench.device), 1);
    let mut encoder = bench.device.command_encoder().unwrap();
    graph.encode(&mut encoder).unwrap();
    assert_eq!(
        buffers[2].as_slice::<f32>().unwrap(),
        [0.0; 4],
        "nothing runs before the commit"
    );
    encoder.commit_and_wait().unwrap();
    assert_eq!(buffers[2].read::<f32>().unwrap(), [4.0, 8.0, 12.0, 16.0]);
    assert_eq!(buffers[5].read::<f32>().unwrap(), [20.0, 24.0, 28.0, 32.0]);
}

#[test]
fn attention_and_softmax_stay_where_they_are() {
    for kind in [CapturedOpKind::Sdpa, CapturedOpKind::Softmax] {
        let mut bench = Bench::new();
        let (mut graph, _) = two_chains(&mut bench, kind);
        assert_eq!(graph.reorder(), 0);
        assert_eq!(barriers(&graph, &bench.device), 2);
    }
}

#[test]
fn a_recorded_session_runs_at_finish_and_a_dropped_one_never() {
    let mut bench = Bench::new();
    let mut registry = KernelRegistry::new();
    let (_, buffers) = two_chains(&mut bench, CapturedOpKind::Other);
    let executor = GraphExecutor::new(bench.device.clone());
    let record = |session: &mut crate::GraphSession<'_>, registry: &mut KernelRegistry| {
        let device = session.device().clone();
        let (x, y) = (&buffers[0], &buffers[1]);
        add(session.encoder_mut(), registry, &device, x, x, y, &N).unwrap();
    };
    for recorded in [false, true] {
        let mut session = if recorded {
            executor.begin_recorded()
        } else {
            executor.begin()
        }
        .unwrap();
        record(&mut session, &mut registry);
        drop(session);
    }
    assert_eq!(buffers[1].read::<f32>().unwrap(), [0.0; 4]);
    let mut session = executor.begin_recorded().unwrap();
    assert!(session.is_recording());
    record(&mut session, &mut registry);
    session.barrier();
    session.finish().unwrap();
    assert_eq!(buffers[1].read::<f32>().unwrap(), [2.0, 4.0, 6.0, 8.0]);
    let mut session = executor.begin_recorded().unwrap();
    record(&mut session, &mut registry);
    let device = session.device().clone();
    assert_eq!(
        session
            .finish_optimized(&mut registry, device.metal_device())
            .unwrap(),
        (0, 0, 0, 0)
    );
}
