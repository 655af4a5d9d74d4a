//! The published 0.1 function of the module `hadamard`: adapts [`hadamard`].

use super::{HadamardParams, hadamard};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::published::{at_least, handle, product};

/// Records the orthogonal Walsh-Hadamard transform of each of `num_heads` rows of `head_dim` f32, in place. A zero size
/// records nothing.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a `head_dim` that is no power of
/// two or beyond 8192, or too few elements or bytes in `data`.
pub fn dispatch_hadamard_transform(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    data: &MlxBuffer,
    head_dim: u32,
    num_heads: u32,
) -> Result<()> {
    const OP: &str = "hadamard_transform";
    if head_dim == 0 || num_heads == 0 {
        return Ok(());
    }
    if !head_dim.is_power_of_two() {
        return invalid!("{OP}: head_dim is {head_dim}, it must be a power of two");
    }
    let len = product(OP, "data", &[num_heads as usize, head_dim as usize])?;
    let data = at_least(OP, "data", data, DType::F32, len)?;
    let params = HadamardParams::orthogonal(num_heads, head_dim);
    hadamard(encoder, registry, &handle(device), &data, &data, &params)
}
