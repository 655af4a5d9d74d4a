//! The operators. Each is a folder: a public function with its parameters and checks (`mod.rs`), the Metal text
//! (`<op>.metal`), the bodies for the CPU (`cpu.rs`) and the cases that prove and time it (`tests.rs`).
//!
//! All have one style: `op(encoder, registry, device, inputs…, output, &Params)`. The function checks its parameters,
//! then the buffers, picks a kernel and records it; nothing runs before the encoder is committed. Sizes are in the
//! parameters, in elements; buffers must hold at least what the sizes imply, more is fine. Reductions accumulate in f32
//! for every dtype, results are rounded once, to nearest even.
//!
//! Adding an operator is a folder and one line in the list below: `docs/adding-an-op.md`.

pub(crate) mod check;
pub(crate) mod coding;

pub(crate) use crate::registry::Op;

macro_rules! operators {
    ($($op:ident),* $(,)?) => {
        $(pub mod $op;)*

        /// Every operator of this library.
        pub(crate) fn all() -> impl Iterator<Item = &'static Op> {
            [$(&$op::OP),*].into_iter()
        }

        /// The cases of every operator.
        #[cfg(any(test, feature = "testing"))]
        #[must_use]
        pub fn suites() -> Vec<crate::testing::Suite> {
            vec![$($op::tests::suite()),*]
        }
    };
}

// The list: one line for each operator.
operators! {
    add,
    argmax,
    attention,
    copy,
    embed,
    kv_append,
    layer_norm,
    linear,
    linear_scan,
    matmul,
    rms_norm,
    rope,
    route,
    rowwise,
    sample,
    sdpa,
    short_conv,
    silu_mul,
    softmax,
    step,
    weighted_sum,
}
