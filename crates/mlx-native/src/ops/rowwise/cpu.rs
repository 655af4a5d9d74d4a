//! Bodies of `rowwise` for the CPU: chunks of a row are widened, the function runs over them, the result is rounded.

use super::{FUNCTION, RowwiseParams};
use crate::backend::cpu::math::{exp, gelu_tanh, sigmoid, tanh};
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, Output, part_range};
use crate::kernel::ConstantValue;

/// Elements that are widened to f32 at a time.
const CHUNK: usize = 512;
/// Elements below which rows are not worth another thread.
const GRANULE: usize = 4096;

pub(super) fn rowwise<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let params: RowwiseParams = launch.params(4);
    let Some(ConstantValue::U32(function)) = launch.constant(FUNCTION) else {
        return launch.fail("no function is chosen".to_owned());
    };
    let (a, b, c) = (launch.output::<T>(0), launch.output::<T>(1), launch.output::<T>(2));
    let output = launch.output::<T>(3);
    let (cols, rows) = (params.cols as usize, params.rows as usize);
    let chunks = cols.div_ceil(CHUNK);
    let grain = (GRANULE / cols.clamp(1, CHUNK)).max(1);
    let operands = operands(function);
    let (mut x, mut y, mut z) = ([0.0; CHUNK], [0.0; CHUNK], [0.0; CHUNK]);
    for piece in part_range(rows * chunks, grain, part, parts) {
        let (row, first) = (piece / chunks, piece % chunks * CHUNK);
        let len = CHUNK.min(cols - first);
        let (x, y, z) = (&mut x[..len], &mut y[..len], &mut z[..len]);
        // SAFETY: only this part touches these elements of `output`, which may be an operand of the same stride; the
        // operator refuses other overlaps.
        unsafe {
            a.load(row * params.a_stride as usize + first, x);
            if operands > 1 {
                repeated(b, row * params.b_stride as usize, first, params.b_div as usize, y);
            }
            if operands > 2 {
                repeated(c, row * params.c_stride as usize, first, params.c_div as usize, z);
            }
            launch.isa().run(Apply { function, p: params.p, x, y, z });
            output.store(row * params.output_stride as usize + first, x);
        }
    }
}

/// As `Function::operands`, from its number.
const fn operands(function: u32) -> usize {
    match function {
        21 | 22 | 24 | 25 | 29 => 3,
        1 | 2 | 11..=19 | 23 | 26 | 28 | 30 => 2,
        _ => 1,
    }
}

/// Loads elements `first / div …` of the row at `start`, each `div` times.
///
/// # Safety
/// Nobody may write these elements meanwhile.
unsafe fn repeated<T: Element>(source: Output<'_, T>, start: usize, first: usize, div: usize, target: &mut [f32]) {
    if div == 1 {
        // SAFETY: by the caller's word.
        return unsafe { source.load(start + first, target) };
    }
    let mut done = 0;
    let mut one = [0.0];
    while done < target.len() {
        let at = first + done;
        let run = (div - at % div).min(target.len() - done);
        // SAFETY: by the caller's word.
        unsafe { source.load(start + at / div, &mut one) };
        target[done..done + run].fill(one[0]);
        done += run;
    }
}

struct Apply<'a> {
    function: u32,
    p: [f32; 4],
    x: &'a mut [f32],
    y: &'a [f32],
    z: &'a [f32],
}

impl Apply<'_> {
    /// `x = f(x, y, z)`, inlined into each arm so that each loop becomes vectors.
    #[inline(always)]
    fn each(self, f: impl Fn(f32, f32, f32) -> f32) {
        let n = self.x.len();
        let (y, z) = (&self.y[..n], &self.z[..n]);
        for i in 0..n {
            self.x[i] = f(self.x[i], y[i], z[i]);
        }
    }
}

impl Vectorised for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let p = self.p;
        let clip = |v: f32, limit: f32| v.max(-limit).min(limit);
        match self.function {
            0 => self.each(|x, _, _| p[0] * x + p[1]),
            1 => self.each(|x, y, _| p[0] * x + p[1] * y),
            2 => self.each(|x, y, _| x * y * p[0]),
            3 => self.each(|x, _, _| p[0] * tanh(x / p[0])),
            4 => self.each(|x, _, _| x * sigmoid(x)),
            5 => self.each(|x, _, _| gelu_erf(x)),
            6 => self.each(|x, _, _| gelu_tanh(x)),
            7 => self.each(|x, _, _| relu(x) * relu(x)),
            8 => self.each(|x, _, _| sigmoid(x)),
            9 => self.each(|x, _, _| softplus(x)),
            10 => self.each(|x, _, _| tanh(x)),
            11 => self.each(|x, y, _| x * sigmoid(x) * y),
            12 => self.each(|x, y, _| gelu_erf(x) * y),
            13 => self.each(|x, y, _| gelu_tanh(x) * y),
            14 => self.each(|x, y, _| relu(x) * relu(x) * y),
            15 => self.each(|x, y, _| sigmoid(x) * y),
            16 => self.each(|x, y, _| softplus(x) * y),
            17 => self.each(|x, y, _| {
                let g = least(x, p[0]);
                g * sigmoid(p[1] * g) * (kept(y, clip(y, p[0])) + 1.0)
            }),
            18 => self.each(|x, y, _| least(x * sigmoid(x), p[0]) * kept(y, clip(y, p[0]))),
            19 => self.each(|x, y, _| {
                let g = least(x, p[0]);
                g * sigmoid(g) * kept(y, clip(y, p[0]))
            }),
            20 => self.each(|x, _, _| xielu(x, p)),
            21 => self.each(|x, y, z| exp(-exp(z) * softplus(x + y))),
            22 => self.each(|x, y, z| exp(p[0] * sigmoid(exp(z) * (x + y)))),
            23 => self.each(|x, y, _| {
                let width = softplus(x + y);
                kept(width, width.max(p[0]).min(p[1]))
            }),
            24 => self.each(|x, y, z| x + (y - x) * z),
            25 => self.each(|x, _, z| exp(-exp(z) * x)),
            26 => self.each(|x, y, _| kept(x, (1.0 - x * x).max(0.0).sqrt()) * y),
            27 => self.each(|x, _, _| exp(p[0] * sigmoid(x))),
            28 => self.each(|x, y, _| exp(p[0] * sigmoid(x) * softplus(y))),
            29 => self.each(|x, y, z| relu(x - (y + p[0] * z))),
            30 => self.each(|x, y, _| p[0] * tanh(x / p[0]) * sigmoid(x) * (p[1] * tanh(y / p[1]))),
            _ => self.each(|x, _, _| kept(x, x.max(p[0]).min(p[1]))),
        }
    }
}

/// `value`, or NaN where `source` is.
#[inline(always)]
fn kept(source: f32, value: f32) -> f32 {
    if source.is_nan() { source } else { value }
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn least(x: f32, limit: f32) -> f32 {
    if x > limit { limit } else { x }
}

#[inline(always)]
fn softplus(x: f32) -> f32 {
    let largest = if x < 0.0 { 0.0 } else { x };
    largest + exp(-x.abs()).ln_1p()
}

/// `x·Φ(x)`, by `erfc(z) = t·exp(-z²)·q(t)` with `t = 1 / (1 + z/2)`. `q` interpolates at Chebyshev nodes up to z = 11,
/// with 6e-8 of relative error.
#[inline(always)]
fn gelu_erf(x: f32) -> f32 {
    const Q: [f32; 9] = [
        0.282_085_84,
        0.282_380_42,
        0.243_109_2,
        0.202_479_58,
        -0.025_673_2,
        0.276_001_2,
        -0.484_800_97,
        0.283_137,
        -0.058_719_06,
    ];
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let mut q = Q[8];
    let mut i = 8;
    while i > 0 {
        i -= 1;
        q = q * t + Q[i];
    }
    let tail = 0.5 * t * q * exp(-z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

#[inline(always)]
fn xielu(x: f32, p: [f32; 4]) -> f32 {
    let m = least(x, p[3]);
    let series = m
        * (1.0 + m * (0.5 + m * (0.166_666_67 + m * (0.041_666_668 + m * (0.008_333_334 + m * 0.001_388_888_9)))));
    let expm1 = if m > -0.25 { series } else { exp(m) - 1.0 };
    if x > 0.0 { p[0] * x * x + p[2] * x } else { (expm1 - x) * p[1] + p[2] * x }
}
