//! Bodies of `quantized_matmul` for the CPU.
//!
//! Packed rows are used in place. With few rows of `x` a product is bound by reading the weights once; each thread takes
//! rows of a transposed weight as they come free. With many, weights are dequantised a block at a time, and the block is
//! used for all rows of `x`. [`portable`] is the text to read first; the others compute the same with vectors.

mod portable;

use super::{GROUP_SIZE_CONSTANT, Shape};
use crate::backend::cpu::{Element, Launch, Output};
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

impl<'a, T: Element, S: Element> Args<'a, T, S> {
    /// Reads the arguments; `None` when this part has nothing to do.
    fn new(launch: &Launch<'a>, part: usize) -> Option<Self> {
        let Some(ConstantValue::U32(group_size)) = launch.constant(GROUP_SIZE_CONSTANT) else {
            launch.fail("the function constant of the group size is missing".to_owned());
            return None;
        };
        let Shape { m, n, k } = launch.params(5);
        let args = Args {
            m: m as usize,
            n: n as usize,
            k: k as usize,
            group_size: group_size as usize,
            x: launch.input(0),
            weight: launch.input(1),
            scales: launch.input(2),
            biases: launch.input(3),
            output: launch.output(4),
        };
        let small = args.m * args.n * args.k <= ALONE;
        (!small || part == 0).then_some(args)
    }
}

/// `x · Wᵀ`, W `[n, k]`.
pub(super) fn transposed<T: Element, S: Element, const BITS: u32>(launch: &Launch<'_>, part: usize, _parts: usize) {
    if let Some(args) = Args::<T, S>::new(launch, part) {
        portable::transposed::<T, S, BITS>(launch, &args);
    }
}

/// `x · W`, W `[k, n]`.
pub(super) fn plain<T: Element, S: Element, const BITS: u32>(launch: &Launch<'_>, part: usize, _parts: usize) {
    if let Some(args) = Args::<T, S>::new(launch, part) {
        portable::plain::<T, S, BITS>(launch, &args);
    }
}
