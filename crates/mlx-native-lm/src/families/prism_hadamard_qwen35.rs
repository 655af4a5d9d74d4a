//! Qwen3.5 with modules of 2 bits whose inputs are turned by Hadamard matrices.

use super::Family;
use super::common::{Config, KEYS};
use super::qwen3_5;
use crate::error::LmError;
use crate::spec::{DecoderSpec, MlpActivation};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "prism_hadamard_qwen35",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let turned = modules(input)?;
    let input = input.within("text_config", "text_config.")?;
    let c = &Config::read_with_eps(&input, input.fields, KEYS, 1e-6)?;
    let inner = c.count("intermediate_size")?;
    let mut spec = qwen3_5::decoder(c, "language_model.", |_, path| {
        Ok(c.mlp(&format!("{path}.mlp"), inner, MlpActivation::Silu, false).block())
    })?;
    spec.turned = turned;
    Ok(spec.language_half())
}

/// The modules that are turned, and the lengths of their blocks.
fn modules(input: &FamilyInput<'_>) -> Result<Vec<(String, usize)>> {
    let fields = input.fields;
    let schema = fields.count("schema_version", 1000)?.unwrap_or(2);
    let space = fields.str("tensor_namespace")?;
    if !matches!((schema, space), (1, Some("mlx-lm-text")) | (2, Some("mlx-vlm-qwen3_5"))) {
        return Err(LmError::Unsupported(format!("config.json: schema_version {schema} with tensor_namespace {space:?}")));
    }
    if let Some(other) = fields.str("gdn_activation_layout")?.filter(|layout| *layout != "grouped") {
        return Err(LmError::Unsupported(format!("config.json: gdn_activation_layout {other:?}; grouped is")));
    }
    let mut turned = Vec::new();
    for module in fields.objects("modules", "modules.")? {
        let path = module.require("path", module.str("path")?)?;
        let block = module.get("block").and_then(crate::json::number).unwrap_or(0.0);
        match block {
            0.0 => {}
            512.0 | 1024.0 | 2048.0 | 4096.0 | 8192.0 => turned.push((format!("language_model.{path}"), block as usize)),
            other => return Err(module.invalid("block", other, "0, or a power of two from 512 to 8192")),
        }
    }
    Ok(turned)
}
