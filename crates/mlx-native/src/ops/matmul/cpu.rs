//! Bodies of `matmul` for the CPU: `backend::cpu::gemm` does the work.

use super::KernelParams;
use crate::backend::cpu::gemm::{self, DenseColumns, DenseRows, Shape};
use crate::backend::cpu::simd::Widen;
use crate::backend::cpu::{Element, Launch};

fn shape(launch: &Launch<'_>) -> Shape {
    let p: KernelParams = launch.params(3);
    Shape { m: p.m as usize, n: p.n as usize, k: p.k as usize }
}

pub(super) fn gemv<T: Element, W: Widen>(launch: &Launch<'_>, part: usize, _parts: usize) {
    gemm::gemv_rows(launch, part, shape(launch), launch.input::<T>(0), launch.input::<W>(1), &launch.output(2));
}

pub(super) fn gevm<T: Element, W: Widen>(launch: &Launch<'_>, part: usize, parts: usize) {
    gemm::gemv_columns(launch, part, parts, shape(launch), launch.input::<T>(0), launch.input::<W>(1), &launch.output(2));
}

pub(super) fn gemm<T: Element, W: Widen>(launch: &Launch<'_>, _part: usize, parts: usize) {
    let shape = shape(launch);
    let (x, values, output) = (launch.input::<T>(0), launch.input::<W>(1), launch.output(2));
    if launch.flag(0) {
        gemm::gemm(launch, parts, shape, x, &DenseColumns { values, k: shape.k }, &output);
    } else {
        gemm::gemm(launch, parts, shape, x, &DenseRows { values, n: shape.n }, &output);
    }
}
