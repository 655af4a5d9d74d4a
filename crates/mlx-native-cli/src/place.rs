//! Flags that say which model is opened where, for the commands around generation.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use mlx_native::{Config, MlxDevice};
use mlx_native_lm::{Model, ModelFolder, ModelOptions};

use crate::args::{Device, Dtype};

/// Where a model runs.
#[derive(Debug, Args)]
pub struct Place {
    /// Where to run.
    #[arg(long, default_value = "auto", value_enum)]
    pub device: Device,

    /// Type of activations and of the KV cache. `auto`: that of the checkpoint, but f32 on a CPU where that is not bf16.
    #[arg(long, default_value = "auto", value_enum)]
    pub dtype: Dtype,

    /// Threads of the CPU; default: one for each processor.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Tokens of a prompt that are processed at once, at most.
    #[arg(long, default_value_t = 2048, value_name = "N")]
    pub prefill_step_size: usize,
}

impl Place {
    /// The device.
    pub fn open(&self) -> Result<MlxDevice> {
        let mut config = Config::default();
        config.threads = self.threads;
        Ok(match self.device.kind() {
            Some(kind) => MlxDevice::with_config(kind, &config)?,
            None => MlxDevice::best(&config)?,
        })
    }

    /// Settings for opening a model.
    pub fn options(&self) -> ModelOptions {
        ModelOptions {
            dtype: self.dtype.dtype(),
            prefill_step: self.prefill_step_size,
        }
    }

    /// The model in `folder`, or the demo model.
    pub fn model(&self, folder: Option<&PathBuf>, device: &MlxDevice) -> Result<Model> {
        match folder {
            Some(folder) => Ok(Model::open(device, folder, &self.options())?),
            None => {
                Model::from_files(device, mlx_native_demo::files(), &self.options()).context("the demo model")
            }
        }
    }
}

/// The files of the model in `folder`, or of the demo model.
pub fn files(folder: Option<&PathBuf>) -> Result<ModelFolder> {
    match folder {
        Some(folder) => Ok(ModelFolder::open(folder)?),
        None => ModelFolder::from_files(mlx_native_demo::files()).context("the demo model"),
    }
}
