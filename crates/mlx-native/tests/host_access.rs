//! Who may touch the bytes, and when: the host's guards and slices against work and each other, two queues on one
//! allocation, owners of wrapped memory, and memory that the host cannot address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mlx_native::ops::add::{AddParams, add};
use mlx_native::{
    CommandEncoder, ComputeGraph, Config, DType, DeviceKind, KernelRegistry, MlxBuffer, MlxDevice, MlxError,
};

fn cpu(threads: usize) -> MlxDevice {
    let mut config = Config::default();
    config.threads = Some(threads);
    MlxDevice::with_config(DeviceKind::Cpu, &config).unwrap()
}

/// Every kind of memory here: shared with the host, and apart from it.
fn devices() -> Vec<MlxDevice> {
    let mut all = vec![cpu(2)];
    if cfg!(feature = "emulator") {
        let mut config = Config::default();
        config.emulator.separate_memory = true;
        all.push(MlxDevice::with_config(DeviceKind::Emulator, &config).unwrap());
    }
    all
}

fn buffer(device: &MlxDevice, values: &[f32]) -> MlxBuffer {
    let mut b = device.alloc_tensor(DType::F32, &[values.len()]).unwrap();
    b.write(0, values).unwrap();
    b
}

fn sum(encoder: &mut CommandEncoder, device: &MlxDevice, a: &MlxBuffer, b: &MlxBuffer, o: &MlxBuffer) {
    let n = u32::try_from(o.element_count()).unwrap();
    let params = AddParams {
        n_elements: n,
        b_elements: n,
    };
    add(encoder, &mut KernelRegistry::new(), device, a, b, o, &params).unwrap();
}

fn text(result: mlx_native::Result<impl std::fmt::Debug>) -> String {
    match result.unwrap_err() {
        MlxError::InvalidArgument(text) => text,
        other => panic!("{other}"),
    }
}

#[test]
fn a_commit_while_a_guard_lives_names_the_buffer_and_succeeds_afterwards() {
    for device in devices() {
        let (x, mut y) = (buffer(&device, &[1.0, 2.0]), buffer(&device, &[0.0, 0.0]));
        let mut encoder = device.command_encoder().unwrap();
        sum(&mut encoder, &device, &x, &x, &y);
        let guard = y.host_read::<f32>().unwrap();
        let error = text(encoder.try_commit());
        assert!(
            error.contains("host_read") && error.contains("f32 [2]"),
            "{error}"
        );
        assert_eq!(*guard, [0.0, 0.0]);
        drop(guard);
        // Reading what the work only reads is no conflict.
        let reading = x.host_read::<f32>().unwrap();
        encoder.commit_and_wait().unwrap();
        assert_eq!(
            (&*reading, &*y.read::<f32>().unwrap()),
            (&[1.0, 2.0][..], &[2.0, 4.0][..])
        );
        drop(reading);
        let mut writing = y.host_write::<f32>().unwrap();
        writing[1] = 9.0;
        writing.finish().unwrap();
        assert_eq!(y.read::<f32>().unwrap(), [2.0, 9.0]);
    }
}

#[test]
fn guards_of_two_views_respect_each_other_where_they_overlap() {
    for device in devices() {
        let x = buffer(&device, &[1.0, 2.0, 3.0, 4.0]);
        let view = |from: usize, n: usize| x.view(from * 4, DType::F32, vec![n]).unwrap();
        let (mut low, mut mid, mut high) = (view(0, 2), view(1, 2), view(2, 2));
        let first = low.host_write::<f32>().unwrap();
        assert!(text(mid.host_read::<f32>()).contains("host_write"));
        assert!(text(mid.read::<f32>()).contains("host_write"));
        assert!(text(mid.write(0, &[0f32])).contains("host_write"));
        assert!(mid.as_mut_slice::<f32>().is_err() && mid.as_slice::<f32>().is_err());
        let second = high.host_write::<f32>().expect("other bytes");
        drop((first, second));
        let (a, b) = (low.host_read::<f32>().unwrap(), mid.host_read::<f32>().unwrap());
        assert_eq!((a[1], b[0]), (2.0, 2.0), "two readers");
        assert!(text(high.host_write::<f32>()).contains("host_read"));
    }
}

#[test]
fn two_mutable_slices_over_one_memory_are_refused_until_the_first_handle_is_used_again() {
    for device in devices() {
        let x = buffer(&device, &[1.0, 2.0]);
        let (mut a, mut b) = (
            x.view(0, DType::F32, vec![2]).unwrap(),
            x.view(0, DType::F32, vec![2]).unwrap(),
        );
        let one = a.as_mut_slice::<f32>().unwrap();
        let error = text(b.as_mut_slice::<f32>());
        assert!(error.contains("as_mut_slice"), "{error}");
        one[0] = 5.0;
        // The slice cannot live any more: its handle is used.
        assert_eq!(a.dtype(), DType::F32);
        assert_eq!(a.read::<f32>().unwrap(), [5.0, 2.0]);
        b.as_mut_slice::<f32>().unwrap()[1] = 6.0;
        drop(b);
        assert_eq!(
            x.read::<f32>().unwrap(),
            [5.0, 6.0],
            "a dropped handle gives back"
        );
    }
}

#[test]
fn a_commit_is_refused_while_a_mutable_slice_may_live() {
    for device in devices() {
        let (mut x, y) = (buffer(&device, &[1.0, 2.0]), buffer(&device, &[0.0, 0.0]));
        let mut encoder = device.command_encoder().unwrap();
        sum(&mut encoder, &device, &x, &x, &y);
        let slice = x.as_mut_slice::<f32>().unwrap();
        let error = text(encoder.try_commit());
        assert!(error.contains("as_mut_slice"), "{error}");
        slice[0] = 7.0;
        assert_eq!(x.read::<f32>().unwrap(), [7.0, 2.0]);
        encoder.commit_and_wait().unwrap();
        assert_eq!(y.read::<f32>().unwrap(), [14.0, 4.0]);
        // In the order of the published programs: fill, record, commit.
        x.as_mut_slice::<f32>().unwrap().fill(1.0);
        let mut encoder = device.command_encoder().unwrap();
        sum(&mut encoder, &device, &x, &x, &y);
        encoder.commit_and_wait().unwrap();
        assert_eq!(y.as_slice::<f32>().unwrap(), [2.0, 2.0]);
    }
}

#[test]
fn a_slice_keeps_what_it_saw_whatever_work_does() {
    for device in devices() {
        let (x, y) = (buffer(&device, &[1.0, 2.0]), buffer(&device, &[0.0, 0.0]));
        let before = y.as_slice::<f32>().unwrap();
        let again = y.as_slice::<f32>().unwrap();
        assert_eq!(
            before.as_ptr(),
            again.as_ptr(),
            "the same contents, the same copy"
        );
        let mut encoder = device.command_encoder().unwrap();
        sum(&mut encoder, &device, &x, &x, &y);
        encoder.commit_and_wait().unwrap();
        assert_eq!(before, [0.0, 0.0]);
        assert_eq!(y.as_slice::<f32>().unwrap(), [2.0, 4.0]);
    }
}

#[test]
fn work_of_two_queues_on_one_allocation_is_ordered() {
    const N: usize = 200_000;
    // Two pools of threads are two queues.
    let (one, two) = (cpu(1), cpu(2));
    let x = buffer(&one, &vec![1.0; N]);
    let mut registry = KernelRegistry::new();
    let params = AddParams {
        n_elements: N as u32,
        b_elements: N as u32,
    };
    for i in 0..20 {
        let device = if i % 2 == 0 { &one } else { &two };
        let mut encoder = device.command_encoder().unwrap();
        add(&mut encoder, &mut registry, device, &x, &x, &x, &params).unwrap();
        encoder.try_commit().unwrap();
    }
    assert!(x.read::<f32>().unwrap().iter().all(|v| *v == 1_048_576.0));
}

#[test]
fn two_queues_that_cross_do_not_wait_for_each_other_for_ever() {
    let (one, two) = (cpu(1), cpu(2));
    let (x, y) = (buffer(&one, &[0.0; 64]), buffer(&two, &[0.0; 64]));
    std::thread::scope(|scope| {
        for (device, a, b) in [(&one, &x, &y), (&two, &y, &x)] {
            scope.spawn(move || {
                for _ in 0..300 {
                    let mut encoder = device.command_encoder().unwrap();
                    sum(&mut encoder, device, a, a, b);
                    sum(&mut encoder, device, b, b, a);
                    encoder.try_commit().unwrap();
                }
            });
        }
    });
    assert!(x.read::<f32>().unwrap().iter().all(|v| *v == 0.0));
}

struct Owner {
    bytes: Vec<f32>,
    dropped: Arc<AtomicBool>,
    panics: bool,
    _device: Option<MlxDevice>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
        if self.panics {
            panic!("this owner breaks");
        }
    }
}

fn wrapped(device: &MlxDevice, panics: bool, keeps: Option<MlxDevice>) -> (MlxBuffer, Arc<AtomicBool>) {
    let dropped = Arc::new(AtomicBool::new(false));
    let owner = Arc::new(Owner {
        bytes: vec![3.0; 8],
        dropped: dropped.clone(),
        panics,
        _device: keeps,
    });
    let ptr = owner.bytes.as_ptr().cast();
    // SAFETY: the owner keeps its bytes in place, and nobody changes them.
    let x = unsafe { device.wrap_host(ptr, 32, owner).unwrap() };
    let x = x.view(0, DType::F32, vec![8]).unwrap();
    (x, dropped)
}

#[test]
fn an_owner_that_panics_is_an_error_of_the_work_and_the_device_lives_on() {
    for device in [cpu(2)].into_iter().chain(emulator()) {
        let y = buffer(&device, &[0.0; 8]);
        let (x, dropped) = wrapped(&device, true, None);
        let mut encoder = device.command_encoder().unwrap();
        sum(&mut encoder, &device, &x, &x, &y);
        drop(x);
        let error = encoder.commit_and_wait().unwrap_err();
        assert!(
            matches!(&error, MlxError::WorkFailed(text) if text.contains("this owner breaks")),
            "{error}"
        );
        assert!(dropped.load(Ordering::SeqCst));
        let (x, _) = wrapped(&device, false, None);
        let mut encoder = device.command_encoder().unwrap();
        sum(&mut encoder, &device, &x, &x, &y);
        encoder.commit_and_wait().unwrap();
        assert_eq!(y.read::<f32>().unwrap(), [6.0; 8]);
    }
}

#[test]
fn the_last_handle_of_a_device_may_go_on_a_thread_of_the_device() {
    // As many threads as no other test has: the pool is this device's alone.
    for device in [cpu(7)].into_iter().chain(emulator()) {
        let y = buffer(&device, &[0.0; 8]);
        let (x, dropped) = wrapped(&device, false, Some(device.clone()));
        let mut encoder = device.command_encoder().unwrap();
        sum(&mut encoder, &device, &x, &x, &y);
        drop((x, device));
        encoder.try_commit().unwrap();
        // Nothing but the work holds the device now.
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let result = encoder.wait_until_completed();
            drop(encoder);
            send.send(result).unwrap();
        });
        receive
            .recv_timeout(Duration::from_secs(60))
            .expect("nobody joins himself")
            .unwrap();
        assert!(dropped.load(Ordering::SeqCst));
        assert_eq!(y.read::<f32>().unwrap(), [6.0; 8]);
    }
}

fn emulator() -> Option<MlxDevice> {
    cfg!(feature = "emulator").then(|| MlxDevice::open(DeviceKind::Emulator).unwrap())
}

#[test]
fn committing_while_capturing_is_an_error() {
    let device = cpu(2);
    let x = buffer(&device, &[1.0, 2.0]);
    let mut encoder = device.command_encoder().unwrap();
    encoder.start_capture();
    sum(&mut encoder, &device, &x, &x, &x);
    let error = text(encoder.try_commit());
    assert!(
        error.contains("capturing") && error.contains("1 captured"),
        "{error}"
    );
    assert_eq!(encoder.take_capture().unwrap().len(), 1);
    encoder.commit_and_wait().unwrap();
    assert_eq!(x.read::<f32>().unwrap(), [1.0, 2.0]);
}

#[test]
fn sizes_that_overflow_are_errors() {
    let device = cpu(2);
    let error = text(device.alloc_buffer(4, DType::U8, vec![usize::MAX, 2]));
    assert!(error.contains("overflows"), "{error}");
}

#[test]
fn copies_and_fills_run_on_the_device_in_order_with_dispatches() {
    for device in devices() {
        let (x, y) = (buffer(&device, &[1.0, 2.0, 3.0, 4.0]), buffer(&device, &[9.0; 4]));
        let mut encoder = device.command_encoder().unwrap();
        encoder.copy_bytes(&x, 4, &y, 0, 8).unwrap();
        sum(&mut encoder, &device, &y, &y, &y);
        encoder.fill_bytes(&y, 12, 4, 0).unwrap();
        assert_eq!(
            (encoder.recorded_dispatches(), encoder.recorded_barriers()),
            (1, 2)
        );
        encoder.commit_and_wait().unwrap();
        assert_eq!(y.read::<f32>().unwrap(), [4.0, 6.0, 18.0, 0.0]);

        // Captured and replayed.
        let mut encoder = device.command_encoder().unwrap();
        encoder.start_capture();
        encoder.copy_bytes(&y, 0, &x, 8, 8).unwrap();
        encoder.fill_bytes(&y, 0, 16, 0).unwrap();
        let mut graph = ComputeGraph::from_nodes(encoder.take_capture().unwrap());
        assert_eq!(
            (graph.len(), graph.dispatch_count(), graph.barrier_count()),
            (2, 0, 0)
        );
        graph.reorder();
        graph.encode(&mut encoder).unwrap();
        assert_eq!(encoder.recorded_barriers(), 1);
        encoder.commit_and_wait().unwrap();
        assert_eq!(x.read::<f32>().unwrap(), [1.0, 2.0, 4.0, 6.0]);
        assert_eq!(y.read::<f32>().unwrap(), [0.0; 4]);

        let mut encoder = device.command_encoder().unwrap();
        assert!(text(encoder.copy_bytes(&x, 0, &y, 8, 12)).contains("12 bytes from byte 8"));
        assert!(text(encoder.copy_bytes(&x, 0, &x, 4, 8)).contains("overlap"));
        assert!(text(encoder.fill_bytes(&x, usize::MAX, 2, 0)).contains("fill_bytes"));
        assert!(text(encoder.fill_bytes(&x, 0, 0, 0)).contains("0 bytes"));
        let fixed = device.wrap_static(&[0; 16]).unwrap();
        assert!(text(encoder.fill_bytes(&fixed, 0, 4, 0)).contains("read-only"));
    }
}

#[cfg(feature = "emulator")]
#[test]
fn memory_apart_has_no_address_and_stays_on_its_device() {
    let device = devices().remove(1);
    let mut x = buffer(&device, &[1.0, 2.0]);
    assert!(x.contents_ptr().is_null());
    assert!(!buffer(&cpu(2), &[1.0]).contents_ptr().is_null());
    x.host_write::<f32>().unwrap()[0] = 8.0;
    assert_eq!(x.as_slice::<f32>().unwrap(), [8.0, 2.0]);
    let other = cpu(2);
    let mut encoder = other.command_encoder().unwrap();
    let params = AddParams {
        n_elements: 2,
        b_elements: 2,
    };
    let mut registry = KernelRegistry::new();
    let refused = text(add(&mut encoder, &mut registry, &other, &x, &x, &x, &params));
    assert!(refused.contains("memory of device emulator"), "{refused}");
    let y = buffer(&other, &[1.0, 2.0]);
    let mut encoder = device.command_encoder().unwrap();
    let refused = text(add(&mut encoder, &mut registry, &device, &y, &y, &y, &params));
    assert!(refused.contains("memory of device cpu"), "{refused}");
}
