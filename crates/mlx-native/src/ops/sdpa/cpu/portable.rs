//! The readable bodies: one query at a time, one key after the other, in plain Rust.

use std::ops::Range;

use super::{Rows, Softmax};
use crate::backend::cpu::Element;

/// Attention of the query rows `rows` of one kv head over the keys `keys`: `o` gets the weighted sums of value rows,
/// `head_dim` for each query, not yet divided by the sums of weights; `state` the maxima and sums.
pub(super) fn attend<T: Element>(
    a: &Rows<'_, T>,
    rows: Range<usize>,
    keys: Range<usize>,
    o: &mut [f32],
    state: &mut [Softmax],
) {
    let (mut query, mut other) = ([0f32; 512], [0f32; 512]);
    let (query, other) = (&mut query[..a.head_dim], &mut other[..a.head_dim]);
    o.fill(0.0);
    for ((row, o), state) in rows.zip(o.chunks_exact_mut(a.head_dim)).zip(state) {
        T::widen(&a.q[row * a.head_dim..][..a.head_dim], query);
        *state = Softmax::EMPTY;
        for key in keys.start..keys.end.min(a.visible(row)) {
            T::widen(&a.k[key * a.head_dim..][..a.head_dim], other);
            let score = a.scale * query.iter().zip(&*other).map(|(q, k)| q * k).sum::<f32>();
            let max = if score > state.max { score } else { state.max };
            let (keep, weight) = ((state.max - max).exp(), (score - max).exp());
            *state = Softmax { max, sum: state.sum * keep + weight };
            T::widen(&a.v[key * a.head_dim..][..a.head_dim], other);
            for (o, v) in o.iter_mut().zip(&*other) {
                *o = *o * keep + weight * v;
            }
        }
    }
}
