//! Bodies for tensor cores: a second text of a few kernels, of the same names and bindings.
//!
//! A body is a function template that takes the place of the Metal text's, with the same template arguments and parameters;
//! it stands behind that text and uses its types, constants and functions. It makes tiles of other sizes, so that the
//! launch that the operator asks for is counted anew.

use crate::kernel::ConstantValue;

/// A body.
#[derive(Debug)]
pub(super) struct Body {
    /// The Metal text's function that it stands for, and its own.
    pub replaces: &'static str,
    pub function: &'static str,
    /// What goes behind the Metal text, in this order: file name and text.
    pub texts: &'static [(&'static str, &'static str)],
    /// Whether launches of it that do not depend on each other can be one: it asks for nothing of its place but the group's number,
    /// and leaves much of a GPU idle at its beginning and end.
    pub joins: bool,
    pub launch: BodyLaunch,
    /// What takes its place where there is much to do, on GPUs that have the instructions.
    pub many: Option<&'static Many>,
}

/// Functions that run one after the other, with the body's parameters and scratch memory.
#[derive(Debug)]
pub(super) struct Many {
    /// The compute capability, times ten, of the only GPUs that have the instructions.
    pub capability: u32,
    /// What goes behind the body's texts.
    pub texts: &'static [(&'static str, &'static str)],
    pub stages: &'static [Stage],
    /// The stage that reads nothing but argument 0 and the sizes: the one before a launch may have done it already.
    pub shared: usize,
    /// The argument that has the sizes.
    pub sizes: u32,
    /// What is launched for these sizes on so many multiprocessors; nothing where there is too little to do.
    pub launches: fn(&[u32], u32) -> Option<ManyLaunches>,
}

/// One of the functions.
#[derive(Debug)]
pub(super) struct Stage {
    pub function: &'static str,
    /// What it is called with: parameter `i` of the kernel is `a{i}`, one that is copied `a{i}.value`.
    pub call: &'static str,
    pub threads: u32,
    /// Blocks that a multiprocessor must have registers for at once.
    pub blocks: u32,
    pub shared_memory: u32,
}

/// The blocks of each stage, and bytes of scratch memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ManyLaunches {
    pub blocks: [[u32; 2]; 4],
    pub scratch: usize,
    /// How the shared stage leaves the scratch memory: by equal numbers, alike.
    pub shape: [u32; 3],
}

/// How a body is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BodyLaunch {
    /// Along x and y: how many of the operator's threadgroups a block has the outputs of.
    pub groups: [u32; 2],
    pub threads: u32,
    /// Blocks that a multiprocessor must have registers for at once.
    pub blocks: u32,
    /// Bytes of shared memory.
    pub shared_memory: u32,
}

/// Bytes of shared memory that a block may have on every GPU of the oldest supported capability and later.
#[cfg(test)]
const MOST_SHARED_MEMORY: u32 = 99 << 10;

const TENSOR: (&str, &str) = ("tensor.cuh", include_str!("bodies/tensor.cuh"));

/// Three stages of 128 rows of 40 elements of x and of 48 codes, with scales and biases of two runs of 128 rows, and
/// the numbers of 128 rows; `linear_mm.cu`.
const LINEAR_SHARED_MEMORY: u32 = 3 * (128 * (40 + 48) * 2 + 2 * 2 * 128 * 4) + 128 * 4;

static LINEAR_MM: Body = Body {
    replaces: "linear_mm",
    function: "linear_mm_tensor",
    texts: &[TENSOR, ("linear_mm.cu", include_str!("bodies/linear_mm.cu"))],
    joins: false,
    launch: LINEAR_LAUNCH,
    many: None,
};

/// The same, where the operands of many rows are exact in halves.
static LINEAR_MM_AFFINE4: Body = Body {
    replaces: LINEAR_MM.replaces,
    function: LINEAR_MM.function,
    texts: LINEAR_MM.texts,
    joins: false,
    launch: LINEAR_LAUNCH,
    many: Some(&LINEAR_WARPGROUPS),
};

const LINEAR_LAUNCH: BodyLaunch = BodyLaunch {
    // The operator's tiles have 32 rows and columns.
    groups: [4, 4],
    threads: 256,
    shared_memory: LINEAR_SHARED_MEMORY,
    blocks: 2,
};

/// Bytes of a tile of 128 rows of x, and of one of 256 rows of W, both of 64 elements of k, and the number of stages of both;
/// `linear_wg.cu`.
const X_TILE: usize = 128 * 64 * 2;
const W_TILE: usize = 256 * 64 * 2;
const WARPGROUP_STAGES: usize = 4;
/// The most scratch memory of a product.
const MOST_SCRATCH: usize = 512 << 20;
/// From so many rows on it pays to make tiles of a whole matrix; the operator has other kernels for fewer than 13.
const WARPGROUPS_FROM: u32 = 13;

static LINEAR_WARPGROUPS: Many = Many {
    capability: 90,
    texts: &[
        ("wgmma.cuh", include_str!("bodies/wgmma.cuh")),
        ("linear_wg.cu", include_str!("bodies/linear_wg.cu")),
    ],
    stages: &[
        Stage {
            function: "linear_mm_weights",
            call: "a1, a2, a3, a5.value, scratch",
            threads: 256,
            blocks: 4,
            shared_memory: 0,
        },
        Stage {
            function: "linear_mm_rows",
            call: "a0, a5.value, scratch",
            threads: 256,
            blocks: 4,
            shared_memory: 0,
        },
        Stage {
            function: "linear_mm_product",
            call: "a4, a5.value, a8, scratch",
            threads: 384,
            blocks: 1,
            // Tiles begin at a multiple of 1024.
            shared_memory: (WARPGROUP_STAGES * (X_TILE + W_TILE + 16) + 1024) as u32,
        },
        Stage {
            function: "linear_mm_rest",
            call: "a0, a1, a2, a3, a4, a5.value, a8, uint2(blockIdx.x, blockIdx.y), threadIdx.x, scratch",
            threads: 256,
            blocks: 2,
            shared_memory: LINEAR_SHARED_MEMORY,
        },
    ],
    shared: 1,
    sizes: 5,
    launches: warpgroup_launches,
};

/// For the words of `LinearShape`; `Scratch` of `linear_wg.cu` lays the memory out.
fn warpgroup_launches(shape: &[u32], multiprocessors: u32) -> Option<ManyLaunches> {
    let &[m, n, k, _, x_rows, rows_per_x, _, scales_stride] = shape.first_chunk::<8>()?;
    let is_plain = x_rows == m && rows_per_x == 1 && k.is_multiple_of(64);
    if m < WARPGROUPS_FROM || !is_plain {
        return None;
    }
    // Scales have two bytes each.
    let groups = scales_stride / 2;
    let k_tiles = k / 64 + groups.checked_mul(3)?.div_ceil(64);
    let (m_tiles, n_tiles) = (m.div_ceil(128), n.div_ceil(256));
    let bytes = |tiles: u32, rows: usize, tile: usize| {
        (tiles as usize).checked_mul((k_tiles as usize).checked_mul(tile)?.checked_add(rows * 4)?)
    };
    let scratch = bytes(m_tiles, 128, X_TILE)?.checked_add(bytes(n_tiles, 256, W_TILE)?)?;
    let tiles = m_tiles.checked_mul(n_tiles)?;
    (scratch <= MOST_SCRATCH && m.div_ceil(128) <= 65535).then(|| ManyLaunches {
        blocks: [
            [n.div_ceil(8), 1],
            [m, 1],
            [tiles.min(multiprocessors), 1],
            [n.div_ceil(128), m_tiles],
        ],
        scratch,
        shape: [m, k, groups],
    })
}

/// Few rows of x, `$rows` of them in a threadgroup of the operator: sums of 16 warps for 16 outputs of 8 rows, or of one;
/// `linear_mv.cu`.
macro_rules! few {
    ($rows:literal) => {
        Body {
            replaces: "linear_mv",
            function: "linear_mv_tensor",
            texts: &[TENSOR, ("linear_mv.cu", include_str!("bodies/linear_mv.cu"))],
            joins: true,
            launch: BodyLaunch {
                // The operator's threadgroups have 8 outputs.
                groups: [2, if $rows == 1 { 1 } else { 8 / $rows }],
                threads: 512,
                shared_memory: 16 * 16 * if $rows == 1 { 1 } else { 8 } * 4,
                blocks: 2,
            },
            many: None,
        }
    };
}

/// By the rows of a threadgroup.
static LINEAR_MV: [(u32, Body); 3] = [(1, few!(1)), (2, few!(2)), (4, few!(4))];

/// Attention for heads of up to `$dim` elements: 128 rows of queries, 64 of keys and as many of values, 8 elements longer than
/// need be; `attention_tiles.cu`.
macro_rules! attention {
    ($dim:literal) => {
        Body {
            replaces: "attention_tiles",
            function: "attention_tiles_tensor",
            texts: &[
                TENSOR,
                ("attention_tiles.cu", include_str!("bodies/attention_tiles.cu")),
            ],
            joins: false,
            launch: BodyLaunch {
                groups: [1, 1],
                threads: 128,
                shared_memory: 2 * 128 * ($dim + 8) * 2,
                blocks: 2,
            },
            many: None,
        }
    };
}

/// By the name up to the dtype: `sdpa` has heads of 128.
static ATTENTION: [(&str, Body); 5] = [
    ("attention_tiles_d64", attention!(64)),
    ("attention_tiles_d72", attention!(80)),
    ("attention_tiles_d80", attention!(80)),
    ("attention_tiles_d96", attention!(96)),
    ("sdpa", attention!(128)),
];

/// The body of a kernel with these constants, where it has one.
pub(super) fn find(kernel: &str, constants: &[(u32, ConstantValue)]) -> Option<&'static Body> {
    let (family, dtype) = kernel.rsplit_once('_')?;
    if let Some((_, body)) = ATTENTION.iter().find(|row| row.0 == family) {
        // Constant 2 of `attention.metal`: all rows are at multiples of 16 bytes.
        let is_wide = constants.contains(&(2, ConstantValue::Bool(true)));
        return (is_wide && ["f16", "bf16"].contains(&dtype)).then_some(body);
    }
    let number = |index: u32| match constants.iter().find(|c| c.0 == index)?.1 {
        ConstantValue::U32(n) => Some(n),
        ConstantValue::Bool(b) => Some(b.into()),
        _ => None,
    };
    if kernel == "linear_mv_affine4" {
        return few_rows(number);
    }
    linear(kernel, number)
}

/// Constants as `linear.metal` numbers them: the dtype of x and of scales, codes and x at multiples of what is loaded at once.
fn few_rows(number: impl Fn(u32) -> Option<u32>) -> Option<&'static Body> {
    let (x, scales, group) = (number(0)?, number(2)?, number(1)?);
    let is_wide = number(9)? == 1 && number(10)? == 1;
    let fits = (1..=2).contains(&x) && (1..=2).contains(&scales) && [32, 64, 128].contains(&group) && is_wide;
    let rows = number(4)?;
    let found = LINEAR_MV.iter().find(|row| row.0 == rows).map(|row| &row.1);
    found.filter(|_| fits)
}

fn linear(kernel: &str, number: impl Fn(u32) -> Option<u32>) -> Option<&'static Body> {
    let format = kernel.strip_prefix("linear_mm_")?;
    // Constants as `linear.metal` numbers them: the dtype of x, PLAIN, WIDE_X.
    let x = number(0)?;
    // Codes must be exact in the dtype of x; dense weights are so in their own only.
    let is_exact = match format {
        "f32" => false,
        "f16" => x == 1,
        "bf16" => x == 2,
        _ => x == 1 || x == 2,
    };
    // Those of scales, of the rows that a product has, of loads.
    let is_in_halves = format == "affine4"
        && number(2) == Some(2)
        && [Some(32), Some(64), Some(128)].contains(&number(1))
        && (number(5), number(6)) == (Some(0), Some(0))
        && (number(9), number(10)) == (Some(1), Some(1));
    let body = if is_in_halves {
        &LINEAR_MM_AFFINE4
    } else {
        &LINEAR_MM
    };
    (is_exact && number(8)? == 0 && number(10).is_some()).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constants(x: u32, plain: bool) -> [(u32, ConstantValue); 3] {
        [
            (0, ConstantValue::U32(x)),
            (8, ConstantValue::Bool(plain)),
            (10, ConstantValue::Bool(true)),
        ]
    }

    #[test]
    fn bodies_are_for_what_is_exact_in_sixteen_bits() {
        let has = |kernel: &str, x, plain| find(kernel, &constants(x, plain)).is_some();
        assert!(has("linear_mm_affine4", 2, false) && has("linear_mm_q6_k", 1, false));
        assert!(has("linear_mm_bf16", 2, false) && has("linear_mm_f16", 1, false));
        assert!(!has("linear_mm_bf16", 1, false) && !has("linear_mm_f16", 2, false));
        assert!(!has("linear_mm_f32", 2, false) && !has("linear_mm_affine4", 0, false));
        assert!(!has("linear_mm_affine4", 2, true) && !has("linear_mv_affine4", 2, false));
        assert!(find("linear_mm_affine4", &[]).is_none());
        let wide = [(2, ConstantValue::Bool(true))];
        assert!(find("sdpa_bf16", &wide).is_some() && find("attention_tiles_d64_f16", &wide).is_some());
        assert!(find("sdpa_bf16", &[]).is_none() && find("sdpa", &wide).is_none());
        assert!(
            find("attention_tiles_d64_f32", &wide).is_none()
                && find("attention_rows_d64_f16", &wide).is_none()
        );
    }

    #[test]
    fn few_rows_have_a_body_where_codes_and_rows_are_whole() {
        let few = |x, scales, group, wide, rows| {
            let constants = [
                (0, ConstantValue::U32(x)),
                (1, ConstantValue::U32(group)),
                (2, ConstantValue::U32(scales)),
                (4, ConstantValue::U32(rows)),
                (9, ConstantValue::Bool(wide)),
                (10, ConstantValue::Bool(true)),
            ];
            find("linear_mv_affine4", &constants).map(|b| b.launch.groups)
        };
        assert_eq!(few(2, 2, 64, true, 1), Some([2, 1]));
        assert_eq!(few(1, 2, 32, true, 2), Some([2, 4]));
        assert_eq!(few(2, 1, 128, true, 4), Some([2, 2]));
        assert_eq!(few(0, 2, 64, true, 1), None);
        assert_eq!(few(2, 0, 64, true, 1), None);
        assert_eq!(few(2, 2, 64, false, 1), None);
    }

    #[test]
    fn shared_memory_is_there_on_every_gpu() {
        assert!(LINEAR_MM.launch.shared_memory <= MOST_SHARED_MEMORY);
        assert!(
            ATTENTION
                .iter()
                .all(|(_, b)| b.launch.shared_memory <= MOST_SHARED_MEMORY)
        );
    }
}
