//! What the cases of operators do not see: each coding on each instruction set against its definition.

use super::*;
use crate::backend::cpu::IsaToken;
use crate::quant::{pack_codes, unpack_codes};
use crate::testing::Rng;

/// The weights of one row on every instruction set.
fn on_every_isa<C: Coding>(row: &[u8], runs: usize, scale: f32, bias: f32) -> Vec<f32> {
    let mut all: Vec<Vec<f32>> = IsaToken::available()
        .into_iter()
        .map(|isa| {
            let mut out = vec![0.0; runs * RUN];
            let scales = vec![scale; 2 * runs];
            // SAFETY: the machine has the level; the row has `runs` runs.
            unsafe {
                unpack::<C>(
                    isa,
                    row.as_ptr(),
                    0,
                    C::SPAN,
                    &scales,
                    &vec![bias; 2 * runs],
                    &mut out,
                )
            };
            out
        })
        .collect();
    let first = all.remove(0);
    for other in all {
        for (a, b) in first.iter().zip(other) {
            assert!(a == &b || a.is_nan() && b.is_nan(), "{a} {b}");
        }
    }
    first
}

fn check_width<C: Coding>(bits: u32) {
    let mut rng = Rng::new(u64::from(bits));
    let codes: Vec<u8> = (0..96).map(|_| (rng.bits() & ((1 << bits) - 1)) as u8).collect();
    let words = pack_codes(&codes, bits).unwrap();
    assert_eq!(unpack_codes(&words, bits).unwrap(), codes);
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    // A scale and a bias for which every weight is exact.
    let weights = on_every_isa::<C>(&bytes, 3, 0.5, -3.0);
    let wanted: Vec<f32> = codes.iter().map(|c| f32::from(*c) * 0.5 - 3.0).collect();
    assert_eq!(weights, wanted, "{bits} bits");
}

#[test]
fn codes_of_every_width_are_read() {
    check_width::<Unsigned<1>>(1);
    check_width::<Unsigned<2>>(2);
    check_width::<Unsigned<3>>(3);
    check_width::<Four>(4);
    check_width::<Unsigned<4>>(4);
    check_width::<Unsigned<5>>(5);
    check_width::<Unsigned<6>>(6);
    check_width::<Unsigned<8>>(8);
}

#[test]
fn small_floats_have_the_values_of_their_formats() {
    let bytes: Vec<u8> = (0..16).map(|i| (2 * i % 16) | ((2 * i + 1) % 16) << 4).collect();
    let doubled = on_every_isa::<Float4<32>>(&bytes, 1, 0.5, 0.0);
    let e2m1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    for (i, value) in doubled.iter().enumerate() {
        let sign = if i % 16 >= 8 { -1.0 } else { 1.0 };
        assert_eq!(*value, sign * e2m1[i % 8], "{i}");
    }
    let bytes: Vec<u8> = (0..=255).collect();
    let eights = on_every_isa::<Float8>(&bytes, 8, 1.0, 0.0);
    for (i, value) in eights.iter().enumerate() {
        let (sign, exponent, mantissa) = (i >> 7, i >> 3 & 15, (i & 7) as f64);
        let size = match exponent {
            0 => mantissa / 8.0 * 2f64.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent as i32 - 7),
        };
        let wanted = if i & 127 == 127 {
            f64::NAN
        } else {
            (1.0 - 2.0 * sign as f64) * size
        };
        assert!(
            f64::from(*value) == wanted || value.is_nan() && wanted.is_nan(),
            "{i}: {value} {wanted}"
        );
    }
    for i in 0..255u8 {
        assert_eq!(f64::from(power8(i)), 2f64.powi(i32::from(i) - 127), "{i}");
    }
    assert!(power8(255).is_infinite());
}
