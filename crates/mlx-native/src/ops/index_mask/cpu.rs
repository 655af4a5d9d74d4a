//! Bodies of `index_mask` for the CPU: rows and heads that choose are shared among the parts.

use super::IndexMaskParams;
use crate::backend::cpu::{Element, Launch, part_range};
use crate::ops::step::sequence_of;
use crate::vector::Vectorised;

/// The sequence of a row and its position there.
fn place(p: &IndexMaskParams, starts: &[u32], lens: &[u32], row: u32) -> Option<(usize, u32)> {
    let s = sequence_of(&starts[..p.pool.n_seqs as usize + 1], row)?;
    Some((s, lens[s].wrapping_sub(starts[s + 1].wrapping_sub(row))))
}

pub(super) fn scores<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: IndexMaskParams = launch.params(4);
    let (q, pool, weights) = (launch.input::<T>(0), launch.input::<T>(1), launch.input::<T>(2));
    let scores = launch.output::<f32>(3);
    let [table, starts, lens] = [5, 6, 7].map(|i| launch.input::<u32>(i));
    let (heads, dim, choosers) = (p.n_heads as usize, p.head_dim as usize, p.choosers() as usize);
    let groups = p.max_kv_len.div_ceil(p.group) as usize;
    let (mut queries, mut factors, mut key) = (vec![0.0; heads * dim], vec![0.0; heads], vec![0.0; dim]);
    for row in part_range(p.n_rows as usize, 1, part, parts) {
        let Some((s, position)) = place(&p, starts, lens, row as u32) else { continue };
        T::widen(&q[row * heads * dim..][..heads * dim], &mut queries);
        if p.weighted == 1 {
            T::widen(&weights[row * heads..][..heads], &mut factors);
        }
        // SAFETY: a row's scores are one part's alone.
        let own = unsafe { scores.slice_mut(row * choosers * groups..(row + 1) * choosers * groups) };
        own.fill(f32::NEG_INFINITY);
        let last = position.min(p.max_kv_len - 1);
        for at in 0..=last {
            let entry = at / p.pool.block_size % p.pool.blocks_per_seq;
            let block = table[s * p.pool.blocks_per_seq as usize + entry as usize].min(p.pool.n_blocks - 1);
            let from = (block as usize * p.pool.block_size as usize + (at % p.pool.block_size) as usize) * dim;
            T::widen(&pool[from..from + dim], &mut key);
            let group = (at / p.group) as usize;
            let mut raise = |chooser: usize, score: f32| {
                let best = &mut own[chooser * groups + group];
                // A comparison with NaN is false.
                if score > *best {
                    *best = score;
                }
            };
            if p.weighted == 1 {
                let mut sum = 0.0;
                for (h, factor) in factors.iter().enumerate() {
                    let one = launch.isa().run(Dot { a: &queries[h * dim..][..dim], b: &key });
                    sum += factor * if one < 0.0 { 0.0 } else { one };
                }
                raise(0, sum);
            } else {
                for h in 0..heads {
                    raise(h, launch.isa().run(Dot { a: &queries[h * dim..][..dim], b: &key }));
                }
            }
        }
        let own_group = (last / p.group) as usize;
        for chooser in 0..choosers {
            let first = (own_group + 1).saturating_sub(p.local as usize);
            own[chooser * groups..][first..=own_group].fill_with(|| f32::INFINITY);
        }
    }
}

struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Vectorised for Dot<'_> {
    type Output = f32;
    #[inline(always)]
    fn run(self) -> f32 {
        let mut sums = [0.0f32; 8];
        let (a, b) = (self.a.chunks_exact(8), self.b.chunks_exact(8));
        let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
        for (x, y) in a.zip(b) {
            for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
                *sum += x * y;
            }
        }
        sums.iter().sum::<f32>() + rest
    }
}

pub(super) fn select(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: IndexMaskParams = launch.params(2);
    let (scores, mask) = (launch.input::<f32>(0), launch.output::<u8>(1));
    let [starts, lens] = [3, 4].map(|i| launch.input::<u32>(i));
    let (choosers, repeat) = (p.choosers() as usize, p.repeat as usize);
    let (groups, width) = (p.max_kv_len.div_ceil(p.group) as usize, p.max_kv_len as usize);
    let mut order: Vec<u32> = Vec::with_capacity(groups);
    let mut stays = vec![false; groups];
    for unit in part_range(p.n_rows as usize * choosers, 1, part, parts) {
        let (row, chooser) = (unit / choosers, unit % choosers);
        let Some((s, position)) = place(&p, starts, lens, row as u32) else { continue };
        let i = (row as u32).wrapping_sub(starts[s]);
        if i >= p.max_rows_per_seq {
            continue;
        }
        let seen = ((position.min(p.max_kv_len - 1) / p.group) as usize + 1).min(groups);
        let own = &scores[unit * groups..][..seen];
        stays.fill(false);
        let top = p.top as usize;
        if seen <= top {
            stays[..seen].fill(true);
        } else {
            order.clear();
            order.extend(0..seen as u32);
            let better = |a: &u32, b: &u32| own[*b as usize].total_cmp(&own[*a as usize]).then(a.cmp(b));
            order.select_nth_unstable_by(top - 1, better);
            order[..top].iter().for_each(|g| stays[*g as usize] = true);
        }
        let first = ((s * p.max_rows_per_seq as usize + i as usize) * choosers + chooser) * repeat;
        for r in 0..repeat {
            // SAFETY: a row of a head is one part's alone.
            let target = unsafe { mask.slice_mut((first + r) * width..(first + r + 1) * width) };
            for (keys, stays) in target.chunks_mut(p.group as usize).zip(&stays) {
                keys.fill(u8::from(*stays));
            }
        }
    }
}
