//! Which kernel runs an attention: tables, and the function that reads them.

use super::SdpaParams;
use crate::device::MlxDevice;
use crate::device_kind::DeviceKind;
use crate::dtype::DType;
use crate::error::{Result, invalid};

/// The kinds of kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// One query at a time, any head dimension.
    General,
    /// Few queries: keys and values are read once for all queries of a kv head.
    Decode,
    /// As `Decode`, with the keys cut into parts that are computed independently and then merged.
    Split,
    /// Many queries: flash attention on tiles.
    Prefill,
}

/// How an attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The kind of kernel.
    pub family: Family,
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Name of the kernel that merges the parts, where keys are cut.
    pub merge: Option<&'static str>,
    /// Parts that the keys are cut into: 1 but for [`Family::Split`].
    pub n_splits: u32,
    /// Keys of a part; the last may have fewer.
    pub split_len: u32,
    /// Rows of queries that a simdgroup keeps in registers ([`Family::Decode`] and `Split`), or queries of a threadgroup
    /// (the others).
    pub rows: u32,
    /// Groups of simdgroups that take different rows: [`Family::Decode`] and `Split`.
    pub row_groups: u32,
    /// Threads of a threadgroup.
    pub threads: u32,
}

/// Which devices a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Cpu,
    Gpu,
}

/// A line of the table: a shape that is within all limits goes to the family.
struct Rule {
    target: Target,
    family: Family,
    /// Head dimensions that it is for; none = all.
    head_dims: &'static [u32],
    /// Queries of a head, at most.
    max_seq_len: u32,
    /// Queries that share a kv head, at most.
    max_rows: u32,
    /// Keys, at least.
    min_kv_seq_len: u32,
    /// Kv heads times batch, at most: with more there is work enough for all without cutting the keys.
    max_kv_heads: u32,
}

/// Head dimensions with kernels of their own; others run padded, or by the general kernel.
pub const FUSED_HEAD_DIMS: &[u32] = &[64, 72, 80, 96, 128, 192, 256, 512];

const ANY: u32 = u32::MAX;

/// The first rule that fits counts; the last of a target fits everything.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    Rule { target: Target::Gpu, family: Family::Split,   head_dims: &[],             max_seq_len: 8,   max_rows: 32,  min_kv_seq_len: 1024, max_kv_heads: 64 },
    Rule { target: Target::Gpu, family: Family::Decode,  head_dims: FUSED_HEAD_DIMS, max_seq_len: 8,   max_rows: 32,  min_kv_seq_len: 1,    max_kv_heads: ANY },
    Rule { target: Target::Gpu, family: Family::General, head_dims: &[],             max_seq_len: 8,   max_rows: 32,  min_kv_seq_len: 1,    max_kv_heads: ANY },
    Rule { target: Target::Gpu, family: Family::Prefill, head_dims: &[],             max_seq_len: ANY, max_rows: ANY, min_kv_seq_len: 1,    max_kv_heads: ANY },
    Rule { target: Target::Cpu, family: Family::Split,   head_dims: &[],             max_seq_len: 8,   max_rows: 32,  min_kv_seq_len: 512,  max_kv_heads: 32 },
    Rule { target: Target::Cpu, family: Family::Decode,  head_dims: FUSED_HEAD_DIMS, max_seq_len: 8,   max_rows: 32,  min_kv_seq_len: 1,    max_kv_heads: ANY },
    Rule { target: Target::Cpu, family: Family::General, head_dims: &[],             max_seq_len: 8,   max_rows: 32,  min_kv_seq_len: 1,    max_kv_heads: ANY },
    Rule { target: Target::Cpu, family: Family::Prefill, head_dims: &[],             max_seq_len: ANY, max_rows: ANY, min_kv_seq_len: 1,    max_kv_heads: ANY },
];

/// How keys are cut: into as many parts as give `work_items` of them over all kv heads, of at least `min_len` keys.
struct Cut {
    target: Target,
    work_items: u32,
    min_len: u32,
    max_splits: u32,
}

const CUTS: &[Cut] = &[
    Cut { target: Target::Gpu, work_items: 256, min_len: 128, max_splits: 64 },
    Cut { target: Target::Cpu, work_items: 64, min_len: 256, max_splits: 64 },
];

/// Bytes that the parts of one attention may take.
const MAX_SCRATCH: u64 = 16 << 20;

/// The kernels of one family for head dimensions up to `head_dim`.
struct Variant {
    family: Family,
    head_dim: u32,
    /// For f32, f16, bf16.
    names: [&'static str; 3],
    /// [`Route::rows`], at most.
    rows: u32,
    threads: u32,
}

macro_rules! variants {
    ($($family:ident $name:literal $head_dim:literal $rows:literal $threads:literal;)*) => {
        &[$(Variant {
            family: Family::$family,
            head_dim: $head_dim,
            names: [
                concat!("sdpa_", $name, "_d", $head_dim, "_f32"),
                concat!("sdpa_", $name, "_d", $head_dim, "_f16"),
                concat!("sdpa_", $name, "_d", $head_dim, "_bf16"),
            ],
            rows: $rows,
            threads: $threads,
        }),*]
    };
}

/// In ascending order of head dimension; rows and threads are those of the Metal text.
const VARIANTS: &[Variant] = variants! {
    Decode "decode" 64 8 256;
    Decode "decode" 128 8 256;
    Decode "decode" 256 4 256;
    Decode "decode" 512 2 256;
    Split "split" 64 8 256;
    Split "split" 128 8 256;
    Split "split" 256 4 256;
    Split "split" 512 2 256;
    Prefill "prefill" 64 32 128;
    Prefill "prefill" 72 32 128;
    Prefill "prefill" 80 32 128;
    Prefill "prefill" 96 32 128;
    Prefill "prefill" 128 32 128;
    Prefill "prefill" 192 16 128;
    Prefill "prefill" 256 16 128;
    Prefill "prefill" 512 8 128;
};

const GENERAL: Variant =
    Variant { family: Family::General, head_dim: 512, names: ["sdpa", "sdpa_f16", "sdpa_bf16"], rows: 1, threads: 128 };

const MERGE: [&str; 3] = ["sdpa_merge_f32", "sdpa_merge_f16", "sdpa_merge_bf16"];

/// Row groups of a threadgroup, at most: two simdgroups are left to share the keys.
const MAX_ROW_GROUPS: u32 = 4;

/// How `device` computes an attention of this shape. It depends on nothing else, in particular not on the number of
/// threads.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) for a dtype other than f32, f16, bf16, and for a
/// `head_dim` beyond 512 or heads that are not divisible; other parameters are [`sdpa`](super::sdpa)'s to check.
pub fn route(device: &MlxDevice, dtype: DType, params: &SdpaParams, batch_size: u32) -> Result<Route> {
    let target = if device.kind() == DeviceKind::Cpu { Target::Cpu } else { Target::Gpu };
    let Some(dtype_index) = [DType::F32, DType::F16, DType::BF16].iter().position(|&d| d == dtype) else {
        return invalid!("sdpa: dtype is {dtype}, f32, f16 or bf16 are possible");
    };
    let group = params.n_heads.checked_div(params.n_kv_heads).unwrap_or(0);
    if group == 0 {
        return invalid!("sdpa: n_heads {} is not divisible by n_kv_heads {}", params.n_heads, params.n_kv_heads);
    }
    let rows = group.saturating_mul(params.seq_len);
    let kv_heads = params.n_kv_heads.saturating_mul(batch_size);
    let family = RULES.iter().find(|r| r.fits(target, params, rows, kv_heads)).map(|r| r.family);
    let variant = VARIANTS
        .iter()
        .chain([&GENERAL])
        .find(|v| Some(v.family) == family && v.head_dim >= params.head_dim);
    let Some(variant) = variant else {
        return invalid!("sdpa: head_dim is {}, it must be at most 512", params.head_dim);
    };
    let mut route = Route {
        family: variant.family,
        kernel: variant.names[dtype_index],
        merge: None,
        n_splits: 1,
        split_len: params.kv_seq_len,
        rows: variant.rows,
        row_groups: 1,
        threads: variant.threads,
    };
    if matches!(route.family, Family::Decode | Family::Split) {
        route.rows = rows.next_power_of_two().min(variant.rows);
        route.row_groups = rows.div_ceil(route.rows).next_power_of_two().min(MAX_ROW_GROUPS);
    }
    if route.family == Family::Split {
        route.merge = Some(MERGE[dtype_index]);
        (route.n_splits, route.split_len) = cut(target, params, rows, kv_heads);
    }
    Ok(route)
}

impl Rule {
    fn fits(&self, target: Target, p: &SdpaParams, rows: u32, kv_heads: u32) -> bool {
        self.target == target
            && (self.head_dims.is_empty() || self.head_dims.contains(&p.head_dim))
            && p.seq_len <= self.max_seq_len
            && rows <= self.max_rows
            && p.kv_seq_len >= self.min_kv_seq_len
            && kv_heads <= self.max_kv_heads
    }
}

/// Number of parts, and keys of each.
fn cut(target: Target, p: &SdpaParams, rows: u32, kv_heads: u32) -> (u32, u32) {
    let Some(cut) = CUTS.iter().find(|c| c.target == target) else {
        return (1, p.kv_seq_len);
    };
    // The rules keep this product below 2^21.
    let bytes_of_a_split = u64::from(rows) * u64::from(kv_heads) * u64::from(p.head_dim + 2) * 4;
    let most = u32::try_from(MAX_SCRATCH / bytes_of_a_split.max(1)).unwrap_or(ANY).min(cut.max_splits);
    let wanted = cut.work_items.div_ceil(kv_heads.max(1));
    let n_splits = wanted.min(p.kv_seq_len / cut.min_len).min(most).max(1);
    // In whole blocks of 64 keys, which kernels like.
    let split_len = p.kv_seq_len.div_ceil(n_splits).next_multiple_of(64);
    (p.kv_seq_len.div_ceil(split_len), split_len)
}
