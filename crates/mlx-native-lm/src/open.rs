//! Opening a model: from a folder, or from files in memory.

use std::collections::HashSet;
use std::path::Path;

use mlx_native::{DType, DeviceKind, MlxDevice};
use sha2::{Digest as _, Sha256};

use crate::adapter::Adapter;
use crate::chat::ChatTemplate;
use crate::config::GenerationConfig;
use crate::error::{LmError, Result};
use crate::folder::ModelFolder;
use crate::model::Decoder;
use crate::tokenizer::Tokenizer;

/// Settings for opening a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelOptions {
    /// Type of activations and of the KV cache; `None`: that of the checkpoint, but f32 on a CPU where that is not bf16.
    pub dtype: Option<DType>,
    /// Tokens of a prompt that are processed at once, at most.
    pub prefill_step: usize,
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            dtype: None,
            prefill_step: 2048,
        }
    }
}

/// A model that can be talked to: decoder, tokenizer, and what ends a text.
#[derive(Debug)]
pub struct Model {
    decoder: Decoder,
    tokenizer: Tokenizer,
    eos_ids: HashSet<u32>,
    generation_config: GenerationConfig,
    unknown: Vec<String>,
    folder: ModelFolder,
    adapter: Option<[u8; 32]>,
}

impl Model {
    /// Opens the model in `folder`, a folder in MLX's format or a `.gguf` file, on `device`.
    ///
    /// # Errors
    /// [`LmError`], one line that names the file, tensor or field at fault.
    pub fn open(device: &MlxDevice, folder: impl AsRef<Path>, options: &ModelOptions) -> Result<Self> {
        Self::build(device, ModelFolder::open(folder)?, options, None)
    }

    /// The same with the LoRA or DoRA adapter in the folder `adapter`, as mlx-lm (`adapters.safetensors`) or PEFT
    /// (`adapter_model.safetensors`) write them. It is computed beside the model's matrices, packed or not.
    ///
    /// # Errors
    /// As [`open`](Self::open), for the adapter too; [`LmError::Unsupported`] for adapters that are no LoRA, and
    /// [`LmError::Weights`] for parts of it that the model has no matrix for.
    pub fn open_adapted(
        device: &MlxDevice,
        folder: impl AsRef<Path>,
        adapter: impl AsRef<Path>,
        options: &ModelOptions,
    ) -> Result<Self> {
        let adapter = Adapter::open(adapter.as_ref())?;
        Self::build(device, ModelFolder::open(folder)?, options, Some(&adapter))
    }

    /// Opens a model whose files are in memory: their names and contents.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_files(
        device: &MlxDevice,
        files: impl IntoIterator<Item = (&'static str, &'static [u8])>,
        options: &ModelOptions,
    ) -> Result<Self> {
        Self::build(device, ModelFolder::from_files(files)?, options, None)
    }

    fn build(
        device: &MlxDevice,
        folder: ModelFolder,
        options: &ModelOptions,
        adapter: Option<&Adapter>,
    ) -> Result<Self> {
        let decoder = adapted(device, &folder, options, adapter)?;
        let tokenizer = folder.tokenizer()?;
        let eos_ids = folder.eos_token_ids(Some(&tokenizer))?.into_iter().collect();
        let generation_config = folder.generation_config().clone();
        let mut unknown = folder.unknown_fields();
        unknown.extend_from_slice(tokenizer.unknown_fields());
        Ok(Model {
            decoder,
            tokenizer,
            eos_ids,
            generation_config,
            unknown,
            folder,
            adapter: adapter.map(|a| a.fingerprint),
        })
    }

    /// A number that tells models apart: of the configuration, of the adapter, of every tensor's name, size and bytes at several
    /// places, and of when the files of the weights were written.
    ///
    /// # Errors
    /// When a file has become shorter.
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for (key, value) in self.folder.config().map() {
            put(key.as_bytes());
            put(value.to_string().as_bytes());
        }
        self.folder
            .stamps()
            .iter()
            .for_each(|stamp| put(stamp.as_bytes()));
        let tensors = self.folder.tensors();
        put(&(tensors.total_bytes() as u64).to_le_bytes());
        for (name, bytes) in tensors.raw()? {
            put(name.as_bytes());
            put(&(bytes.len() as u64).to_le_bytes());
            let last = bytes.len().saturating_sub(SAMPLE);
            for place in 0..SAMPLES {
                let from = last / (SAMPLES - 1) * place;
                put(&bytes[from..(from + SAMPLE).min(bytes.len())]);
            }
            put(&bytes[last..]);
        }
        put(self.adapter.as_ref().map_or(&[][..], |a| &a[..]));
        Ok(hash.finalize().into())
    }

    /// The decoder.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The decoder, to be run.
    pub fn decoder_mut(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The model's chat template, compiled; `None` where it has none.
    ///
    /// # Errors
    /// [`LmError::ChatTemplate`], naming the line, when the template is damaged.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        self.tokenizer.compile_chat_template()
    }

    /// The decoder, to be run, and the tokenizer.
    pub fn parts(&mut self) -> (&mut Decoder, &Tokenizer) {
        (&mut self.decoder, &self.tokenizer)
    }

    /// Decoder and tokenizer, each to go its own way.
    #[must_use]
    pub fn into_parts(self) -> (Decoder, Tokenizer) {
        (self.decoder, self.tokenizer)
    }

    /// Tokens that XTC has to spare, as in mlx-lm: those that end a text, and those of a line break.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`] when a line break cannot be encoded.
    pub fn xtc_special_tokens(&self, stop_ids: &HashSet<u32>) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode("\n")?;
        ids.extend(stop_ids);
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Longest text, in tokens, that the model was made for: the least of what its files say; `None` where they say
    /// nothing.
    #[must_use]
    pub fn context_length(&self) -> Option<usize> {
        let of_decoder = self.decoder.spec().max_context;
        let of_tokenizer = self.tokenizer.model_max_length();
        of_decoder.into_iter().chain(of_tokenizer).min()
    }

    /// Fields of the configuration files that this library does not know, each with its file. They have no effect.
    #[must_use]
    pub fn unknown_fields(&self) -> &[String] {
        &self.unknown
    }

    /// What the model's makers recommend for generation.
    #[must_use]
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    /// The tokens that end a text, with `extra` ones by their id or their text.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] for an extra token that the vocabulary lacks.
    pub fn stop_ids(&self, extra: &[String]) -> Result<HashSet<u32>> {
        let mut ids = self.eos_ids.clone();
        for token in extra {
            // As in mlx-lm: what can be read as a number is an id.
            let id = token
                .trim()
                .parse()
                .ok()
                .or_else(|| self.tokenizer.token_id(token));
            let id = id.ok_or_else(|| {
                LmError::InvalidArgument(format!(
                    "extra end-of-text token {token:?} is not in the vocabulary"
                ))
            })?;
            ids.insert(id);
        }
        Ok(ids)
    }
}

/// Opens the decoder of the model in `folder`, with no tokenizer.
///
/// # Errors
/// As [`Model::open`].
pub fn open_decoder(device: &MlxDevice, folder: impl AsRef<Path>, options: &ModelOptions) -> Result<Decoder> {
    decoder(device, &ModelFolder::open(folder)?, options)
}

/// The same with the adapter in the folder `adapter`.
///
/// # Errors
/// As [`Model::open_adapted`].
pub fn open_adapted_decoder(
    device: &MlxDevice,
    folder: impl AsRef<Path>,
    adapter: impl AsRef<Path>,
    options: &ModelOptions,
) -> Result<Decoder> {
    let adapter = Adapter::open(adapter.as_ref())?;
    adapted(device, &ModelFolder::open(folder)?, options, Some(&adapter))
}

pub(crate) fn decoder(device: &MlxDevice, folder: &ModelFolder, options: &ModelOptions) -> Result<Decoder> {
    adapted(device, folder, options, None)
}

/// Places of a tensor that tell it from another, and bytes at each.
const SAMPLES: usize = 8;
const SAMPLE: usize = 256;

fn adapted(
    device: &MlxDevice,
    folder: &ModelFolder,
    options: &ModelOptions,
    adapter: Option<&Adapter>,
) -> Result<Decoder> {
    let tensors = folder.tensors();
    if let Some(limit) = device
        .limits()
        .max_working_set
        .filter(|limit| tensors.total_bytes() > *limit)
    {
        return Err(LmError::InvalidArgument(format!(
            "the weights take {} bytes, device {} has {limit}",
            tensors.total_bytes(),
            device.kind()
        )));
    }
    let dtype = options.dtype.unwrap_or_else(|| match device.kind() {
        // A CPU multiplies packed weights as integers by rows of bf16, at twice the speed of f32. It computes f16 in f32, so that
        // to round to f16 in between would lose digits and win nothing.
        DeviceKind::Cpu if folder.weights().is_some() && checkpoint_dtype(folder) == DType::BF16 => {
            DType::BF16
        }
        DeviceKind::Cpu | DeviceKind::Emulator | DeviceKind::Null => DType::F32,
        DeviceKind::Metal | DeviceKind::Cuda => checkpoint_dtype(folder),
    });
    let spec = folder.decoder_spec()?;
    let mut source = tensors.source(device, folder.quantization());
    if let Some(adapter) = adapter {
        source = adapter.over(source);
    }
    Decoder::from_source(device, spec, source, dtype, options.prefill_step)
}

/// The dtype of the checkpoint's norms: quantised or not, those are in the dtype the model was saved in.
fn checkpoint_dtype(folder: &ModelFolder) -> DType {
    // The norms of a GGUF file are f32, whatever the model was.
    if folder.weights().is_none() {
        return DType::BF16;
    }
    let norm = folder.tensors().dtype("model.norm.weight");
    norm.filter(|d| d.is_float()).unwrap_or(DType::F32)
}
