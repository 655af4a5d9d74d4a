//! Blocks of a packed weight, unpacked for `backend::cpu::gemm`.

use std::ops::Range;

use crate::backend::cpu::gemm::{Panel, PanelSource};
use crate::ops::coding::Source;

/// A weight `[n, k]`: its rows, from row `first` of the source on, are the columns of the product's right-hand side.
pub(super) struct Columns<'a> {
    pub source: &'a Source<'a>,
    pub first: usize,
    pub k: usize,
}

impl PanelSource for Columns<'_> {
    fn fill(&self, k: Range<usize>, columns: Range<usize>, panel: &mut Panel<'_>) {
        let isa = panel.isa();
        panel.columns(|j, out| self.source.unpack(isa, self.first + columns.start + j, self.k, k.start, out));
    }
}

/// A weight `[k, n]`.
pub(super) struct Rows<'a> {
    pub source: &'a Source<'a>,
    pub n: usize,
}

impl PanelSource for Rows<'_> {
    fn fill(&self, k: Range<usize>, columns: Range<usize>, panel: &mut Panel<'_>) {
        let isa = panel.isa();
        panel.rows(|i, out| self.source.unpack(isa, k.start + i, self.n, columns.start, out));
    }
}
