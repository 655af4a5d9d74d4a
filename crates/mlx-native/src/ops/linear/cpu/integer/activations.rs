//! Rows of `x` as integers.

use super::RUN;
use crate::isa::IsaToken;
use crate::vector::Vectorised;

/// A run of integers: those at even places, then those at odd ones, as codes come.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Run(pub [i16; RUN]);

/// Rows of `x`: integers, and for each span the power of two that they count and the sum of its values. Behind the last span
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
}

/// Spans whose sums make a vector.
pub(super) const EIGHT: usize = 8;

impl Activations {
    /// Takes `rows` rows of `k` values, `row(i, values)` being asked for the values of row `i`, all finite.
    pub(in crate::ops::linear::cpu) fn new(
        isa: IsaToken,
        rows: usize,
        k: usize,
        span: usize,
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
        };
        let mut values = vec![0.0; k];
        for i in 0..rows {
            row(i, &mut values);
            isa.run(Take {
                values: &values,
                span,
                runs: &mut all.runs[i * pitch..],
                powers: &mut all.powers[i * padded..],
                sums: &mut all.sums[i * padded..],
            });
        }
        all
    }

    pub(super) fn rows(&self) -> usize {
        self.runs.len() / self.pitch
    }

    pub(super) fn span(&self) -> usize {
        self.span
    }

    /// Spans of a row, without those that fill it up.
    pub(super) fn spans(&self) -> usize {
        self.spans
    }

    pub(super) fn padded(&self) -> usize {
        self.spans.next_multiple_of(EIGHT)
    }

    /// The runs of a row.
    pub(super) fn row(&self, i: usize) -> &[Run] {
        &self.runs[i * self.pitch..(i + 1) * self.pitch]
    }

    /// The powers of a row's spans.
    pub(super) fn powers(&self, i: usize) -> &[f32] {
        &self.powers[i * self.padded()..(i + 1) * self.padded()]
    }

    /// The sums of a row's spans.
    pub(super) fn sums(&self, i: usize) -> &[f32] {
        &self.sums[i * self.padded()..(i + 1) * self.padded()]
    }
}

/// One row.
struct Take<'a> {
    values: &'a [f32],
    span: usize,
    runs: &'a mut [Run],
    powers: &'a mut [f32],
    sums: &'a mut [f32],
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

/// The integer nearest to `value`, of which `inverse` is the unit's; never beyond 16 bits: a value within half a unit of 2¹⁵
/// is cut.
#[inline(always)]
pub(super) fn integer(value: f32, inverse: f32) -> i16 {
    let scaled = value * inverse;
    let scaled = if scaled > 32767.0 { 32767.0 } else { scaled };
    let scaled = if scaled < -32767.0 { -32767.0 } else { scaled };
    (scaled + ROUNDER).to_bits() as i16
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
            let mut sum = 0i32;
            for (run, values) in self.runs[s * runs..(s + 1) * runs].iter_mut().zip(values.chunks_exact(RUN)) {
                let mut integers = [0i16; RUN];
                for i in 0..RUN {
                    integers[i] = integer(values[i], inverse);
                }
                for i in 0..RUN {
                    sum += i32::from(integers[i]);
                }
                for i in 0..RUN / 2 {
                    run.0[i] = integers[2 * i];
                    run.0[RUN / 2 + i] = integers[2 * i + 1];
                }
            }
            self.powers[s] = power;
            // At most 128 · 2¹⁵: exact.
            self.sums[s] = sum as f32 * power;
        }
    }
}
