//! Cases of `quantized_embedding`.

use super::{QuantizedEmbeddingParams, quantized_embedding};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::quantized_matmul::tests::{dequantized, random_weight};
use crate::testing::{Case, Context, FLOATS, Golden, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct EmbeddingCase {
    dtype: DType,
    scales: DType,
    params: QuantizedEmbeddingParams,
    /// Inputs of a golden file, whose output the reference must agree with.
    golden: Option<Golden>,
}

impl Case for EmbeddingCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        if let Some(golden) = &self.golden {
            return ["ids", "w_q", "scales", "biases"].map(|name| golden.tensor(name).clone()).into();
        }
        let p = &self.params;
        let (vocab, dim) = (p.vocab_size as usize, p.embed_dim as usize);
        let mut ids: Vec<u32> = (0..p.n_tokens).map(|_| rng.range(0, vocab - 1) as u32).collect();
        // The last row, and ids that no row has.
        for (id, special) in ids.iter_mut().zip([vocab as u32 - 1, vocab as u32, u32::MAX]) {
            *id = special;
        }
        let [weight, scales, biases] = random_weight(vocab, dim, p.group_size, p.bits, self.scales, rng);
        vec![Tensor::from_u32(&[p.n_tokens as usize], &ids), weight, scales, biases]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.params.n_tokens as usize, self.params.embed_dim as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = &self.params;
        let dim = p.embed_dim as usize;
        let table = dequantized(&inputs[1..], dim, p.group_size as usize, p.bits as usize);
        let ids = inputs[0].to_u32();
        let row = |id: u32| (0..dim).map(move |i| (id, i));
        let out: Vec<f64> = ids
            .into_iter()
            .flat_map(row)
            .map(|(id, i)| if id < p.vocab_size { table[id as usize * dim + i] } else { 0.0 })
            .collect();
        if let Some(golden) = &self.golden {
            for (mlx, ours) in golden.tensor("out").to_f64().iter().zip(&out) {
                assert!((mlx - ours).abs() < 1e-5, "MLX has {mlx}, the reference {ours}: {p:?}");
            }
        }
        vec![out]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let [ids, weight, scales, biases] = c.inputs else { unreachable!("four inputs") };
        quantized_embedding(
            c.encoder, c.registry, c.device, ids, weight, scales, biases, &c.outputs[0], &self.params,
        )
    }

    fn tolerance(&self) -> Tolerance {
        // code * scale of a size around 2, plus a bias that may cancel it.
        Tolerance::accumulated(self.dtype, 1e-6)
    }

    fn is_small(&self) -> bool {
        true
    }
}

fn case(dtype: DType, scales: DType, n_tokens: u32, vocab_size: u32, groups: u32, group_size: u32, bits: u32) -> EmbeddingCase {
    let embed_dim = groups * group_size;
    let params = QuantizedEmbeddingParams { n_tokens, vocab_size, embed_dim, group_size, bits };
    EmbeddingCase { dtype, scales, params, golden: None }
}

pub(crate) fn suite() -> Suite {
    let mut cases = Vec::new();
    for (i, &dtype) in FLOATS.iter().enumerate() {
        for &scales in FLOATS {
            for bits in [4, 8] {
                let group_size = [32, 64, 128][i];
                cases.push(case(dtype, scales, 7, 33, 3, group_size, bits));
            }
        }
    }
    for (n_tokens, vocab_size, groups) in [(1, 1, 1), (5, 1, 7), (33, 65, 1), (65, 7, 33)] {
        for group_size in [32, 64, 128] {
            cases.push(case(DType::F32, DType::BF16, n_tokens, vocab_size, groups, group_size, 4));
        }
    }
    cases.extend(Golden::load("embedding").into_iter().map(|golden| {
        let scales = golden.tensor("scales").dtype();
        let [vocab_size, embed_dim, group_size, bits] = ["rows", "dim", "group_size", "bits"].map(|name| golden.u32(name));
        let n_tokens = golden.tensor("ids").shape()[0] as u32;
        let params = QuantizedEmbeddingParams { n_tokens, vocab_size, embed_dim, group_size, bits };
        EmbeddingCase { dtype: DType::F32, scales, params, golden: Some(golden) }
    }));
    Suite {
        op: &super::OP,
        cases: cases.into_iter().map(|c| Box::new(c) as Box<dyn Case>).collect(),
        random: |rng| {
            let (n_tokens, vocab_size, groups) = (rng.range(1, 20), rng.range(1, 40), rng.range(1, 4));
            let (group_size, bits) = (rng.pick(&[32, 64, 128]), rng.pick(&[4, 8]));
            let (dtype, scales) = (rng.pick(FLOATS), rng.pick(FLOATS));
            Box::new(case(dtype, scales, n_tokens as u32, vocab_size as u32, groups as u32, group_size, bits))
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
        let (ids, weight) = (b.buffer(DType::U32, &[2]), b.buffer(DType::U32, &[3 * 8]));
        let (scales, biases) = (b.buffer(DType::BF16, &[3]), b.buffer(DType::BF16, &[3]));
        let out = b.buffer(DType::F32, &[2 * 64]);
        let ok = QuantizedEmbeddingParams { n_tokens: 2, vocab_size: 3, embed_dim: 64, group_size: 64, bits: 4 };
        let mut run = |i, w, s, z, o, p: QuantizedEmbeddingParams| {
            quantized_embedding(&mut b.encoder, &mut b.registry, &b.device, i, w, s, z, o, &p)
        };
        assert!(run(&ids, &weight, &scales, &biases, &out, ok).is_ok());
        for (wrong, words) in [
            (QuantizedEmbeddingParams { n_tokens: 0, ..ok }, &["n_tokens is 0"][..]),
            (QuantizedEmbeddingParams { vocab_size: 0, ..ok }, &["vocab_size is 0"]),
            (QuantizedEmbeddingParams { embed_dim: 0, ..ok }, &["embed_dim is 0"]),
            (QuantizedEmbeddingParams { embed_dim: 65, ..ok }, &["embed_dim 65", "group_size 64"]),
            (QuantizedEmbeddingParams { group_size: 48, ..ok }, &["group_size is 48"]),
            (QuantizedEmbeddingParams { bits: 2, ..ok }, &["bits is 2"]),
            (QuantizedEmbeddingParams { n_tokens: 3, ..ok }, &["ids holds 8 bytes"]),
            (QuantizedEmbeddingParams { vocab_size: 4, ..ok }, &["weight holds 96 bytes"]),
            (QuantizedEmbeddingParams { group_size: 32, ..ok }, &["scales holds 6 bytes"]),
        ] {
            assert_invalid(run(&ids, &weight, &scales, &biases, &out, wrong), words);
        }
        assert_invalid(run(&out, &weight, &scales, &biases, &out, ok), &["ids", "f32", "u32"]);
        assert_invalid(run(&ids, &out, &scales, &biases, &out, ok), &["weight", "f32", "u32"]);
        assert_invalid(run(&ids, &weight, &scales, &out, &out, ok), &["biases", "f32", "bf16"]);
        assert_invalid(run(&ids, &weight, &scales, &biases, &ids, ok), &["output", "u32"]);
        assert_invalid(run(&ids, &weight, &scales, &biases, &biases, ok), &["output holds"]);
    }
}
