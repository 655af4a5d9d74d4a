//! What can go wrong with a language model.

use mlx_native::MlxError;
use thiserror::Error;

/// Why a model could not be opened or run. Each message is one line that names the file or the parameter, what was found
/// and what was wanted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LmError {
    /// The folder lacks something, or cannot be read.
    #[error("model folder {0}")]
    Folder(String),
    /// A configuration file is damaged, or says something impossible.
    #[error("{0}")]
    Config(String),
    /// What the weights hold is not what the configuration says.
    #[error("weights: {0}")]
    Weights(String),
    /// The tokenizer's files are damaged, or text could not be encoded or decoded.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template is damaged, refuses the messages, or takes too much; the text names its line.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// The thing is meaningful, but not supported; the text names it.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// An argument is out of its domain; the text names it.
    #[error("{0}")]
    InvalidArgument(String),
    /// The model computed no usable logits.
    #[error("logits: {0}")]
    Logits(String),
    /// The compute library refused or failed.
    #[error(transparent)]
    Compute(#[from] MlxError),
}

/// `Result` with [`LmError`].
pub type Result<T> = std::result::Result<T, LmError>;

/// An error of another library as one line, cut where it is long.
pub(crate) fn one_line(message: &str) -> String {
    let line: Vec<&str> = message.split_whitespace().collect();
    let line = line.join(" ");
    match line.char_indices().nth(300) {
        None => line,
        Some((cut, _)) => format!("{}…", &line[..cut]),
    }
}
