//! Memory: zeroed, moved, wrapped, bounded, given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::gpu::Failure;
use super::super::recording::facts;
use super::Bench;
use crate::dtype::DType;
use crate::error::MlxError;
use crate::testing::assert_invalid;

#[test]
fn memory_comes_zeroed_and_goes_back() {
    let b = Bench::new();
    let mut x = b.floats(4);
    assert_eq!(x.read::<f32>().unwrap(), [0.0; 4]);
    x.write(1, &[5.0f32, 6.0]).unwrap();
    assert_eq!(x.read::<f32>().unwrap(), [0.0, 5.0, 6.0, 0.0]);
    assert_eq!(b.log().memory.len(), 1);
    drop(x);
    assert!(b.log().memory.is_empty());
}

struct Owner(Vec<u8>, Arc<AtomicBool>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_wrapped_range_is_copied_once_and_let_go() {
    let b = Bench::new();
    let gone = Arc::new(AtomicBool::new(false));
    let owner = Arc::new(Owner((0..100).collect(), gone.clone()));
    let (ptr, len) = (owner.0.as_ptr(), owner.0.len());
    // SAFETY: the owner keeps the bytes, and nobody changes them.
    let mut x = unsafe { b.device.wrap_host(ptr, len, owner) }.unwrap();
    assert!(gone.load(Ordering::Relaxed), "the copy is all that is needed");
    assert_eq!(x.read::<u8>().unwrap(), (0..100).collect::<Vec<u8>>());
    assert_invalid(x.write(0, &[1u8]), &["read-only"]);
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let b = Bench::with(facts(), |c| c.cuda.memory_limit = Some(3000));
    assert_eq!(b.device.limits().max_working_set, Some(3000));
    let kept = b.device.alloc_buffer(1000, DType::U8, vec![1000]).unwrap();
    static BYTES: [u8; 2500] = [1; 2500];
    let refused = b.device.wrap_static(&BYTES);
    assert_invalid(refused, &["wrap: 2500 bytes", "1000 are in use of the 3000"]);
    let error = b.device.alloc_buffer(2001, DType::U8, vec![2001]).unwrap_err();
    assert_eq!(error, MlxError::BufferAllocationError { bytes: 2001 });
    drop(kept);
    b.device.wrap_static(&BYTES).unwrap();
    // And what the device itself has not got.
    let b = Bench::new();
    b.log().room = Some(2000);
    assert_invalid(
        b.device.wrap_static(&BYTES),
        &["2500 bytes do not fit", "2000 bytes of"],
    );
    assert!(b.device.alloc_buffer(2001, DType::U8, vec![2001]).is_err());
    b.device.alloc_buffer(2000, DType::U8, vec![2000]).unwrap();
}

#[test]
fn failures_of_transfers_are_errors_and_leave_nothing() {
    let b = Bench::new();
    let mut x = b.floats(1);
    for call in ["upload", "download"] {
        b.log().failures.insert(call, Failure::new(1, "invalid argument"));
    }
    for error in [x.write(0, &[1.0f32]).unwrap_err(), x.read::<f32>().unwrap_err()] {
        assert!(
            matches!(&error, MlxError::CommandBufferError(t) if t.contains("invalid argument")),
            "{error}"
        );
    }
    static BYTES: [u8; 10] = [1; 10];
    assert!(b.device.wrap_static(&BYTES).is_err());
    assert_eq!(b.log().memory.len(), 1);
}

#[test]
fn buffers_of_other_memory_are_refused() {
    let mut b = Bench::new();
    let other = crate::MlxDevice::open(crate::DeviceKind::Cpu).unwrap();
    let y = other.alloc_tensor(DType::F32, &[1]).unwrap();
    let mut encoder = b.encoder();
    let args = [
        (1, crate::KernelArg::Buffer(&y)),
        (0, crate::KernelArg::Bytes(&[0; 8])),
    ];
    assert_invalid(
        b.groups(&mut encoder, "rows", &args, [1, 1, 1], [1, 1, 1]),
        &["rows"],
    );
    // And the other way round.
    let ours = b.floats(1);
    let mut encoder = other.command_encoder().unwrap();
    let mut registry = crate::KernelRegistry::new();
    let pipeline = registry.get_pipeline("argmax_f32", &other).unwrap();
    let args = [(0, crate::KernelArg::Buffer(&ours))];
    let one = super::size([1, 1, 1]);
    assert!(
        encoder
            .try_encode_threadgroups_with_args(pipeline, &args, one, one)
            .is_err()
    );
}
