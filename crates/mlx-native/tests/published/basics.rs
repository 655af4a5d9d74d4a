//! Programs written against the published 0.1.0 interface, as far as it binds: the names, the types, how they are called.

use mlx_native::ops::sdpa::{self, SDPA_SHADER_SOURCE, SdpaParams};
use mlx_native::{DType, KernelRegistry, MlxBuffer, MlxBufferPool, MlxDevice, MlxError};

fn send_and_sync<T: Send + Sync>() {}
fn send<T: Send>() {}

#[test]
fn the_types_cross_threads_as_published() {
    send_and_sync::<MlxDevice>();
    send_and_sync::<MlxBuffer>();
    send_and_sync::<MlxError>();
    send_and_sync::<KernelRegistry>();
    send::<mlx_native::CommandEncoder>();
}

#[test]
fn attention_as_a_0_1_program_calls_it() {
    let device = MlxDevice::new().unwrap();
    assert!(!device.name().is_empty());
    let mut registry = KernelRegistry::new();
    sdpa::register(&mut registry);
    assert!(SDPA_SHADER_SOURCE.contains("kernel"));
    let f32_pipeline = registry
        .get_pipeline("sdpa", device.metal_device())
        .unwrap()
        .clone();
    let bf16_pipeline = registry.get_pipeline("sdpa_bf16", device.metal_device()).unwrap();
    assert_ne!(f32_pipeline.label(), bf16_pipeline.label());
    let first: *const _ = registry.get_pipeline("sdpa", device.metal_device()).unwrap();
    let second: *const _ = registry.get_pipeline("sdpa", device.metal_device()).unwrap();
    assert_eq!(first, second, "a cached pipeline keeps its address");
    assert!(registry.is_cached("sdpa") && registry.cached_count() >= 2 && registry.source_count() > 2);
    assert!(matches!(
        registry.get_pipeline("no such kernel", device.metal_device()),
        Err(MlxError::KernelNotFound(_))
    ));

    let (batch, heads, kv_heads, dim, seq, keys) = (1usize, 4, 2, 32, 3, 5);
    let alloc = |shape: [usize; 4]| {
        device
            .alloc_buffer(4 * shape.iter().product::<usize>(), DType::F32, shape.to_vec())
            .unwrap()
    };
    let mut q = alloc([batch, heads, seq, dim]);
    let mut k = alloc([batch, kv_heads, keys, dim]);
    let mut v = alloc([batch, kv_heads, keys, dim]);
    let out = alloc([batch, heads, seq, dim]);
    q.as_mut_slice::<f32>().unwrap().fill(0.0);
    k.as_mut_slice::<f32>().unwrap().fill(1.0);
    for (i, x) in v.as_mut_slice::<f32>().unwrap().iter_mut().enumerate() {
        *x = (i / dim % keys) as f32;
    }
    let params = SdpaParams {
        n_heads: heads as u32,
        n_kv_heads: kv_heads as u32,
        head_dim: dim as u32,
        seq_len: seq as u32,
        kv_seq_len: keys as u32,
        scale: 1.0 / (dim as f32).sqrt(),
        kv_capacity: 0,
    };
    assert_eq!(size_of::<SdpaParams>(), 28);
    let mut encoder = device.command_encoder().unwrap();
    sdpa::sdpa(
        &mut encoder,
        &mut registry,
        &device,
        &q,
        &k,
        &v,
        &out,
        &params,
        batch as u32,
    )
    .unwrap();
    encoder.commit_and_wait().unwrap();
    // Equal scores: the mean of the values that a query sees, the positions 0 to its own.
    for (i, got) in out.as_slice::<f32>().unwrap().iter().enumerate() {
        let seen = keys - seq + i / dim % seq;
        assert!((got - seen as f32 / 2.0).abs() < 1e-6, "{i}: {got}");
    }
}

#[test]
fn the_refusals_that_0_1_programs_look_for() {
    let device = MlxDevice::new().unwrap();
    let mut registry = KernelRegistry::new();
    let tiny = device.alloc_buffer(4, DType::F32, vec![1]).unwrap();
    let ok = SdpaParams {
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
        seq_len: 1,
        kv_seq_len: 1,
        scale: 1.0,
        kv_capacity: 0,
    };
    for (params, word) in [
        (SdpaParams { n_heads: 5, ..ok }, "divisible"),
        (SdpaParams { head_dim: 0, ..ok }, "head_dim"),
        (SdpaParams { seq_len: 2, ..ok }, "kv_seq_len"),
        (
            SdpaParams {
                kv_seq_len: 3,
                kv_capacity: 2,
                ..ok
            },
            "kv_capacity",
        ),
    ] {
        let mut encoder = device.command_encoder().unwrap();
        match sdpa::sdpa(
            &mut encoder,
            &mut registry,
            &device,
            &tiny,
            &tiny,
            &tiny,
            &tiny,
            &params,
            1,
        ) {
            Err(MlxError::InvalidArgument(text)) => assert!(text.contains(word), "{text}"),
            other => panic!("{params:?}: {other:?}"),
        }
        encoder
            .commit_and_wait()
            .expect("a refused call leaves the encoder usable");
    }
}

#[test]
fn buffers_and_pools_as_published() {
    let device = MlxDevice::new().unwrap();
    // Shape and dtype are labels: they are not held against the length.
    let b = device.alloc_buffer(10, DType::U32, vec![1000]).unwrap();
    assert_eq!(
        (b.byte_len(), b.element_count(), b.dtype()),
        (10, 1000, DType::U32)
    );
    assert!(b.as_slice::<u32>().is_err() && b.as_slice::<u8>().unwrap().len() == 10);
    assert!(matches!(
        device.alloc_buffer(0, DType::U8, vec![]),
        Err(MlxError::InvalidArgument(_))
    ));
    assert!(format!("{device:?} {b:?}").contains("U32"));
    let mut pool = MlxBufferPool::new(&device);
    let x = pool.alloc(100, DType::U8, vec![100]).unwrap();
    let address = x.contents_ptr();
    pool.release(x);
    assert_eq!(
        pool.alloc(128, DType::U8, vec![128]).unwrap().contents_ptr(),
        address
    );
}
