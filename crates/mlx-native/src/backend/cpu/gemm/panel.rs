//! Who fills the panels of `B`.

use std::ops::Range;

use super::micro::MicroKernel;
use super::{DEPTH, PITCH};
use crate::backend::cpu::Element;
use crate::isa::IsaToken;

/// The right-hand matrix of a product, `B[k, n]`, as far as the product sees it: something that fills panels.
///
/// Weights of a linear layer have each column of `B` as a row of theirs: they call [`Panel::columns`] with a closure that
/// widens, or dequantises, a stretch of a row. Matrices that are stored as `B` itself call [`Panel::rows`].
pub(crate) trait PanelSource {
    /// Fills `panel` with `B[k, columns]`. `k` begins at a multiple of [`DEPTH`] and has at most that many values.
    fn fill(&self, k: Range<usize>, columns: Range<usize>, panel: &mut Panel<'_>);
}

/// A panel to be filled: `depth` rows, of which the first `count` columns count.
pub(crate) struct Panel<'a> {
    isa: IsaToken,
    kernel: &'static MicroKernel,
    depth: usize,
    count: usize,
    values: &'a mut [f32],
    staging: &'a mut [f32],
}

impl<'a> Panel<'a> {
    pub(super) fn new(
        isa: IsaToken,
        kernel: &'static MicroKernel,
        depth: usize,
        count: usize,
        values: &'a mut [f32],
        staging: &'a mut [f32],
    ) -> Self {
        debug_assert!(depth <= DEPTH && count <= kernel.columns);
        Panel {
            isa,
            kernel,
            depth,
            count,
            values,
            staging,
        }
    }

    /// The instruction set that may be used to fill it.
    pub(crate) fn isa(&self) -> IsaToken {
        self.isa
    }

    /// Fills it by rows: `read(i, values)` shall write the values of row `i` of the panel.
    pub(crate) fn rows(&mut self, mut read: impl FnMut(usize, &mut [f32])) {
        for (i, row) in self
            .values
            .chunks_exact_mut(self.kernel.columns)
            .take(self.depth)
            .enumerate()
        {
            read(i, &mut row[..self.count]);
            row[self.count..].fill(0.0);
        }
    }

    /// Fills it by columns: `read(j, values)` shall write the values of column `j` of the panel, `depth` of them.
    pub(crate) fn columns(&mut self, mut read: impl FnMut(usize, &mut [f32])) {
        let (lanes, width) = (self.kernel.lanes, self.kernel.columns);
        // Columns come in whole blocks, rows also: the panel and the staging area have room for `DEPTH` of them, and what is
        // transposed beyond `depth` or `count` is left over from earlier, or zero, and not used.
        for first in (0..width).step_by(lanes) {
            for (j, column) in self.staging.chunks_exact_mut(PITCH).take(lanes).enumerate() {
                if first + j < self.count {
                    read(first + j, &mut column[..self.depth]);
                } else {
                    column[..self.depth].fill(0.0);
                }
            }
            for k in (0..self.depth).step_by(lanes) {
                self.kernel.transpose(
                    &self.staging[k..],
                    PITCH,
                    &mut self.values[k * width + first..],
                    width,
                );
            }
        }
    }
}

/// A dense `B[k, n]`.
pub(crate) struct DenseRows<'a, W> {
    /// The values, row after row.
    pub values: &'a [W],
    /// Columns.
    pub n: usize,
}

impl<W: Element> PanelSource for DenseRows<'_, W> {
    fn fill(&self, k: Range<usize>, columns: Range<usize>, panel: &mut Panel<'_>) {
        panel.rows(|i, target| {
            let row = (k.start + i) * self.n;
            W::widen(&self.values[row + columns.start..row + columns.end], target);
        });
    }
}

/// A dense weight `[n, k]`, the transpose of `B`.
pub(crate) struct DenseColumns<'a, W> {
    /// The values, row after row.
    pub values: &'a [W],
    /// Length of a row.
    pub k: usize,
}

impl<W: Element> PanelSource for DenseColumns<'_, W> {
    fn fill(&self, k: Range<usize>, columns: Range<usize>, panel: &mut Panel<'_>) {
        panel.columns(|j, target| {
            let start = (columns.start + j) * self.k + k.start;
            W::widen(&self.values[start..start + k.len()], target);
        });
    }
}
