//! A folder in MLX's format, opened: configuration, weights, tokenizer.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use mlx_native::weights::{ModelWeights, SafetensorsFile};

use crate::config::{ConfigFile, FamilyInput, GenerationConfig};
use crate::error::{LmError, Result};
use crate::families::Family;
use crate::gguf;
use crate::quantization::QuantizationConfig;
use crate::spec::DecoderSpec;
use crate::tensors::{GgufTensors, Plan, StoredTensors, Tensors};
use crate::tokenizer::{TOKENIZER_FILE, Tokenizer};

/// A chat template outside `tokenizer_config.json`; it goes before the one there.
const TEMPLATE_FILE: &str = "chat_template.jinja";
/// A folder of further templates, each named as its file.
const TEMPLATE_FOLDER: &str = "additional_chat_templates";
/// Longest file of JSON that is read, in bytes; the largest vocabularies take some 35 MB.
const MAX_JSON_LEN: u64 = 512 << 20;

fn stamp(name: &str, about: &std::fs::Metadata) -> String {
    let written = about
        .modified()
        .ok()
        .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    format!("{name} {} {:?}", about.len(), written)
}

/// A model's files, read and checked as far as they can be without a device.
#[derive(Debug)]
pub struct ModelFolder {
    files: Files,
    config: ConfigFile,
    family: &'static Family,
    generation_config: GenerationConfig,
    quantization: QuantizationConfig,
    tensors: Tensors,
    unknown: Vec<String>,
    /// The files of the weights by name, with their size and when they were written; empty in memory.
    stamps: Vec<String>,
}

impl ModelFolder {
    /// Opens the folder at `path`, or the GGUF file there. Weights are mapped, not read; the tokenizer is read by
    /// [`tokenizer`](Self::tokenizer).
    ///
    /// # Errors
    /// [`LmError`], one line naming the file: a folder or file that is missing or damaged, an unknown family, a
    /// configuration that says something impossible.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let found =
            std::fs::metadata(path).map_err(|e| LmError::Folder(format!("{}: {e}", path.display())))?;
        if found.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            let model = gguf::open(path)?;
            let mut folder = Self::read(Files::Made(model.files), |_| Ok(Read::Gguf(model.tensors)))?;
            folder.stamps.push(stamp("", &found));
            return Ok(folder);
        }
        if !found.is_dir() {
            return Err(LmError::Folder(format!(
                "{}: neither a folder nor a .gguf file",
                path.display()
            )));
        }
        let mut folder = Self::read(Files::Folder(path.to_path_buf()), |_| {
            Ok(Read::Mlx(ModelWeights::open(path)?))
        })?;
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".safetensors") {
                folder.stamps.extend(
                    std::fs::metadata(entry.path())
                        .ok()
                        .map(|about| stamp(&name, &about)),
                );
            }
        }
        folder.stamps.sort_unstable();
        Ok(folder)
    }

    /// Opens files that are part of the program, given as names and contents.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_files(files: impl IntoIterator<Item = (&'static str, &'static [u8])>) -> Result<Self> {
        Self::read(Files::Memory(files.into_iter().collect()), |files| {
            let Files::Memory(files) = files else {
                return Ok(Read::Mlx(ModelWeights::from_files(Vec::new())?));
            };
            let weights = files
                .iter()
                .filter(|(n, _)| n.starts_with("model") && n.ends_with(".safetensors"));
            let shards: Vec<SafetensorsFile> = weights
                .map(|(name, bytes)| SafetensorsFile::from_bytes(name, *bytes))
                .collect::<mlx_native::Result<_>>()?;
            if shards.is_empty() {
                return Err(LmError::Folder("in memory: no model*.safetensors".to_string()));
            }
            Ok(Read::Mlx(ModelWeights::from_files(shards)?))
        })
    }

    fn read(files: Files, tensors: impl FnOnce(&Files) -> Result<Read>) -> Result<Self> {
        let mut config = ConfigFile::parse(&files.require("config.json")?)?;
        config.find_quantization(files.get("hf_quant_config.json")?.as_deref())?;
        let family = Family::of(&config)?;
        let (generation_config, unknown) = match files.get("generation_config.json")? {
            None => Default::default(),
            Some(text) => GenerationConfig::recommended(&text)?,
        };
        let quantization = config.quantization()?;
        let tensors = match tensors(&files)? {
            Read::Gguf(tensors) => Tensors::Gguf(tensors),
            Read::Mlx(weights) => Tensors::Mlx(StoredTensors::of(weights, family.name, &config.fields())?),
        };
        Ok(ModelFolder {
            files,
            config,
            family,
            generation_config,
            quantization,
            tensors,
            unknown,
            stamps: Vec::new(),
        })
    }

    /// Fields that this library does not know, each with its file: of `config.json` those that its family did not read, once
    /// [`decoder_spec`](Self::decoder_spec) was called. They have no effect.
    #[must_use]
    pub fn unknown_fields(&self) -> Vec<String> {
        let of = |file: &'static str, fields: &[String]| -> Vec<String> {
            fields.iter().map(|field| format!("{file}: {field}")).collect()
        };
        let mut all = of("config.json", &self.config.unknown());
        all.extend(of("generation_config.json", &self.unknown));
        all
    }

    /// `config.json`.
    #[must_use]
    pub fn config(&self) -> &ConfigFile {
        &self.config
    }

    /// The family that its `model_type` names.
    #[must_use]
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// The decoder, as its family reads it of the configuration and the tensors.
    ///
    /// # Errors
    /// [`LmError::Config`] or [`LmError::Unsupported`], naming the key.
    pub fn decoder_spec(&self) -> Result<DecoderSpec> {
        let has = |name: &str| self.tensors.contains(name);
        let mut spec = (self.family.spec)(&FamilyInput::new(self.config.fields(), &has))?;
        self.config.refuse_unread()?;
        if let Tensors::Gguf(_) = self.tensors {
            gguf::adjust(&mut spec);
        }
        Ok(spec)
    }

    /// The content of one of the files beside the weights.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>> {
        self.files.get(name)
    }

    /// Turns the values of a GGUF tensor, under MLX's name, into those that MLX's folder would have.
    pub(crate) fn undo_gguf(&self, name: &str, values: &mut Vec<f32>) {
        gguf::undo(&self.config, self.family.name, name, values);
    }

    /// What a decoder of this model reads, and what it needs for `context` positions with activations of `dtype`.
    ///
    /// # Errors
    /// As opening the model: what is missing, does not fit, is left over, or is not supported.
    pub fn plan(&self, dtype: mlx_native::DType, context: usize) -> Result<Plan> {
        let spec = self.decoder_spec()?;
        Plan::of(&self.tensors, &self.quantization, spec, dtype, context)
    }

    /// The decoder of this model on `device`.
    ///
    /// # Errors
    /// As opening the model.
    pub fn decoder(
        &self,
        device: &mlx_native::MlxDevice,
        options: &crate::ModelOptions,
    ) -> Result<crate::Decoder> {
        crate::open::decoder(device, self, options)
    }

    /// `generation_config.json`; empty where there is none.
    #[must_use]
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    /// How the weights are packed.
    #[must_use]
    pub fn quantization(&self) -> &QuantizationConfig {
        &self.quantization
    }

    /// The safetensors files; `None` for a model in GGUF.
    #[must_use]
    pub fn weights(&self) -> Option<&ModelWeights> {
        match &self.tensors {
            Tensors::Mlx(stored) => Some(stored.weights()),
            Tensors::Gguf(_) => None,
        }
    }

    /// The files of the weights by name, with their size and when they were written; empty in memory.
    pub(crate) fn stamps(&self) -> &[String] {
        &self.stamps
    }

    /// The tensors.
    pub(crate) fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// The ids of the tokens that end a text: those of `generation_config.json`, else of `config.json`, and always the
    /// tokenizer's too, as mlx-lm gathers them: an instruct model's `config.json` often names the base model's end only.
    ///
    /// # Errors
    /// [`LmError::Config`] when `config.json` has something else there.
    pub fn eos_token_ids(&self, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
        let recommended = self.generation_config.eos_token_ids.as_ref();
        let mut ids = match recommended.filter(|ids| !ids.is_empty()) {
            Some(ids) => {
                // Those of config.json are known, and count no more.
                let _ = self.config.fields().get("eos_token_id");
                ids.clone()
            }
            None => self.config.eos_token_ids()?,
        };
        if let Some((_, id)) = tokenizer.and_then(Tokenizer::eos_token) {
            ids.push(id);
        }
        let mut seen = std::collections::HashSet::new();
        ids.retain(|id| seen.insert(*id));
        Ok(ids)
    }

    /// Reads the tokenizer.
    ///
    /// # Errors
    /// [`LmError::Folder`] when `tokenizer.json` is missing, [`LmError::Tokenizer`] or [`LmError::Config`] when it or
    /// `tokenizer_config.json` or `chat_template.jinja` is damaged. A chat template is not compiled here.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = self.files.require(TOKENIZER_FILE)?;
        let config = self.files.get("tokenizer_config.json")?;
        let mut tokenizer = Tokenizer::from_json(&tokenizer, config.as_deref())?;
        let text = |name: &str, bytes: &[u8]| {
            std::str::from_utf8(bytes)
                .map(str::to_owned)
                .map_err(|e| LmError::Config(format!("{name}: found {e}, wanted UTF-8")))
        };
        let single = self.files.get(TEMPLATE_FILE)?;
        let mut named = Vec::new();
        for name in self.files.templates()? {
            if let Some(bytes) = self.files.get(&name)? {
                let stem = name.trim_start_matches(TEMPLATE_FOLDER).trim_matches('/');
                let stem = stem.trim_end_matches(".jinja").to_owned();
                named.push((stem, text(&name, &bytes)?));
            }
        }
        match single {
            Some(bytes) if named.is_empty() => tokenizer.set_chat_template(text(TEMPLATE_FILE, &bytes)?),
            Some(bytes) => {
                let default = ("default".to_owned(), text(TEMPLATE_FILE, &bytes)?);
                named.insert(0, default);
                tokenizer.set_chat_templates(named);
            }
            None if named.is_empty() => {}
            None => tokenizer.set_chat_templates(named),
        }
        Ok(tokenizer)
    }
}

/// Tensors as their files have them.
enum Read {
    Mlx(ModelWeights),
    Gguf(GgufTensors),
}

/// Where the files are.
#[derive(Debug)]
enum Files {
    Folder(PathBuf),
    Memory(Vec<(&'static str, &'static [u8])>),
    /// Made of the metadata of a GGUF file.
    Made(Vec<(&'static str, Vec<u8>)>),
}

impl Files {
    /// The content of a file; `None` when there is no such file.
    fn get(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>> {
        let folder = match self {
            Files::Memory(files) => {
                return Ok(files
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, bytes)| Cow::Borrowed(*bytes)));
            }
            Files::Made(files) => {
                let found = files.iter().find(|(n, _)| *n == name);
                return Ok(found.map(|(_, bytes)| Cow::Owned(bytes.clone())));
            }
            Files::Folder(folder) => folder,
        };
        let path = folder.join(name);
        let failed = |e: std::io::Error| LmError::Folder(format!("{}: {e}", path.display()));
        // Asked before opening: opening a pipe would block.
        let found = match std::fs::metadata(&path) {
            Ok(found) => found,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        if !found.is_file() || found.len() > MAX_JSON_LEN {
            return Err(LmError::Folder(format!(
                "{}: no regular file of at most {MAX_JSON_LEN} bytes",
                path.display()
            )));
        }
        std::fs::read(&path)
            .map(|bytes| Some(Cow::Owned(bytes)))
            .map_err(failed)
    }

    /// The files of [`TEMPLATE_FOLDER`], sorted by name.
    fn templates(&self) -> Result<Vec<String>> {
        let Files::Folder(folder) = self else {
            return Ok(Vec::new());
        };
        let path = folder.join(TEMPLATE_FOLDER);
        let failed = |e: std::io::Error| LmError::Folder(format!("{}: {e}", path.display()));
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(Vec::new());
            }
            Err(e) => return Err(failed(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            if let Some(name) = name.to_str().filter(|name| name.ends_with(".jinja")) {
                names.push(format!("{TEMPLATE_FOLDER}/{name}"));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn require(&self, name: &str) -> Result<Cow<'static, [u8]>> {
        self.get(name)?.ok_or_else(|| {
            let place = match self {
                Files::Folder(folder) => folder.display().to_string(),
                Files::Memory(_) => "in memory".to_string(),
                Files::Made(_) => "GGUF metadata".to_string(),
            };
            LmError::Folder(format!("{place}: no {name}"))
        })
    }
}

#[cfg(test)]
mod tests;
