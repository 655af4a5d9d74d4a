//! Frequencies of scaled rotary embeddings.

use std::f64::consts::TAU;

/// The factor on positions of linear scaling by `factor`.
#[must_use]
pub fn linear_scale(factor: f32) -> f32 {
    1.0 / factor
}

/// Wavelengths over 2π of Llama 3's scaling: long waves are stretched by `factor`, short ones kept, those between
/// blended. `original` is the context the model was first trained for.
#[must_use]
pub fn llama3_wavelengths(
    dims: usize,
    base: f32,
    factor: f32,
    low_freq_factor: f32,
    high_freq_factor: f32,
    original: f32,
) -> Vec<f32> {
    let (factor, low, high) = (f64::from(factor), f64::from(low_freq_factor), f64::from(high_freq_factor));
    let original = f64::from(original);
    (0..dims / 2)
        .map(|i| {
            let freq = f64::from(base).powf(2.0 * i as f64 / dims as f64);
            let wavelength = TAU * freq;
            let scaled = if wavelength > original / low {
                freq * factor
            } else if wavelength > original / high {
                let smooth = (original / wavelength - low) / (high - low);
                freq / ((1.0 - smooth) / factor + smooth)
            } else {
                freq
            };
            scaled as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waves_are_kept_and_long_ones_stretched() {
        let w = llama3_wavelengths(64, 500_000.0, 8.0, 1.0, 4.0, 8192.0);
        let plain = |i: usize| 500_000f64.powf(2.0 * i as f64 / 64.0) as f32;
        assert_eq!(w[0], 1.0);
        assert_eq!(w[31], plain(31) * 8.0);
        assert!(w.windows(2).all(|p| p[0] < p[1]), "the blend is monotonous");
        assert!((1..32).any(|i| w[i] > plain(i) * 1.01 && w[i] < plain(i) * 7.9), "some are blended");
    }
}
