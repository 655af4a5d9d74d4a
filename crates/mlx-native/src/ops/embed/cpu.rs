//! Bodies of `embed` for the CPU. Few rows of a table: not worth vectors, so that values are the same on every machine.

use super::Shape;
use crate::backend::cpu::{IsaToken, Launch, part_range};
use crate::ops::coding::{self, Coding, FloatsMut, Functions, Source};

/// Values that are computed at a time.
const CHUNK: usize = 256;
/// Elements below which a token is not worth another thread.
const GRANULE: usize = 8192;

pub(super) fn embed<C: Coding>(launch: &Launch<'_>, part: usize, parts: usize) {
    rows(launch, &Functions::of::<C>(), part, parts);
}

fn rows(launch: &Launch<'_>, functions: &Functions, part: usize, parts: usize) {
    let p: Shape = launch.params(5);
    let Some(dtype) = coding::dtype(launch, coding::X_TYPE) else { return };
    let [rows, dim, stride] = [p.vocab_size, p.dim, p.codes_stride].map(|v| v as usize);
    let Some(table) = Source::new(launch, functions, rows, dim, 1, stride) else { return };
    let ids: &[u32] = launch.input(0);
    let output = FloatsMut::output(launch, 4, dtype);
    let mut values = [0.0; CHUNK];
    for token in part_range(p.n_tokens as usize, (GRANULE / dim.max(1)).max(1), part, parts) {
        let id = ids[token];
        for column in (0..dim).step_by(CHUNK) {
            let values = &mut values[..CHUNK.min(dim - column)];
            if id < p.vocab_size {
                table.dequantize(IsaToken::PORTABLE, dtype, id as usize, dim, column, values);
            } else {
                values.fill(0.0);
            }
            // SAFETY: each token is one part's.
            unsafe { output.store(token * dim + column, values) };
        }
    }
}
