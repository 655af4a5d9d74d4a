//! Cases of `index_mask`. Queries, keys and weights are small whole numbers, so that scores are exact in every order of
//! summation, and many of them equal.

use super::{IndexMaskParams, index_mask};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::step::tests::{starts, words};
use crate::ops::step::{KvPool, KvState};
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug, Clone)]
struct IndexCase {
    dtype: DType,
    /// Rows and positions of each sequence, those of its rows included.
    seqs: Vec<(u32, u32)>,
    heads: u32,
    dim: u32,
    group: u32,
    top: u32,
    local: u32,
    weighted: bool,
    repeat: u32,
    /// Rows of nobody.
    idle: u32,
    /// NaN in some keys.
    nan: bool,
}

const BLOCK: u32 = 8;

impl IndexCase {
    fn rows(&self) -> Vec<u32> {
        self.seqs.iter().map(|s| s.0).collect()
    }

    fn params(&self) -> IndexMaskParams {
        let longest = self.seqs.iter().map(|s| s.1).max().unwrap_or(1).max(1);
        let n_seqs = self.seqs.len() as u32;
        let blocks_per_seq = longest.div_ceil(BLOCK);
        IndexMaskParams {
            pool: KvPool { n_blocks: n_seqs * blocks_per_seq, block_size: BLOCK, n_seqs, blocks_per_seq },
            n_rows: self.rows().iter().sum::<u32>() + self.idle,
            n_heads: self.heads,
            head_dim: self.dim,
            group: self.group,
            top: self.top,
            local: self.local,
            max_rows_per_seq: self.rows().into_iter().max().unwrap_or(1).max(1),
            max_kv_len: longest,
            weighted: self.weighted.into(),
            repeat: self.repeat,
        }
    }

    /// Blocks in an order that is not theirs.
    fn table(&self) -> Vec<u32> {
        let pool = self.params().pool;
        (0..pool.n_blocks).rev().collect()
    }
}

impl Case for IndexCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let p = self.params();
        let mut whole = |shape: &[usize], most: usize| {
            let n: usize = shape.iter().product();
            let values: Vec<f32> = (0..n).map(|_| rng.range(0, 2 * most) as f32 - most as f32).collect();
            (shape.to_vec(), values)
        };
        let (rows, heads, dim) = (p.n_rows as usize, p.n_heads as usize, p.head_dim as usize);
        let q = whole(&[rows, heads, dim], 2);
        let mut k = whole(&[(p.pool.n_blocks * BLOCK) as usize, dim], 2);
        let w = whole(&[rows, heads], 2);
        if self.nan {
            k.1.iter_mut().step_by(7 * dim).for_each(|v| *v = f32::NAN);
        }
        let [q, k, w] = [q, k, w].map(|(shape, values)| Tensor::from_f32(self.dtype, &shape, &values));
        let lens: Vec<u32> = self.seqs.iter().map(|s| s.1).collect();
        vec![q, k, w, words(&self.table()), words(&starts(&self.rows())), words(&lens)]
    }

    fn outputs(&self) -> Outputs {
        let p = self.params();
        vec![(DType::F32, vec![p.scores().unwrap_or(0)]), (DType::U8, vec![p.mask().unwrap_or(0)])]
    }

    fn before(&self, _rng: &mut Rng) -> Option<Vec<Tensor>> {
        let p = self.params();
        let (scores, mask) = (p.scores().unwrap_or(0), p.mask().unwrap_or(0));
        Some(vec![
            Tensor::from_f32(DType::F32, &[scores], &vec![7.0; scores]),
            Tensor::from_bytes(DType::U8, &[mask], vec![9; mask]),
        ])
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = self.params();
        let [q, k, w] = [0, 1, 2].map(|i| inputs[i].to_f64());
        let (mut scores, mut mask) = (inputs[6].to_f64(), inputs[7].to_f64());
        let (heads, dim, choosers) = (p.n_heads as usize, p.head_dim as usize, p.choosers() as usize);
        let (group, width) = (p.group as usize, p.max_kv_len as usize);
        let groups = width.div_ceil(group);
        let table = self.table();
        let mut row = 0;
        for (s, (rows, len)) in self.seqs.iter().enumerate() {
            for i in 0..*rows as usize {
                let position = (len - rows) as usize + i;
                let dot = |h: usize, key: usize| {
                    let block = table[s * p.pool.blocks_per_seq as usize + key / BLOCK as usize] as usize;
                    let from = (block * BLOCK as usize + key % BLOCK as usize) * dim;
                    (0..dim).map(|d| q[(row * heads + h) * dim + d] * k[from + d]).sum::<f64>()
                };
                let score = |chooser: usize, key: usize| match self.weighted {
                    true => (0..heads).map(|h| w[row * heads + h] * relu(dot(h, key))).sum(),
                    false => dot(chooser, key),
                };
                let seen = position / group + 1;
                for chooser in 0..choosers {
                    let own = &mut scores[(row * choosers + chooser) * groups..][..groups];
                    for (g, best) in own.iter_mut().enumerate() {
                        let keys = g * group..((g + 1) * group).min(position + 1);
                        let all = keys.map(|key| score(chooser, key)).filter(|v| !v.is_nan());
                        *best = all.fold(f64::NEG_INFINITY, f64::max);
                        if g < seen && seen - 1 - g < p.local as usize {
                            *best = f64::INFINITY;
                        }
                    }
                    let mut order: Vec<usize> = (0..seen).collect();
                    order.sort_by(|a, b| own[*b].total_cmp(&own[*a]).then(a.cmp(b)));
                    order.truncate(p.top as usize);
                    let first = ((s * p.max_rows_per_seq as usize + i) * choosers + chooser) * p.repeat as usize;
                    for key in 0..p.repeat as usize * width {
                        let (r, key) = (key / width, key % width);
                        mask[(first + r) * width + key] = f64::from(u8::from(order.contains(&(key / group))));
                    }
                }
                row += 1;
            }
        }
        vec![scores, mask]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let [q, k, w, block_table, seq_starts, kv_lens] = [0, 1, 2, 3, 4, 5].map(|i| &c.inputs[i]);
        let state = KvState { block_table, seq_starts, kv_lens };
        let (scores, mask) = (&c.outputs[0], &c.outputs[1]);
        let weights = self.weighted.then_some(w);
        index_mask(c.encoder, c.registry, c.device, q, k, weights, scores, mask, &state, &self.params())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        self.seqs.iter().all(|s| s.1 <= 100)
    }
}

fn relu(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

fn case(dtype: DType, seqs: &[(u32, u32)], (heads, dim): (u32, u32), (group, top, local): (u32, u32, u32)) -> IndexCase {
    IndexCase {
        dtype,
        seqs: seqs.to_vec(),
        heads,
        dim,
        group,
        top,
        local,
        weighted: group == 1,
        repeat: 1,
        idle: 0,
        nan: false,
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for one in [
            case(dtype, &[(1, 1)], (1, 1), (1, 1, 0)),
            case(dtype, &[(1, 65)], (7, 33), (1, 8, 0)),
            IndexCase { idle: 2, ..case(dtype, &[(3, 33), (0, 4), (5, 5), (1, 70)], (2, 8), (1, 7, 0)) },
            IndexCase { repeat: 4, ..case(dtype, &[(7, 33)], (2, 16), (4, 2, 1)) },
            IndexCase { weighted: true, nan: true, ..case(dtype, &[(2, 41)], (3, 5), (5, 3, 2)) },
            IndexCase { nan: true, ..case(dtype, &[(4, 40)], (3, 9), (1, 6, 0)) },
        ] {
            cases.push(Box::new(one));
        }
    }
    cases.push(Box::new(case(DType::F32, &[(4, 3000)], (4, 32), (1, 512, 0))));
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let mut draw = |low, high| rng.range(low, high) as u32;
            let seqs: Vec<(u32, u32)> = (0..draw(1, 3))
                .map(|_| {
                    let rows = draw(1, 5);
                    (rows, rows + draw(0, 60))
                })
                .collect();
            let shape = ((draw(1, 5), draw(1, 40)), (draw(1, 6), draw(1, 9), draw(0, 2)));
            let weighted = draw(0, 1) == 1;
            let dtype = rng.pick(FLOATS);
            Box::new(IndexCase { weighted, ..case(dtype, &seqs, shape.0, shape.1) })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let (q, k) = (b.buffer(DType::F32, &[2, 3, 4]), b.buffer(DType::F32, &[2, 8, 4]));
        let (w, scores, mask) = (b.buffer(DType::F32, &[2, 3]), b.buffer(DType::F32, &[32]), b.buffer(DType::U8, &[32]));
        let [table, starts, lens] = [2, 2, 1].map(|n| b.buffer(DType::U32, &[n]));
        let pool = KvPool { n_blocks: 2, block_size: 8, n_seqs: 1, blocks_per_seq: 2 };
        let ok = IndexMaskParams {
            pool,
            n_rows: 2,
            n_heads: 3,
            head_dim: 4,
            group: 1,
            top: 2,
            local: 0,
            max_rows_per_seq: 2,
            max_kv_len: 16,
            weighted: 1,
            repeat: 1,
        };
        let state = KvState { block_table: &table, seq_starts: &starts, kv_lens: &lens };
        let mut run = |w: Option<&_>, mask: &_, p| {
            index_mask(&mut b.encoder, &mut b.registry, &b.device, &q, &k, w, &scores, mask, &state, &p)
        };
        assert!(run(Some(&w), &mask, ok).is_ok());
        assert_invalid(run(Some(&w), &mask, IndexMaskParams { top: 0, ..ok }), &["top"]);
        assert_invalid(run(Some(&w), &mask, IndexMaskParams { group: 0, ..ok }), &["group"]);
        assert_invalid(run(Some(&w), &mask, IndexMaskParams { max_kv_len: 17, ..ok }), &["max_kv_len", "16"]);
        assert_invalid(run(None, &mask, ok), &["weighted"]);
        assert_invalid(run(Some(&w), &mask, IndexMaskParams { n_rows: 3, ..ok }), &["q"]);
        assert_invalid(run(Some(&w), &scores, ok), &["mask", "f32"]);
        assert_invalid(run(Some(&w), &mask, IndexMaskParams { repeat: 2, ..ok }), &["mask", "32 bytes"]);
    }
}
