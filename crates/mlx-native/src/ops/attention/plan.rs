//! Which kernels run an attention, and how it is cut: tables, and the functions that read them. Nothing here depends on the
//! device, nor on what else is in a batch: the order of sums is part of the result.

use crate::dtype::DType;

/// The kinds of kernel. Each sums in an order of its own, so that bits are equal within a family only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// [`Rows`](Family::Rows) for sequences of up to [`rows_cut`] rows, [`Tiles`](Family::Tiles) for others.
    #[default]
    Auto,
    /// Keys in parts, computed side by side and then merged; keys and values are read once for the rows of a kv head.
    /// For few rows; right for any number.
    Rows,
    /// Flash attention on tiles. For many rows; right for any number.
    Tiles,
}

/// Keys of a part of the family `Rows`. Parts begin at its multiples, whatever the number of keys. Half the size would
/// double the parts to be merged, twice the size would leave a GPU's cores idle up to 8k keys.
pub const PART: u32 = 256;

/// Rows of a sequence that still go to [`Family::Rows`], with `group` query heads for each kv head.
#[must_use]
pub fn rows_cut(group: u32) -> u32 {
    (32 / group.max(1)).clamp(1, 8)
}

/// Head dimensions with kernels of their own; others run padded to the next.
pub const FUSED_HEAD_DIMS: &[u32] = &[64, 72, 80, 96, 128, 192, 256, 512, 576];

/// Bytes that the parts of one dispatch may take.
pub(super) const MAX_SCRATCH: u64 = 64 << 20;

/// The kernels of one family for head dimensions up to `head_dim`.
pub(super) struct Variant {
    head_dim: u32,
    /// For f32, f16, bf16.
    names: [&'static str; 3],
    /// Rows that a threadgroup of `Rows` keeps in registers, at most; rows of a threadgroup of `Tiles`.
    pub rows: u32,
    pub threads: u32,
}

macro_rules! variant {
    ($name:literal $head_dim:literal $rows:literal $threads:literal) => {
        Variant {
            head_dim: $head_dim,
            names: [
                concat!("attention_", $name, "_d", $head_dim, "_f32"),
                concat!("attention_", $name, "_d", $head_dim, "_f16"),
                concat!("attention_", $name, "_d", $head_dim, "_bf16"),
            ],
            rows: $rows,
            threads: $threads,
        }
    };
}

/// In ascending order of head dimension; rows and threads are those of the Metal text.
const ROWS: &[Variant] = &[
    variant!("rows" 64 8 256),
    variant!("rows" 128 8 256),
    variant!("rows" 256 4 256),
    variant!("rows" 512 2 256),
    variant!("rows" 576 2 256),
];

const TILES: &[Variant] = &[
    variant!("tiles" 64 32 128),
    variant!("tiles" 72 32 128),
    variant!("tiles" 80 32 128),
    variant!("tiles" 96 32 128),
    // The names under which attention was first published: programs ask the registry for them.
    Variant { head_dim: 128, names: ["sdpa", "sdpa_f16", "sdpa_bf16"], rows: 32, threads: 128 },
    variant!("tiles" 192 16 128),
    variant!("tiles" 256 16 128),
    variant!("tiles" 512 8 128),
    variant!("tiles" 576 8 128),
];

impl Variant {
    /// The variant of `Rows` or of `Tiles` for heads of `dim`, which is at most 576.
    pub fn of(family: Family, dim: u32) -> &'static Variant {
        let all = if family == Family::Tiles { TILES } else { ROWS };
        all.iter().find(|v| v.head_dim >= dim).unwrap_or(&all[all.len() - 1])
    }

    pub fn kernel(&self, dtype: DType) -> &'static str {
        crate::ops::check::by_float(dtype, self.names)
    }

    /// Rows that a threadgroup of `Rows` takes of `rows` in all: 1, 4 or as many as fit. Few values, each being a kernel to
    /// compile.
    pub fn rows_at_once(&self, rows: u32) -> u32 {
        match rows {
            0 | 1 => 1,
            2..=4 => self.rows.min(4),
            _ => self.rows,
        }
    }
}

/// The kernel that merges parts.
pub(super) fn merge_kernel(dtype: DType) -> &'static str {
    crate::ops::check::by_float(dtype, ["attention_merge_f32", "attention_merge_f16", "attention_merge_bf16"])
}

/// Parts that the keys of `rows` neighbouring rows can touch.
pub(super) fn n_parts(max_kv_len: u32, window: u32, rows: u32) -> u32 {
    let all = max_kv_len.div_ceil(PART);
    if window == 0 {
        return all;
    }
    let seen = u64::from(window) + u64::from(rows) - 1;
    // A range of that length may begin anywhere in a part.
    let touched = seen.div_ceil(u64::from(PART)) + 1;
    all.min(u32::try_from(touched).unwrap_or(u32::MAX))
}

/// How a dispatch of `Rows` is cut, so that its parts stay within [`MAX_SCRATCH`]: sequences, and rows of each, at a time.
pub(super) fn rounds(n_seqs: u32, rows: u32, bytes_of_a_row: u64) -> (u32, u32) {
    let fit = (MAX_SCRATCH / bytes_of_a_row.max(1)).max(1);
    let fit = u32::try_from(fit).unwrap_or(u32::MAX);
    let rows_here = rows.min(fit);
    (n_seqs.min((fit / rows_here).max(1)), rows_here)
}
