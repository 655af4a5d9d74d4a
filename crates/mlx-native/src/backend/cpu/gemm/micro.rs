//! The micro-kernels: a few rows of `a` times a panel of `b`, sums in registers.

use super::{DEPTH, GROUP, PITCH};
use crate::backend::cpu::simd::{Lanes8, Vector};
use crate::isa::{Isa, IsaToken};

/// The widest panel of all micro-kernels.
pub(super) const MAX_COLUMNS: usize = 32;

/// A micro-kernel: its tile, and the function.
#[derive(Debug)]
pub(crate) struct MicroKernel {
    /// Rows of a tile, at most.
    pub rows: usize,
    /// Columns of a tile: the width of a panel.
    pub columns: usize,
    /// Lanes of the vectors: the extent of the blocks that `transpose` takes.
    pub lanes: usize,
    multiply: unsafe fn(&mut Tile<'_>),
    transpose: unsafe fn(*const f32, usize, *mut f32, usize),
}

/// `c[rows, columns] (+)= a[rows, depth] · b[depth, columns]`.
pub(super) struct Tile<'a> {
    /// 1 to `MicroKernel::rows`.
    pub rows: usize,
    /// 1 to `DEPTH`.
    pub depth: usize,
    /// Whether `c` is overwritten instead of added to.
    pub is_first: bool,
    /// Rows `PITCH` apart.
    pub a: &'a [f32],
    /// Rows `MicroKernel::columns` apart: dense.
    pub b: &'a [f32],
    /// Rows `GROUP` apart.
    pub c: &'a mut [f32],
}

impl MicroKernel {
    /// The micro-kernel for an instruction set that this machine has.
    pub(super) fn of(isa: IsaToken) -> &'static MicroKernel {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => &x86::AVX512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &x86::AVX2,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &neon::NEON,
            _ => &PORTABLE,
        }
    }

    pub(super) fn multiply(&self, tile: &mut Tile<'_>) {
        assert!(1 <= tile.rows && tile.rows <= self.rows && tile.depth <= DEPTH);
        assert!(tile.a.len() >= (tile.rows - 1) * PITCH + tile.depth);
        assert!(tile.b.len() >= tile.depth * self.columns);
        assert!(tile.c.len() >= (tile.rows - 1) * GROUP + self.columns);
        // SAFETY: `of` gives a kernel for a token only, which exists where the machine has the level, and the slices reach as far as the tile does.
        unsafe { (self.multiply)(tile) }
    }

    /// Writes the transpose of the `lanes x lanes` block at the start of `source` to `target`.
    pub(super) fn transpose(
        &self,
        source: &[f32],
        source_pitch: usize,
        target: &mut [f32],
        target_pitch: usize,
    ) {
        assert!(source.len() >= (self.lanes - 1) * source_pitch + self.lanes);
        assert!(target.len() >= (self.lanes - 1) * target_pitch + self.lanes);
        // SAFETY: `of` gives a kernel for a token only, which exists where the machine has the level, and both blocks are inside their slices.
        unsafe { (self.transpose)(source.as_ptr(), source_pitch, target.as_mut_ptr(), target_pitch) }
    }
}

/// One tile of `R` rows and `C` vectors of columns.
///
/// # Safety
/// [`Vector`]'s conditions; the slices must reach as far as the tile does.
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const C: usize>(t: &mut Tile<'_>) {
    let (mut a, mut b) = (t.a.as_ptr(), t.b.as_ptr());
    let c = t.c.as_mut_ptr();
    // SAFETY: the caller's word; all addresses lie inside the tile.
    unsafe {
        let mut sums = [[V::splat(0.0); C]; R];
        for _ in 0..t.depth {
            let mut row = [V::splat(0.0); C];
            for j in 0..C {
                row[j] = V::load(b.add(j * V::LANES));
            }
            for i in 0..R {
                let x = V::splat(*a.add(i * PITCH));
                for j in 0..C {
                    sums[i][j] = x.mul_add(row[j], sums[i][j]);
                }
            }
            a = a.add(1);
            b = b.add(C * V::LANES);
        }
        for i in 0..R {
            for j in 0..C {
                let target = c.add(i * GROUP + j * V::LANES);
                let sum = if t.is_first {
                    sums[i][j]
                } else {
                    V::load(target).add(sums[i][j])
                };
                sum.store(target);
            }
        }
    }
}

/// Writes the function of a micro-kernel: [`tile`] for each number of rows.
macro_rules! tiles {
    ($(#[$attribute:meta])* fn $name:ident = $vector:ty, $columns:literal: $last:literal $($rows:literal)*) => {
        $(#[$attribute])*
        unsafe fn $name(t: &mut Tile<'_>) {
            // SAFETY: the instructions are enabled here, or need not be; the rest is the caller's word.
            unsafe {
                match t.rows {
                    $($rows => tile::<$vector, $rows, $columns>(t),)*
                    _ => tile::<$vector, $last, $columns>(t),
                }
            }
        }
    };
}

static PORTABLE: MicroKernel = MicroKernel {
    rows: 4,
    columns: 8,
    lanes: 8,
    multiply: portable,
    transpose: <Lanes8 as Vector>::transpose,
};
tiles!(fn portable = Lanes8, 1: 4 1 2 3);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use crate::backend::cpu::simd::{Avx2, Avx512};

    pub(super) static AVX2: MicroKernel = MicroKernel {
        rows: 6,
        columns: 16,
        lanes: 8,
        multiply: avx2,
        transpose: transpose_avx2,
    };
    tiles!(#[target_feature(enable = "avx2,fma")] fn avx2 = Avx2, 2: 6 1 2 3 4 5);

    // 28 sums, 2 vectors of the panel and 1 broadcast value: 31 of the 32 registers.
    pub(super) static AVX512: MicroKernel = MicroKernel {
        rows: 14,
        columns: 32,
        lanes: 16,
        multiply: avx512,
        transpose: transpose_avx512,
    };
    tiles!(#[target_feature(enable = "avx512f")] fn avx512 = Avx512, 2: 14 1 2 3 4 5 6 7 8 9 10 11 12 13);

    #[target_feature(enable = "avx2,fma")]
    unsafe fn transpose_avx2(source: *const f32, source_pitch: usize, target: *mut f32, target_pitch: usize) {
        // SAFETY: the instructions are enabled here; the rest is the caller's word.
        unsafe { Avx2::transpose(source, source_pitch, target, target_pitch) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn transpose_avx512(
        source: *const f32,
        source_pitch: usize,
        target: *mut f32,
        target_pitch: usize,
    ) {
        // SAFETY: the instructions are enabled here; the rest is the caller's word.
        unsafe { Avx512::transpose(source, source_pitch, target, target_pitch) }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::*;
    use crate::backend::cpu::simd::Neon;

    // 24 sums, 3 vectors of the panel and the broadcast values.
    pub(super) static NEON: MicroKernel = MicroKernel {
        rows: 8,
        columns: 12,
        lanes: 4,
        multiply: neon,
        transpose: <Neon as Vector>::transpose,
    };
    tiles!(fn neon = Neon, 3: 8 1 2 3 4 5 6 7);
}
