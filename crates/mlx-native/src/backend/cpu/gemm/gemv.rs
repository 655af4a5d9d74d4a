//! Products with few rows of `x`: the weights are read once, in the order in which they lie, and that is what they cost.

use super::Shape;
use crate::backend::cpu::simd::{MAX_LANES, Vector, Widen, vectorize};
use crate::backend::cpu::{Element, Launch, Output, part_range};

/// Rows of `x`, at most.
const MAX_GEMV_ROWS: usize = 8;
/// Values of each row of `x` that are widened at a time: four rows of them stay in the first-level cache, beside the weights that
/// stream by. The sums of such a block of K are added up in order.
const BLOCK: usize = 1024;
/// Rows of the weight that a part claims at a time.
const CLAIM: usize = 64;
/// Columns of a non-transposed weight that a part keeps sums of.
const COLUMNS: usize = 1024;
/// Multiply-adds below which one part does everything.
const SMALL: usize = 16 * 1024;

/// The share of one part in `output[m, n] = x[m, k] · weight[n, k]ᵀ`, `m` up to [`MAX_GEMV_ROWS`].
///
/// # Panics
/// When an argument is smaller than `shape` says; the pool makes an error of it.
pub(crate) fn gemv_rows<T: Element, W: Widen>(
    launch: &Launch<'_>,
    part: usize,
    shape: Shape,
    x: &[T],
    weight: &[W],
    output: &Output<'_, T>,
) {
    let Shape { m, n, k } = shape;
    assert!(m <= MAX_GEMV_ROWS && x.len() >= m * k && weight.len() >= n * k);
    let is_small = m * n * k < SMALL;
    if is_small && part > 0 || m * n * k == 0 {
        return;
    }
    let block = BLOCK.min(k.next_multiple_of(MAX_LANES));
    // Not a power of two, so that the rows do not compete for the same cache sets.
    let pitch = block + MAX_LANES;
    let mut rows = vec![0.0f32; m * pitch];
    let mut widened = usize::MAX;
    while let Some(claim) = launch.next_chunk(n, if is_small { n } else { CLAIM }) {
        for first in claim.clone().step_by(CLAIM) {
            let last = claim.end.min(first + CLAIM);
            let mut sums = [[0.0f32; CLAIM]; MAX_GEMV_ROWS];
            for start in (0..k).step_by(block) {
                let len = block.min(k - start);
                // One block for all claims where K is that short.
                if widened != start {
                    for (i, row) in rows.chunks_exact_mut(pitch).enumerate() {
                        T::widen(&x[i * k + start..i * k + start + len], &mut row[..len]);
                        row[len..].fill(0.0);
                    }
                    widened = start;
                }
                let args = Dots {
                    x: &rows,
                    x_pitch: pitch,
                    len,
                    k,
                    weight: &weight[first * k + start..],
                    count: last - first,
                };
                // SAFETY: the launch's level is there; `x` is as long as `m` rows, padded to whole vectors, and `weight` has
                // `count` rows behind `first`, as asserted above.
                unsafe { dots(launch.isa(), m, &args, &mut sums) };
            }
            for (i, sums) in sums.iter().take(m).enumerate() {
                // SAFETY: this part claimed these columns.
                unsafe { output.store(i * n + first, &sums[..last - first]) };
            }
        }
    }
}

/// Rows of weights against rows of `x`, over one block of K.
struct Dots<'a, W> {
    x: &'a [f32],
    x_pitch: usize,
    len: usize,
    /// Distance of the weight's rows.
    k: usize,
    weight: &'a [W],
    count: usize,
}

type Sums = [[f32; CLAIM]; MAX_GEMV_ROWS];

vectorize! {
    /// # Safety
    /// This machine has `isa`; `args.x` has `m` rows, zero from `len` to a whole vector; `args.weight` has `count` rows.
    unsafe fn dots<W: Widen>(m: usize, args: &Dots<'_, W>, sums: &mut Sums) = dots_body
}

#[inline(always)]
unsafe fn dots_body<V: Vector, W: Widen>(m: usize, args: &Dots<'_, W>, sums: &mut Sums) {
    // Rows of `x`, rows of weights at once, vectors of each in flight: at least 8 sums, so that each multiply-add need not
    // wait for the one before, and few enough for the registers. Always the same vectors in flight: what is added when must not
    // depend on how many rows there are, so that a row has the same bits alone and beside others. Beyond four rows the weights of the
    // claim are still in the cache when they are read again.
    for first in (0..m).step_by(4) {
        let x = &args.x[first * args.x_pitch..];
        let (args, sums) = (Dots { x, ..*args }, &mut sums[first..]);
        // SAFETY: the caller's word.
        unsafe {
            match m - first {
                1 => dot_rows::<V, W, 1, 4, 2>(&args, sums),
                2 => dot_rows::<V, W, 2, 4, 2>(&args, sums),
                3 => dot_rows::<V, W, 3, 2, 2>(&args, sums),
                _ => dot_rows::<V, W, 4, 2, 2>(&args, sums),
            }
        }
    }
}

#[inline(always)]
unsafe fn dot_rows<V: Vector, W: Widen, const M: usize, const R: usize, const U: usize>(
    args: &Dots<'_, W>,
    sums: &mut [[f32; CLAIM]],
) {
    let mut row = 0;
    // SAFETY: the caller's word.
    unsafe {
        while row + R <= args.count {
            dot::<V, W, M, R, U>(args, row, sums);
            row += R;
        }
        while row < args.count {
            dot::<V, W, M, 1, U>(args, row, sums);
            row += 1;
        }
    }
}

/// `R` rows of weights from `row` on. What is added when depends on `U` only, not on `R` and `M`.
#[inline(always)]
unsafe fn dot<V: Vector, W: Widen, const M: usize, const R: usize, const U: usize>(
    args: &Dots<'_, W>,
    row: usize,
    sums: &mut [[f32; CLAIM]],
) {
    let (x, len) = (args.x.as_ptr(), args.len);
    // SAFETY: the caller's word; all addresses lie inside the rows.
    unsafe {
        let weight = args.weight.as_ptr().add(row * args.k);
        let mut partial = [[[V::splat(0.0); U]; M]; R];
        let mut at = 0;
        while at + U * V::LANES <= len {
            for u in 0..U {
                let at = at + u * V::LANES;
                for r in 0..R {
                    let w = W::load::<V>(weight.add(r * args.k + at));
                    for i in 0..M {
                        partial[r][i][u] = w.mul_add(V::load(x.add(i * args.x_pitch + at)), partial[r][i][u]);
                    }
                }
            }
            at += U * V::LANES;
        }
        while at < len {
            for r in 0..R {
                let p = weight.add(r * args.k + at);
                let w: V = if at + V::LANES <= len {
                    W::load(p)
                } else {
                    W::load_partial(p, len - at)
                };
                for i in 0..M {
                    partial[r][i][0] = w.mul_add(V::load(x.add(i * args.x_pitch + at)), partial[r][i][0]);
                }
            }
            at += V::LANES;
        }
        for r in 0..R {
            for i in 0..M {
                let mut sum = partial[r][i][0];
                for u in 1..U {
                    sum = sum.add(partial[r][i][u]);
                }
                sums[i][row + r] += sum.sum();
            }
        }
    }
}

/// The share of one part in `output[m, n] = x[m, k] · weight[k, n]`, `m` up to [`MAX_GEMV_ROWS`].
///
/// # Panics
/// When an argument is smaller than `shape` says; the pool makes an error of it.
pub(crate) fn gemv_columns<T: Element, W: Widen>(
    launch: &Launch<'_>,
    part: usize,
    parts: usize,
    shape: Shape,
    x: &[T],
    weight: &[W],
    output: &Output<'_, T>,
) {
    let Shape { m, n, k } = shape;
    assert!(m <= MAX_GEMV_ROWS && x.len() >= m * k && weight.len() >= k * n);
    let parts = if m * n * k < SMALL { 1 } else { parts };
    if part >= parts {
        return;
    }
    let mut sums = vec![0.0f32; m * COLUMNS.min(n.next_multiple_of(MAX_LANES))];
    let pitch = sums.len() / m.max(1);
    // Whole vectors for each part but the last one: a column is computed in the same way whoever does it.
    let mine = part_range(n, 64, part, parts);
    for first in mine.clone().step_by(COLUMNS) {
        let count = COLUMNS.min(mine.end - first);
        sums.fill(0.0);
        let mut start = 0;
        while start < k {
            let rows = ROWS_AT_ONCE.min(k - start);
            for i in 0..m {
                let mut factors = [0.0; ROWS_AT_ONCE];
                T::widen(&x[i * k + start..i * k + start + rows], &mut factors[..rows]);
                let args = Axpy {
                    factors: &factors[..rows],
                    weight: &weight[start * n + first..],
                    n,
                };
                // SAFETY: the launch's level is there; `weight` has `rows` rows behind `start`, as asserted above.
                unsafe { axpy(launch.isa(), &args, &mut sums[i * pitch..][..count]) };
            }
            start += rows;
        }
        for i in 0..m {
            // SAFETY: these columns are this part's.
            unsafe { output.store(i * n + first, &sums[i * pitch..][..count]) };
        }
    }
}

/// Rows of the weight that are added to the sums at a time.
const ROWS_AT_ONCE: usize = 8;

/// `sums[j] += factors[r] * weight[r, j]`, rows in order.
struct Axpy<'a, W> {
    factors: &'a [f32],
    weight: &'a [W],
    n: usize,
}

vectorize! {
    /// # Safety
    /// This machine has `isa`; `args.weight` has a row for each factor, `n` apart, of at least as many values as `sums`.
    unsafe fn axpy<W: Widen>(args: &Axpy<'_, W>, sums: &mut [f32]) = axpy_body
}

#[inline(always)]
unsafe fn axpy_body<V: Vector, W: Widen>(args: &Axpy<'_, W>, sums: &mut [f32]) {
    let whole = sums.len() / V::LANES * V::LANES;
    // SAFETY: the caller's word; all addresses lie inside `sums` and the rows' first `sums.len()` values.
    unsafe {
        let weight = args.weight.as_ptr();
        for at in (0..whole).step_by(V::LANES) {
            let mut sum = V::load(sums.as_ptr().add(at));
            for (r, factor) in args.factors.iter().enumerate() {
                sum = W::load::<V>(weight.add(r * args.n + at)).mul_add(V::splat(*factor), sum);
            }
            sum.store(sums.as_mut_ptr().add(at));
        }
        if whole < sums.len() {
            let rest = sums.len() - whole;
            let mut buffer = [0.0; MAX_LANES];
            buffer[..rest].copy_from_slice(&sums[whole..]);
            let mut sum = V::load(buffer.as_ptr());
            for (r, factor) in args.factors.iter().enumerate() {
                sum = W::load_partial::<V>(weight.add(r * args.n + whole), rest)
                    .mul_add(V::splat(*factor), sum);
            }
            sum.store(buffer.as_mut_ptr());
            sums[whole..].copy_from_slice(&buffer[..rest]);
        }
    }
}
