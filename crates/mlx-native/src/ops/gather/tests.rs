//! Cases of `gather` and `gather_codes_4`.

use super::{GatherParams, gather, gather_codes_4};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct GatherCase {
    dtype: DType,
    params: GatherParams,
    is_coded: bool,
}

impl GatherCase {
    fn table(&self, rng: &mut Rng) -> Tensor {
        let shape = [self.params.src_rows as usize, self.params.row_width as usize];
        if self.dtype.is_float() {
            return Tensor::random(self.dtype, &shape, rng);
        }
        let bytes = (0..shape[0] * shape[1] * self.dtype.size_of()).map(|_| rng.bits() as u8).collect();
        Tensor::from_bytes(self.dtype, &shape, bytes)
    }
}

impl Case for GatherCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let GatherParams { row_width, n_indices, src_rows } = self.params;
        let n = n_indices as usize;
        let table = self.table(rng);
        if self.is_coded {
            let len = n * row_width as usize / 2;
            let codes = (0..len).map(|_| rng.bits() as u8).collect();
            return vec![Tensor::from_bytes(DType::U8, &[len], codes), table];
        }
        // Some beyond the source.
        let mut indices: Vec<u32> = (0..n).map(|_| rng.range(0, src_rows as usize) as u32).collect();
        indices[n / 2] = u32::MAX;
        vec![table, Tensor::from_u32(&[n], &indices)]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.params.n_indices as usize, self.params.row_width as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let width = self.params.row_width as usize;
        let element = |i: usize| {
            let (row, c) = (i / width, i % width);
            if self.is_coded {
                let code = inputs[0].bytes()[row * (width / 2) + c / 2] >> (4 * (c % 2)) & 15;
                return (1, usize::from(code) * width + c);
            }
            let index = inputs[1].to_u32()[row].min(self.params.src_rows - 1) as usize;
            (0, index * width + c)
        };
        let table = inputs[usize::from(self.is_coded)].to_f64();
        vec![(0..self.params.n_indices as usize * width).map(|i| table[element(i).1]).collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let op = if self.is_coded { gather_codes_4 } else { gather };
        op(c.encoder, c.registry, c.device, &c.inputs[0], &c.inputs[1], &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        true
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::U8, DType::I32] {
        for (row_width, n_indices, src_rows) in [(1, 1, 1), (7, 33, 5), (65, 3, 1), (130, 7, 9)] {
            cases.push(Box::new(GatherCase { dtype, params: GatherParams { row_width, n_indices, src_rows }, is_coded: false }));
        }
    }
    for &dtype in FLOATS {
        for (row_width, n_indices) in [(2, 1), (6, 33), (64, 5), (130, 7)] {
            cases.push(Box::new(GatherCase { dtype, params: GatherParams { row_width, n_indices, src_rows: 16 }, is_coded: true }));
        }
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let is_coded = rng.range(0, 1) == 0;
            let width = rng.range(1, 40) as u32;
            let params = GatherParams {
                row_width: if is_coded { 2 * width } else { width },
                n_indices: rng.range(1, 20) as u32,
                src_rows: if is_coded { 16 } else { rng.range(1, 20) as u32 },
            };
            Box::new(GatherCase { dtype: rng.pick(FLOATS), params, is_coded })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::gather::dispatch_gather_f32;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let x = b.buffer(DType::F32, &[4, 4]);
        let i = b.buffer(DType::U32, &[4]);
        let o = b.buffer(DType::F32, &[4, 4]);
        let c = b.buffer(DType::U8, &[8]);
        let ok = GatherParams { row_width: 4, n_indices: 4, src_rows: 4 };
        let mut run = |x, i, o, p: GatherParams| gather(&mut b.encoder, &mut b.registry, &b.device, x, i, o, &p);
        assert!(run(&x, &i, &o, ok).is_ok());
        assert_invalid(run(&x, &i, &o, GatherParams { n_indices: 0, ..ok }), &["n_indices"]);
        assert_invalid(run(&x, &i, &o, GatherParams { src_rows: 0, ..ok }), &["src_rows"]);
        assert_invalid(run(&x, &i, &o, GatherParams { src_rows: 5, ..ok }), &["src", "64 bytes"]);
        assert_invalid(run(&x, &i, &o, GatherParams { n_indices: 5, ..ok }), &["indices", "16 bytes"]);
        assert_invalid(run(&x, &i, &x, ok), &["output", "src", "share"]);
        assert_invalid(run(&x, &x, &o, ok), &["indices", "f32"]);
        assert_invalid(run(&x, &i, &c, ok), &["output", "u8"]);
        let mut coded = |p: GatherParams| gather_codes_4(&mut b.encoder, &mut b.registry, &b.device, &c, &x, &o, &p);
        assert_invalid(coded(GatherParams { row_width: 3, n_indices: 1, src_rows: 16 }), &["row_width", "even"]);
        assert_invalid(coded(ok), &["src_rows", "16"]);
        assert_invalid(coded(GatherParams { row_width: 4, n_indices: 4, src_rows: 16 }), &["table", "64 bytes"]);
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        assert_invalid(dispatch_gather_f32(e, r, device, &x, &i, &o, u32::MAX, u32::MAX, 1), &["src"]);
        assert_invalid(dispatch_gather_f32(e, r, device, &x, &i, &o, 4, 4, 5), &["indices", "16 bytes"]);
    }
}
