//! Submissions: calls, command buffers, ends, errors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::gpu::GpuError;
use super::super::recording::{Call, facts, plain_end};
use super::Bench;
use crate::config::MetalTrace;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg};
use crate::error::MlxError;
use crate::metal::MTLSize;
use crate::profile::CommandBounds;
use crate::testing::assert_invalid;

fn bounds(in_flight: u32) -> CommandBounds {
    CommandBounds {
        first_dispatches: 1,
        dispatches: 1,
        bytes: 1 << 30,
        in_flight,
    }
}

fn one_dispatch_each(in_flight: u32) -> Bench {
    Bench::with(facts(), |c| c.metal.bounds = Some(bounds(in_flight)))
}

#[test]
fn a_dispatch_becomes_its_calls() {
    let mut b = Bench::new();
    let whole = b.floats(100);
    let (x, y) = (b.floats(10), whole.view(12, DType::F32, vec![10]).unwrap());
    let mut encoder = b.device.command_encoder().unwrap();
    b.copy(&mut encoder, &x, &y);
    encoder.commit_and_wait().unwrap();
    let expected = vec![
        Call::Pipeline("copy".into()),
        Call::Buffer(1, 0, 0),
        Call::Buffer(0, 12, 1),
        Call::Bytes(vec![10, 0, 0, 0], 2),
        Call::Threads([10, 1, 1], [64, 1, 1]),
    ];
    assert_eq!(b.calls(), [expected]);
    assert_eq!(encoder.timing().unwrap().device, Some(Duration::from_millis(500)));
}

#[test]
fn what_is_bound_stays_bound_and_barriers_stand_where_needed() {
    let mut b = Bench::new();
    let (x, y, z) = (b.floats(4), b.floats(4), b.floats(4));
    let mut encoder = b.device.command_encoder().unwrap();
    b.copy(&mut encoder, &x, &y);
    b.copy(&mut encoder, &x, &z);
    b.copy(&mut encoder, &y, &z);
    encoder.commit_and_wait().unwrap();
    let (bytes, threads) = (
        Call::Bytes(vec![4, 0, 0, 0], 2),
        Call::Threads([4, 1, 1], [64, 1, 1]),
    );
    let expected = vec![
        Call::Pipeline("copy".into()),
        Call::Buffer(0, 0, 0),
        Call::Buffer(1, 0, 1),
        bytes.clone(),
        threads.clone(),
        Call::Buffer(2, 0, 1),
        bytes.clone(),
        threads.clone(),
        Call::Barrier,
        Call::Buffer(1, 0, 0),
        bytes,
        threads,
    ];
    assert_eq!(b.calls(), [expected]);
}

#[test]
fn copies_have_an_encoder_of_their_own_and_barriers_between_them_another() {
    let mut b = Bench::new();
    let (x, y, z) = (b.floats(4), b.floats(4), b.floats(4));
    let mut encoder = b.device.command_encoder().unwrap();
    b.copy(&mut encoder, &x, &y);
    encoder.copy_bytes(&y, 0, &z, 8, 8).unwrap();
    encoder.fill_bytes(&x, 4, 8, 7).unwrap();
    encoder.copy_bytes(&z, 8, &x, 0, 4).unwrap();
    b.copy(&mut encoder, &x, &y);
    encoder.commit_and_wait().unwrap();
    let calls = b.calls().remove(0);
    let shown = |call: &Call| !matches!(call, Call::Buffer(..) | Call::Bytes(..) | Call::Threads(..));
    let shape: Vec<Call> = calls.into_iter().filter(shown).collect();
    let expected = [
        Call::Pipeline("copy".into()),
        Call::Encoder { copies: true },
        Call::Copy((1, 0), (2, 8), 8),
        Call::Fill(0, 4..12, 7),
        Call::Encoder { copies: true },
        Call::Copy((2, 8), (0, 0), 4),
        Call::Encoder { copies: false },
        Call::Pipeline("copy".into()),
    ];
    // The barrier ahead of a copy stands in the encoder that it ends.
    let without: Vec<Call> = shape.into_iter().filter(|c| *c != Call::Barrier).collect();
    assert_eq!(without, expected);

    let mut odd = b.device.command_encoder().unwrap();
    odd.copy_bytes(&x, 2, &y, 0, 4).unwrap();
    assert_invalid(
        odd.commit_and_wait(),
        &["copy", "4 bytes from byte 2", "multiples of 4"],
    );
    b.log().refuse.push("encoder");
    let mut none = b.device.command_encoder().unwrap();
    none.fill_bytes(&x, 0, 4, 0).unwrap();
    let error = none.commit_and_wait().unwrap_err().to_string();
    assert!(error.contains("no further encoder"), "{error}");
}

/// Records `shared` with so many bytes of threadgroup memory at indices 0 and 3.
fn shared(b: &mut Bench, bytes: [u64; 2]) -> CommandEncoder {
    let y = b.floats(64);
    let mut encoder = b.device.command_encoder().unwrap();
    let pipeline = b.registry.get_pipeline("shared", &b.device).unwrap();
    encoder
        .try_encode_threadgroups_with_args_and_shared(
            pipeline,
            &[(1, KernelArg::Buffer(&y))],
            &[(0, bytes[0]), (3, bytes[1])],
            MTLSize::new(2, 1, 1),
            MTLSize::new(32, 1, 1),
        )
        .unwrap();
    encoder
}

#[test]
fn threadgroup_memory_is_rounded_to_sixteen_bytes() {
    let mut b = Bench::new();
    shared(&mut b, [4, 48]).commit_and_wait().unwrap();
    let calls = b.calls().remove(0);
    assert_eq!(
        calls[2..],
        [
            Call::ThreadgroupMemory(16, 0),
            Call::ThreadgroupMemory(48, 3),
            Call::Threadgroups([2, 1, 1], [32, 1, 1])
        ]
    );
}

#[test]
fn threadgroup_memory_of_the_kernel_itself_counts() {
    let mut b = Bench::new();
    b.log().static_memory.insert("shared".into(), 16 << 10);
    shared(&mut b, [8 << 10, 8 << 10]).commit_and_wait().unwrap();
    let mut over = shared(&mut b, [8 << 10, (8 << 10) + 1]);
    assert_invalid(over.commit_and_wait(), &["shared", "32784", "16384", "32768"]);
    assert_eq!(b.log().committed.len(), 1);
}

#[test]
fn constants_are_aligned() {
    let mut b = Bench::new();
    let (x, y) = (b.floats(4), b.floats(4));
    let n = b.device.alloc_buffer(8, DType::F16, vec![4]).unwrap();
    let mut run = |offset| {
        let mut encoder = b.device.command_encoder().unwrap();
        let pipeline = b.registry.get_pipeline("copy", &b.device).unwrap();
        let args = [
            (0, KernelArg::Buffer(&x)),
            (1, KernelArg::Buffer(&y)),
            (2, KernelArg::BufferWithOffset(&n, offset)),
        ];
        let one = MTLSize::new(1, 1, 1);
        encoder.try_encode_with_args(pipeline, &args, one, one).unwrap();
        encoder.commit_and_wait()
    };
    run(4).unwrap();
    assert_invalid(run(2), &["copy", "argument 2", "offset 2", "multiples of 4"]);
}

#[test]
fn an_empty_view_at_the_end_is_bound_at_the_start() {
    let mut b = Bench::new();
    let (x, y) = (b.floats(4), b.floats(4));
    let empty = x.view(16, DType::F32, vec![0]).unwrap();
    let mut encoder = b.device.command_encoder().unwrap();
    let pipeline = b.registry.get_pipeline("copy", &b.device).unwrap();
    let args = [
        (0, KernelArg::Buffer(&empty)),
        (1, KernelArg::Buffer(&y)),
        (2, KernelArg::Bytes(&[0; 4])),
    ];
    let one = MTLSize::new(1, 1, 1);
    encoder.try_encode_with_args(pipeline, &args, one, one).unwrap();
    encoder.commit_and_wait().unwrap();
    assert!(b.calls()[0].contains(&Call::Buffer(0, 0, 0)));
}

#[test]
fn a_long_list_becomes_several_command_buffers_in_order() {
    let mut b = one_dispatch_each(8);
    let mut encoder = b.chain(3);
    assert_eq!(encoder.recorded_barriers(), 2);
    encoder.commit_and_wait().unwrap();
    let log = b.log();
    let labels: Vec<&str> = log.committed.iter().map(|c| c.0.as_str()).collect();
    assert_eq!(labels, ["mlx-native 0.0", "mlx-native 0.1", "mlx-native 0.2"]);
    for (_, calls) in &log.committed {
        // State does not outlive an encoder, and the fence between encoders takes the barrier's place.
        assert!(matches!(calls[0], Call::Pipeline(_)) && !calls.contains(&Call::Barrier));
    }
    // From the start of the first to the end of the last.
    assert_eq!(
        encoder.timing().unwrap().device,
        Some(Duration::from_millis(2500))
    );
}

#[test]
fn the_last_command_buffer_ends_the_submission() {
    let mut b = one_dispatch_each(8);
    b.log().hold_back = true;
    let mut encoder = b.chain(3);
    encoder.try_commit().unwrap();
    for left in (0..3).rev() {
        assert!(encoder.timing().is_none());
        let done = b.log().waiting.pop_front().unwrap();
        done(plain_end());
        assert_eq!(b.log().waiting.len(), left);
    }
    assert!(encoder.timing().is_some());
    encoder.wait_until_completed().unwrap();
}

#[test]
fn the_first_error_counts_and_later_work_runs() {
    let mut b = one_dispatch_each(8);
    for (number, code) in [(1, 2), (2, 3)] {
        let error = GpuError {
            of_command_buffers: true,
            code,
            description: format!("words {code}"),
        };
        b.log().errors.insert(number, error);
    }
    let error = b.chain(4).commit_and_wait().unwrap_err();
    assert!(matches!(error, MlxError::CommandBufferError(_)) && error.is_transient());
    let text = error.to_string();
    for part in ["time-out", "words 2", "dispatches 2 to 2 of 4 (copy to copy)"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(b.log().committed.len(), 4);
    b.chain(1).commit_and_wait().unwrap();
}

#[test]
fn no_command_buffer_is_an_error_and_no_abort() {
    let mut b = Bench::new();
    b.log().refuse.push("begin");
    let error = b.chain(1).commit_and_wait().unwrap_err();
    assert!(error.to_string().contains("no command buffer"), "{error}");
    b.log().refuse.clear();
    b.chain(1).commit_and_wait().unwrap();
}

#[test]
fn encoding_waits_while_too_many_are_in_flight() {
    let mut b = one_dispatch_each(2);
    b.log().hold_back = true;
    let mut encoder = b.chain(5);
    let log = b.log.clone();
    let thread = std::thread::spawn(move || {
        encoder.try_commit().unwrap();
        encoder.wait_until_completed()
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    for ended in 0..5 {
        let expected = 5.min(ended + 2);
        while log.lock().unwrap().committed.len() < expected {
            assert!(Instant::now() < deadline, "the gate does not open");
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(
            log.lock().unwrap().committed.len(),
            expected,
            "the gate lets too many in"
        );
        let done = log.lock().unwrap().waiting.pop_front().unwrap();
        done(plain_end());
    }
    thread.join().unwrap().unwrap();
}

#[test]
fn any_thread_may_submit_and_lists_stay_whole() {
    let mut b = one_dispatch_each(4);
    let encoders: Vec<CommandEncoder> = (0..8).map(|_| b.chain(3)).collect();
    std::thread::scope(|scope| {
        for mut encoder in encoders {
            scope.spawn(move || encoder.commit_and_wait().unwrap());
        }
    });
    let labels: Vec<String> = b.log().committed.iter().map(|c| c.0.clone()).collect();
    let expected: Vec<String> = (0..24)
        .map(|i| format!("mlx-native {}.{}", i / 3, i % 3))
        .collect();
    assert_eq!(labels, expected);
}

#[test]
fn what_the_list_keeps_is_free_when_the_wait_returns() {
    struct Loud(Arc<std::sync::atomic::AtomicBool>);
    impl Drop for Loud {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            if !std::thread::panicking() {
                panic!("an owner that panics when it is dropped");
            }
        }
    }
    let mut b = Bench::new();
    let map = memmap2::MmapMut::map_anon(super::super::recording::PAGE * 2).unwrap();
    let page = super::super::recording::PAGE;
    let start = map.as_ptr().wrapping_add(map.as_ptr().align_offset(page));
    let dropped = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let y = b.floats(4);
    // SAFETY: the map outlives the work, which is waited for below.
    let wrapped = unsafe { b.device.wrap_host(start, 16, Arc::new(Loud(dropped.clone()))) }.unwrap();
    let x = wrapped.view(0, DType::F32, vec![4]).unwrap();
    let mut encoder = b.device.command_encoder().unwrap();
    b.copy(&mut encoder, &x, &y);
    drop((wrapped, x));
    assert!(!dropped.load(std::sync::atomic::Ordering::SeqCst));
    encoder.commit_and_wait().unwrap();
    assert!(dropped.load(std::sync::atomic::Ordering::SeqCst));
}

#[test]
fn the_device_outlives_its_work() {
    let mut b = Bench::new();
    b.log().hold_back = true;
    let mut encoder = b.chain(1);
    encoder.try_commit().unwrap();
    let log = b.log.clone();
    drop((b, encoder));
    assert_eq!(
        Arc::strong_count(&log),
        2,
        "the device has one, this test the other"
    );
    let done = log.lock().unwrap().waiting.pop_front().unwrap();
    done(plain_end());
    assert_eq!(Arc::strong_count(&log), 1);
}

#[test]
fn a_trace_holds_the_commits_asked_for() {
    let mut b = Bench::with(facts(), |c| {
        c.metal.trace = Some(MetalTrace {
            path: "/t.gputrace".into(),
            first: 1,
            count: 2,
        });
    });
    for _ in 0..4 {
        b.chain(1).commit_and_wait().unwrap();
    }
    let signposts: Vec<bool> = b
        .calls()
        .iter()
        .map(|c| c.contains(&Call::Signpost("copy".into())))
        .collect();
    assert_eq!(signposts, [false, true, true, false]);
    assert_eq!(b.events("trace"), ["trace to /t.gputrace", "trace ends"]);
}

#[test]
fn a_trace_that_cannot_be_written_is_an_error() {
    let trace = Some(MetalTrace {
        path: "/t.gputrace".into(),
        first: 0,
        count: 1,
    });
    let mut b = Bench::with(facts(), |c| c.metal.trace.clone_from(&trace));
    b.log().refuse.push("trace");
    let error = b.chain(1).commit_and_wait().unwrap_err();
    assert!(error.to_string().contains("/t.gputrace"), "{error}");
    b.chain(1).commit_and_wait().unwrap();

    let mut lacking = facts();
    lacking.traces = false;
    assert_invalid(
        Bench::open(lacking, |c| c.metal.trace = trace).map(|_| ()),
        &["METAL_CAPTURE_ENABLED=1"],
    );
}
