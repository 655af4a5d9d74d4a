//! Bodies of the routing kernels for the CPU.

use super::{GateKernelParams, HAS_SCALE, KernelParams};
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, part_range};

/// Independent sums: as many as the widest vectors hold.
const LANES: usize = 16;

pub(super) fn route(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: KernelParams = launch.params(4);
    let logits = launch.input::<f32>(0);
    let scale = launch.flag(HAS_SCALE).then(|| launch.input::<f32>(1));
    let (ids, weights) = (launch.output::<u32>(2), launch.output::<f32>(3));
    let (experts, k) = (p.n_experts as usize, p.top_k as usize);
    for token in part_range(p.n_tokens as usize, 1, part, parts) {
        // SAFETY: only this part touches this token's elements.
        let (ids, weights) =
            unsafe { (ids.slice_mut(token * k..(token + 1) * k), weights.slice_mut(token * k..(token + 1) * k)) };
        route_token(&logits[token * experts..(token + 1) * experts], scale, ids, weights, p.normalize != 0);
    }
}

pub(super) fn gate<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: GateKernelParams = launch.params(7);
    let x = launch.input::<T>(0);
    let (router, norm_weight) = (launch.input::<f32>(1), launch.input::<f32>(2));
    let scale = launch.flag(HAS_SCALE).then(|| launch.input::<f32>(3));
    let (ids, weights) = (launch.output::<u32>(4), launch.output::<f32>(5));
    let logits = launch.output::<f32>(6);
    let (experts, k, hidden) = (p.route.n_experts as usize, p.route.top_k as usize, p.hidden as usize);
    let mut normed = vec![0.0; hidden];
    for token in part_range(p.route.n_tokens as usize, 1, part, parts) {
        T::widen(&x[token * hidden..(token + 1) * hidden], &mut normed);
        let mean = launch.isa().run(Dot(&normed, &normed)) / p.hidden as f32;
        let inverse = 1.0 / (mean + p.eps).sqrt();
        normed.iter_mut().zip(norm_weight).for_each(|(v, w)| *v = *v * inverse * *w);
        // SAFETY: only this part touches this token's elements.
        let (ids, weights, logits) = unsafe {
            (
                ids.slice_mut(token * k..(token + 1) * k),
                weights.slice_mut(token * k..(token + 1) * k),
                logits.slice_mut(token * experts..(token + 1) * experts),
            )
        };
        for (logit, row) in logits.iter_mut().zip(router.chunks_exact(hidden)) {
            *logit = launch.isa().run(Dot(&normed, row));
        }
        route_token(logits, scale, ids, weights, p.route.normalize != 0);
    }
}

pub(super) fn weigh_sorted(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: KernelParams = launch.params(5);
    let (probabilities, sorted) = (launch.input::<f32>(0), launch.input::<u32>(1));
    let scale = launch.flag(HAS_SCALE).then(|| launch.input::<f32>(2));
    let (ids, weights) = (launch.output::<u32>(3), launch.output::<f32>(4));
    let (experts, k) = (p.n_experts as usize, p.top_k as usize);
    for token in part_range(p.n_tokens as usize, 1, part, parts) {
        // SAFETY: only this part touches this token's elements.
        let (ids, weights) =
            unsafe { (ids.slice_mut(token * k..(token + 1) * k), weights.slice_mut(token * k..(token + 1) * k)) };
        ids.copy_from_slice(&sorted[token * experts..][..k]);
        let row = &probabilities[token * experts..(token + 1) * experts];
        for (w, id) in weights.iter_mut().zip(&*ids) {
            *w = row.get(*id as usize).copied().unwrap_or(0.0);
        }
        finish(ids, weights, scale.map(|s| &s[..experts]), p.normalize != 0);
    }
}

fn route_token(logits: &[f32], scale: Option<&[f32]>, ids: &mut [u32], weights: &mut [f32], normalize: bool) {
    // The key of an expert: a greater logit, then a lower index, makes it greater. No two are equal.
    let mut bound = u64::MAX;
    let mut shift = 0.0;
    for (k, (id, weight)) in ids.iter_mut().zip(&mut *weights).enumerate() {
        let best = logits
            .iter()
            .zip(0u32..)
            .map(|(logit, e)| u64::from(order_key(*logit)) << 32 | u64::from(u32::MAX - e))
            .filter(|key| *key < bound)
            .max();
        bound = best.unwrap_or(u64::from(u32::MAX));
        *id = u32::MAX - bound as u32;
        let logit = logits[*id as usize];
        if k == 0 && logit != f32::NEG_INFINITY {
            shift = logit;
        }
        *weight = (logit - shift).exp();
    }
    finish(ids, weights, scale, normalize);
}

fn finish(ids: &[u32], weights: &mut [f32], scale: Option<&[f32]>, normalize: bool) {
    let sum: f32 = weights.iter().sum();
    for (w, id) in weights.iter_mut().zip(ids) {
        *w = if sum == 0.0 { 0.0 } else { *w / sum };
        if let Some(scale) = scale {
            *w *= scale.get(*id as usize).copied().unwrap_or(0.0);
        }
    }
    let sum: f32 = weights.iter().sum();
    if normalize && sum > 0.0 {
        weights.iter_mut().for_each(|w| *w /= sum);
    }
}

/// Ordered as the values are, -0 equal to 0, all NaN equal and on top; never 0.
fn order_key(value: f32) -> u32 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7FFF_FFFF;
    match magnitude {
        0x7F80_0001.. => u32::MAX,
        _ if bits == magnitude => 0x8000_0000 + magnitude,
        _ => 0x8000_0000 - magnitude,
    }
}

struct Dot<'a>(&'a [f32], &'a [f32]);

impl Vectorised for Dot<'_> {
    type Output = f32;
    #[inline(always)]
    fn run(self) -> f32 {
        let mut sums = [0.0; LANES];
        let (x, x_rest) = self.0.as_chunks::<LANES>();
        let (y, y_rest) = self.1.as_chunks::<LANES>();
        for (x, y) in x.iter().zip(y) {
            for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
                *sum += x * y;
            }
        }
        for ((sum, x), y) in sums.iter_mut().zip(x_rest).zip(y_rest) {
            *sum += x * y;
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
