//! Rows of `x` as integers.

use super::RUN;
use crate::isa::IsaToken;
use crate::vector::Vectorised;

/// A run of integers: those at even places, then those at odd ones, as codes come. Of [`Layout::Bytes`] the memory is that of
/// bytes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Run(pub [i16; RUN]);

/// How the integers of a span stand in its runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In 16 bits, run by run.
    Words,
    /// An integer is `256 * high + low`, both of 8 bits and with a sign. Two runs together have the low bytes of even places, those
    /// of odd places, then the high bytes in the same way; so has a run by itself where a span is one.
    Bytes,
}

/// Rows of `x`: integers, and for each span the power of two that they count, the sum of its values, and what all codes being
/// the middle one would add for what rounding took away. Behind the last span
/// there are zeros up to a multiple of eight.
pub(in crate::ops::linear::cpu) struct Activations {
    /// Values of a span.
    span: usize,
    /// Spans of a row.
    spans: usize,
    /// Runs from one row to the next.
    pitch: usize,
    runs: Vec<Run>,
    powers: Vec<f32>,
    sums: Vec<f32>,
    rests: Vec<f32>,
}

/// Spans whose sums make a vector.
pub(super) const EIGHT: usize = 8;

impl Activations {
    /// Takes `rows` rows of `k` values, `row(i, values)` being asked for the values of row `i`, all finite.
    pub(super) fn new(
        isa: IsaToken,
        rows: usize,
        k: usize,
        span: usize,
        middle: f32,
        layout: Layout,
        mut row: impl FnMut(usize, &mut [f32]),
    ) -> Self {
        assert!(span.is_multiple_of(RUN) && k.is_multiple_of(span) && k > 0);
        let spans = k / span;
        let padded = spans.next_multiple_of(EIGHT);
        // An odd number of cache lines, so that the rows do not compete for the same cache sets.
        let pitch = (padded * span / RUN) | 1;
        let mut all = Activations {
            span,
            spans,
            pitch,
            runs: vec![Run([0; RUN]); rows * pitch],
            powers: vec![0.0; rows * padded],
            sums: vec![0.0; rows * padded],
            rests: vec![0.0; rows * padded],
        };
        let mut values = vec![0.0; k];
        for i in 0..rows {
            row(i, &mut values);
            isa.run(Take {
                values: &values,
                span,
                middle,
                layout,
                runs: &mut all.runs[i * pitch..],
                powers: &mut all.powers[i * padded..],
                sums: &mut all.sums[i * padded..],
                rests: &mut all.rests[i * padded..],
            });
        }
        all
    }

    #[inline(always)]
    pub(super) fn rows(&self) -> usize {
        self.runs.len() / self.pitch
    }

    #[inline(always)]
    pub(super) fn span(&self) -> usize {
        self.span
    }

    /// Spans of a row, without those that fill it up.
    #[inline(always)]
    pub(super) fn spans(&self) -> usize {
        self.spans
    }

    #[inline(always)]
    pub(super) fn padded(&self) -> usize {
        self.spans.next_multiple_of(EIGHT)
    }

    /// The runs of a row.
    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> &[Run] {
        &self.runs[i * self.pitch..(i + 1) * self.pitch]
    }

    /// The powers of a row's spans.
    #[inline(always)]
    pub(super) fn powers(&self, i: usize) -> &[f32] {
        &self.powers[i * self.padded()..(i + 1) * self.padded()]
    }

    /// The sums of a row's spans.
    #[inline(always)]
    pub(super) fn sums(&self, i: usize) -> &[f32] {
        &self.sums[i * self.padded()..(i + 1) * self.padded()]
    }

    /// What stands for the rests of a row's spans.
    #[inline(always)]
    pub(super) fn rests(&self, i: usize) -> &[f32] {
        &self.rests[i * self.padded()..(i + 1) * self.padded()]
    }
}

/// One row.
struct Take<'a> {
    values: &'a [f32],
    span: usize,
    middle: f32,
    layout: Layout,
    runs: &'a mut [Run],
    powers: &'a mut [f32],
    sums: &'a mut [f32],
    rests: &'a mut [f32],
}

/// 1.5·2²³: a value below 2²² added to it is rounded to an integer, which its low bits then hold.
const ROUNDER: f32 = 12_582_912.0;

/// The power of two that a span's integers count, and its inverse, for values of which none is greater than `most`: the
/// integers are then below 2¹⁵. Both are normal numbers.
#[inline(always)]
pub(super) fn powers(most: f32) -> (f32, f32) {
    // 2^(exponent - 14), where the exponents are 127 too great as f32 has them.
    let exponent = (most.to_bits() >> 23).max(15);
    (f32::from_bits((exponent - 14) << 23), f32::from_bits((268 - exponent) << 23))
}

/// Parts of a unit in which what rounding took away is counted.
const PARTS: f32 = 32768.0;

/// The greatest integer: the greatest whose halves are bytes with a sign. The greatest of bf16 is 32,640.
const MOST: f32 = 32_639.0;

/// The integer nearest to `value`, of which `inverse` is the unit's, and what rounding or [`MOST`] took away, in parts of a unit.
#[inline(always)]
pub(super) fn integer(value: f32, inverse: f32) -> (i16, i32) {
    let scaled = value * inverse;
    let cut = if scaled > MOST { MOST } else { scaled };
    let cut = if cut < -MOST { -MOST } else { cut };
    let shifted = cut + ROUNDER;
    let rest = (scaled - (shifted - ROUNDER)) * PARTS + ROUNDER;
    (shifted.to_bits() as i16, rest.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32)
}

/// Makes one or two runs of [`Layout::Words`] such of [`Layout::Bytes`].
#[inline(always)]
fn to_bytes(runs: &mut [Run]) {
    const HALF: usize = RUN / 2;
    // Low bytes of even places, of odd ones, high bytes of even places, of odd ones; of each, those of both runs.
    let mut bytes = [[0u8; 2 * HALF]; 4];
    for (run, words) in runs.iter().enumerate() {
        for i in 0..RUN {
            let [low, _] = words.0[i].to_le_bytes();
            let high = (i32::from(words.0[i]) - i32::from(low as i8)) >> 8;
            bytes[i / HALF][run * HALF + i % HALF] = low;
            bytes[2 + i / HALF][run * HALF + i % HALF] = high as u8;
        }
    }
    let each = runs.len() * HALF;
    for at in 0..runs.len() * RUN {
        let byte = |at: usize| bytes[at / each][at % each];
        runs[at / RUN].0[at % RUN] = i16::from_le_bytes([byte(2 * at), byte(2 * at + 1)]);
    }
}

impl Vectorised for Take<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let runs = self.span / RUN;
        for (s, values) in self.values.chunks_exact(self.span).enumerate() {
            let mut most = 0u32;
            for v in values {
                most = most.max(v.to_bits() & 0x7FFF_FFFF);
            }
            let (power, inverse) = powers(f32::from_bits(most));
            let (mut sum, mut rest) = (0i32, 0i32);
            for (run, values) in self.runs[s * runs..(s + 1) * runs].iter_mut().zip(values.chunks_exact(RUN)) {
                let mut integers = [0i16; RUN];
                for i in 0..RUN {
                    let (integer, part) = integer(values[i], inverse);
                    integers[i] = integer;
                    rest += part;
                }
                for i in 0..RUN {
                    sum += i32::from(integers[i]);
                }
                for i in 0..RUN / 2 {
                    run.0[i] = integers[2 * i];
                    run.0[RUN / 2 + i] = integers[2 * i + 1];
                }
            }
            if self.layout == Layout::Bytes {
                self.runs[s * runs..(s + 1) * runs].chunks_mut(2).for_each(to_bytes);
            }
            self.powers[s] = power;
            // At most 128 · 2¹⁵ of either: exact.
            let rest = rest as f32 * (1.0 / PARTS);
            self.sums[s] = (sum as f32 + rest) * power;
            self.rests[s] = self.middle * rest;
        }
    }
}
