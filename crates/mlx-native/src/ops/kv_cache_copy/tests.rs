//! Cases of `kv_cache_copy`.

use super::{KvCacheCopyParams, kv_cache_copy};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, Outputs, Rng, Suite, Tensor, Tolerance, rounded};

#[derive(Debug)]
struct CopyCase {
    from: DType,
    to: DType,
    params: KvCacheCopyParams,
}

impl CopyCase {
    fn tensor(dtype: DType, shape: &[usize], rng: &mut Rng) -> Tensor {
        if dtype.is_float() {
            return Tensor::random(dtype, shape, rng);
        }
        let bytes = (0..shape.iter().product::<usize>() * dtype.size_of()).map(|_| rng.bits() as u8).collect();
        Tensor::from_bytes(dtype, shape, bytes)
    }
}

impl Case for CopyCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let p = self.params;
        vec![Self::tensor(self.from, &[p.n_tokens as usize, p.n_heads as usize, p.head_dim as usize], rng)]
    }

    fn outputs(&self) -> Outputs {
        let p = self.params;
        vec![(self.to, vec![p.n_heads as usize, p.capacity as usize, p.head_dim as usize])]
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        Some(vec![Self::tensor(self.to, &self.outputs()[0].1, rng)])
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = self.params;
        let (heads, dim, capacity) = (p.n_heads as usize, p.head_dim as usize, p.capacity as usize);
        let (x, mut cache) = (inputs[0].to_f64(), inputs[1].to_f64());
        for (i, row) in x.chunks_exact(dim).enumerate() {
            let position = p.position as usize + i / heads;
            let place = i % heads * capacity + if p.is_ring { position % capacity } else { position };
            for (c, v) in cache[place * dim..][..dim].iter_mut().zip(row) {
                *c = rounded(self.to, *v);
            }
        }
        vec![cache]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        kv_cache_copy(c.encoder, c.registry, c.device, &c.inputs[0], &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        true
    }
}

const PAIRS: [(DType, DType); 6] = [
    (DType::F32, DType::F32),
    (DType::F16, DType::F16),
    (DType::BF16, DType::BF16),
    (DType::U8, DType::U8),
    (DType::F32, DType::F16),
    (DType::F32, DType::BF16),
];

pub(crate) fn suite() -> Suite {
    let base =
        KvCacheCopyParams { n_heads: 1, head_dim: 1, n_tokens: 1, capacity: 1, position: 0, is_ring: false };
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for (from, to) in PAIRS {
        for params in [
            base,
            KvCacheCopyParams { n_heads: 3, head_dim: 33, n_tokens: 7, capacity: 12, position: 5, ..base },
            KvCacheCopyParams { head_dim: 130, n_tokens: 4, capacity: 5, position: 8, is_ring: true, ..base },
            KvCacheCopyParams { n_heads: 2, head_dim: 65, n_tokens: 9, capacity: 4, position: u32::MAX, is_ring: true },
        ] {
            cases.push(Box::new(CopyCase { from, to, params }));
        }
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let (from, to) = rng.pick(&PAIRS);
            let params = KvCacheCopyParams {
                n_heads: rng.range(1, 4) as u32,
                head_dim: rng.range(1, 40) as u32,
                n_tokens: rng.range(1, 9) as u32,
                capacity: rng.range(1, 9) as u32,
                position: rng.range(0, 20) as u32,
                is_ring: true,
            };
            Box::new(CopyCase { from, to, params })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::kv_cache_copy::{dispatch_kv_cache_copy, dispatch_kv_cache_copy_batch_f32};
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let (x, c) = (b.buffer(DType::F32, &[2, 4]), b.buffer(DType::F32, &[4, 4]));
        let h = b.buffer(DType::F16, &[4, 4]);
        let ok =
            KvCacheCopyParams { n_heads: 1, head_dim: 4, n_tokens: 2, capacity: 4, position: 2, is_ring: false };
        let mut run = |x, c, p: KvCacheCopyParams| {
            kv_cache_copy(&mut b.encoder, &mut b.registry, &b.device, x, c, &p)
        };
        assert!(run(&x, &c, ok).is_ok() && run(&x, &h, ok).is_ok());
        assert_invalid(run(&x, &c, KvCacheCopyParams { position: 3, ..ok }), &["position 3", "capacity 4"]);
        assert_invalid(run(&x, &c, KvCacheCopyParams { position: u32::MAX, ..ok }), &["position"]);
        assert_invalid(run(&x, &c, KvCacheCopyParams { n_heads: 2, ..ok }), &["x", "32 bytes"]);
        assert_invalid(run(&x, &c, KvCacheCopyParams { capacity: 5, ..ok }), &["cache", "64 bytes"]);
        assert_invalid(run(&x, &c, KvCacheCopyParams { capacity: 0, ..ok }), &["capacity"]);
        assert_invalid(run(&h, &c, ok), &["x is f16", "cache is f32"]);
        assert_invalid(run(&c, &c, ok), &["share"]);
    }

    #[test]
    fn the_published_functions_look_at_the_cache() {
        let mut b = Bench::new();
        let (x, c) = (b.buffer(DType::BF16, &[2, 4]), b.buffer(DType::BF16, &[4, 4]));
        let f = b.buffer(DType::F32, &[2, 4]);
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        assert!(dispatch_kv_cache_copy(e, r, device, &x, &c, 0, 4, 0, 4, false).is_ok(), "nothing to copy");
        assert_invalid(dispatch_kv_cache_copy(e, r, device, &x, &c, 3, 4, 2, 4, false), &["write_pos 3"]);
        assert_invalid(dispatch_kv_cache_copy(e, r, device, &x, &c, 0, 4, 2, 5, false), &["cache", "32 bytes"]);
        assert_invalid(dispatch_kv_cache_copy(e, r, device, &x, &c, 0, 4, 2, 0, true), &["cache_cap"]);
        assert_invalid(dispatch_kv_cache_copy(e, r, device, &x, &c, 0, u32::MAX, u32::MAX, 1, true), &["src"]);
        let mut batch = |capacity, position| {
            dispatch_kv_cache_copy_batch_f32(e, r, device, &f, &f, 1, 4, capacity, position)
        };
        assert_invalid(batch(2, 2), &["seq_pos 2", "capacity 2"]);
        assert_invalid(batch(3, 2), &["cache", "32 bytes"]);
        assert_eq!(e.recorded_dispatches(), 0);
    }
}
