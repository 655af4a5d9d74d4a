//! Bodies of `rope` for the CPU. Positions are shared among the parts; sines and cosines are computed once a position.

use super::{AT_POSITIONS, MAX_DIMS, RECIPROCAL, RopeParams};
use crate::backend::cpu::math::{SIN_COS_LIMIT, sin_cos};
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, Output, part_range};

const MAX_PAIRS: usize = MAX_DIMS as usize / 2;
/// Elements below which a position is not worth another thread.
const GRANULE: usize = 8192;

pub(super) fn rope<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: RopeParams = launch.params(3);
    let (x, output) = (launch.output::<T>(0), launch.output::<T>(2));
    let (heads, dim, dims) = (p.n_heads as usize, p.head_dim as usize, p.dims as usize);
    let mut frequencies = [0.0; MAX_PAIRS];
    let frequencies = &mut frequencies[..dims / 2];
    // By bytes: parameters among the inline bytes need not be aligned.
    let bytes = launch.input::<u8>(1).as_chunks::<4>().0;
    for (frequency, bytes) in frequencies.iter_mut().zip(bytes) {
        let given = f32::from_ne_bytes(*bytes);
        *frequency = if launch.flag(RECIPROCAL) { 1.0 / given } else { given };
    }
    let at_positions = launch.flag(AT_POSITIONS);
    let positions = if at_positions { launch.input::<u32>(4) } else { &[] };
    let (mut cos, mut sin, mut values) = ([0.0; MAX_PAIRS], [0.0; MAX_PAIRS], [0.0; MAX_DIMS as usize]);
    let (cos, sin) = (&mut cos[..dims / 2], &mut sin[..dims / 2]);
    let granule = (GRANULE / (heads * dim).max(1)).max(1);
    for t in part_range(p.seq_len as usize, granule, part, parts) {
        let position = if at_positions { positions[t] } else { p.offset + t as u32 } as f32 * p.scale;
        launch.isa().run(Table { position, frequencies, cos, sin });
        for head in 0..heads {
            let from = head * p.x_head_stride as usize + t * p.x_seq_stride as usize;
            let to = head * p.out_head_stride as usize + t * p.out_seq_stride as usize;
            let values = &mut values[..dims];
            // SAFETY: this position's elements are only this part's, in `output` and in `x`, which may be `output`.
            unsafe {
                x.load(from, values);
                launch.isa().run(Rotate { values, cos, sin, traditional: p.traditional != 0 });
                output.store(to, values);
                copy_rest(x, from + dims, output, to + dims, dim - dims);
            }
        }
    }
}

/// Copies `len` elements.
///
/// # Safety
/// Only the caller may use them.
unsafe fn copy_rest<T: Element>(x: Output<'_, T>, from: usize, output: Output<'_, T>, to: usize, len: usize) {
    let mut values = [0.0; 64];
    for done in (0..len).step_by(64) {
        let values = &mut values[..64.min(len - done)];
        // SAFETY: by the caller's word.
        unsafe {
            x.load(from + done, values);
            output.store(to + done, values);
        }
    }
}

/// Sines and cosines of `position · frequency`, the product in f32.
struct Table<'a> {
    position: f32,
    frequencies: &'a [f32],
    cos: &'a mut [f32],
    sin: &'a mut [f32],
}

impl Vectorised for Table<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let mut is_reducible = true;
        for ((cos, sin), frequency) in self.cos.iter_mut().zip(&mut *self.sin).zip(self.frequencies) {
            let angle = self.position * frequency;
            (*sin, *cos) = sin_cos(angle);
            is_reducible &= angle.abs() <= SIN_COS_LIMIT;
        }
        if !is_reducible {
            // Huge angles, infinity, NaN: the standard library's reduction.
            for ((cos, sin), frequency) in self.cos.iter_mut().zip(self.sin).zip(self.frequencies) {
                let (s, c) = f64::from(self.position * frequency).sin_cos();
                (*sin, *cos) = (s as f32, c as f32);
            }
        }
    }
}

/// Rotates each pair of `values`.
struct Rotate<'a> {
    values: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    traditional: bool,
}

impl Vectorised for Rotate<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let angles = self.cos.iter().zip(self.sin);
        if self.traditional {
            for ([a, b], (cos, sin)) in self.values.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        } else {
            let (first, second) = self.values.split_at_mut(self.cos.len());
            for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}
