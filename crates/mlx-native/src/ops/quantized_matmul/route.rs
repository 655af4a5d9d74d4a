//! Which kernel computes a product, and how it is launched: as data.

use half::{bf16, f16};

use super::{QuantizedMatmulParams, cpu};
use crate::backend::cpu::CpuBody;
use crate::dtype::DType;
use crate::metal::MTLSize;

/// The kernels; each exists for every pair of dtypes and every width of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantizedMatmulKernel {
    /// One row of `x` by a transposed weight.
    Qmv,
    /// Few rows of `x` by a transposed weight: four share each read of the weight.
    QmvWide,
    /// Many rows of `x` by a transposed weight, in tiles.
    QmmTransposed,
    /// Few rows of `x` by a weight that is not transposed.
    Qvm,
    /// Many rows of `x` by a weight that is not transposed, in tiles.
    QmmPlain,
}

/// A line of the routing table: from how many rows of `x` on the tiled kernel is the faster one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRow {
    /// The line counts for weights of which neither `n` nor `k` is greater.
    pub max_extent: u32,
    /// From this `m` on: tiles.
    pub tiled_from: u32,
}

/// Transposed weights; the first line that fits counts. The greater the weight, the sooner threadgroups enough are at work
/// on tiles alone. The figures are those that MLX found for Apple's GPUs of generations 15 and 16.
pub const TRANSPOSED_ROUTES: &[RouteRow] = &[
    RouteRow { max_extent: 2048, tiled_from: 13 },
    RouteRow { max_extent: 4096, tiled_from: 15 },
    RouteRow { max_extent: u32::MAX, tiled_from: 13 },
];

/// Weights that are not transposed: from this `m` on, tiles.
const PLAIN_TILED_FROM: u32 = 4;

/// The kernel that [`quantized_matmul`](super::quantized_matmul) launches for `params`.
#[must_use]
pub fn route(params: &QuantizedMatmulParams) -> QuantizedMatmulKernel {
    let extent = params.n.max(params.k);
    let tiled_from = match TRANSPOSED_ROUTES.iter().find(|row| extent <= row.max_extent) {
        _ if !params.transpose => PLAIN_TILED_FROM,
        Some(row) => row.tiled_from,
        None => u32::MAX,
    };
    match (params.transpose, params.m) {
        (true, m) if m >= tiled_from => QuantizedMatmulKernel::QmmTransposed,
        (true, 1) => QuantizedMatmulKernel::Qmv,
        (true, _) => QuantizedMatmulKernel::QmvWide,
        (false, m) if m >= tiled_from => QuantizedMatmulKernel::QmmPlain,
        (false, _) => QuantizedMatmulKernel::Qvm,
    }
}

impl QuantizedMatmulKernel {
    /// The host name for activations of dtype `x`, scales of dtype `scales` and codes of `bits` bits.
    pub(super) fn name(self, x: DType, scales: DType, bits: u32) -> &'static str {
        let dtype = |d| match d {
            DType::F32 => 0,
            DType::F16 => 1,
            _ => 2,
        };
        // The order in which `kernels!` lists them.
        KERNELS[((self as usize * 3 + dtype(x)) * 3 + dtype(scales)) * 2 + usize::from(bits == 8)].0
    }

    /// Threadgroups and threads of one.
    pub(super) fn launch(self, params: &QuantizedMatmulParams) -> (MTLSize, MTLSize) {
        let QuantizedMatmulParams { m, n, bits, .. } = *params;
        let (x, y, threads) = match self {
            QuantizedMatmulKernel::Qmv => (n.div_ceil(8), m, 64),
            QuantizedMatmulKernel::QmvWide => (n.div_ceil(8), m.div_ceil(4), 64),
            QuantizedMatmulKernel::Qvm => (n.div_ceil(8 * (32 / bits)), m, 256),
            QuantizedMatmulKernel::QmmTransposed | QuantizedMatmulKernel::QmmPlain => {
                (n.div_ceil(32), m.div_ceil(32), 128)
            }
        };
        (MTLSize::new(u64::from(x), u64::from(y), 1), MTLSize::new(threads, 1, 1))
    }
}

/// `(host name, body)` for every kernel, pair of dtypes and width: the kernels in the order of the enumeration, each with
/// x, scales and bits varying in this order, the last the fastest.
macro_rules! kernels {
    ($($kernel:literal $body:ident),* $(,)?) => {
        kernels!(@x [$(($kernel, $body, "f32", f32) ($kernel, $body, "f16", f16) ($kernel, $body, "bf16", bf16))*])
    };
    (@x [$(($kernel:literal, $body:ident, $x:literal, $X:ident))*]) => {
        &[$(
            (concat!($kernel, "_", $x, "_f32_b4"), cpu::$body::<$X, f32, 4> as CpuBody),
            (concat!($kernel, "_", $x, "_f32_b8"), cpu::$body::<$X, f32, 8> as CpuBody),
            (concat!($kernel, "_", $x, "_f16_b4"), cpu::$body::<$X, f16, 4> as CpuBody),
            (concat!($kernel, "_", $x, "_f16_b8"), cpu::$body::<$X, f16, 8> as CpuBody),
            (concat!($kernel, "_", $x, "_bf16_b4"), cpu::$body::<$X, bf16, 4> as CpuBody),
            (concat!($kernel, "_", $x, "_bf16_b8"), cpu::$body::<$X, bf16, 8> as CpuBody),
        )*]
    };
}

/// Every kernel with its body for the CPU. There the three kernels of a transposed weight share one body, which chooses by
/// `m` itself.
pub(super) const KERNELS: &[(&str, CpuBody)] = kernels![
    "qmv" transposed,
    "qmv_wide" transposed,
    "qmm_t" transposed,
    "qvm" plain,
    "qmm_n" plain,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_what_they_say() {
        use QuantizedMatmulKernel::*;
        assert_eq!(KERNELS.len(), 90);
        assert_eq!(Qmv.name(DType::F32, DType::F32, 4), "qmv_f32_f32_b4");
        assert_eq!(QmvWide.name(DType::F16, DType::BF16, 8), "qmv_wide_f16_bf16_b8");
        assert_eq!(QmmTransposed.name(DType::BF16, DType::F16, 4), "qmm_t_bf16_f16_b4");
        assert_eq!(Qvm.name(DType::F32, DType::BF16, 4), "qvm_f32_bf16_b4");
        assert_eq!(QmmPlain.name(DType::BF16, DType::BF16, 8), "qmm_n_bf16_bf16_b8");
    }

    #[test]
    fn the_number_of_rows_decides() {
        let p = |m, n, transpose| QuantizedMatmulParams { m, n, k: 64, group_size: 64, bits: 4, transpose };
        assert_eq!(route(&p(1, 64, true)), QuantizedMatmulKernel::Qmv);
        assert_eq!(route(&p(2, 64, true)), QuantizedMatmulKernel::QmvWide);
        assert_eq!(route(&p(13, 64, true)), QuantizedMatmulKernel::QmmTransposed);
        assert_eq!(route(&p(14, 4096, true)), QuantizedMatmulKernel::QmvWide);
        assert_eq!(route(&p(3, 64, false)), QuantizedMatmulKernel::Qvm);
        assert_eq!(route(&p(4, 64, false)), QuantizedMatmulKernel::QmmPlain);
    }
}
