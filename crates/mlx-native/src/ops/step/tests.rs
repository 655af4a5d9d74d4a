//! Cases of `step::positions`.

use super::{StepParams, positions};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct StepCase {
    /// Rows of each sequence.
    rows: Vec<u32>,
    /// Positions that each has before.
    held: Vec<u32>,
    /// Rows of nobody.
    idle: u32,
    advance: bool,
}

impl StepCase {
    fn params(&self) -> StepParams {
        let n_rows = self.rows.iter().sum::<u32>() + self.idle;
        StepParams { n_rows, n_seqs: self.rows.len() as u32, advance: self.advance.into() }
    }
}

/// `[0, rows[0], rows[0] + rows[1], …]`.
pub(crate) fn starts(rows: &[u32]) -> Vec<u32> {
    let sums = rows.iter().scan(0, |sum, rows| {
        *sum += rows;
        Some(*sum)
    });
    std::iter::once(0).chain(sums).collect()
}

/// A row of u32.
pub(crate) fn words(values: &[u32]) -> Tensor {
    Tensor::from_u32(&[values.len()], values)
}

impl Case for StepCase {
    fn inputs(&self, _rng: &mut Rng) -> Vec<Tensor> {
        vec![words(&starts(&self.rows))]
    }

    fn outputs(&self) -> Outputs {
        let p = self.params();
        vec![(DType::U32, vec![p.n_seqs as usize]), (DType::U32, vec![p.n_rows as usize])]
    }

    fn before(&self, _rng: &mut Rng) -> Option<Vec<Tensor>> {
        let counted = |(held, rows): (&u32, &u32)| if self.advance { *held } else { held + rows };
        let lens: Vec<u32> = self.held.iter().zip(&self.rows).map(counted).collect();
        Some(vec![words(&lens), words(&vec![77; self.params().n_rows as usize])])
    }

    fn reference(&self, _inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let lens = self.held.iter().zip(&self.rows).map(|(h, r)| f64::from(h + r)).collect();
        let mut positions: Vec<f64> = Vec::new();
        for (held, rows) in self.held.iter().zip(&self.rows) {
            positions.extend((0..*rows).map(|i| f64::from(held + i)));
        }
        positions.resize(self.params().n_rows as usize, 0.0);
        vec![lens, positions]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        positions(c.encoder, c.registry, c.device, &c.inputs[0], &c.outputs[0], &c.outputs[1], &self.params())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        true
    }
}

pub(crate) fn suite() -> Suite {
    let case = |rows: &[u32], held: &[u32], idle, advance| {
        Box::new(StepCase { rows: rows.to_vec(), held: held.to_vec(), idle, advance }) as Box<dyn Case>
    };
    let mut cases = Vec::new();
    for advance in [false, true] {
        cases.push(case(&[1], &[0], 0, advance));
        cases.push(case(&[1, 1, 1], &[7, 0, 4095], 5, advance));
        cases.push(case(&[0, 3, 0, 65, 1, 0], &[9, 2, 0, 33, 1 << 20, 5], 7, advance));
        cases.push(case(&[300, 1], &[1, 2], 1, advance));
        cases.push(case(&[0, 0], &[4, 5], 2, advance));
        cases.push(case(&[1; 257], &[3; 257], 0, advance));
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let n = rng.range(1, 9);
            Box::new(StepCase {
                rows: (0..n).map(|_| rng.range(0, 5) as u32).collect(),
                held: (0..n).map(|_| rng.range(0, 999) as u32).collect(),
                idle: rng.range(1, 4) as u32,
                advance: rng.range(0, 1) == 1,
            })
        },
    }
}

#[cfg(test)]
mod contents {
    use super::super::{rows_of_sequences, sequence_of};
    use super::*;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn rows_are_disjoint_whatever_the_starts() {
        for starts in [[0, 5, 3, 9], [9, 0, 9, 0], [u32::MAX, 0, u32::MAX, 7], [2, 2, 2, 2]] {
            let rows: Vec<_> = rows_of_sequences(&starts, 8).collect();
            assert!(rows.iter().all(|r| r.start <= r.end && r.end <= 8), "{starts:?}: {rows:?}");
            assert!(rows.windows(2).all(|w| w[0].end <= w[1].start), "{starts:?}: {rows:?}");
            for row in 0..9 {
                assert!(sequence_of(&starts, row).is_none_or(|s| s < 3));
            }
        }
        assert_eq!(rows_of_sequences(&[0, 2, 2, 5], 9).collect::<Vec<_>>(), [0..2, 2..2, 2..5]);
    }

    #[test]
    fn refusals_name_the_parameter() {
        let mut b = Bench::new();
        let [starts, lens, rows] = [3, 2, 4].map(|n| b.buffer(DType::U32, &[n]));
        let floats = b.buffer(DType::F32, &[9]);
        let ok = StepParams { n_rows: 4, n_seqs: 2, advance: 1 };
        let mut run = |s, l, r, p| positions(&mut b.encoder, &mut b.registry, &b.device, s, l, r, &p);
        assert!(run(&starts, &lens, &rows, ok).is_ok());
        assert_invalid(run(&starts, &lens, &rows, StepParams { n_rows: 0, ..ok }), &["n_rows"]);
        assert_invalid(run(&starts, &lens, &rows, StepParams { n_seqs: 0, ..ok }), &["n_seqs"]);
        assert_invalid(run(&starts, &lens, &rows, StepParams { n_seqs: 1 << 17, ..ok }), &["n_seqs"]);
        assert_invalid(run(&starts, &lens, &rows, StepParams { advance: 2, ..ok }), &["advance"]);
        assert_invalid(run(&lens, &lens, &rows, ok), &["seq_starts", "8 bytes"]);
        assert_invalid(run(&floats, &lens, &rows, ok), &["seq_starts", "f32"]);
        assert_invalid(run(&starts, &lens, &lens, StepParams { n_rows: 2, ..ok }), &["positions", "kv_lens"]);
    }
}
