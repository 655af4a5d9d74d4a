//! Cases of `kv_append`.

use super::{KvAppendParams, kv_append};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct KvAppendCase {
    dtype: DType,
    params: KvAppendParams,
}

impl KvAppendCase {
    fn tensor(&self, shape: &[usize], rng: &mut Rng) -> Tensor {
        if self.dtype == DType::U8 {
            let bytes = (0..shape.iter().product()).map(|_| rng.bits() as u8).collect();
            return Tensor::from_bytes(self.dtype, shape, bytes);
        }
        Tensor::random(self.dtype, shape, rng)
    }

    fn cache_shape(&self) -> Vec<usize> {
        let p = &self.params;
        vec![p.n_kv_heads as usize, p.capacity as usize, p.head_dim as usize]
    }
}

impl Case for KvAppendCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let p = &self.params;
        vec![self.tensor(&[p.n_tokens as usize, p.n_kv_heads as usize, p.head_dim as usize], rng)]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, self.cache_shape())]
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        Some(vec![self.tensor(&self.cache_shape(), rng)])
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
        cases: dtypes.iter().flat_map(|&dtype| shapes.map(|s| case(dtype, s))).collect(),
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
