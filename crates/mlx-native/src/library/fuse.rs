//! The fusion of an RMS norm with the elementwise product behind it.

use crate::device::DeviceRef;
use crate::encoder::{CapturedNode, CapturedOpKind, RecordedBinding};
use crate::error::Result;
use crate::kernel::{ComputePipelineState, ConstantValue};
use crate::ops::elementwise::MulParams;
use crate::ops::rms_norm::{self, RmsNormParams};
use crate::registry::KernelRegistry;

/// Argument indices of the norm: `rms_norm.metal`.
const NORM_INPUT: u64 = 0;
const NORM_OUTPUT: u64 = 2;
const NORM_PARAMS: u64 = 3;
const NORM_FACTOR: u64 = 5;
const NORM_NORMED: u64 = 6;
/// Argument indices of the product: `elementwise.metal`.
const MUL_A: u64 = 0;
const MUL_B: u64 = 1;
const MUL_OUTPUT: u64 = 2;
const MUL_PARAMS: u64 = 3;

type Bindings = [(u64, RecordedBinding)];

/// The nodes with every pair put into one, and the number of pairs.
pub(super) fn fuse(
    nodes: &[CapturedNode],
    registry: &mut KernelRegistry,
    device: &DeviceRef,
) -> Result<(Vec<CapturedNode>, u32)> {
    let (mut result, mut fused, mut i) = (Vec::with_capacity(nodes.len()), 0, 0);
    while let Some(node) = nodes.get(i) {
        let barriers = nodes[i + 1..]
            .iter()
            .take_while(|n| matches!(n, CapturedNode::Barrier))
            .count();
        let next = nodes.get(i + 1 + barriers);
        if let (true, Some(next)) = (barriers > 0, next)
            && let Some(one) = fuse_pair(node, next, registry, device)?
        {
            result.push(one);
            fused += 1;
            i += barriers + 2;
        } else {
            result.push(node.clone());
            i += 1;
        }
    }
    Ok((result, fused))
}

fn fuse_pair(
    norm: &CapturedNode,
    mul: &CapturedNode,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
) -> Result<Option<CapturedNode>> {
    let CapturedNode::Dispatch {
        pipeline,
        bindings,
        threads_per_grid,
        threads_per_threadgroup,
        threadgroup_memory,
        dispatch_kind,
        op_kind: CapturedOpKind::RmsNorm,
        reads,
        writes,
    } = norm
    else {
        return Ok(None);
    };
    let CapturedNode::Dispatch {
        pipeline: mul_pipeline,
        bindings: mul_bindings,
        op_kind: CapturedOpKind::ElemMul,
        reads: mul_reads,
        writes: mul_writes,
        ..
    } = mul
    else {
        return Ok(None);
    };
    let Some((factor, output, normed)) = operands(pipeline, bindings, mul_pipeline, mul_bindings) else {
        return Ok(None);
    };
    let constants = with_factor(pipeline.constants());
    let fused = registry
        .get_pipeline_with_constants(pipeline.label(), device, &constants)?
        .clone();
    let mut bound: Vec<(u64, RecordedBinding)> = bindings
        .iter()
        .filter(|(index, _)| *index != NORM_OUTPUT)
        .cloned()
        .collect();
    bound.extend([
        (NORM_OUTPUT, output),
        (NORM_FACTOR, factor),
        (NORM_NORMED, normed),
    ]);
    Ok(Some(CapturedNode::Dispatch {
        pipeline: fused,
        bindings: bound,
        threads_per_grid: *threads_per_grid,
        threads_per_threadgroup: *threads_per_threadgroup,
        threadgroup_memory: threadgroup_memory.clone(),
        dispatch_kind: *dispatch_kind,
        op_kind: CapturedOpKind::Other,
        reads: [&reads[..], mul_reads].concat(),
        writes: [&writes[..], mul_writes].concat(),
    }))
}

/// The factor, the product's output and the norm's, if the two belong together.
fn operands(
    norm: &ComputePipelineState,
    norm_bindings: &Bindings,
    mul: &ComputePipelineState,
    mul_bindings: &Bindings,
) -> Option<(RecordedBinding, RecordedBinding, RecordedBinding)> {
    let dtype = norm
        .label()
        .strip_prefix("rms_norm_rows_")
        .or_else(|| norm.label().strip_prefix("rms_norm_"))?;
    let dtype = dtype.strip_suffix("_f32").unwrap_or(dtype);
    if mul.label().strip_prefix("elementwise_mul_") != Some(dtype) {
        return None;
    }
    let norm_params: RmsNormParams = params(norm_bindings, NORM_PARAMS)?;
    let mul_params: MulParams = params(mul_bindings, MUL_PARAMS)?;
    let elements = u64::from(norm_params.rows) * u64::from(norm_params.dim);
    if u64::from(mul_params.n_elements) != elements || mul_params.b_elements != mul_params.n_elements {
        return None;
    }
    let normed = find(norm_bindings, NORM_OUTPUT)?;
    let (a, b) = (find(mul_bindings, MUL_A)?, find(mul_bindings, MUL_B)?);
    let output = find(mul_bindings, MUL_OUTPUT)?;
    let start = |binding: &RecordedBinding| match binding {
        RecordedBinding::Buffer { metal_buffer, offset } => {
            let (start, end) = metal_buffer.handle().mem_range();
            Some((start + *offset as usize, end))
        }
        RecordedBinding::Bytes(_) => None,
    };
    let (normed_range, a_range, b_range, output_range) =
        (start(normed)?, start(a)?, start(b)?, start(output)?);
    let overlap = |x: (usize, usize), y: (usize, usize)| x.0 < y.1 && y.0 < x.1;
    let factor = match (a_range.0 == normed_range.0, b_range.0 == normed_range.0) {
        (true, false) => b,
        (false, true) => a,
        // The square of the norm, or of something else.
        _ => return None,
    };
    let factor_range = if std::ptr::eq(factor, a) { a_range } else { b_range };
    // In one dispatch nothing may be read that it writes.
    let input_range = start(find(norm_bindings, NORM_INPUT)?)?;
    let clashes = overlap(output_range, normed_range)
        || overlap(output_range, factor_range)
        || overlap(normed_range, factor_range)
        || overlap(normed_range, input_range)
        || overlap(output_range, input_range);
    (!clashes).then(|| (factor.clone(), output.clone(), normed.clone()))
}

fn find(bindings: &Bindings, index: u64) -> Option<&RecordedBinding> {
    bindings
        .iter()
        .find(|(i, _)| *i == index)
        .map(|(_, binding)| binding)
}

fn params<P: bytemuck::AnyBitPattern>(bindings: &Bindings, index: u64) -> Option<P> {
    match find(bindings, index)? {
        RecordedBinding::Bytes(bytes) => bytemuck::try_pod_read_unaligned(bytes.get(..size_of::<P>())?).ok(),
        RecordedBinding::Buffer { .. } => None,
    }
}

/// The constants of a norm, with a factor and the norm's output beside.
fn with_factor(constants: &[(u32, ConstantValue)]) -> Vec<(u32, ConstantValue)> {
    let given = |index: u32, default: bool| {
        let found = constants.iter().find(|c| c.0 == index);
        (index, found.map_or(ConstantValue::Bool(default), |c| c.1))
    };
    vec![
        given(rms_norm::HAS_WEIGHT, true),
        given(rms_norm::ROUNDS_ONCE, false),
        (rms_norm::HAS_FACTOR, true.into()),
        given(rms_norm::HAS_EPS_BUFFER, false),
        (rms_norm::HAS_NORMED, true.into()),
    ]
}
