//! Blocks of a packed weight, dequantised for `backend::cpu::gemm`.

use std::marker::PhantomData;
use std::ops::Range;

use super::Args;
use super::codes::{Width, dequantize};
use crate::backend::cpu::gemm::{Panel, PanelSource};
use crate::backend::cpu::IsaToken;
use crate::backend::cpu::simd::Widen;

/// Weights of every format come in multiples of this, whatever the group size.
const RUN: usize = 32;

/// Rows of a packed matrix.
struct Packed<'a, S, B> {
    weight: &'a [u32],
    scales: &'a [S],
    biases: &'a [S],
    /// Elements of a row.
    columns: usize,
    group_size: usize,
    width: PhantomData<B>,
}

impl<'a, S: Widen, B: Width> Packed<'a, S, B> {
    fn new<T>(args: &Args<'a, T, S>, columns: usize) -> Self {
        let Args { weight, scales, biases, group_size, .. } = *args;
        Packed { weight, scales, biases, columns, group_size, width: PhantomData }
    }

    /// Elements of `row` from `first` on, in whole groups, or one `RUN` of a group.
    fn read(&self, isa: IsaToken, row: usize, first: usize, out: &mut [f32]) {
        let at = row * self.columns + first;
        let group_size = self.group_size.min(out.len());
        let groups = at / self.group_size..at / self.group_size + out.len() / group_size;
        let words = &self.weight[at * B::BITS / 32..(at + out.len()) * B::BITS / 32];
        // SAFETY: panels ask for a level that is there; the slices are cut to what `out` needs.
        unsafe {
            dequantize::<S, B>(
                isa,
                words.as_ptr().cast(),
                &self.scales[groups.clone()],
                &self.biases[groups],
                group_size,
                out,
            );
        }
    }
}

/// A weight `[n, k]`: its rows are the columns of the product's right-hand side.
pub(super) struct Columns<'a, S, B>(Packed<'a, S, B>);

impl<'a, S: Widen, B: Width> Columns<'a, S, B> {
    pub(super) fn new<T>(args: &Args<'a, T, S>) -> Self {
        Columns(Packed::new(args, args.k))
    }
}

impl<S: Widen, B: Width> PanelSource for Columns<'_, S, B> {
    fn fill(&self, k: Range<usize>, columns: Range<usize>, panel: &mut Panel<'_>) {
        let isa = panel.isa();
        // A panel's depth begins at a multiple of the greatest group size and ends at one or with the row.
        panel.columns(|j, out| self.0.read(isa, columns.start + j, k.start, out));
    }
}

/// A weight `[k, n]`.
pub(super) struct Rows<'a, S, B>(Packed<'a, S, B>);

impl<'a, S: Widen, B: Width> Rows<'a, S, B> {
    pub(super) fn new<T>(args: &Args<'a, T, S>) -> Self {
        Rows(Packed::new(args, args.n))
    }
}

impl<S: Widen, B: Width> PanelSource for Rows<'_, S, B> {
    fn fill(&self, k: Range<usize>, columns: Range<usize>, panel: &mut Panel<'_>) {
        let isa = panel.isa();
        panel.rows(|i, out| {
            // Panels may begin and end within a run.
            let mut run = [0.0; RUN];
            let mut column = columns.start;
            while column < columns.end {
                let first = column / RUN * RUN;
                let end = columns.end.min(first + RUN);
                self.0.read(isa, k.start + i, first, &mut run);
                out[column - columns.start..end - columns.start].copy_from_slice(&run[column - first..end - first]);
                column = end;
            }
        });
    }
}
