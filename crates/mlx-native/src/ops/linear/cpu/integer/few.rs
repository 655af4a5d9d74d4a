//! Few rows of `x`: each packed row is read once, in place.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::activations::{EIGHT, Layout, Run};
use super::level::{Integers, Level};
use super::{Activations, CLAIM, MAX_ROWS, RUN, ScaleType, Words, on_level};
use crate::backend::cpu::prefetch::prefetch;
use crate::isa::IsaToken;
use crate::ops::coding::{IntegerScales, Source};
use crate::ops::linear::cpu::dots::Sums;

/// Bytes of the weight that are asked for before they are needed.
const AHEAD: usize = 4096;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes of `x` that are walked before the next row of the weight is: they stay in the first-level cache.
const BLOCK_BYTES: usize = 16 * 1024;
/// Eights of spans in a block, at most, and the products of them that wait to be added.
const MAX_EIGHTS: usize = BLOCK_BYTES / (EIGHT * 32 * size_of::<i16>());
const PITCH: usize = MAX_EIGHTS * EIGHT + EIGHT;
/// Sums that are added up together: of rows of the weight times rows of `x`.
const TOGETHER: usize = 8;

/// Products of spans on their way to the sums: what a thread keeps for its claims.
pub(in crate::ops::linear::cpu) struct FewScratch(Vec<f32>);

impl Default for FewScratch {
    fn default() -> Self {
        FewScratch(vec![0.0; TOGETHER * PITCH])
    }
}

/// Rows of `x` against rows of a weight.
pub(in crate::ops::linear::cpu) struct Few<'a> {
    functions: Functions,
    isa: IsaToken,
    x: Activations,
    source: &'a Source<'a>,
    scale_type: ScaleType,
    scales: &'a [u8],
    biases: &'a [u8],
}

/// What differs between kinds of codes.
#[derive(Clone, Copy)]
pub(super) struct Functions {
    claim: unsafe fn(IsaToken, &Claim<'_>, &mut FewScratch, &mut Sums),
    layout: fn(IsaToken) -> Layout,
}

pub(super) const fn functions<C: Words>() -> Functions {
    Functions { claim: claim_on::<C>, layout: layout_on::<C> }
}

/// How rows of `x` meet codes of a kind.
fn layout_on<C: Words>(isa: IsaToken) -> Layout {
    let split = match isa.level() {
        #[cfg(target_arch = "x86_64")]
        crate::isa::Isa::Avx2 => <<super::x86::Avx2 as Level>::Few as Integers>::SPLIT,
        #[cfg(target_arch = "x86_64")]
        crate::isa::Isa::Avx512 => <<super::x86::Avx512 as Level>::Few as Integers>::SPLIT,
        #[cfg(target_arch = "x86_64")]
        crate::isa::Isa::Avx512Bf16 => <<super::x86::Vnni as Level>::Few as Integers>::SPLIT,
        _ => false,
    };
    if split && C::NIBBLES { Layout::Bytes } else { Layout::Words }
}

/// Rows of `x` that are taken for `rows`; those too many are zeros.
fn padded_rows(rows: usize) -> usize {
    assert!(0 < rows && rows <= MAX_ROWS);
    if rows <= 4 { rows.next_power_of_two() } else { MAX_ROWS }
}

impl<'a> Few<'a> {
    /// Takes `rows` rows of `k` values, `row(i, values)` being asked for the values of row `i`, all finite.
    pub(in crate::ops::linear::cpu) fn new(
        integer: &super::Integer,
        isa: IsaToken,
        rows: usize,
        k: usize,
        source: &'a Source<'a>,
        mut row: impl FnMut(usize, &mut [f32]),
    ) -> Self {
        let (scale_type, scales, biases) = match source.integer_scales() {
            IntegerScales::Affine { dtype, scales, biases } => {
                ([ScaleType::F32, ScaleType::F16, ScaleType::Bf16][dtype], scales, biases)
            }
            IntegerScales::Powers(scales) => (ScaleType::Power, scales, scales),
            IntegerScales::Others => unreachable!("a coding of integers has scales that they know"),
        };
        let functions = integer.few;
        let layout = (functions.layout)(isa);
        let x = Activations::new(isa, padded_rows(rows), k, source.span(), integer.middle, layout, |i, values| {
            if i < rows { row(i, values) } else { values.fill(0.0) }
        });
        Few { functions, isa, x, source, scale_type, scales, biases }
    }

    /// `sums[i][j]` = row `i` of `x` times row `rows.start + j` of the weight.
    pub(in crate::ops::linear::cpu) fn times(&self, rows: Range<usize>, scratch: &mut FewScratch, sums: &mut Sums) {
        assert!(rows.len() <= CLAIM);
        let claim = Claim {
            x: &self.x,
            source: self.source,
            scale_type: self.scale_type,
            scales: self.scales,
            biases: self.biases,
            rows,
        };
        // SAFETY: `isa` is a level of this machine; codes and scales reach as far as `Source` has checked.
        unsafe { (self.functions.claim)(self.isa, &claim, scratch, sums) };
    }
}

/// Rows of the weight.
pub(super) struct Claim<'a> {
    x: &'a Activations,
    source: &'a Source<'a>,
    scale_type: ScaleType,
    /// Of the whole weight.
    scales: &'a [u8],
    biases: &'a [u8],
    rows: Range<usize>,
}

on_level! {
    /// # Safety
    /// This machine has `isa`; codes and scales reach as far as the rows do.
    unsafe fn claim_on<C: Words>(claim: &Claim<'_>, scratch: &mut FewScratch, sums: &mut Sums) = claim_body
}

#[inline(always)]
unsafe fn claim_body<L: Level, C: Words>(claim: &Claim<'_>, scratch: &mut FewScratch, sums: &mut Sums) {
    // SAFETY: the caller's word.
    unsafe {
        match claim.x.span() / RUN {
            1 => span_body::<L::Few, C, 1>(claim, scratch, sums),
            2 => span_body::<L::Few, C, 2>(claim, scratch, sums),
            _ => span_body::<L::Few, C, 4>(claim, scratch, sums),
        }
    }
}

#[inline(always)]
unsafe fn span_body<V: Integers, C: Words, const RUNS: usize>(
    claim: &Claim<'_>,
    scratch: &mut FewScratch,
    sums: &mut Sums,
) {
    // SAFETY: the caller's word.
    unsafe {
        match claim.x.rows() {
            1 => rows_body::<V, C, RUNS, 1>(claim, 0, scratch, sums),
            2 => rows_body::<V, C, RUNS, 2>(claim, 0, scratch, sums),
            rows => {
                // Four at a time: the codes of a claim are still in the cache when they are read again.
                for first in (0..rows).step_by(4) {
                    rows_body::<V, C, RUNS, 4>(claim, first, scratch, sums);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn rows_body<V: Integers, C: Words, const RUNS: usize, const M: usize>(
    claim: &Claim<'_>,
    first_x: usize,
    scratch: &mut FewScratch,
    sums: &mut Sums,
) {
    let (x, spans) = (claim.x, claim.x.spans());
    let eights = x.padded() / EIGHT;
    let block = (BLOCK_BYTES / (M * EIGHT * RUNS * size_of::<[i16; RUN]>())).max(1);
    let at_once = TOGETHER / M;
    let products = scratch.0.as_mut_ptr();
    let mut rest = MaybeUninit::uninit();
    for start in (0..eights).step_by(block) {
        let count = block.min(eights - start);
        for first in (0..claim.rows.len()).step_by(at_once) {
            let rows = at_once.min(claim.rows.len() - first);
            for r in 0..rows {
                let row = Row::new(claim, claim.rows.start + first + r, spans, RUNS * C::BYTES);
                for eight in 0..count {
                    // SAFETY: the caller's word; products have `PITCH` for each of `TOGETHER`.
                    unsafe {
                        let at = products.add(r * M * PITCH + eight * EIGHT);
                        one_eight::<V, C, RUNS, M>(x, first_x, &row, start + eight, &mut rest, at);
                    }
                }
            }
            let mut totals = [0.0; TOGETHER];
            if start > 0 {
                for v in 0..rows * M {
                    totals[v] = sums[first_x + v % M][first + v / M];
                }
            }
            // SAFETY: as above; what rows that are too few leave in it is not kept.
            unsafe {
                let all = V::in_order(products, PITCH, count, V::load_f32(totals.as_ptr()));
                V::store_f32(all, totals.as_mut_ptr());
            }
            for v in 0..rows * M {
                sums[first_x + v % M][first + v / M] = totals[v];
            }
        }
    }
}

/// A row of the weight.
struct Row {
    codes: *const u8,
    scales: *const u8,
    biases: *const u8,
    scale_type: ScaleType,
    spans: usize,
}

impl Row {
    #[inline(always)]
    fn new(claim: &Claim<'_>, row: usize, spans: usize, span_bytes: usize) -> Self {
        let scale_type = claim.scale_type;
        let bytes = row * spans * scale_type.bytes()..(row + 1) * spans * scale_type.bytes();
        let codes = claim.source.row(row);
        assert!(codes.len() >= spans * span_bytes);
        Row {
            codes: codes.as_ptr(),
            scales: claim.scales[bytes.clone()].as_ptr(),
            biases: claim.biases[bytes].as_ptr(),
            scale_type,
            spans,
        }
    }
}

/// Codes and scales of fewer than eight spans, with zeros behind them.
struct Rest {
    codes: [u8; EIGHT * 4 * RUN],
    scales: [u8; EIGHT * 4],
    biases: [u8; EIGHT * 4],
}

impl Rest {
    /// The spans of `row` from `first` on.
    ///
    /// # Safety
    /// `row` is whole and has fewer than eight of them.
    #[cold]
    #[inline(never)]
    unsafe fn new(row: &Row, first: usize, span_bytes: usize) -> Self {
        let (rest, bytes) = (row.spans - first, row.scale_type.bytes());
        let mut copy = Rest { codes: [0; EIGHT * 4 * RUN], scales: [0; EIGHT * 4], biases: [0; EIGHT * 4] };
        // SAFETY: the caller's word.
        unsafe {
            row.codes.add(first * span_bytes).copy_to_nonoverlapping(copy.codes.as_mut_ptr(), rest * span_bytes);
            row.scales.add(first * bytes).copy_to_nonoverlapping(copy.scales.as_mut_ptr(), rest * bytes);
            row.biases.add(first * bytes).copy_to_nonoverlapping(copy.biases.as_mut_ptr(), rest * bytes);
        }
        copy
    }
}

/// Writes the products of eight spans of a row of the weight with `M` rows of `x`, `PITCH` apart.
///
/// # Safety
/// The processor has the instructions; `row` and `x` are of the same sizes; `to` is valid for the products.
#[inline(always)]
unsafe fn one_eight<V: Integers, C: Words, const RUNS: usize, const M: usize>(
    x: &Activations,
    first_x: usize,
    row: &Row,
    eight: usize,
    rest: &mut MaybeUninit<Rest>,
    to: *mut f32,
) {
    let span_bytes = RUNS * C::BYTES;
    let first = eight * EIGHT;
    // SAFETY: the caller's word. Each row of `x` has the runs of these eight spans; where fewer are left of the weight, a copy
    // has zeros behind them.
    unsafe {
        let bytes = row.scale_type.bytes();
        let mut codes = row.codes.wrapping_add(first * span_bytes);
        let mut scales = row.scales.wrapping_add(first * bytes);
        let mut biases = row.biases.wrapping_add(first * bytes);
        if first + EIGHT > row.spans {
            let rest = rest.write(Rest::new(row, first, span_bytes));
            (codes, scales, biases) = (rest.codes.as_ptr(), rest.scales.as_ptr(), rest.biases.as_ptr());
        }
        for line in (0..EIGHT * span_bytes).step_by(LINE) {
            prefetch(codes.wrapping_add(AHEAD + line));
        }
        let mut rows = [std::ptr::null::<Run>(); M];
        for i in 0..M {
            rows[i] = x.row(first_x + i).as_ptr().add(first * RUNS);
        }
        // One after the other and written out, so that all stays in registers.
        let sums = [
            one_span::<V, C, RUNS, M>(&rows, codes, 0),
            one_span::<V, C, RUNS, M>(&rows, codes, 1),
            one_span::<V, C, RUNS, M>(&rows, codes, 2),
            one_span::<V, C, RUNS, M>(&rows, codes, 3),
            one_span::<V, C, RUNS, M>(&rows, codes, 4),
            one_span::<V, C, RUNS, M>(&rows, codes, 5),
            one_span::<V, C, RUNS, M>(&rows, codes, 6),
            one_span::<V, C, RUNS, M>(&rows, codes, 7),
        ];
        let scale = C::eight::<V>(row.scale_type, scales);
        let bias = if C::BIASED { C::eight::<V>(row.scale_type, biases) } else { scale };
        for i in 0..M {
            let power = V::load_f32(x.powers(first_x + i).as_ptr().add(first));
            let rest = V::load_f32(x.rests(first_x + i).as_ptr().add(first));
            let [a, b, c, d, e, f, g, h] = sums;
            let total = V::add(V::totals([a[i], b[i], c[i], d[i], e[i], f[i], g[i], h[i]]), rest);
            let scaled = V::mul(scale, power);
            let product = if C::BIASED {
                let sum = V::load_f32(x.sums(first_x + i).as_ptr().add(first));
                V::mul_add(total, scaled, V::mul(bias, sum))
            } else {
                V::mul(total, scaled)
            };
            V::store_f32(product, to.add(i * PITCH));
        }
    }
}

/// The sums of span `s` of eight with `M` rows of `x`. A function and no closure: a closure cannot be told to be inlined, and out of
/// line it is compiled without the instructions of the level, each intrinsic a call.
///
/// # Safety
/// As [`one_eight`].
#[inline(always)]
unsafe fn one_span<V: Integers, C: Words, const RUNS: usize, const M: usize>(
    rows: &[*const Run; M],
    codes: *const u8,
    s: usize,
) -> [V::Sums; M] {
    // SAFETY: the caller's word.
    unsafe {
        if V::SPLIT && C::NIBBLES {
            return V::split::<RUNS, M>(codes.add(s * RUNS * C::BYTES), rows, s * RUNS);
        }
        let mut sums = [V::zero(); M];
        for run in 0..RUNS {
            let codes = C::codes::<V>(codes.add((s * RUNS + run) * C::BYTES));
            for i in 0..M {
                sums[i] = V::dot(sums[i], codes, &*rows[i].add(s * RUNS + run));
            }
        }
        sums
    }
}
