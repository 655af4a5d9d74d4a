//! How packed weights become vectors on the CPU, for every operator that reads them.
//!
//! A row of a matrix is walked in runs of [`RUN`] weights. A [`Coding`] says what a run's bytes mean; [`Codes`] is what it
//! asks of the vectors of an instruction set; a [`Source`] knows where the rows of a matrix and their scales lie. A
//! format's scales become f32 first ([`Source::scales`]), so that the loops over weights are compiled once for each coding,
//! whatever the dtype of its scales.

mod floats;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod source;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use floats::{Floats, FloatsMut, dtype, float_code};
pub(crate) use source::{IntegerScales, ScaleKind, Source, Tail};

use crate::backend::cpu::simd::Lanes8;
#[cfg(target_arch = "aarch64")]
use crate::backend::cpu::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd::{Avx2, Avx512};
use std::ops::Range;

use crate::backend::cpu::simd::{Vector, Widen, vectorize};
use crate::isa::IsaToken;
use crate::quant::ggml::{Block, MAX_SPANS};

/// Function constant of every kernel that reads weights: the dtype of activations, by its code.
pub(crate) const X_TYPE: u32 = 0;
/// Elements of a group, of affine formats.
pub(crate) const GROUP_SIZE: u32 = 1;
/// The dtype of scales and biases, of affine formats, by its code.
pub(crate) const SCALE_TYPE: u32 = 2;
/// Whether there is a global scale, of nvfp4.
pub(crate) const GLOBAL_SCALE: u32 = 3;
/// Codes are at multiples of 8 bytes; kernels of the CPU do not ask.
pub(crate) const WIDE_CODES: u32 = 9;

/// Weights that are unpacked at a time.
pub(crate) const RUN: usize = 32;

/// Vectors that codes can be unpacked to.
///
/// # Safety
/// All functions: as [`Vector`]; pointers are valid for the bytes of [`RUN`] codes, at any alignment.
pub(crate) trait Codes: Vector {
    /// `RUN` values.
    type Run: Copy + AsRef<[Self]> + AsMut<[Self]>;
    /// The best way from 4-bit codes to weights.
    type Nibbles: Nibbles<Self>;
    /// Zeros.
    unsafe fn zeros() -> Self::Run;
    /// Codes of `BITS` bits, one little-endian stream.
    unsafe fn stream<const BITS: usize>(p: *const u8) -> Self::Run;
    /// Bytes as numbers.
    unsafe fn signed(bytes: &[i8; RUN]) -> Self::Run;
    /// `table[index]`, each index below 16.
    unsafe fn look_up(indices: &[u8; RUN], table: &[i8; 16]) -> Self::Run;
}

/// Weights of 4-bit codes that share a scale and a bias.
///
/// # Safety
/// As [`Codes`].
pub(crate) trait Nibbles<V: Codes>: Copy {
    unsafe fn new(scale: f32, bias: f32) -> Self;
    /// The weights, in an order of its own.
    unsafe fn weights(self, p: *const u8) -> V::Run;
    /// Puts `RUN` values into that order.
    #[inline(always)]
    unsafe fn arrange(values: V::Run) -> V::Run {
        values
    }
    /// Undoes `arrange`.
    #[inline(always)]
    unsafe fn restore(values: V::Run) -> V::Run {
        values
    }
}

/// Codes that are whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Integer {
    /// Of 4 bits, the low one of a byte first.
    Nibbles,
    /// Of 8 bits.
    Bytes,
    /// Places of 4 bits in [`FLOAT4_DOUBLED`].
    Floats4,
}

/// What the bytes of a row mean.
///
/// # Safety
/// As [`Codes`]: `row` points to a row that has run `run`.
pub(crate) trait Coding: 'static {
    /// How scales lie.
    const SCALES: ScaleKind;
    /// Whether products take weights from vectors, not from memory: faster, and more to compile.
    const DIRECT: bool = false;
    /// How codes are integers, where products may take them as such.
    const INTEGER: Option<Integer> = None;
    /// Weights that share a scale at least: 16, or [`RUN`].
    const SPAN: usize = RUN;
    /// A scale and a bias, ready for use.
    type Scaled<V: Codes>: Copy;
    unsafe fn scaled<V: Codes>(scale: f32, bias: f32) -> Self::Scaled<V>;
    /// The weights of a run; `scaled` is for its first and its second half.
    unsafe fn weights<V: Codes>(row: *const u8, run: usize, scaled: [Self::Scaled<V>; 2]) -> V::Run;
    /// Puts values into the order in which `weights` gives its own.
    #[inline(always)]
    unsafe fn arrange<V: Codes>(values: V::Run) -> V::Run {
        values
    }
    /// Undoes `arrange`.
    #[inline(always)]
    unsafe fn restore<V: Codes>(values: V::Run) -> V::Run {
        values
    }
}

/// `code * scale + bias`.
#[derive(Clone, Copy)]
pub(crate) struct Linear<V> {
    scale: V,
    bias: V,
}

impl<V: Codes> Linear<V> {
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub(crate) unsafe fn new(scale: f32, bias: f32) -> Self {
        // SAFETY: the caller's word.
        unsafe {
            Linear {
                scale: V::splat(scale),
                bias: V::splat(bias),
            }
        }
    }

    /// The weights of a run of codes, each half with its own scale.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub(crate) unsafe fn of_halves(halves: [Self; 2], mut codes: V::Run) -> V::Run {
        let values = codes.as_mut();
        let half = values.len() / 2;
        for (i, value) in values.iter_mut().enumerate() {
            let Linear { scale, bias } = halves[usize::from(i >= half)];
            // SAFETY: the caller's word.
            *value = unsafe { value.mul_add(scale, bias) };
        }
        codes
    }
}

/// Writes the two functions of [`Coding`] that most codings share.
macro_rules! linear_scale {
    () => {
        type Scaled<V: Codes> = Linear<V>;
        #[inline(always)]
        unsafe fn scaled<V: Codes>(scale: f32, bias: f32) -> Linear<V> {
            // SAFETY: the caller's word.
            unsafe { Linear::new(scale, bias) }
        }
    };
}

/// MLX's integer codes of `BITS` bits.
pub(crate) struct Unsigned<const BITS: usize>;

impl<const BITS: usize> Coding for Unsigned<BITS> {
    const DIRECT: bool = BITS == 8;
    const INTEGER: Option<Integer> = if BITS == 8 { Some(Integer::Bytes) } else { None };
    const SCALES: ScaleKind = ScaleKind::Affine;
    linear_scale!();

    #[inline(always)]
    unsafe fn weights<V: Codes>(row: *const u8, run: usize, scaled: [Linear<V>; 2]) -> V::Run {
        // SAFETY: the caller's word: a run is `RUN * BITS` bits.
        unsafe { Linear::of_halves(scaled, V::stream::<BITS>(row.add(run * RUN * BITS / 8))) }
    }
}

/// MLX's integer codes of 4 bits, for which processors have more than one way.
pub(crate) struct Four;

impl Coding for Four {
    const DIRECT: bool = true;
    const INTEGER: Option<Integer> = Some(Integer::Nibbles);
    const SCALES: ScaleKind = ScaleKind::Affine;
    type Scaled<V: Codes> = V::Nibbles;

    #[inline(always)]
    unsafe fn scaled<V: Codes>(scale: f32, bias: f32) -> V::Nibbles {
        // SAFETY: the caller's word.
        unsafe { V::Nibbles::new(scale, bias) }
    }

    #[inline(always)]
    unsafe fn weights<V: Codes>(row: *const u8, run: usize, [scaled, _]: [V::Nibbles; 2]) -> V::Run {
        // SAFETY: the caller's word; groups are whole runs, so both halves have one scale.
        unsafe { scaled.weights(row.add(run * RUN / 2)) }
    }

    #[inline(always)]
    unsafe fn arrange<V: Codes>(values: V::Run) -> V::Run {
        // SAFETY: the caller's word.
        unsafe { V::Nibbles::arrange(values) }
    }

    #[inline(always)]
    unsafe fn restore<V: Codes>(values: V::Run) -> V::Run {
        // SAFETY: the caller's word.
        unsafe { V::Nibbles::restore(values) }
    }
}

/// 4-bit floats (e2m1) with a scale for each `SPAN`, in MLX's order. The numbers of the table are twice the floats, so that
/// they are whole; [`Source`] halves the scales.
pub(crate) struct Float4<const SPAN: usize>;

/// Twice the values of e2m1.
pub(crate) const FLOAT4_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl<const SPAN: usize> Coding for Float4<SPAN> {
    const DIRECT: bool = SPAN == RUN;
    const INTEGER: Option<Integer> = if SPAN == RUN { Some(Integer::Floats4) } else { None };
    const SCALES: ScaleKind = if SPAN == 16 {
        ScaleKind::Floats8
    } else {
        ScaleKind::Powers { halved: true }
    };
    const SPAN: usize = SPAN;
    linear_scale!();

    #[inline(always)]
    unsafe fn weights<V: Codes>(row: *const u8, run: usize, scaled: [Linear<V>; 2]) -> V::Run {
        // SAFETY: the caller's word: a run is 16 bytes.
        unsafe {
            let bytes = row.add(run * RUN / 2).cast::<[u8; RUN / 2]>().read();
            let mut codes = [0; RUN];
            for (i, byte) in bytes.iter().enumerate() {
                codes[2 * i] = byte & 15;
                codes[2 * i + 1] = byte >> 4;
            }
            Linear::of_halves(scaled, V::look_up(&codes, &FLOAT4_DOUBLED))
        }
    }
}

/// 8-bit floats (e4m3).
pub(crate) struct Float8;

/// A block format of GGML.
pub(crate) struct Blocks<B>(std::marker::PhantomData<B>);

impl<B: Block> Coding for Blocks<B> {
    const SCALES: ScaleKind = ScaleKind::Blocks {
        span: B::SPAN,
        read: read_scales::<B>,
    };
    const SPAN: usize = B::SPAN;
    linear_scale!();

    #[inline(always)]
    unsafe fn weights<V: Codes>(row: *const u8, run: usize, scaled: [Linear<V>; 2]) -> V::Run {
        let runs = B::ELEMENTS / RUN;
        // SAFETY: the caller's word: the run's block is whole.
        unsafe {
            let block = std::slice::from_raw_parts(row.add(run / runs * B::BYTES), B::BYTES);
            let codes = B::codes(block, run % runs);
            Linear::of_halves(
                scaled,
                match B::TABLE {
                    Some(table) => V::look_up(&codes, table),
                    None => V::signed(&codes.map(|code| code as i8)),
                },
            )
        }
    }
}

/// Scales and biases of `spans` of a row of blocks.
fn read_scales<B: Block>(row: &[u8], spans: Range<usize>, scales: &mut [f32], biases: &mut [f32]) {
    let per_block = B::ELEMENTS / B::SPAN;
    let mut span = spans.start;
    while span < spans.end {
        let block = span / per_block;
        let end = spans.end.min((block + 1) * per_block);
        let (mut s, mut b) = ([0.0; MAX_SPANS], [0.0; MAX_SPANS]);
        B::scales(&row[block * B::BYTES..(block + 1) * B::BYTES], &mut s, &mut b);
        let (from, to) = (
            span % per_block..span % per_block + end - span,
            span - spans.start..end - spans.start,
        );
        scales[to.clone()].copy_from_slice(&s[from.clone()]);
        biases[to].copy_from_slice(&b[from]);
        span = end;
    }
}

/// The functions of a coding, for code that is compiled once for all.
#[derive(Clone, Copy)]
pub(crate) struct Functions {
    /// How scales lie.
    pub scales: ScaleKind,
    /// [`Coding::DIRECT`].
    pub direct: bool,
    /// [`unpack`].
    pub unpack: Unpack,
    /// [`arrange`].
    pub arrange: unsafe fn(IsaToken, &mut [f32]),
}

/// The type of [`unpack`].
type Unpack = unsafe fn(IsaToken, *const u8, usize, usize, &[f32], &[f32], &mut [f32]);

impl Functions {
    /// Those of `C`.
    pub(crate) const fn of<C: Coding>() -> Self {
        Functions {
            scales: C::SCALES,
            direct: C::DIRECT,
            unpack: unpack::<C>,
            arrange: arrange::<C>,
        }
    }
}

/// The value of an e4m3 float: by shifts, so that vectors can do it.
#[inline(always)]
pub(crate) fn float8(code: u8) -> f32 {
    let (magnitude, sign) = (u32::from(code & 127), u32::from(code & 128));
    // As f32 the exponent is 120 too small; subnormal floats become subnormal f32, which the product makes normal.
    let value = f32::from_bits(sign << 24 | magnitude << 20) * f32::from_bits((127 + 120) << 23);
    if magnitude == 127 { f32::NAN } else { value }
}

/// The value of an e8m0 scale: a power of two.
#[inline(always)]
pub(crate) fn power8(code: u8) -> f32 {
    // 2^-127 is a subnormal f32. 255 is NaN in the format's standard and infinity in MLX.
    f32::from_bits(if code == 0 { 1 << 22 } else { u32::from(code) << 23 })
}

impl Coding for Float8 {
    const SCALES: ScaleKind = ScaleKind::Powers { halved: false };
    linear_scale!();

    #[inline(always)]
    unsafe fn weights<V: Codes>(row: *const u8, run: usize, scaled: [Linear<V>; 2]) -> V::Run {
        // SAFETY: the caller's word: a run is 32 bytes.
        unsafe {
            let bytes = row.add(run * RUN).cast::<[u8; RUN]>().read();
            let values = bytes.map(float8);
            let mut run = V::zeros();
            for (vector, values) in run.as_mut().iter_mut().zip(values.chunks_exact(V::LANES)) {
                *vector = V::load(values.as_ptr());
            }
            Linear::of_halves(scaled, run)
        }
    }
}

impl<W: Widen> Coding for Dense<W> {
    const DIRECT: bool = true;
    const SCALES: ScaleKind = ScaleKind::None {
        align: size_of::<W>(),
    };
    type Scaled<V: Codes> = ();

    #[inline(always)]
    unsafe fn scaled<V: Codes>(_scale: f32, _bias: f32) {}

    #[inline(always)]
    unsafe fn weights<V: Codes>(row: *const u8, run: usize, _scaled: [(); 2]) -> V::Run {
        // SAFETY: the caller's word. `Source` checked that dense rows are aligned for their elements.
        unsafe {
            let p = row.cast::<W>().add(run * RUN);
            let mut run = V::zeros();
            for (i, vector) in run.as_mut().iter_mut().enumerate() {
                *vector = W::load(p.add(i * V::LANES));
            }
            run
        }
    }
}

/// Numbers as they are.
pub(crate) struct Dense<W>(std::marker::PhantomData<W>);

vectorize! {
    /// Writes whole runs of the row at `row`, from run `first` on, to `out`. `scales` and `biases` are those of spans of
    /// `span` weights, the first of which has run `first`.
    ///
    /// # Safety
    /// This machine has `isa`; the row has these runs.
    pub(crate) unsafe fn unpack<C: Coding>(row: *const u8, first: usize, span: usize, scales: &[f32], biases: &[f32], out: &mut [f32]) = unpack_body
}

#[inline(always)]
unsafe fn unpack_body<V: Codes, C: Coding>(
    row: *const u8,
    first: usize,
    span: usize,
    scales: &[f32],
    biases: &[f32],
    out: &mut [f32],
) {
    let phase = first % (span / RUN).max(1);
    for (i, out) in out.chunks_exact_mut(RUN).enumerate() {
        // SAFETY: the caller's word.
        unsafe {
            let scaled = run_scales::<V, C>(phase + i, span, scales, biases);
            let run = C::restore::<V>(C::weights::<V>(row, first + i, scaled));
            for (vector, out) in run.as_ref().iter().zip(out.chunks_exact_mut(V::LANES)) {
                vector.store(out.as_mut_ptr());
            }
        }
    }
}

/// The scales of both halves of run `run`, counted from the beginning of the first span of `scales`.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(crate) unsafe fn run_scales<V: Codes, C: Coding>(
    run: usize,
    span: usize,
    scales: &[f32],
    biases: &[f32],
) -> [C::Scaled<V>; 2] {
    let (a, b) = if C::SPAN < RUN {
        (2 * run, 2 * run + 1)
    } else {
        (run * RUN / span, run * RUN / span)
    };
    // SAFETY: the caller's word.
    unsafe {
        let first = C::scaled::<V>(scales[a], biases[a]);
        [
            first,
            if C::SPAN < RUN {
                C::scaled::<V>(scales[b], biases[b])
            } else {
                first
            },
        ]
    }
}

vectorize! {
    /// Puts whole runs of `values` into the order in which the weights of `C` come.
    ///
    /// # Safety
    /// This machine has `isa`.
    pub(crate) unsafe fn arrange<C: Coding>(values: &mut [f32]) = arrange_body
}

#[inline(always)]
unsafe fn arrange_body<V: Codes, C: Coding>(values: &mut [f32]) {
    for values in values.chunks_exact_mut(RUN) {
        // SAFETY: `RUN` values are whole vectors; the rest is the caller's word.
        unsafe {
            let mut run = V::zeros();
            for (vector, values) in run.as_mut().iter_mut().zip(values.chunks_exact(V::LANES)) {
                *vector = V::load(values.as_ptr());
            }
            for (vector, values) in C::arrange::<V>(run)
                .as_ref()
                .iter()
                .zip(values.chunks_exact_mut(V::LANES))
            {
                vector.store(values.as_mut_ptr());
            }
        }
    }
}

/// The codes of a run as bytes: plain Rust, for processors without a better way, and to read first.
///
/// # Safety
/// `p` is valid for a run of `BITS` bits each.
#[inline(always)]
pub(crate) unsafe fn stream_bytes<const BITS: usize>(p: *const u8) -> [u8; RUN] {
    let mut codes = [0; RUN];
    for (i, codes) in codes.chunks_exact_mut(8).enumerate() {
        // Eight codes are `BITS` bytes.
        let mut word = [0; 8];
        // SAFETY: the caller's word.
        unsafe { std::ptr::copy_nonoverlapping(p.add(i * BITS), word.as_mut_ptr(), BITS) };
        let word = u64::from_le_bytes(word);
        for (j, code) in codes.iter_mut().enumerate() {
            *code = (word >> (j * BITS)) as u8 & (0xFF >> (8 - BITS)) as u8;
        }
    }
    codes
}

/// The coding of each format, by the part that it has in kernel names.
macro_rules! with_codings {
    ($macro:ident!($($args:tt)*)) => {
        $macro! {
            [$($args)*]
            "f32" $crate::ops::coding::Dense<f32>,
            "f16" $crate::ops::coding::Dense<half::f16>,
            "bf16" $crate::ops::coding::Dense<half::bf16>,
            "affine1" $crate::ops::coding::Unsigned<1>,
            "affine2" $crate::ops::coding::Unsigned<2>,
            "affine3" $crate::ops::coding::Unsigned<3>,
            "affine4" $crate::ops::coding::Four,
            "affine5" $crate::ops::coding::Unsigned<5>,
            "affine6" $crate::ops::coding::Unsigned<6>,
            "affine8" $crate::ops::coding::Unsigned<8>,
            "mxfp4" $crate::ops::coding::Float4<32>,
            "mxfp8" $crate::ops::coding::Float8,
            "nvfp4" $crate::ops::coding::Float4<16>,
            "q4_0" $crate::ops::coding::Blocks<$crate::quant::ggml::Q4_0>,
            "q4_1" $crate::ops::coding::Blocks<$crate::quant::ggml::Q4_1>,
            "q5_0" $crate::ops::coding::Blocks<$crate::quant::ggml::Q5_0>,
            "q5_1" $crate::ops::coding::Blocks<$crate::quant::ggml::Q5_1>,
            "q8_0" $crate::ops::coding::Blocks<$crate::quant::ggml::Q8_0>,
            "q2_k" $crate::ops::coding::Blocks<$crate::quant::ggml::Q2K>,
            "q3_k" $crate::ops::coding::Blocks<$crate::quant::ggml::Q3K>,
            "q4_k" $crate::ops::coding::Blocks<$crate::quant::ggml::Q4K>,
            "q5_k" $crate::ops::coding::Blocks<$crate::quant::ggml::Q5K>,
            "q6_k" $crate::ops::coding::Blocks<$crate::quant::ggml::Q6K>,
            "iq4_nl" $crate::ops::coding::Blocks<$crate::quant::ggml::Iq4Nl>,
            "iq4_xs" $crate::ops::coding::Blocks<$crate::quant::ggml::Iq4Xs>,
            "ggml_mxfp4" $crate::ops::coding::Blocks<$crate::quant::ggml::Mxfp4>,
        }
    };
}
pub(crate) use with_codings;

#[cfg(test)]
mod tests;
