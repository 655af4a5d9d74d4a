//! Codes of a few bits in u32 words: element `i` of a row has bits `[i * bits, (i + 1) * bits)` of the row, counted from
//! bit 0 of word 0. Codes of 3, 5 and 6 bits may straddle two words.

use crate::error::{MlxError, Result, invalid};

/// Words of a row of `n_codes` codes.
///
/// # Errors
/// [`MlxError::InvalidArgument`] when `bits` is not 1 to 8, the row does not fill whole words, or its size overflows.
pub fn packed_words(n_codes: usize, bits: u32) -> Result<usize> {
    if !(1..=8).contains(&bits) {
        return invalid!("packed codes: bits is {bits}, 1 to 8 are possible");
    }
    let n_bits = n_codes
        .checked_mul(bits as usize)
        .ok_or_else(|| MlxError::InvalidArgument(format!("packed codes: {n_codes} codes overflow")))?;
    if n_bits % 32 != 0 {
        return invalid!("packed codes: {n_codes} codes of {bits} bits do not fill whole u32 words");
    }
    Ok(n_bits / 32)
}

/// Packs one row of codes; bits of a code above `bits` are dropped.
///
/// # Errors
/// As [`packed_words`].
pub fn pack_codes(codes: &[u8], bits: u32) -> Result<Vec<u32>> {
    let mut words = Vec::with_capacity(packed_words(codes.len(), bits)?);
    let mask = (1u64 << bits) - 1;
    let (mut window, mut filled) = (0u64, 0);
    for code in codes {
        window |= (u64::from(*code) & mask) << filled;
        filled += bits;
        if filled >= 32 {
            words.push(window as u32);
            window >>= 32;
            filled -= 32;
        }
    }
    Ok(words)
}

/// The codes of one row.
///
/// # Errors
/// As [`packed_words`], with `words.len() * 32 / bits` codes, which must be a whole number.
pub fn unpack_codes(words: &[u32], bits: u32) -> Result<Vec<u8>> {
    let n_codes = (words.len() as u128 * 32 / u128::from(bits.max(1))) as usize;
    if packed_words(n_codes, bits)? != words.len() {
        return invalid!(
            "packed codes: {} words hold no whole number of {bits}-bit codes",
            words.len()
        );
    }
    let mask = (1u64 << bits) - 1;
    let (mut window, mut filled, mut rest) = (0u64, 0, words.iter());
    let mut next = || {
        if filled < bits {
            window |= u64::from(*rest.next().unwrap_or(&0)) << filled;
            filled += 32;
        }
        let code = (window & mask) as u8;
        window >>= bits;
        filled -= bits;
        code
    };
    Ok((0..n_codes).map(|_| next()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_for_every_width() {
        for bits in 1..=8 {
            let codes: Vec<u8> = (0..96u32)
                .map(|i| (i.wrapping_mul(37) >> 1) as u8 & (((1u32 << bits) - 1) as u8))
                .collect();
            let words = pack_codes(&codes, bits).unwrap();
            assert_eq!(words.len(), 3 * bits as usize);
            assert_eq!(unpack_codes(&words, bits).unwrap(), codes, "{bits} bits");
        }
    }

    #[test]
    fn the_first_code_has_the_lowest_bits() {
        assert_eq!(pack_codes(&[1, 2, 3, 4, 5, 6, 7, 8], 4).unwrap(), [0x8765_4321]);
        assert_eq!(pack_codes(&[0x11, 0x22, 0x33, 0x44], 8).unwrap(), [0x4433_2211]);
        // 3 bits: code 10 has bits 30 to 32.
        let mut codes = [0; 32];
        codes[10] = 7;
        assert_eq!(pack_codes(&codes, 3).unwrap(), [0xC000_0000, 1, 0]);
    }

    #[test]
    fn what_cannot_be_packed_is_refused() {
        assert!(pack_codes(&[1; 7], 4).is_err());
        assert!(pack_codes(&[1; 32], 0).is_err());
        assert!(pack_codes(&[1; 32], 9).is_err());
        assert!(unpack_codes(&[0; 2], 3).is_err());
        assert!(unpack_codes(&[0; 2], 0).is_err());
        assert!(packed_words(usize::MAX, 8).is_err());
    }
}
