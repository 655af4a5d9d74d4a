//! The product in plain Rust.

use super::Args;
use crate::backend::cpu::{Element, Launch};

/// Rows of `x` that are multiplied with a row of weights while it is at hand.
const M_BLOCK: usize = 32;
/// Outputs of a row that a part claims at a time.
const N_CHUNK: usize = 32;
/// Sums that a dot product is split into, so that the compiler can make vectors of them.
const SUMS: usize = 8;

/// Claims columns of the output; dequantises the row of `W` of each, and multiplies it with the rows of `x`.
pub(super) fn transposed<T: Element, S: Element, const BITS: u32>(launch: &Launch<'_>, a: &Args<'_, T, S>) {
    let (row_words, row_groups) = (a.k * BITS as usize / 32, a.k / a.group_size);
    let blocks = a.m.div_ceil(M_BLOCK);
    let chunks = a.n.div_ceil(N_CHUNK);
    let (mut x, mut x_block) = (vec![0.0; M_BLOCK.min(a.m) * a.k], usize::MAX);
    let mut w = vec![0.0; a.k];
    let mut results = [[0.0; N_CHUNK]; M_BLOCK];
    while let Some(item) = launch.next_chunk(blocks * chunks, 1) {
        let (block, chunk) = (item.start / chunks, item.start % chunks);
        let rows = block * M_BLOCK..a.m.min((block + 1) * M_BLOCK);
        let columns = chunk * N_CHUNK..a.n.min((chunk + 1) * N_CHUNK);
        if x_block != block {
            T::widen(&a.x[rows.start * a.k..rows.end * a.k], &mut x[..rows.len() * a.k]);
            x_block = block;
        }
        for column in columns.clone() {
            let words = &a.weight[column * row_words..(column + 1) * row_words];
            let groups = column * row_groups..(column + 1) * row_groups;
            dequantize_row::<S, BITS>(words, &a.scales[groups.clone()], &a.biases[groups], a.group_size, &mut w);
            for (x_row, result) in x.chunks_exact(a.k).zip(&mut results[..rows.len()]) {
                result[column - columns.start] = dot(x_row, &w);
            }
        }
        for (row, result) in rows.zip(&results) {
            // SAFETY: the outputs of these columns and rows are those of the item that this part claimed.
            unsafe { a.output.store(row * a.n + columns.start, &result[..columns.len()]) };
        }
    }
}

/// Claims columns of the output; adds up the rows of `W`, each times its element of `x`.
pub(super) fn plain<T: Element, S: Element, const BITS: u32>(launch: &Launch<'_>, a: &Args<'_, T, S>) {
    let (row_words, row_groups) = (a.n * BITS as usize / 32, a.n / a.group_size);
    let blocks = a.m.div_ceil(M_BLOCK);
    let mut w = vec![0.0; a.group_size];
    let mut sums = vec![0.0; M_BLOCK.min(a.m) * a.group_size];
    while let Some(item) = launch.next_chunk(blocks * row_groups, 1) {
        let (block, group) = (item.start / row_groups, item.start % row_groups);
        let rows = block * M_BLOCK..a.m.min((block + 1) * M_BLOCK);
        let group_words = a.group_size * BITS as usize / 32;
        sums.fill(0.0);
        for k in 0..a.k {
            let words = k * row_words + group * group_words;
            let at = k * row_groups + group;
            dequantize_row::<S, BITS>(
                &a.weight[words..words + group_words],
                &a.scales[at..at + 1],
                &a.biases[at..at + 1],
                a.group_size,
                &mut w,
            );
            for (row, sums) in rows.clone().zip(sums.chunks_exact_mut(a.group_size)) {
                let x = a.x[row * a.k + k].to_f32();
                for (sum, w) in sums.iter_mut().zip(&w) {
                    *sum += x * w;
                }
            }
        }
        for (row, sums) in rows.zip(sums.chunks_exact(a.group_size)) {
            // SAFETY: the outputs of this group of columns and these rows are those of the item that this part claimed.
            unsafe { a.output.store(row * a.n + group * a.group_size, sums) };
        }
    }
}

/// `code * scale + bias` for a row, or a part of one in whole groups.
pub(super) fn dequantize_row<S: Element, const BITS: u32>(
    words: &[u32],
    scales: &[S],
    biases: &[S],
    group_size: usize,
    w: &mut [f32],
) {
    let per_word = 32 / BITS as usize;
    let groups = words.chunks_exact(group_size / per_word).zip(w.chunks_exact_mut(group_size));
    for ((words, w), (scale, bias)) in groups.zip(scales.iter().zip(biases)) {
        let (scale, bias) = (scale.to_f32(), bias.to_f32());
        for (word, w) in words.iter().zip(w.chunks_exact_mut(per_word)) {
            for (i, w) in w.iter_mut().enumerate() {
                *w = (word >> (BITS as usize * i) & ((1 << BITS) - 1)) as f32 * scale + bias;
            }
        }
    }
}

fn dot(x: &[f32], w: &[f32]) -> f32 {
    let mut sums = [0.0; SUMS];
    for (x, w) in x.chunks_exact(SUMS).zip(w.chunks_exact(SUMS)) {
        for i in 0..SUMS {
            sums[i] += x[i] * w[i];
        }
    }
    sums.iter().sum()
}
