//! One text, compiled for every instruction set: loops that the compiler turns into vectors by itself.

#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;
use crate::isa::IsaToken;

/// A piece of work to be compiled once for each [`Isa`]. Mark `run` `#[inline(always)]`, and all that it calls in its
/// loops: only what is inlined gets the wider instructions. Products and sums are never fused by the compiler, so that
/// every level gives the same bits.
pub(crate) trait Vectorised {
    /// What it gives.
    type Output;
    /// Does the work.
    fn run(self) -> Self::Output;
}

impl IsaToken {
    /// Runs `work`, compiled for this instruction set.
    pub(crate) fn run<W: Vectorised>(self, work: W) -> W::Output {
        match self.level() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: there is a token only where the instructions exist.
            Isa::Avx2 => unsafe { avx2(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 | Isa::Avx512Bf16 => unsafe { avx512(work) },
            // NEON is in the baseline of its architecture.
            _ => work.run(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<W: Vectorised>(work: W) -> W::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn avx512<W: Vectorised>(work: W) -> W::Output {
    work.run()
}
