//! Cases of `sdpa_tq`.

use super::{QuantizedCache, SdpaTqParams, partial_elements, sdpa_tq};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, Outputs, Rng, Suite, Tensor, Tolerance};
use crate::turboquant::CODEBOOK_4BIT;

#[derive(Debug)]
struct TqCase {
    params: SdpaTqParams,
}

/// The orthogonal transform, by its definition.
fn rotated(x: &[f64]) -> Vec<f64> {
    let sign = |i: usize, j: usize| if (i & j).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
    let scale = 1.0 / (x.len() as f64).sqrt();
    (0..x.len()).map(|i| x.iter().enumerate().map(|(j, v)| sign(i, j) * v).sum::<f64>() * scale).collect()
}

/// Row `slot` of a cache, in the rotated domain.
fn row(codes: &[u8], norms: &[f64], slot: usize, dim: usize) -> Vec<f64> {
    let factor = norms[slot] / (dim as f64).sqrt();
    let code = |i: usize| codes[slot * (dim / 2) + i / 2] >> (4 * (i % 2)) & 15;
    (0..dim).map(|i| f64::from(CODEBOOK_4BIT[usize::from(code(i))]) * factor).collect()
}

impl Case for TqCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let p = self.params;
        let (heads, kv_heads, dim) = (p.n_heads as usize, p.n_kv_heads as usize, p.head_dim as usize);
        let slots = kv_heads * p.capacity as usize;
        let mut cache = || {
            let codes = (0..slots * dim / 2).map(|_| rng.bits() as u8).collect();
            // What lies outside the keys is NaN: nobody may look at it.
            let norms: Vec<f32> = (0..slots)
                .map(|i| {
                    let key = i as u32 % p.capacity;
                    let is_key = (p.first_key..p.end_key).contains(&key);
                    if is_key { 0.3 + rng.signed().abs() * 2.0 } else { f32::NAN }
                })
                .collect();
            [Tensor::from_bytes(DType::U8, &[slots * dim / 2], codes), Tensor::from_f32(DType::F32, &[slots], &norms)]
        };
        let [k, kn] = cache();
        let [v, vn] = cache();
        vec![Tensor::random(DType::F32, &[heads, dim], rng), k, kn, v, vn]
    }

    // The scratch is an output too: it is written between guards, and compared with nothing but itself.
    fn outputs(&self) -> Outputs {
        vec![(DType::F32, vec![self.params.n_heads as usize, self.params.head_dim as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = self.params;
        let (dim, capacity) = (p.head_dim as usize, p.capacity as usize);
        let q = inputs[0].to_f64();
        let (k, kn, v, vn) = (inputs[1].bytes(), inputs[2].to_f64(), inputs[3].bytes(), inputs[4].to_f64());
        let ratio = (p.n_heads / p.n_kv_heads) as usize;
        let mut output = Vec::new();
        for (head, q) in q.chunks_exact(dim).enumerate() {
            let slot = head / ratio * capacity;
            let q = rotated(q);
            let keys = p.first_key as usize..p.end_key as usize;
            let scores: Vec<f64> = keys
                .clone()
                .map(|key| {
                    let k = row(k, &kn, slot + key, dim);
                    let score = q.iter().zip(&k).map(|(a, b)| a * b).sum::<f64>() * f64::from(p.scale);
                    let cap = f64::from(p.softcap);
                    if cap > 0.0 { (score / cap).tanh() * cap } else { score }
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            let mut mixed = vec![0.0; dim];
            for (key, score) in keys.zip(&scores) {
                let weight = (score - largest).exp() / sum;
                mixed.iter_mut().zip(row(v, &vn, slot + key, dim)).for_each(|(m, v)| *m += weight * v);
            }
            output.extend(rotated(&mixed));
        }
        vec![output]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let partial = c.device.alloc_tensor(DType::F32, &[partial_elements(self.params.n_heads, self.params.head_dim)])?;
        let keys = QuantizedCache { packed: &c.inputs[1], norms: &c.inputs[2] };
        let values = QuantizedCache { packed: &c.inputs[3], norms: &c.inputs[4] };
        let output = &c.outputs[0];
        sdpa_tq(c.encoder, c.registry, c.device, &c.inputs[0], keys, values, output, &partial, &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        // Scores of size 10 in f32 make weights that are 2e-6 off; values are of size 1.
        Tolerance { absolute: 2e-5, relative: 1e-5 }
    }

    fn is_small(&self) -> bool {
        let p = self.params;
        p.n_heads * (p.end_key - p.first_key) * p.head_dim <= 40_000
    }
}

pub(crate) fn suite() -> Suite {
    let base = SdpaTqParams {
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
        first_key: 0,
        end_key: 33,
        capacity: 40,
        scale: 0.125,
        softcap: 0.0,
    };
    let list = [
        SdpaTqParams { n_heads: 1, n_kv_heads: 1, head_dim: 2, end_key: 1, capacity: 1, ..base },
        base,
        SdpaTqParams { first_key: 7, end_key: 8, ..base },
        SdpaTqParams { first_key: 5, end_key: 5, ..base },
        SdpaTqParams { n_heads: 7, n_kv_heads: 1, head_dim: 128, end_key: 7, softcap: 5.0, ..base },
        SdpaTqParams { n_heads: 2, head_dim: 256, end_key: 65, capacity: 65, scale: 1.0, ..base },
        SdpaTqParams { n_heads: 1, n_kv_heads: 1, head_dim: 64, end_key: 200, capacity: 201, ..base },
        SdpaTqParams { n_heads: 8, head_dim: 512, first_key: 100, end_key: 1500, capacity: 2000, scale: 1.0, ..base },
        SdpaTqParams { n_heads: 2, head_dim: 256, end_key: 4001, capacity: 4096, ..base },
    ];
    Suite {
        op: &super::OP,
        cases: list.into_iter().map(|params| Box::new(TqCase { params }) as Box<dyn Case>).collect(),
        random: |rng| {
            let n_kv_heads = rng.range(1, 2) as u32;
            let first_key = rng.range(0, 9) as u32;
            let end_key = first_key + rng.range(1, 70) as u32;
            let params = SdpaTqParams {
                n_heads: n_kv_heads * rng.range(1, 3) as u32,
                n_kv_heads,
                head_dim: 2 << rng.range(0, 5),
                first_key,
                end_key,
                capacity: end_key + rng.range(0, 5) as u32,
                scale: 0.2,
                softcap: rng.pick(&[0.0, 3.0]),
            };
            Box::new(TqCase { params })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::flash_attn_vec_tq::{FlashAttnVecTqParams, flash_attn_vec_tq, tmp_buffer_bytes};
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let (q, o) = (b.buffer(DType::F32, &[2, 8]), b.buffer(DType::F32, &[2, 8]));
        let (k, n) = (b.buffer(DType::U8, &[1, 4, 4]), b.buffer(DType::F32, &[1, 4]));
        let tmp = b.buffer(DType::F32, &[partial_elements(2, 8)]);
        assert_eq!(tmp_buffer_bytes(2, 8), 2 * 32 * 10 * 4);
        let ok = FlashAttnVecTqParams {
            num_heads: 2,
            num_kv_heads: 1,
            head_dim: 8,
            kv_seq_len: 3,
            kv_capacity: 4,
            scale: 1.0,
            mask_type: 1,
            sliding_window: 0,
            softcap: 0.0,
        };
        let mut run = |tmp: &_, p: FlashAttnVecTqParams| {
            flash_attn_vec_tq(&mut b.encoder, &mut b.registry, &b.device, &q, &k, &n, &k, &n, &o, tmp, &p)
        };
        assert!(run(&tmp, ok).is_ok());
        assert_invalid(run(&tmp, FlashAttnVecTqParams { head_dim: 6, ..ok }), &["head_dim", "power of two"]);
        assert_invalid(run(&tmp, FlashAttnVecTqParams { kv_seq_len: 5, ..ok }), &["kv_capacity", "kv_seq_len"]);
        assert_invalid(run(&tmp, FlashAttnVecTqParams { kv_capacity: 5, ..ok }), &["k_packed", "16 bytes"]);
        assert_invalid(run(&tmp, FlashAttnVecTqParams { num_kv_heads: 0, ..ok }), &["num_kv_heads"]);
        assert_invalid(run(&tmp, FlashAttnVecTqParams { mask_type: 3, ..ok }), &["mask_type"]);
        assert_invalid(run(&tmp, FlashAttnVecTqParams { scale: f32::NAN, ..ok }), &["scale"]);
        assert_invalid(run(&q, ok), &["tmp", "64 bytes"]);
        let huge = FlashAttnVecTqParams { num_heads: u32::MAX, head_dim: 1 << 31, kv_capacity: u32::MAX, ..ok };
        assert_invalid(run(&tmp, huge), &["flash_attn_vec_tq"]);
    }
}
