//! Products of matrices: `output[m, n] = x[m, k] · B[k, n]`, whatever `B` is stored as.
//!
//! ```text
//! for each task = chunk of rows of x  ×  group of columns of B        parts claim tasks
//!   for each block of K                                               in ascending order: results depend on nothing else
//!     widen the chunk's rows of x into `a`                            once for the whole group
//!     for each panel, NR columns of the group
//!       fill `b` with KC × NR values of B                             a PanelSource: dense, transposed, dequantised
//!       for each MR rows of the chunk
//!         the micro-kernel adds a[MR, KC] · b[KC, NR] to `c`          all the time goes here
//!   round `c` into the output
//! ```
//!
//! `b` stays in the first-level cache, `a` and `c` in the second. A weight is filled once for a chunk of up to
//! [`ROW_CHUNK`] rows, so what filling costs, a transposition, a dequantisation, is divided by that many multiply-adds.
//! Sums are in f32: one per block of [`DEPTH`], added up in order; the output is rounded once.
//!
//! For the few rows of decoding, where each weight is used once or little more, there is [`gemv`]: no panels.

mod gemv;
mod micro;
mod panel;
mod scratch;
#[cfg(test)]
mod tests;

pub(crate) use gemv::{gemv_columns, gemv_rows};
pub(crate) use panel::{DenseColumns, DenseRows, Panel, PanelSource};

use micro::{MicroKernel, Tile};
use scratch::with_scratch;

use super::{Element, Launch, Output};
use crate::isa::IsaToken;

/// Rows of `x` that share a filled panel, at most.
pub(crate) const ROW_CHUNK: usize = 336;
/// Extent of a block of K.
pub(crate) const DEPTH: usize = 256;
/// Columns of a task, at most.
const GROUP: usize = 256;
/// Distance of the rows of `a` in elements: not a power of two, so that they do not compete for the same cache sets.
const PITCH: usize = DEPTH + 16;

/// Extents of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Rows of `x` and of the output.
    pub m: usize,
    /// Columns of `B` and of the output.
    pub n: usize,
    /// Columns of `x`, rows of `B`.
    pub k: usize,
}

/// How a product is cut into tasks.
struct Plan {
    shape: Shape,
    row_chunk: usize,
    group: usize,
}

impl Plan {
    fn new(shape: Shape, panel_width: usize, parts: usize) -> Self {
        let chunks = shape.m.div_ceil(ROW_CHUNK).max(1);
        // Some tasks for each part, so that none waits long for the last one; but a group is at least one panel.
        let wanted_groups = (4 * parts).div_ceil(chunks).max(shape.n.div_ceil(GROUP)).max(1);
        let group = shape
            .n
            .div_ceil(wanted_groups)
            .next_multiple_of(panel_width)
            .min(GROUP);
        Plan {
            shape,
            row_chunk: shape.m.div_ceil(chunks),
            group,
        }
    }

    fn groups(&self) -> usize {
        self.shape.n.div_ceil(self.group)
    }

    fn tasks(&self) -> usize {
        self.shape.m.div_ceil(self.row_chunk) * self.groups()
    }
}

/// A product to be computed: who gives the rows of `x`, who the panels of `B`, and who takes the results.
pub(crate) struct Product<'a> {
    /// Its extents.
    pub shape: Shape,
    /// `x(i, k, values)` writes the values of row `i` of `x` from column `k` on.
    pub x: &'a dyn Fn(usize, usize, &mut [f32]),
    /// The right-hand matrix.
    pub source: &'a dyn PanelSource,
    /// `sink(i, j, values)` takes the values of row `i` of the output from column `j` on, each once.
    pub sink: &'a dyn Fn(usize, usize, &mut [f32]),
}

impl Product<'_> {
    /// How many tasks it is cut into for `parts` parts.
    pub(crate) fn tasks(&self, isa: IsaToken, parts: usize) -> usize {
        let Shape { m, n, k } = self.shape;
        if m == 0 || n == 0 || k == 0 {
            return 0;
        }
        Plan::new(self.shape, MicroKernel::of(isa).columns, parts).tasks()
    }

    /// Computes one of its [`tasks`](Self::tasks).
    pub(crate) fn run(&self, isa: IsaToken, parts: usize, task: usize) {
        let kernel = MicroKernel::of(isa);
        let plan = Plan::new(self.shape, kernel.columns, parts);
        let (row, column) = (
            task / plan.groups() * plan.row_chunk,
            task % plan.groups() * plan.group,
        );
        let block = Block {
            isa,
            shape: self.shape,
            row,
            rows: plan.row_chunk.min(self.shape.m - row),
            column,
            columns: plan.group.min(self.shape.n - column),
        };
        with_scratch(|scratch| {
            block.multiply(kernel, self, scratch);
            block.store(&mut scratch.c, self);
        });
    }

    /// The share of one part of a launch: it claims tasks until none is left. Every part of the launch must call it, with
    /// the same product; the launch's `next_chunk` is used up by it.
    ///
    /// # Panics
    /// When `x` or the sink is given less than the shape says; the pool makes an error of it.
    pub(crate) fn share(&self, launch: &Launch<'_>, parts: usize) {
        let total = self.tasks(launch.isa(), parts);
        while let Some(tasks) = launch.next_chunk(total, 1) {
            tasks.for_each(|task| self.run(launch.isa(), parts, task));
        }
    }
}

/// The share of one part in `output = x · B`, both in memory. As [`Product::share`].
pub(crate) fn gemm<T: Element>(
    launch: &Launch<'_>,
    parts: usize,
    shape: Shape,
    x: &[T],
    source: &dyn PanelSource,
    output: &Output<'_, T>,
) {
    let product = Product {
        shape,
        x: &|i, k, target| {
            let start = i * shape.k + k;
            T::widen(&x[start..start + target.len()], target);
        },
        source,
        // SAFETY: tasks write disjoint blocks of the output, and this part claimed the one at hand.
        sink: &|i, j, values| unsafe { output.store(i * shape.n + j, values) },
    };
    product.share(launch, parts);
}

/// A task: a block of the output.
struct Block {
    isa: IsaToken,
    shape: Shape,
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

impl Block {
    fn multiply(&self, kernel: &'static MicroKernel, product: &Product<'_>, scratch: &mut scratch::Scratch) {
        for k in (0..self.shape.k).step_by(DEPTH) {
            let depth = DEPTH.min(self.shape.k - k);
            for (i, target) in scratch.a.chunks_exact_mut(PITCH).take(self.rows).enumerate() {
                (product.x)(self.row + i, k, &mut target[..depth]);
            }
            for column in (0..self.columns).step_by(kernel.columns) {
                let count = kernel.columns.min(self.columns - column);
                let mut panel = Panel::new(
                    self.isa,
                    kernel,
                    depth,
                    count,
                    &mut scratch.b,
                    &mut scratch.staging,
                );
                let first = self.column + column;
                product
                    .source
                    .fill(k..k + depth, first..first + count, &mut panel);
                self.multiply_panel(kernel, depth, k == 0, column, scratch);
            }
        }
    }

    /// Adds the chunk's rows times the filled panel to columns `column..` of `c`.
    fn multiply_panel(
        &self,
        kernel: &'static MicroKernel,
        depth: usize,
        is_first: bool,
        column: usize,
        scratch: &mut scratch::Scratch,
    ) {
        let tiles = self.rows.div_ceil(kernel.rows);
        for tile in 0..tiles {
            // Evenly: 15 rows are 8 and 7, not 14 and 1.
            let (row, end) = (self.rows * tile / tiles, self.rows * (tile + 1) / tiles);
            kernel.multiply(&mut Tile {
                rows: end - row,
                depth,
                is_first,
                a: &scratch.a[row * PITCH..],
                b: &scratch.b,
                c: &mut scratch.c[row * GROUP + column..],
            });
        }
    }

    fn store(&self, c: &mut [f32], product: &Product<'_>) {
        for (i, row) in c.chunks_exact_mut(GROUP).take(self.rows).enumerate() {
            (product.sink)(self.row + i, self.column, &mut row[..self.columns]);
        }
    }
}
