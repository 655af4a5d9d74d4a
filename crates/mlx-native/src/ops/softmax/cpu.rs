//! Body of `softmax` for the CPU: rows are claimed one by one, and walked three times: maximum, sum, quotients.

use super::SoftmaxParams;
use crate::backend::cpu::{Element, Launch, Output};

/// Elements that are widened to f32 at a time.
const CHUNK: usize = 512;
/// Running values of a reduction, so that vectors can carry them; also what keeps its order the same everywhere.
const LANES: usize = 16;
/// Elements in which a part claims rows, at least.
const CLAIM: usize = 4096;

pub(super) fn softmax<T: Element>(launch: &Launch<'_>, _part: usize, _parts: usize) {
    let p: SoftmaxParams = launch.params(2);
    let (x, output) = (launch.output::<T>(0), launch.output::<T>(1));
    let (rows, cols) = (p.rows as usize, p.cols as usize);
    while let Some(claim) = launch.next_chunk(rows, (CLAIM / cols.max(1)).max(1)) {
        for row in claim {
            // SAFETY: this part claimed the row: nobody else writes it in `output`, which may be `x`.
            unsafe { softmax_row(&x, &output, row * cols, cols) };
        }
    }
}

/// # Safety
/// Nobody else may touch these elements of `output`, nor write those of `x`.
unsafe fn softmax_row<T: Element>(x: &Output<'_, T>, output: &Output<'_, T>, start: usize, cols: usize) {
    let mut buffer = [0.0f32; CHUNK];
    let chunks = || (0..cols).step_by(CHUNK).map(|at| (start + at, CHUNK.min(cols - at)));
    let mut largest = [f32::NEG_INFINITY; LANES];
    for (at, len) in chunks() {
        // SAFETY: the caller's word.
        unsafe { x.load(at, &mut buffer[..len]) };
        buffer[len..].fill(f32::NEG_INFINITY);
        for values in buffer.as_chunks::<LANES>().0 {
            for (l, v) in largest.iter_mut().zip(values) {
                *l = if *v > *l { *v } else { *l };
            }
        }
    }
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    // NaN is no maximum; exp makes it one of the sum. And -infinity less itself would be NaN.
    let shift = if largest == f32::NEG_INFINITY { 0.0 } else { largest };

    let mut sums = [0.0f32; LANES];
    for (at, len) in chunks() {
        // SAFETY: the caller's word.
        unsafe { x.load(at, &mut buffer[..len]) };
        buffer[len..].fill(f32::NEG_INFINITY);
        for values in buffer.as_chunks::<LANES>().0 {
            for (s, v) in sums.iter_mut().zip(values) {
                *s += exp(*v - shift);
            }
        }
    }
    let sum: f32 = sums.into_iter().sum();
    let factor = if sum == 0.0 { 0.0 } else { 1.0 / sum };
    for (at, len) in chunks() {
        // SAFETY: the caller's word.
        unsafe {
            x.load(at, &mut buffer[..len]);
            for v in &mut buffer {
                *v = exp(*v - shift) * factor;
            }
            output.store(at, &buffer[..len]);
        }
    }
}

/// `e^x` for `x` up to 0, within two units in the last place; what would be subnormal is zero. Without branches and
/// calls, so that the compiler can make vectors of it. `math::exp` gives subnormals their value; processors take thrice
/// the time over products that become one, and masked rows are full of them.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.336;
    /// Adding it rounds to an integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with few enough bits that its multiples are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    // The Taylor series to r^7: |r| is at most ln(2) / 2, and 0.3466^8 / 8! is 5e-9.
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if x < LOWEST { 0.0 } else { p * power }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_near_and_keeps_the_edges() {
        for i in 0..200_000 {
            let x = -(i as f32) * 4.3e-4;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) - want).abs() <= want * 2.4e-7, "{x}: {} {want}", exp(x));
        }
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY), exp(-100.0)), (1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan() && exp(f32::INFINITY - f32::INFINITY).is_nan());
    }
}
