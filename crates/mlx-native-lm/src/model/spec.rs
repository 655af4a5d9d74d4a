//! What a family says of a model: everything the decoder needs to be built.

use crate::error::{LmError, Result};

/// A decoder-only transformer with rotary positions, grouped-query attention and a gated feed-forward block.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Epsilon of every RMS norm.
    pub rms_norm_eps: f32,
    /// Whether queries and keys are normalised per head before the rotation.
    pub qk_norm: bool,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub o_bias: bool,
    /// Whether the feed-forward projections have a bias.
    pub mlp_bias: bool,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Positions.
    pub rope: RopeSpec,
    /// Longest context the model was made for; 0 where it does not say.
    pub max_position_embeddings: usize,
}

/// How positions rotate queries and keys.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Leading dimensions of a head that are rotated.
    pub dims: usize,
    /// Whether pairs are neighbours instead of halves.
    pub traditional: bool,
    /// Where the frequencies come from.
    pub frequencies: Frequencies,
    /// Factor on positions.
    pub scale: f32,
}

/// The angle per position of each pair of dimensions.
#[derive(Debug, Clone, PartialEq)]
pub enum Frequencies {
    /// `base^(-2i/dims)` radians.
    Base(f32),
    /// The reciprocals of these, `dims / 2` of them.
    Wavelengths(Vec<f32>),
}

impl DecoderSpec {
    /// Bytes that one position of the KV cache takes over all layers, for elements of `element_size` bytes.
    #[must_use]
    pub fn kv_bytes_per_token(&self, element_size: usize) -> usize {
        2 * self.n_layers * self.n_kv_heads * self.head_dim * element_size
    }

    /// Bytes of activations that one token takes, for elements of `element_size` bytes.
    #[must_use]
    pub fn activation_bytes_per_token(&self, element_size: usize) -> usize {
        let (q, kv) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        element_size * (3 * self.hidden_size + 3 * q + 2 * kv + 2 * self.intermediate_size) + 4
    }

    /// Checks what every kernel relies on, with products that cannot overflow afterwards.
    ///
    /// # Errors
    /// [`LmError::Config`] naming the field.
    pub fn check(&self) -> Result<()> {
        let fields = [
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("num_hidden_layers", self.n_layers, 4096),
            ("num_attention_heads", self.n_heads, 1 << 14),
            ("num_key_value_heads", self.n_kv_heads, 1 << 14),
            ("head_dim", self.head_dim, 512),
            ("vocab_size", self.vocab_size, 1 << 24),
        ];
        for (name, value, most) in fields {
            if value == 0 || value > most {
                return Err(LmError::Config(format!("{name} is {value}, 1 to {most} are possible")));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(LmError::Config(format!(
                "num_attention_heads {} is not divisible by num_key_value_heads {}",
                self.n_heads, self.n_kv_heads
            )));
        }
        if self.rope.dims == 0 || !self.rope.dims.is_multiple_of(2) || self.rope.dims > self.head_dim {
            return Err(LmError::Config(format!(
                "rotary dims {} must be even and at most head_dim {}",
                self.rope.dims, self.head_dim
            )));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(LmError::Config(format!("rms_norm_eps is {}", self.rms_norm_eps)));
        }
        Ok(())
    }
}
