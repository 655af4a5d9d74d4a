//! Body of `head_norm_rope` for the CPU: rows are shared among the parts.

use super::{
    HAS_FACTORS, HAS_NORM, HAS_POSITIONS, HAS_TABLES, HAS_THETA_BUFFER, HAS_WEIGHT, INTERLEAVED, KernelParams,
};
use crate::backend::cpu::math::{SIN_COS_LIMIT, sin_cos};
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements below which rows are not worth another thread.
const GRANULE: usize = 4096;
/// Independent sums of squares: as many as the widest vectors hold.
const LANES: usize = 16;

pub(super) fn head_norm_rope<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: KernelParams = launch.params(8);
    let (x, output) = (launch.output::<T>(0), launch.output::<T>(1));
    let (dim, heads, n_pairs) = (p.head_dim as usize, p.n_heads as usize, p.n_pairs as usize);
    let weight = launch.flag(HAS_WEIGHT).then(|| {
        let mut weight = vec![0.0; dim];
        T::widen(&launch.input::<T>(2)[..dim], &mut weight);
        weight
    });
    let positions = if launch.flag(HAS_POSITIONS) { launch.input::<u32>(5) } else { &[] };
    let angles = Angles::new(launch, &p);
    let (mut cos, mut sin) = (vec![0.0; n_pairs], vec![0.0; n_pairs]);
    let mut values = vec![0.0; dim];
    // The token whose angles are in the tables.
    let mut token = None;
    for row in part_range(p.n_rows as usize, (GRANULE / dim.max(1)).max(1), part, parts) {
        if token != Some(row / heads) {
            token = Some(row / heads);
            let position = positions.get(row / heads).copied().unwrap_or(0);
            angles.fill(launch, position as f32, &mut cos, &mut sin);
        }
        // SAFETY: this row is only this part's, in `output` and in `x`, which may be `output`.
        unsafe { x.load(row * dim, &mut values) };
        launch.isa().run(Row {
            values: &mut values,
            weight: weight.as_deref(),
            eps: launch.flag(HAS_NORM).then_some(p.eps),
            cos: &cos,
            sin: &sin,
            distance: (!launch.flag(INTERLEAVED)).then_some(p.pair_distance as usize),
        });
        // SAFETY: as above.
        unsafe { output.store(row * dim, &values) };
    }
}

/// Where the angles come from.
enum Angles<'a> {
    /// Cosines and sines.
    Tables(&'a [f32], &'a [f32]),
    /// What a position is divided by, twice.
    Divisors(Vec<f32>, Option<&'a [f32]>),
}

impl<'a> Angles<'a> {
    fn new(launch: &Launch<'a>, p: &KernelParams) -> Self {
        let n = p.n_pairs as usize;
        if launch.flag(HAS_TABLES) {
            return Angles::Tables(&launch.input(3)[..n], &launch.input(4)[..n]);
        }
        let theta = if launch.flag(HAS_THETA_BUFFER) { launch.input::<f32>(7)[0] } else { p.theta };
        let powers = (0..n).map(|i| theta.powf((2 * i) as f32 / p.head_dim as f32)).collect();
        let factors = launch.flag(HAS_FACTORS).then(|| &launch.input::<f32>(6)[..n]);
        Angles::Divisors(powers, factors)
    }

    fn fill(&self, launch: &Launch<'_>, position: f32, cos: &mut [f32], sin: &mut [f32]) {
        match self {
            Angles::Tables(cosines, sines) => {
                cos.copy_from_slice(cosines);
                sin.copy_from_slice(sines);
            }
            Angles::Divisors(powers, factors) => {
                cos.iter_mut().zip(powers).for_each(|(angle, power)| *angle = position / power);
                if let Some(factors) = factors {
                    cos.iter_mut().zip(*factors).for_each(|(angle, factor)| *angle /= *factor);
                }
                launch.isa().run(Turn { cos, sin });
            }
        }
    }
}

/// Turns the angles in `cos` into their cosines and sines.
struct Turn<'a> {
    cos: &'a mut [f32],
    sin: &'a mut [f32],
}

impl Vectorised for Turn<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        // Huge angles, infinity and NaN take the standard library's reduction.
        if self.cos.iter().all(|angle| angle.abs() <= SIN_COS_LIMIT) {
            for (cos, sin) in self.cos.iter_mut().zip(self.sin) {
                (*sin, *cos) = sin_cos(*cos);
            }
        } else {
            for (cos, sin) in self.cos.iter_mut().zip(self.sin) {
                let (s, c) = f64::from(*cos).sin_cos();
                (*sin, *cos) = (s as f32, c as f32);
            }
        }
    }
}

/// One row, in place.
struct Row<'a> {
    values: &'a mut [f32],
    weight: Option<&'a [f32]>,
    /// Of the norm, if there is one.
    eps: Option<f32>,
    cos: &'a [f32],
    sin: &'a [f32],
    /// Between the features of a pair; none = neighbours.
    distance: Option<usize>,
}

impl Vectorised for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        if let Some(eps) = self.eps {
            let mean = sum_of_squares(self.values) / self.values.len() as f32;
            let inverse = 1.0 / (mean + eps).sqrt();
            self.values.iter_mut().for_each(|v| *v *= inverse);
        }
        if let Some(weight) = self.weight {
            self.values.iter_mut().zip(weight).for_each(|(v, w)| *v *= *w);
        }
        let angles = self.cos.iter().zip(self.sin);
        match self.distance {
            None => {
                for ([a, b], (cos, sin)) in self.values.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
            Some(distance) => {
                let (first, second) = self.values.split_at_mut(distance);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}

#[inline(always)]
fn sum_of_squares(values: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (sum, v) in sums.iter_mut().zip(chunk) {
            *sum += v * v;
        }
    }
    for (sum, v) in sums.iter_mut().zip(rest) {
        *sum += v * v;
    }
    // By halves, as a tree.
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
    }
    sums[0]
}
