//! Cases of `sdpa`.

use super::{SdpaParams, sdpa};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Golden, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug, Clone, Copy)]
struct SdpaCase {
    dtype: DType,
    params: SdpaParams,
    batch: u32,
    /// Positions from `kv_seq_len` on hold NaN: a cache that was used before.
    stale: bool,
    /// The second query of every head has a NaN, the last but one an infinity: their rows alone become NaN.
    special: bool,
    benchmark: bool,
}

/// A case of f32 with the usual scale, batch 1, and no room to spare.
fn case(n_heads: u32, n_kv_heads: u32, head_dim: u32, seq_len: u32, kv_seq_len: u32) -> SdpaCase {
    let scale = 1.0 / (head_dim as f32).sqrt();
    let params = SdpaParams { n_heads, n_kv_heads, head_dim, seq_len, kv_seq_len, scale, kv_capacity: 0 };
    SdpaCase { dtype: DType::F32, params, batch: 1, stale: false, special: false, benchmark: false }
}

impl SdpaCase {
    fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    fn scale(mut self, scale: f32) -> Self {
        self.params.scale = scale;
        self
    }

    fn batch(mut self, batch: u32) -> Self {
        self.batch = batch;
        self
    }

    fn stale_room(mut self, positions: u32) -> Self {
        self.params.kv_capacity = self.params.kv_seq_len + positions;
        self.stale = true;
        self
    }

    fn special(mut self) -> Self {
        self.special = true;
        self
    }

    fn benchmark(mut self) -> Self {
        self.benchmark = true;
        self
    }

    fn in_each_dtype(self) -> impl Iterator<Item = SdpaCase> {
        FLOATS.iter().map(move |&d| self.dtype(d))
    }

    fn capacity(&self) -> u32 {
        self.params.kv_capacity.max(self.params.kv_seq_len)
    }

    fn q_shape(&self) -> [usize; 4] {
        let p = &self.params;
        [self.batch, p.n_heads, p.seq_len, p.head_dim].map(|n| n as usize)
    }

    fn kv(&self, rng: &mut Rng) -> Tensor {
        let p = &self.params;
        let shape = [self.batch, p.n_kv_heads, self.capacity(), p.head_dim].map(|n| n as usize);
        let mut values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
        if self.stale {
            for head in values.chunks_exact_mut(shape[2] * shape[3]) {
                head[p.kv_seq_len as usize * shape[3]..].fill(f32::NAN);
            }
        }
        Tensor::from_f32(self.dtype, &shape, &values)
    }

    fn pairs(&self) -> f64 {
        let (s, t) = (f64::from(self.params.seq_len), f64::from(self.params.kv_seq_len));
        f64::from(self.batch * self.params.n_heads) * s * (t - (s - 1.0) / 2.0)
    }
}

impl Case for SdpaCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let shape = self.q_shape();
        let mut q: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
        if self.special {
            for head in q.chunks_exact_mut(shape[2] * shape[3]) {
                head[shape[3]] = f32::NAN;
                head[(shape[2] - 2) * shape[3]] = f32::INFINITY;
            }
        }
        vec![Tensor::from_f32(self.dtype, &shape, &q), self.kv(rng), self.kv(rng)]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, self.q_shape().to_vec())]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let [q, k, v] = [0, 1, 2].map(|i| inputs[i].to_f64());
        let [batch, n_heads, seq_len, head_dim] = self.q_shape();
        let (n_kv_heads, capacity) = (self.params.n_kv_heads as usize, self.capacity() as usize);
        let mut out = vec![0.0; q.len()];
        for (row, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let (b, head, i) = (row / seq_len / n_heads, row / seq_len % n_heads, row % seq_len);
            assert!(b < batch);
            let kv_head = head / (n_heads / n_kv_heads);
            let first = (b * n_kv_heads + kv_head) * capacity;
            let keys = self.params.kv_seq_len as usize - seq_len + i + 1;
            let query = &q[row * head_dim..][..head_dim];
            let of = |x: &[f64], j: usize, d: usize| x[(first + j) * head_dim + d];
            let scores: Vec<f64> = (0..keys)
                .map(|j| f64::from(self.params.scale) * (0..head_dim).map(|d| query[d] * of(&k, j, d)).sum::<f64>())
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (d, out) in out.iter_mut().enumerate() {
                *out = (0..keys).map(|j| weights[j] * of(&v, j, d)).sum::<f64>() / sum;
            }
        }
        vec![out]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let [q, k, v] = [0, 1, 2].map(|i| &c.inputs[i]);
        sdpa(c.encoder, c.registry, c.device, q, k, v, &c.outputs[0], &self.params, self.batch)
    }

    /// A rounding of a score changes its weight by as much of itself: some 1e-6 for scores of some 10 at most, which is
    /// what the usual scale gives; without it they reach 30. The result is rounded once.
    fn tolerance(&self) -> Tolerance {
        let usual = self.params.scale * (self.params.head_dim as f32).sqrt() < 1.1;
        Tolerance::accumulated(self.dtype, if usual { 5e-6 } else { 1.9e-5 })
    }

    fn is_small(&self) -> bool {
        self.pairs() * f64::from(self.params.head_dim) < 3e5
    }

    fn is_only_timed(&self) -> bool {
        self.benchmark
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let d = f64::from(self.params.head_dim);
        let rows = f64::from(2 * self.params.n_heads * self.params.seq_len)
            + f64::from(2 * self.params.n_kv_heads * self.params.kv_seq_len);
        let bytes = f64::from(self.batch) * rows * d * self.dtype.size_of() as f64;
        self.benchmark.then(|| (bytes, 4.0 * self.pairs() * d))
    }
}

/// A case that MLX computed.
#[derive(Debug)]
struct GoldenCase {
    case: SdpaCase,
    golden: Golden,
}

impl GoldenCase {
    fn new(golden: Golden) -> Self {
        let [n_heads, n_kv_heads, head_dim] = ["n_heads", "n_kv_heads", "head_dim"].map(|n| golden.u32(n));
        let scale = golden.params["scale"].as_f64().expect("every case has a scale") as f32;
        let case = case(n_heads, n_kv_heads, head_dim, golden.u32("seq_len"), golden.u32("kv_seq_len"))
            .dtype(golden.tensor("q").dtype())
            .batch(golden.u32("batch"))
            .scale(scale);
        GoldenCase { case, golden }
    }
}

impl Case for GoldenCase {
    fn inputs(&self, _rng: &mut Rng) -> Vec<Tensor> {
        ["q", "k", "v"].map(|name| self.golden.tensor(name).clone()).to_vec()
    }

    fn outputs(&self) -> Outputs {
        self.case.outputs()
    }

    /// What MLX found, which our reference must agree with.
    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let mlx = self.golden.tensor("out").to_f64();
        let ours = self.case.reference(inputs).remove(0);
        for (mlx, ours) in mlx.iter().zip(&ours) {
            assert!((mlx - ours).abs() < 5e-6, "MLX has {mlx}, the reference {ours}");
        }
        vec![mlx]
    }

    fn encode(&self, context: &mut Context<'_>) -> Result<()> {
        self.case.encode(context)
    }

    fn tolerance(&self) -> Tolerance {
        self.case.tolerance()
    }

    fn is_small(&self) -> bool {
        self.case.is_small()
    }
}

/// The kernels are `attention`'s, whose cases reach them all; these are what lies between: layouts, capacities, batches.
fn cases() -> Vec<SdpaCase> {
    let mut all = Vec::new();
    for head_dim in [33, 64, 80] {
        all.extend(case(2, 1, head_dim, 1, 7).stale_room(3).batch(2).in_each_dtype());
        all.extend(case(2, 2, head_dim, 9, 33).stale_room(1).batch(2).in_each_dtype());
    }
    // Every group ratio; one key; queries and keys that are multiples of nothing.
    for (n_heads, n_kv_heads) in [(1, 1), (4, 4), (7, 1), (16, 2)] {
        for (seq_len, kv_seq_len) in [(1, 1), (2, 7), (8, 65), (9, 9), (33, 65)] {
            all.push(case(n_heads, n_kv_heads, 64, seq_len, kv_seq_len));
        }
    }
    // Scale 1, as with normalised queries and keys.
    for seq_len in [2, 33] {
        all.extend(case(4, 2, 64, seq_len, 65).scale(1.0).in_each_dtype());
    }
    // Keys in parts.
    all.push(case(2, 1, 64, 1, 1030));
    all.push(case(4, 1, 33, 3, 257).stale_room(2));
    // One NaN spoils one row.
    for (head_dim, seq_len, kv_seq_len) in [(64, 5, 9), (33, 5, 9), (80, 9, 40), (64, 3, 300)] {
        all.push(case(2, 1, head_dim, seq_len, kv_seq_len).special());
    }
    // Long contexts.
    for (seq_len, kv_seq_len) in [(1, 2049), (2, 8200), (65, 2049)] {
        all.extend(case(4, 1, 64, seq_len, kv_seq_len).stale_room(7).in_each_dtype());
        all.push(case(3, 1, 33, seq_len, kv_seq_len));
    }
    // What a small model asks for.
    all.extend(case(16, 8, 128, 1, 4096).in_each_dtype().map(SdpaCase::benchmark));
    all.extend(case(16, 2, 64, 1, 1024).in_each_dtype().map(SdpaCase::benchmark));
    all.extend(case(16, 8, 128, 256, 256).in_each_dtype().map(SdpaCase::benchmark));
    all
}

pub(crate) fn suite() -> Suite {
    Suite {
        op: &super::OP,
        cases: cases()
            .into_iter()
            .map(|c| Box::new(c) as Box<dyn Case>)
            .chain(Golden::load("sdpa").into_iter().map(|g| Box::new(GoldenCase::new(g)) as Box<dyn Case>))
            .collect(),
        random: |rng| {
            let (ratio, n_kv_heads) = (rng.range(1, 9) as u32, rng.range(1, 3) as u32);
            let seq_len = rng.pick(&[1, 1, 2, 5, 8, 17]);
            let kv_seq_len = seq_len + rng.range(0, 70) as u32;
            let head_dim = rng.range(1, 140) as u32;
            let c = case(ratio * n_kv_heads, n_kv_heads, head_dim, seq_len, kv_seq_len).dtype(rng.pick(FLOATS));
            Box::new(c.batch(rng.range(1, 2) as u32).stale_room(rng.range(0, 9) as u32))
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::buffer::MlxBuffer;
    use crate::testing::{Bench, assert_invalid};

    const OK: SdpaParams =
        SdpaParams { n_heads: 4, n_kv_heads: 2, head_dim: 8, seq_len: 2, kv_seq_len: 3, scale: 1.0, kv_capacity: 4 };

    fn run(b: &mut Bench, [q, k, v, o]: [&MlxBuffer; 4], params: SdpaParams, batch: u32) -> Result<()> {
        sdpa(&mut b.encoder, &mut b.registry, &b.device, q, k, v, o, &params, batch)
    }

    #[test]
    fn parameters_are_named_and_come_before_buffers() {
        let mut b = Bench::new();
        // Far too small for anything: parameters must be refused first.
        let x = b.buffer(DType::F32, &[1]);
        let mut refused = |params: SdpaParams, batch: u32, words: &[&str]| {
            assert_invalid(run(&mut b, [&x; 4], params, batch), words);
        };
        refused(SdpaParams { head_dim: 0, ..OK }, 1, &["head_dim"]);
        refused(SdpaParams { head_dim: 577, ..OK }, 1, &["head_dim", "576"]);
        refused(SdpaParams { n_heads: 0, ..OK }, 1, &["n_heads"]);
        refused(SdpaParams { n_kv_heads: 0, ..OK }, 1, &["n_kv_heads"]);
        refused(SdpaParams { n_heads: 5, ..OK }, 1, &["n_heads", "n_kv_heads", "divisible"]);
        refused(SdpaParams { n_heads: 1, ..OK }, 1, &["divisible"]);
        refused(SdpaParams { seq_len: 0, ..OK }, 1, &["seq_len"]);
        refused(SdpaParams { kv_seq_len: 0, ..OK }, 1, &["kv_seq_len"]);
        refused(OK, 0, &["batch_size"]);
        refused(SdpaParams { seq_len: 4, ..OK }, 1, &["seq_len", "kv_seq_len"]);
        refused(SdpaParams { kv_capacity: 2, ..OK }, 1, &["kv_capacity"]);
        refused(SdpaParams { scale: f32::NAN, ..OK }, 1, &["scale"]);
        refused(SdpaParams { scale: f32::INFINITY, ..OK }, 1, &["scale"]);
        let huge = SdpaParams { n_heads: u32::MAX, n_kv_heads: u32::MAX, seq_len: u32::MAX, kv_seq_len: u32::MAX, ..OK };
        refused(SdpaParams { kv_capacity: 0, ..huge }, u32::MAX, &["q", "overflows"]);
        refused(SdpaParams { n_heads: 1 << 31, n_kv_heads: 1 << 31, kv_capacity: u32::MAX, ..OK }, 4, &["k", "overflows"]);
    }

    #[test]
    fn buffers_are_named() {
        let mut b = Bench::new();
        let [q, o] = [(); 2].map(|()| b.buffer(DType::F32, &[4 * 2 * 8]));
        let [k, v] = [(); 2].map(|()| b.buffer(DType::F32, &[2 * 4 * 8]));
        let short = b.buffer(DType::F32, &[63]);
        let half = b.buffer(DType::F16, &[1000]);
        let ints = b.buffer(DType::U32, &[1000]);
        let large = b.buffer(DType::F32, &[1000]);
        assert!(run(&mut b, [&q, &k, &v, &o], OK, 1).is_ok());
        assert!(run(&mut b, [&q, &k, &v, &large], OK, 1).is_ok(), "larger is fine");
        for (i, name) in ["q", "k", "v", "output"].into_iter().enumerate() {
            let with = |x| {
                let mut all = [&q, &k, &v, &o];
                all[i] = x;
                all
            };
            assert_invalid(run(&mut b, with(&short), OK, 1), &[&format!(" {name} holds"), "252 bytes"]);
            assert_invalid(run(&mut b, with(&half), OK, 1), &["f16", "f32"]);
            assert_invalid(run(&mut b, with(&ints), OK, 1), &[&format!("dtype of {name}"), "u32"]);
        }
        assert_invalid(run(&mut b, [&q, &k, &v, &o], OK, 2), &["q"]);
        assert_invalid(run(&mut b, [&q, &k, &v, &q], OK, 1), &["output", "q"]);
        assert_invalid(run(&mut b, [&q, &k, &v, &v], OK, 1), &["output", "v"]);
    }
}
