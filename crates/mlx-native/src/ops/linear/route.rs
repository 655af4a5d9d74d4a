//! Which kernel computes a product, and how it is launched: as data.

use crate::metal::MTLSize;
use crate::profile::Bandwidth;

/// The kernels; each exists for every format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearKernel {
    /// Few rows of `x`: so many, 1, 2 or 4, share each read of the weight.
    Rows(u32),
    /// Many rows of `x`, in tiles.
    Tiles,
}

/// A line of the routing table: from how many rows of `x` on the tiled kernel is the faster one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRow {
    /// The line counts for weights of which neither `n` nor `k` is greater.
    pub max_extent: u32,
    /// From this `m` on: tiles.
    pub tiled_from: u32,
}

/// The first line that fits counts. The greater the weight, the sooner threadgroups enough are at work on tiles alone. The
/// figures are those that MLX found for Apple's GPUs of generations 15 and 16.
pub const ROUTES: &[RouteRow] = &[
    RouteRow { max_extent: 2048, tiled_from: 13 },
    RouteRow { max_extent: 4096, tiled_from: 15 },
    RouteRow { max_extent: u32::MAX, tiled_from: 13 },
];

/// Sorted rows of experts are multiplied in tiles from so many rows on, and from so many for each expert: MLX's figures.
const GATHERED_TILES_FROM: (u32, u32) = (16, 4);

/// The kernel that [`linear`](super::linear) launches for `m` rows and a weight `[n, k]`.
#[must_use]
pub fn route(m: u32, n: u32, k: u32) -> LinearKernel {
    let row = ROUTES.iter().find(|row| n.max(k) <= row.max_extent);
    match m {
        _ if row.is_some_and(|row| m >= row.tiled_from) => LinearKernel::Tiles,
        1 => LinearKernel::Rows(1),
        2 => LinearKernel::Rows(2),
        _ => LinearKernel::Rows(4),
    }
}

/// Simdgroups that a device keeps busy with loads, by its bandwidth.
const SIMDGROUPS: [(Bandwidth, u32); 3] =
    [(Bandwidth::Low, 256), (Bandwidth::Medium, 1024), (Bandwidth::High, 6144)];

/// How many simdgroups of a kernel for few rows share the sums of one output: as many as it takes to keep the device busy,
/// each with a run for every lane at least. It does not depend on the number of rows, so
/// that a row has the same bits in any company. More than four would be threadgroups that not every device has registers for.
pub(super) fn k_parts(bandwidth: Bandwidth, n: u32, k: u32) -> u32 {
    let wanted = SIMDGROUPS.iter().find(|row| row.0 == bandwidth).map_or(1, |row| row.1);
    let (outputs, runs) = (n.div_ceil(4), k / 512);
    let fits = |parts: &u32| u64::from(outputs) * u64::from(*parts) <= u64::from(wanted) && runs >= *parts;
    [4, 2].into_iter().find(fits).unwrap_or(1)
}

/// The kernel for `m` rows that choose among `experts`.
pub(super) fn route_gathered(m: u32, experts: u32, sorted: bool) -> LinearKernel {
    if sorted && m >= GATHERED_TILES_FROM.0 && m / experts >= GATHERED_TILES_FROM.1 {
        LinearKernel::Tiles
    } else {
        LinearKernel::Rows(1)
    }
}

impl LinearKernel {
    /// Threadgroups and threads of one.
    pub(super) fn launch(self, m: u32, n: u32, k_parts: u32) -> (MTLSize, MTLSize) {
        let (x, y, threads) = match self {
            LinearKernel::Rows(rows) => (n.div_ceil(8), m.div_ceil(rows), 64 * k_parts),
            LinearKernel::Tiles => (n.div_ceil(32), m.div_ceil(32), 128),
        };
        (MTLSize::new(u64::from(x), u64::from(y), 1), MTLSize::new(u64::from(threads), 1, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_rows_decides() {
        assert_eq!(route(1, 64, 64), LinearKernel::Rows(1));
        assert_eq!(route(2, 64, 64), LinearKernel::Rows(2));
        assert_eq!(route(3, 64, 64), LinearKernel::Rows(4));
        assert_eq!(route(13, 64, 64), LinearKernel::Tiles);
        assert_eq!(route(14, 4096, 64), LinearKernel::Rows(4));
        assert_eq!(route(14, 64, 8192), LinearKernel::Tiles);
        assert_eq!(k_parts(Bandwidth::High, 4096, 4096), 4);
        assert_eq!(k_parts(Bandwidth::High, 1024, 4096), 4);
        assert_eq!(k_parts(Bandwidth::High, 12288, 4096), 2);
        assert_eq!(k_parts(Bandwidth::High, 24576, 4096), 1);
        assert_eq!(k_parts(Bandwidth::High, 8, 1024), 2);
        assert_eq!(k_parts(Bandwidth::Low, 4096, 4096), 1);
        assert_eq!(k_parts(Bandwidth::Low, 1, 512), 1);
        assert_eq!(route_gathered(64, 16, true), LinearKernel::Tiles);
        assert_eq!(route_gathered(64, 16, false), LinearKernel::Rows(1));
        assert_eq!(route_gathered(8, 1, true), LinearKernel::Rows(1));
        assert_eq!(route_gathered(63, 16, true), LinearKernel::Rows(1));
    }
}
