//! Command R7B: Command R with windows; layers that see all know no positions.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use super::cohere;
use crate::rope::RopeConfig;

pub(super) const FAMILY: Family = Family {
    name: "cohere2",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_with_eps(input, input.fields, Keys { eps: "layer_norm_eps", ..KEYS }, 1e-5)?;
    let rope = RopeConfig::plain(c.head_dim, c.theta_or(50_000.0)?, true);
    let (window, pattern) = (c.count_or("sliding_window", 4096)?, c.count_or("sliding_window_pattern", 4)?);
    cohere::decoder(c, |i, own, bias| {
        let slides = !(i + 1).is_multiple_of(pattern);
        Ok(c.attention(own)
            .biased(bias, bias)
            .turned(slides.then(|| rope.clone()))
            .sliding(slides.then_some(window)))
    })
}
