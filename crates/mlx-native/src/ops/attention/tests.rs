//! Cases of `attention`.

mod company;
mod refusals;

use super::{AttentionParams, Extras, Family, Mask, attention};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::step::tests::{starts, words};
use crate::ops::step::{KvPool, KvState};
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Hidden {
    No,
    /// Bytes, the same for all sequences and heads.
    Bytes,
    /// Added, another for each sequence and head.
    Added,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Contents {
    Normal,
    /// The last key but one has a NaN and an infinity among its values, the last is NaN itself: rows before see neither.
    Special,
    /// Lengths, starts and blocks beyond what there is.
    Hostile,
}

#[derive(Debug, Clone)]
pub(super) struct AttentionCase {
    dtype: DType,
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    v_dim: u32,
    /// Rows and keys of each sequence.
    seqs: Vec<(u32, u32)>,
    block_size: u32,
    window: u32,
    softcap: f32,
    causal: bool,
    sinks: bool,
    mask: Hidden,
    contents: Contents,
    /// Rows of nobody.
    idle: u32,
    /// Keys that the bucket has room for beyond the longest sequence.
    spare: u32,
    /// The table is as short as the window allows.
    ring: bool,
    family: Family,
    benchmark: bool,
}

fn case(heads: (u32, u32), head_dim: u32, seqs: &[(u32, u32)]) -> AttentionCase {
    AttentionCase {
        dtype: DType::F32,
        n_heads: heads.0,
        n_kv_heads: heads.1,
        head_dim,
        v_dim: head_dim,
        seqs: seqs.to_vec(),
        block_size: 16,
        window: 0,
        softcap: 0.0,
        causal: true,
        sinks: false,
        mask: Hidden::No,
        contents: Contents::Normal,
        idle: 0,
        spare: 0,
        ring: false,
        family: Family::Auto,
        benchmark: false,
    }
}

impl AttentionCase {
    fn in_each_dtype(self) -> impl Iterator<Item = AttentionCase> {
        FLOATS.iter().map(move |&dtype| AttentionCase { dtype, ..self.clone() })
    }

    fn rows(&self) -> Vec<u32> {
        self.seqs.iter().map(|s| s.0).collect()
    }

    fn longest(&self) -> u32 {
        self.seqs.iter().map(|s| s.1).max().unwrap_or(0)
    }

    fn params(&self) -> AttentionParams {
        let max_rows = self.seqs.iter().map(|s| s.0).max().unwrap_or(0).max(1);
        let max_kv_len = self.longest() + self.spare;
        let seen = if self.ring { max_kv_len.min(self.window + max_rows - 1) } else { max_kv_len };
        let n_seqs = self.seqs.len() as u32;
        let blocks_per_seq = seen.div_ceil(self.block_size);
        let pool = KvPool { n_blocks: n_seqs * blocks_per_seq + 1, block_size: self.block_size, n_seqs, blocks_per_seq };
        AttentionParams {
            pool,
            n_rows: self.rows().iter().sum::<u32>() + self.idle,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            v_dim: self.v_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            softcap: self.softcap,
            window: self.window,
            causal: self.causal,
            max_rows_per_seq: max_rows,
            max_kv_len,
            q_row_stride: 0,
            family: self.family,
        }
    }

    /// What `kv_lens` says, and what counts.
    fn lens(&self) -> [Vec<u32>; 2] {
        let counted: Vec<u32> = self.seqs.iter().map(|s| s.1).collect();
        let mut said = counted.clone();
        let last = counted.len() - 1;
        if self.contents == Contents::Hostile && counted[last] == self.params().max_kv_len {
            said[last] = u32::MAX - 3;
        }
        [said, counted]
    }

    /// What the table says; entries that the pool does not have read as the last block.
    fn table(&self) -> Vec<u32> {
        let pool = self.params().pool;
        let bad = |i: u32| self.contents == Contents::Hostile && i % 3 == 2;
        let entries = 0..pool.n_seqs * pool.blocks_per_seq;
        // Every block in one place, neighbours apart.
        entries.map(|i| if bad(i) { u32::MAX - i } else { pool.n_blocks - 1 - i }).collect()
    }

    /// The row of the pool of a position.
    fn pool_row(&self, table: &[u32], sequence: usize, head: usize, position: usize) -> usize {
        let pool = self.params().pool;
        let size = pool.block_size as usize;
        let entry = position / size % pool.blocks_per_seq as usize;
        let block = table[sequence * pool.blocks_per_seq as usize + entry].min(pool.n_blocks - 1);
        (block as usize * self.n_kv_heads as usize + head) * size + position % size
    }

    /// A pool with the keys or values of all sequences; what no row sees is NaN.
    fn pool(&self, rng: &mut Rng, dim: usize, is_value: bool) -> Tensor {
        let (p, table) = (self.params().pool, self.table());
        let shape = [p.n_blocks, self.n_kv_heads, p.block_size, dim as u32].map(|n| n as usize);
        let mut values = vec![f32::NAN; shape.iter().product()];
        for (s, &(rows, len)) in self.seqs.iter().enumerate() {
            let seen = if self.window == 0 { len } else { len.min(self.window + rows.max(1) - 1) };
            for position in (len - seen) as usize..len as usize {
                for head in 0..self.n_kv_heads as usize {
                    let row = &mut values[self.pool_row(&table, s, head, position) * dim..][..dim];
                    row.fill_with(|| rng.normal());
                    let from_end = len as usize - 1 - position;
                    match (self.contents, is_value, from_end) {
                        (Contents::Special, true, 1) => {
                            row[0] = f32::NAN;
                            row[dim - 1] = f32::NEG_INFINITY;
                        }
                        (Contents::Special, false, 0) => row[dim / 2] = f32::NAN,
                        _ => {}
                    }
                }
            }
        }
        Tensor::from_f32(self.dtype, &shape, &values)
    }

    /// Shape of the mask, and its strides: sequences, heads, rows.
    fn mask_shape(&self) -> ([usize; 4], [u32; 3]) {
        let p = self.params();
        let (rows, keys) = (p.max_rows_per_seq, p.max_kv_len + 3);
        if self.mask == Hidden::Bytes {
            return ([1, 1, rows as usize, keys as usize], [0, 0, keys]);
        }
        let shape = [p.pool.n_seqs, p.n_heads, rows, keys].map(|n| n as usize);
        (shape, [p.n_heads * rows * keys, rows * keys, keys])
    }

    fn mask(&self, rng: &mut Rng) -> Tensor {
        let (shape, _) = self.mask_shape();
        let n = shape.iter().product();
        if self.mask == Hidden::Bytes {
            return Tensor::from_bytes(DType::U8, &shape, (0..n).map(|_| (rng.bits() % 4) as u8).collect());
        }
        let mut added = || if rng.bits().is_multiple_of(4) { f32::NEG_INFINITY } else { rng.normal() };
        Tensor::from_f32(self.dtype, &shape, &(0..n).map(|_| added()).collect::<Vec<_>>())
    }

    fn pairs(&self) -> f64 {
        let of = |&(rows, len): &(u32, u32)| {
            let seen = if self.window == 0 { len } else { len.min(self.window + rows) };
            f64::from(rows) * f64::from(seen) * f64::from(self.n_heads)
        };
        self.seqs.iter().map(of).sum()
    }
}

impl Case for AttentionCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let p = self.params();
        let q = Tensor::random(self.dtype, &[p.n_rows, p.n_heads, p.head_dim].map(|n| n as usize), rng);
        let (k, v) = (self.pool(rng, self.head_dim as usize, false), self.pool(rng, self.v_dim as usize, true));
        let mut first_rows = starts(&self.rows());
        if self.contents == Contents::Hostile && self.idle == 0 {
            let last = first_rows.len() - 1;
            first_rows[last] = u32::MAX;
        }
        let mut inputs = vec![q, k, v, words(&self.table()), words(&first_rows), words(&self.lens()[0])];
        if self.sinks {
            let sinks: Vec<f32> = (0..p.n_heads).map(|_| rng.normal() * 2.0).collect();
            inputs.push(Tensor::from_f32(DType::F32, &[sinks.len()], &sinks));
        }
        if self.mask != Hidden::No {
            inputs.push(self.mask(rng));
        }
        inputs
    }

    fn outputs(&self) -> Outputs {
        let p = self.params();
        vec![(self.dtype, [p.n_rows, p.n_heads, p.v_dim].map(|n| n as usize).to_vec())]
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        (self.idle > 0).then(|| vec![Tensor::random(self.dtype, &self.outputs()[0].1, rng)])
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = self.params();
        let [q, k, v] = [0, 1, 2].map(|i| inputs[i].to_f64());
        let (heads, d, v_dim) = (p.n_heads as usize, p.head_dim as usize, p.v_dim as usize);
        let sinks = self.sinks.then(|| inputs[6].to_f64());
        let mask = (self.mask != Hidden::No).then(|| inputs[6 + usize::from(self.sinks)].to_f64());
        let (table, (_, mask_strides)) = (self.table(), self.mask_shape());
        let mut out = if self.idle > 0 {
            inputs[inputs.len() - 1].to_f64()
        } else {
            vec![f64::NAN; p.n_rows as usize * heads * v_dim]
        };
        let mut row = 0;
        for (s, (&rows, &len)) in self.rows().iter().zip(&self.lens()[1]).enumerate() {
            for i in 0..rows as usize {
                for head in 0..heads {
                    let query = &q[(row * heads + head) * d..][..d];
                    let end = if p.causal { (len as usize + i + 1).saturating_sub(rows as usize) } else { len as usize };
                    let low = if p.window == 0 { 0 } else { end.saturating_sub(p.window as usize) };
                    let kv_head = head / (heads / p.n_kv_heads as usize);
                    let at = |key: usize| self.pool_row(&table, s, kv_head, key);
                    let score = |key: usize| {
                        let dot: f64 = query.iter().zip(&k[at(key) * d..]).map(|(q, k)| q * k).sum();
                        let mut score = f64::from(p.scale) * dot;
                        if p.softcap != 0.0 {
                            score = f64::from(p.softcap) * (score / f64::from(p.softcap)).tanh();
                        }
                        let Some(mask) = &mask else { return score };
                        let [by_seq, by_head, by_row] = mask_strides.map(|n| n as usize);
                        let mask = mask[s * by_seq + head * by_head + i * by_row + key];
                        match self.mask {
                            Hidden::Bytes if mask == 0.0 => f64::NEG_INFINITY,
                            Hidden::Bytes => score,
                            _ => score + mask,
                        }
                    };
                    let mut scores: Vec<(usize, f64)> = (low..end).map(|key| (key, score(key))).collect();
                    scores.retain(|s| s.1 != f64::NEG_INFINITY);
                    let sink = sinks.as_ref().map(|s| s[head]);
                    let max = scores.iter().map(|s| s.1).chain(sink).fold(f64::NEG_INFINITY, f64::max);
                    let mut sum: f64 = sink.map_or(0.0, |s| (s - max).exp());
                    let out = &mut out[(row * heads + head) * v_dim..][..v_dim];
                    out.fill(0.0);
                    for (key, score) in scores {
                        let weight = (score - max).exp();
                        sum += weight;
                        out.iter_mut().zip(&v[at(key) * v_dim..]).for_each(|(o, v)| *o += weight * v);
                    }
                    if sum != 0.0 {
                        out.iter_mut().for_each(|o| *o /= sum);
                    }
                }
                row += 1;
            }
        }
        vec![out]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let [q, k, v, block_table, seq_starts, kv_lens] = [0, 1, 2, 3, 4, 5].map(|i| &c.inputs[i]);
        let state = KvState { block_table, seq_starts, kv_lens };
        let [seq_stride, head_stride, row_stride] = self.mask_shape().1;
        let mask = (self.mask != Hidden::No).then(|| Mask {
            buffer: &c.inputs[6 + usize::from(self.sinks)],
            seq_stride,
            head_stride,
            row_stride,
        });
        let extras = Extras { sinks: self.sinks.then(|| &c.inputs[6]), mask };
        attention(c.encoder, c.registry, c.device, q, k, v, &c.outputs[0], &extras, &state, &self.params())
    }

    /// As of `sdpa`: a rounding of a score changes its weight by as much of itself.
    fn tolerance(&self) -> Tolerance {
        Tolerance::accumulated(self.dtype, 6e-6)
    }

    fn is_small(&self) -> bool {
        // A bucket far larger than what is in it is a grid of threadgroups with nothing to do.
        self.pairs() * f64::from(self.head_dim) < 3e5 && self.spare < 5000
    }

    fn is_only_timed(&self) -> bool {
        self.benchmark
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let keys: f64 = self.seqs.iter().map(|s| f64::from(s.1)).sum();
        let bytes = keys * f64::from(self.n_kv_heads * (self.head_dim + self.v_dim)) * self.dtype.size_of() as f64;
        self.benchmark.then(|| (bytes, 2.0 * self.pairs() * f64::from(self.head_dim + self.v_dim)))
    }
}

fn cases() -> Vec<AttentionCase> {
    let mut all = Vec::new();
    // Every kernel: few rows in one part, in two, and many rows.
    for head_dim in [7, 64, 80, 128, 192, 256, 512, 576] {
        all.extend(case((2, 1), head_dim, &[(1, 33)]).in_each_dtype());
    }
    for head_dim in [64, 128, 256, 512, 576] {
        all.extend(AttentionCase { spare: 250, ..case((1, 1), head_dim, &[(1, 20)]) }.in_each_dtype());
    }
    for head_dim in [64, 72, 80, 96, 128, 192, 256, 512, 576] {
        all.extend(AttentionCase { block_size: 8, ..case((1, 1), head_dim, &[(9, 19)]) }.in_each_dtype());
    }
    // Decoding and chunks of prompts mixed, a sequence that rests, rows of nobody, a bucket larger than needed.
    let mixed = [(1, 65), (0, 9), (33, 33), (7, 40), (1, 1), (17, 70)];
    all.extend(AttentionCase { idle: 3, spare: 200, ..case((4, 2), 64, &mixed) }.in_each_dtype());
    all.push(AttentionCase { idle: 40, spare: 900, ..case((8, 1), 80, &mixed) });
    all.push(AttentionCase { family: Family::Rows, ..case((4, 4), 33, &mixed) });
    all.push(AttentionCase { family: Family::Tiles, idle: 1, ..case((7, 1), 64, &mixed) });
    all.push(case((14, 2), 64, &[(2, 7), (1, 130), (3, 3)]));
    all.push(AttentionCase { block_size: 64, ..case((8, 1), 128, &[(1, 300), (1, 513), (1, 257)]) });
    // One NaN spoils one row, and values that a row does not see never reach it.
    for head_dim in [33, 64, 128] {
        let special = AttentionCase { contents: Contents::Special, ..case((2, 1), head_dim, &[(5, 9), (9, 20)]) };
        all.extend(special.in_each_dtype());
    }
    for (head_dim, rows) in [(80, 40), (192, 17), (256, 17), (512, 9)] {
        all.push(AttentionCase { contents: Contents::Special, ..case((1, 1), head_dim, &[(rows, rows + 3)]) });
    }
    all.push(AttentionCase { contents: Contents::Special, spare: 300, ..case((2, 1), 64, &[(3, 60)]) });
    let hostile = AttentionCase { contents: Contents::Hostile, block_size: 8, ..case((2, 1), 64, &[(1, 9), (3, 50), (9, 33)]) };
    all.push(AttentionCase { seqs: vec![(1, 9), (9, 33), (3, 50)], ..hostile.clone() });
    all.push(AttentionCase { spare: 0, idle: 2, ..hostile });
    // Windows, with a long table and with a ring.
    for (window, ring) in [(1, false), (7, true), (33, true), (300, false)] {
        let windowed = case((4, 2), 64, &[(1, 70), (3, 5), (12, 60)]);
        all.push(AttentionCase { window, ring, block_size: 8, spare: 500, ..windowed.clone() });
        all.push(AttentionCase { window, ring, family: Family::Rows, dtype: DType::BF16, ..windowed });
    }
    all.push(AttentionCase { window: 260, ring: true, block_size: 64, ..case((2, 1), 64, &[(1, 1000), (2, 600)]) });
    // Caps, sinks, masks; all of it together.
    let seqs = [(1, 40), (10, 30), (2, 9)];
    let plain = case((4, 2), 64, &seqs);
    for family in [Family::Auto, Family::Rows] {
        all.push(AttentionCase { softcap: 1.5, family, ..plain.clone() });
        all.extend(AttentionCase { sinks: true, family, ..plain.clone() }.in_each_dtype());
        all.push(AttentionCase { mask: Hidden::Bytes, family, ..plain.clone() });
        all.extend(AttentionCase { mask: Hidden::Added, family, ..plain.clone() }.in_each_dtype());
        all.push(AttentionCase { causal: false, family, ..plain.clone() });
        let together = AttentionCase { softcap: 3.0, sinks: true, mask: Hidden::Added, window: 20, ..plain.clone() };
        all.push(AttentionCase { family, spare: 300, ..together });
    }
    all.push(AttentionCase { causal: false, mask: Hidden::Bytes, ..case((2, 2), 80, &[(9, 20), (1, 20)]) });
    // Rows that see nothing: no key, or none that the mask leaves.
    all.push(AttentionCase { seqs: vec![(3, 0), (1, 5), (12, 0)], ..plain.clone() });
    all.push(AttentionCase { seqs: vec![(5, 2), (12, 3)], mask: Hidden::Bytes, sinks: true, ..plain });
    // Values narrower and wider than keys.
    for (head_dim, v_dim) in [(192, 128), (64, 80), (33, 7)] {
        all.push(AttentionCase { v_dim, ..case((2, 1), head_dim, &[(1, 20), (10, 20)]) });
        all.push(AttentionCase { v_dim, dtype: DType::F16, spare: 300, ..case((2, 1), head_dim, &[(2, 20)]) });
    }
    // More than fits the scratch memory at once: 35 MB a row. One kv head, so that the pool itself stays small.
    all.push(AttentionCase { spare: 1 << 18, block_size: 1 << 15, ..case((128, 1), 65, &[(2, 9), (3, 5)]) });
    // Long contexts, and what a small model asks for.
    all.extend(AttentionCase { block_size: 64, ..case((4, 1), 64, &[(1, 2049), (2, 8200), (65, 2049)]) }.in_each_dtype());
    let timed = AttentionCase { block_size: 64, dtype: DType::BF16, benchmark: true, ..case((16, 8), 128, &[(1, 4096)]) };
    all.push(AttentionCase { seqs: vec![(1, 1024); 8], ..timed.clone() });
    all.push(AttentionCase { seqs: vec![(256, 256)], ..timed.clone() });
    all.push(AttentionCase { seqs: vec![(256, 256)], family: Family::Rows, ..timed.clone() });
    all.push(timed);
    all
}

pub(crate) fn suite() -> Suite {
    Suite {
        op: &super::OP,
        cases: cases().into_iter().map(|c| Box::new(c) as Box<dyn Case>).collect(),
        random: |rng| {
            let (ratio, n_kv_heads) = (rng.range(1, 9) as u32, rng.range(1, 2) as u32);
            let mut sequence = || {
                let rows = rng.pick(&[0, 1, 1, 2, 5, 12]);
                (rows, rows + rng.range(0, 30) as u32)
            };
            let seqs: Vec<_> = (0..3).map(|_| sequence()).chain([(1, 4)]).collect();
            let c = case((ratio * n_kv_heads, n_kv_heads), rng.range(1, 100) as u32, &seqs);
            Box::new(AttentionCase {
                dtype: rng.pick(FLOATS),
                v_dim: rng.range(1, 100) as u32,
                block_size: rng.pick(&[8, 16, 64]),
                window: rng.pick(&[0, 0, 9]),
                softcap: rng.pick(&[0.0, 0.0, 2.0]),
                sinks: rng.range(0, 3) == 0,
                mask: rng.pick(&[Hidden::No, Hidden::No, Hidden::Bytes, Hidden::Added]),
                idle: rng.range(0, 3) as u32,
                spare: rng.pick(&[0, 60, 300]),
                family: rng.pick(&[Family::Auto, Family::Auto, Family::Rows, Family::Tiles]),
                ..c
            })
        },
    }
}
