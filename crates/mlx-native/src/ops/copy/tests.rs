//! Cases of `copy`.

use super::{CopyParams, StridedParams, copy, copy_strided};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance, rounded};

const ALL: [DType; 7] =
    [DType::F32, DType::F16, DType::BF16, DType::U8, DType::U16, DType::U32, DType::I32];

#[derive(Debug)]
struct CopyCase {
    from: DType,
    to: DType,
    n_elements: u32,
}

/// Ties to even in f16 and bf16, what overflows or just does not, subnormals, infinities, NaN.
const EDGES: [f32; 20] = [
    0.0,
    -0.0,
    1.000_488_3,
    1.001_464_8,
    1.003_906_3,
    1.011_718_8,
    65_504.0,
    65_519.0,
    65_520.0,
    -70_000.0,
    f32::MAX,
    f32::MIN,
    5.96e-8,
    2.98e-8,
    8.94e-8,
    1e-40,
    3e-39,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

impl Case for CopyCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let shape = [self.n_elements as usize];
        if self.from == self.to {
            // Any bits, NaN among them.
            let bytes = (0..shape[0] * self.from.size_of()).map(|_| rng.bits() as u8).collect();
            return vec![Tensor::from_bytes(self.from, &shape, bytes)];
        }
        let value = |i: usize| EDGES.get(i).copied().unwrap_or_else(|| rng.normal() * 100.0);
        let values: Vec<f32> = (0..shape[0]).map(value).collect();
        vec![Tensor::from_f32(self.from, &shape, &values)]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.to, vec![self.n_elements as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let round = |v: f64| rounded(self.to, v);
        vec![inputs[0].to_f64().into_iter().map(round).collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let params = CopyParams { n_elements: self.n_elements };
        copy(c.encoder, c.registry, c.device, &c.inputs[0], &c.outputs[0], &params)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        self.n_elements <= 5000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let bytes = (self.from.size_of() + self.to.size_of()) as f64;
        (!self.is_small()).then_some((f64::from(self.n_elements) * bytes, 0.0))
    }
}

#[derive(Debug)]
struct StridedCase {
    dtype: DType,
    params: StridedParams,
}

impl StridedCase {
    fn element(&self, i: usize) -> usize {
        let (shape, strides) = (self.params.shape, self.params.strides);
        let (mut rest, mut at) = (i, 0);
        for (extent, stride) in shape.iter().zip(strides).rev() {
            at += rest % *extent as usize * stride as usize;
            rest /= *extent as usize;
        }
        at
    }

    fn len(&self) -> usize {
        self.params.shape.iter().map(|&d| d as usize).product()
    }
}

impl Case for StridedCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let reach = (0..4).map(|i| (self.params.shape[i] - 1) as usize * self.params.strides[i] as usize).sum::<usize>() + 1;
        let bytes = (0..reach * self.dtype.size_of()).map(|i| (rng.bits() >> (i % 7)) as u8 & 0x3F).collect();
        vec![Tensor::from_bytes(self.dtype, &[reach], bytes)]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, self.params.shape.iter().map(|&d| d as usize).collect())]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let x = inputs[0].to_f64();
        vec![(0..self.len()).map(|i| x[self.element(i)]).collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        copy_strided(c.encoder, c.registry, c.device, &c.inputs[0], &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        self.len() <= 5000
    }
}

fn strided_cases() -> Vec<Box<dyn Case>> {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::U8] {
        let mut add = |params| cases.push(Box::new(StridedCase { dtype, params }));
        for (batch, rows, cols, inner) in [(1, 1, 1, 1), (1, 7, 33, 1), (3, 5, 9, 1), (1, 6, 11, 7), (2, 33, 3, 4), (1, 130, 65, 1), (1, 300, 401, 1)] {
            add(StridedParams::transpose(batch, rows, cols, inner).expect("a small transpose"));
        }
        // Rows further apart, a repeated row, a diagonal.
        add(StridedParams { shape: [1, 1, 5, 6], strides: [0, 0, 10, 1] });
        add(StridedParams { shape: [2, 3, 4, 5], strides: [100, 0, 7, 2] });
        add(StridedParams { shape: [1, 1, 1, 9], strides: [0, 0, 0, 10] });
    }
    cases
}

pub(crate) fn suite() -> Suite {
    let mut pairs: Vec<_> = ALL.iter().map(|&d| (d, d)).collect();
    let casts = FLOATS.iter().flat_map(|&from| FLOATS.iter().map(move |&to| (from, to)));
    pairs.extend(casts.filter(|(from, to)| from != to));
    let sizes = [1, 7, 33, 65, 1026, 40_001];
    let case = |(from, to), n_elements| Box::new(CopyCase { from, to, n_elements }) as Box<dyn Case>;
    Suite {
        op: &super::OP,
        cases: pairs.into_iter().flat_map(|pair| sizes.map(|n| case(pair, n))).chain(strided_cases()).collect(),
        random: |rng| {
            let (from, to) = (rng.pick(FLOATS), rng.pick(FLOATS));
            if rng.range(0, 2) == 0 {
                let mut small = || rng.range(1, 9) as u32;
                let params = StridedParams { shape: [small(), small(), small(), small()], strides: [small(), small(), small(), small()] };
                return Box::new(StridedCase { dtype: from, params });
            }
            Box::new(CopyCase { from, to, n_elements: rng.range(1, 3000) as u32 })
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
        let (x, y) = (b.buffer(DType::F32, &[8]), b.buffer(DType::F32, &[8]));
        let (small, ints) = (b.buffer(DType::BF16, &[4]), b.buffer(DType::U32, &[8]));
        let inside = x.view(4, DType::F32, vec![4]).unwrap();
        let mut run =
            |x, o, n_elements| copy(&mut b.encoder, &mut b.registry, &b.device, x, o, &CopyParams { n_elements });
        assert!(run(&x, &y, 8).is_ok());
        assert_invalid(run(&x, &y, 0), &["n_elements"]);
        assert_invalid(run(&x, &ints, 8), &["x is f32", "output is u32"]);
        assert_invalid(run(&small, &y, 8), &["x holds 8 bytes", "bf16"]);
        assert_invalid(run(&x, &small, 8), &["output holds 8 bytes"]);
        assert_invalid(run(&x, &inside, 2), &["output", "x", "share"]);
    }

    #[test]
    fn strided_copies_name_the_parameter() {
        let mut b = Bench::new();
        let (x, y, z) = (b.buffer(DType::F32, &[8]), b.buffer(DType::F32, &[8]), b.buffer(DType::U32, &[8]));
        let ok = StridedParams { shape: [1, 1, 2, 4], strides: [0, 0, 4, 1] };
        let mut run = |x, o, p: StridedParams| copy_strided(&mut b.encoder, &mut b.registry, &b.device, x, o, &p);
        assert!(run(&x, &y, ok).is_ok());
        assert_invalid(run(&x, &y, StridedParams { shape: [1, 0, 2, 4], ..ok }), &["shape[1]"]);
        assert_invalid(run(&x, &y, StridedParams { strides: [0, 0, 5, 1], ..ok }), &["x", "32 bytes"]);
        assert_invalid(run(&x, &y, StridedParams { shape: [u32::MAX; 4], strides: [u32::MAX; 4] }), &["overflows"]);
        assert_invalid(run(&x, &y, StridedParams { shape: [1, 1, 3, 4], strides: [0, 0, 0, 1] }), &["output", "32 bytes"]);
        assert_invalid(run(&x, &z, ok), &["output", "u32"]);
        assert_invalid(run(&x, &x, ok), &["share"]);
    }

    #[test]
    fn equal_dtypes_keep_every_bit() {
        let mut b = Bench::new();
        let (mut x, y) = (b.buffer(DType::F32, &[3]), b.buffer(DType::F32, &[3]));
        let bits = [0x7FA0_1234u32, 0x8000_0000, 0xFFFF_FFFF];
        x.write(0, &bits).unwrap();
        copy(&mut b.encoder, &mut b.registry, &b.device, &x, &y, &CopyParams { n_elements: 3 }).unwrap();
        b.encoder.commit_and_wait().unwrap();
        assert_eq!(y.read::<u32>().unwrap(), bits);
    }
}
