//! How near a result must be to its reference.

use crate::dtype::DType;

/// `|got - want| <= absolute + relative * |want|`, and NaN exactly where NaN is wanted, infinity likewise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// In the unit of the output.
    pub absolute: f64,
    /// In parts of the wanted value.
    pub relative: f64,
}

impl Tolerance {
    /// Equal values: copies, integers.
    pub const EXACT: Tolerance = Tolerance {
        absolute: 0.0,
        relative: 0.0,
    };

    /// A few f32 operations and one rounding to `dtype`: half a unit in the last place of `dtype`, and a little for f32.
    #[must_use]
    pub fn one_rounding(dtype: DType) -> Self {
        match dtype {
            // 2^-11 and 2^-8 are half a unit in the last place, just above a power of two; subnormal f16 has 2^-25.
            DType::F16 => Tolerance {
                absolute: 6e-8,
                relative: 1.001 / 2048.0,
            },
            DType::BF16 => Tolerance {
                absolute: 1e-30,
                relative: 1.001 / 256.0,
            },
            _ => Tolerance {
                absolute: 1e-30,
                relative: 1.2e-7,
            },
        }
    }

    /// [`one_rounding`](Self::one_rounding), and `absolute` more for accumulation in f32.
    #[must_use]
    pub fn accumulated(dtype: DType, absolute: f64) -> Self {
        let rounding = Self::one_rounding(dtype);
        Tolerance {
            absolute: rounding.absolute + absolute,
            relative: rounding.relative * 1.01,
        }
    }

    pub(super) fn check(&self, got: &[f64], want: &[f64]) -> Result<(), String> {
        if got.len() != want.len() {
            return Err(format!(
                "{} elements, the reference has {}",
                got.len(),
                want.len()
            ));
        }
        let mut worst: Option<(f64, usize)> = None;
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let excess = if w.is_nan() || g.is_nan() {
                if w.is_nan() == g.is_nan() {
                    0.0
                } else {
                    f64::INFINITY
                }
            } else if g == w {
                0.0
            } else if w.is_infinite() || g.is_infinite() {
                f64::INFINITY
            } else {
                (g - w).abs() - self.absolute - self.relative * w.abs()
            };
            if excess > 0.0 && worst.is_none_or(|(e, _)| excess > e) {
                worst = Some((excess, i));
            }
        }
        match worst {
            None => Ok(()),
            Some((excess, i)) => Err(format!(
                "element {i} of {}: got {:e}, want {:e}, {excess:.2e} beyond {self:?}",
                got.len(),
                got[i],
                want[i]
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_fail() {
        let t = Tolerance {
            absolute: 0.1,
            relative: 0.0,
        };
        assert!(
            t.check(&[1.0, f64::NAN, f64::INFINITY], &[1.05, f64::NAN, f64::INFINITY])
                .is_ok()
        );
        for (got, want) in [
            (1.0, 1.2),
            (f64::NAN, 1.0),
            (1.0, f64::NAN),
            (f64::INFINITY, 1.0),
            (1.0, f64::NEG_INFINITY),
        ] {
            assert!(t.check(&[got], &[want]).is_err(), "{got} {want}");
        }
        assert!(t.check(&[1.0], &[]).is_err());
    }
}
