//! Body of `hadamard_quantize_kv` for the CPU.

use super::KernelParams;
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, part_range};
use crate::turboquant::{EDGES_4BIT, butterflies};

pub(super) fn quantize<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: KernelParams = launch.params(3);
    let x = launch.input::<T>(0);
    let (packed, norms) = (launch.output::<u8>(1), launch.output::<f32>(2));
    let (dim, heads, capacity) = (p.head_dim as usize, p.n_kv_heads as usize, p.capacity as usize);
    let mut values = vec![0.0; dim];
    for i in part_range(p.n_tokens as usize * heads, 1, part, parts) {
        let (token, head) = (i / heads, i % heads);
        // Of more tokens than a ring has places, only the last ones stay.
        if p.is_ring != 0 && token + capacity < p.n_tokens as usize {
            continue;
        }
        let position = p.position as usize + token;
        let position = if p.is_ring != 0 { position % capacity } else { position };
        let slot = head * capacity + position;
        T::widen(&x[i * dim..(i + 1) * dim], &mut values);
        // SAFETY: no two rows have the same slot, and each row is one part's.
        let (codes, norm) = unsafe {
            (packed.slice_mut(slot * (dim / 2)..(slot + 1) * (dim / 2)), &mut norms.slice_mut(slot..slot + 1)[0])
        };
        *norm = launch.isa().run(Quantize { values: &mut values, codes });
    }
}

/// Quantises a row, and gives its norm.
struct Quantize<'a> {
    values: &'a mut [f32],
    codes: &'a mut [u8],
}

impl Vectorised for Quantize<'_> {
    type Output = f32;
    #[inline(always)]
    fn run(self) -> f32 {
        let root = (self.values.len() as f32).sqrt();
        let scale = 1.0 / root;
        butterflies(self.values);
        self.values.iter_mut().for_each(|v| *v *= scale);
        let norm = self.values.iter().map(|v| v * v).sum::<f32>().sqrt();
        // A NaN is no norm either.
        if norm.is_nan() || norm <= 1e-10 {
            self.codes.fill(0x77);
            return norm;
        }
        self.values.iter_mut().for_each(|v| *v = *v / norm * root);
        for (code, [even, odd]) in self.codes.iter_mut().zip(self.values.as_chunks::<2>().0) {
            *code = code_of(*even) | code_of(*odd) << 4;
        }
        norm
    }
}

#[inline(always)]
fn code_of(v: f32) -> u8 {
    EDGES_4BIT.iter().map(|edge| u8::from(*edge < v)).sum()
}
