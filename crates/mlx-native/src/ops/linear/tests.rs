//! Cases of `linear`, `linear_transposed` and `gather_linear`.

use super::{GatherParams, LinearParams, gather_linear, linear, linear_transposed};
use crate::dtype::DType;
use crate::error::Result;
use crate::quant::WeightFormat;
use crate::testing::{
    Case, Context, FLOATS, Golden, Outputs, Rng, Suite, Tensor, Tolerance, WeightCase, every_format,
};

/// What is in the inputs besides ordinary numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Special {
    Nothing,
    /// One element of the last row of `x`.
    InX(f32),
    /// One scale, which is f32.
    NanScale,
}

/// Which operator.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Linear,
    Transposed,
    Gather { x_rows: u32, rows_per_x: u32, chosen: bool, sorted: bool },
}

#[derive(Debug)]
struct LinearCase {
    dtype: DType,
    m: u32,
    weight: WeightCase,
    bias: bool,
    kind: Kind,
    special: Special,
    /// Not for the emulator, where every format, group size and dtype is another thing to compile.
    on_host: bool,
}

impl LinearCase {
    fn new(dtype: DType, m: u32, n: u32, k: u32, format: WeightFormat) -> Self {
        let weight = WeightCase::new(format, n, k);
        LinearCase { dtype, m, weight, bias: false, kind: Kind::Linear, special: Special::Nothing, on_host: false }
    }

    fn gathered(self, experts: u32, x_rows: u32, rows_per_x: u32, chosen: bool, sorted: bool) -> Self {
        let weight = WeightCase { experts: Some(experts), ..self.weight };
        LinearCase { weight, kind: Kind::Gather { x_rows, rows_per_x, chosen, sorted }, ..self }
    }

    fn with_bias(self) -> Self {
        LinearCase { bias: true, ..self }
    }

    fn x_rows(&self) -> u32 {
        if let Kind::Gather { x_rows, .. } = self.kind { x_rows } else { self.m }
    }

    /// Extents of the product.
    fn extents(&self) -> (usize, usize, usize) {
        let (rows, columns) = (self.weight.rows as usize, self.weight.columns as usize);
        match self.kind {
            Kind::Transposed => (self.m as usize, columns, rows),
            _ => (self.m as usize, rows, columns),
        }
    }

    /// Number of inputs before the bias, the ids and the rows of `x` that were chosen.
    fn first_extra(&self) -> usize {
        1 + self.weight.n_planes()
    }
}

impl Case for LinearCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let (m, n, k) = self.extents();
        let x_rows = self.x_rows() as usize;
        let mut x: Vec<f32> = (0..x_rows * k).map(|_| rng.normal()).collect();
        if let Special::InX(value) = self.special {
            x[(x_rows - 1) * k + k / 3] = value;
        }
        let mut inputs = vec![Tensor::from_f32(self.dtype, &[x_rows, k], &x)];
        let mut planes = self.weight.random(rng);
        if self.special == Special::NanScale {
            let mut values: Vec<f32> = planes[1].to_f64().iter().map(|v| *v as f32).collect();
            let middle = values.len() / 2;
            values[middle] = f32::NAN;
            planes[1] = Tensor::from_f32(planes[1].dtype(), planes[1].shape(), &values);
        }
        inputs.extend(planes);
        let experts = self.weight.experts.unwrap_or(1);
        if self.bias {
            inputs.push(Tensor::random(self.dtype, &[experts as usize, n], rng));
        }
        if let Kind::Gather { chosen, sorted, .. } = self.kind {
            // The last id is no expert, and so is a row of `x` that is far beyond.
            let mut ids: Vec<u32> = (0..m).map(|_| rng.bits() % experts).collect();
            ids[m - 1] = if m % 2 == 0 { experts } else { u32::MAX };
            if sorted {
                ids.sort_unstable();
            }
            inputs.push(Tensor::from_u32(&[m], &ids));
            if chosen {
                let rows = (0..m).map(|i| if i == m / 2 { u32::MAX } else { rng.bits() % x_rows as u32 });
                inputs.push(Tensor::from_u32(&[m], &rows.collect::<Vec<_>>()));
            }
        }
        inputs
    }

    fn outputs(&self) -> Outputs {
        let (m, n, _) = self.extents();
        vec![(self.dtype, vec![m, n])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let (m, n, k) = self.extents();
        let x = inputs[0].to_f64();
        let extra = self.first_extra();
        let w = self.weight.values(&inputs[1..extra]);
        let bias = self.bias.then(|| inputs[extra].to_f64());
        let lists = &inputs[extra + usize::from(self.bias)..];
        let zeros = vec![0.0; k];
        let mut out = vec![0.0; m * n];
        for i in 0..m {
            let (expert, x_row) = match self.kind {
                Kind::Gather { rows_per_x, chosen, .. } => {
                    let row = if chosen { lists[1].to_u32()[i] as usize } else { i / rows_per_x as usize };
                    (lists[0].to_u32()[i] as usize, row)
                }
                _ => (0, i),
            };
            if expert >= self.weight.experts.unwrap_or(1) as usize {
                continue;
            }
            let row = x.get(x_row.saturating_mul(k)..).filter(|rest| !rest.is_empty()).map_or(&zeros[..], |r| &r[..k]);
            for j in 0..n {
                let of = |l: usize| match self.kind {
                    Kind::Transposed => w[l * n + j],
                    _ => w[(expert * n + j) * k + l],
                };
                let sum: f64 = row.iter().enumerate().map(|(l, v)| v * of(l)).sum();
                out[i * n + j] = sum + bias.as_ref().map_or(0.0, |b| b[expert * n + j]);
            }
        }
        vec![out]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let extra = self.first_extra();
        let weight = self.weight.weight(&c.inputs[1..extra])?;
        let bias = self.bias.then(|| &c.inputs[extra]);
        let lists = &c.inputs[extra + usize::from(self.bias)..];
        let (x, output) = (&c.inputs[0], &c.outputs[0]);
        let params = LinearParams { m: self.m };
        match self.kind {
            Kind::Linear => linear(c.encoder, c.registry, c.device, x, &weight, bias, output, &params),
            Kind::Transposed => linear_transposed(c.encoder, c.registry, c.device, x, &weight, output, &params),
            Kind::Gather { x_rows, rows_per_x, chosen, sorted } => {
                let params = GatherParams { m: self.m, x_rows, rows_per_x, sorted };
                let x_ids = chosen.then(|| &lists[1]);
                gather_linear(c.encoder, c.registry, c.device, x, &weight, bias, &lists[0], x_ids, output, &params)
            }
        }
    }

    fn tolerance(&self) -> Tolerance {
        tolerance(self.dtype, self.extents().2)
    }

    fn is_small(&self) -> bool {
        let (m, n, k) = self.extents();
        !self.on_host && m * n * k <= 60_000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let (m, n, k) = self.extents();
        let [m, n, k] = [m, n, k].map(|v| v as f64);
        let x = self.dtype.size_of() as f64 * (m * k + m * n);
        (n * k >= 1e6).then_some((x + self.weight.byte_len(), 2.0 * m * n * k))
    }

    fn is_only_timed(&self) -> bool {
        self.cost().is_some()
    }
}

/// Products of the same rows with several weights, in one list without a barrier: a device may make them in one launch.
#[derive(Debug)]
struct BesideCase(Vec<LinearCase>);

impl BesideCase {
    fn new(dtype: DType, m: u32, k: u32, outputs: &[u32], group_size: u32) -> Self {
        let format = WeightFormat::affine(4, group_size, DType::BF16).expect("MLX has it");
        BesideCase(outputs.iter().map(|&n| LinearCase::new(dtype, m, n, k, format)).collect())
    }

    /// The rows, and each weight's planes.
    fn parts<'t, T>(&'t self, inputs: &'t [T]) -> impl Iterator<Item = (&'t LinearCase, &'t [T])> {
        self.0.iter().zip(inputs[1..].chunks(3))
    }
}

impl Case for BesideCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let mut inputs = self.0[0].inputs(rng);
        for case in &self.0[1..] {
            inputs.extend(case.weight.random(rng));
        }
        inputs
    }

    fn outputs(&self) -> Outputs {
        self.0.iter().flat_map(Case::outputs).collect()
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let own = |planes: &[Tensor]| [&inputs[..1], planes].concat();
        self.parts(inputs).flat_map(|(case, planes)| case.reference(&own(planes))).collect()
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        for ((case, planes), output) in self.parts(c.inputs).zip(c.outputs) {
            let (weight, params) = (case.weight.weight(planes)?, LinearParams { m: case.m });
            linear(c.encoder, c.registry, c.device, &c.inputs[0], &weight, None, output, &params)?;
        }
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        self.0[0].tolerance()
    }

    fn is_small(&self) -> bool {
        self.0.iter().all(Case::is_small)
    }
}

/// As many as a device joins, fewer and more, with blocks that are not full.
fn beside() -> Vec<BesideCase> {
    vec![
        BesideCase::new(DType::BF16, 1, 128, &[70, 16, 33], 64),
        BesideCase::new(DType::BF16, 1, 4096, &[300, 40, 64, 20], 64),
        BesideCase::new(DType::F16, 1, 256, &[100, 24], 32),
        BesideCase::new(DType::BF16, 1, 384, &[17, 90, 5], 128),
        BesideCase::new(DType::BF16, 2, 256, &[40, 72], 64),
        BesideCase::new(DType::F32, 1, 256, &[40, 72], 64),
    ]
}

/// One rounding, and sums of `k` products of size 1 in f32, up to 256 of them one after the other: the sum grows like
/// `sqrt(k)` and each addition is off by half a unit of it; twice that for the unlucky element. On the CPU bf16 becomes
/// integers, which leave a standard deviation of 3e-6, and of 6e-6 in a span whose greatest value is above 4: four times that
/// for them, as a case has up to 156,000 elements.
fn tolerance(dtype: DType, k: usize) -> Tolerance {
    let of_one = if dtype == DType::BF16 { 3.6e-5 } else { 1.2e-5 };
    Tolerance::accumulated(dtype, of_one * (k as f64).sqrt())
}

/// Inputs of a golden file; the reference must agree with what MLX computed from them.
#[derive(Debug)]
struct GoldenCase {
    golden: Golden,
    weight: WeightCase,
}

impl GoldenCase {
    fn new(golden: Golden) -> Self {
        let weight = golden_weight(&golden, golden.u32("n"), golden.u32("k"));
        GoldenCase { golden, weight }
    }

    fn m(&self) -> u32 {
        self.golden.u32("m")
    }
}

/// The weight of a golden case.
pub(crate) fn golden_weight(golden: &Golden, rows: u32, columns: u32) -> WeightCase {
    let mode = golden.params["mode"].as_str().unwrap_or("affine");
    let format = match mode {
        "affine" => {
            let scales = golden.tensor("scales").dtype();
            WeightFormat::affine(golden.u32("bits"), golden.u32("group_size"), scales).expect("MLX has it")
        }
        "mxfp4" => WeightFormat::Mxfp4,
        "mxfp8" => WeightFormat::Mxfp8,
        "nvfp4" => WeightFormat::Nvfp4 { global_scale: golden.tensors.contains_key("global_scale") },
        other => panic!("no mode {other}"),
    };
    WeightCase::new(format, rows, columns)
}

/// The planes of a golden weight.
pub(crate) fn golden_planes(golden: &Golden, weight: &WeightCase) -> Vec<Tensor> {
    let planes = weight.format.planes(weight.columns as usize).expect("MLX wrote whole groups");
    let name = |plane: &'static str| if plane == "weight" { "w_q" } else { plane };
    planes.iter().map(|plane| golden.tensor(name(plane.name)).clone()).collect()
}

impl Case for GoldenCase {
    fn inputs(&self, _rng: &mut Rng) -> Vec<Tensor> {
        let mut inputs = vec![self.golden.tensor("x").clone()];
        inputs.extend(golden_planes(&self.golden, &self.weight));
        inputs
    }

    fn outputs(&self) -> Outputs {
        let dtype = self.golden.tensor("x").dtype();
        vec![(dtype, vec![self.m() as usize, self.weight.rows as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let out = self.golden.tensor("out").to_f64();
        let (n, k) = (self.weight.rows as usize, self.weight.columns as usize);
        let (x, w) = (inputs[0].to_f64(), self.weight.values(&inputs[1..]));
        for (i, mlx) in out.iter().enumerate() {
            let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
            let ours: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
            assert!((mlx - ours).abs() < 1e-4, "MLX has {mlx}, the reference {ours}: {:?}", self.golden.params);
        }
        vec![out]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let weight = self.weight.weight(&c.inputs[1..])?;
        let params = LinearParams { m: self.m() };
        linear(c.encoder, c.registry, c.device, &c.inputs[0], &weight, None, &c.outputs[0], &params)
    }

    fn tolerance(&self) -> Tolerance {
        let own = tolerance(self.golden.tensor("x").dtype(), self.weight.columns as usize);
        let mlx = self.golden.params["mlx_vs_f64"].as_f64().unwrap_or(0.0);
        Tolerance { absolute: own.absolute + mlx, ..own }
    }

    fn is_small(&self) -> bool {
        // The formats of the program; others would be compiled for this case alone.
        self.golden.u32("bits") == 4 && self.golden.u32("group_size") == 64
    }
}

/// The least columns above `at_least` that a format takes.
fn columns(format: WeightFormat, at_least: u32) -> u32 {
    at_least.next_multiple_of(format.granule() as u32)
}

/// Every kernel: each format, by few rows and in tiles; the dtype of `x` takes turns.
fn every_kernel() -> Vec<LinearCase> {
    let mut cases = Vec::new();
    for (i, format) in every_format(0).into_iter().enumerate() {
        let dtype = FLOATS[i % 3];
        let k = if let WeightFormat::Dense(_) = format { 77 } else { columns(format, 80) };
        // A dense weight without a bias is another operator's.
        cases.push(LinearCase::new(dtype, 3, 9, k, format).with_bias());
        cases.push(LinearCase::new(dtype, 17, 33, k, format).with_bias());
    }
    // Each dtype of x and of scales, each group size, each number of rows.
    for (i, &dtype) in FLOATS.iter().enumerate() {
        for (j, &scales) in FLOATS.iter().enumerate() {
            let format = WeightFormat::affine(4, [32, 64, 128][(i + j) % 3], scales).expect("MLX has it");
            let k = 2 * format.granule() as u32;
            for m in [[1, 2][(i + j) % 2], 5] {
                cases.push(LinearCase::new(dtype, m, 7, k, format));
            }
        }
    }
    cases
}

/// The other way round, and a choice of experts.
fn every_use() -> Vec<LinearCase> {
    let mut cases = Vec::new();
    for (i, format) in every_format(1).into_iter().enumerate() {
        let dtype = FLOATS[i % 3];
        let k = if let WeightFormat::Dense(_) = format { 45 } else { columns(format, 40) };
        let case = |m, n| LinearCase::new(dtype, m, n, k, format);
        // Tokens with three experts each, then their results with one each, then sorted rows.
        cases.push(case(6, 9).gathered(5, 2, 3, false, false));
        cases.push(case(7, 9).gathered(4, 7, 1, false, false).with_bias());
        cases.push(case(21, 35).gathered(3, 7, 3, true, true).with_bias());
        // More rows of an expert than few, in no order.
        cases.push(case(40, 33).gathered(2, 11, 1, true, false));
        let (k, n) = (33, columns(format, 48));
        cases.push(LinearCase { kind: Kind::Transposed, ..LinearCase::new(dtype, 5, k, n, format) });
        cases.push(LinearCase { kind: Kind::Transposed, ..LinearCase::new(dtype, 34, 7, n, format) });
    }
    cases
}

/// Sizes that are multiples of nothing; the dtypes of the program.
fn every_shape() -> Vec<LinearCase> {
    let mut cases = Vec::new();
    let mut index = 0;
    for n in [1, 7, 8, 33, 65, 128] {
        for m in [1, 2, 3, 5, 8, 9, 33, 65] {
            let formats = every_format(index);
            let four = WeightFormat::affine(4, 64, DType::BF16).expect("MLX has it");
            for (format, on_host) in [(formats[index % formats.len()], true), (four, false)] {
                let dtype = [DType::F32, DType::BF16][index / 2 % 2];
                let k = columns(format, [1, 65, 192, 4130][(index + index / 4) % 4]);
                index += 1;
                cases.push(LinearCase { on_host, ..LinearCase::new(dtype, m, n, k, format) });
            }
        }
    }
    // More than one block of K on the CPU, the last one short.
    let affine = |bits, group| WeightFormat::affine(bits, group, DType::BF16).expect("MLX has it");
    cases.push(LinearCase::new(DType::F32, 1, 5, 8320, affine(4, 128)));
    cases.push(LinearCase::new(DType::F32, 8, 3, 1120, affine(3, 32)));
    cases.push(LinearCase::new(DType::F32, 7, 3, 1072, WeightFormat::Nvfp4 { global_scale: false }));
    cases.push(LinearCase::new(DType::F32, 8, 3, 1037, WeightFormat::Dense(DType::F16)).with_bias());
    cases.extend(integers());
    cases
}

/// Products of integers: each format that has them, spans in whole eights and not, one block of K and more, rows in all ways.
fn integers() -> Vec<LinearCase> {
    let mut cases = Vec::new();
    for (i, &dtype) in [DType::BF16, DType::F16].iter().enumerate() {
        for (j, m) in [1, 2, 3, 4, 6, 9, 13, 33, 200].into_iter().enumerate() {
            for (l, k) in [32, 96, 256, 672, 1152, 8448].into_iter().enumerate() {
                let turn = i + j + l;
                let group = [32, 64, 128][turn % 3];
                let scales = FLOATS[turn / 2 % 3];
                let affine = WeightFormat::affine([4, 8][turn % 2], group, scales).expect("MLX has it");
                let format = if turn % 5 == 4 { WeightFormat::Mxfp4 } else { affine };
                let n = [1, 9, 33, 70][turn % 4];
                if m * n * columns(format, k) < 4_000_000 {
                    cases.push(LinearCase { on_host: true, ..LinearCase::new(dtype, m, n, columns(format, k), format) });
                }
            }
        }
    }
    cases
}

/// Rows enough for kernels that make tiles of a whole matrix, and sizes around theirs.
fn many_rows() -> Vec<LinearCase> {
    let affine = |group| WeightFormat::affine(4, group, DType::BF16).expect("MLX has it");
    let mut cases = Vec::new();
    for (dtype, m, n, k, group) in [
        (DType::BF16, 13, 256, 256, 64),
        (DType::F16, 16, 300, 1152, 128),
        (DType::BF16, 33, 257, 4160, 32),
        (DType::BF16, 64, 520, 2112, 64),
        (DType::F16, 100, 70, 640, 64),
        (DType::BF16, 127, 264, 96, 32),
        (DType::BF16, 128, 256, 256, 64),
        (DType::BF16, 129, 257, 1024, 32),
        (DType::BF16, 300, 520, 128, 128),
        (DType::F16, 131, 300, 192, 64),
        (DType::F16, 260, 65, 1280, 32),
        (DType::BF16, 200, 41, 96, 32),
        (DType::BF16, 2200, 24, 64, 64),
    ] {
        let case = || LinearCase { on_host: true, ..LinearCase::new(dtype, m, n, k, affine(group)) };
        cases.extend([case(), case().with_bias()]);
    }
    for special in [Special::InX(f32::NAN), Special::InX(f32::INFINITY), Special::InX(1e30), Special::NanScale] {
        for m in [15, 130] {
            let case = LinearCase::new(DType::BF16, m, 300, 192, affine(64));
            cases.push(LinearCase { special, on_host: true, ..case });
        }
    }
    cases
}

fn special() -> Vec<LinearCase> {
    let mut cases = Vec::new();
    for special in [Special::InX(f32::NAN), Special::InX(f32::INFINITY), Special::NanScale] {
        for (m, kind) in [(1, Kind::Linear), (3, Kind::Linear), (14, Kind::Linear), (6, Kind::Transposed)] {
            for bits in [4, 8] {
                let format = WeightFormat::affine(bits, 32, DType::BF16).expect("MLX has it");
                let (rows, columns) = if kind == Kind::Linear { (9, 192) } else { (70, 64) };
                cases.push(LinearCase { kind, special, ..LinearCase::new(DType::F32, m, rows, columns, format) });
                let half = LinearCase::new(DType::BF16, m, rows, columns, format);
                cases.push(LinearCase { kind, special, on_host: true, ..half });
            }
        }
    }
    for special in [Special::InX(f32::NAN), Special::InX(f32::NEG_INFINITY)] {
        cases.push(LinearCase { special, ..LinearCase::new(DType::F32, 3, 9, 64, WeightFormat::Mxfp4) });
    }
    cases
}

/// Sizes of real models, for benchmarks.
fn timed() -> Vec<LinearCase> {
    let affine = |bits| WeightFormat::affine(bits, 64, DType::BF16).expect("MLX has it");
    let mut cases = Vec::new();
    for (m, n, k) in [(1, 4096, 4096), (8, 4096, 4096), (512, 4096, 4096), (1, 151_936, 1024)] {
        cases.extend([4, 8].map(|bits| LinearCase::new(DType::BF16, m, n, k, affine(bits))));
    }
    cases.extend([1, 512].map(|m| LinearCase::new(DType::F32, m, 4096, 4096, affine(4))));
    // One row, every format.
    for format in every_format(2) {
        cases.push(LinearCase::new(DType::BF16, 1, 4096, 4096, format));
    }
    // Experts: a token with eight of 64, and a sorted prompt.
    let experts = |m, n, k| LinearCase::new(DType::BF16, m, n, k, affine(4));
    cases.push(experts(8, 768, 2048).gathered(64, 1, 8, false, false));
    cases.push(experts(2048, 768, 2048).gathered(64, 256, 1, true, true));
    cases
}

pub(crate) fn suite() -> Suite {
    let own = [every_kernel(), every_use(), every_shape(), many_rows(), special(), timed()].into_iter().flatten();
    let golden = Golden::load("quantized_matmul").into_iter().map(GoldenCase::new);
    Suite {
        op: &super::OP,
        cases: (own.map(|c| Box::new(c) as Box<dyn Case>))
            .chain(beside().into_iter().map(|c| Box::new(c) as Box<dyn Case>))
            .chain(golden.map(|c| Box::new(c) as Box<dyn Case>))
            .collect(),
        random: |rng| {
            let turn = rng.range(0, 8);
            let format = rng.pick(&every_format(turn));
            let k = format.granule() as u32 * rng.range(1, 3) as u32;
            let (m, n) = (rng.range(1, 20) as u32, rng.range(1, 70) as u32);
            Box::new(LinearCase::new(rng.pick(FLOATS), m, n, k, format).with_bias())
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::linear::OP;
    use crate::quant::KERNEL_PARTS;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn kernels_are_listed_in_the_order_of_the_formats() {
        let half = OP.kernels.len() / 2;
        assert_eq!(half, KERNEL_PARTS.len());
        for (i, part) in KERNEL_PARTS.iter().enumerate() {
            assert_eq!(OP.kernels[i].0, format!("linear_mv_{part}"));
            assert_eq!(OP.kernels[half + i].0, format!("linear_mm_{part}"));
        }
    }

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let f32s = |n| b.device.alloc_tensor(DType::F32, &[n]).expect("a small buffer");
        let (x, out, bias) = (f32s(2 * 64), f32s(2 * 3), f32s(3));
        let case = WeightCase::new(WeightFormat::affine(4, 64, DType::F32).expect("MLX has it"), 3, 64);
        let planes = [b.buffer(DType::U32, &[24]), f32s(3), f32s(3)];
        let weight = case.weight(&planes).expect("it fits");
        let stack = WeightCase { experts: Some(3), rows: 1, ..case }.weight(&planes).expect("it fits");
        let (half, bytes) = (b.buffer(DType::F16, &[256]), b.buffer(DType::U8, &[4096]));
        let ids = b.buffer(DType::U32, &[4]);
        let mut run = |x, w, bias, o, m| {
            linear(&mut b.encoder, &mut b.registry, &b.device, x, w, bias, o, &LinearParams { m })
        };
        assert!(run(&x, &weight, None, &out, 2).is_ok());
        assert!(run(&x, &weight, Some(&bias), &out, 2).is_ok());
        assert_invalid(run(&x, &weight, None, &out, 0), &["m is 0"]);
        assert_invalid(run(&x, &weight, None, &out, 3), &["x holds 512 bytes"]);
        assert_invalid(run(&x, &weight, None, &out, u32::MAX), &["x holds 512 bytes"]);
        assert_invalid(run(&x, &stack, None, &out, 2), &["stack of 3"]);
        assert_invalid(run(&bytes, &weight, None, &out, 2), &["x", "u8"]);
        assert_invalid(run(&x, &weight, None, &half, 2), &["output", "f16", "f32"]);
        assert_invalid(run(&x, &weight, None, &bias, 2), &["output holds 12 bytes"]);
        assert_invalid(run(&x, &weight, Some(&half), &out, 2), &["bias", "f16", "f32"]);
        assert_invalid(run(&x, &weight, None, &x, 2), &["output", "x share memory"]);
        let ok = GatherParams { m: 2, x_rows: 2, rows_per_x: 1, sorted: false };
        let mut run = |ids, bias, params| {
            let (e, r) = (&mut b.encoder, &mut b.registry);
            gather_linear(e, r, &b.device, &x, &stack, bias, ids, None, &out, &params)
        };
        assert!(run(&ids, Some(&bias), ok).is_ok());
        assert_invalid(run(&x, None, ok), &["ids", "f32", "u32"]);
        assert_invalid(run(&ids, None, GatherParams { m: 5, x_rows: 5, ..ok }), &["ids holds 16 bytes"]);
        assert_invalid(run(&ids, None, GatherParams { rows_per_x: 0, ..ok }), &["rows_per_x is 0"]);
        assert_invalid(run(&ids, None, GatherParams { m: 3, ..ok }), &["x_rows 2", "m 3"]);
        assert_invalid(run(&ids, None, GatherParams { x_rows: 3, ..ok }), &["x holds 512 bytes"]);
    }

    /// Bits of a row alone, and of the same row among others: few of them, and with integers many.
    #[test]
    fn a_row_does_not_depend_on_its_company() {
        let few: Vec<u32> = (1..=8).collect();
        for format in every_format(0) {
            company(format, DType::F32, &few);
        }
        let many = [1, 2, 3, 5, 8, 9, 13, 30, 193, 400];
        for scales in FLOATS {
            for group in [32, 64, 128] {
                for bits in [4, 8] {
                    let format = WeightFormat::affine(bits, group, *scales).expect("MLX has it");
                    company(format, DType::BF16, &many);
                }
            }
        }
        company(WeightFormat::Mxfp4, DType::BF16, &many);
    }

    /// The bits are those of every level of this machine, if they are integers.
    #[test]
    fn integers_have_the_same_bits_on_every_level() {
        let mut rng = Rng::new(6);
        for (bits, group, m) in [(4, 32, 1), (4, 64, 3), (8, 64, 1), (8, 128, 30), (4, 128, 7), (4, 64, 30)] {
            let format = WeightFormat::affine(bits, group, DType::BF16).expect("MLX has it");
            let case = LinearCase::new(DType::BF16, m, 41, columns(format, 800), format);
            let inputs = case.inputs(&mut rng);
            let results: Vec<_> = crate::isa::Isa::available()
                .into_iter()
                .map(|isa| {
                    let config = crate::Config { isa: Some(isa), ..Default::default() };
                    let device = crate::MlxDevice::with_config(crate::DeviceKind::Cpu, &config).expect("it has the level");
                    let buffers: Vec<_> = inputs.iter().map(|t| upload(&device, t)).collect();
                    let out = device.alloc_tensor(DType::BF16, &[m as usize, 41]).expect("a small buffer");
                    let mut encoder = device.command_encoder().expect("a cpu gives encoders");
                    let mut registry = crate::KernelRegistry::new();
                    let weight = case.weight.weight(&buffers[1..]).expect("it fits");
                    let params = LinearParams { m };
                    linear(&mut encoder, &mut registry, &device, &buffers[0], &weight, None, &out, &params).expect("valid");
                    encoder.commit_and_wait().expect("it runs");
                    out.read::<u16>().expect("it ran")
                })
                .collect();
            for (result, isa) in results.iter().zip(crate::isa::Isa::available()) {
                assert_eq!(*result, results[0], "{isa}: {bits} bits, groups of {group}, {m} rows");
            }
        }
    }

    fn upload(device: &crate::MlxDevice, t: &Tensor) -> crate::MlxBuffer {
        let mut buffer = device.alloc_tensor(t.dtype(), t.shape()).expect("a small buffer");
        buffer.write(0, t.bytes()).expect("as long");
        buffer
    }

    /// Products of so many rows begin with the same bits.
    fn company(format: WeightFormat, dtype: DType, rows: &[u32]) {
        let mut rng = Rng::new(5);
        let most = *rows.last().expect("some") as usize;
        let mut b = Bench::new();
        let k = columns(format, 300);
        let case = WeightCase::new(format, 37, k);
        let planes: Vec<_> = case
            .random(&mut rng)
            .iter()
            .map(|t| {
                let mut buffer = b.buffer(t.dtype(), t.shape());
                buffer.write(0, t.bytes()).expect("as long");
                buffer
            })
            .collect();
        let weight = case.weight(&planes).expect("it fits");
        let mut x = b.buffer(dtype, &[most, k as usize]);
        x.write(0, Tensor::random(dtype, &[most, k as usize], &mut rng).bytes()).expect("as long");
        let bias = b.buffer(dtype, &[37]);
        let mut results = Vec::new();
        for &m in rows {
            let out = b.buffer(dtype, &[m as usize, 37]);
            let params = LinearParams { m };
            let mut encoder = b.device.command_encoder().expect("a cpu gives encoders");
            linear(&mut encoder, &mut b.registry, &b.device, &x, &weight, Some(&bias), &out, &params).expect("valid");
            encoder.commit_and_wait().expect("it runs");
            results.push(out.read::<u8>().expect("it ran"));
        }
        for (m, result) in rows.iter().zip(&results) {
            assert_eq!(result[..], results[rows.len() - 1][..result.len()], "{format}, {dtype:?}: {m} rows");
        }
    }
}
