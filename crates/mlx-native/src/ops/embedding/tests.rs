//! Cases of `embedding`.

use super::{EmbeddingParams, embedding};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance, rounded};

#[derive(Debug)]
struct EmbeddingCase {
    table: DType,
    output: DType,
    params: EmbeddingParams,
}

impl Case for EmbeddingCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let p = &self.params;
        // The first and the last row, then any; the fourth is just beyond, the fifth far beyond.
        let id = |i: u32| match i {
            0 => p.vocab_size - 1,
            1 => 0,
            3 => p.vocab_size,
            4 => u32::MAX,
            _ => rng.bits() % p.vocab_size,
        };
        let ids: Vec<u32> = (0..p.n_tokens).map(id).collect();
        let (rows, dim) = (p.vocab_size as usize, p.embed_dim as usize);
        let mut values: Vec<f32> = (0..rows * dim).map(|_| rng.normal()).collect();
        values[0] = f32::NAN;
        values[rows * dim - 1] = f32::NEG_INFINITY;
        vec![
            Tensor::from_u32(&[ids.len()], &ids),
            Tensor::from_f32(self.table, &[rows, dim], &values),
        ]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.output, vec![self.params.n_tokens as usize, self.params.embed_dim as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let (ids, table) = (inputs[0].to_u32(), inputs[1].to_f64());
        let dim = self.params.embed_dim as usize;
        let round = |v: f64| rounded(self.output, v);
        let row = |id: u32| match table.get(id as usize * dim..(id as usize + 1) * dim) {
            Some(row) => row.iter().map(|v| round(*v)).collect(),
            None => vec![0.0; dim],
        };
        vec![ids.into_iter().flat_map(row).collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        embedding(c.encoder, c.registry, c.device, &c.inputs[0], &c.inputs[1], &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        self.params.n_tokens * self.params.embed_dim <= 5000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let bytes = (self.table.size_of() + self.output.size_of()) as f64;
        (!self.is_small()).then_some((f64::from(self.params.n_tokens * self.params.embed_dim) * bytes, 0.0))
    }
}

pub(crate) fn suite() -> Suite {
    // n_tokens, vocab_size, embed_dim
    let shapes = [(1, 1, 1), (7, 5, 7), (33, 3, 33), (5, 65, 65), (1, 100, 1024), (9, 33, 513), (256, 1000, 1024)];
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &table in FLOATS {
        for &output in FLOATS {
            for (n_tokens, vocab_size, embed_dim) in shapes {
                let params = EmbeddingParams { n_tokens, vocab_size, embed_dim };
                cases.push(Box::new(EmbeddingCase { table, output, params }));
            }
        }
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let mut draw = |high| rng.range(1, high) as u32;
            let params = EmbeddingParams { n_tokens: draw(40), vocab_size: draw(50), embed_dim: draw(90) };
            Box::new(EmbeddingCase { table: rng.pick(FLOATS), output: rng.pick(FLOATS), params })
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
        let (ids, table) = (b.buffer(DType::U32, &[3]), b.buffer(DType::BF16, &[5, 4]));
        let (output, small) = (b.buffer(DType::F32, &[3, 4]), b.buffer(DType::F32, &[3]));
        let ok = EmbeddingParams { n_tokens: 3, vocab_size: 5, embed_dim: 4 };
        let mut run = |i, t, o, p| embedding(&mut b.encoder, &mut b.registry, &b.device, i, t, o, &p);
        assert!(run(&ids, &table, &output, ok).is_ok());
        assert_invalid(run(&ids, &table, &output, EmbeddingParams { n_tokens: 0, ..ok }), &["n_tokens"]);
        assert_invalid(run(&ids, &table, &output, EmbeddingParams { vocab_size: 0, ..ok }), &["vocab_size"]);
        assert_invalid(run(&ids, &table, &output, EmbeddingParams { embed_dim: 0, ..ok }), &["embed_dim"]);
        assert_invalid(run(&small, &table, &output, ok), &["ids", "f32", "u32"]);
        assert_invalid(run(&ids, &ids, &output, ok), &["table", "u32"]);
        assert_invalid(run(&ids, &table, &ids, ok), &["output", "u32"]);
        assert_invalid(run(&ids, &table, &output, EmbeddingParams { n_tokens: 4, ..ok }), &["ids", "12 bytes"]);
        assert_invalid(run(&ids, &table, &output, EmbeddingParams { vocab_size: 6, ..ok }), &["table", "40 bytes"]);
        assert_invalid(run(&ids, &table, &small, ok), &["output", "12 bytes"]);
        assert_invalid(run(&ids, &output, &output, EmbeddingParams { vocab_size: 3, ..ok }), &["output", "table"]);
    }
}
