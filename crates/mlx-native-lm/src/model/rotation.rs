//! A rotation with its periods on the device.

use mlx_native::{DType, MlxBuffer, MlxDevice};

use crate::error::Result;
use crate::rope::{RopeConfig, RopeTable};

/// Angles of a rotation.
#[derive(Debug)]
pub(super) struct Rotation {
    pub table: RopeTable,
    pub periods: Option<MlxBuffer>,
}

impl Rotation {
    pub fn new(device: &MlxDevice, config: &RopeConfig) -> Result<Self> {
        let table = config.table()?;
        let periods = match &table.freqs {
            None => None,
            Some(periods) => {
                let mut buffer = device.alloc_tensor(DType::F32, &[periods.len()])?;
                buffer.write(0, periods)?;
                Some(buffer)
            }
        };
        Ok(Rotation { table, periods })
    }
}
