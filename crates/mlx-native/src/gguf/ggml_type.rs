//! The block types of GGML that 0.1 knows, and how their blocks become numbers.
//!
//! Formats: a block of `block_values` consecutive values takes `block_bytes` bytes, little endian.

use half::f16;

/// How a GGUF file stores a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum GgmlType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// 32 values: an f16 scale `d` and 4-bit codes, `w = (q - 8)·d`.
    Q4_0,
    /// 32 values: an f16 scale `d` and signed bytes, `w = q·d`.
    Q8_0,
    /// 256 values in 8 groups of 32: f16 `d` and `dmin`, 6-bit scales and minima, 4-bit codes, `w = d·sc·q - dmin·m`.
    Q4_K,
    /// 256 values in 16 groups of 16: 6-bit codes, signed 8-bit scales, f16 `d`, `w = d·sc·(q - 32)`.
    Q6_K,
}

impl GgmlType {
    /// Values of a block.
    #[must_use]
    pub fn block_values(self) -> u32 {
        match self {
            GgmlType::F32 | GgmlType::F16 => 1,
            GgmlType::Q4_0 | GgmlType::Q8_0 => 32,
            GgmlType::Q4_K | GgmlType::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(self) -> u32 {
        match self {
            GgmlType::F32 => 4,
            GgmlType::F16 => 2,
            GgmlType::Q4_0 => 18,
            GgmlType::Q8_0 => 34,
            GgmlType::Q4_K => 144,
            GgmlType::Q6_K => 210,
        }
    }

    /// The values of whole blocks, as many as fit in both.
    pub(crate) fn dequantize(self, bytes: &[u8], values: &mut [f32]) {
        let blocks = bytes.chunks_exact(self.block_bytes() as usize);
        for (block, values) in blocks.zip(values.chunks_exact_mut(self.block_values() as usize)) {
            match self {
                GgmlType::F32 => values[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                GgmlType::F16 => values[0] = half(block),
                GgmlType::Q4_0 => q4_0(block, values),
                GgmlType::Q8_0 => {
                    let d = half(block);
                    values.iter_mut().zip(&block[2..]).for_each(|(v, q)| *v = f32::from(*q as i8) * d);
                }
                GgmlType::Q4_K => q4_k(block, values),
                GgmlType::Q6_K => q6_k(block, values),
            }
        }
    }
}

/// The f16 at the start of `bytes`.
fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn q4_0(block: &[u8], values: &mut [f32]) {
    let d = half(block);
    let (low, high) = values.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[2..]) {
        *low = (f32::from(byte & 15) - 8.0) * d;
        *high = (f32::from(byte >> 4) - 8.0) * d;
    }
}

/// The 6-bit scale and minimum of group `j`, out of the 12 bytes that hold the eight.
fn scale_and_minimum(s: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        ((s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

fn q4_k(block: &[u8], values: &mut [f32]) {
    let (d, dmin) = (half(block), half(&block[2..]));
    let (scales, codes) = block[4..].split_at(12);
    for (j, group) in values.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, j);
        let (factor, offset) = (d * scale, dmin * minimum);
        for (v, byte) in group.iter_mut().zip(&codes[j / 2 * 32..]) {
            let q = if j % 2 == 0 { byte & 15 } else { byte >> 4 };
            *v = factor * f32::from(q) - offset;
        }
    }
}

fn q6_k(block: &[u8], values: &mut [f32]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = half(d);
    for (i, v) in values.iter_mut().enumerate() {
        // Half of 128 values; in it four quarters of 32 that share bytes of `high`.
        let (h, quarter, l) = (i / 128, i % 128 / 32, i % 32);
        let byte = low[64 * h + l + if quarter % 2 == 1 { 32 } else { 0 }];
        let nibble = if quarter < 2 { byte & 15 } else { byte >> 4 };
        let q = nibble | (high[32 * h + l] >> (2 * quarter) & 3) << 4;
        let scale = f32::from(scales[8 * h + l / 16 + 2 * quarter] as i8);
        *v = d * scale * (f32::from(q) - 32.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_what_their_layout_says() {
        let one = f16::ONE.to_le_bytes();
        // Q4_0: byte j holds value j low, value j + 16 high.
        let mut block = one.to_vec();
        block.extend((0..16u8).map(|j| j | (15 - j) << 4));
        let mut values = [0.0; 32];
        GgmlType::Q4_0.dequantize(&block, &mut values);
        for j in 0..16 {
            assert_eq!((values[j], values[j + 16]), (j as f32 - 8.0, 7.0 - j as f32));
        }
        // Q8_0: signed bytes.
        let mut block = one.to_vec();
        block.extend((0..32).map(|j| (j - 16) as i8 as u8));
        GgmlType::Q8_0.dequantize(&block, &mut values);
        assert!(values.iter().enumerate().all(|(j, v)| *v == j as f32 - 16.0));
    }

    #[test]
    fn superblocks_are_what_their_layout_says() {
        // Q4_K with d = 2, dmin = 1, scale j + 1 and minimum 40 + j, packed by the definition; codes all 3 low, 5 high.
        let mut block = f16::from_f32(2.0).to_le_bytes().to_vec();
        block.extend(f16::ONE.to_le_bytes());
        let mut packed = [0u8; 12];
        for j in 0..8 {
            let (scale, minimum) = (j as u8 + 33, j as u8 + 40);
            if j < 4 {
                packed[j] |= scale;
                packed[j + 4] |= minimum;
            } else {
                packed[j + 4] = (scale & 15) | (minimum & 15) << 4;
                packed[j - 4] |= scale >> 4 << 6;
                packed[j] |= minimum >> 4 << 6;
            }
        }
        block.extend(packed);
        block.extend([0x53; 128]);
        let mut values = [0.0; 256];
        GgmlType::Q4_K.dequantize(&block, &mut values);
        for (i, v) in values.iter().enumerate() {
            let j = i / 32;
            let q = if j % 2 == 0 { 3.0 } else { 5.0 };
            assert_eq!(*v, 2.0 * (j as f32 + 33.0) * q - (j as f32 + 40.0), "{i}");
        }
        // Q6_K with d = 1, scales 1 to 16 and codes i % 64, packed by the definition.
        let mut block = vec![0u8; 210];
        for i in 0..256usize {
            let (q, h, quarter, l) = ((i % 64) as u8, i / 128, i % 128 / 32, i % 32);
            block[64 * h + l + quarter % 2 * 32] |= (q & 15) << (quarter / 2 * 4);
            block[128 + 32 * h + l] |= (q >> 4) << (2 * quarter);
        }
        (0..16).for_each(|j| block[192 + j] = j as u8 + 1);
        block[208..].copy_from_slice(&f16::ONE.to_le_bytes());
        GgmlType::Q6_K.dequantize(&block, &mut values);
        for (i, v) in values.iter().enumerate() {
            assert_eq!(*v, (i / 16 + 1) as f32 * ((i % 64) as f32 - 32.0), "{i}");
        }
    }
}
