//! Flags that say which model is opened where, for the commands around generation.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use mlx_native::{Config, MlxDevice};
use mlx_native_lm::{Draft, Model, ModelFolder, ModelOptions};

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

    /// The model in `folder` with the adapter in another, or as [`model`](Self::model) where there is none.
    pub fn adapted_model(
        &self,
        folder: Option<&PathBuf>,
        adapter: Option<&PathBuf>,
        device: &MlxDevice,
    ) -> Result<Model> {
        adapted_model(folder, adapter, device, &self.options())
    }
}

/// The model in `folder`, or the demo model, with the adapter in another folder.
///
/// # Errors
/// What the model and the adapter had to say.
pub fn adapted_model(
    folder: Option<&PathBuf>,
    adapter: Option<&PathBuf>,
    device: &MlxDevice,
    options: &ModelOptions,
) -> Result<Model> {
    match (folder, adapter) {
        (Some(folder), Some(adapter)) => Ok(Model::open_adapted(device, folder, adapter, options)?),
        (Some(folder), None) => Ok(Model::open(device, folder, options)?),
        (None, None) => {
            Model::from_files(device, mlx_native_demo::files(), options).context("the demo model")
        }
        (None, Some(_)) => bail!("--adapter-path needs --model: the demo model has no adapters"),
    }
}

/// Flags of speculation, under mlx-lm's names.
#[derive(Debug, Args)]
pub struct Drafting {
    /// Folder of a small model with the same vocabulary that guesses the next tokens; the text stays the same, and comes sooner where
    /// the guesses are good.
    #[arg(long, value_name = "FOLDER")]
    pub draft_model: Option<PathBuf>,

    /// Tokens that the draft model guesses at a time.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub num_draft_tokens: usize,

    /// Without a draft model: guess so many tokens at a time by looking back to where the last ones stood before; the text stays the same.
    #[arg(long, default_value_t = 0, value_name = "N", conflicts_with = "draft_model")]
    pub prompt_lookup: usize,
}

impl Drafting {
    /// The draft model, where one is named.
    pub fn open(&self, place: &Place, device: &MlxDevice, target: &Model) -> Result<Option<Draft>> {
        self.open_with(&place.options(), device, target)
    }

    /// The same with settings of its own.
    pub fn open_with(
        &self,
        options: &ModelOptions,
        device: &MlxDevice,
        target: &Model,
    ) -> Result<Option<Draft>> {
        let Some(folder) = &self.draft_model else {
            return match self.prompt_lookup {
                0 => Ok(None),
                n => Ok(Some(Draft::look_back(n, target)?)),
            };
        };
        let draft = Model::open(device, folder, options).context("--draft-model")?;
        Ok(Some(Draft::new(draft, self.num_draft_tokens, target)?))
    }
}

/// The files of the model in `folder`, or of the demo model.
pub fn files(folder: Option<&PathBuf>) -> Result<ModelFolder> {
    match folder {
        Some(folder) => Ok(ModelFolder::open(folder)?),
        None => ModelFolder::from_files(mlx_native_demo::files()).context("the demo model"),
    }
}
