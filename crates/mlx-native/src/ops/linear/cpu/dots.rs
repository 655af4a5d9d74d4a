//! Few rows of `x` by packed rows: each packed row is read once, in place.
//!
//! Every product of a row of `x` and a row of the weight is summed in one order, which depends on nothing but the format and
//! the instruction set: lanes along K, then the lanes. So a row of `x` gives the same bits alone and in company.

use std::ops::Range;

use super::integer::Integer;
use crate::backend::cpu::IsaToken;
use crate::backend::cpu::prefetch::prefetch;
use crate::backend::cpu::simd::{MAX_LANES, vectorize};
use crate::ops::coding::{Codes, Coding, Dense, Functions, RUN, Source, Tail, run_scales};

/// Rows of `x`, at most.
pub(super) const MAX_ROWS: usize = 8;
/// Rows of the weight that a part claims at a time.
pub(super) const CLAIM: usize = 32;
/// Rows of the weight that are walked together, at most.
const BATCH: usize = 4;
/// Bytes of the weight that are asked for before they are needed, at least: the time that they take is that of memory.
const AHEAD: usize = 4096;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Values of `x` in a block, at most: a block stays in the first-level cache.
const BLOCK_VALUES: usize = 8192;
/// Blocks are a multiple of this: of every group.
const BLOCK_GRANULE: usize = 256;
/// The fewest weights that share a scale.
const MIN_SPAN: usize = 16;

/// Sums of a claim: `MAX_ROWS` rows of `x`.
pub(super) type Sums = [[f32; CLAIM]; MAX_ROWS];

/// What differs between formats.
pub(super) struct Format {
    pub coding: Functions,
    /// How it is multiplied as integers, if it can be.
    pub integer: Option<Integer>,
    /// `dots_on` of the coding, or of plain numbers where the coding is unpacked to memory first.
    dots: unsafe fn(IsaToken, usize, &Dots<'_>, &mut Scratch, &mut Sums),
}

impl Format {
    pub(super) const fn of<C: Coding>() -> Self {
        let dots = if C::DIRECT { dots_on::<C> } else { dots_on::<Dense<f32>> };
        Format { coding: Functions::of::<C>(), integer: Integer::of::<C>(), dots }
    }
}

/// Rows of `x`, widened and put into the order of the codes, in blocks along K.
pub(super) struct Block {
    rows: usize,
    k: usize,
    len: usize,
    values: Vec<f32>,
}

/// What a thread keeps for its claims.
#[derive(Default)]
pub(super) struct Scratch {
    /// `BATCH` rows of scales, then as many of biases.
    scales: Vec<f32>,
    /// Vectors of sums that wait for the next block.
    partial: Vec<f32>,
    /// `BATCH` rows of unpacked weights.
    weights: Vec<f32>,
}

impl Block {
    /// Takes `rows` rows of `x`, `row(i, values)` being asked for the values of row `i`.
    pub(super) fn new(
        format: &Format,
        isa: IsaToken,
        rows: usize,
        k: usize,
        mut row: impl FnMut(usize, &mut [f32]),
    ) -> Self {
        assert!(0 < rows && rows <= MAX_ROWS && k > 0);
        // The kernels take one row or four; those that are too many are zeros.
        let rows = if rows == 1 { 1 } else { rows.next_multiple_of(4) };
        let padded = k.next_multiple_of(RUN);
        let most = if format.coding.direct { BLOCK_VALUES / rows } else { BLOCK_VALUES / BATCH.max(rows) };
        let len = (most / BLOCK_GRANULE * BLOCK_GRANULE).min(padded);
        let mut block = Block { rows, k, len, values: Vec::new() };
        block.values.resize(padded.div_ceil(len) * block.size(), 0.0);
        let mut values = vec![0.0; padded];
        for i in 0..rows {
            values[k..].fill(0.0);
            row(i, &mut values[..k]);
            // SAFETY: `isa` is a level of this machine; `values` are whole runs.
            unsafe { (format.coding.arrange)(isa, &mut values) };
            for (b, values) in values.chunks(len).enumerate() {
                let at = b * block.size() + i * block.pitch();
                block.values[at..at + values.len()].copy_from_slice(values);
            }
        }
        block
    }

    /// Distance of the rows of a block: not a power of two, so that they do not compete for the same cache sets.
    fn pitch(&self) -> usize {
        self.len + 16
    }

    /// Distance of the blocks.
    fn size(&self) -> usize {
        self.rows * self.pitch()
    }

    /// `sums[i][j]` = row `i` of `x` times row `rows.start + j` of the weight.
    pub(super) fn times(
        &self,
        format: &Format,
        isa: IsaToken,
        source: &Source<'_>,
        rows: Range<usize>,
        scratch: &mut Scratch,
        sums: &mut Sums,
    ) {
        assert!(rows.len() <= CLAIM);
        scratch.scales.resize(2 * BATCH * (self.len / MIN_SPAN + 2), 0.0);
        scratch.partial.resize(CLAIM * MAX_ROWS * MAX_LANES, 0.0);
        for (block, x) in self.values.chunks_exact(self.size()).enumerate() {
            let start = block * self.len;
            let end = self.k.min(start + self.len);
            let dots = Dots {
                x,
                first_x: 0,
                pitch: self.pitch(),
                start,
                end,
                k: self.k,
                source,
                rows: rows.clone(),
                claimed: 0,
                is_first: start == 0,
                is_last: end == self.k,
            };
            if format.coding.direct {
                // SAFETY: `isa` is a level of this machine; `x` holds whole runs for `start..end`; the source was checked
                // when it was made; scratch has the room that is asked for above.
                unsafe { (format.dots)(isa, self.rows, &dots, scratch, sums) };
            } else {
                self.unpack_and_dot(format, isa, &dots, scratch, sums);
            }
        }
    }

    /// As `dots_on`, the rows being unpacked to memory before: two steps, of which only the first is compiled for each coding.
    fn unpack_and_dot(&self, format: &Format, isa: IsaToken, dots: &Dots<'_>, scratch: &mut Scratch, sums: &mut Sums) {
        let len = dots.end - dots.start;
        let padded = len.next_multiple_of(RUN);
        let mut weights = std::mem::take(&mut scratch.weights);
        weights.resize(BATCH * padded, 0.0);
        for claimed in (0..dots.rows.len()).step_by(BATCH) {
            let count = BATCH.min(dots.rows.len() - claimed);
            for (r, out) in weights.chunks_exact_mut(padded).take(count).enumerate() {
                let row = dots.rows.start + claimed + r;
                prefetch(dots.source.row(row).as_ptr().wrapping_add(AHEAD));
                dots.source.unpack(isa, row, dots.k, dots.start, &mut out[..len]);
                out[len..].fill(0.0);
            }
            let source = Source::dense(&weights, padded);
            let dots = Dots { source: &source, start: 0, end: padded, k: padded, rows: 0..count, claimed, ..*dots };
            // SAFETY: as in `times`; the source has `count` rows of whole runs.
            unsafe { (format.dots)(isa, self.rows, &dots, scratch, sums) };
        }
        scratch.weights = weights;
    }
}

/// Rows of the weight against rows of `x`, over one block of K.
struct Dots<'a> {
    /// Rows `pitch` apart, of which the first is row `first_x`.
    x: &'a [f32],
    first_x: usize,
    pitch: usize,
    /// The block: elements `start..end` of `k`.
    start: usize,
    end: usize,
    k: usize,
    source: &'a Source<'a>,
    rows: Range<usize>,
    /// Where the first of `rows` stands in the claim.
    claimed: usize,
    /// Whether sums begin with this block, and whether they end with it.
    is_first: bool,
    is_last: bool,
}

vectorize! {
    /// # Safety
    /// This machine has `isa`; `dots` is as `Block::times` makes it.
    unsafe fn dots_on<C: Coding>(m: usize, dots: &Dots<'_>, scratch: &mut Scratch, sums: &mut Sums) = dots_body
}

#[inline(always)]
unsafe fn dots_body<V: Codes, C: Coding>(m: usize, dots: &Dots<'_>, scratch: &mut Scratch, sums: &mut Sums) {
    // Rows of `x`, and rows of the weight at once: sums enough that no multiply-add waits for the one before, and few enough
    // for the registers.
    // SAFETY: the caller's word.
    unsafe {
        match m {
            1 => all_rows::<V, C, 1, 4>(dots, scratch, sums),
            // Four at a time: the weights of a claim are still in the cache when they are unpacked again.
            _ => {
                for first_x in (0..m).step_by(4) {
                    let x = &dots.x[first_x * dots.pitch..];
                    let dots = Dots { x, first_x, rows: dots.rows.clone(), ..*dots };
                    all_rows::<V, C, 4, 2>(&dots, scratch, sums);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn all_rows<V: Codes, C: Coding, const M: usize, const R: usize>(
    dots: &Dots<'_>,
    scratch: &mut Scratch,
    sums: &mut Sums,
) {
    let span = dots.source.span();
    // Blocks begin at a multiple of every group; the last one may end within a run.
    let spans = dots.start / span..dots.end.div_ceil(span).min(dots.k / span).max(dots.start / span + 1);
    // A row may end within a run, and the run within a span.
    let pitch = spans.len().max((dots.end - dots.start).div_ceil(RUN) * RUN / span).max(1);
    let (scales, biases) = scratch.scales.split_at_mut(BATCH * pitch);
    for first in (0..dots.rows.len()).step_by(R) {
        for r in 0..R {
            // Rows beyond the last repeat it; their sums are not kept.
            let row = dots.rows.start + (first + r).min(dots.rows.len() - 1);
            let (scales, biases) = (&mut scales[r * pitch..][..pitch], &mut biases[r * pitch..][..pitch]);
            dots.source.scales(row, dots.k, spans.clone(), scales, biases);
            // Where a row ends within a run, its second half has none.
            scales[spans.len()..].fill(0.0);
            biases[spans.len()..].fill(0.0);
        }
        // SAFETY: the caller's word.
        unsafe { some_rows::<V, C, M, R>(dots, first, pitch, scales, biases, &mut scratch.partial, sums) };
    }
}

/// How far ahead of itself a walk along rows that take `batch` bytes together asks for memory: at the rows that come after
/// them where rows are short, in the same rows where they are long.
fn distance(batch: usize) -> usize {
    let later_rows = batch.max(1) * AHEAD.div_ceil(batch.max(1));
    if later_rows <= 4 * AHEAD { later_rows } else { AHEAD / 4 }
}

/// `R` rows of the weight, of which the first is row `first` of the claim.
#[inline(always)]
unsafe fn some_rows<V: Codes, C: Coding, const M: usize, const R: usize>(
    dots: &Dots<'_>,
    first: usize,
    scales_pitch: usize,
    scales: &[f32],
    biases: &[f32],
    partial: &mut [f32],
    sums: &mut Sums,
) {
    let row_of = |r: usize| dots.source.row(dots.rows.start + (first + r).min(dots.rows.len() - 1));
    let span = dots.source.span();
    let row_bytes = dots.source.row_bytes();
    let run_bytes = row_bytes * RUN / dots.k;
    let ahead = distance(R * row_bytes);
    let whole = (dots.end - dots.start) / RUN;
    let first_run = dots.start / RUN;
    let x = dots.x.as_ptr();
    let saved = |r: usize, i: usize| ((dots.claimed + first + r) * MAX_ROWS + dots.first_x + i) * MAX_LANES;
    // SAFETY: the caller's word: all addresses lie inside the rows; `partial` has `MAX_LANES` for each row of the claim and of
    // `x`, and rows beyond the claim are never stored.
    unsafe {
        let mut rows = [std::ptr::null::<u8>(); R];
        let mut total = [[V::splat(0.0); M]; R];
        for r in 0..R {
            rows[r] = row_of(r).as_ptr();
            if !dots.is_first && first + r < dots.rows.len() {
                for i in 0..M {
                    total[r][i] = V::load(partial.as_ptr().add(saved(r, i)));
                }
            }
        }
        // Runs that share their scales, and a cache line.
        let runs = (span / RUN).min(LINE / run_bytes).max(1);
        let runs = if runs.is_power_of_two() { runs } else { runs.next_power_of_two() / 2 };
        let mut run = 0;
        while run < whole {
            let mut scaled = [[C::scaled::<V>(0.0, 0.0); 2]; R];
            for r in 0..R {
                prefetch(rows[r].wrapping_add(ahead + (first_run + run) * run_bytes));
                let at = r * scales_pitch;
                scaled[r] = run_scales::<V, C>(run, span, &scales[at..at + scales_pitch], &biases[at..at + scales_pitch]);
            }
            let end = whole.min(run + runs);
            while run < end {
                for r in 0..R {
                    let weights = C::weights::<V>(rows[r], first_run + run, scaled[r]);
                    for (v, w) in weights.as_ref().iter().enumerate() {
                        for i in 0..M {
                            let at = i * dots.pitch + run * RUN + v * V::LANES;
                            total[r][i] = w.mul_add(V::load(x.add(at)), total[r][i]);
                        }
                    }
                }
                run += 1;
            }
        }
        if !(dots.end - dots.start).is_multiple_of(RUN) {
            for r in 0..R {
                let row = row_of(r);
                let mut tail = Tail([0; RUN * size_of::<f32>()]);
                let rest = &row[(first_run + whole) * run_bytes..];
                tail.0[..rest.len()].copy_from_slice(rest);
                let at = r * scales_pitch;
                let scaled = run_scales::<V, C>(whole, span, &scales[at..at + scales_pitch], &biases[at..at + scales_pitch]);
                let weights = C::weights::<V>(tail.0.as_ptr(), 0, scaled);
                for (v, w) in weights.as_ref().iter().enumerate() {
                    for i in 0..M {
                        let at = i * dots.pitch + whole * RUN + v * V::LANES;
                        total[r][i] = w.mul_add(V::load(x.add(at)), total[r][i]);
                    }
                }
            }
        }
        for r in 0..R.min(dots.rows.len() - first) {
            for i in 0..M {
                if dots.is_last {
                    sums[dots.first_x + i][dots.claimed + first + r] = total[r][i].sum();
                } else {
                    total[r][i].store(partial.as_mut_ptr().add(saved(r, i)));
                }
            }
        }
    }
}
