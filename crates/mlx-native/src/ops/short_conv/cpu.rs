//! Bodies of `short_conv` for the CPU: channels are shared among the parts, and go through the tokens in blocks that
//! become vectors.

use super::{HAS_BIAS, MAX_KERNEL, ShortConvParams};
use crate::backend::cpu::math::sigmoid;
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, part_range};

/// Channels that are worked on together.
const BLOCK: usize = 64;

type Rows = [[f32; BLOCK]; MAX_KERNEL as usize];

pub(super) fn short_conv<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: ShortConvParams = launch.params(5);
    let (channels, kernel, stride) = (p.channels as usize, p.kernel as usize, p.x_stride as usize);
    let (x, state, output) = (launch.output::<T>(0), launch.output::<T>(3), launch.output::<T>(4));
    let weight = launch.input::<T>(1);
    let bias = launch.flag(HAS_BIAS).then(|| launch.input::<T>(2));
    for block in part_range(channels.div_ceil(BLOCK), 1, part, parts) {
        let first = block * BLOCK;
        let len = BLOCK.min(channels - first);
        let (mut taps, mut window): (Rows, Rows) = ([[0.0; BLOCK]; 8], [[0.0; BLOCK]; 8]);
        let (mut offset, mut sum) = ([0.0; BLOCK], [0.0; BLOCK]);
        for c in 0..len {
            for j in 0..kernel {
                taps[j][c] = weight[(first + c) * kernel + j].to_f32();
            }
        }
        if let Some(bias) = bias {
            T::widen(&bias[first..first + len], &mut offset[..len]);
        }
        // SAFETY: these channels of state, inputs and outputs are this part's alone; `output` may be `x`.
        unsafe {
            for j in 1..kernel {
                state.load((j - 1) * channels + first, &mut window[j][..len]);
            }
            for t in 0..p.rows as usize {
                window.copy_within(1..kernel, 0);
                x.load(t * stride + first, &mut window[kernel - 1][..len]);
                launch.isa().run(Taps {
                    taps: &taps[..kernel],
                    window: &window[..kernel],
                    offset: &offset,
                    silu: p.silu != 0,
                    sum: &mut sum,
                });
                output.store(t * channels + first, &sum[..len]);
            }
            for j in 1..kernel {
                state.store((j - 1) * channels + first, &window[j][..len]);
            }
        }
    }
}

struct Taps<'a> {
    taps: &'a [[f32; BLOCK]],
    window: &'a [[f32; BLOCK]],
    offset: &'a [f32; BLOCK],
    silu: bool,
    sum: &'a mut [f32; BLOCK],
}

impl Vectorised for Taps<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let mut sum = *self.offset;
        for (taps, inputs) in self.taps.iter().zip(self.window) {
            for c in 0..BLOCK {
                sum[c] += taps[c] * inputs[c];
            }
        }
        if self.silu {
            for s in &mut sum {
                *s *= sigmoid(*s);
            }
        }
        *self.sum = sum;
    }
}
