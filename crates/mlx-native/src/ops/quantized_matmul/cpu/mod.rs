//! Bodies of `quantized_matmul` for the CPU.
//!
//! Packed rows are used in place. With few rows of `x` a product is bound by reading the weights once: [`gemv`]. With many,
//! blocks of the weight are dequantised and used for all rows of `x`: [`panels`], and `backend::cpu::gemm` does the rest.
//! [`codes`] is where codes become weights, for each instruction set.

mod codes;
mod gemv;
mod panels;

use codes::{Eight, Four, Width};

use super::{GROUP_SIZE_CONSTANT, Shape};
use crate::backend::cpu::simd::Widen;
use crate::backend::cpu::{Launch, Output, gemm};
use crate::kernel::ConstantValue;

/// Multiply-adds below which one thread does all: waking others costs more.
const ALONE: usize = 16 * 1024;

/// The arguments of a launch.
struct Args<'a, T, S> {
    m: usize,
    n: usize,
    k: usize,
    group_size: usize,
    x: &'a [T],
    weight: &'a [u32],
    scales: &'a [S],
    biases: &'a [S],
    output: Output<'a, T>,
}

impl<'a, T: Widen, S: Widen> Args<'a, T, S> {
    fn new(launch: &Launch<'a>) -> Option<Self> {
        let Some(ConstantValue::U32(group_size)) = launch.constant(GROUP_SIZE_CONSTANT) else {
            launch.fail("the function constant of the group size is missing".to_owned());
            return None;
        };
        let Shape { m, n, k } = launch.params(5);
        Some(Args {
            m: m as usize,
            n: n as usize,
            k: k as usize,
            group_size: group_size as usize,
            x: launch.input(0),
            weight: launch.input(1),
            scales: launch.input(2),
            biases: launch.input(3),
            output: launch.output(4),
        })
    }

    fn is_small(&self) -> bool {
        self.m.saturating_mul(self.n).saturating_mul(self.k) <= ALONE
    }

    fn shape(&self) -> gemm::Shape {
        gemm::Shape { m: self.m, n: self.n, k: self.k }
    }
}

/// `x · Wᵀ`, W `[n, k]`.
pub(super) fn transposed<T: Widen, S: Widen, const BITS: u32>(launch: &Launch<'_>, part: usize, parts: usize) {
    match BITS {
        4 => transposed_of::<T, S, Four>(launch, part, parts),
        _ => transposed_of::<T, S, Eight>(launch, part, parts),
    }
}

fn transposed_of<T: Widen, S: Widen, B: Width>(launch: &Launch<'_>, part: usize, parts: usize) {
    let Some(args) = Args::<T, S>::new(launch) else { return };
    if args.m > gemv::MAX_ROWS {
        gemm::gemm(launch, parts, args.shape(), args.x, &panels::Columns::<S, B>::new(&args), &args.output);
    } else if part == 0 || !args.is_small() {
        gemv::gemv::<T, S, B>(launch, &args);
    }
}

/// `x · W`, W `[k, n]`.
pub(super) fn plain<T: Widen, S: Widen, const BITS: u32>(launch: &Launch<'_>, _part: usize, parts: usize) {
    match BITS {
        4 => plain_of::<T, S, Four>(launch, parts),
        _ => plain_of::<T, S, Eight>(launch, parts),
    }
}

fn plain_of<T: Widen, S: Widen, B: Width>(launch: &Launch<'_>, parts: usize) {
    let Some(args) = Args::<T, S>::new(launch) else { return };
    gemm::gemm(launch, parts, args.shape(), args.x, &panels::Rows::<S, B>::new(&args), &args.output);
}
