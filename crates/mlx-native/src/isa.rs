//! Instruction-set levels, detected once.

use std::fmt;
use std::sync::OnceLock;

/// What kernels may use of the processor's vector instructions. Levels of one architecture are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust; always there, and the text to read first.
    Portable,
    /// ARM NEON (with FMA).
    Neon,
    /// x86 AVX2 with FMA and F16C.
    Avx2,
    /// x86 AVX-512 F, BW, DQ, VL, with what `Avx2` means.
    Avx512,
    /// `Avx512` with VNNI and BF16.
    Avx512Bf16,
}

impl Isa {
    /// The highest level of this machine.
    #[must_use]
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(detect)
    }

    /// Every level that this machine has, lowest first.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        let ladder: &[Isa] = match Isa::best() {
            Isa::Portable => &[Isa::Portable],
            Isa::Neon => &[Isa::Portable, Isa::Neon],
            Isa::Avx2 => &[Isa::Portable, Isa::Avx2],
            Isa::Avx512 => &[Isa::Portable, Isa::Avx2, Isa::Avx512],
            Isa::Avx512Bf16 => &[Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16],
        };
        ladder.to_vec()
    }

    /// The proof that this machine has the level; `None` where it lacks it.
    #[must_use]
    pub fn token(self) -> Option<IsaToken> {
        Isa::available().contains(&self).then_some(IsaToken(self))
    }

    /// The lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512-bf16",
        }
    }
}

/// An [`Isa`] that this machine has: there is no other way to one than [`Isa::token`], which looks. Whoever holds one may
/// run the level's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IsaToken(Isa);

impl IsaToken {
    /// Plain Rust, which every machine runs.
    pub const PORTABLE: IsaToken = IsaToken(Isa::Portable);

    /// The level.
    #[must_use]
    pub const fn level(self) -> Isa {
        self.0
    }

    /// The token of the highest level of this machine.
    #[must_use]
    pub fn best() -> IsaToken {
        IsaToken(Isa::best())
    }

    /// Tokens of every level that this machine has, lowest first.
    #[must_use]
    pub fn available() -> Vec<IsaToken> {
        Isa::available().into_iter().map(IsaToken).collect()
    }
}

impl PartialEq<Isa> for IsaToken {
    fn eq(&self, other: &Isa) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for IsaToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let has_avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let has_avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let has_bf16 = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bf16");
    match (has_avx2, has_avx512, has_bf16) {
        (true, true, true) => Isa::Avx512Bf16,
        (true, true, false) => Isa::Avx512,
        (true, false, _) => Isa::Avx2,
        _ => Isa::Portable,
    }
}

#[cfg(target_arch = "aarch64")]
fn detect() -> Isa {
    Isa::Neon
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> Isa {
    Isa::Portable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_exist_for_what_the_machine_has_and_nothing_else() {
        let all = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];
        for isa in all {
            assert_eq!(isa.token().is_some(), Isa::available().contains(&isa), "{isa}");
        }
        assert_eq!(Isa::Portable.token().map(IsaToken::level), Some(Isa::Portable));
        let foreign = if cfg!(target_arch = "x86_64") {
            Isa::Neon
        } else {
            Isa::Avx2
        };
        assert_eq!(foreign.token(), None);
    }
}
