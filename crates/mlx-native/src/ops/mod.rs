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

use crate::backend::cpu::CpuBody;

/// What the registry and the harness know of an operator.
pub(crate) struct Op {
    /// Name of the operator: its folder.
    #[cfg_attr(not(any(test, feature = "testing")), allow(dead_code))]
    pub name: &'static str,
    /// Metal text that defines its kernels.
    pub source: &'static str,
    /// Host names of the kernels, with their bodies for the CPU.
    pub kernels: &'static [(&'static str, CpuBody)],
}

macro_rules! operators {
    ($($op:ident),* $(,)?) => {
        $(pub mod $op;)*

        /// Every operator of this library.
        pub(crate) fn all() -> impl Iterator<Item = &'static Op> {
            [$(&$op::OP),*].into_iter()
        }

        /// The cases of every operator.
        #[cfg(any(test, feature = "testing"))]
        pub(crate) fn suites() -> Vec<crate::testing::Suite> {
            vec![$($op::tests::suite()),*]
        }
    };
}

// The list: one line for each operator.
operators! {
    add,
    argmax,
    copy,
    embedding,
    kv_append,
    layer_norm,
    matmul,
    quantized_embedding,
    quantized_matmul,
    rms_norm,
    rope,
    rowwise,
    sdpa,
    silu_mul,
    softmax,
    step,
}
