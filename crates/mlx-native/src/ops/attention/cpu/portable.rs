//! The readable body: one query at a time, one key after the other, in plain Rust.

use std::ops::Range;

use super::group::Group;
use super::softmax::Softmax;
use crate::backend::cpu::simd::Widen;
use crate::ops::attention::MAX_HEAD_DIM;

/// Attention of the queries `rows`, which `row_of` turns into heads and rows of the sequence, over those of the keys `keys`
/// that they see: `o` gets the weighted sums of value rows, `v_dim` for each query, not yet divided by the sums of
/// weights; `state` the maxima and sums.
pub(super) fn attend<T: Widen>(
    g: &Group<'_, T>,
    rows: Range<usize>,
    row_of: &dyn Fn(usize) -> (usize, usize),
    keys: Range<usize>,
    o: &mut [f32],
    state: &mut [Softmax],
) {
    let (mut query, mut other) = ([0f32; MAX_HEAD_DIM as usize], [0f32; MAX_HEAD_DIM as usize]);
    let mut space = Vec::new();
    o.fill(0.0);
    for ((r, o), state) in rows.zip(o.chunks_exact_mut(g.v_dim)).zip(state) {
        let (head, row) = row_of(r);
        let query = &mut query[..g.head_dim];
        T::widen(g.query(head, row), query);
        *state = Softmax::EMPTY;
        let visible = g.visible(row);
        for key in keys.start.max(visible.start)..keys.end.min(visible.end) {
            let other_k = &mut other[..g.head_dim];
            T::widen(g.keys(key, 1, &mut space), other_k);
            let mut score = [g.factor(1.0) * query.iter().zip(&*other_k).map(|(q, k)| q * k).sum::<f32>()];
            g.finish_scores(head, row, key, &mut score, 1.0);
            let max = if score[0] > state.max { score[0] } else { state.max };
            let (keep, weight) = ((state.max - max).exp(), (score[0] - max).exp());
            *state = Softmax { max, sum: state.sum * keep + weight };
            let value = &mut other[..g.v_dim];
            T::widen(g.values(key, 1, &mut space), value);
            for (o, v) in o.iter_mut().zip(&*value) {
                // A weight of zero adds nothing, be the value NaN.
                *o = *o * keep + if weight == 0.0 { 0.0 } else { weight * v };
            }
        }
    }
}
