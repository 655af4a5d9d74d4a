//! Elementary functions in f32, without branches or table look-ups.
//!
//! [`exp`] and [`sin_cos`] are plain Rust that the compiler vectorises when they are inlined into a loop under
//! [`IsaToken::run`](crate::isa::IsaToken::run).
//!
//! exp: `x = n·ln 2 + r` with `|r| <= ln 2 / 2`, `eˣ = 2ⁿ·eʳ`, `eʳ = 1 + r + r²·q(r)`; `q` interpolates
//! `(eʳ - 1 - r) / r²` at the Chebyshev nodes, which leaves 1.1e-8 of relative error.

/// Below, `eˣ` is 0 in f32; above, infinite.
const LOWEST: f32 = -104.0;
const HIGHEST: f32 = 89.0;
/// ln 2 in two pieces; the upper has 15 bits, so that its product with `n` is exact.
const LN_2_UPPER: f32 = 0.693_145_75;
const LN_2_LOWER: f32 = 1.428_606_8e-6;
/// Coefficients of `q`, lowest power first.
const Q: [f32; 5] = [0.5, 0.166_665_76, 0.041_666_556, 0.008_363_179, 0.001_392_618_4];
/// 1.5·2²³: a value up to 2²² added to it is rounded to an integer, which its low bits then hold.
const ROUNDER: f32 = 12_582_912.0;

/// `eˣ` within 2 units in the last place; subnormal results, infinities and NaN as they should be.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x < LOWEST { LOWEST } else { x };
    let x = if x > HIGHEST { HIGHEST } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = (x - n * LN_2_UPPER) - n * LN_2_LOWER;
    let q = (((Q[4] * r + Q[3]) * r + Q[2]) * r + Q[1]) * r + Q[0];
    let e = 1.0 + (r + r * r * q);
    // In two steps, since 2ⁿ itself may lie outside the normal numbers.
    let n = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
    let half = n >> 1;
    e * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// 2ⁿ for `-127 < n < 128`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `1 / (1 + e⁻ˣ)`, without overflow on either side.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    let t = exp(-x.abs());
    let numerator = if x < 0.0 { t } else { 1.0 };
    numerator / (1.0 + t)
}

/// The hyperbolic tangent within 4 units in the last place; small arguments by their series, where the other form would
/// cancel.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let s = x * x;
    let series = x * (1.0 + s * (-1.0 / 3.0 + s * (2.0 / 15.0 + s * (-17.0 / 315.0 + s * (62.0 / 2835.0)))));
    let t = exp(-2.0 * magnitude);
    let far = (1.0 - t) / (1.0 + t);
    let far = if x < 0.0 { -far } else { far };
    if magnitude < 0.25 { series } else { far }
}

/// `x / 2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`, computed as `x / (1 + e⁻²ᵗ)`: without cancellation for negative `x`.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    const ROOT_2_BY_PI: f32 = 0.797_884_6;
    let t = ROOT_2_BY_PI * (x + 0.044_715 * x * x * x);
    x * sigmoid(2.0 * t)
}

/// Angles up to this are reduced by [`sin_cos`]'s own arithmetic.
pub(crate) const SIN_COS_LIMIT: f32 = 16_777_216.0;
const PI_2_UPPER: f64 = 1.570_796_326_850_541;
const PI_2_LOWER: f64 = -5.564_431_676_187_288_5e-11;
/// 1.5·2⁵², as [`ROUNDER`] in f64.
const ROUNDER_64: f64 = 6_755_399_441_055_744.0;

/// Sine and cosine of an angle up to [`SIN_COS_LIMIT`] in absolute value, computed in f64 and rounded: nearly always the
/// nearest f32. Beyond that, and for infinities and NaN, the results are meaningless.
#[inline(always)]
pub(crate) fn sin_cos(angle: f32) -> (f32, f32) {
    let angle = f64::from(angle);
    let shifted = angle * std::f64::consts::FRAC_2_PI + ROUNDER_64;
    let n = shifted - ROUNDER_64;
    let r = (angle - n * PI_2_UPPER) - n * PI_2_LOWER;
    let s = r * r;
    // Taylor series: at |r| <= π/4 what is left out is below 1e-11.
    let sin = r
        * (1.0
            + s * (-1.0 / 6.0
                + s * (1.0 / 120.0
                    + s * (-1.0 / 5040.0 + s * (1.0 / 362_880.0 + s * (-1.0 / 39_916_800.0))))));
    let cos = 1.0
        + s * (-0.5
            + s * (1.0 / 24.0
                + s * (-1.0 / 720.0
                    + s * (1.0 / 40_320.0 + s * (-1.0 / 3_628_800.0 + s * (1.0 / 479_001_600.0))))));
    let quadrant = shifted.to_bits();
    let (a, b) = if quadrant & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let a = if quadrant & 2 == 0 { a } else { -a };
    let b = if quadrant.wrapping_add(1) & 2 == 0 { b } else { -b };
    (a as f32, b as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::IsaToken;

    /// Distance in units in the last place of the wanted value.
    fn ulps(got: f32, want: f64) -> f64 {
        let exponent = (want.abs().log2().floor() as i32).max(-126);
        (f64::from(got) - want).abs() / 2f64.powi(exponent - 23)
    }

    fn sweep() -> Vec<f32> {
        let mut all: Vec<f32> = (-103_000..=88_700).map(|i| i as f32 * 1e-3).collect();
        all.extend(
            (0..4000)
                .map(|i| f32::from_bits(0x3000_0000 + i * 0x2_0000))
                .filter(|v| *v < 88.0),
        );
        all.resize(all.len().next_multiple_of(16), 0.0);
        all
    }

    const EDGES: [f32; 16] = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        89.0,
        1e30,
        -1e30,
        -104.0,
        -200.0,
        88.722_83,
        88.723,
        -87.4,
        1e-40,
        f32::MAX,
        f32::MIN,
    ];

    fn check_exp(name: &str, bound: f64, f: impl Fn(&[f32]) -> Vec<f32>) {
        let x = sweep();
        for (x, got) in x.iter().zip(f(&x)) {
            let error = ulps(got, f64::from(*x).exp());
            assert!(error <= bound, "{name}: exp({x}) = {got}, {error} units off");
        }
        for (x, got) in EDGES.iter().zip(f(&EDGES)) {
            let want = f64::from(*x).exp() as f32;
            let same = got == want || want.is_nan() && got.is_nan();
            assert!(
                same || ulps(got, f64::from(*x).exp()) <= bound,
                "{name}: exp({x}) = {got}, want {want}"
            );
        }
    }

    struct Each<'a>(&'a [f32], fn(f32) -> f32);
    impl Vectorised for Each<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run(self) -> Vec<f32> {
            self.0.iter().map(|x| (self.1)(*x)).collect()
        }
    }
    use crate::vector::Vectorised;

    #[test]
    fn exp_is_near_on_every_instruction_set() {
        for isa in IsaToken::available() {
            check_exp(isa.level().name(), 2.0, |x| isa.run(Each(x, exp)));
        }
    }

    #[test]
    fn sigmoid_holds_on_both_sides() {
        for x in sweep().into_iter().flat_map(|x| [x, -x]) {
            let want = if x < 0.0 {
                f64::from(x).exp() / (1.0 + f64::from(x).exp())
            } else {
                1.0 / (1.0 + (-f64::from(x)).exp())
            };
            assert!(
                ulps(sigmoid(x), want) <= 3.0,
                "sigmoid({x}) = {}, want {want}",
                sigmoid(x)
            );
        }
        assert_eq!((sigmoid(f32::INFINITY), sigmoid(f32::NEG_INFINITY)), (1.0, 0.0));
        assert!(sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_and_gelu_are_near_everywhere() {
        for x in (-40_000..40_000)
            .map(|i| i as f32 * 4.7e-4)
            .chain([1e-20, -1e-30, 0.0, 88.0, -1e30])
        {
            let want = f64::from(x).tanh();
            assert!(
                ulps(tanh(x), want) <= 4.0 || want == 0.0,
                "tanh({x}) = {}, want {want}",
                tanh(x)
            );
            let t = 0.797_884_560_802_865_4 * (f64::from(x) + 0.044_715 * f64::from(x).powi(3));
            let want = f64::from(x) / (1.0 + (-2.0 * t).exp());
            let error = (f64::from(gelu_tanh(x)) - want).abs();
            assert!(
                error <= 3e-5 * want.abs() + 1e-37,
                "gelu({x}) = {}, want {want}",
                gelu_tanh(x)
            );
        }
        assert!(tanh(f32::NAN).is_nan() && gelu_tanh(f32::NAN).is_nan());
        assert_eq!((tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
        assert_eq!((gelu_tanh(f32::INFINITY), gelu_tanh(1e30)), (f32::INFINITY, 1e30));
    }

    #[test]
    fn sin_and_cos_are_the_nearest_almost_always() {
        let mut bits = 1u32;
        let random = (0..200_000).map(|_| {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (bits as i32) as f32 / 128.0
        });
        let small = (-20_000..20_000).map(|i| i as f32 * 1e-3);
        for x in random
            .chain(small)
            .chain([0.0, -0.0, 1e-30, SIN_COS_LIMIT, -SIN_COS_LIMIT])
        {
            let (sin, cos) = sin_cos(x);
            let (s, c) = f64::from(x).sin_cos();
            // Beyond 2^19 quarter turns the reduced angle itself is off by up to 4e-9.
            let near = |got: f32, want: f64| (f64::from(got) - want).abs() <= 6.1e-8 * want.abs() + 5e-9;
            assert!(near(sin, s) && near(cos, c), "{x}: {sin} {cos}, want {s} {c}");
        }
    }
}
