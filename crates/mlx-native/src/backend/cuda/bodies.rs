//! Bodies for tensor cores: a second text of a few kernels, of the same names and bindings.
//!
//! A body is a function template that takes the place of the Metal text's, with the same template arguments and parameters;
//! it stands behind that text and uses its types, constants and functions. It makes tiles of other sizes, so that the
//! launch that the operator asks for is counted anew.

use crate::kernel::ConstantValue;

/// A body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Body {
    /// The Metal text's function that it stands for, and its own.
    pub replaces: &'static str,
    pub function: &'static str,
    /// What goes behind the Metal text, in this order: file name and text.
    pub texts: &'static [(&'static str, &'static str)],
    /// Whether it waits for the launches before it by itself, with something to do before.
    pub waits: bool,
    pub launch: BodyLaunch,
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
    waits: false,
    launch: BodyLaunch {
        // The operator's tiles have 32 rows and columns.
        groups: [4, 4],
        threads: 256,
        shared_memory: LINEAR_SHARED_MEMORY,
        blocks: 2,
    },
};

/// Few rows of x, `$rows` of them in a threadgroup of the operator: sums of 8 warps for 16 outputs of 8 rows, or of one;
/// `linear_mv.cu`.
macro_rules! few {
    ($rows:literal) => {
        Body {
            replaces: "linear_mv",
            function: "linear_mv_tensor",
            texts: &[TENSOR, ("linear_mv.cu", include_str!("bodies/linear_mv.cu"))],
            waits: true,
            launch: BodyLaunch {
                // The operator's threadgroups have 8 outputs.
                groups: [2, if $rows == 1 { 1 } else { 8 / $rows }],
                threads: 256,
                shared_memory: 8 * 16 * if $rows == 1 { 1 } else { 8 } * 4,
                blocks: 2,
            },
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
            waits: false,
            launch: BodyLaunch {
                groups: [1, 1],
                threads: 128,
                shared_memory: 2 * 128 * ($dim + 8) * 2,
                blocks: 2,
            },
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
    (is_exact && number(8)? == 0 && number(10).is_some()).then_some(&LINEAR_MM)
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
