//! Qwen3, dense: Llama with queries and keys normalised per head.

use super::Family;
use crate::config::DecoderConfig;

pub(super) const FAMILY: Family = Family {
    name: "qwen3",
    also: &[],
    decoder: |config| {
        Ok(DecoderConfig {
            qk_norm: true,
            ..DecoderConfig::read(config)?
        })
    },
};
