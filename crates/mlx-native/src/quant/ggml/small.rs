//! Blocks of 32 elements.

use super::block::{Block, RUN, f16_at, nibbles};
use super::{IQ4_VALUES, MXFP4_DOUBLED};

/// `[d f16][16 bytes of nibbles]`: `d * (code - 8)`.
pub(crate) struct Q4_0;

impl Block for Q4_0 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _biases: &mut [f32]) {
        scales[0] = f16_at(block, 0);
    }

    #[inline(always)]
    fn codes(block: &[u8], _run: usize) -> [u8; RUN] {
        nibbles(&block[2..18]).map(|code| code.wrapping_sub(8))
    }
}

/// `[d f16][m f16][16 bytes of nibbles]`: `d * code + m`.
pub(crate) struct Q4_1;

impl Block for Q4_1 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 20;
    const HAS_BIAS: bool = true;

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], biases: &mut [f32]) {
        scales[0] = f16_at(block, 0);
        biases[0] = f16_at(block, 2);
    }

    #[inline(always)]
    fn codes(block: &[u8], _run: usize) -> [u8; RUN] {
        nibbles(&block[4..20])
    }
}

/// Codes of 5 bits: four bytes with the fifth bits, then 16 of nibbles.
#[inline(always)]
fn five_bits(high: &[u8], low: &[u8]) -> [u8; RUN] {
    let mut codes = nibbles(low);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= (high[i / 8] >> (i % 8) & 1) << 4;
    }
    codes
}

/// `[d f16][4 bytes of fifth bits][16 bytes of nibbles]`: `d * (code - 16)`.
pub(crate) struct Q5_0;

impl Block for Q5_0 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 22;

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _biases: &mut [f32]) {
        scales[0] = f16_at(block, 0);
    }

    #[inline(always)]
    fn codes(block: &[u8], _run: usize) -> [u8; RUN] {
        five_bits(&block[2..6], &block[6..22]).map(|code| code.wrapping_sub(16))
    }
}

/// `[d f16][m f16][4 bytes of fifth bits][16 bytes of nibbles]`: `d * code + m`.
pub(crate) struct Q5_1;

impl Block for Q5_1 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 24;
    const HAS_BIAS: bool = true;

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], biases: &mut [f32]) {
        scales[0] = f16_at(block, 0);
        biases[0] = f16_at(block, 2);
    }

    #[inline(always)]
    fn codes(block: &[u8], _run: usize) -> [u8; RUN] {
        five_bits(&block[4..8], &block[8..24])
    }
}

/// `[d f16][32 signed bytes]`: `d * code`.
pub(crate) struct Q8_0;

impl Block for Q8_0 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 34;

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _biases: &mut [f32]) {
        scales[0] = f16_at(block, 0);
    }

    #[inline(always)]
    fn codes(block: &[u8], _run: usize) -> [u8; RUN] {
        let mut codes = [0; RUN];
        codes.copy_from_slice(&block[2..34]);
        codes
    }
}

/// `[d f16][16 bytes of nibbles]`: `d * table[code]`.
pub(crate) struct Iq4Nl;

impl Block for Iq4Nl {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 18;
    const TABLE: Option<&'static [i8; 16]> = Some(&IQ4_VALUES);

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _biases: &mut [f32]) {
        scales[0] = f16_at(block, 0);
    }

    #[inline(always)]
    fn codes(block: &[u8], _run: usize) -> [u8; RUN] {
        nibbles(&block[2..18])
    }
}

/// `[e8m0][16 bytes of nibbles]`: `2^(e - 128) * table[code]`, the table being doubled.
pub(crate) struct Mxfp4;

impl Block for Mxfp4 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 17;
    const TABLE: Option<&'static [i8; 16]> = Some(&MXFP4_DOUBLED);

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _biases: &mut [f32]) {
        let e = u32::from(block[0]);
        // The two least are subnormal.
        scales[0] = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 });
    }

    #[inline(always)]
    fn codes(block: &[u8], _run: usize) -> [u8; RUN] {
        nibbles(&block[1..17])
    }
}
