//! Bodies of `linear_scan` for the CPU: blocks of rows of the states are shared among the parts, and each goes through the
//! tokens with its rows in the first-level cache.

use super::{DECAY, LinearScanParams, MAX_K_DIM, RULE};
use crate::backend::cpu::math::exp;
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, part_range};
use crate::kernel::ConstantValue;

/// Rows of a state that are worked on together.
const BLOCK: usize = 16;
/// Independent sums: as many as the widest vectors hold.
const LANES: usize = 16;
const WIDTH: usize = MAX_K_DIM as usize;

pub(super) fn linear_scan<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: LinearScanParams = launch.params(9);
    let number = |index: u32| match launch.constant(index) {
        Some(ConstantValue::U32(n)) => n,
        _ => 0,
    };
    let (rule, decay_kind) = (number(RULE), number(DECAY));
    let (q, k, v) = (launch.input::<T>(0), launch.input::<T>(1), launch.input::<T>(2));
    let (decay, rates) = (launch.input::<f32>(3), launch.input::<f32>(4));
    let (first, second) = (launch.input::<f32>(5), launch.input::<f32>(6));
    let (state, output) = (launch.output::<f32>(7), launch.output::<T>(8));
    let (heads, k_dim, v_dim) = (p.n_heads as usize, p.k_dim as usize, p.v_dim as usize);
    let blocks = v_dim.div_ceil(BLOCK);
    let mut token = Token { q: [0.0; WIDTH], k: [0.0; WIDTH], g: [0.0; WIDTH] };
    let mut values = [0.0; BLOCK];
    for unit in part_range(heads * blocks, 1, part, parts) {
        let (head, top) = (unit / blocks, unit % blocks * BLOCK);
        let n = BLOCK.min(v_dim - top);
        let k_head = head / (heads / p.n_k_heads as usize);
        let start = (head * v_dim + top) * k_dim;
        // SAFETY: these rows of the state are this part's alone.
        let rows = unsafe { state.slice_mut(start..start + n * k_dim) };
        for t in 0..p.rows as usize {
            let at = |stride: u32| t * stride as usize + k_head * k_dim;
            T::widen(&q[at(p.q_stride)..][..k_dim], &mut token.q[..k_dim]);
            T::widen(&k[at(p.k_stride)..][..k_dim], &mut token.k[..k_dim]);
            T::widen(&v[t * p.v_stride as usize + head * v_dim + top..][..n], &mut values[..n]);
            let at_head = t * heads + head;
            let channels = at_head * k_dim..(at_head + 1) * k_dim;
            match decay_kind {
                1 => token.g[..k_dim].copy_from_slice(&decay[channels.clone()]),
                2 => {
                    let rates = &rates[head * k_dim..][..k_dim];
                    token.g.iter_mut().zip(rates).for_each(|(g, r)| *g = exp(decay[at_head] * r));
                }
                _ => token.g[..k_dim].fill(decay[at_head]),
            }
            let low_rank = (rule == 2).then(|| (&first[channels.clone()], &second[channels]));
            let beta = (rule == 1).then(|| first[at_head]);
            launch.isa().run(Advance { rows, values: &mut values[..n], token: &token, k_dim, beta, low_rank });
            // SAFETY: these elements of the output are this part's alone.
            unsafe { output.store(at_head * v_dim + top, &values[..n]) };
        }
    }
}

/// One token of one head, widened.
struct Token {
    q: [f32; WIDTH],
    k: [f32; WIDTH],
    g: [f32; WIDTH],
}

/// Takes some rows of a state one token further; their values become their outputs.
struct Advance<'a> {
    rows: &'a mut [f32],
    values: &'a mut [f32],
    token: &'a Token,
    k_dim: usize,
    beta: Option<f32>,
    low_rank: Option<(&'a [f32], &'a [f32])>,
}

impl Vectorised for Advance<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let n = self.k_dim;
        let (q, k, g) = (&self.token.q[..n], &self.token.k[..n], &self.token.g[..n]);
        for (s, value) in self.rows.chunks_exact_mut(n).zip(self.values) {
            let answer = self.low_rank.map(|(a, b)| (dot(s, a), b));
            for (s, g) in s.iter_mut().zip(g) {
                *s *= *g;
            }
            let added = match self.beta {
                Some(beta) => beta * (*value - dot(s, k)),
                None => *value,
            };
            for (s, k) in s.iter_mut().zip(k) {
                *s += added * *k;
            }
            if let Some((answer, b)) = answer {
                for (s, b) in s.iter_mut().zip(b) {
                    *s += answer * *b;
                }
            }
            *value = dot(s, q);
        }
    }
}

#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            sums[i] += x[i] * y[i];
        }
    }
    for ((sum, x), y) in sums.iter_mut().zip(x_rest).zip(y_rest) {
        *sum += x * y;
    }
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
    }
    sums[0]
}
