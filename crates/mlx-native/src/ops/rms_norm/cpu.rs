//! Bodies of `rms_norm` for the CPU. Both kernels have the same one: rows are shared among the parts.

use super::{HAS_EPS_BUFFER, HAS_FACTOR, HAS_NORMED, HAS_WEIGHT, ROUNDS_ONCE, RmsNormParams};
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, Output, part_range};

/// Elements that are widened to f32 at a time.
const CHUNK: usize = 512;
/// Elements below which rows are not worth another thread.
const GRANULE: usize = 8192;
/// Independent sums of squares: as many as the widest vectors hold.
const LANES: usize = 16;

pub(super) fn rms_norm<T: Element, W: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: RmsNormParams = launch.params(3);
    let (x, output) = (launch.output::<T>(0), launch.output::<T>(2));
    let factors = Factors {
        // What is not given is as in the plain norm.
        weight: launch.flag_or(HAS_WEIGHT, true).then(|| launch.input::<W>(1)),
        factor: launch.flag(HAS_FACTOR).then(|| launch.output::<T>(5)),
        normed: launch.flag(HAS_NORMED).then(|| launch.output::<T>(6)),
        rounds_once: launch.flag(ROUNDS_ONCE),
    };
    let eps = if launch.flag(HAS_EPS_BUFFER) { launch.input::<f32>(4)[0] } else { p.eps };
    let dim = p.dim as usize;
    for row in part_range(p.rows as usize, (GRANULE / dim.max(1)).max(1), part, parts) {
        let start = row * dim;
        // SAFETY: this row is only this part's, in `output` and in `x` and the factor, which may be `output`.
        unsafe {
            let mean = sum_of_squares(launch, x, start, dim) / p.dim as f32;
            normalise(x, &factors, output, start, dim, 1.0 / (mean + eps).sqrt());
        }
    }
}

/// What a normalised row is multiplied by.
struct Factors<'a, T, W> {
    weight: Option<&'a [W]>,
    /// May be where the result goes.
    factor: Option<Output<'a, T>>,
    /// Where the row before the factor is kept.
    normed: Option<Output<'a, T>>,
    rounds_once: bool,
}

/// # Safety
/// Nobody may write these elements of `x` meanwhile.
unsafe fn sum_of_squares<T: Element>(launch: &Launch<'_>, x: Output<'_, T>, start: usize, dim: usize) -> f32 {
    let (mut values, mut sums) = ([0.0; CHUNK], [0.0; LANES]);
    for done in (0..dim).step_by(CHUNK) {
        let values = &mut values[..CHUNK.min(dim - done)];
        // SAFETY: by the caller's word.
        unsafe { x.load(start + done, values) };
        launch.isa().run(AddSquares { values, sums: &mut sums });
    }
    // By halves, as a tree.
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
    }
    sums[0]
}

/// # Safety
/// Only the caller may use these elements of `x`, of `output`, of `factors.factor` and of `factors.normed`.
unsafe fn normalise<T: Element, W: Element>(
    x: Output<'_, T>,
    factors: &Factors<'_, T, W>,
    output: Output<'_, T>,
    start: usize,
    dim: usize,
    inverse: f32,
) {
    let (mut values, mut by, mut last) = ([0.0; CHUNK], [0.0; CHUNK], [0.0; CHUNK]);
    for done in (0..dim).step_by(CHUNK) {
        let len = CHUNK.min(dim - done);
        let (values, by, last) = (&mut values[..len], &mut by[..len], &mut last[..len]);
        if let Some(factor) = factors.factor {
            // Before anything is written to what may be the same memory.
            // SAFETY: by the caller's word.
            unsafe { factor.load(start + done, last) };
        }
        // Every product is rounded first, unless only the last one shall be.
        // SAFETY: by the caller's word.
        let round = |values: &mut [f32]| unsafe {
            if !factors.rounds_once {
                output.store(start + done, values);
                output.load(start + done, values);
            }
        };
        // SAFETY: by the caller's word.
        unsafe { x.load(start + done, values) };
        values.iter_mut().for_each(|v| *v *= inverse);
        if let Some(weight) = factors.weight {
            round(values);
            W::widen(&weight[done..done + len], by);
            values.iter_mut().zip(&*by).for_each(|(v, w)| *v *= *w);
        }
        if let Some(normed) = factors.normed {
            // SAFETY: by the caller's word.
            unsafe { normed.store(start + done, values) };
        }
        if factors.factor.is_some() {
            round(values);
            values.iter_mut().zip(&*last).for_each(|(v, f)| *v *= *f);
        }
        // SAFETY: by the caller's word.
        unsafe { output.store(start + done, values) };
    }
}

struct AddSquares<'a> {
    values: &'a [f32],
    sums: &'a mut [f32; LANES],
}

impl Vectorised for AddSquares<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let mut sums = *self.sums;
        let (whole, rest) = self.values.as_chunks::<LANES>();
        for chunk in whole {
            for (sum, v) in sums.iter_mut().zip(chunk) {
                *sum += v * v;
            }
        }
        for (sum, v) in sums.iter_mut().zip(rest) {
            *sum += v * v;
        }
        *self.sums = sums;
    }
}
