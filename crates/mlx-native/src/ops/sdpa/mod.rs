//! Scaled dot-product attention, causal, with grouped heads and a key-value cache.

//!
//! [`sdpa`] records it; [`route`] tells which kernels that takes, and why is in the tables of `route.rs`. The kernels are
//! in `sdpa.metal`, their twins for the CPU in `cpu/`.

mod cpu;
mod route;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

pub use route::{FUSED_HEAD_DIMS, Family, Route, route};

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CapturedOpKind, CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::kernel::{ConstantValue, KernelRegistry};
use crate::metal::MTLSize;

/// The Metal text of the attention kernels.
pub static SDPA_SHADER_SOURCE: &str = include_str!("sdpa.metal");

macro_rules! kernels {
    ($($name:literal => $body:ident;)* $($family:ident $($head_dim:literal)*;)*) => {
        &[
            $(
                (concat!("sdpa", $name, "_f16"), cpu::$body::<f16>),
                (concat!("sdpa", $name, "_bf16"), cpu::$body::<bf16>),
            )*
            $($(
                (concat!("sdpa_", stringify!($family), "_d", $head_dim, "_f32"), cpu::$family::<f32>),
                (concat!("sdpa_", stringify!($family), "_d", $head_dim, "_f16"), cpu::$family::<f16>),
                (concat!("sdpa_", stringify!($family), "_d", $head_dim, "_bf16"), cpu::$family::<bf16>),
            )*)*
            ("sdpa", cpu::decode::<f32>),
            ("sdpa_merge_f32", cpu::merge::<f32>),
        ]
    };
}

pub(crate) static OP: Op = Op {
    name: "sdpa",
    source: SDPA_SHADER_SOURCE,
    kernels: kernels! {
        "" => decode;
        "_merge" => merge;
        decode 64 128 256 512;
        split 64 128 256 512;
        prefill 64 72 80 96 128 192 256 512;
    },
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// The greatest head dimension.
pub const MAX_HEAD_DIM: u32 = 512;

/// Sizes of an attention. Also the parameter struct of the kernels: `repr(C)`, 28 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct SdpaParams {
    /// Heads of the queries; a multiple of `n_kv_heads`.
    pub n_heads: u32,
    /// Heads of keys and values. Query head `h` attends to kv head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: u32,
    /// Elements of a head's row, 1 to 512.
    pub head_dim: u32,
    /// Queries of a head.
    pub seq_len: u32,
    /// Keys that count. The last query is at the last of them, so that `seq_len <= kv_seq_len`.
    pub kv_seq_len: u32,
    /// What scores are multiplied by: `1 / sqrt(head_dim)` mostly, 1 for models that normalise queries and keys.
    pub scale: f32,
    /// Positions that K and V have room for in each head; 0 for `kv_seq_len`.
    pub kv_capacity: u32,
}

/// Records `output = softmax(scale * q k^T) v`, causal: query `i` of `seq_len` sees the keys up to and including
/// `kv_seq_len - seq_len + i`.
///
/// | buffer | shape |
/// |---|---|
/// | `q`, `output` | `[batch_size, n_heads, seq_len, head_dim]` |
/// | `k`, `v` | `[batch_size, n_kv_heads, kv_capacity, head_dim]`, the first `kv_seq_len` positions count |
///
/// All are f32, f16 or bf16, the same; everything is computed in f32 and rounded once. Buffers may be larger. Positions
/// of K and V from `kv_seq_len` on are not looked at. `output` must not share memory with the inputs.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `head_dim`
/// beyond 512, `n_heads` not divisible by `n_kv_heads`, `seq_len > kv_seq_len`, a `kv_capacity` that is less than
/// `kv_seq_len` and not 0, sizes that overflow, a `scale` that is not finite; then for dtypes that are mixed or not
/// floating-point, a buffer that is too small, or an `output` that shares memory with an input.
pub fn sdpa(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    q: &MlxBuffer,
    k: &MlxBuffer,
    v: &MlxBuffer,
    output: &MlxBuffer,
    params: &SdpaParams,
    batch_size: u32,
) -> Result<()> {
    let (params, dtype) = validate([q, k, v, output], params, batch_size)?;
    let route = route(device, dtype, &params, batch_size)?;
    let call = Call { registry, device, params, batch_size, route };
    match route.family {
        Family::Split => call.encode_split(encoder, [q, k, v, output]),
        _ => call.encode_one(encoder, [q, k, v, output]),
    }
}

/// How keys and rows are divided: a parameter struct of the kernels, 12 bytes.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SdpaSplit {
    row_groups: u32,
    n_splits: u32,
    split_len: u32,
}

/// Index of the function constant `ROWS`.
const ROWS: u32 = 0;

/// A checked call.
struct Call<'a> {
    registry: &'a mut KernelRegistry,
    device: &'a MlxDevice,
    params: SdpaParams,
    batch_size: u32,
    route: Route,
}

impl Call<'_> {
    fn split(&self) -> SdpaSplit {
        let Route { row_groups, n_splits, split_len, .. } = self.route;
        SdpaSplit { row_groups, n_splits, split_len }
    }

    /// Rows that share a kv head.
    fn rows(&self) -> u32 {
        self.params.n_heads / self.params.n_kv_heads * self.params.seq_len
    }

    /// Threadgroups, as the kernels of the route want them.
    fn grid(&self) -> MTLSize {
        let (p, route) = (&self.params, &self.route);
        let (x, y) = match route.family {
            Family::General => (p.seq_len, p.n_heads),
            Family::Prefill => (p.seq_len.div_ceil(route.rows), p.n_heads),
            Family::Decode | Family::Split => {
                (self.rows().div_ceil(route.rows * route.row_groups) * route.n_splits, p.n_kv_heads)
            }
        };
        MTLSize::new(u64::from(x), u64::from(y), u64::from(self.batch_size))
    }

    /// One kernel from inputs to output.
    fn encode_one(self, encoder: &mut CommandEncoder, [q, k, v, output]: [&MlxBuffer; 4]) -> Result<()> {
        let (grid, group, split) = (self.grid(), MTLSize::new(u64::from(self.route.threads), 1, 1), self.split());
        let args = [
            (0, KernelArg::Buffer(q)),
            (1, KernelArg::Buffer(k)),
            (2, KernelArg::Buffer(v)),
            (3, KernelArg::Buffer(output)),
            (4, KernelArg::Bytes(as_bytes(&self.params))),
            (5, KernelArg::Bytes(as_bytes(&split))),
        ];
        let has_rows = self.route.family == Family::Decode;
        let constants = [(ROWS, ConstantValue::U32(self.route.rows))];
        let constants = if has_rows { &constants[..] } else { &[] };
        let args = if has_rows { &args[..] } else { &args[..5] };
        let pipeline = self.registry.get_pipeline_with_constants(self.route.kernel, self.device, constants)?;
        encoder.set_op_kind(CapturedOpKind::Sdpa);
        encoder.try_encode_threadgroups_with_args(pipeline, args, grid, group)
    }

    /// One kernel for the parts, one that merges them; the parts lie in scratch memory of the registry.
    fn encode_split(self, encoder: &mut CommandEncoder, [q, k, v, output]: [&MlxBuffer; 4]) -> Result<()> {
        let p = &self.params;
        let parts = check::product(
            "sdpa",
            "the parts (batch_size, n_heads, seq_len, n_splits)",
            &[self.batch_size, p.n_heads, p.seq_len, self.route.n_splits],
        )?;
        // The route keeps both together within 16 MiB.
        let (n_sums, n_states) = (parts * p.head_dim as usize, parts * 2);
        let scratch = self.registry.scratch(self.device, (n_sums + n_states) * size_of::<f32>())?;
        let states = scratch.view(n_sums * size_of::<f32>(), DType::F32, vec![n_states])?;
        let sums = scratch.view(0, DType::F32, vec![n_sums])?;
        let (grid, split) = (self.grid(), self.split());
        let pipeline = self.registry.get_pipeline_with_constants(
            self.route.kernel,
            self.device,
            &[(ROWS, ConstantValue::U32(self.route.rows))],
        )?;
        encoder.set_op_kind(CapturedOpKind::Sdpa);
        encoder.try_encode_threadgroups_with_args(
            pipeline,
            &[
                (0, KernelArg::Buffer(q)),
                (1, KernelArg::Buffer(k)),
                (2, KernelArg::Buffer(v)),
                (3, KernelArg::Buffer(&sums)),
                (4, KernelArg::Bytes(as_bytes(p))),
                (5, KernelArg::Bytes(as_bytes(&split))),
                (6, KernelArg::Buffer(&states)),
            ],
            grid,
            MTLSize::new(u64::from(self.route.threads), 1, 1),
        )?;
        let merge = self.registry.get_pipeline(self.route.merge.unwrap_or_default(), self.device)?;
        encoder.set_op_kind(CapturedOpKind::Sdpa);
        encoder.try_encode_threadgroups_with_args(
            merge,
            &[
                (0, KernelArg::Buffer(&sums)),
                (1, KernelArg::Buffer(&states)),
                (2, KernelArg::Buffer(output)),
                (3, KernelArg::Bytes(as_bytes(p))),
                (4, KernelArg::Bytes(as_bytes(&split))),
            ],
            MTLSize::new(u64::from(p.seq_len), u64::from(p.n_heads), u64::from(self.batch_size)),
            MTLSize::new(128, 1, 1),
        )
    }
}

/// Checks everything. Gives the parameters with `kv_capacity` filled in, and the dtype.
fn validate([q, k, v, output]: [&MlxBuffer; 4], params: &SdpaParams, batch_size: u32) -> Result<(SdpaParams, DType)> {
    const OP: &str = "sdpa";
    let SdpaParams { n_heads, n_kv_heads, head_dim, seq_len, kv_seq_len, scale, kv_capacity } = *params;
    check::nonzero(OP, &[("head_dim", head_dim), ("n_heads", n_heads), ("n_kv_heads", n_kv_heads)])?;
    if head_dim > MAX_HEAD_DIM {
        return invalid!("{OP}: head_dim is {head_dim}, it must be at most {MAX_HEAD_DIM}");
    }
    if n_heads % n_kv_heads != 0 {
        return invalid!("{OP}: n_heads {n_heads} is not divisible by n_kv_heads {n_kv_heads}");
    }
    check::nonzero(OP, &[("seq_len", seq_len), ("kv_seq_len", kv_seq_len), ("batch_size", batch_size)])?;
    if seq_len > kv_seq_len {
        return invalid!("{OP}: seq_len {seq_len} exceeds kv_seq_len {kv_seq_len}, the keys must include the queries' own");
    }
    let kv_capacity = if kv_capacity == 0 { kv_seq_len } else { kv_capacity };
    if kv_capacity < kv_seq_len {
        return invalid!("{OP}: kv_capacity {kv_capacity} is less than kv_seq_len {kv_seq_len}");
    }
    if !scale.is_finite() {
        return invalid!("{OP}: scale is {scale}, it must be finite");
    }
    let n_q = check::product(OP, "q (batch_size, n_heads, seq_len, head_dim)", &[batch_size, n_heads, seq_len, head_dim])?;
    let n_kv = check::product(
        OP,
        "k and v (batch_size, n_kv_heads, kv_capacity, head_dim)",
        &[batch_size, n_kv_heads, kv_capacity, head_dim],
    )?;
    let dtype = check::same_float(OP, &[("q", q), ("k", k), ("v", v), ("output", output)])?;
    for (name, buffer, elements) in [("q", q, n_q), ("k", k, n_kv), ("v", v, n_kv), ("output", output, n_q)] {
        check::holds(OP, name, buffer, elements)?;
    }
    check::disjoint(OP, ("output", output), &[("q", q), ("k", k), ("v", v)])?;
    Ok((SdpaParams { kv_capacity, ..*params }, dtype))
}
