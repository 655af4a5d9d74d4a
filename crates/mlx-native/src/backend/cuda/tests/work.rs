//! Submissions: launches and their parameters, order, ends, failures.

use std::time::Duration;

use super::super::gpu::{Failure, FunctionFacts};
use super::super::recording::{Call, facts};
use super::{Bench, params, size, words};
use crate::dtype::DType;
use crate::encoder::KernelArg;
use crate::error::MlxError;
use crate::testing::assert_invalid;

#[test]
fn a_dispatch_becomes_a_launch() {
    let mut b = Bench::new();
    let whole = b.floats(100);
    let (x, y) = (b.floats(64), whole.view(12, DType::F32, vec![64]).unwrap());
    let bases: Vec<u64> = b.log().memory.keys().copied().collect();
    let mut encoder = b.encoder();
    let p = params(64, 2.0);
    let args = [
        (0, KernelArg::Buffer(&x)),
        (1, KernelArg::Buffer(&y)),
        (2, KernelArg::Bytes(&p)),
    ];
    b.threads(&mut encoder, "copy", &args, [64, 1, 1], [32, 1, 1])
        .unwrap();
    encoder.commit_and_wait().unwrap();
    let expected = Call::Launch {
        symbol: "msl_copy".into(),
        blocks: [2, 1, 1],
        threads: [32, 1, 1],
        shared_memory: 0,
        early: false,
        parameters: vec![
            bases[1].to_ne_bytes().to_vec(),
            (bases[0] + 12).to_ne_bytes().to_vec(),
            p,
            words(&[64, 1, 1, 32, 1, 1, 2, 1, 1]),
        ],
    };
    assert_eq!(b.launches(), [expected]);
    // An event before the launch, and one after it: the stand-in's clock counts calls.
    assert_eq!(encoder.timing().unwrap().device, Some(Duration::from_secs(2)));
}

#[test]
fn grids_that_blocks_cannot_be_are_mapped() {
    let mut b = Bench::new();
    let y = b.floats(1);
    let p = params(1, 1.0);
    let args = [(1, KernelArg::Buffer(&y)), (0, KernelArg::Bytes(&p))];
    let mut encoder = b.encoder();
    b.groups(&mut encoder, "rows", &args, [3, 5, 7], [8, 4, 2])
        .unwrap();
    b.groups(&mut encoder, "rows", &args, [2, 70000, 1], [32, 1, 1])
        .unwrap();
    b.threads(&mut encoder, "rows", &args, [64, 2, 1], [32, 2, 1])
        .unwrap();
    b.threads(&mut encoder, "rows", &args, [65, 2, 3], [32, 2, 1])
        .unwrap();
    encoder.commit_and_wait().unwrap();
    let shapes: Vec<_> = b
        .launches()
        .into_iter()
        .map(|call| match call {
            Call::Launch {
                blocks,
                threads,
                parameters,
                ..
            } => (blocks, threads, parameters[2..].concat()),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        ([3, 5, 7], [8, 4, 2], vec![]),
        (
            [140_000, 1, 1],
            [32, 1, 1],
            words(&[64, 70000, 1, 32, 1, 1, 2, 70000, 1]),
        ),
        ([2, 1, 1], [32, 2, 1], vec![]),
        ([9, 1, 1], [64, 1, 1], words(&[65, 2, 3, 32, 2, 1, 3, 1, 3])),
    ];
    assert_eq!(shapes, expected);
    // Two forms of one kernel, each compiled once.
    let log = b.log();
    assert_eq!(log.loaded.len(), 2);
    assert!(!log.loaded[0].1.contains("MSL_PARTIAL") && log.loaded[1].1.contains("#define MSL_PARTIAL"));
}

#[test]
fn too_many_threadgroups_are_refused() {
    let mut b = Bench::new();
    let y = b.floats(1);
    let p = params(1, 1.0);
    let args = [(1, KernelArg::Buffer(&y)), (0, KernelArg::Bytes(&p))];
    for grid in [[1, 1 << 20, 1 << 12], [1 << 31, 1, 1]] {
        let mut encoder = b.encoder();
        b.groups(&mut encoder, "rows", &args, grid, [1, 1, 1]).unwrap();
        assert_invalid(encoder.commit_and_wait(), &["rows", "threadgroups"]);
    }
    assert!(b.launches().is_empty());
}

#[test]
fn constants_come_from_buffers_too() {
    let mut b = Bench::new();
    let (y, p) = (b.floats(1), b.floats(2));
    let p_base = *b.log().memory.keys().nth(1).unwrap();
    let mut encoder = b.encoder();
    let args = [(1, KernelArg::Buffer(&y)), (0, KernelArg::Buffer(&p))];
    b.groups(&mut encoder, "rows", &args, [1, 1, 1], [32, 1, 1])
        .unwrap();
    encoder.commit_and_wait().unwrap();
    let Call::Launch { parameters, .. } = &b.launches()[0] else {
        panic!()
    };
    assert_eq!(parameters[1], p_base.to_ne_bytes());
    let text = &b.log().loaded[1].1;
    assert!(
        text.contains("on_cuda::address_of<") && text.contains("*a1"),
        "{text}"
    );
}

#[test]
fn inline_bytes_for_a_pointer_go_to_the_device() {
    let mut b = Bench::new();
    let y = b.floats(1);
    let values = words(&[7, 8, 9]);
    let mut encoder = b.encoder();
    let args = [(0, KernelArg::Bytes(&values)), (1, KernelArg::Buffer(&y))];
    b.groups(&mut encoder, "table", &args, [1, 1, 1], [1, 1, 1])
        .unwrap();
    b.hold(true);
    encoder.try_commit().unwrap();
    let Call::Launch { parameters, .. } = &b.launches()[0] else {
        panic!()
    };
    let address = u64::from_ne_bytes(parameters[0][..8].try_into().unwrap());
    assert_eq!(b.log().range(address, 12), values);
    b.hold(false);
    encoder.wait_until_completed().unwrap();
    assert_eq!(b.log().memory.len(), 1, "the inline bytes are given back");
}

#[test]
fn inline_bytes_are_as_long_as_the_kernels_type() {
    let mut b = Bench::new();
    let y = b.floats(1);
    let facts = FunctionFacts {
        max_threads: 1024,
        shared_memory: 0,
        lengths: vec![8],
    };
    b.log().functions.insert("msl_rows".into(), facts);
    let (short, long) = (words(&[1]), words(&[1, 2, 3]));
    for (bytes, fits) in [(&short, false), (&long, true)] {
        let mut encoder = b.encoder();
        let args = [(1, KernelArg::Buffer(&y)), (0, KernelArg::Bytes(bytes))];
        b.groups(&mut encoder, "rows", &args, [1, 1, 1], [1, 1, 1])
            .unwrap();
        let result = encoder.commit_and_wait();
        if fits {
            result.unwrap();
        } else {
            assert_invalid(result, &["rows", "argument 0", "4 inline bytes", "has 8"]);
        }
    }
    assert_eq!(b.launches().len(), 1);
}

#[test]
fn threadgroup_memory_is_one_piece() {
    let mut b = Bench::new();
    let y = b.floats(1);
    let mut record = |bytes: [u64; 2]| {
        let mut encoder = b.encoder();
        let pipeline = b.registry.get_pipeline("shared", &b.device).unwrap();
        encoder
            .try_encode_threadgroups_with_args_and_shared(
                pipeline,
                &[(1, KernelArg::Buffer(&y))],
                &[(0, bytes[0]), (3, bytes[1])],
                size([1, 1, 1]),
                size([1, 1, 1]),
            )
            .and_then(|()| encoder.commit_and_wait())
    };
    record([20, 64]).unwrap();
    assert_invalid(record([40 << 10, 9 << 10]), &["threadgroup memory"]);
    let [
        Call::Launch {
            shared_memory,
            parameters,
            ..
        },
    ] = &b.launches()[..]
    else {
        panic!()
    };
    assert_eq!(*shared_memory, 96);
    assert_eq!(parameters[1..], [words(&[0]), words(&[32])]);
}

#[test]
fn copies_and_fills_are_steps_of_the_list() {
    let b = Bench::new();
    let (mut x, y) = (b.floats(8), b.floats(8));
    x.write(0, &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    let mut encoder = b.encoder();
    encoder.copy_bytes(&x, 4, &y, 8, 8).unwrap();
    encoder.fill_bytes(&y, 0, 4, 0x40).unwrap();
    encoder.commit_and_wait().unwrap();
    let got = y.read::<f32>().unwrap();
    assert_eq!(&got[..4], &[f32::from_bits(0x4040_4040), 0.0, 2.0, 3.0]);
    let log = b.log();
    assert!(matches!(
        log.calls[..],
        [
            Call::Event,
            Call::Copy(_, _, 8),
            Call::Fill(_, 4, 0x40),
            Call::Event
        ]
    ));
}

#[test]
fn submitting_does_not_wait_and_reading_does() {
    let mut b = Bench::new();
    let y = b.floats(1);
    let p = params(1, 1.0);
    b.hold(true);
    let mut encoder = b.encoder();
    let args = [(1, KernelArg::Buffer(&y)), (0, KernelArg::Bytes(&p))];
    b.groups(&mut encoder, "rows", &args, [1, 1, 1], [1, 1, 1])
        .unwrap();
    encoder.try_commit().unwrap();
    assert_eq!(b.launches().len(), 1);
    let reader = std::thread::spawn(move || y.read::<f32>());
    std::thread::sleep(Duration::from_millis(30));
    assert!(!reader.is_finished());
    b.hold(false);
    reader.join().unwrap().unwrap();
}

fn submit(b: &mut Bench, y: &crate::MlxBuffer, n: usize) -> Result<(), MlxError> {
    let p = params(1, 1.0);
    let mut encoder = b.encoder();
    let args = [(1, KernelArg::Buffer(y)), (0, KernelArg::Bytes(&p))];
    for _ in 0..n {
        b.groups(&mut encoder, "rows", &args, [1, 1, 1], [1, 1, 1])
            .unwrap();
    }
    encoder.commit_and_wait()
}

#[test]
fn a_launch_that_fails_names_its_kernel_and_later_work_runs() {
    let mut b = Bench::new();
    let y = b.floats(1);
    b.log().failures.insert(
        "launch",
        Failure::new(701, "too many resources requested for launch"),
    );
    let error = submit(&mut b, &y, 2).unwrap_err();
    assert!(
        matches!(&error, MlxError::CommandBufferError(t) if t.contains("rows") && t.contains("701")),
        "{error}"
    );
    b.log().failures.clear();
    submit(&mut b, &y, 1).unwrap();
}

#[test]
fn a_failure_that_ends_the_context_ends_the_device() {
    for synchronous in [false, true] {
        let mut b = Bench::with(facts(), |c| c.cuda.synchronous = synchronous);
        let mut y = b.floats(1);
        b.log().failures.insert(
            "wait",
            Failure::new(700, "an illegal memory access was encountered"),
        );
        let error = submit(&mut b, &y, 3).unwrap_err().to_string();
        for word in ["rows", "illegal memory access", "nothing runs on it any more"] {
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(error.contains("one of 3 dispatches"), !synchronous, "{error}");
        // Whatever comes later says so, even if the driver would not.
        b.log().failures.clear();
        let launched = b.launches().len();
        let later = [
            submit(&mut b, &y, 1).unwrap_err(),
            b.device.alloc_tensor(DType::F32, &[1]).unwrap_err(),
            y.write(0, &[1.0f32]).unwrap_err(),
        ];
        for error in later {
            assert!(
                matches!(&error, MlxError::DeviceUnavailable(t) if t.contains("earlier failure")),
                "{error}"
            );
            assert!(!error.is_transient());
        }
        assert_eq!(b.launches().len(), launched);
    }
}

#[test]
fn long_lists_run_as_graphs_that_are_kept_by_shape() {
    let mut b = Bench::with(facts(), |c| c.cuda.graphs_from = Some(8));
    let y = b.floats(1);
    let graphs = |b: &Bench| -> Vec<usize> {
        let log = b.log();
        log.calls
            .iter()
            .filter_map(|c| if let Call::Graph(n) = c { Some(*n) } else { None })
            .collect()
    };
    submit(&mut b, &y, 3).unwrap();
    assert!(graphs(&b).is_empty());
    for n in [10, 10, 12, 10] {
        submit(&mut b, &y, n).unwrap();
    }
    assert_eq!(graphs(&b), [1, 1, 2, 1]);
    // A launch that fails while the list is put together: nothing of it runs, and the next list does.
    b.log().failures.insert(
        "launch",
        Failure::new(701, "too many resources requested for launch"),
    );
    let error = submit(&mut b, &y, 10).unwrap_err().to_string();
    assert!(error.contains("rows") && error.contains("701"), "{error}");
    b.log().failures.clear();
    submit(&mut b, &y, 10).unwrap();
    assert_eq!(graphs(&b).len(), 5);
    let mut b = Bench::with(facts(), |c| c.cuda.graphs_from = None);
    let y = b.floats(1);
    submit(&mut b, &y, 10).unwrap();
    assert!(graphs(&b).is_empty());
}

#[test]
fn a_list_that_comes_again_keeps_a_graph_of_its_own() {
    use crate::ComputeGraph;
    let mut b = Bench::with(facts(), |c| c.cuda.graphs_from = Some(8));
    let y = b.floats(1);
    let prepared = |b: &mut Bench, n: usize| {
        let mut encoder = b.encoder();
        encoder.start_capture();
        for _ in 0..n {
            let bytes = params(1, 1.0);
            let args = [(1, KernelArg::Buffer(&y)), (0, KernelArg::Bytes(&bytes))];
            b.groups(&mut encoder, "rows", &args, [1, 1, 1], [32, 1, 1])
                .unwrap();
        }
        let nodes = encoder.take_capture().unwrap();
        ComputeGraph::from_nodes(nodes).prepare(&b.device).unwrap()
    };
    let (first, second) = (prepared(&mut b, 10), prepared(&mut b, 10));
    // Of one shape, in turn: each is put together once, and none takes the other's graph.
    for graph in [&first, &second, &first, &second, &first] {
        graph.replay().unwrap().wait().unwrap();
    }
    let graphs: Vec<usize> = (b.log().calls.iter())
        .filter_map(|c| if let Call::Graph(n) = c { Some(*n) } else { None })
        .collect();
    assert_eq!(graphs, [1, 2, 1, 2, 1]);
    let early: Vec<bool> = (b.launches().iter())
        .map(|c| matches!(c, Call::Launch { early: true, .. }))
        .collect();
    assert_eq!(early.len(), 20);
    let expected: Vec<bool> = (0..20).map(|i| i % 10 != 0).collect();
    assert_eq!(early, expected, "the first of a list waits for what is before it");
    // A graph that fails is not asked again; the list is put together anew.
    b.log().failures.insert("graph", Failure::new(2, "out of memory"));
    assert!(first.replay().unwrap().wait().is_err());
    b.log().failures.clear();
    first.replay().unwrap().wait().unwrap();
    assert_eq!(b.launches().len(), 30);
    // Lists that come once share graphs by shape, and start nothing early.
    submit(&mut b, &y, 10).unwrap();
    assert!(
        b.launches()[30..]
            .iter()
            .all(|c| matches!(c, Call::Launch { early: false, .. }))
    );
}

#[test]
fn an_empty_list_succeeds() {
    let b = Bench::new();
    b.encoder().commit_and_wait().unwrap();
}
