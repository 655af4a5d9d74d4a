//! Where the rows of a matrix and their scales lie.

use std::ops::Range;

use super::floats::number;
use super::{
    Dense, Floats, Functions, GLOBAL_SCALE, GROUP_SIZE, RUN, SCALE_TYPE, Unpack, dtype, float8, power8,
    unpack,
};
use crate::backend::cpu::{IsaToken, Launch};
use crate::dtype::DType;

/// Weights whose scales are read at a time: whole groups of every format.
const STRETCH: usize = 256;
/// Scales of a stretch, at most.
const MAX_SPANS: usize = STRETCH / 16;

/// The end of a row that is no whole run, zeros behind it.
#[repr(C, align(16))]
pub(crate) struct Tail(pub [u8; RUN * size_of::<f32>()]);

/// How the scales of a coding lie.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ScaleKind {
    /// There are none; rows are aligned to this many bytes.
    None { align: usize },
    /// A scale and a bias of a floating-point dtype for each group.
    Affine,
    /// A power of two for each 32; `halved` since the codes are doubled.
    Powers { halved: bool },
    /// An 8-bit float for each 16, halved since the codes are doubled, and perhaps an f32 for each matrix.
    Floats8,
    /// Among the codes, one for each `span`.
    Blocks { span: usize, read: ReadScales },
}

/// Writes scales and biases of a range of spans of a row.
pub(crate) type ReadScales = fn(&[u8], Range<usize>, &mut [f32], &mut [f32]);

/// Scales of rows, as they lie.
enum Scales<'a> {
    None,
    /// One everywhere: weights are the codes.
    Ones,
    Affine {
        scales: Floats<'a>,
        biases: Floats<'a>,
    },
    Powers {
        scales: &'a [u8],
        factor: f32,
    },
    Floats8 {
        scales: &'a [u8],
        global: Option<&'a [f32]>,
        matrix_rows: usize,
    },
    Blocks(ReadScales),
}

/// Scales as bytes, for code that knows their dtype.
pub(crate) enum IntegerScales<'a> {
    /// Those of every group, and biases; the dtype counted as f32, f16, bf16.
    Affine {
        dtype: usize,
        scales: &'a [u8],
        biases: &'a [u8],
    },
    /// Powers of two, for codes that are doubled.
    Powers(&'a [u8]),
    /// Of kinds that products of integers do not know.
    Others,
}

/// The rows of a matrix, or of a stack of them one after the other.
pub(crate) struct Source<'a> {
    codes: &'a [u8],
    /// Bytes of a row.
    row_bytes: usize,
    /// Weights that share a scale.
    span: usize,
    scales: Scales<'a>,
    unpack: Unpack,
}

impl<'a> Source<'a> {
    /// The weight in arguments 1, 2 and 3 of a launch: `matrices` of `rows` rows of `columns` elements, the codes of rows
    /// `stride` bytes apart. `None`, and the launch fails, when its arguments are smaller than that.
    pub(crate) fn new(
        launch: &Launch<'a>,
        functions: &Functions,
        rows: usize,
        columns: usize,
        matrices: usize,
        stride: usize,
    ) -> Option<Self> {
        let codes: &[u8] = launch.input(1);
        let align = if let ScaleKind::None { align } = functions.scales {
            align
        } else {
            1
        };
        let (span, scales, scales_len) = read_scales(launch, functions.scales, rows, matrices)?;
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
            unpack: functions.unpack,
        })
    }

    /// Rows of blocks, `row_bytes` apart, whose scales are among the codes; `None` for a coding that is none of these.
    pub(crate) fn blocks(codes: &'a [u8], row_bytes: usize, functions: &Functions) -> Option<Self> {
        let ScaleKind::Blocks { span, read } = functions.scales else {
            return None;
        };
        Some(Source {
            codes,
            row_bytes,
            span,
            scales: Scales::Blocks(read),
            unpack: functions.unpack,
        })
    }

    /// Rows of `columns` numbers.
    pub(crate) fn dense(values: &'a [f32], columns: usize) -> Self {
        Source {
            codes: bytemuck::cast_slice(values),
            row_bytes: size_of::<f32>() * columns,
            span: RUN,
            scales: Scales::None,
            unpack: unpack::<Dense<f32>>,
        }
    }

    /// The scales as they lie.
    pub(crate) fn integer_scales(&self) -> IntegerScales<'a> {
        match self.scales {
            Scales::Affine { scales, biases } => {
                let (dtype, scales) = scales.bytes();
                let (_, biases) = biases.bytes();
                IntegerScales::Affine {
                    dtype,
                    scales,
                    biases,
                }
            }
            Scales::Powers { scales, .. } => IntegerScales::Powers(scales),
            _ => IntegerScales::Others,
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
    pub(crate) fn unpack(&self, isa: IsaToken, row: usize, columns: usize, first: usize, out: &mut [f32]) {
        let mut done = 0;
        while done < out.len() {
            let at = first + done;
            // From here to the end of a stretch of runs, or the part of a run that is wanted.
            let is_whole = at.is_multiple_of(RUN) && out.len() - done >= RUN;
            let count = if is_whole {
                (out.len() - done).min(STRETCH - at % STRETCH) / RUN * RUN
            } else {
                (out.len() - done).min(RUN - at % RUN)
            };
            let out = &mut out[done..done + count];
            if is_whole {
                self.unpack_runs(isa, row, columns, at, out);
            } else {
                let mut run = [0.0; RUN];
                self.unpack_runs(isa, row, columns, at / RUN * RUN, &mut run);
                out.copy_from_slice(&run[at % RUN..at % RUN + count]);
            }
            done += count;
        }
    }

    /// As [`unpack`](Self::unpack) for an output of `dtype`. Where that is the dtype of the scales, affine codes are dequantised to
    /// the bit as by MLX's CPU: the product is rounded to it before the bias is added.
    pub(crate) fn dequantize(
        &self,
        isa: IsaToken,
        dtype: DType,
        row: usize,
        columns: usize,
        first: usize,
        out: &mut [f32],
    ) {
        let (scales, biases) = match self.scales {
            Scales::Affine { scales, biases } if scales.dtype() == dtype && dtype != DType::F32 => {
                (scales, biases)
            }
            _ => return self.unpack(isa, row, columns, first, out),
        };
        let codes = Source {
            scales: Scales::Ones,
            ..*self
        };
        codes.unpack(isa, row, columns, first, out);
        let of_row = row * (columns / self.span);
        let mut done = 0;
        while done < out.len() {
            let span = (first + done) / self.span;
            let count = ((span + 1) * self.span - first - done).min(out.len() - done);
            let (mut scale, mut bias) = ([0.0], [0.0]);
            scales.widen(of_row + span, &mut scale);
            biases.widen(of_row + span, &mut bias);
            for value in &mut out[done..done + count] {
                *value = scales.rounded(*value * scale[0]) + bias[0];
            }
            done += count;
        }
    }

    /// Writes whole runs of a row from element `start` on, all of one stretch, to `out`; of the last run of a row, what is
    /// beyond the row is anything.
    fn unpack_runs(&self, isa: IsaToken, row: usize, columns: usize, start: usize, out: &mut [f32]) {
        let codes = self.row(row);
        // A row may end within a run: the rest of the run has no scale.
        let (mut scales, mut biases) = ([0.0; MAX_SPANS], [0.0; MAX_SPANS]);
        let end = columns.min(start + out.len());
        self.scales(
            row,
            columns,
            start / self.span..end.div_ceil(self.span),
            &mut scales,
            &mut biases,
        );
        // SAFETY: `isa` is a level of this machine by the launch; the row, or its tail, has these runs.
        unsafe {
            if end - start == out.len() {
                (self.unpack)(isa, codes.as_ptr(), start / RUN, self.span, &scales, &biases, out);
            } else {
                let rest = &codes[start / RUN * (self.row_bytes * RUN / columns)..];
                let mut tail = Tail([0; RUN * size_of::<f32>()]);
                tail.0[..rest.len()].copy_from_slice(rest);
                (self.unpack)(isa, tail.0.as_ptr(), 0, self.span, &scales, &biases, out);
            }
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
            Scales::Ones => {
                scales.fill(1.0);
                biases.fill(0.0);
            }
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
            Scales::Blocks(read) => read(self.row(row), spans, scales, biases),
        }
    }
}

/// Weights that share a scale, the scales of a launch's weight, and how many there are.
fn read_scales<'a>(
    launch: &Launch<'a>,
    kind: ScaleKind,
    rows: usize,
    matrices: usize,
) -> Option<(usize, Scales<'a>, usize)> {
    Some(match kind {
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
            let factor = if halved { 0.5 } else { 1.0 };
            (32, Scales::Powers { scales, factor }, scales.len())
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
        ScaleKind::Blocks { span, read } => (span, Scales::Blocks(read), usize::MAX),
    })
}

/// The greatest product of an e4m3 scale and an e2m1 code, 448 * 6: what a global scale is relative to.
const NVFP4_FULL_SCALE: f32 = 2688.0;
