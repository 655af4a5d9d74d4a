//! Cases of `embed`.

use super::{EmbedParams, embed};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::linear::tests::{golden_planes, golden_weight};
use crate::quant::WeightFormat;
use crate::testing::{
    Case, Context, FLOATS, Golden, Outputs, Rng, Suite, Tensor, Tolerance, WeightCase, every_format, rounded,
};

#[derive(Debug)]
struct EmbedCase {
    output: DType,
    n_tokens: u32,
    table: WeightCase,
}

/// Rows of `values`, zeros for ids beyond.
fn rows(ids: &[u32], values: &[f64], dim: usize) -> Vec<f64> {
    let row = |id: &u32| match values.get(*id as usize * dim..(*id as usize + 1) * dim) {
        Some(row) => row.to_vec(),
        None => vec![0.0; dim],
    };
    ids.iter().flat_map(row).collect()
}

/// Whether products are rounded to the dtype of the output, because the scales have it.
fn rounds_products(table: &WeightCase, output: DType) -> bool {
    matches!(table.format, WeightFormat::Affine { scales, .. } if scales == output && output != DType::F32)
}

/// Whether every bit follows from the inputs.
fn is_exact(table: &WeightCase, output: DType) -> bool {
    matches!(table.format, WeightFormat::Dense(_)) || rounds_products(table, output)
}

/// What the planes of a table mean in an output of `dtype`.
fn values(table: &WeightCase, planes: &[Tensor], dtype: DType) -> Vec<f64> {
    if !rounds_products(table, dtype) {
        return table.values(planes);
    }
    let zeros = |plane: &Tensor| Tensor::from_f32(dtype, plane.shape(), &vec![0.0; plane.to_f64().len()]);
    let products = table.values(&[planes[0].clone(), planes[1].clone(), zeros(&planes[2])]);
    let biases = table.values(&[planes[0].clone(), zeros(&planes[1]), planes[2].clone()]);
    let sum = |(product, bias): (f64, f64)| {
        // The sum is an f32 before it is rounded.
        rounded(dtype, f64::from((rounded(dtype, product) + bias) as f32))
    };
    products.into_iter().zip(biases).map(sum).collect()
}

impl Case for EmbedCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        // The first and the last row, then any; the fourth is just beyond, the fifth far beyond.
        let id = |i: u32| match i {
            0 => self.table.rows - 1,
            1 => 0,
            3 => self.table.rows,
            4 => u32::MAX,
            _ => rng.bits() % self.table.rows,
        };
        let ids: Vec<u32> = (0..self.n_tokens).map(id).collect();
        let mut inputs = vec![Tensor::from_u32(&[ids.len()], &ids)];
        let mut planes = self.table.random(rng);
        if let WeightFormat::Dense(dtype) = self.table.format {
            let mut values: Vec<f32> = planes[0].to_f64().iter().map(|v| *v as f32).collect();
            let last = values.len() - 1;
            (values[0], values[last]) = (f32::NAN, f32::NEG_INFINITY);
            planes[0] = Tensor::from_f32(dtype, planes[0].shape(), &values);
        }
        inputs.extend(planes);
        inputs
    }

    fn outputs(&self) -> Outputs {
        vec![(self.output, vec![self.n_tokens as usize, self.table.columns as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let values = values(&self.table, &inputs[1..], self.output);
        let rows = rows(&inputs[0].to_u32(), &values, self.table.columns as usize);
        if is_exact(&self.table, self.output) {
            return vec![rows.into_iter().map(|v| rounded(self.output, v)).collect()];
        }
        vec![rows]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let table = self.table.weight(&c.inputs[1..])?;
        let params = EmbedParams { n_tokens: self.n_tokens };
        embed(c.encoder, c.registry, c.device, &c.inputs[0], &table, &c.outputs[0], &params)
    }

    fn tolerance(&self) -> Tolerance {
        if is_exact(&self.table, self.output) {
            return Tolerance::EXACT;
        }
        // A product and a sum in f32 of numbers of size 10 at most, then one rounding.
        Tolerance::accumulated(self.output, 2e-6)
    }

    fn is_small(&self) -> bool {
        self.n_tokens * self.table.columns <= 5000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let (n, dim) = (f64::from(self.n_tokens), f64::from(self.table.columns));
        let read = self.table.byte_len() / f64::from(self.table.rows) * n;
        (!self.is_small()).then_some((read + n * dim * self.output.size_of() as f64, 0.0))
    }
}

/// Inputs of a golden file; the reference must agree with what MLX computed from them.
#[derive(Debug)]
struct GoldenCase {
    golden: Golden,
    table: WeightCase,
}

impl Case for GoldenCase {
    fn inputs(&self, _rng: &mut Rng) -> Vec<Tensor> {
        let mut inputs = vec![self.golden.tensor("ids").clone()];
        inputs.extend(golden_planes(&self.golden, &self.table));
        inputs
    }

    fn outputs(&self) -> Outputs {
        vec![(DType::F32, self.golden.tensor("out").shape().to_vec())]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let out = self.golden.tensor("out").to_f64();
        let ours = rows(&inputs[0].to_u32(), &self.table.values(&inputs[1..]), self.table.columns as usize);
        for (mlx, ours) in out.iter().zip(ours) {
            assert!((mlx - ours).abs() < 1e-5, "MLX has {mlx}, the reference {ours}: {:?}", self.golden.params);
        }
        vec![out]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let table = self.table.weight(&c.inputs[1..])?;
        let params = EmbedParams { n_tokens: c.inputs[0].element_count() as u32 };
        embed(c.encoder, c.registry, c.device, &c.inputs[0], &table, &c.outputs[0], &params)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::accumulated(DType::F32, 2e-6)
    }

    fn is_small(&self) -> bool {
        self.golden.u32("bits") == 4 && self.golden.u32("group_size") == 64
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    let mut push = |output, n_tokens, rows, columns, format: WeightFormat| {
        let columns = u32::next_multiple_of(columns, format.granule() as u32);
        cases.push(Box::new(EmbedCase { output, n_tokens, table: WeightCase::new(format, rows, columns) }));
    };
    // n_tokens, vocab_size, dim: every format, the dtype of the output taking turns.
    for (i, format) in every_format(0).into_iter().enumerate() {
        push(FLOATS[i % 3], 7, 5, 70, format);
        push(FLOATS[i % 3], 1, 1, 1, format);
        push(FLOATS[(i + 1) % 3], 9, 33, 513, every_format(1)[i]);
    }
    for &output in FLOATS {
        push(output, 33, 3, 33, WeightFormat::affine(4, 64, DType::BF16).expect("MLX has it"));
        push(output, 5, 65, 65, WeightFormat::Dense(DType::BF16));
        push(output, 256, 1000, 1024, WeightFormat::Dense(DType::BF16));
        push(output, 256, 1000, 1024, WeightFormat::affine(4, 64, DType::BF16).expect("MLX has it"));
    }
    for golden in Golden::load("embedding") {
        let table = golden_weight(&golden, golden.u32("rows"), golden.u32("dim"));
        cases.push(Box::new(GoldenCase { golden, table }));
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let turn = rng.range(0, 8);
            let format = rng.pick(&every_format(turn));
            let columns = format.granule() as u32 * rng.range(1, 3) as u32;
            let table = WeightCase::new(format, rng.range(1, 50) as u32, columns);
            Box::new(EmbedCase { output: rng.pick(FLOATS), n_tokens: rng.range(1, 40) as u32, table })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::embed::OP;
    use crate::quant::KERNEL_PARTS;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn kernels_are_listed_in_the_order_of_the_formats() {
        assert_eq!(OP.kernels.len(), KERNEL_PARTS.len());
        for (kernel, part) in OP.kernels.iter().zip(KERNEL_PARTS) {
            assert_eq!(kernel.0, format!("embed_{part}"));
        }
    }

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let (ids, values) = (b.buffer(DType::U32, &[3]), b.buffer(DType::BF16, &[5, 4]));
        let (output, small) = (b.buffer(DType::F32, &[3, 4]), b.buffer(DType::F32, &[3]));
        let case = WeightCase::new(WeightFormat::Dense(DType::BF16), 5, 4);
        let table = case.weight(&[values.share()]).expect("it fits");
        let stack = WeightCase { experts: Some(5), rows: 1, ..case }.weight(&[values.share()]).expect("it fits");
        let mut run = |i, t, o, n_tokens| {
            embed(&mut b.encoder, &mut b.registry, &b.device, i, t, o, &EmbedParams { n_tokens })
        };
        assert!(run(&ids, &table, &output, 3).is_ok());
        assert_invalid(run(&ids, &table, &output, 0), &["n_tokens"]);
        assert_invalid(run(&small, &table, &output, 3), &["ids", "f32", "u32"]);
        assert_invalid(run(&ids, &stack, &output, 3), &["stack of 5"]);
        assert_invalid(run(&ids, &table, &ids, 3), &["output", "u32"]);
        assert_invalid(run(&ids, &table, &output, 4), &["ids", "12 bytes"]);
        assert_invalid(run(&ids, &table, &small, 3), &["output", "12 bytes"]);
        assert_invalid(run(&ids, &table, &values, 1), &["output", "table"]);
    }
}
