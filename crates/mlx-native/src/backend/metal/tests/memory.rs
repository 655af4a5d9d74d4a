//! Allocation, wrapping, residency.

use std::sync::Arc;

use super::super::recording::{Call, PAGE, facts};
use super::Bench;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::error::{MlxError, Result};
use crate::metal::MTLSize;
use crate::testing::assert_invalid;
use crate::{KernelArg, MlxBuffer};

/// A map with a first byte at the start of one of the stand-in's pages.
struct Pages {
    map: Arc<memmap2::MmapMut>,
    start: *const u8,
}

impl Pages {
    fn new(pages: usize) -> Self {
        let mut map = memmap2::MmapMut::map_anon((pages + 1) * PAGE).unwrap();
        let skip = map.as_ptr().align_offset(PAGE);
        for (i, byte) in map[skip..].iter_mut().enumerate() {
            *byte = i as u8;
        }
        let start = map[skip..].as_ptr();
        Pages {
            map: Arc::new(map),
            start,
        }
    }

    fn wrap(&self, device: &MlxDevice, offset: usize, byte_len: usize) -> Result<MlxBuffer> {
        // SAFETY: inside the map, which the owner keeps.
        unsafe { device.wrap_host(self.start.wrapping_add(offset), byte_len, self.map.clone()) }
    }
}

#[test]
fn allocations_are_zeroed_counted_and_bounded() {
    let b = Bench::with(facts(), |c| c.metal.memory_limit = Some(1000));
    let first = b.floats(150);
    assert_eq!(first.read::<f32>().unwrap(), [0.0; 150]);
    assert_eq!(first.contents_ptr() as usize % 64, 0);
    let over = b.device.alloc_tensor(DType::F32, &[101]);
    assert_eq!(over.err(), Some(MlxError::BufferAllocationError { bytes: 404 }));
    let second = b.floats(100);
    assert!(b.device.alloc_buffer(1, DType::U8, vec![1]).is_err());
    drop((first, second));
    b.floats(250);
    assert!(
        b.events("buffer").len() == 3,
        "a refused allocation reaches no driver"
    );
}

#[test]
fn a_machine_that_recommends_nothing_has_memory_all_the_same() {
    let mut silent = facts();
    silent.recommended_working_set = 0;
    let b = Bench::with(silent, |_| ());
    assert_eq!(b.device.limits().max_working_set, None);
    b.floats(1000);
}

#[test]
fn a_buffer_that_metal_refuses_leaves_no_debt() {
    let b = Bench::with(facts(), |c| c.metal.memory_limit = Some(1000));
    b.log().refuse.push("buffer");
    assert!(b.device.alloc_tensor(DType::F32, &[250]).is_err());
    b.log().refuse.clear();
    b.floats(250);
}

#[test]
fn a_map_is_used_in_place_whatever_its_length() {
    let b = Bench::new();
    let pages = Pages::new(3);
    for byte_len in [1, 100, PAGE, PAGE + 1, 3 * PAGE] {
        let buffer = pages.wrap(&b.device, 0, byte_len).unwrap();
        assert_eq!(buffer.contents_ptr().cast_const().cast(), pages.start);
        assert!(buffer.byte_len() == byte_len && !buffer.is_writable());
        let expected = format!("wrap {}", byte_len.div_ceil(PAGE) * PAGE);
        assert_eq!(b.events("wrap").pop(), Some(expected));
    }
    assert!(b.events("buffer").is_empty(), "nothing was copied");
}

#[test]
fn the_owner_lives_as_long_as_the_buffer() {
    let b = Bench::new();
    let pages = Pages::new(1);
    let buffer = pages.wrap(&b.device, 0, 10).unwrap();
    assert_eq!(Arc::strong_count(&pages.map), 2);
    drop(buffer);
    assert_eq!(Arc::strong_count(&pages.map), 1);
}

#[test]
fn read_only_bytes_off_a_page_are_copied() {
    let b = Bench::new();
    let pages = Pages::new(1);
    let buffer = pages.wrap(&b.device, 3, 5).unwrap();
    assert_eq!(buffer.read::<u8>().unwrap(), [3, 4, 5, 6, 7]);
    assert!(!buffer.is_writable() && b.events("wrap").is_empty());
    static BYTES: [u8; 3] = [1, 2, 3];
    let constant = b.device.wrap_static(&BYTES).unwrap();
    assert_eq!(constant.read::<u8>().unwrap(), BYTES);
    // More than may be copied: refused before it is looked at.
    assert_invalid(
        pages.wrap(&b.device, 3, (64 << 20) + 1),
        &["wrap", "67108865", "16384"],
    );
}

#[test]
fn a_map_that_metal_refuses_is_an_error_with_numbers() {
    let b = Bench::new();
    b.log().refuse.push("wrap");
    assert_invalid(
        Pages::new(1).wrap(&b.device, 0, 10),
        &["wrap", "16384 bytes", "in place"],
    );
}

#[test]
fn a_map_longer_than_a_buffer_is_bound_by_segments() {
    let mut small = facts();
    small.max_buffer_len = 4 * PAGE;
    let mut b = Bench::with(small, |_| ());
    let pages = Pages::new(9);
    let all = pages.wrap(&b.device, 0, 9 * PAGE - 8).unwrap();
    assert_eq!(b.events("wrap").len(), 4, "segments 0..4, 2..6, 4..8, 6..9");
    let y = b.floats(4);
    let mut run = |view: &MlxBuffer| {
        let mut encoder = b.device.command_encoder().unwrap();
        let pipeline = b.registry.get_pipeline("copy", &b.device).unwrap();
        let args = [
            (0, KernelArg::Buffer(view)),
            (1, KernelArg::Buffer(&y)),
            (2, KernelArg::Bytes(&[0; 4])),
        ];
        let one = MTLSize::new(1, 1, 1);
        encoder.try_encode_with_args(pipeline, &args, one, one).unwrap();
        encoder.commit_and_wait()?;
        Ok(b.log.lock().unwrap().committed.last().unwrap().1[1].clone())
    };
    let view = |offset: usize, n: usize| all.view(offset, DType::F32, vec![n]).unwrap();
    assert_eq!(run(&view(8, 4)), Ok(Call::Buffer(0, 8, 0)));
    assert_eq!(run(&view(2 * PAGE - 4, 4)), Ok(Call::Buffer(0, 2 * PAGE - 4, 0)));
    assert_eq!(run(&view(5 * PAGE, 4)), Ok(Call::Buffer(2, PAGE, 0)));
    assert_eq!(
        run(&view(9 * PAGE - 24, 4)),
        Ok(Call::Buffer(3, 3 * PAGE - 24, 0))
    );
    assert_invalid(
        run(&view(PAGE, PAGE)),
        &["copy", "argument 0", "65536 bytes from byte 16384", "32768"],
    );
}

#[test]
fn weights_are_resident_up_to_the_share_asked_for() {
    let mut small = facts();
    small.recommended_working_set = 9 * PAGE;
    let b = Bench::with(small.clone(), |_| ());
    let pages = Pages::new(8);
    let _scratch = b.floats(100);
    assert!(
        b.events("resident").is_empty(),
        "what comes and goes is not put into the set"
    );
    let first = pages.wrap(&b.device, 0, 3 * PAGE).unwrap();
    let second = pages.wrap(&b.device, 3 * PAGE, 2 * PAGE).unwrap();
    let third = pages.wrap(&b.device, 5 * PAGE, 100).unwrap();
    assert_eq!(
        b.events("resident"),
        ["resident 1", "resident 3"],
        "the second is beyond half"
    );
    drop((first, second, third));
    assert_eq!(b.events("not resident"), ["not resident 1", "not resident 3"]);

    let wired = Bench::with(small.clone(), |c| c.metal.wired = true);
    let _first = pages.wrap(&wired.device, 0, PAGE).unwrap();
    assert_eq!(wired.events("resident"), ["resident 0 wired"]);

    for (percent, has_sets) in [(0, true), (50, false)] {
        small.residency_sets = has_sets;
        let none = Bench::with(small.clone(), |c| c.metal.resident_percent = percent);
        let _first = pages.wrap(&none.device, 0, PAGE).unwrap();
        assert!(none.events("resident").is_empty());
    }
    assert_invalid(
        Bench::open(small, |c| c.metal.resident_percent = 76).map(|_| ()),
        &["resident_percent is 76", "75"],
    );
}

#[test]
fn memory_of_other_devices_is_refused() {
    let mut b = Bench::new();
    let cpu = MlxDevice::open(crate::DeviceKind::Cpu).unwrap();
    let (x, y) = (cpu.alloc_tensor(DType::F32, &[4]).unwrap(), b.floats(4));
    let mut encoder = b.device.command_encoder().unwrap();
    let pipeline = b.registry.get_pipeline("copy", &b.device).unwrap();
    let args = [
        (0, KernelArg::Buffer(&x)),
        (1, KernelArg::Buffer(&y)),
        (2, KernelArg::Bytes(&[0; 4])),
    ];
    let one = MTLSize::new(1, 1, 1);
    assert_invalid(
        encoder.try_encode_with_args(pipeline, &args, one, one),
        &["copy", "cpu", "metal"],
    );
}
