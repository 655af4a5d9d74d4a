//! A hash that names files: the same on every machine and in every build.

/// A 128-bit FNV-1a hash over length-prefixed parts: stable between builds, unlike the standard library's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fingerprint(pub u128);

impl Fingerprint {
    /// Of nothing.
    pub fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    /// Takes a part in.
    pub fn add(&mut self, part: &str) {
        for byte in (part.len() as u64).to_le_bytes().iter().chain(part.as_bytes()) {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}
