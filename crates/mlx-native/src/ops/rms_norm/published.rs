//! The published 0.1 functions of the module `rms_norm`: they adapt [`rms_norm_with`].
//!
//! In 0.1 the kernels took their sizes from `params_buf`, f32 `[eps, dim]`. Here the sizes are those of the call; `eps` is read
//! from the buffer when the work runs, so that it may be filled until the commit.

use super::{RmsNormOptions, RmsNormParams, rms_norm_with};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::published::{counted, float, handle, nonzero, operand, product};

/// What a call binds, by its published names.
struct Norm<'a> {
    op: &'static str,
    dtype: DType,
    input: &'a MlxBuffer,
    /// The weight, and its dtype.
    weight: Option<(&'a MlxBuffer, DType)>,
    scale_weight: Option<&'a MlxBuffer>,
    output: &'a MlxBuffer,
    params_buf: &'a MlxBuffer,
    rows: u32,
    dim: u32,
    /// Whether 0.1 asks for the shape of `output` too.
    counts_output: bool,
}

impl Norm<'_> {
    fn record(
        self,
        encoder: &mut CommandEncoder,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
    ) -> Result<()> {
        let (op, dim) = (self.op, self.dim as usize);
        nonzero(op, &[("rows", self.rows as usize), ("dim", dim)])?;
        let len = product(op, "input", &[self.rows as usize, dim])?;
        let x = counted(op, "input", self.input, self.dtype, len)?;
        let take = if self.counts_output { counted } else { operand };
        let output = take(op, "output", self.output, self.dtype, len)?;
        let weight = self.weight.map(|(w, dtype)| operand(op, "weight", w, dtype, dim)).transpose()?;
        let factor =
            self.scale_weight.map(|s| operand(op, "scale_weight", s, self.dtype, len)).transpose()?;
        let eps = operand(op, "params_buf", self.params_buf, DType::F32, 1)?;
        let options = RmsNormOptions {
            weight: weight.as_ref(),
            factor: factor.as_ref(),
            eps: Some(&eps),
            normed: None,
            rounds_once: true,
        };
        let params = RmsNormParams { rows: self.rows, dim: self.dim, eps: 0.0 };
        rms_norm_with(encoder, registry, &handle(device), &x, &options, &output, &params)
    }
}

/// Records `output = input / √(mean(input²) + eps) · weight` for `rows` rows of `dim` elements, in the dtype of `input`: f32, f16
/// or bf16, computed in f32 and rounded once. The weight is bf16 for bf16, f32 for f32 *and* for f16.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, another dtype, an
/// `input` or `output` whose shape has another number of elements, buffers of too few bytes, or an `output` that overlaps another
/// operand without being `input`.
pub fn dispatch_rms_norm(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    weight: &MlxBuffer,
    output: &MlxBuffer,
    params_buf: &MlxBuffer,
    rows: u32,
    dim: u32,
) -> Result<()> {
    const OP: &str = "rms_norm";
    let dtype = float(OP, input.dtype())?;
    let weight = Some((weight, if dtype == DType::BF16 { DType::BF16 } else { DType::F32 }));
    let norm = Norm {
        op: OP,
        dtype,
        input,
        weight,
        scale_weight: None,
        output,
        params_buf,
        rows,
        dim,
        counts_output: true,
    };
    norm.record(encoder, registry, device)
}

/// Records `output = input / √(mean(input²) + eps)` in bf16.
///
/// # Errors
/// As [`dispatch_rms_norm`].
pub fn dispatch_rms_norm_no_scale_bf16(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    params_buf: &MlxBuffer,
    rows: u32,
    dim: u32,
) -> Result<()> {
    no_scale("rms_norm_no_scale_bf16", DType::BF16, encoder, registry, device, [input, output, params_buf], rows, dim)
}

/// Records `output = input / √(mean(input²) + eps)` in f32.
///
/// # Errors
/// As [`dispatch_rms_norm`].
pub fn dispatch_rms_norm_no_scale_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    params_buf: &MlxBuffer,
    rows: u32,
    dim: u32,
) -> Result<()> {
    no_scale("rms_norm_no_scale_f32", DType::F32, encoder, registry, device, [input, output, params_buf], rows, dim)
}

fn no_scale(
    op: &'static str,
    dtype: DType,
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    [input, output, params_buf]: [&MlxBuffer; 3],
    rows: u32,
    dim: u32,
) -> Result<()> {
    let norm = Norm {
        op,
        dtype,
        input,
        weight: None,
        scale_weight: None,
        output,
        params_buf,
        rows,
        dim,
        counts_output: true,
    };
    norm.record(encoder, registry, device)
}

/// Records `output = input / √(mean(input²) + eps) · norm_weight · scale_weight` in the dtype of `input`, computed in f32 and
/// rounded once; `scale_weight` is `[rows, dim]`. The norm weight is bf16 for bf16, f32 for f32 and for f16.
///
/// # Errors
/// As [`dispatch_rms_norm`]; the shape of `output` does not matter.
pub fn dispatch_rms_norm_mul(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    norm_weight: &MlxBuffer,
    scale_weight: &MlxBuffer,
    output: &MlxBuffer,
    params_buf: &MlxBuffer,
    rows: u32,
    dim: u32,
) -> Result<()> {
    const OP: &str = "rms_norm_mul";
    let dtype = float(OP, input.dtype())?;
    let weight_dtype = if dtype == DType::BF16 { DType::BF16 } else { DType::F32 };
    let norm = Norm {
        op: OP,
        dtype,
        input,
        weight: Some((norm_weight, weight_dtype)),
        scale_weight: Some(scale_weight),
        output,
        params_buf,
        rows,
        dim,
        counts_output: false,
    };
    norm.record(encoder, registry, device)
}
