//! Bodies of the two kernels for the CPU: splits of heads, then heads, are shared among the parts.

use super::KernelParams;
use crate::backend::cpu::math::{exp, tanh};
use crate::vector::Vectorised;
use crate::backend::cpu::{Launch, part_range};
use crate::turboquant::{CODEBOOK_4BIT, butterflies};

/// Independent sums: as many as the widest vectors hold.
const LANES: usize = 16;

pub(super) fn partial(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: KernelParams = launch.params(6);
    let (dim, splits, capacity) = (p.head_dim as usize, p.n_splits as usize, p.capacity as usize);
    let q = launch.input::<f32>(0);
    let (k_packed, k_norms) = (launch.input::<u8>(1), launch.input::<f32>(2));
    let (v_packed, v_norms) = (launch.input::<u8>(3), launch.input::<f32>(4));
    let output = launch.output::<f32>(5);
    let ratio = (p.n_heads / p.n_kv_heads.max(1)).max(1) as usize;
    let n_keys = u64::from(p.end_key - p.first_key);
    let edge = |s: usize| p.first_key as usize + (n_keys * s as u64 / u64::from(p.n_splits)) as usize;
    let mut query = vec![0.0; dim];
    let mut row = vec![0.0; dim];
    for i in part_range(p.n_heads as usize * splits, 1, part, parts) {
        let (head, split) = (i / splits, i % splits);
        let slot = head / ratio * capacity;
        // SAFETY: only this part touches this split of this head.
        let own = unsafe { output.slice_mut(i * (dim + 2)..(i + 1) * (dim + 2)) };
        let (sums, rest) = own.split_at_mut(dim);
        sums.fill(0.0);
        query.copy_from_slice(&q[head * dim..(head + 1) * dim]);
        let unit = 1.0 / (dim as f32).sqrt();
        butterflies(&mut query);
        query.iter_mut().for_each(|v| *v *= unit);
        let (mut largest, mut sum) = (f32::NEG_INFINITY, 0.0f32);
        for key in edge(split)..edge(split + 1) {
            unpack(&k_packed[(slot + key) * (dim / 2)..][..dim / 2], &mut row);
            let mut score = launch.isa().run(Dot(&query, &row)) * k_norms[slot + key] * unit * p.scale;
            if p.softcap != 0.0 {
                score = tanh(score / p.softcap) * p.softcap;
            }
            unpack(&v_packed[(slot + key) * (dim / 2)..][..dim / 2], &mut row);
            let new_largest = if score > largest { score } else { largest };
            let shift = if new_largest == f32::NEG_INFINITY { 0.0 } else { new_largest };
            let (keep, weight) = (exp(largest - shift), exp(score - shift));
            sum = sum * keep + weight;
            launch.isa().run(Add { sums, keep, row: &row, weight: weight * v_norms[slot + key] * unit });
            largest = new_largest;
        }
        rest.copy_from_slice(&[largest, sum]);
    }
}

pub(super) fn reduce(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: KernelParams = launch.params(2);
    let (dim, splits) = (p.head_dim as usize, p.n_splits as usize);
    let (partial, output) = (launch.input::<f32>(0), launch.output::<f32>(1));
    for head in part_range(p.n_heads as usize, 1, part, parts) {
        let own = &partial[head * splits * (dim + 2)..][..splits * (dim + 2)];
        let largest = own.chunks_exact(dim + 2).fold(f32::NEG_INFINITY, |l, split| if split[dim] > l { split[dim] } else { l });
        let shift = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
        // SAFETY: only this part touches this head.
        let values = unsafe { output.slice_mut(head * dim..(head + 1) * dim) };
        values.fill(0.0);
        let mut sum = 0.0f32;
        for split in own.chunks_exact(dim + 2) {
            let weight = exp(split[dim] - shift);
            sum += split[dim + 1] * weight;
            values.iter_mut().zip(split).for_each(|(v, s)| *v += *s * weight);
        }
        let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        values.iter_mut().for_each(|v| *v *= inverse);
        butterflies(values);
        let unit = 1.0 / (dim as f32).sqrt();
        values.iter_mut().for_each(|v| *v *= unit);
    }
}

/// The levels of a row's codes, the even coordinate in the low half of a byte.
fn unpack(codes: &[u8], row: &mut [f32]) {
    for (pair, code) in row.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
        *pair = [CODEBOOK_4BIT[usize::from(code & 15)], CODEBOOK_4BIT[usize::from(code >> 4)]];
    }
}

struct Dot<'a>(&'a [f32], &'a [f32]);

impl Vectorised for Dot<'_> {
    type Output = f32;
    #[inline(always)]
    fn run(self) -> f32 {
        let mut sums = [0.0; LANES];
        for (x, y) in self.0.chunks(LANES).zip(self.1.chunks(LANES)) {
            for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
                *sum += x * y;
            }
        }
        // By halves, as a tree.
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                sums[i] += sums[i + width];
            }
        }
        sums[0]
    }
}

/// `sums = sums · keep + row · weight`
struct Add<'a> {
    sums: &'a mut [f32],
    keep: f32,
    row: &'a [f32],
    weight: f32,
}

impl Vectorised for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (sum, v) in self.sums.iter_mut().zip(self.row) {
            *sum = *sum * self.keep + *v * self.weight;
        }
    }
}
