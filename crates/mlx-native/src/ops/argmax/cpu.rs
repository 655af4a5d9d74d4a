//! Body of `argmax` for the CPU: the maximum of a stretch first, which vectors can do, its index only where it is news.

use super::{ArgmaxParams, HAS_VALUES};
use crate::backend::cpu::{Element, Launch};

/// Elements of a stretch.
const CHUNK: usize = 512;
/// Running maxima, so that vectors can carry them.
const LANES: usize = 16;
/// Elements in which a part claims rows, at least.
const CLAIM: usize = 4096;

pub(super) fn argmax<T: Element>(launch: &Launch<'_>, _part: usize, _parts: usize) {
    let p: ArgmaxParams = launch.params(2);
    let (rows, cols) = (p.rows as usize, p.cols as usize);
    let (x, output) = (launch.input::<T>(0), launch.output::<u32>(1));
    let values = launch.flag(HAS_VALUES).then(|| launch.output::<f32>(3));
    while let Some(claim) = launch.next_chunk(rows, (CLAIM / cols.max(1)).max(1)) {
        for row in claim {
            let elements = &x[row * cols..(row + 1) * cols];
            let index = argmax_row(elements, values.is_some());
            if let Some(values) = values {
                let value = elements[index].to_f32();
                let value = if value.is_nan() { f32::NEG_INFINITY } else { value };
                // SAFETY: this part claimed the row, and with it this element.
                unsafe { values.slice_mut(row..row + 1).fill(value) };
            }
            // SAFETY: this part claimed the row, and with it this element.
            unsafe { output.slice_mut(row..row + 1).fill(index as u32) };
        }
    }
}

fn argmax_row<T: Element>(row: &[T], ignores_nan: bool) -> usize {
    let (mut best, mut index) = (f32::NEG_INFINITY, 0);
    let mut buffer = [0.0f32; CHUNK];
    for (i, source) in row.chunks(CHUNK).enumerate() {
        let len = source.len();
        T::widen(source, &mut buffer[..len]);
        buffer[len..].fill(f32::NEG_INFINITY);
        let (mut largest, mut has_nan) = ([f32::NEG_INFINITY; LANES], [false; LANES]);
        for values in buffer.as_chunks::<LANES>().0 {
            for ((l, n), v) in largest.iter_mut().zip(&mut has_nan).zip(values) {
                *l = if *v > *l { *v } else { *l };
                *n |= v.is_nan();
            }
        }
        let position = |found: &dyn Fn(f32) -> bool| buffer[..len].iter().position(|v| found(*v)).unwrap_or(0);
        if !ignores_nan && has_nan.contains(&true) {
            return i * CHUNK + position(&|v| v.is_nan());
        }
        let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        if largest > best {
            best = largest;
            index = i * CHUNK + position(&|v| v == largest);
        }
    }
    index
}
