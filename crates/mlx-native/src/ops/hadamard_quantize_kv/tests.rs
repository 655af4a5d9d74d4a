//! Cases of `hadamard_quantize_kv`.

use super::{QuantizeKvParams, hadamard_quantize_kv};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};
use crate::turboquant::EDGES_4BIT;

#[derive(Debug)]
struct QuantizeCase {
    dtype: DType,
    params: QuantizeKvParams,
    /// Whether the rows hold an impulse or nothing: all coordinates equal, and a zero norm.
    is_plain: bool,
}

impl QuantizeCase {
    fn row(&self, token: usize, head: usize) -> usize {
        token * self.params.n_kv_heads as usize + head
    }
}

/// The rotated row and its norm, in f64 and by the definition.
fn rotated(x: &[f64]) -> (Vec<f64>, f64) {
    let sign = |i: usize, j: usize| if (i & j).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
    let scale = 1.0 / (x.len() as f64).sqrt();
    let y: Vec<f64> = (0..x.len())
        .map(|i| x.iter().enumerate().map(|(j, v)| sign(i, j) * v).sum::<f64>() * scale)
        .collect();
    let norm = y.iter().map(|v| v * v).sum::<f64>().sqrt();
    (y, norm)
}

/// The code of each coordinate; `None` where the value is too near an edge for f32 to be sure.
fn codes(x: &[f64]) -> Vec<Option<u8>> {
    let (y, norm) = rotated(x);
    if norm <= 1e-10 {
        return vec![Some(7); x.len()];
    }
    y.iter()
        .map(|v| {
            let v = v / norm * (x.len() as f64).sqrt();
            let near = EDGES_4BIT.iter().any(|e| (f64::from(*e) - v).abs() < 1e-5);
            (!near).then(|| EDGES_4BIT.iter().filter(|e| f64::from(**e) < v).count() as u8)
        })
        .collect()
}

impl Case for QuantizeCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let p = self.params;
        let (rows, dim) = ((p.n_tokens * p.n_kv_heads) as usize, p.head_dim as usize);
        let mut x = Vec::new();
        while x.len() < rows * dim {
            let row: Vec<f32> = if self.is_plain {
                let mut row = vec![0.0; dim];
                row[0] = (x.len() / dim % 2) as f32 * 3.0;
                row
            } else {
                (0..dim).map(|_| rng.normal() * 2.0).collect()
            };
            // Drawn again until no coordinate is near an edge.
            let tensor = Tensor::from_f32(self.dtype, &[dim], &row);
            if codes(&tensor.to_f64()).iter().all(Option::is_some) {
                x.extend(row);
            }
        }
        vec![Tensor::from_f32(self.dtype, &[rows, dim], &x)]
    }

    fn outputs(&self) -> Outputs {
        let p = self.params;
        let (heads, capacity, dim) = (p.n_kv_heads as usize, p.capacity as usize, p.head_dim as usize);
        vec![(DType::U8, vec![heads, capacity, dim / 2]), (DType::F32, vec![heads, capacity])]
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        let outputs = self.outputs();
        let len = outputs[0].1.iter().product();
        let packed = (0..len).map(|_| rng.bits() as u8).collect();
        Some(vec![
            Tensor::from_bytes(DType::U8, &outputs[0].1, packed),
            Tensor::random(DType::F32, &outputs[1].1, rng),
        ])
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = self.params;
        let (dim, capacity) = (p.head_dim as usize, p.capacity as usize);
        let x = inputs[0].to_f64();
        let (mut packed, mut norms) = (inputs[1].to_f64(), inputs[2].to_f64());
        for token in 0..p.n_tokens as usize {
            for head in 0..p.n_kv_heads as usize {
                let row = &x[self.row(token, head) * dim..][..dim];
                let position = p.position as usize + token;
                let slot = head * capacity + if p.is_ring { position % capacity } else { position };
                norms[slot] = rotated(row).1;
                for (i, pair) in codes(row).chunks_exact(2).enumerate() {
                    let [even, odd] = [pair[0], pair[1]].map(|code| f64::from(code.unwrap_or(0)));
                    packed[slot * (dim / 2) + i] = even + 16.0 * odd;
                }
            }
        }
        vec![packed, norms]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let [packed, norms] = [&c.outputs[0], &c.outputs[1]];
        hadamard_quantize_kv(c.encoder, c.registry, c.device, &c.inputs[0], packed, norms, &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        // Codes are whole numbers; norms are sums of up to 4096 squares in f32.
        Tolerance { absolute: 1e-30, relative: 4e-6 }
    }

    fn is_small(&self) -> bool {
        self.params.n_tokens * self.params.n_kv_heads * self.params.head_dim <= 6000
    }
}

pub(crate) fn suite() -> Suite {
    let base =
        QuantizeKvParams { head_dim: 64, n_kv_heads: 2, position: 3, capacity: 9, is_ring: false, n_tokens: 1 };
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for params in [
            QuantizeKvParams { head_dim: 2, n_kv_heads: 1, capacity: 5, ..base },
            base,
            QuantizeKvParams { head_dim: 128, n_tokens: 6, ..base },
            QuantizeKvParams { head_dim: 256, position: 25, is_ring: true, ..base },
            QuantizeKvParams { position: u32::MAX, is_ring: true, n_tokens: 4, ..base },
            QuantizeKvParams { capacity: 3, position: 2, is_ring: true, n_tokens: 8, ..base },
            QuantizeKvParams { head_dim: 512, ..base },
            QuantizeKvParams { head_dim: 2048, n_kv_heads: 1, ..base },
        ] {
            cases.push(Box::new(QuantizeCase { dtype, params, is_plain: false }));
        }
        cases.push(Box::new(QuantizeCase { dtype, params: QuantizeKvParams { n_tokens: 4, ..base }, is_plain: true }));
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let params = QuantizeKvParams {
                head_dim: 2 << rng.range(0, 7),
                n_kv_heads: rng.range(1, 3) as u32,
                position: rng.range(0, 20) as u32,
                capacity: rng.range(1, 12) as u32,
                is_ring: true,
                n_tokens: rng.range(1, 4) as u32,
            };
            Box::new(QuantizeCase { dtype: rng.pick(FLOATS), params, is_plain: false })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::hadamard_quantize_kv::dispatch_hadamard_quantize_kv;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let (x, y) = (b.buffer(DType::F32, &[2, 8]), b.buffer(DType::U8, &[2, 4, 4]));
        let n = b.buffer(DType::F32, &[2, 4]);
        let ok =
            QuantizeKvParams { head_dim: 8, n_kv_heads: 2, position: 1, capacity: 4, is_ring: false, n_tokens: 1 };
        let mut run = |p: QuantizeKvParams| {
            hadamard_quantize_kv(&mut b.encoder, &mut b.registry, &b.device, &x, &y, &n, &p)
        };
        assert!(run(ok).is_ok());
        assert_invalid(run(QuantizeKvParams { head_dim: 12, ..ok }), &["head_dim", "power of two"]);
        assert_invalid(run(QuantizeKvParams { head_dim: 8192, ..ok }), &["head_dim", "4096"]);
        assert_invalid(run(QuantizeKvParams { position: 4, ..ok }), &["position 4", "capacity 4"]);
        assert_invalid(run(QuantizeKvParams { position: u32::MAX, ..ok }), &["position", "capacity"]);
        assert_invalid(run(QuantizeKvParams { n_tokens: 2, ..ok }), &["x", "64 bytes"]);
        assert_invalid(run(QuantizeKvParams { capacity: 5, ..ok }), &["packed", "32 bytes"]);
        assert_invalid(run(QuantizeKvParams { capacity: 0, ..ok }), &["capacity"]);
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        let mut old = |heads, dim, capacity, position, ring| {
            dispatch_hadamard_quantize_kv(e, r, device, &x, &y, &n, heads, dim, capacity, position, ring)
        };
        assert!(old(0, 8, 4, 0, false).is_ok() && old(2, 0, 4, 0, false).is_ok());
        assert_invalid(old(2, 8, 4, 4, false), &["write_pos"]);
        assert_invalid(old(2, 8, 0, 4, true), &["cache_capacity"]);
        assert_invalid(old(u32::MAX, 1 << 31, u32::MAX, 4, true), &["src"]);
        assert_invalid(old(2, 8, 5, 4, true), &["packed"]);
    }
}
