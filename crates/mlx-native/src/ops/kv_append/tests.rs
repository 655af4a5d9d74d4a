//! Cases of `kv_append` and `kv_append_paged`.

use super::{KvAppendParams, PagedAppendParams, kv_append, kv_append_paged};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::step::tests::{starts, words};
use crate::ops::step::{KvPool, KvState};
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct KvAppendCase {
    dtype: DType,
    params: KvAppendParams,
}

fn tensor(dtype: DType, shape: &[usize], rng: &mut Rng) -> Tensor {
    if dtype == DType::U8 {
        let bytes = (0..shape.iter().product()).map(|_| rng.bits() as u8).collect();
        return Tensor::from_bytes(dtype, shape, bytes);
    }
    Tensor::random(dtype, shape, rng)
}

impl KvAppendCase {
    fn cache_shape(&self) -> Vec<usize> {
        let p = &self.params;
        vec![p.n_kv_heads as usize, p.capacity as usize, p.head_dim as usize]
    }
}

impl Case for KvAppendCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let p = &self.params;
        vec![tensor(self.dtype, &[p.n_tokens as usize, p.n_kv_heads as usize, p.head_dim as usize], rng)]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, self.cache_shape())]
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        Some(vec![tensor(self.dtype, &self.cache_shape(), rng)])
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = &self.params;
        let (x, mut cache) = (inputs[0].to_f64(), inputs[1].to_f64());
        let (heads, dim) = (p.n_kv_heads as usize, p.head_dim as usize);
        for token in 0..p.n_tokens as usize {
            for head in 0..heads {
                for i in 0..dim {
                    let row = head * p.capacity as usize + p.position as usize + token;
                    cache[row * dim + i] = x[(token * heads + head) * dim + i];
                }
            }
        }
        vec![cache]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        kv_append(c.encoder, c.registry, c.device, &c.inputs[0], &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        self.params.n_tokens * self.params.n_kv_heads * self.params.head_dim <= 5000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let p = &self.params;
        let bytes = f64::from(p.n_tokens * p.n_kv_heads * p.head_dim) * self.dtype.size_of() as f64;
        (!self.is_small()).then_some((2.0 * bytes, 0.0))
    }
}

/// An append through a table.
#[derive(Debug, Clone)]
struct PagedCase {
    dtype: DType,
    heads: u32,
    dims: (u32, u32),
    /// Rows and positions of each sequence, those of the rows included.
    seqs: Vec<(u32, u32)>,
    pool: KvPool,
    idle: u32,
    /// Elements that rows of `k` and `v` are longer than need be.
    gap: u32,
    /// Entries of the table that the pool does not have.
    bad: bool,
}

impl PagedCase {
    fn params(&self) -> PagedAppendParams {
        let stride = |dim: u32| if self.gap == 0 { 0 } else { self.heads * dim + self.gap };
        PagedAppendParams {
            pool: self.pool,
            n_rows: self.rows().iter().sum::<u32>() + self.idle,
            n_kv_heads: self.heads,
            k_dim: self.dims.0,
            v_dim: self.dims.1,
            k_row_stride: stride(self.dims.0),
            v_row_stride: stride(self.dims.1),
        }
    }

    fn rows(&self) -> Vec<u32> {
        self.seqs.iter().map(|s| s.0).collect()
    }

    /// Blocks in an order that is not theirs, each in one place.
    fn table(&self) -> Vec<u32> {
        let n = self.pool.n_seqs * self.pool.blocks_per_seq;
        let bad = |i: u32| self.bad && i % 3 == 1;
        (0..n).map(|i| if bad(i) { u32::MAX - i } else { self.pool.n_blocks - 1 - i }).collect()
    }

    fn pools(&self) -> [Vec<usize>; 2] {
        [self.dims.0, self.dims.1]
            .map(|dim| [self.pool.n_blocks, self.heads, self.pool.block_size, dim].map(|n| n as usize).to_vec())
    }
}

impl Case for PagedCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let rows = self.params().n_rows as usize;
        let mut x = |dim: u32| tensor(self.dtype, &[rows, (self.heads * dim + self.gap) as usize], rng);
        let lens: Vec<u32> = self.seqs.iter().map(|s| s.1).collect();
        vec![x(self.dims.0), x(self.dims.1), words(&self.table()), words(&starts(&self.rows())), words(&lens)]
    }

    fn outputs(&self) -> Outputs {
        self.pools().map(|shape| (self.dtype, shape)).to_vec()
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        Some(self.pools().map(|shape| tensor(self.dtype, &shape, rng)).to_vec())
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let (table, heads) = (self.table(), self.heads as usize);
        let mut pools = vec![inputs[5].to_f64(), inputs[6].to_f64()];
        for (which, dim) in [self.dims.0 as usize, self.dims.1 as usize].into_iter().enumerate() {
            let x = inputs[which].to_f64();
            let mut row = 0;
            for (s, (rows, len)) in self.seqs.iter().enumerate() {
                for position in len - rows..*len {
                    let entry = position / self.pool.block_size % self.pool.blocks_per_seq;
                    let block = table[s * self.pool.blocks_per_seq as usize + entry as usize];
                    for head in (0..heads).filter(|_| block < self.pool.n_blocks) {
                        let at = (block as usize * heads + head) * self.pool.block_size as usize
                            + (position % self.pool.block_size) as usize;
                        let from = row * (heads * dim + self.gap as usize) + head * dim;
                        pools[which][at * dim..][..dim].copy_from_slice(&x[from..][..dim]);
                    }
                    row += 1;
                }
            }
        }
        pools
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let [k, v, block_table, seq_starts, kv_lens] = [0, 1, 2, 3, 4].map(|i| &c.inputs[i]);
        let state = KvState { block_table, seq_starts, kv_lens };
        let (k_pool, v_pool) = (&c.outputs[0], &c.outputs[1]);
        kv_append_paged(c.encoder, c.registry, c.device, k, v, k_pool, v_pool, &state, &self.params())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        true
    }
}

fn paged_cases() -> Vec<PagedCase> {
    let case = |heads, dims, seqs: &[(u32, u32)], block_size, blocks_per_seq| {
        let n_seqs = seqs.len() as u32;
        let pool = KvPool { n_blocks: n_seqs * blocks_per_seq + 1, block_size, n_seqs, blocks_per_seq };
        PagedCase { dtype: DType::F32, heads, dims, seqs: seqs.to_vec(), pool, idle: 0, gap: 0, bad: false }
    };
    let one = case(1, (1, 1), &[(1, 1)], 8, 1);
    let mixed = case(2, (7, 5), &[(1, 9), (0, 4), (5, 19), (1, 1)], 8, 3);
    let ring = case(3, (4, 33), &[(9, 41), (1, 17)], 16, 2);
    vec![
        one,
        PagedCase { idle: 3, ..mixed.clone() },
        PagedCase { bad: true, gap: 3, ..mixed.clone() },
        PagedCase { dtype: DType::U8, ..mixed.clone() },
        PagedCase { dtype: DType::BF16, ..mixed },
        PagedCase { dtype: DType::F16, gap: 1, ..ring.clone() },
        ring,
    ]
}

pub(crate) fn suite() -> Suite {
    // n_kv_heads, head_dim, n_tokens, capacity, position
    let shapes = [
        (1, 1, 1, 1, 0),
        (1, 7, 1, 3, 2),
        (3, 33, 5, 9, 4),
        (2, 64, 1, 33, 32),
        (7, 65, 2, 2, 0),
        (2, 80, 7, 64, 31),
        (8, 128, 1, 16, 7),
        (8, 128, 256, 512, 131),
    ];
    let dtypes = [DType::F32, DType::F16, DType::BF16, DType::U8];
    let case = |dtype, (n_kv_heads, head_dim, n_tokens, capacity, position)| {
        let params = KvAppendParams { n_kv_heads, head_dim, n_tokens, capacity, position };
        Box::new(KvAppendCase { dtype, params }) as Box<dyn Case>
    };
    Suite {
        op: &super::OP,
        cases: dtypes
            .iter()
            .flat_map(|&dtype| shapes.map(|s| case(dtype, s)))
            .chain(paged_cases().into_iter().map(|c| Box::new(c) as Box<dyn Case>))
            .collect(),
        random: |rng| {
            let mut draw = |high| rng.range(1, high) as u32;
            let (n_kv_heads, head_dim, n_tokens, position) = (draw(5), draw(70), draw(9), draw(20));
            let capacity = position + n_tokens + draw(4) - 1;
            let params = KvAppendParams { n_kv_heads, head_dim, n_tokens, capacity, position };
            Box::new(KvAppendCase { dtype: rng.pick(FLOATS), params })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn of_a_paged_append_each_names_the_parameter() {
        let mut b = Bench::new();
        let (k, v) = (b.buffer(DType::F32, &[2, 3, 4]), b.buffer(DType::F32, &[2, 3, 5]));
        let (kp, vp) = (b.buffer(DType::F32, &[4, 3, 8, 4]), b.buffer(DType::F32, &[4, 3, 8, 5]));
        let [table, starts, lens] = [4, 3, 2].map(|n| b.buffer(DType::U32, &[n]));
        let pool = KvPool { n_blocks: 4, block_size: 8, n_seqs: 2, blocks_per_seq: 2 };
        let ok = PagedAppendParams { pool, n_rows: 2, n_kv_heads: 3, k_dim: 4, v_dim: 5, k_row_stride: 0, v_row_stride: 0 };
        let state = KvState { block_table: &table, seq_starts: &starts, kv_lens: &lens };
        let mut run = |k, v, kp, vp, s: &KvState<'_>, p| {
            kv_append_paged(&mut b.encoder, &mut b.registry, &b.device, k, v, kp, vp, s, &p)
        };
        assert!(run(&k, &v, &kp, &vp, &state, ok).is_ok());
        let mut refused = |p, words: &[&str]| assert_invalid(run(&k, &v, &kp, &vp, &state, p), words);
        refused(PagedAppendParams { n_rows: 0, ..ok }, &["n_rows"]);
        refused(PagedAppendParams { k_dim: 0, ..ok }, &["k_dim"]);
        refused(PagedAppendParams { pool: KvPool { block_size: 12, ..pool }, ..ok }, &["block_size", "12"]);
        refused(PagedAppendParams { pool: KvPool { block_size: 4, ..pool }, ..ok }, &["block_size", "8"]);
        refused(PagedAppendParams { pool: KvPool { n_blocks: 5, ..pool }, ..ok }, &["k_pool", "1536 bytes"]);
        refused(PagedAppendParams { pool: KvPool { n_blocks: 1 << 30, ..pool }, ..ok }, &["k_pool", "2^32"]);
        refused(PagedAppendParams { pool: KvPool { n_seqs: 3, ..pool }, ..ok }, &["block_table", "16 bytes"]);
        refused(PagedAppendParams { n_rows: 3, ..ok }, &["k holds"]);
        refused(PagedAppendParams { k_row_stride: 11, ..ok }, &["rows of k", "11", "12"]);
        assert_invalid(run(&k, &v, &kp, &kp, &state, PagedAppendParams { v_dim: 4, ..ok }), &["v_pool", "k_pool"]);
        let crossed = KvState { block_table: &kp, ..state };
        assert_invalid(run(&k, &v, &kp, &vp, &crossed, ok), &["block_table", "f32"]);
    }

    #[test]
    fn a_table_that_names_a_block_twice_is_the_later_row_s_for_any_number_of_threads() {
        let mut contents = Vec::new();
        for threads in [1, 3] {
            let config = crate::Config {
                threads: Some(threads),
                ..crate::Config::default()
            };
            let device = crate::MlxDevice::with_config(crate::DeviceKind::Cpu, &config).expect("a cpu opens");
            let mut registry = crate::KernelRegistry::new();
            let buffer = |values: &[u32]| {
                let mut b = device.alloc_tensor(DType::U32, &[values.len()]).expect("small");
                b.write(0, values).expect("as large");
                b
            };
            let (k, v) = (buffer(&[1, 2, 3, 4]), buffer(&[5, 6, 7, 8]));
            let (kp, vp) = (buffer(&[0; 32]), buffer(&[0; 32]));
            let (table, starts, lens) = (buffer(&[1, 1]), buffer(&[0, 1, 2]), buffer(&[3, 3]));
            let pool = KvPool { n_blocks: 2, block_size: 8, n_seqs: 2, blocks_per_seq: 1 };
            let p =
                PagedAppendParams { pool, n_rows: 2, n_kv_heads: 2, k_dim: 1, v_dim: 1, k_row_stride: 0, v_row_stride: 0 };
            let state = KvState { block_table: &table, seq_starts: &starts, kv_lens: &lens };
            let mut encoder = device.command_encoder().expect("a cpu gives encoders");
            kv_append_paged(&mut encoder, &mut registry, &device, &k, &v, &kp, &vp, &state, &p).expect("valid");
            encoder.commit_and_wait().expect("runs");
            contents.push((kp.read::<u32>().expect("read"), vp.read::<u32>().expect("read")));
        }
        assert_eq!((contents[0].0[18], contents[0].0[26], contents[0].1[18], contents[0].1[26]), (3, 4, 7, 8));
        assert_eq!(contents[0], contents[1]);
    }

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let (x, cache) = (b.buffer(DType::F32, &[2, 3, 4]), b.buffer(DType::F32, &[3, 5, 4]));
        let half = b.buffer(DType::F16, &[60]);
        let inside = cache.view(0, DType::F32, vec![24]).unwrap();
        let ok = KvAppendParams { n_kv_heads: 3, head_dim: 4, n_tokens: 2, capacity: 5, position: 3 };
        let mut run = |x, c, p| kv_append(&mut b.encoder, &mut b.registry, &b.device, x, c, &p);
        assert!(run(&x, &cache, ok).is_ok());
        assert_invalid(run(&x, &cache, KvAppendParams { n_kv_heads: 0, ..ok }), &["n_kv_heads"]);
        assert_invalid(run(&x, &cache, KvAppendParams { head_dim: 0, ..ok }), &["head_dim"]);
        assert_invalid(run(&x, &cache, KvAppendParams { n_tokens: 0, ..ok }), &["n_tokens"]);
        assert_invalid(run(&x, &cache, KvAppendParams { capacity: 0, ..ok }), &["capacity"]);
        assert_invalid(run(&x, &cache, KvAppendParams { position: 4, ..ok }), &["position 4", "capacity 5"]);
        assert_invalid(run(&x, &cache, KvAppendParams { position: u32::MAX, ..ok }), &["position", "capacity"]);
        let huge = KvAppendParams { n_kv_heads: u32::MAX, head_dim: u32::MAX, ..ok };
        assert_invalid(run(&x, &cache, huge), &["x", "overflows"]);
        assert_invalid(run(&x, &half, ok), &["cache", "f16", "f32"]);
        assert_invalid(run(&x, &cache, KvAppendParams { head_dim: 8, ..ok }), &["x", "96 bytes"]);
        assert_invalid(run(&x, &x, ok), &["cache", "96 bytes"]);
        assert_invalid(run(&inside, &cache, ok), &["cache", "x", "share"]);
    }
}
