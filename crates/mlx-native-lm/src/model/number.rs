//! Sizes as kernels take them.

use crate::error::{LmError, Result};

/// `n` in 32 bits.
pub(super) fn u32_of(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| LmError::InvalidArgument(format!("{n} exceeds 32 bits")))
}
