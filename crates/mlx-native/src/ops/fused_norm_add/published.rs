//! The published 0.1 functions of the module `fused_norm_add`: they adapt [`fused_norm`] and
//! [`moe_route`](crate::ops::moe_gate::moe_route).

use super::{FusedNormOperands, FusedNormParams, Residual, fused_norm};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::moe_gate::{RouteParams, moe_route};
use crate::ops::published::{counted, handle, nonzero, operand, product};

/// What a call binds, by its published names.
pub(crate) struct Fused<'a> {
    pub op: &'static str,
    pub dtype: DType,
    pub residual: (&'a MlxBuffer, Residual),
    pub input: &'a MlxBuffer,
    pub weight: Option<&'a MlxBuffer>,
    pub output: (&'static str, &'a MlxBuffer),
    pub sum_output: Option<&'a MlxBuffer>,
    /// The factor, and whether it is a vector.
    pub scalar: Option<(&'a MlxBuffer, bool)>,
    pub rows: u32,
    pub dim: u32,
    pub eps: f32,
    /// Whether shapes must have exactly the elements that the call speaks of, as bf16 functions of 0.1 ask.
    pub is_counted: bool,
}

impl<'a> Fused<'a> {
    /// A call that binds no more than every one does.
    pub(crate) fn new(
        op: &'static str,
        dtype: DType,
        (residual, place): (&'a MlxBuffer, Residual),
        input: &'a MlxBuffer,
        output: (&'static str, &'a MlxBuffer),
        (rows, dim, eps): (u32, u32, f32),
    ) -> Self {
        Fused {
            op,
            dtype,
            residual: (residual, place),
            input,
            weight: None,
            output,
            sum_output: None,
            scalar: None,
            rows,
            dim,
            eps,
            is_counted: dtype == DType::BF16,
        }
    }

    pub(crate) fn record(
        self,
        encoder: &mut CommandEncoder,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
    ) -> Result<()> {
        let (op, dim) = (self.op, self.dim as usize);
        nonzero(op, &[("rows", self.rows as usize), ("dim", dim)])?;
        let len = product(op, "input", &[self.rows as usize, dim])?;
        let take = if self.is_counted { counted } else { operand };
        let residual = take(op, "residual", self.residual.0, self.dtype, len)?;
        let x = take(op, "input", self.input, self.dtype, len)?;
        // 0.1 asks for the weight's shape in `fused_norm_add_bf16` alone; its bytes count everywhere.
        let weight = self.weight.map(|b| operand(op, "weight", b, self.dtype, dim)).transpose()?;
        let output = take(op, self.output.0, self.output.1, self.dtype, len)?;
        let sum = self.sum_output.map(|b| take(op, "sum_output", b, self.dtype, len)).transpose()?;
        let is_vector = self.scalar.is_some_and(|s| s.1);
        let scalars = if is_vector { dim } else { 1 };
        let scalar = self.scalar.map(|s| operand(op, "scalar", s.0, self.dtype, scalars)).transpose()?;
        let operands = FusedNormOperands {
            weight: weight.as_ref(),
            scalar: scalar.as_ref(),
            scalar_is_vector: is_vector,
            output: &output,
            sum: sum.as_ref(),
        };
        let params =
            FusedNormParams { rows: self.rows, dim: self.dim, eps: self.eps, residual: self.residual.1 };
        fused_norm(encoder, registry, &handle(device), &residual, &x, &operands, &params)
    }
}

/// Records `output = residual + rms(input)·weight` in bf16, computed in f32 and rounded once.
///
/// `residual`, `input` and `output` are `[rows, dim]`, `weight` is `[dim]`. Mind the order: `dim`, then `rows`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, shapes of another
/// number of elements, buffers of too few bytes, or buffers that overlap without being the same.
pub fn dispatch_fused_norm_add_bf16(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    residual: &MlxBuffer,
    input: &MlxBuffer,
    weight: &MlxBuffer,
    output: &MlxBuffer,
    dim: u32,
    rows: u32,
    eps: f32,
) -> Result<()> {
    const OP: &str = "fused_norm_add_bf16";
    nonzero(OP, &[("rows", rows as usize), ("dim", dim as usize)])?;
    let weight = counted(OP, "weight", weight, DType::BF16, dim as usize)?;
    Fused { weight: Some(&weight), ..Fused::new(OP, DType::BF16, (residual, Residual::Behind), input, ("output", output), (rows, dim, eps)) }
    .record(encoder, registry, device)
}

/// [`dispatch_fused_norm_add_bf16`] without a weight.
///
/// # Errors
/// As [`dispatch_fused_norm_add_bf16`].
pub fn dispatch_fused_norm_add_no_weight_bf16(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    residual: &MlxBuffer,
    input: &MlxBuffer,
    output: &MlxBuffer,
    dim: u32,
    rows: u32,
    eps: f32,
) -> Result<()> {
    Fused::new("fused_norm_add_no_weight_bf16", DType::BF16, (residual, Residual::Behind), input, ("output", output), (rows, dim, eps))
    .record(encoder, registry, device)
}

/// Records `output = residual + rms(input)·weight` in f32. Mind the order: `dim`, then `rows`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, buffers of too few
/// bytes, or buffers that overlap without being the same.
pub fn dispatch_fused_norm_add_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    residual: &MlxBuffer,
    input: &MlxBuffer,
    weight: &MlxBuffer,
    output: &MlxBuffer,
    dim: u32,
    rows: u32,
    eps: f32,
) -> Result<()> {
    Fused { weight: Some(weight), ..Fused::new("fused_norm_add_f32", DType::F32, (residual, Residual::Behind), input, ("output", output), (rows, dim, eps)) }
    .record(encoder, registry, device)
}

/// Records `normed_output = rms(residual + input)·weight` in f32, and `sum_output = residual + input` if it is wanted.
///
/// # Errors
/// As [`dispatch_fused_norm_add_f32`].
pub fn dispatch_fused_residual_norm_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    residual: &MlxBuffer,
    input: &MlxBuffer,
    weight: &MlxBuffer,
    normed_output: &MlxBuffer,
    sum_output: Option<&MlxBuffer>,
    rows: u32,
    dim: u32,
    eps: f32,
) -> Result<()> {
    Fused { weight: Some(weight), sum_output, ..Fused::new("fused_residual_norm_f32", DType::F32, (residual, Residual::Before), input, ("normed_output", normed_output), (rows, dim, eps)) }
    .record(encoder, registry, device)
}

/// Records `output = rms(residual + input)·weight·scalar` in f32; `scalar` has one element, or `dim` if `scalar_is_vector`.
///
/// # Errors
/// As [`dispatch_fused_norm_add_f32`].
pub fn dispatch_fused_residual_norm_scalar_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    residual: &MlxBuffer,
    input: &MlxBuffer,
    weight: &MlxBuffer,
    output: &MlxBuffer,
    scalar: &MlxBuffer,
    rows: u32,
    dim: u32,
    eps: f32,
    scalar_is_vector: bool,
) -> Result<()> {
    Fused { weight: Some(weight), scalar: Some((scalar, scalar_is_vector)), ..Fused::new("fused_residual_norm_scalar_f32", DType::F32, (residual, Residual::Before), input, ("output", output), (rows, dim, eps)) }
    .record(encoder, registry, device)
}

/// Records `output = (residual + rms(input)·weight)·scalar` in f32; `scalar` has one element, or `dim` if
/// `scalar_is_vector`.
///
/// # Errors
/// As [`dispatch_fused_norm_add_f32`].
pub fn dispatch_fused_norm_add_scalar_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    residual: &MlxBuffer,
    input: &MlxBuffer,
    weight: &MlxBuffer,
    output: &MlxBuffer,
    scalar: &MlxBuffer,
    rows: u32,
    dim: u32,
    eps: f32,
    scalar_is_vector: bool,
) -> Result<()> {
    Fused { weight: Some(weight), scalar: Some((scalar, scalar_is_vector)), ..Fused::new("fused_norm_add_scalar_f32", DType::F32, (residual, Residual::Behind), input, ("output", output), (rows, dim, eps)) }
    .record(encoder, registry, device)
}

/// Records the routing of one token: the `top_k` experts of the largest logits, the lowest index of equals first, with the
/// weights `softmax(logits)·per_expert_scale`, divided by their sum.
///
/// `logits` and `per_expert_scale` are f32 `[num_experts]`, `expert_ids` is u32 and `routing_weights` f32 `[top_k]`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `top_k` beyond
/// `num_experts`, buffers of too few bytes, or an output that overlaps another operand.
pub fn dispatch_fused_moe_routing_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    logits: &MlxBuffer,
    expert_ids: &MlxBuffer,
    routing_weights: &MlxBuffer,
    per_expert_scale: &MlxBuffer,
    num_experts: u32,
    top_k: u32,
) -> Result<()> {
    const OP: &str = "fused_moe_routing_f32";
    let (experts, k) = (num_experts as usize, top_k as usize);
    nonzero(OP, &[("num_experts", experts), ("top_k", k)])?;
    let logits = operand(OP, "logits", logits, DType::F32, experts)?;
    let ids = operand(OP, "expert_ids", expert_ids, DType::U32, k)?;
    let weights = operand(OP, "routing_weights", routing_weights, DType::F32, k)?;
    let scale = operand(OP, "per_expert_scale", per_expert_scale, DType::F32, experts)?;
    let params = RouteParams { n_tokens: 1, n_experts: num_experts, top_k, normalize: true };
    moe_route(encoder, registry, &handle(device), &logits, Some(&scale), &ids, &weights, &params)
}
