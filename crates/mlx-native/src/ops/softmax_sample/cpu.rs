//! Body of `softmax_sample` for the CPU: one part does it all; what follows waits for the token anyway.

use super::KernelParams;
use crate::backend::cpu::Launch;
use crate::backend::cpu::math::exp;
use crate::vector::Vectorised;

/// Running values of a reduction, so that vectors can carry them.
const LANES: usize = 16;

pub(super) fn softmax_sample(launch: &Launch<'_>, part: usize, _parts: usize) {
    if part != 0 {
        return;
    }
    let p: KernelParams = launch.params(4);
    let n = p.n_elements as usize;
    let logits = &launch.input::<f32>(0)[..n];
    // SAFETY: only part 0 touches the outputs.
    let (probabilities, token, logprob) = unsafe {
        (
            launch.output::<f32>(1).slice_mut(0..n),
            &mut launch.output::<u32>(2).slice_mut(0..1)[0],
            &mut launch.output::<f32>(3).slice_mut(0..1)[0],
        )
    };
    launch.isa().run(Softmax { logits, probabilities, inverse: 1.0 / p.temperature });
    // In f64: over a vocabulary of 150,000, one running f32 sum drifts by more than a small probability.
    let mut sum = 0.0f64;
    let reached = probabilities.iter().position(|v| {
        sum += f64::from(*v);
        *v > 0.0 && sum >= f64::from(p.random)
    });
    // Rounding may leave the sum below: then the last token that is possible at all.
    let last = || probabilities.iter().rposition(|v| *v > 0.0);
    let chosen = reached.or_else(last).unwrap_or(n.saturating_sub(1));
    *token = chosen as u32;
    *logprob = probabilities[chosen].ln();
}

struct Softmax<'a> {
    logits: &'a [f32],
    probabilities: &'a mut [f32],
    inverse: f32,
}

impl Vectorised for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let mut largest = [f32::NEG_INFINITY; LANES];
        for chunk in self.logits.chunks(LANES) {
            for (l, v) in largest.iter_mut().zip(chunk) {
                let v = *v * self.inverse;
                *l = if v > *l { v } else { *l };
            }
        }
        let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let shift = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
        let mut sums = [0.0f32; LANES];
        for (p, x) in self.probabilities.chunks_mut(LANES).zip(self.logits.chunks(LANES)) {
            for ((p, x), sum) in p.iter_mut().zip(x).zip(&mut sums) {
                *p = exp(*x * self.inverse - shift);
                *sum += *p;
            }
        }
        let sum: f32 = sums.into_iter().sum();
        self.probabilities.iter_mut().for_each(|p| *p /= sum);
    }
}
