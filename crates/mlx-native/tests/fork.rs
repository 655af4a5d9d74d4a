//! After `fork()`: the child has the memory of its parent and none of its threads. It must not wait for them.

#![cfg(unix)]

use mlx_native::ops::add::{AddParams, add};
use mlx_native::{CommandEncoder, Config, DType, DeviceKind, KernelRegistry, MlxBuffer, MlxDevice, MlxError};

/// Seconds until a child that waits for ever is ended.
const LIMIT: u32 = 60;

fn device(kind: DeviceKind) -> MlxDevice {
    let mut config = Config::default();
    config.threads = Some(2);
    MlxDevice::with_config(kind, &config).expect("a device")
}

fn twice(device: &MlxDevice, x: &MlxBuffer) -> (CommandEncoder, MlxBuffer) {
    let y = device.alloc_tensor(DType::F32, &[2]).expect("memory");
    let mut encoder = device.command_encoder().expect("an encoder");
    let params = AddParams {
        n_elements: 2,
        b_elements: 2,
    };
    add(
        &mut encoder,
        &mut KernelRegistry::new(),
        device,
        x,
        x,
        &y,
        &params,
    )
    .expect("an addition");
    (encoder, y)
}

fn pair(device: &MlxDevice) -> MlxBuffer {
    let mut x = device.alloc_tensor(DType::F32, &[2]).expect("memory");
    x.as_mut_slice::<f32>()
        .expect("a view")
        .copy_from_slice(&[1.5, -2.0]);
    x
}

/// Runs `child` in a child; whether it returned true in time.
fn in_child(child: impl FnOnce() -> bool) -> bool {
    // SAFETY: no other thread of this process uses the library now. The child calls the library and ends by `_exit`, so that
    // nothing of the test harness runs in it.
    unsafe {
        let id = libc::fork();
        assert!(id >= 0, "fork");
        if id == 0 {
            libc::alarm(LIMIT);
            let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(false);
            libc::_exit(i32::from(!good));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(id, &raw mut status, 0), id);
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    }
}

fn refused<T>(result: Result<T, MlxError>) -> bool {
    matches!(result, Err(MlxError::Unsupported(text)) if text.contains("fork"))
}

/// One test, so that no other one runs beside it.
#[test]
fn a_child_gets_errors_of_its_parents_device_and_may_open_its_own() {
    let kinds: &[DeviceKind] = if cfg!(feature = "emulator") {
        &[DeviceKind::Cpu, DeviceKind::Emulator]
    } else {
        &[DeviceKind::Cpu]
    };
    for &kind in kinds {
        let device = device(kind);
        let x = pair(&device);
        let (mut before, y) = twice(&device, &x);
        before.commit_and_wait().expect("it runs");
        assert_eq!(y.as_slice::<f32>().expect("a view"), [3.0, -4.0]);
        // Recorded before the fork, committed after it.
        let (recorded, _) = twice(&device, &x);
        let opened = device.clone();
        assert!(
            in_child(move || {
                let mut recorded = recorded;
                let (mut encoder, z) = twice(&opened, &x);
                let good = refused(recorded.commit_and_wait()) && refused(encoder.commit_and_wait());
                // What was finished may be read; letting go waits for nobody.
                let good = good && y.as_slice::<f32>().is_ok_and(|v| *v == [3.0, -4.0]);
                drop((recorded, encoder, z, y, x, opened));
                let own = self::device(kind);
                let (mut encoder, y) = twice(&own, &pair(&own));
                let ran = encoder.commit_and_wait();
                good && ran.is_ok() && y.as_slice::<f32>().is_ok_and(|v| *v == [3.0, -4.0])
            }),
            "{kind:?}"
        );
        // The parent goes on.
        let x = pair(&device);
        let (mut after, y) = twice(&device, &x);
        after.commit_and_wait().expect("it runs");
        assert_eq!(y.as_slice::<f32>().expect("a view"), [3.0, -4.0]);
    }
}
