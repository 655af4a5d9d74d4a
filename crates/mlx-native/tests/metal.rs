//! What only a Mac can show: memory, order, compilation and errors on its GPU. The kernels have `prove`.
#![cfg(target_vendor = "apple")]

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlx_native::backend::metal::CommandBounds;
use mlx_native::ops::add::{AddParams, add};
use mlx_native::{
    Config, DType, DeviceKind, KernelArg, KernelRegistry, MTLSize, MlxBuffer, MlxDevice, MlxError,
};

fn with(set: impl FnOnce(&mut Config)) -> MlxDevice {
    let mut config = Config::default();
    config.metal.archives = false;
    set(&mut config);
    MlxDevice::with_config(DeviceKind::Metal, &config).expect("a Mac has a Metal GPU")
}

fn gpu() -> MlxDevice {
    with(|_| ())
}

fn floats(device: &MlxDevice, values: &[f32]) -> MlxBuffer {
    let mut buffer = device.alloc_tensor(DType::F32, &[values.len()]).unwrap();
    buffer.write(0, values).unwrap();
    buffer
}

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mlx-native-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `steps` additions of one, each of which needs the one before, in lists of `per_list`.
fn count(device: &MlxDevice, steps: usize, per_list: usize) -> f32 {
    let mut registry = KernelRegistry::new();
    let one = floats(device, &[1.0; 1000]);
    let sum = floats(device, &[0.0; 1000]);
    let params = AddParams {
        n_elements: 1000,
        b_elements: 1000,
    };
    for _ in 0..steps / per_list {
        let mut encoder = device.command_encoder().unwrap();
        for _ in 0..per_list {
            add(&mut encoder, &mut registry, device, &sum, &one, &sum, &params).unwrap();
        }
        // Not waited for: the next list must wait on the GPU.
        encoder.try_commit().unwrap();
    }
    let all = sum.read::<f32>().unwrap();
    assert!(all.iter().all(|x| *x == all[0]), "{all:?}");
    all[0]
}

#[test]
fn the_gpu_is_what_new_opens_and_says_its_limits() {
    let device = MlxDevice::new().unwrap();
    assert_eq!(device.kind(), DeviceKind::Metal);
    let limits = device.limits();
    println!("{} {limits:?}", device.name());
    assert_eq!(limits.simd_width, 32);
    assert!(limits.max_threads_per_threadgroup >= 256 && limits.max_threadgroup_memory >= 16 << 10);
    assert!(limits.max_buffer_len >= 1 << 28 && limits.gpu.is_some());
}

#[test]
fn new_memory_is_zero_also_when_it_was_used_before() {
    let device = gpu();
    for byte_len in [1, 100, 16 << 10, (16 << 10) + 1, 8 << 20] {
        for _ in 0..3 {
            let mut buffer = device.alloc_buffer(byte_len, DType::U8, vec![byte_len]).unwrap();
            assert!(buffer.as_slice::<u8>().unwrap().iter().all(|b| *b == 0));
            buffer.as_mut_slice::<u8>().unwrap().fill(0xA5);
        }
    }
}

#[test]
fn dispatches_of_an_encoder_keep_their_order() {
    assert_eq!(count(&gpu(), 500, 500), 500.0);
}

#[test]
fn command_buffers_and_lists_keep_their_order() {
    let bounds = CommandBounds {
        first_dispatches: 1,
        dispatches: 1,
        bytes: 1,
        in_flight: 8,
    };
    let device = with(|c| c.metal.bounds = Some(bounds));
    assert_eq!(count(&device, 2000, 1), 2000.0);
    assert_eq!(count(&device, 2000, 40), 2000.0);
}

#[test]
fn any_thread_may_use_the_device() {
    let device = Arc::new(gpu());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(count(&device, 200, 5), 200.0));
        }
    });
}

#[test]
fn a_mapped_file_is_used_in_place() {
    let folder = Folder::new("map");
    let path = folder.0.join("weights");
    // Not a multiple of a page, nor of anything.
    let values: Vec<f32> = (0..70_001).map(|i| i as f32).collect();
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(bytemuck::cast_slice(&values)).unwrap();
    drop(file);
    let file = std::fs::File::open(&path).unwrap();
    // SAFETY: nobody changes the file during the test.
    let map = Arc::new(unsafe { memmap2::Mmap::map(&file) }.unwrap());
    for resident in [0, 50] {
        let device = with(|c| c.metal.resident_percent = resident);
        let whole = device.wrap_map(&map).unwrap();
        assert_eq!(whole.contents_ptr().cast_const().cast(), map.as_ptr());
        let last = whole.view(4 * 69_001, DType::F32, vec![1000]).unwrap();
        let (zero, out) = (floats(&device, &[0.0]), floats(&device, &[0.0; 1000]));
        let mut encoder = device.command_encoder().unwrap();
        let params = AddParams {
            n_elements: 1000,
            b_elements: 1,
        };
        add(
            &mut encoder,
            &mut KernelRegistry::new(),
            &device,
            &last,
            &zero,
            &out,
            &params,
        )
        .unwrap();
        drop((whole, last));
        encoder.commit_and_wait().unwrap();
        assert_eq!(out.read::<f32>().unwrap(), values[69_001..]);
    }
    // Metal lets go of a buffer in its own time.
    let deadline = Instant::now() + Duration::from_secs(10);
    while Arc::strong_count(&map) > 1 {
        assert!(Instant::now() < deadline, "Metal does not let go of the map");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn constants_of_the_program_are_taken() {
    static BYTES: [u8; 7] = [1, 2, 3, 4, 5, 6, 7];
    let device = gpu();
    assert_eq!(
        device.wrap_static(&BYTES[1..]).unwrap().read::<u8>().unwrap(),
        BYTES[1..]
    );
}

const TEXT: &str = "
#include <metal_stdlib>
using namespace metal;
constant uint FACTOR [[function_constant(0)]];
constant bool NEGATE [[function_constant(1)]];
constant float EXTRA [[function_constant(2)]];
kernel void reverse(device float *x [[buffer(0)]], constant uint &n [[buffer(1)]],
                    threadgroup float *t [[threadgroup(0)]], uint i [[thread_position_in_threadgroup]]) {
    t[i] = x[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float y = t[n - 1 - i] * float(FACTOR) + EXTRA;
    x[i] = NEGATE ? -y : y;
}
kernel void broken(device float *x [[buffer(0)]]) { x[0] = undeclared; }
kernel void infinite(device float *x [[buffer(0)]]) { x[0] = x[0] / (x[0] - x[0]); x[1] = x[0] - x[0]; }
";

#[test]
fn kernels_of_the_user_s_with_constants_threadgroup_memory_and_inline_bytes() {
    let device = gpu();
    let mut registry = KernelRegistry::new();
    let text = TEXT.replace("undeclared", "0");
    registry.register_source("reverse", text);
    for negate in [false, true] {
        let constants = [(0, 3u32.into()), (1, negate.into()), (2, 0.5f32.into())];
        let pipeline = registry
            .get_pipeline_with_constants("reverse", &device, &constants)
            .unwrap();
        let x = floats(&device, &(0..33).map(|i| i as f32).collect::<Vec<_>>());
        let mut encoder = device.command_encoder().unwrap();
        let args = [
            (0, KernelArg::Buffer(&x)),
            (1, KernelArg::Bytes(&33u32.to_le_bytes())),
        ];
        let (one, group) = (MTLSize::new(1, 1, 1), MTLSize::new(33, 1, 1));
        encoder
            .try_encode_threadgroups_with_args_and_shared(pipeline, &args, &[(0, 33 * 4)], one, group)
            .unwrap();
        encoder.commit_and_wait().unwrap();
        let sign = if negate { -1.0 } else { 1.0 };
        let expected: Vec<f32> = (0..33).map(|i| sign * ((32 - i) as f32 * 3.0 + 0.5)).collect();
        assert_eq!(x.read::<f32>().unwrap(), expected);
        assert!(
            encoder.timing().unwrap().device.unwrap().as_nanos() > 0,
            "the GPU's clock is read"
        );
    }
}

#[test]
fn a_text_that_does_not_compile_is_an_error_with_the_compiler_s_words() {
    let device = gpu();
    let mut registry = KernelRegistry::new();
    registry.register_source("broken", TEXT);
    let error = registry.get_pipeline("broken", &device).unwrap_err();
    assert!(matches!(&error, MlxError::ShaderCompilationError { name, .. } if name == "broken"));
    assert!(error.to_string().contains("undeclared"), "{error}");
}

#[test]
fn infinity_and_nan_mean_what_they_mean() {
    let device = gpu();
    let mut registry = KernelRegistry::new();
    registry.register_source("infinite", TEXT.replace("undeclared", "0"));
    let pipeline = registry.get_pipeline("infinite", &device).unwrap();
    let x = floats(&device, &[1.0, 0.0]);
    let mut encoder = device.command_encoder().unwrap();
    let one = MTLSize::new(1, 1, 1);
    encoder.encode(pipeline, &[(0, &x)], one, one);
    encoder.commit_and_wait().unwrap();
    let x = x.read::<f32>().unwrap();
    assert!(x[0] == f32::INFINITY && x[1].is_nan(), "{x:?}");
}

#[test]
fn compiled_kernels_on_disk_serve_the_next_start() {
    let folder = Folder::new("archives");
    let open = || {
        with(|c| {
            c.metal.archives = true;
            c.cache_dir = Some(folder.0.clone());
        })
    };
    assert_eq!(count(&open(), 10, 10), 10.0);
    let files = || -> Vec<PathBuf> {
        let folders = std::fs::read_dir(folder.0.join("metal")).into_iter().flatten();
        let inside = folders.flat_map(|f| std::fs::read_dir(f.unwrap().path()).unwrap());
        inside.map(|f| f.unwrap().path()).collect()
    };
    // A paravirtual GPU may have no archives; then there is nothing to spoil.
    println!("{} archives", files().len());
    assert!(
        files()
            .iter()
            .all(|f| f.extension().is_some_and(|e| e == "metalar")),
        "{:?}",
        files()
    );
    assert_eq!(count(&open(), 10, 10), 10.0);
    for file in files() {
        std::fs::write(file, "no archive").unwrap();
    }
    assert_eq!(count(&open(), 10, 10), 10.0);
}

#[test]
fn too_much_memory_is_refused() {
    let device = with(|c| c.metal.memory_limit = Some(1 << 20));
    let refused = device.alloc_buffer((1 << 20) + 1, DType::U8, vec![(1 << 20) + 1]);
    assert!(matches!(refused, Err(MlxError::BufferAllocationError { .. })));
    let refused = gpu().alloc_buffer(usize::MAX / 2, DType::U8, vec![1]);
    assert!(matches!(refused, Err(MlxError::BufferAllocationError { .. })));
}

#[test]
fn a_device_may_be_dropped_with_its_work_on_the_way() {
    for _ in 0..20 {
        let device = gpu();
        let (x, one) = (floats(&device, &[1.0; 100_000]), floats(&device, &[1.0]));
        let params = AddParams {
            n_elements: 100_000,
            b_elements: 1,
        };
        let mut encoder = device.command_encoder().unwrap();
        add(
            &mut encoder,
            &mut KernelRegistry::new(),
            &device,
            &x,
            &one,
            &x,
            &params,
        )
        .unwrap();
        encoder.try_commit().unwrap();
        drop((device, encoder));
        assert_eq!(x.read::<f32>().unwrap(), [2.0; 100_000]);
    }
}
