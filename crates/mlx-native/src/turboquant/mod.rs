//! TurboQuant on the host: a vector is rotated by a Walsh-Hadamard transform, which makes its coordinates nearly normal
//! whatever it was, and each coordinate is quantised to the nearest level of a Lloyd-Max codebook for N(0, 1).
//!
//! There are two layouts, of two users. Do not mix them:
//!
//! | | host ([`turboquant_quantize`]) | KV caches ([`hadamard_quantize_kv`](crate::ops::hadamard_quantize_kv)) |
//! |---|---|---|
//! | widths | 2, 2.5, 3, 4 bits | 4 bits |
//! | order in a byte | most significant bit first: the even coordinate is the *high* half | the even coordinate is the *low* half |
//! | zero vector | index 0, norm 0 | index 7 everywhere, the norm as it is |
//!
//! The module is 0.1's, with its names and formulas.

mod codebook;

pub use codebook::{compute_lloyd_max_beta_codebook, compute_lloyd_max_codebook};

use crate::error::{MlxError, Result, invalid};

/// The 4 Lloyd-Max levels of N(0, 1).
pub const CODEBOOK_2BIT: [f32; 4] = mirrored([0.452_78, 1.510_417_6]);
/// The 8 Lloyd-Max levels of N(0, 1).
pub const CODEBOOK_3BIT: [f32; 8] = mirrored([0.245_094_2, 0.756_005_3, 1.343_909_3, 2.151_945_7]);
/// The 16 Lloyd-Max levels of N(0, 1).
pub const CODEBOOK_4BIT: [f32; 16] = mirrored([
    0.128_395,
    0.388_048_3,
    0.656_759_1,
    0.942_340_5,
    1.256_231_2,
    1.618_046_4,
    2.069_017_2,
    2.732_589_6,
]);

/// Both halves of a symmetric codebook, ascending, from the positive one.
const fn mirrored<const HALF: usize, const ALL: usize>(half: [f32; HALF]) -> [f32; ALL] {
    assert!(ALL == 2 * HALF);
    let mut all = [0.0; ALL];
    let mut i = 0;
    while i < HALF {
        all[HALF + i] = half[i];
        all[HALF - 1 - i] = -half[i];
        i += 1;
    }
    all
}

/// The edges between neighbouring levels of [`CODEBOOK_4BIT`]: a value belongs to as many levels up as edges lie strictly
/// below it.
pub(crate) const EDGES_4BIT: [f32; 15] = {
    let mut edges = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        edges[i] = (CODEBOOK_4BIT[i] + CODEBOOK_4BIT[i + 1]) * 0.5;
        i += 1;
    }
    edges
};

/// Bits of a coordinate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitWidth {
    /// 2 bits.
    Two,
    /// 3 bits.
    Three,
    /// 4 bits.
    Four,
    /// 3 bits for the first quarter of the coordinates, 2 for the others.
    TwoPointFive,
}

/// How vectors are quantised.
#[derive(Debug, Clone)]
pub struct TurboQuantConfig {
    /// Bits of a coordinate.
    pub bit_width: BitWidth,
    /// Length of a vector: a power of two.
    pub head_dim: usize,
}

impl BitWidth {
    /// Bits and levels of coordinate `i` of `head_dim`.
    fn of(self, i: usize, head_dim: usize) -> (u32, &'static [f32]) {
        match self {
            BitWidth::Four => (4, &CODEBOOK_4BIT),
            BitWidth::Three => (3, &CODEBOOK_3BIT),
            BitWidth::TwoPointFive if i < head_dim / 4 => (3, &CODEBOOK_3BIT),
            _ => (2, &CODEBOOK_2BIT),
        }
    }
}

/// The sums and differences of a Walsh-Hadamard transform, stages of ascending distance, without a scale.
#[inline(always)]
pub(crate) fn butterflies(x: &mut [f32]) {
    let mut distance = 1;
    while distance < x.len() {
        for block in x.chunks_exact_mut(2 * distance) {
            let (first, second) = block.split_at_mut(distance);
            for (a, b) in first.iter_mut().zip(second) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        distance *= 2;
    }
}

/// The orthogonal Walsh-Hadamard transform of `x`, in place and in natural order: its own inverse. All sums first, then one
/// product with `1/√n`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) for a length that is no power of two.
pub fn fwht_inplace(x: &mut [f32]) -> Result<()> {
    if !x.len().is_power_of_two() {
        return invalid!(
            "fwht_inplace: the length is {}, it must be a power of two",
            x.len()
        );
    }
    butterflies(x);
    let scale = 1.0 / (x.len() as f32).sqrt();
    x.iter_mut().for_each(|v| *v *= scale);
    Ok(())
}

/// The packed indices of `x`, and the norm of the vector. The indices follow each other from the most significant bit of the
/// first byte on.
///
/// The vector is rotated, divided by its norm and multiplied by `√head_dim`; each coordinate gets the nearest level, the lower
/// one of two equally near. A norm below 1e-30 gives indices of 0 and a norm of 0.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) for a `head_dim` that is no power of two, or an `x` of
/// another length.
pub fn turboquant_quantize(x: &[f32], config: &TurboQuantConfig) -> Result<(Vec<u8>, f32)> {
    let dim = config.head_dim;
    if x.len() != dim {
        return invalid!(
            "turboquant_quantize: x has {} elements, head_dim is {dim}",
            x.len()
        );
    }
    if !dim.is_power_of_two() {
        return invalid!("turboquant_quantize: head_dim is {dim}, it must be a power of two");
    }
    let mut rotated = x.to_vec();
    fwht_inplace(&mut rotated)?;
    let norm = rotated.iter().map(|v| v * v).sum::<f32>().sqrt();
    let mut bits = BitWriter::default();
    if norm < 1e-30 {
        (0..dim).for_each(|i| bits.push(0, config.bit_width.of(i, dim).0));
        return Ok((bits.finish(), 0.0));
    }
    let (inverse, root) = (1.0 / norm, (dim as f32).sqrt());
    for (i, v) in rotated.iter().enumerate() {
        let (width, levels) = config.bit_width.of(i, dim);
        bits.push(nearest(v * inverse * root, levels), width);
    }
    Ok((bits.finish(), norm))
}

/// What [`turboquant_quantize`] packed, as far as the levels keep it. Bits that `packed` lacks count as zeros, as in 0.1.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) for a `head_dim` that is no power of two,
/// [`MlxError::BufferAllocationError`](crate::MlxError::BufferAllocationError) for one that there is no memory for.
pub fn turboquant_dequantize(packed: &[u8], norm: f32, config: &TurboQuantConfig) -> Result<Vec<f32>> {
    let dim = config.head_dim;
    if !dim.is_power_of_two() {
        return invalid!("turboquant_dequantize: head_dim is {dim}, it must be a power of two");
    }
    let factor = 1.0 / (dim as f32).sqrt() * norm;
    let mut values: Vec<f32> = Vec::new();
    values
        .try_reserve_exact(dim)
        .map_err(|_| MlxError::BufferAllocationError {
            bytes: dim.saturating_mul(4),
        })?;
    let mut at = 0;
    values.extend((0..dim).map(|i| {
        let (width, levels) = config.bit_width.of(i, dim);
        let index = read_bits(packed, at, width);
        at += width as usize;
        levels[index] * factor
    }));
    fwht_inplace(&mut values)?;
    Ok(values)
}

fn nearest(v: f32, levels: &[f32]) -> u32 {
    let (mut best, mut index) = (f32::INFINITY, 0);
    for (level, i) in levels.iter().zip(0..) {
        let distance = (v - level).abs();
        if distance < best {
            (best, index) = (distance, i);
        }
    }
    index
}

/// Bits from the most significant one of each byte on.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    filled: usize,
}

impl BitWriter {
    fn push(&mut self, value: u32, width: u32) {
        for bit in (0..width).rev() {
            if self.filled.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> bit & 1) as u8) << (7 - self.filled % 8);
            }
            self.filled += 1;
        }
    }

    fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

fn read_bits(bytes: &[u8], at: usize, width: u32) -> usize {
    (at..at + width as usize).fold(0, |value, i| {
        let byte = bytes.get(i / 8).copied().unwrap_or(0);
        value << 1 | usize::from(byte >> (7 - i % 8) & 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transform_is_its_own_inverse() {
        for n in [1usize, 2, 64, 1024] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let mut y = x.clone();
            fwht_inplace(&mut y).unwrap();
            fwht_inplace(&mut y).unwrap();
            assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-5), "{n}");
        }
        for n in [0usize, 3, 12] {
            assert!(fwht_inplace(&mut vec![0.0; n]).is_err());
        }
    }

    #[test]
    fn layouts_and_widths() {
        let dim = 8;
        for (bit_width, bytes) in [
            (BitWidth::Two, 2),
            (BitWidth::Three, 3),
            (BitWidth::Four, 4),
            (BitWidth::TwoPointFive, 3),
        ] {
            let config = TurboQuantConfig {
                bit_width,
                head_dim: dim,
            };
            let x: Vec<f32> = (0..dim).map(|i| i as f32 - 3.3).collect();
            let (packed, norm) = turboquant_quantize(&x, &config).unwrap();
            assert_eq!(packed.len(), bytes, "{bit_width:?}");
            let back = turboquant_dequantize(&packed, norm, &config).unwrap();
            let error: f32 = x.iter().zip(&back).map(|(a, b)| (a - b) * (a - b)).sum();
            assert!(error < 0.3 * norm * norm, "{bit_width:?}: {error}");
        }
        // An impulse rotates to equal coordinates, all of which get the level nearest to 1: the high half comes first.
        let config = TurboQuantConfig {
            bit_width: BitWidth::Four,
            head_dim: 4,
        };
        let (packed, norm) = turboquant_quantize(&[2.0, 0.0, 0.0, 0.0], &config).unwrap();
        assert_eq!((packed, norm), (vec![0xBB, 0xBB], 2.0));
        let (packed, norm) = turboquant_quantize(&[0.0; 4], &config).unwrap();
        assert_eq!((packed, norm), (vec![0, 0], 0.0));
    }

    #[test]
    fn hostile_arguments() {
        let config = |head_dim| TurboQuantConfig {
            bit_width: BitWidth::Two,
            head_dim,
        };
        assert!(turboquant_quantize(&[1.0; 3], &config(3)).is_err());
        assert!(turboquant_quantize(&[1.0; 4], &config(8)).is_err());
        assert!(turboquant_quantize(&[], &config(0)).is_err());
        assert!(turboquant_dequantize(&[], 1.0, &config(0)).is_err());
        // Missing bytes are zero bits: the lowest level.
        let short = turboquant_dequantize(&[], 1.0, &config(4)).unwrap();
        assert_eq!(short, turboquant_dequantize(&[0], 1.0, &config(4)).unwrap());
        assert!(turboquant_quantize(&[f32::NAN; 4], &config(4)).is_ok());
    }

    #[test]
    fn the_edges_lie_between_the_levels() {
        for (i, edge) in EDGES_4BIT.iter().enumerate() {
            assert!(CODEBOOK_4BIT[i] < *edge && *edge < CODEBOOK_4BIT[i + 1]);
        }
    }

    #[test]
    fn the_constants_are_what_the_algorithm_finds() {
        for (n, levels) in [(4, &CODEBOOK_2BIT[..]), (8, &CODEBOOK_3BIT), (16, &CODEBOOK_4BIT)] {
            let found = compute_lloyd_max_codebook(n);
            assert!(
                found
                    .iter()
                    .zip(levels)
                    .all(|(a, b)| (a - f64::from(*b)).abs() < 2e-6),
                "{n}: {found:?}"
            );
        }
    }
}
