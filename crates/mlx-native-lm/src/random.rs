//! Models of published shapes with made-up weights, for measuring.

use std::path::Path;
use std::rc::Rc;

use mlx_native::quant::WeightFormat;
use mlx_native::{DType, DeviceKind, MlxDevice};
use serde_json::{Value, json};

use crate::config::{ConfigFile, FamilyInput};
use crate::convert::{Entry, Folder};
use crate::error::{LmError, Result};
use crate::families::Family;
use crate::json::parse_object;
use crate::model::Decoder;
use crate::spec::DecoderSpec;
use crate::tensors::{Plan, RandomFormat, RandomSource, RandomTensor};

/// Names of published shapes and their `config.json`.
const SHAPES: &[(&str, &str)] = &[
    (
        "qwen3-0.6b",
        r#"{"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6, "vocab_size": 151936,
        "max_position_embeddings": 40960, "rope_theta": 1000000, "tie_word_embeddings": true}"#,
    ),
    (
        "qwen3-4b",
        r#"{"model_type": "qwen3", "hidden_size": 2560, "num_hidden_layers": 36, "intermediate_size": 9728,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6, "vocab_size": 151936,
        "max_position_embeddings": 40960, "rope_theta": 1000000, "tie_word_embeddings": true}"#,
    ),
    (
        "llama-3.2-1b",
        r#"{"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5, "vocab_size": 128256,
        "max_position_embeddings": 131072, "rope_theta": 500000, "tie_word_embeddings": true,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}}"#,
    ),
    (
        "qwen3-30b-a3b",
        r#"{"model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "intermediate_size": 6144,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "rms_norm_eps": 1e-6, "vocab_size": 151936,
        "max_position_embeddings": 40960, "rope_theta": 1000000, "tie_word_embeddings": false, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": true, "decoder_sparse_step": 1,
        "mlp_only_layers": []}"#,
    ),
    (
        "gemma3-4b",
        r#"{"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "intermediate_size": 10240,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6, "vocab_size": 262208,
        "max_position_embeddings": 131072, "rope_theta": 1000000, "rope_local_base_freq": 10000,
        "query_pre_attn_scalar": 256, "sliding_window": 1024, "sliding_window_pattern": 6,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}}"#,
    ),
    (
        "gpt-oss-20b",
        r#"{"model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 24, "intermediate_size": 2880,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5, "vocab_size": 201088,
        "max_position_embeddings": 131072, "rope_theta": 150000, "tie_word_embeddings": false, "num_local_experts": 32,
        "num_experts_per_tok": 4, "sliding_window": 128, "rope_scaling": {"rope_type": "yarn", "factor": 32.0,
        "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0}}"#,
    ),
];

/// A model with made-up weights: of a published shape, or of any configuration.
#[derive(Debug)]
pub struct RandomModel {
    config: ConfigFile,
    text: String,
    family: &'static Family,
    format: RandomFormat,
}

impl RandomModel {
    /// The names of the published shapes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHAPES.iter().map(|(name, _)| *name)
    }

    /// The published shape `name`, or, when that begins with `{`, the configuration that it is, its matrices in `format`.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`], listing the names there are; [`LmError::Config`] for a configuration that is none.
    pub fn new(name: &str, format: RandomFormat) -> Result<Self> {
        let known = SHAPES.iter().find(|(n, _)| *n == name).map(|(_, text)| *text);
        let text = match known {
            Some(text) => text,
            None if name.trim_start().starts_with('{') => name,
            None => {
                let names: Vec<&str> = Self::names().collect();
                return Err(LmError::InvalidArgument(format!(
                    "no shape {name:?}; there are {}",
                    names.join(", ")
                )));
            }
        };
        let config = ConfigFile::parse(text.as_bytes())?;
        let family = Family::of(&config)?;
        Ok(RandomModel {
            config,
            text: text.to_owned(),
            family,
            format,
        })
    }

    /// The decoder's specification.
    ///
    /// # Errors
    /// As the family reads the configuration.
    pub fn spec(&self) -> Result<DecoderSpec> {
        (self.family.spec)(&FamilyInput::new(self.config.fields(), &|_| false))
    }

    fn build(
        &self,
        device: &MlxDevice,
        filled: bool,
        dtype: DType,
        prefill_step: usize,
    ) -> Result<(Decoder, Plan, Vec<RandomTensor>)> {
        let (list, parts) = (Rc::default(), Rc::default());
        let source = RandomSource {
            device,
            format: self.format,
            filled,
            list: Rc::clone(&list),
            parts: Rc::clone(&parts),
        };
        let decoder = Decoder::from_source(device, self.spec()?, Box::new(source), dtype, prefill_step)?;
        let plan = Plan {
            parts: std::mem::take(&mut *parts.borrow_mut()),
            activation_bytes: decoder.activation_bytes(),
            state_bytes: decoder.state_bytes(1),
        };
        let list = std::mem::take(&mut *list.borrow_mut());
        Ok((decoder, plan, list))
    }

    /// The decoder on `device`, and what it reads.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] when the device has no room for the weights; else as building any decoder.
    pub fn decoder(&self, device: &MlxDevice, dtype: DType, prefill_step: usize) -> Result<(Decoder, Plan)> {
        let nowhere = MlxDevice::open(DeviceKind::Null)?;
        let (_, plan, _) = self.build(&nowhere, false, dtype, prefill_step)?;
        if let Some(limit) = device
            .limits()
            .max_working_set
            .filter(|limit| plan.bytes() > *limit)
        {
            return Err(LmError::InvalidArgument(format!(
                "the weights take {} bytes, device {} has {limit}",
                plan.bytes(),
                device.kind()
            )));
        }
        let (decoder, plan, _) = self.build(device, true, dtype, prefill_step)?;
        Ok((decoder, plan))
    }

    /// Writes the model as a folder in MLX's format, without a tokenizer.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] when `target` is there already; [`LmError::Folder`] when it cannot be written.
    pub fn save(&self, target: &Path) -> Result<()> {
        let mut folder = Folder::create(target)?;
        let nowhere = MlxDevice::open(DeviceKind::Null)?;
        let (_, plan, list) = self.build(&nowhere, false, DType::F32, 1)?;
        let entries: Vec<Entry> = list
            .iter()
            .map(|t| Entry::new(&t.name, t.dtype, t.shape.clone()))
            .collect();
        let mut shards = folder.shards(&entries)?;
        for tensor in &list {
            tensor.for_each_piece(|piece| shards.write(&tensor.name, piece))?;
        }
        let total = entries.iter().map(|e| e.bytes as u64).sum();
        shards.finish(total, plan.parameters() as u64)?;
        let mut config = parse_object("config.json", self.text.as_bytes())?;
        if let Some(section) = self.section() {
            config.insert("quantization".to_owned(), section.clone());
            config.insert("quantization_config".to_owned(), section);
        }
        folder.write_json("config.json", &Value::Object(config))?;
        folder.finish()
    }

    /// The `quantization` section of the format.
    fn section(&self) -> Option<Value> {
        match self.format.format {
            WeightFormat::Affine { format, .. } => {
                Some(json!({"group_size": format.group_size(), "bits": format.bits(), "mode": "affine"}))
            }
            WeightFormat::Mxfp4 => Some(json!({"group_size": 32, "bits": 4, "mode": "mxfp4"})),
            WeightFormat::Mxfp8 => Some(json!({"group_size": 32, "bits": 8, "mode": "mxfp8"})),
            WeightFormat::Nvfp4 { .. } => Some(json!({"group_size": 16, "bits": 4, "mode": "nvfp4"})),
            _ => None,
        }
    }
}
