//! Bodies of `decoded_matmul` for the CPU: a row of weights is decoded, then multiplied with every row of `x` that needs it.

use half::bf16;

use super::{HAS_IDS, KernelParams, ROUNDS_WEIGHT};
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, Output, part_range};
use crate::ops::coding::{self, Functions, Source};
use crate::quant::ggml::Block;

/// Independent sums: as many as the widest vectors hold.
const LANES: usize = 16;
/// Columns in which parts share the work.
const GRANULE: usize = 4;

pub(super) fn affine<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: KernelParams = launch.params(6);
    let (codes, scales, biases) = (launch.input::<u8>(1), launch.input::<bf16>(2), launch.input::<bf16>(3));
    let rounds_weight = launch.flag(ROUNDS_WEIGHT);
    let (row_bytes, groups, n) = (p.row_bytes as usize, p.n_groups as usize, p.n as usize);
    let decode = |matrix: usize, column: usize, values: &mut [f32]| {
        let row = matrix * n + column;
        launch.isa().run(DecodeAffine {
            codes: &codes[row * row_bytes..][..row_bytes],
            scales: &scales[row * groups..][..groups],
            biases: &biases[row * groups..][..groups],
            bits: p.bits,
            group_size: p.group_size as usize,
            rounds_weight,
            values,
        });
    };
    products::<T>(launch, &p, part, parts, true, decode);
}

pub(super) fn blocks<B: Block>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: KernelParams = launch.params(6);
    let codes = launch.input::<u8>(1);
    let (row_bytes, matrix_bytes) = (p.row_bytes as usize, p.matrix_bytes as usize);
    let (n, k) = (p.n as usize, p.k as usize);
    let functions = Functions::of::<coding::Blocks<B>>();
    let decode = |matrix: usize, column: usize, values: &mut [f32]| {
        let rows = &codes[matrix * matrix_bytes..][..n * row_bytes];
        match Source::blocks(rows, row_bytes, &functions) {
            Some(source) => source.unpack(launch.isa(), column, k, 0, values),
            None => launch.fail("the coding has no blocks".to_owned()),
        }
    };
    products::<f32>(launch, &p, part, parts, false, decode);
}

/// Every product of a column with the rows that need it.
fn products<T: Element>(
    launch: &Launch<'_>,
    p: &KernelParams,
    part: usize,
    parts: usize,
    rounds_x: bool,
    decode: impl Fn(usize, usize, &mut [f32]),
) {
    let (m, n, k) = (p.m as usize, p.n as usize, p.k as usize);
    let x = launch.input::<T>(0);
    let output = launch.output::<T>(5);
    let rows_per_x = p.rows_per_x as usize;
    let mut weight = vec![0.0; k];
    let load = |row: usize, values: &mut [f32]| {
        T::widen(&x[row * k..(row + 1) * k], values);
        if rounds_x {
            values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
        }
    };
    // SAFETY: only this part touches this element.
    let store = |output: &Output<'_, T>, at: usize, sum: f32| unsafe { output.store(at, &[sum]) };
    if launch.flag(HAS_IDS) {
        let ids = launch.input::<u32>(4);
        let mut values = vec![0.0; k];
        let mut loaded = None;
        for i in part_range(m * n, GRANULE, part, parts) {
            let (row, column) = (i / n, i % n);
            let matrix = ids[row];
            if matrix >= p.n_matrices {
                store(&output, i, 0.0);
                continue;
            }
            if loaded != Some(row / rows_per_x) {
                load(row / rows_per_x, &mut values);
                loaded = Some(row / rows_per_x);
            }
            decode(matrix as usize, column, &mut weight);
            store(&output, i, launch.isa().run(Dot(&values, &weight)));
        }
        return;
    }
    let columns = part_range(n, GRANULE, part, parts);
    if columns.is_empty() {
        return;
    }
    let mut values = vec![0.0; m * k];
    values.chunks_exact_mut(k).enumerate().for_each(|(row, values)| load(row / rows_per_x, values));
    for column in columns {
        decode(0, column, &mut weight);
        for (row, values) in values.chunks_exact(k).enumerate() {
            store(&output, row * n + column, launch.isa().run(Dot(values, &weight)));
        }
    }
}

pub(super) fn rows(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: KernelParams = launch.params(5);
    let (ids, codes) = (launch.input::<u32>(0), launch.input::<u8>(1));
    let (scales, biases) = (launch.input::<bf16>(2), launch.input::<bf16>(3));
    let output = launch.output::<f32>(4);
    let (k, row_bytes, groups) = (p.k as usize, p.row_bytes as usize, p.n_groups as usize);
    for token in part_range(p.m as usize, (4096 / k.max(1)).max(1), part, parts) {
        // SAFETY: only this part touches this row.
        let values = unsafe { output.slice_mut(token * k..(token + 1) * k) };
        let row = ids[token] as usize;
        if row >= p.n as usize {
            values.fill(0.0);
            continue;
        }
        launch.isa().run(DecodeAffine {
            codes: &codes[row * row_bytes..][..row_bytes],
            scales: &scales[row * groups..][..groups],
            biases: &biases[row * groups..][..groups],
            bits: p.bits,
            group_size: p.group_size as usize,
            rounds_weight: false,
            values,
        });
    }
}

struct DecodeAffine<'a> {
    codes: &'a [u8],
    scales: &'a [bf16],
    biases: &'a [bf16],
    bits: u32,
    group_size: usize,
    rounds_weight: bool,
    values: &'a mut [f32],
}

impl Vectorised for DecodeAffine<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let values = self.values;
        match self.bits {
            8 => values.iter_mut().zip(self.codes).for_each(|(v, code)| *v = f32::from(*code)),
            4 => {
                for (pair, code) in values.chunks_mut(2).zip(self.codes) {
                    for (v, code) in pair.iter_mut().zip([code & 15, code >> 4]) {
                        *v = f32::from(code);
                    }
                }
            }
            _ => {
                for (four, c) in values.chunks_mut(4).zip(self.codes.chunks(3)) {
                    let word = c.iter().rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
                    for (v, i) in four.iter_mut().zip(0..) {
                        *v = (word >> (6 * i) & 63) as f32;
                    }
                }
            }
        }
        let groups = values.chunks_mut(self.group_size).zip(self.scales.iter().zip(self.biases));
        for (group, (scale, bias)) in groups {
            let (scale, bias) = (scale.to_f32(), bias.to_f32());
            group.iter_mut().for_each(|v| *v = *v * scale + bias);
        }
        if self.rounds_weight {
            values.iter_mut().for_each(|v| *v = <bf16 as Element>::from_f32(*v).to_f32());
        }
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
