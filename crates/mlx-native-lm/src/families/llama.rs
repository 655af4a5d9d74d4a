//! Llama, and the models that copied it: Mistral, XVERSE, IQuest-Coder.

use super::Family;
use crate::config::DecoderConfig;

pub(super) const FAMILY: Family = Family {
    name: "llama",
    also: &["mistral", "xverse", "iquestcoder"],
    decoder: DecoderConfig::read,
};
