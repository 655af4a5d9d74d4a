//! Where the rows of a matrix and their scales lie.

use std::ops::Range;

use half::{bf16, f16};

use super::{Coding, GLOBAL_SCALE, GROUP_SIZE, RUN, SCALE_TYPE, float8, power8, unpack};
use crate::backend::cpu::{Element, Isa, Launch, Output};
use crate::dtype::DType;
use crate::kernel::ConstantValue;

/// Weights whose scales are read at a time: whole groups of every format.
const STRETCH: usize = 256;
/// Scales of a stretch, at most.
const MAX_SPANS: usize = STRETCH / 16;

/// The end of a row that is no whole run, zeros behind it.
#[repr(C, align(16))]
pub(crate) struct Tail(pub [u8; RUN * size_of::<f32>()]);

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

/// Scales of rows, as they lie.
enum Scales<'a> {
    /// There are none.
    None,
    /// A scale and a bias for each group.
    Affine { scales: Floats<'a>, biases: Floats<'a> },
    /// A power of two for each group, halved where the codes are doubled.
    Powers { scales: &'a [u8], factor: f32 },
    /// An 8-bit float for each group, halved, and a further factor for each matrix.
    Floats8 {
        scales: &'a [u8],
        global: Option<&'a [f32]>,
        matrix_rows: usize,
    },
}

/// The rows of a matrix, or of a stack of them one after the other.
pub(crate) struct Source<'a> {
    codes: &'a [u8],
    /// Bytes of a row.
    row_bytes: usize,
    /// Weights that share a scale.
    span: usize,
    scales: Scales<'a>,
}

/// How the scales of a coding lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScaleKind {
    /// There are none; rows are aligned to this many bytes.
    None { align: usize },
    /// A scale and a bias of a floating-point dtype for each group.
    Affine,
    /// A power of two for each 32; `halved` since the codes are doubled.
    Powers { halved: bool },
    /// An 8-bit float for each 16, halved since the codes are doubled, and perhaps an f32 for each matrix.
    Floats8,
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

fn number(launch: &Launch<'_>, index: u32) -> Option<u32> {
    match launch.constant(index) {
        Some(ConstantValue::U32(value)) => Some(value),
        _ => {
            launch.fail(format!("function constant {index} is missing"));
            None
        }
    }
}

impl<'a> Source<'a> {
    /// The weight in arguments 1, 2 and 3 of a launch: `matrices` of `rows` rows of `columns` elements, the codes of rows
    /// `stride` bytes apart. `None`, and the launch fails, when its arguments are smaller than that.
    pub(crate) fn new<C: Coding>(
        launch: &Launch<'a>,
        rows: usize,
        columns: usize,
        matrices: usize,
        stride: usize,
    ) -> Option<Self> {
        let codes: &[u8] = launch.input(1);
        let (span, scales, scales_len) = match C::SCALES {
            ScaleKind::None { .. } => (RUN, Scales::None, usize::MAX),
            ScaleKind::Affine => {
                let dtype = dtype(launch, SCALE_TYPE)?;
                let (scales, biases) = (Floats::input(launch, 2, dtype), Floats::input(launch, 3, dtype));
                let len = scales.len().min(biases.len());
                (
                    number(launch, GROUP_SIZE)? as usize,
                    Scales::Affine { scales, biases },
                    len,
                )
            }
            ScaleKind::Powers { halved } => {
                let scales: &[u8] = launch.input(2);
                (
                    32,
                    Scales::Powers {
                        scales,
                        factor: if halved { 0.5 } else { 1.0 },
                    },
                    scales.len(),
                )
            }
            ScaleKind::Floats8 => {
                let scales: &[u8] = launch.input(2);
                let global = launch.flag(GLOBAL_SCALE).then(|| launch.input::<f32>(3));
                let len = if global.is_none_or(|g| g.len() >= matrices) {
                    scales.len()
                } else {
                    0
                };
                (
                    16,
                    Scales::Floats8 {
                        scales,
                        global,
                        matrix_rows: rows,
                    },
                    len,
                )
            }
        };
        let align = if let ScaleKind::None { align } = C::SCALES {
            align
        } else {
            1
        };
        let total = rows.checked_mul(matrices);
        let fits = span > 0
            && codes.as_ptr().addr().is_multiple_of(align)
            && total
                .and_then(|n| n.checked_mul(stride))
                .is_some_and(|bytes| bytes <= codes.len())
            && total
                .and_then(|n| n.checked_mul(columns / span.max(1)))
                .is_some_and(|n| n <= scales_len);
        if !fits {
            launch.fail(format!(
                "the weight is smaller than {matrices} times {rows} rows of {columns}, or not aligned"
            ));
            return None;
        }
        Some(Source {
            codes,
            row_bytes: stride,
            span,
            scales,
        })
    }

    /// Rows of `columns` numbers.
    pub(crate) fn dense(values: &'a [f32], columns: usize) -> Self {
        Source {
            codes: bytemuck::cast_slice(values),
            row_bytes: size_of::<f32>() * columns,
            span: RUN,
            scales: Scales::None,
        }
    }

    /// Weights that share a scale.
    pub(crate) fn span(&self) -> usize {
        self.span
    }

    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The codes of row `row`.
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        &self.codes[row * self.row_bytes..(row + 1) * self.row_bytes]
    }

    /// Writes the weights of row `row`, which has `columns`, from `first` on to `out`.
    pub(crate) fn unpack<C: Coding>(
        &self,
        isa: Isa,
        row: usize,
        columns: usize,
        first: usize,
        out: &mut [f32],
    ) {
        let codes = self.row(row);
        let run_bytes = self.row_bytes * RUN / columns;
        let (mut scales, mut biases) = ([0.0; MAX_SPANS], [0.0; MAX_SPANS]);
        let mut done = 0;
        while done < out.len() {
            let at = first + done;
            // From here to the end of a stretch of runs, or the part of a run that is wanted.
            let is_whole = at.is_multiple_of(RUN) && out.len() - done >= RUN;
            let stretch = STRETCH - at % STRETCH;
            let count = if is_whole {
                (out.len() - done).min(stretch) / RUN * RUN
            } else {
                (out.len() - done).min(RUN - at % RUN)
            };
            let start = at / RUN * RUN;
            let spans = start / self.span..(at + count).div_ceil(self.span);
            // A row may end within a run: the rest of the run has no scale.
            scales.fill(0.0);
            biases.fill(0.0);
            self.scales(row, columns, spans, &mut scales, &mut biases);
            let out = &mut out[done..done + count];
            let mut part = [0.0; RUN];
            // SAFETY: `isa` is a level of this machine by the launch; the row, or its tail, has these runs.
            unsafe {
                if is_whole {
                    unpack::<C>(isa, codes.as_ptr(), start / RUN, self.span, &scales, &biases, out);
                } else {
                    let mut tail = Tail([0; RUN * size_of::<f32>()]);
                    let rest = &codes[start / RUN * run_bytes..];
                    let rest = &rest[..rest.len().min(run_bytes)];
                    tail.0[..rest.len()].copy_from_slice(rest);
                    unpack::<C>(isa, tail.0.as_ptr(), 0, self.span, &scales, &biases, &mut part);
                    out.copy_from_slice(&part[at - start..at - start + count]);
                }
            }
            done += count;
        }
    }

    /// Scales and biases of `spans` of row `row`, which has `columns` elements.
    pub(crate) fn scales(
        &self,
        row: usize,
        columns: usize,
        spans: Range<usize>,
        scales: &mut [f32],
        biases: &mut [f32],
    ) {
        let at = row * (columns / self.span) + spans.start;
        let (scales, biases) = (&mut scales[..spans.len()], &mut biases[..spans.len()]);
        match &self.scales {
            Scales::None => {}
            Scales::Affine { scales: s, biases: b } => {
                s.widen(at, scales);
                b.widen(at, biases);
            }
            Scales::Powers { scales: s, factor } => {
                for (target, code) in scales.iter_mut().zip(&s[at..]) {
                    *target = power8(*code) * factor;
                }
                biases.fill(0.0);
            }
            Scales::Floats8 {
                scales: s,
                global,
                matrix_rows,
            } => {
                let factor = global.map_or(0.5, |g| 0.5 * g[row / matrix_rows] / NVFP4_FULL_SCALE);
                for (target, code) in scales.iter_mut().zip(&s[at..]) {
                    *target = float8(*code) * factor;
                }
                biases.fill(0.0);
            }
        }
    }
}

/// The greatest product of an e4m3 scale and an e2m1 code, 448 * 6: what a global scale is relative to.
const NVFP4_FULL_SCALE: f32 = 2688.0;
