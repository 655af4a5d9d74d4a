//! What a block is to code that reads it.
//!
//! Values are `code * scale + bias`, the product rounded to f32 before the sum, as in the reference of the `gguf` package.
//! The Metal text of the same formats is `kernel/headers/ggml.h`.

/// Elements whose codes are unpacked at a time.
pub(crate) const RUN: usize = 32;

/// What a block's bytes mean.
pub(crate) trait Block: 'static {
    /// Elements of a block: a multiple of `RUN`.
    const ELEMENTS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Elements that share a scale: 16 or 32.
    const SPAN: usize = RUN;
    /// Whether values have a bias.
    const HAS_BIAS: bool = false;
    /// Where codes are places in a table, the table.
    const TABLE: Option<&'static [i8; 16]> = None;
    /// The scale and the bias of each span of a block; of formats without a bias `biases` stay as they are.
    fn scales(block: &[u8], scales: &mut [f32], biases: &mut [f32]);
    /// The codes of run `run` of a block: places in `TABLE`, or signed numbers as bytes.
    fn codes(block: &[u8], run: usize) -> [u8; RUN];
}

/// Spans of a block, at most.
pub(crate) const MAX_SPANS: usize = 16;

/// The values of one block.
pub(crate) fn dequantize_block<B: Block>(block: &[u8], out: &mut [f32]) {
    let (mut scales, mut biases) = ([0.0; MAX_SPANS], [0.0; MAX_SPANS]);
    B::scales(block, &mut scales, &mut biases);
    for (run, out) in out.chunks_exact_mut(RUN).enumerate() {
        for (i, (code, value)) in B::codes(block, run).into_iter().zip(out).enumerate() {
            let number = match B::TABLE {
                Some(table) => table[usize::from(code & 15)],
                None => code as i8,
            };
            let span = (run * RUN + i) / B::SPAN;
            *value = f32::from(number) * scales[span];
            if B::HAS_BIAS {
                *value += biases[span];
            }
        }
    }
}

/// The f16 at `at`, by shifts and one product, so that it costs no branch and no call.
#[inline(always)]
pub(super) fn f16_at(block: &[u8], at: usize) -> f32 {
    let bits = u32::from(u16::from_le_bytes([block[at], block[at + 1]]));
    let magnitude = f32::from_bits((bits & 0x7FFF) << 13) * f32::from_bits(0x7780_0000); // 2^112: the exponents' biases
    let special = if bits & 0x7C00 == 0x7C00 { 0x7F80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// Low halves of 16 bytes, then the high ones: how all formats of 4 bits in 16 bytes order a run.
#[inline(always)]
pub(super) fn nibbles(bytes: &[u8]) -> [u8; RUN] {
    let mut codes = [0; RUN];
    for i in 0..RUN / 2 {
        codes[i] = bytes[i] & 15;
        codes[i + RUN / 2] = bytes[i] >> 4;
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_read() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (
                f16_at(&bits.to_le_bytes(), 0),
                half::f16::from_bits(bits).to_f32(),
            );
            assert!(
                ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                "{bits:#x}"
            );
        }
    }
}
