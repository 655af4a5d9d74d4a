//! Products whose codes stay integers: of packed weights by rows of `x` in bf16.
//!
//! A *span* is the weights that share a scale: 32, 64 or 128. Per span, `x` becomes 16-bit integers and a power of two
//! ([`Activations`]); nearly every bf16 is represented without an error. Then
//!
//! ```text
//! total = 0
//! for each span, in ascending order
//!     sum   = Σ code * integer of x                                 i32, exact, so in any order
//!     rest  = middle code * what rounding took from the integers    near 0
//!     total = total + fma(sum + rest, scale * power, bias * (Σ x))  f32, each operation rounded
//! ```
//!
//! This is the definition, for every instruction set, any number of threads, rows alone ([`few`]) and in company
//! ([`tiles`]): the bits of a row of results depend on its row of `x` and the weight, and on nothing else. Rows with a NaN or
//! an infinity, and activations in f32 or f16, take the way of `dots` and `panels`, in f32.

mod activations;
mod few;
mod level;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use activations::Activations as TileRows;
pub(super) use few::{Few, FewScratch};
pub(super) use tiles::{ROW_CHUNK, Scratch as TilesScratch, Tiles};

use activations::Activations;
use level::{Integers, on_level};

use super::dots::{CLAIM, MAX_ROWS};
use crate::isa::{Isa, IsaToken};
use crate::ops::coding::{self, Coding, FLOAT4_DOUBLED, Floats, RUN, Source, power8};

/// How the codes of a run become integers.
///
/// # Safety
/// `p` is valid for `BYTES` bytes; the processor has the instructions of `V`.
trait Words {
    /// Bytes of a run.
    const BYTES: usize;
    /// Whether they are those of [`Integers::split`].
    const NIBBLES: bool = false;
    /// Whether there are biases beside the scales, of the same type.
    const BIASED: bool = true;
    unsafe fn codes<V: Integers>(p: *const u8) -> V::Codes;
    /// Eight scales or biases; `p` is valid for them.
    #[inline(always)]
    unsafe fn eight<V: Integers>(scale_type: ScaleType, p: *const u8) -> V::Eight {
        // SAFETY: the caller's word. The branch is the same for a whole product: a generic function for each type would be
        // three times the code, and no faster.
        unsafe {
            match scale_type {
                ScaleType::F32 => V::load_f32(p.cast()),
                ScaleType::F16 => V::load_f16(p.cast()),
                _ => V::load_bf16(p.cast()),
            }
        }
    }
}

/// MLX's codes of 4 bits.
struct Nibbles;
/// MLX's codes of 8 bits.
struct Bytes;
/// 4-bit floats, doubled.
struct Floats4;

impl Words for Nibbles {
    const BYTES: usize = RUN / 2;
    const NIBBLES: bool = true;
    #[inline(always)]
    unsafe fn codes<V: Integers>(p: *const u8) -> V::Codes {
        // SAFETY: the caller's word.
        unsafe { V::nibbles(p) }
    }
}

impl Words for Bytes {
    const BYTES: usize = RUN;
    #[inline(always)]
    unsafe fn codes<V: Integers>(p: *const u8) -> V::Codes {
        // SAFETY: the caller's word.
        unsafe { V::bytes(p) }
    }
}

impl Words for Floats4 {
    const BYTES: usize = RUN / 2;
    const BIASED: bool = false;
    #[inline(always)]
    unsafe fn codes<V: Integers>(p: *const u8) -> V::Codes {
        // SAFETY: the caller's word.
        unsafe { V::looked_up(p, &FLOAT4_DOUBLED) }
    }
    #[inline(always)]
    unsafe fn eight<V: Integers>(_: ScaleType, p: *const u8) -> V::Eight {
        // SAFETY: the caller's word. Half of them, as the codes are doubled.
        unsafe {
            let codes = p.cast::<[u8; 8]>().read();
            V::load_f32(codes.map(|code| power8(code) * 0.5).as_ptr())
        }
    }
}

/// What scales are.
#[derive(Clone, Copy)]
enum ScaleType {
    F32,
    F16,
    Bf16,
    /// Powers of two, without biases.
    Power,
}

impl ScaleType {
    fn bytes(self) -> usize {
        match self {
            ScaleType::F32 => 4,
            ScaleType::F16 | ScaleType::Bf16 => 2,
            ScaleType::Power => 1,
        }
    }
}

/// The functions of a format that can be multiplied this way.
pub(super) struct Integer {
    /// The code in the middle.
    pub middle: f32,
    few: few::Functions,
    unpack: tiles::Unpack,
}

impl Integer {
    /// Those of a coding; `None` for one that has none.
    pub(super) const fn of<C: Coding>() -> Option<Self> {
        match C::INTEGER {
            None => None,
            Some(coding::Integer::Nibbles) => Some(Self::words::<Nibbles>(7.5)),
            Some(coding::Integer::Bytes) => Some(Self::words::<Bytes>(127.5)),
            Some(coding::Integer::Floats4) => Some(Self::words::<Floats4>(0.0)),
        }
    }

    const fn words<C: Words>(middle: f32) -> Self {
        Integer { middle, few: few::functions::<C>(), unpack: tiles::unpack::<C> }
    }
}

/// Whether a product with `source` can be done this way for `x` as it is.
pub(super) fn applies(x: &Floats<'_>, source: &Source<'_>) -> bool {
    matches!(x, Floats::Bf16(_)) && matches!(source.span(), 32 | 64 | 128)
}

/// Whether tiles of integers are as fast as those of f32 on this level: without a product of pairs they are not.
pub(super) fn has_tiles(isa: IsaToken) -> bool {
    isa != Isa::Neon
}
