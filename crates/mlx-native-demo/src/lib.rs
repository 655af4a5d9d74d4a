//! rust-docs-7m: a language model of 7 million parameters, embedded, so that the program runs with no download.
//!
//! It continues text in the style of the documentation of Rust, on which it was trained from scratch; it knows nothing
//! else and does not chat. `MODEL_CARD.md` beside this crate says what it is made of and how well it does.
//!
//! [`files`] lists the files of its folder, in MLX's format: 4-bit weights (affine, groups of 64), 3.9 MB. The weights
//! begin at a multiple of [`ALIGNMENT`] and their tensors at multiples of 64 bytes within them, so that a device can use
//! them where they lie.
//!
//! ```
//! let (name, bytes) = mlx_native_demo::files().next().unwrap();
//! assert_eq!(name, "config.json");
//! assert!(bytes.starts_with(b"{"));
//! ```

/// Name of the model.
pub const NAME: &str = "rust-docs-7m-4bit";

/// Alignment of [`WEIGHTS`], in bytes: the page size of Apple's machines, from which their GPUs take memory in place.
pub const ALIGNMENT: usize = 16384;

/// `config.json`: the shape of the model and its quantization.
pub const CONFIG: &str = include_str!("../model/config.json");
/// `generation_config.json`: the token that ends a text.
pub const GENERATION_CONFIG: &str = include_str!("../model/generation_config.json");
/// `tokenizer.json`: byte-level BPE of 4096 tokens.
pub const TOKENIZER: &str = include_str!("../model/tokenizer.json");
/// `tokenizer_config.json`: the special tokens.
pub const TOKENIZER_CONFIG: &str = include_str!("../model/tokenizer_config.json");
/// `model.safetensors.index.json`: which tensor is in which file.
pub const INDEX: &str = include_str!("../model/model.safetensors.index.json");
/// `model.safetensors`: the weights, at a multiple of [`ALIGNMENT`] bytes.
pub static WEIGHTS: &[u8] = &ALIGNED.0;

static ALIGNED: Aligned<[u8; include_bytes!("../model/model.safetensors").len()]> =
    Aligned(*include_bytes!("../model/model.safetensors"));

/// Puts what it holds at a multiple of [`ALIGNMENT`], and fills the last page.
#[repr(C, align(16384))]
struct Aligned<T>(T);

/// The files of the model's folder: name and content.
pub fn files() -> impl ExactSizeIterator<Item = (&'static str, &'static [u8])> {
    [
        ("config.json", CONFIG.as_bytes()),
        ("generation_config.json", GENERATION_CONFIG.as_bytes()),
        ("tokenizer.json", TOKENIZER.as_bytes()),
        ("tokenizer_config.json", TOKENIZER_CONFIG.as_bytes()),
        ("model.safetensors.index.json", INDEX.as_bytes()),
        ("model.safetensors", WEIGHTS),
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_can_be_used_where_they_lie() {
        assert!(WEIGHTS.as_ptr().addr().is_multiple_of(ALIGNMENT));
        let header = u64::from_le_bytes(WEIGHTS[..8].try_into().unwrap());
        assert!((8 + header).is_multiple_of(64));
    }

    #[test]
    fn nothing_is_empty_or_listed_twice() {
        let names: std::collections::BTreeSet<_> = files().map(|(name, _)| name).collect();
        assert_eq!(names.len(), files().len());
        assert!(files().all(|(_, bytes)| !bytes.is_empty()));
    }
}
