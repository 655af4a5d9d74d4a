//! Floating-point numbers of a dtype that is known at run time.

use half::{bf16, f16};

use crate::backend::cpu::{Element, Launch, Output};
use crate::dtype::DType;
use crate::kernel::ConstantValue;

/// Floating-point numbers of a dtype that is known at run time.
#[derive(Clone, Copy)]
pub(crate) enum Floats<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl<'a> Floats<'a> {
    /// Argument `index` of a launch.
    pub(crate) fn input(launch: &Launch<'a>, index: u32, dtype: DType) -> Self {
        match dtype {
            DType::F16 => Floats::F16(launch.input(index)),
            DType::BF16 => Floats::Bf16(launch.input(index)),
            _ => Floats::F32(launch.input(index)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Floats::F32(values) => values.len(),
            Floats::F16(values) => values.len(),
            Floats::Bf16(values) => values.len(),
        }
    }

    pub(crate) fn dtype(&self) -> DType {
        match self {
            Floats::F32(_) => DType::F32,
            Floats::F16(_) => DType::F16,
            Floats::Bf16(_) => DType::BF16,
        }
    }

    /// The dtype, counted as f32, f16, bf16, and the numbers as bytes.
    pub(crate) fn bytes(&self) -> (usize, &'a [u8]) {
        match self {
            Floats::F32(values) => (0, bytemuck::cast_slice(values)),
            Floats::F16(values) => (1, bytemuck::cast_slice(values)),
            Floats::Bf16(values) => (2, bytemuck::cast_slice(values)),
        }
    }

    /// Whether none of `len` numbers from `first` on is a NaN or an infinity.
    pub(crate) fn are_finite(&self, first: usize, len: usize) -> bool {
        // All bits of the exponent, as plain loops that the compiler makes vectors of.
        fn all(halves: &[u16], exponent: u16) -> bool {
            halves
                .iter()
                .fold(true, |finite, v| finite & (v & exponent != exponent))
        }
        let range = first..first + len;
        match self {
            Floats::F32(values) => values[range]
                .iter()
                .fold(true, |finite, v| finite & v.is_finite()),
            Floats::F16(values) => all(bytemuck::cast_slice(&values[range]), 0x7C00),
            Floats::Bf16(values) => all(bytemuck::cast_slice(&values[range]), 0x7F80),
        }
    }

    /// A number, rounded to the dtype.
    pub(crate) fn rounded(&self, value: f32) -> f32 {
        match self {
            Floats::F32(_) => value,
            Floats::F16(_) => f16::from_f32(value).to_f32(),
            Floats::Bf16(_) => bf16::from_f32(value).to_f32(),
        }
    }

    /// The numbers from `first` on, as many as `target` holds.
    pub(crate) fn widen(&self, first: usize, target: &mut [f32]) {
        let range = first..first + target.len();
        match self {
            Floats::F32(values) => f32::widen(&values[range], target),
            Floats::F16(values) => f16::widen(&values[range], target),
            Floats::Bf16(values) => bf16::widen(&values[range], target),
        }
    }
}

/// An output of a dtype that is known at run time.
#[derive(Clone, Copy)]
pub(crate) enum FloatsMut<'a> {
    F32(Output<'a, f32>),
    F16(Output<'a, f16>),
    Bf16(Output<'a, bf16>),
}

impl<'a> FloatsMut<'a> {
    /// Argument `index` of a launch.
    pub(crate) fn output(launch: &Launch<'a>, index: u32, dtype: DType) -> Self {
        match dtype {
            DType::F16 => FloatsMut::F16(launch.output(index)),
            DType::BF16 => FloatsMut::Bf16(launch.output(index)),
            _ => FloatsMut::F32(launch.output(index)),
        }
    }

    /// Writes `values`, rounded, from element `first` on.
    ///
    /// # Safety
    /// As [`Output::store`].
    pub(crate) unsafe fn store(&self, first: usize, values: &[f32]) {
        // SAFETY: the caller's word.
        unsafe {
            match self {
                FloatsMut::F32(output) => output.store(first, values),
                FloatsMut::F16(output) => output.store(first, values),
                FloatsMut::Bf16(output) => output.store(first, values),
            }
        }
    }
}

/// The dtype that function constant `index` says, as the Metal text counts them; fails the launch where it does not.
pub(crate) fn dtype(launch: &Launch<'_>, index: u32) -> Option<DType> {
    let code = number(launch, index)?;
    let known = FLOAT_CODES
        .iter()
        .position(|c| *c == code)
        .map(|i| [DType::F32, DType::F16, DType::BF16][i]);
    if known.is_none() {
        launch.fail(format!("function constant {index} is {code}, no dtype"));
    }
    known
}

/// The codes of f32, f16 and bf16 in function constants.
const FLOAT_CODES: [u32; 3] = [0, 1, 2];

/// The code of a floating-point dtype in function constants.
pub(crate) fn float_code(dtype: DType) -> u32 {
    match dtype {
        DType::F16 => FLOAT_CODES[1],
        DType::BF16 => FLOAT_CODES[2],
        _ => FLOAT_CODES[0],
    }
}

/// The number that function constant `index` says; fails the launch where there is none.
pub(super) fn number(launch: &Launch<'_>, index: u32) -> Option<u32> {
    match launch.constant(index) {
        Some(ConstantValue::U32(value)) => Some(value),
        _ => {
            launch.fail(format!("function constant {index} is missing"));
            None
        }
    }
}
