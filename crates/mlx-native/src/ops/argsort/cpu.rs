//! Body of `argsort` for the CPU: each row's columns, sorted by a key in which no two are equal.

use super::KernelParams;
use crate::backend::cpu::{Element, Launch};

/// Elements in which a part claims rows, at least.
const CLAIM: usize = 1024;

pub(super) fn argsort<T: Element>(launch: &Launch<'_>, _part: usize, _parts: usize) {
    let p: KernelParams = launch.params(2);
    let (rows, cols) = (p.rows as usize, p.cols as usize);
    let (x, output) = (launch.input::<T>(0), launch.output::<u32>(1));
    let flip = if p.descending != 0 { u32::MAX } else { 0 };
    let tie = if p.later_first != 0 { u32::MAX } else { 0 };
    let mut keys: Vec<u64> = Vec::new();
    while let Some(claim) = launch.next_chunk(rows, (CLAIM / cols.max(1)).max(1)) {
        for row in claim {
            let values = &x[row * cols..(row + 1) * cols];
            keys.clear();
            keys.extend(
                values
                    .iter()
                    .zip(0u32..)
                    .map(|(v, i)| u64::from(order_key(v.to_f32()) ^ flip) << 32 | u64::from(i ^ tie)),
            );
            keys.sort_unstable();
            // SAFETY: this part claimed the row.
            let order = unsafe { output.slice_mut(row * cols..(row + 1) * cols) };
            for (o, key) in order.iter_mut().zip(&keys) {
                *o = *key as u32 ^ tie;
            }
        }
    }
}

/// Ordered as the values are, -0 equal to 0, all NaN equal and on top.
fn order_key(value: f32) -> u32 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7FFF_FFFF;
    match magnitude {
        0x7F80_0001.. => u32::MAX,
        _ if bits == magnitude => 0x8000_0000 + magnitude,
        _ => 0x8000_0000 - magnitude,
    }
}
