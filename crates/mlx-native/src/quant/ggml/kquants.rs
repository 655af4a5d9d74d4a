//! Blocks of 256 elements.

use super::IQ4_VALUES;
use super::block::{Block, RUN, f16_at, nibbles};

/// Bits `shift..` of 32 bytes.
#[inline(always)]
fn shifted(bytes: &[u8], shift: usize, mask: u8) -> [u8; RUN] {
    let mut codes = [0; RUN];
    for i in 0..RUN {
        codes[i] = bytes[i] >> shift & mask;
    }
    codes
}

/// Adds bit `shift` (and more, by `mask`) of 32 bytes to codes, above their lowest `above` bits.
#[inline(always)]
fn with_high(mut codes: [u8; RUN], bytes: &[u8], shift: usize, mask: u8, above: usize) -> [u8; RUN] {
    for i in 0..RUN {
        codes[i] |= (bytes[i] >> shift & mask) << above;
    }
    codes
}

/// Two bits of each code: four runs share 32 bytes.
#[inline(always)]
fn two_bits(bytes: &[u8], run: usize) -> [u8; RUN] {
    shifted(&bytes[run / 4 * RUN..][..RUN], run % 4 * 2, 3)
}

/// Four bits of each code: two runs share 32 bytes.
#[inline(always)]
fn four_bits(bytes: &[u8], run: usize) -> [u8; RUN] {
    shifted(&bytes[run / 2 * RUN..][..RUN], run % 2 * 4, 15)
}

/// `[16 scales and least values of 4 bits][64 bytes of codes][d f16][dmin f16]`: `d * scale * code - dmin * least`.
pub(crate) struct Q2K;

impl Block for Q2K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 84;
    const SPAN: usize = 16;
    const HAS_BIAS: bool = true;

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], biases: &mut [f32]) {
        let (d, least) = (f16_at(block, 80), f16_at(block, 82));
        for i in 0..16 {
            scales[i] = d * f32::from(block[i] & 15);
            biases[i] = -(least * f32::from(block[i] >> 4));
        }
    }

    #[inline(always)]
    fn codes(block: &[u8], run: usize) -> [u8; RUN] {
        two_bits(&block[16..80], run)
    }
}

/// `[32 bytes of third bits][64 bytes of codes][12 bytes of scales][d f16]`: `d * (scale - 32) * (code - 4)`.
pub(crate) struct Q3K;

impl Block for Q3K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 110;
    const SPAN: usize = 16;

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _biases: &mut [f32]) {
        let d = f16_at(block, 108);
        let packed = &block[96..108];
        for i in 0..16 {
            let low = packed[i % 8] >> (i / 8 * 4) & 15;
            let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
            scales[i] = d * (f32::from(low | high << 4) - 32.0);
        }
    }

    #[inline(always)]
    fn codes(block: &[u8], run: usize) -> [u8; RUN] {
        with_high(two_bits(&block[32..96], run), &block[..32], run, 1, 2).map(|code| code.wrapping_sub(4))
    }
}

/// Scale and least value `i` of eight, of 6 bits each in 12 bytes.
#[inline(always)]
fn scale_and_least(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, least) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        let both = packed[i + 4];
        (
            both & 15 | packed[i - 4] >> 2 & 0x30,
            both >> 4 | packed[i] >> 2 & 0x30,
        )
    };
    (f32::from(scale), f32::from(least))
}

/// Scales and biases of the formats of 4 and 5 bits: `[d f16][dmin f16][12 bytes]`.
#[inline(always)]
fn scales_and_leasts(block: &[u8], scales: &mut [f32], biases: &mut [f32]) {
    let (d, least) = (f16_at(block, 0), f16_at(block, 2));
    for i in 0..8 {
        let (scale, least_code) = scale_and_least(&block[4..16], i);
        scales[i] = d * scale;
        biases[i] = -(least * least_code);
    }
}

/// `[d f16][dmin f16][12 bytes of scales and least values][128 bytes of codes]`: `d * scale * code - dmin * least`.
pub(crate) struct Q4K;

impl Block for Q4K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 144;
    const HAS_BIAS: bool = true;

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], biases: &mut [f32]) {
        scales_and_leasts(block, scales, biases);
    }

    #[inline(always)]
    fn codes(block: &[u8], run: usize) -> [u8; RUN] {
        four_bits(&block[16..144], run)
    }
}

/// `Q4K` with 32 bytes of fifth bits before the codes.
pub(crate) struct Q5K;

impl Block for Q5K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 176;
    const HAS_BIAS: bool = true;

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], biases: &mut [f32]) {
        scales_and_leasts(block, scales, biases);
    }

    #[inline(always)]
    fn codes(block: &[u8], run: usize) -> [u8; RUN] {
        with_high(four_bits(&block[48..176], run), &block[16..48], run, 1, 4)
    }
}

/// `[128 bytes of low codes][64 bytes of high codes][16 signed scales][d f16]`: `d * scale * (code - 32)`.
pub(crate) struct Q6K;

impl Block for Q6K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 210;
    const SPAN: usize = 16;

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _biases: &mut [f32]) {
        let d = f16_at(block, 208);
        for i in 0..16 {
            scales[i] = d * f32::from(block[192 + i] as i8);
        }
    }

    #[inline(always)]
    fn codes(block: &[u8], run: usize) -> [u8; RUN] {
        // Of each half, two runs have the low halves of 64 bytes and two the high ones.
        let low = shifted(&block[run / 4 * 64 + run % 2 * RUN..][..RUN], run % 4 / 2 * 4, 15);
        with_high(low, &block[128 + run / 4 * RUN..][..RUN], run % 4 * 2, 3, 4)
            .map(|code| code.wrapping_sub(32))
    }
}

/// `[d f16][high bits of scales u16][4 bytes of low bits of scales][128 bytes of codes]`: `d * (scale - 32) * table[code]`.
pub(crate) struct Iq4Xs;

impl Block for Iq4Xs {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 136;
    const TABLE: Option<&'static [i8; 16]> = Some(&IQ4_VALUES);

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _biases: &mut [f32]) {
        let d = f16_at(block, 0);
        for i in 0..8 {
            let low = block[4 + i / 2] >> (i % 2 * 4) & 15;
            let high = block[2 + i / 4] >> (i % 4 * 2) & 3;
            scales[i] = d * (f32::from(low | high << 4) - 32.0);
        }
    }

    #[inline(always)]
    fn codes(block: &[u8], run: usize) -> [u8; RUN] {
        nibbles(&block[8 + run * RUN / 2..][..RUN / 2])
    }
}
