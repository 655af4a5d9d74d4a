//! The published 0.1 module `fwht_standalone`: adapts [`hadamard`](crate::ops::hadamard::hadamard).

use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::hadamard::{HADAMARD_SHADER_SOURCE, HadamardParams, hadamard};
use crate::ops::published::{handle, nonzero, operand, product};

/// The Metal text of the kernel behind [`dispatch_fwht_f32`].
pub static FWHT_STANDALONE_SHADER_SOURCE: &str = HADAMARD_SHADER_SOURCE;

/// Records the orthogonal Walsh-Hadamard transform of each of `num_heads` rows of `head_dim` f32, in place. 0.1 took a
/// `head_dim` of 256 or 512; here it is any power of two up to 8192.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `head_dim` that
/// is no such power, or too few bytes in `data`.
pub fn dispatch_fwht_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    data: &MlxBuffer,
    num_heads: u32,
    head_dim: u32,
) -> Result<()> {
    const OP: &str = "fwht_f32";
    nonzero(OP, &[("num_heads", num_heads as usize), ("head_dim", head_dim as usize)])?;
    if !head_dim.is_power_of_two() {
        return invalid!("{OP}: head_dim is {head_dim}, it must be a power of two");
    }
    let len = product(OP, "data", &[num_heads as usize, head_dim as usize])?;
    let data = operand(OP, "data", data, DType::F32, len)?;
    let params = HadamardParams::orthogonal(num_heads, head_dim);
    hadamard(encoder, registry, &handle(device), &data, &data, &params)
}
