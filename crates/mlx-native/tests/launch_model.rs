//! The launch model: what runs when, what waits for what, what is an error.

use mlx_native::ops::add::{AddParams, add};
use mlx_native::{
    CommandEncoder, Config, DType, DeviceKind, KernelArg, KernelRegistry, MTLSize, MlxBuffer, MlxDevice,
    MlxError, as_bytes,
};

struct Rig {
    device: MlxDevice,
    registry: KernelRegistry,
}

impl Rig {
    fn new() -> Self {
        let mut config = Config::default();
        config.threads = Some(3);
        let device = MlxDevice::with_config(DeviceKind::Cpu, &config).unwrap();
        Rig {
            device,
            registry: KernelRegistry::new(),
        }
    }

    fn encoder(&self) -> CommandEncoder {
        self.device.command_encoder().unwrap()
    }

    fn buffer(&self, values: &[f32]) -> MlxBuffer {
        let mut b = self.device.alloc_tensor(DType::F32, &[values.len()]).unwrap();
        b.as_mut_slice::<f32>().unwrap().copy_from_slice(values);
        b
    }

    fn add(
        &mut self,
        encoder: &mut CommandEncoder,
        a: &MlxBuffer,
        b: &MlxBuffer,
        o: &MlxBuffer,
    ) -> mlx_native::Result<()> {
        let n = u32::try_from(o.element_count()).unwrap();
        add(
            encoder,
            &mut self.registry,
            &self.device,
            a,
            b,
            o,
            &AddParams {
                n_elements: n,
                b_elements: n,
            },
        )
    }
}

#[test]
fn nothing_runs_before_the_commit_and_contents_are_read_when_it_runs() {
    let mut rig = Rig::new();
    let mut x = rig.buffer(&[1.0, 2.0]);
    let y = rig.buffer(&[0.0, 0.0]);
    let mut encoder = rig.encoder();
    rig.add(&mut encoder, &x, &x, &y).unwrap();
    assert_eq!(y.as_slice::<f32>().unwrap(), [0.0, 0.0]);
    x.write(0, &[10.0f32, 20.0]).unwrap();
    encoder.commit_and_wait().unwrap();
    assert_eq!(y.as_slice::<f32>().unwrap(), [20.0, 40.0]);
    assert!(encoder.timing().unwrap().device.is_some());
}

#[test]
fn dropped_work_does_not_run_and_its_buffers_are_free() {
    let mut rig = Rig::new();
    let x = rig.buffer(&[1.0]);
    let y = rig.buffer(&[7.0]);
    let mut encoder = rig.encoder();
    rig.add(&mut encoder, &x, &x, &y).unwrap();
    drop(encoder);
    rig.encoder().commit_and_wait().unwrap();
    assert_eq!(y.read::<f32>().unwrap(), [7.0]);
}

#[test]
fn buffers_may_be_dropped_before_the_commit() {
    let mut rig = Rig::new();
    let (x, y) = (rig.buffer(&[1.5; 1000]), rig.buffer(&[0.0; 1000]));
    let view = y.view(4, DType::F32, vec![999]).unwrap();
    let mut encoder = rig.encoder();
    rig.add(&mut encoder, &x, &x, &y).unwrap();
    drop((x, y));
    encoder.try_commit().unwrap();
    drop(encoder);
    assert!(
        view.as_slice::<f32>().unwrap().iter().all(|v| *v == 3.0),
        "a view waits for the work in flight"
    );
}

#[test]
fn misuse_of_an_encoder_is_an_error() {
    let mut rig = Rig::new();
    let x = rig.buffer(&[1.0]);
    let mut encoder = rig.encoder();
    assert!(encoder.wait_until_completed().is_err(), "nothing was committed");
    encoder.commit_and_wait().expect("an empty commit succeeds");
    assert!(matches!(encoder.try_commit(), Err(MlxError::InvalidArgument(_))));
    let error = rig.add(&mut encoder, &x, &x, &x).unwrap_err().to_string();
    assert!(error.contains("committed"), "{error}");
    // A refused operator leaves the encoder usable.
    let mut encoder = rig.encoder();
    let params = AddParams {
        n_elements: 5,
        b_elements: 5,
    };
    assert!(add(&mut encoder, &mut rig.registry, &rig.device, &x, &x, &x, &params).is_err());
    rig.add(&mut encoder, &x, &x, &x).unwrap();
    encoder.commit_and_wait().unwrap();
    assert_eq!(x.read::<f32>().unwrap(), [2.0]);
}

#[test]
fn bindings_are_held_against_the_signature() {
    let mut rig = Rig::new();
    let (x, read_only) = (rig.buffer(&[1.0; 8]), rig.device.wrap_static(&[0u8; 32]).unwrap());
    let pipeline = rig.registry.get_pipeline("add_f32", &rig.device).unwrap().clone();
    let params = AddParams {
        n_elements: 8,
        b_elements: 8,
    };
    let p = KernelArg::Bytes(as_bytes(&params));
    let b = KernelArg::Buffer(&x);
    let one = MTLSize::new(1, 1, 1);
    let all = [(0, b), (1, b), (2, b), (3, p)];
    let refused: &[(&[(u64, KernelArg<'_>)], MTLSize, MTLSize, &str)] = &[
        (&all[..3], one, one, "argument 3 (`p`) is not bound"),
        (&[(0, b), (0, b), (1, b), (2, b), (3, p)], one, one, "bound twice"),
        (
            &[(0, b), (1, b), (2, b), (3, p), (4, b)],
            one,
            one,
            "no argument 4",
        ),
        (
            &[(0, b), (1, b), (2, b), (3, p), (64, b)],
            one,
            one,
            "no argument 64",
        ),
        (
            &[(0, b), (1, b), (2, KernelArg::Buffer(&read_only)), (3, p)],
            one,
            one,
            "read-only",
        ),
        (
            &[(0, KernelArg::BufferWithOffset(&x, 33)), (1, b), (2, b), (3, p)],
            one,
            one,
            "offset 33",
        ),
        (
            &[(0, KernelArg::BufferWithOffset(&x, 2)), (1, b), (2, b), (3, p)],
            one,
            one,
            "offset 2",
        ),
        (
            &[(0, b), (1, b), (2, KernelArg::Bytes(&[0; 4])), (3, p)],
            one,
            one,
            "argument 2",
        ),
        (
            &[(0, b), (1, b), (2, b), (3, KernelArg::Bytes(&[]))],
            one,
            one,
            "inline bytes",
        ),
        (&all, MTLSize::new(0, 1, 1), one, "empty grid"),
        (&all, one, MTLSize::new(1025, 1, 1), "1025"),
        (&all, one, MTLSize::new(1, 0, 1), "threadgroup"),
        (&all, MTLSize::new(1 << 33, 1, 1), one, "32 bits"),
        (&all, MTLSize::new(1 << 22, 1 << 22, 1 << 22), one, "2^64"),
        (&all, one, MTLSize::new(1 << 22, 1 << 22, 1 << 22), "4194304"),
    ];
    for (bindings, grid, group, words) in refused {
        let error = rig
            .encoder()
            .try_encode_with_args(&pipeline, bindings, *grid, *group)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("add_f32") && error.contains(words),
            "{error} / {words}"
        );
    }
    let memory =
        rig.encoder()
            .try_encode_threadgroups_with_args_and_shared(&pipeline, &all, &[(0, 64)], one, one);
    assert!(memory.unwrap_err().to_string().contains("threadgroup memory"));
    let other = MlxDevice::open(DeviceKind::Null)
        .unwrap()
        .command_encoder()
        .unwrap()
        .try_encode_with_args(&pipeline, &all, one, one);
    assert!(other.unwrap_err().to_string().contains("another device"));
}

#[test]
fn too_few_parameter_bytes_fail_the_work_and_later_work_runs() {
    let mut rig = Rig::new();
    let x = rig.buffer(&[1.0; 8]);
    let pipeline = rig.registry.get_pipeline("add_f32", &rig.device).unwrap().clone();
    let b = KernelArg::Buffer(&x);
    let one = MTLSize::new(1, 1, 1);
    let mut encoder = rig.encoder();
    encoder
        .try_encode_with_args(
            &pipeline,
            &[(0, b), (1, b), (2, b), (3, KernelArg::Bytes(&[1; 4]))],
            one,
            one,
        )
        .unwrap();
    encoder.try_commit().unwrap();
    let seen = x.as_slice::<f32>().unwrap_err();
    assert!(
        !seen.is_transient() && seen.to_string().contains("add_f32") && seen.to_string().contains("4 bytes"),
        "{seen}"
    );
    assert_eq!(encoder.wait_until_completed().unwrap_err(), seen);
    let mut encoder = rig.encoder();
    rig.add(&mut encoder, &x, &x, &x).unwrap();
    encoder.commit_and_wait().unwrap();
    assert_eq!(x.read::<f32>().unwrap(), [2.0; 8]);
}

#[test]
fn views_and_copies_are_checked() {
    let rig = Rig::new();
    let mut x = rig.buffer(&[0.0; 4]);
    assert!(x.view(4, DType::F32, vec![4]).is_err());
    assert!(x.view(2, DType::F32, vec![1]).is_err());
    assert!(x.view(0, DType::F32, vec![usize::MAX, 2]).is_err());
    assert!(x.view(16, DType::F32, vec![0]).is_ok());
    assert!(
        x.view(1, DType::U8, vec![4]).unwrap().as_slice::<u32>().is_err(),
        "not aligned"
    );
    assert!(x.as_slice::<[u8; 3]>().is_err(), "does not divide");
    assert!(x.write(2, &[1.0f32; 3]).is_err() && x.write(usize::MAX, &[1.0f32]).is_err());
    assert!(x.read_into(3, &mut [0f32; 2]).is_err());
    x.write(2, &[5.0f32, 6.0]).unwrap();
    assert_eq!(x.read::<f32>().unwrap(), [0.0, 0.0, 5.0, 6.0]);
    let mut fixed = rig.device.wrap_static(&[1, 2, 3]).unwrap();
    assert!(fixed.as_mut_slice::<u8>().is_err() && fixed.write(0, &[9u8]).is_err());
    assert_eq!(fixed.as_slice::<u8>().unwrap(), [1, 2, 3]);
    for bytes in [0, usize::MAX, isize::MAX as usize] {
        assert!(
            rig.device.alloc_buffer(bytes, DType::U8, vec![]).is_err(),
            "{bytes}"
        );
    }
}

#[test]
fn devices_that_are_not_there_say_why() {
    for kind in [DeviceKind::Cuda, DeviceKind::Metal, DeviceKind::Emulator] {
        if let Err(error) = MlxDevice::open(kind) {
            assert!(matches!(error, MlxError::DeviceUnavailable(_)));
            assert!(error.to_string().contains(kind.name()), "{error}");
        }
    }
    assert!("gpu".parse::<DeviceKind>().is_err());
    assert_eq!("emulator".parse::<DeviceKind>().unwrap(), DeviceKind::Emulator);
}

/// Random chains over a few buffers, in many encoders, with no wait between them: the outcome is that of running them
/// one by one.
#[test]
fn hazards_give_the_sequential_result() {
    let mut rig = Rig::new();
    const N: usize = 3000;
    let mut seed = 1u64;
    let mut pick = |n: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let mut model: Vec<Vec<f32>> = (0..6)
        .map(|i| (0..N).map(|j| (i * N + j) as f32 * 1e-3).collect())
        .collect();
    let buffers: Vec<MlxBuffer> = model.iter().map(|m| rig.buffer(m)).collect();
    for _ in 0..60 {
        let mut encoder = rig.encoder();
        for _ in 0..pick(12) {
            let (a, b, o) = (pick(6) as usize, pick(6) as usize, pick(6) as usize);
            // Parts of buffers, at any offset: the second half of one may be read while the first is written.
            let len = 1 + pick(N as u64 / 2) as usize;
            let (at_a, at_b, at_o) = (pick(1500) as usize, pick(1500) as usize, pick(1500) as usize);
            let view = |i: usize, at: usize| buffers[i].view(at * 4, DType::F32, vec![len]).unwrap();
            let shifted = |i: usize, at: usize| o == i && at_o != at && at_o.abs_diff(at) < len;
            if shifted(a, at_a) || shifted(b, at_b) {
                let refused = rig.add(&mut encoder, &view(a, at_a), &view(b, at_b), &view(o, at_o));
                assert!(refused.unwrap_err().to_string().contains("share memory"));
                continue;
            }
            rig.add(&mut encoder, &view(a, at_a), &view(b, at_b), &view(o, at_o))
                .unwrap();
            let sum: Vec<f32> = (0..len)
                .map(|i| model[a][at_a + i] + model[b][at_b + i])
                .collect();
            model[o][at_o..at_o + len].copy_from_slice(&sum);
        }
        encoder.try_commit().unwrap();
    }
    for (b, m) in buffers.iter().zip(&model) {
        assert!(b.as_slice::<f32>().unwrap() == m, "a hazard was missed");
    }
}

#[test]
fn bytes_that_are_written_are_bound_to_nothing_else() {
    let mut rig = Rig::new();
    let x = rig.buffer(&[1.0, 2.0, 3.0, 4.0]);
    let view = |from: usize, n: usize| x.view(from * 4, DType::F32, vec![n]).unwrap();
    let mut encoder = rig.encoder();
    // Shifted by one element: two threads would race.
    let error = rig
        .add(&mut encoder, &view(0, 3), &view(0, 3), &view(1, 3))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`output`") && error.contains("not the same 12 bytes"),
        "{error}"
    );
    // The same start, another length.
    assert!(
        rig.add(&mut encoder, &view(0, 4), &view(0, 4), &view(0, 3))
            .is_err()
    );
    // Exactly the same bytes, which the kernel declares; and neighbours.
    rig.add(&mut encoder, &view(0, 2), &view(2, 2), &view(0, 2))
        .unwrap();
    rig.add(&mut encoder, &view(0, 2), &view(0, 2), &view(2, 2))
        .unwrap();
    encoder.commit_and_wait().unwrap();
    assert_eq!(x.read::<f32>().unwrap(), [4.0, 6.0, 8.0, 12.0]);

    // By hand, to a kernel that declares nothing: `&[T]` and `&mut [T]` over one memory.
    let pipeline = rig
        .registry
        .get_pipeline("copy_bits_32", &rig.device)
        .unwrap()
        .clone();
    let n = [4u32];
    let mut encoder = rig.encoder();
    let error = encoder
        .try_encode_with_args(
            &pipeline,
            &[
                (0, KernelArg::Buffer(&x)),
                (1, KernelArg::Buffer(&x)),
                (2, KernelArg::Bytes(as_bytes(&n))),
            ],
            MTLSize::new(1, 1, 1),
            MTLSize::new(1, 1, 1),
        )
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("copy_bits_32") && error.contains("shares memory"),
        "{error}"
    );
}
