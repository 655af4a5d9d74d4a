//! Bodies of `quantized_embedding` for the CPU. Few rows of a table: not worth vectors.

use super::Shape;
use crate::backend::cpu::{Element, Launch, part_range};

/// Values that are computed at a time; a multiple of the codes of a word.
const CHUNK: usize = 32;

pub(super) fn rows<T: Element, S: Element, const BITS: u32>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: Shape = launch.params(5);
    let (dim, group_size) = (p.embed_dim as usize, p.group_size as usize);
    let ids = launch.input::<u32>(0);
    let weight = launch.input::<u32>(1);
    let (scales, biases) = (launch.input::<S>(2), launch.input::<S>(3));
    let output = launch.output::<T>(4);
    let per_word = 32 / BITS as usize;
    let mut values = [0.0; CHUNK];
    for token in part_range(p.n_tokens as usize, 1, part, parts) {
        let id = ids[token];
        for column in (0..dim).step_by(CHUNK) {
            if id < p.vocab_size {
                let at = id as usize * dim + column;
                let (scale, bias) = (scales[at / group_size].to_f32(), biases[at / group_size].to_f32());
                let words = &weight[at / per_word..(at + CHUNK) / per_word];
                for (word, values) in words.iter().zip(values.chunks_exact_mut(per_word)) {
                    for (i, value) in values.iter_mut().enumerate() {
                        let code = word >> (BITS as usize * i) & ((1 << BITS) - 1);
                        *value = (code as f32).mul_add(scale, bias);
                    }
                }
            } else {
                values.fill(0.0);
            }
            // SAFETY: the row of this token is this part's alone; `dim` is a multiple of CHUNK, as groups are.
            unsafe { output.store(token * dim + column, &values) };
        }
    }
}
