//! Many rows of `x`: panels of the weight are unpacked once for all of them.
//!
//! ```text
//! for each task = chunk of rows of x × group of columns          parts claim tasks
//!   for each block of K                                          in ascending order
//!     for each panel, two vectors of columns
//!       unpack its codes: pairs of integers, column by column    stays in the first-level cache
//!       for each few rows of the chunk
//!         for each span                                          sums in registers
//!           add its product to the block of results
//! ```

use std::ops::Range;

use super::activations::{Layout, Run};
use super::level::{Integers, Level, Pairs};
use super::{Activations, Integer, RUN, Words, on_level};
use crate::backend::cpu::simd::Vector;
use crate::isa::{Isa, IsaToken};
use crate::ops::coding::Source;

/// Rows of `x` that share an unpacked panel, at most.
pub(in crate::ops::linear::cpu) const ROW_CHUNK: usize = 192;
/// Columns of a task, at most.
const GROUP: usize = 256;
/// Values of a block of K: a multiple of every span.
const DEPTH: usize = 512;
/// The widest panel.
const MAX_COLUMNS: usize = 32;
/// Spans of a block, at most.
const MAX_SPANS: usize = DEPTH / RUN;

/// Writes runs of codes from the row at the pointer.
pub(super) type Unpack = unsafe fn(IsaToken, *const u8, &mut [Run]);

on_level! {
    /// Writes the codes of as many runs as `out` holds.
    ///
    /// # Safety
    /// This machine has `isa`; `p` is valid for the runs.
    pub(super) unsafe fn unpack<C: Words>(p: *const u8, out: &mut [Run]) = unpack_body
}

#[inline(always)]
unsafe fn unpack_body<L: Level, C: Words>(p: *const u8, out: &mut [Run]) {
    for (i, run) in out.iter_mut().enumerate() {
        // SAFETY: the caller's word.
        unsafe { L::Few::store(C::codes::<L::Few>(p.add(i * C::BYTES)), run) };
    }
}

/// A product of many rows, cut into tasks.
pub(in crate::ops::linear::cpu) struct Tiles<'a> {
    unpack: Unpack,
    middle: f32,
    isa: IsaToken,
    source: &'a Source<'a>,
    /// The row of the source that is the first column.
    first_row: usize,
    columns: usize,
    k: usize,
}

/// What a thread works in.
pub(in crate::ops::linear::cpu) struct Scratch {
    /// Codes of a vector of columns.
    staging: Vec<Run>,
    /// Pairs of codes, `columns` of a panel after each other.
    panel: Vec<Run>,
    /// Scales and biases of the panel, span by span.
    scales: Vec<f32>,
    biases: Vec<f32>,
    /// Results, rows `GROUP` apart.
    results: Vec<f32>,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch {
            staging: vec![Run([0; RUN]); 16 * (DEPTH / RUN + 1)],
            panel: vec![Run([0; RUN]); DEPTH / RUN * MAX_COLUMNS],
            scales: vec![0.0; MAX_SPANS * MAX_COLUMNS],
            biases: vec![0.0; MAX_SPANS * MAX_COLUMNS],
            results: vec![0.0; ROW_CHUNK * GROUP],
        }
    }
}

/// Rows of a tile, columns of a panel, and lanes of a vector.
fn extents(isa: IsaToken) -> (usize, usize, usize) {
    match isa.level() {
        Isa::Avx512 | Isa::Avx512Bf16 => (12, 32, 16),
        Isa::Avx2 => (6, 16, 8),
        _ => (4, 16, 8),
    }
}

impl<'a> Tiles<'a> {
    /// A matrix of `columns` rows of `k`, of which the first is row `first_row` of the source.
    pub(in crate::ops::linear::cpu) fn new(
        integer: &Integer,
        isa: IsaToken,
        source: &'a Source<'a>,
        first_row: usize,
        columns: usize,
        k: usize,
    ) -> Self {
        Tiles { unpack: integer.unpack, middle: integer.middle, isa, source, first_row, columns, k }
    }

    /// Takes `rows` rows of `x` for [`run`](Self::run), `row(i, values)` being asked for the values of row `i`, all finite.
    pub(in crate::ops::linear::cpu) fn rows(&self, rows: usize, row: impl FnMut(usize, &mut [f32])) -> Activations {
        Activations::new(self.isa, rows, self.k, self.source.span(), self.middle, Layout::Words, row)
    }

    /// Columns of a task for `parts` parts, if there are `chunks` chunks of rows.
    pub(in crate::ops::linear::cpu) fn group(&self, chunks: usize, parts: usize) -> usize {
        let (_, width, _) = extents(self.isa);
        let wanted = (4 * parts).div_ceil(chunks).max(self.columns.div_ceil(GROUP)).max(1);
        self.columns.div_ceil(wanted).next_multiple_of(width).min(GROUP)
    }

    /// Computes `columns` of the products of all rows of `x`; `sink(i, values)` takes those of row `i`.
    pub(in crate::ops::linear::cpu) fn run(
        &self,
        x: &Activations,
        columns: Range<usize>,
        scratch: &mut Scratch,
        mut sink: impl FnMut(usize, &mut [f32]),
    ) {
        assert!(x.rows() <= ROW_CHUNK && columns.len() <= GROUP && columns.end <= self.columns);
        let (_, width, _) = extents(self.isa);
        scratch.results[..x.rows() * GROUP].fill(0.0);
        for k in (0..self.k).step_by(DEPTH) {
            let depth = DEPTH.min(self.k - k);
            for first in (0..columns.len()).step_by(width) {
                let count = width.min(columns.len() - first);
                self.fill(columns.start + first..columns.start + first + count, k..k + depth, scratch);
                self.multiply(x, k..k + depth, first, scratch);
            }
        }
        for (i, row) in scratch.results.chunks_exact_mut(GROUP).take(x.rows()).enumerate() {
            sink(i, &mut row[..columns.len()]);
        }
    }

    /// Unpacks the panel of `columns`.
    fn fill(&self, columns: Range<usize>, k: Range<usize>, scratch: &mut Scratch) {
        let (_, width, lanes) = extents(self.isa);
        let runs = k.len() / RUN;
        let span = self.source.span();
        let spans = k.start / span..k.end / span;
        let pitch = DEPTH / RUN + 1;
        for first in (0..width).step_by(lanes) {
            for lane in 0..lanes {
                let (j, staged) = (first + lane, &mut scratch.staging[lane * pitch..][..runs]);
                let (mut scales, mut biases) = ([0.0; MAX_SPANS], [0.0; MAX_SPANS]);
                if j < columns.len() {
                    let row = self.first_row + columns.start + j;
                    let codes = &self.source.row(row)[k.start * self.source.row_bytes() / self.k..];
                    // SAFETY: the level is there; `Source` checked that rows are whole, and groups are whole runs.
                    unsafe { (self.unpack)(self.isa, codes.as_ptr(), staged) };
                    self.source.scales(row, self.k, spans.clone(), &mut scales, &mut biases);
                } else {
                    staged.fill(Run([0; RUN]));
                }
                for s in 0..spans.len() {
                    scratch.scales[s * MAX_COLUMNS + j] = scales[s];
                    scratch.biases[s * MAX_COLUMNS + j] = biases[s];
                }
            }
            let (staged, panel) = (scratch.staging.as_ptr().cast::<f32>(), scratch.panel.as_mut_ptr().cast::<f32>());
            for pair in (0..runs * RUN / 2).step_by(lanes) {
                // SAFETY: the level is there; both blocks of pairs, 32 bits each, lie inside their memory: a run has 16
                // pairs, a multiple of every number of lanes.
                unsafe {
                    let to = panel.add(pair * width + first);
                    transpose_on(self.isa, staged.add(pair), pitch * RUN / 2, to, width);
                }
            }
        }
    }

    /// Adds the products of all rows with the panel to the results from column `first` on.
    fn multiply(&self, x: &Activations, k: Range<usize>, first: usize, scratch: &mut Scratch) {
        let (height, _, _) = extents(self.isa);
        let tiles = x.rows().div_ceil(height);
        for tile in 0..tiles {
            // Evenly: 7 rows are 4 and 3, not 6 and 1.
            let rows = x.rows() * tile / tiles..x.rows() * (tile + 1) / tiles;
            let results = &mut scratch.results[rows.start * GROUP + first..];
            let tile = Tile { x, rows, k: k.clone(), panel: &scratch.panel, scales: &scratch.scales, biases: &scratch.biases };
            // SAFETY: the level is there; panel, scales and results have room for whole tiles.
            unsafe { tile_on(self.isa, &tile, results) };
        }
    }
}

on_level! {
    /// # Safety
    /// This machine has `isa`; the pointers are valid for blocks of as many lanes either way.
    unsafe fn transpose_on(source: *const f32, source_pitch: usize, target: *mut f32, target_pitch: usize) = transpose_body
}

#[inline(always)]
unsafe fn transpose_body<L: Level>(source: *const f32, source_pitch: usize, target: *mut f32, target_pitch: usize) {
    // SAFETY: the caller's word. 32 bits are moved, whatever they mean.
    unsafe { <L::Many as Pairs>::Floats::transpose(source, source_pitch, target, target_pitch) }
}

/// A few rows of `x` and a panel.
struct Tile<'a> {
    x: &'a Activations,
    rows: Range<usize>,
    k: Range<usize>,
    panel: &'a [Run],
    /// Spans `MAX_COLUMNS` apart.
    scales: &'a [f32],
    biases: &'a [f32],
}

on_level! {
    /// # Safety
    /// This machine has `isa`; rows of a tile and columns of a panel are those of the level.
    unsafe fn tile_on(tile: &Tile<'_>, results: &mut [f32]) = tile_body
}

#[inline(always)]
unsafe fn tile_body<L: Level>(tile: &Tile<'_>, results: &mut [f32]) {
    debug_assert!(tile.rows.len() <= L::Many::ROWS);
    // SAFETY: the caller's word. What a level has no tile for is not compiled for it.
    unsafe {
        match tile.rows.len() {
            1 => rows_of_tile::<L::Many, 1>(tile, results),
            2 => rows_of_tile::<L::Many, 2>(tile, results),
            3 => rows_of_tile::<L::Many, 3>(tile, results),
            4 => rows_of_tile::<L::Many, 4>(tile, results),
            5 if L::Many::ROWS >= 5 => rows_of_tile::<L::Many, 5>(tile, results),
            6 if L::Many::ROWS >= 6 => rows_of_tile::<L::Many, 6>(tile, results),
            7 if L::Many::ROWS >= 7 => rows_of_tile::<L::Many, 7>(tile, results),
            8 if L::Many::ROWS >= 8 => rows_of_tile::<L::Many, 8>(tile, results),
            9 if L::Many::ROWS >= 9 => rows_of_tile::<L::Many, 9>(tile, results),
            10 if L::Many::ROWS >= 10 => rows_of_tile::<L::Many, 10>(tile, results),
            11 if L::Many::ROWS >= 11 => rows_of_tile::<L::Many, 11>(tile, results),
            12 if L::Many::ROWS >= 12 => rows_of_tile::<L::Many, 12>(tile, results),
            rows => unreachable!("{rows} rows of a tile"),
        }
    }
}

#[inline(always)]
unsafe fn rows_of_tile<P: Pairs, const R: usize>(tile: &Tile<'_>, results: &mut [f32]) {
    let lanes = P::Floats::LANES;
    let span = tile.x.span();
    let first_span = tile.k.start / span;
    let span_pairs = span / 2;
    // SAFETY: the caller's word: rows of `x` have all spans of the block, the panel `2 * lanes` columns for each pair.
    unsafe {
        let x: [*const i32; R] =
            std::array::from_fn(|i| tile.x.row(tile.rows.start + i).as_ptr().cast::<i32>().add(tile.k.start / 2));
        let powers: [*const f32; R] = std::array::from_fn(|i| tile.x.powers(tile.rows.start + i).as_ptr().add(first_span));
        let sums_of_x: [*const f32; R] = std::array::from_fn(|i| tile.x.sums(tile.rows.start + i).as_ptr().add(first_span));
        let rests: [*const f32; R] =
            std::array::from_fn(|i| tile.x.rests(tile.rows.start + i).as_ptr().add(first_span));
        let mut panel = tile.panel.as_ptr().cast::<i32>();
        for s in 0..tile.k.len() / span {
            let mut sums = [[P::zero(); 2]; R];
            for pair in s * span_pairs..(s + 1) * span_pairs {
                let codes = [P::load(panel), P::load(panel.add(lanes))];
                panel = panel.add(2 * lanes);
                for i in 0..R {
                    let x = P::splat(x[i].add(pair));
                    sums[i] = [sums[i][0].dot(codes[0], x), sums[i][1].dot(codes[1], x)];
                }
            }
            for j in 0..2 {
                let scale = P::Floats::load(tile.scales.as_ptr().add(s * MAX_COLUMNS + j * lanes));
                let bias = P::Floats::load(tile.biases.as_ptr().add(s * MAX_COLUMNS + j * lanes));
                for i in 0..R {
                    let scaled = scale.mul(P::Floats::splat(*powers[i].add(s)));
                    let biased = bias.mul(P::Floats::splat(*sums_of_x[i].add(s)));
                    let total = sums[i][j].to_floats().add(P::Floats::splat(*rests[i].add(s)));
                    let to = results.as_mut_ptr().add(i * GROUP + j * lanes);
                    P::Floats::load(to).add(P::mul_add(total, scaled, biased)).store(to);
                }
            }
        }
    }
}
