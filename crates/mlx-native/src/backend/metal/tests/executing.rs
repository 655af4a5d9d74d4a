//! The device over the executing stand-in: that it computes, and that what is planted into it is noticed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use super::super::executing::{self, MetalHost, MetalHostDefect as Defect, MetalHostOrder};
use super::super::gpu::{Commands, Gpu};
use crate::config::Config;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::Result;
use crate::metal::MTLSize;
use crate::profile::CommandBounds;
use crate::registry::KernelRegistry;
use crate::testing::assert_invalid;
use crate::{KernelArg::Buffer, MlxBuffer};

const TEXT: &str = "
#include <metal_stdlib>
using namespace metal;
struct Params { uint n; float add; };
kernel void triple(device const float *x [[buffer(0)]], device float *y [[buffer(1)]],
                 constant Params &p [[buffer(2)]], uint i [[thread_position_in_grid]]) {
    if (i < p.n) y[i] = 3 * x[i] + p.add;
}
constant uint FACTOR [[function_constant(0)]];
kernel void reverse(device const float *x [[buffer(0)]], device float *y [[buffer(1)]],
                    threadgroup float *t [[threadgroup(0)]], uint i [[thread_position_in_threadgroup]],
                    uint n [[threads_per_threadgroup]]) {
    t[i] = x[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    y[i] = t[n - 1 - i] * float(FACTOR);
}
kernel void wide(device const float4 *x [[buffer(0)]], device float *y [[buffer(1)]]) { y[0] = x[0].w; }
";

/// Threads, and elements that are computed. Buffers are longer: what is planted must not leave them.
const N: usize = 32;

struct Host {
    device: MlxDevice,
    registry: KernelRegistry,
}

fn config() -> Config {
    let mut config = Config {
        cache_dir: Some(std::env::temp_dir().join("mlx-native-metal-host")),
        threads: Some(1),
        ..Config::default()
    };
    config.metal.archives = false;
    config
}

/// Every dispatch in a command buffer of its own, so that fences alone keep the order.
fn alone(config: &mut Config) {
    config.metal.bounds = Some(CommandBounds {
        first_dispatches: 1,
        dispatches: 1,
        bytes: 1,
        in_flight: 32,
    });
}

impl Host {
    fn new() -> Self {
        Self::with(&config(), &MetalHost::default())
    }

    fn with(config: &Config, host: &MetalHost) -> Self {
        let device = MlxDevice::of(executing::open(config, host).expect("the stand-in's tests need clang"));
        let mut registry = KernelRegistry::new();
        for name in ["triple", "reverse", "wide"] {
            registry.register_source(name, TEXT);
        }
        Host { device, registry }
    }

    fn floats(&self, values: &[f32]) -> MlxBuffer {
        let mut buffer = self.device.alloc_tensor(DType::F32, &[2 * N]).unwrap();
        buffer.write(0, values).unwrap();
        buffer
    }

    fn encoder(&self) -> CommandEncoder {
        self.device.command_encoder().unwrap()
    }

    /// `y = 3 x + add`
    fn step(&mut self, encoder: &mut CommandEncoder, x: &MlxBuffer, y: &MlxBuffer, add: f32) -> Result<()> {
        let pipeline = self.registry.get_pipeline("triple", &self.device)?;
        let params = [N as u32, add.to_bits()];
        let args = [
            (0, Buffer(x)),
            (1, Buffer(y)),
            (2, KernelArg::Bytes(as_bytes(&params))),
        ];
        encoder.try_encode_with_args(
            pipeline,
            &args,
            MTLSize::new(N as u64, 1, 1),
            MTLSize::new(8, 1, 1),
        )
    }

    /// `y` = twice `x`, the last element first.
    fn reverse(&mut self, encoder: &mut CommandEncoder, x: &MlxBuffer, y: &MlxBuffer) -> Result<()> {
        let constants = [(0, 2u32.into())];
        let pipeline = self
            .registry
            .get_pipeline_with_constants("reverse", &self.device, &constants)?;
        let (one, group) = (MTLSize::new(1, 1, 1), MTLSize::new(N as u64, 1, 1));
        let memory = [(0, 4 * N as u64)];
        encoder.try_encode_threadgroups_with_args_and_shared(
            pipeline,
            &[(0, Buffer(x)), (1, Buffer(y))],
            &memory,
            one,
            group,
        )
    }

    /// A chain in which every dispatch and copy depends on an earlier one: reads after writes, writes after reads, writes
    /// after writes.
    fn program(&mut self) -> Result<Vec<f32>> {
        let b: Vec<MlxBuffer> = (0..4).map(|i| self.floats(&[i as f32; 2 * N])).collect();
        let mut x = b[0].view(0, DType::F32, vec![N])?;
        x.write(0, &start())?;
        let mut encoder = self.encoder();
        self.step(&mut encoder, &b[0], &b[1], 1.0)?;
        self.step(&mut encoder, &b[1], &b[2], 2.0)?;
        self.reverse(&mut encoder, &b[2], &b[3])?;
        self.step(&mut encoder, &b[3], &b[0], 3.0)?;
        self.step(&mut encoder, &b[2], &b[1], 4.0)?;
        self.step(&mut encoder, &b[0], &b[1], 5.0)?;
        encoder.copy_bytes(&b[1], 0, &b[2], 4 * N, 4 * N)?;
        encoder.fill_bytes(&b[2], 4 * N, 8, 0)?;
        self.step(&mut encoder, &b[2].view(4 * N, DType::F32, vec![N])?, &b[3], 6.0)?;
        encoder.commit_and_wait()?;
        let mut out = b[3].read::<f32>()?;
        out.truncate(N);
        Ok(out)
    }
}

fn start() -> Vec<f32> {
    (0..N).map(|i| i as f32).collect()
}

/// What [`Host::program`] computes.
fn expected() -> Vec<f32> {
    let step = |x: &[f32], add: f32| x.iter().map(|v| 3.0 * v + add).collect::<Vec<_>>();
    let two = step(&step(&start(), 1.0), 2.0);
    let three: Vec<f32> = two.iter().rev().map(|v| 2.0 * v).collect();
    let mut last = step(&step(&three, 3.0), 5.0);
    last[..2].fill(0.0);
    step(&last, 6.0)
}

/// A test of what must be overtaken gives it the time.
fn planted(defect: Defect) -> MetalHost {
    MetalHost {
        linger: Duration::from_millis(200),
        defect: Some(defect),
        ..MetalHost::default()
    }
}

#[test]
fn the_host_code_computes_in_every_order() {
    for order in [
        MetalHostOrder::Encoded,
        MetalHostOrder::Reversed,
        MetalHostOrder::Random(3),
    ] {
        let host = MetalHost {
            order,
            ..MetalHost::default()
        };
        let mut split = config();
        alone(&mut split);
        for config in [config(), split] {
            let mut h = Host::with(&config, &host);
            for _ in 0..3 {
                assert_eq!(h.program().unwrap(), expected(), "{order:?}");
            }
        }
    }
}

/// What became of the program with `defect` planted: numbers, or an error.
fn with(defect: Defect, split: bool) -> Result<Vec<f32>> {
    let mut config = config();
    if split {
        alone(&mut config);
    }
    Host::with(&config, &planted(defect)).program()
}

#[test]
fn a_barrier_that_is_missing_gives_other_numbers() {
    assert_ne!(with(Defect::NoBarriers, false).unwrap(), expected());
    // As encoded, nobody would notice.
    let kind = MetalHost {
        order: MetalHostOrder::Encoded,
        ..planted(Defect::NoBarriers)
    };
    assert_eq!(Host::with(&config(), &kind).program().unwrap(), expected());
}

#[test]
fn a_fence_that_is_missing_gives_other_numbers() {
    for defect in [Defect::NoFenceWait, Defect::NoFenceUpdate] {
        assert_ne!(with(defect, true).unwrap(), expected(), "{defect:?}");
    }
}

#[test]
fn arguments_that_are_wrong_are_noticed() {
    let refused = [
        (Defect::NoBuffer(1), "argument 1 (`y`) is not bound"),
        (Defect::NextIndex, "argument 0 (`x`) is not bound"),
        (Defect::Shifted(2), "offset 2 for float is no multiple of 4"),
        (
            Defect::NoThreadgroupMemory,
            "threadgroup memory 0 (`t`) has no length",
        ),
        (
            Defect::MoreThreadgroupMemory(32 << 10),
            "32896 bytes of threadgroup memory, 32768 are possible",
        ),
        (
            Defect::MoreThreadgroupMemory(8),
            "136 bytes of threadgroup memory",
        ),
        (Defect::NoConstants, "FACTOR"),
    ];
    for (defect, words) in refused {
        let error = with(defect, false).unwrap_err().to_string();
        assert!(error.contains(words), "{defect:?}: {error}");
    }
    for defect in [Defect::Shifted(4), Defect::StaleBytes, Defect::StaleBuffers] {
        assert_ne!(with(defect, false).unwrap(), expected(), "{defect:?}");
    }
}

#[test]
fn what_is_not_kept_to_the_end_is_noticed() {
    let mut h = Host::with(&config(), &planted(Defect::EarlyEnd));
    // Nothing has run when the end is told, and the buffers are gone when it would run.
    assert_ne!(h.program().unwrap(), expected());
    let error = h.program().unwrap_err().to_string();
    assert!(
        error.contains("was released before its command buffer had ended"),
        "{error}"
    );

    // The same below the host code: nothing is kept by a command buffer.
    let gpu = executing::ExecutingGpu::new(&config(), &MetalHost::default()).unwrap();
    type G = executing::ExecutingGpu;
    let (sender, ends) = std::sync::mpsc::channel();
    for keep in [true, false] {
        G::pool(|| {
            let library = gpu.new_library(TEXT, false).unwrap();
            let function = gpu.new_function(&library, "wide", &[]).unwrap();
            let pipeline = gpu.new_pipeline(&function, "wide", None).unwrap();
            let (x, y) = (gpu.new_buffer(64).unwrap(), gpu.new_buffer(64).unwrap());
            let mut commands = gpu.begin("a").unwrap();
            commands.set_pipeline(&pipeline);
            commands.set_buffer(&x, 0, 0);
            commands.set_buffer(&y, 0, 1);
            commands.dispatch_threads([1, 1, 1], [1, 1, 1]);
            let kept = keep.then_some((x, y, pipeline));
            let sender = sender.clone();
            commands.commit(Box::new(move |ended| {
                drop(kept);
                sender.send(ended.error).unwrap();
            }));
        });
        let error = ends.recv().unwrap();
        assert_eq!(error.map(|e| e.code), (!keep).then_some(9));
    }
}

#[test]
fn alignment_is_that_of_the_kernel_s_type() {
    let mut h = Host::new();
    let x = h.floats(&start());
    let y = h.floats(&[]);
    let mut run = |first: usize| {
        let view = x.view(4 * first, DType::F32, vec![4]).unwrap();
        let mut encoder = h.device.command_encoder().unwrap();
        let pipeline = h.registry.get_pipeline("wide", &h.device).unwrap();
        let one = MTLSize::new(1, 1, 1);
        encoder.try_encode_with_args(pipeline, &[(0, Buffer(&view)), (1, Buffer(&y))], one, one)?;
        encoder.commit_and_wait()?;
        Ok::<f32, crate::MlxError>(y.read::<f32>()?[0])
    };
    assert_eq!(run(4), Ok(7.0));
    let error = run(1).unwrap_err().to_string();
    assert!(
        error.contains("offset 4 for float4 is no multiple of 16"),
        "{error}"
    );
}

/// A map of several pages, counted up.
fn map(pages: usize) -> Arc<memmap2::Mmap> {
    let mut map = memmap2::MmapMut::map_anon(pages * 4096).unwrap();
    for (i, v) in bytemuck::cast_slice_mut::<u8, f32>(&mut map)
        .iter_mut()
        .enumerate()
    {
        *v = i as f32;
    }
    Arc::new(map.make_read_only().unwrap())
}

#[test]
fn a_map_is_read_by_segments_and_leaves_the_residency_set_once() {
    let host = MetalHost {
        max_buffer_len: Some(4 * 4096),
        ..MetalHost::default()
    };
    let mut h = Host::with(&config(), &host);
    let map = map(9);
    let all = h.device.wrap_map(&map).unwrap();
    let y = h.floats(&[]);
    for first in [0, 1, 1023, 2048, 5000, 9 * 1024 - N] {
        let view = all.view(4 * first, DType::F32, vec![N]).unwrap();
        let mut encoder = h.encoder();
        h.step(&mut encoder, &view, &y, 1.0).unwrap();
        encoder.commit_and_wait().unwrap();
        let want: Vec<f32> = (first..first + N).map(|i| 3.0 * i as f32 + 1.0).collect();
        assert_eq!(y.read::<f32>().unwrap()[..N], want);
    }
    drop(all);
    assert_eq!(Arc::strong_count(&map), 1);

    let mut twice = Host::with(&config(), &planted(Defect::RemovedTwice));
    drop(twice.device.wrap_map(&map).unwrap());
    let error = twice.program().unwrap_err().to_string();
    assert!(
        error.contains("taken out of the residency set and is not in it"),
        "{error}"
    );
}

#[test]
fn archives_hold_what_was_compiled_and_another_kernel_in_one_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.cache_dir = Some(folder.path().to_owned());
    config.metal.archives = true;
    for _ in 0..2 {
        assert_eq!(
            Host::with(&config, &MetalHost::default()).program().unwrap(),
            expected()
        );
    }
    let folders = std::fs::read_dir(folder.path().join("metal")).unwrap();
    let files: Vec<_> = folders
        .flat_map(|f| std::fs::read_dir(f.unwrap().path()).unwrap())
        .map(|f| f.unwrap().path())
        .collect();
    assert_eq!(files.len(), 2);
    let contents: Vec<String> = files
        .iter()
        .map(|f| std::fs::read_to_string(f).unwrap())
        .collect();
    std::fs::write(&files[0], &contents[1]).unwrap();
    std::fs::write(&files[1], &contents[0]).unwrap();
    let error = Host::with(&config, &MetalHost::default())
        .program()
        .unwrap_err()
        .to_string();
    assert!(error.contains("its archive holds another kernel"), "{error}");
}

#[test]
fn work_of_two_metal_devices_on_one_allocation_is_ordered() {
    let late = MetalHost {
        linger: Duration::from_millis(20),
        ..MetalHost::default()
    };
    // Two devices are two queues, and no fence of Metal's orders one against the other.
    let mut hosts = [Host::with(&config(), &late), Host::new()];
    let (x, y) = (hosts[0].floats(&[1.0; 2 * N]), hosts[1].floats(&[]));
    let mut want = 1.0;
    for _ in 0..4 {
        let [one, two] = &mut hosts;
        let mut encoder = one.encoder();
        one.step(&mut encoder, &x, &y, 1.0).unwrap();
        encoder.try_commit().unwrap();
        let mut encoder = two.encoder();
        two.step(&mut encoder, &y, &x, -2.0).unwrap();
        encoder.try_commit().unwrap();
        want = 3.0 * (3.0 * want + 1.0) - 2.0;
    }
    assert_eq!(x.read::<f32>().unwrap()[..N], [want; N]);
}

/// An owner of wrapped memory whose destructor does what it is given to do.
struct Owner(
    Option<Box<dyn FnOnce() + Send + Sync>>,
    Arc<AtomicBool>,
    #[allow(dead_code)] // held for its Drop
    memmap2::Mmap,
);

impl Drop for Owner {
    fn drop(&mut self) {
        self.1.store(true, SeqCst);
        if let Some(last) = self.0.take() {
            last();
        }
    }
}

/// Wraps a page whose owner ends with `last`; tells when that was.
fn owned(device: &MlxDevice, last: impl FnOnce() + Send + Sync + 'static) -> (MlxBuffer, Arc<AtomicBool>) {
    let page = memmap2::MmapMut::map_anon(4096)
        .unwrap()
        .make_read_only()
        .unwrap();
    let (start, dropped) = (page.as_ptr(), Arc::new(AtomicBool::new(false)));
    let owner = Arc::new(Owner(Some(Box::new(last)), dropped.clone(), page));
    // SAFETY: the owner keeps the page, which nobody writes.
    let whole = unsafe { device.wrap_host(start, 4096, owner) }.unwrap();
    (whole.view(0, DType::F32, vec![N]).unwrap(), dropped)
}

#[test]
fn an_owner_may_panic_and_hold_the_last_handle_of_the_device() {
    // On the thread that lets go of the buffer, and on the GPU's.
    for on_the_gpu in [false, true] {
        let mut h = Host::new();
        let device = h.device.clone();
        let (x, dropped) = owned(&h.device, move || {
            drop(device);
            panic!("planted");
        });
        let y = h.floats(&[]);
        let mut encoder = h.encoder();
        h.step(&mut encoder, &x, &y, 1.0).unwrap();
        if on_the_gpu {
            drop((x, h));
            encoder.commit_and_wait().unwrap();
            drop(encoder);
        } else {
            encoder.commit_and_wait().unwrap();
            drop((encoder, h));
            assert!(!dropped.load(SeqCst));
            let result = catch_unwind(AssertUnwindSafe(|| drop(x)));
            assert!(result.is_ok(), "the panic of an owner ends with the owner");
        }
        assert!(dropped.load(SeqCst));
        assert_eq!(y.read::<f32>().unwrap()[..N], [1.0; N]);
    }
}

#[test]
fn an_owner_may_submit_work_when_it_is_dropped() {
    let mut h = Host::new();
    let (z, w) = (h.floats(&start()), h.floats(&[]));
    let mut last_work = h.encoder();
    h.step(&mut last_work, &z, &w, 5.0).unwrap();
    let (x, _) = owned(&h.device, move || last_work.try_commit().unwrap());
    let y = h.floats(&[]);
    let mut encoder = h.encoder();
    h.step(&mut encoder, &x, &y, 1.0).unwrap();
    drop(x);
    encoder.commit_and_wait().unwrap();
    let want: Vec<f32> = start().iter().map(|v| 3.0 * v + 5.0).collect();
    assert_eq!(w.read::<f32>().unwrap()[..N], want);
}

#[test]
fn fast_math_and_traces_are_refused() {
    let mut fast = config();
    fast.metal.fast_math = true;
    let error = Host::with(&fast, &MetalHost::default())
        .program()
        .unwrap_err()
        .to_string();
    assert!(error.contains("safe math"), "{error}");
    let mut traced = config();
    traced.metal.trace = Some(crate::config::MetalTrace {
        path: "t.gputrace".into(),
        first: 0,
        count: 1,
    });
    assert_invalid(
        executing::open(&traced, &MetalHost::default()),
        &["METAL_CAPTURE_ENABLED"],
    );
}
