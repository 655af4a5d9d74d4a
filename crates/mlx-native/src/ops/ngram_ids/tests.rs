//! Cases of `ngram_ids`: row numbers, then the memory.

use super::{NgramParams, ngram_ids, ngram_keep};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::step::tests::words;
use crate::testing::{Case, Context, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct NgramCase {
    params: NgramParams,
}

impl Case for NgramCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let ids: Vec<u32> = (0..self.params.rows).map(|_| rng.range(0, 200_000) as u32).collect();
        vec![words(&ids)]
    }

    fn outputs(&self) -> Outputs {
        let p = &self.params;
        vec![(DType::U32, vec![p.rows as usize]), (DType::F32, vec![p.history as usize])]
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        let p = &self.params;
        let history: Vec<f32> = (0..p.history).map(|_| rng.range(0, 200_000) as f32).collect();
        Some(vec![words(&vec![7; p.rows as usize]), Tensor::from_f32(DType::F32, &[history.len()], &history)])
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = &self.params;
        let all = [inputs[2].to_f64(), inputs[0].to_f64()].concat();
        let n = p.history as usize;
        let id = |row: usize| {
            let term = |c: usize| all[n + row - c] as u128 * u128::from(p.multipliers[c]);
            ((0..p.order as usize).map(term).sum::<u128>() % u128::from(p.modulus)) as f64
        };
        vec![(0..p.rows as usize).map(id).collect(), all[all.len() - n..].to_vec()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let (ids, output, history) = (&c.inputs[0], &c.outputs[0], &c.outputs[1]);
        ngram_ids(c.encoder, c.registry, c.device, ids, history, output, &self.params)?;
        ngram_keep(c.encoder, c.registry, c.device, ids, history, &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        true
    }
}

fn params(rows: u32, order: u32, history: u32, modulus: u32) -> NgramParams {
    let mut multipliers = [0; 8];
    for (c, multiplier) in (1u32..).zip(&mut multipliers) {
        *multiplier = c.wrapping_mul(2_654_435_761) % modulus;
    }
    NgramParams { rows, order, history, modulus, multipliers }
}

pub(crate) fn suite() -> Suite {
    let shapes = [(1, 1, 1, 1), (1, 3, 2, 289), (2, 4, 3, 7), (7, 8, 7, u32::MAX), (33, 2, 5, 10_223_617), (65, 5, 4, 1 << 24)];
    let case = |(rows, order, history, modulus)| {
        Box::new(NgramCase { params: params(rows, order, history, modulus) }) as Box<dyn Case>
    };
    Suite {
        op: &super::OP,
        cases: shapes.map(case).into_iter().collect(),
        random: |rng| {
            let order = rng.range(1, 8) as u32;
            let history = (order - 1).max(1) + rng.range(0, 3) as u32;
            let (rows, modulus) = (rng.range(1, 20) as u32, rng.range(1, 1 << 30) as u32);
            Box::new(NgramCase { params: params(rows, order, history, modulus) })
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
        let (ids, output) = (b.buffer(DType::U32, &[4]), b.buffer(DType::U32, &[4]));
        let history = b.buffer(DType::F32, &[3]);
        let ok = params(4, 4, 3, 289);
        let mut run = |history: &_, output: &_, p| {
            ngram_ids(&mut b.encoder, &mut b.registry, &b.device, &ids, history, output, &p)
        };
        assert!(run(&history, &output, ok).is_ok());
        assert_invalid(run(&history, &output, NgramParams { rows: 0, ..ok }), &["rows"]);
        assert_invalid(run(&history, &output, NgramParams { order: 9, ..ok }), &["order is 9"]);
        assert_invalid(run(&history, &output, NgramParams { history: 2, ..ok }), &["history 2"]);
        assert_invalid(run(&history, &output, NgramParams { modulus: 0, ..ok }), &["modulus"]);
        assert_invalid(run(&history, &output, NgramParams { rows: 5, ..ok }), &["ids", "16 bytes"]);
        assert_invalid(run(&output, &output, ok), &["history", "u32"]);
        assert_invalid(run(&history, &ids, ok), &["output", "ids"]);
    }
}
