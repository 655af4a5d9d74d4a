//! Nemotron-H: one mixer a layer: Mamba 2, attention without positions, a squared-ReLU layer, or experts.

use super::Family;
use super::common::{Config, KEYS, Keys, MAX_LAYERS, UNSAID};
use super::experts;
use super::mamba2::{self, Sizes};
use crate::error::LmError;
use crate::spec::{Block, Branch, DecoderSpec, GroupedNorm, Head, Layer, Matrix, MlpActivation, Norm};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "nemotron_h",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys = Keys { layers: UNSAID, eps: "layer_norm_epsilon", ..KEYS };
    let mut c = Config::read_keys(input, input.fields, keys)?;
    let kinds = kinds(&c)?;
    c.layers = kinds.len();
    let c = &c;
    let head = Head::new(Some(c.lm_head("")));
    let mut spec = c.decoder_named("backbone", ["embeddings", "layers", "norm_f"], head, |i, path| {
        let own = format!("{path}.mixer");
        let mixer = match kinds[i] {
            'M' => mamba(c, &own)?,
            '*' => {
                let bias = c.flag("attention_bias", false)?;
                Block::Attention(Box::new(c.attention(&own).biased(bias, bias)))
            }
            '-' => wide(c, &own, c.count("intermediate_size")?)?,
            _ => sparse(c, &own)?,
        };
        Ok(Layer { alternating: None, branches: vec![Branch::pre(c.rms(&format!("{path}.norm")), mixer)] })
    })?;
    spec.dropped.push("mtp.".to_owned());
    Ok(spec)
}

/// The kind of each layer, by a string or a list: `M`, `*`, `-` or `E`.
fn kinds(c: &Config<'_>) -> Result<Vec<char>> {
    let key = "hybrid_override_pattern";
    let of_name = |name: &str| match name {
        "M" | "mamba" | "linear_attention" | "conv" => Some('M'),
        "*" | "attention" | "full_attention" => Some('*'),
        "-" | "mlp" => Some('-'),
        "E" | "moe" => Some('E'),
        _ => None,
    };
    let found = [key, "layers_block_type", "layer_types"].into_iter().find_map(|k| Some((k, c.fields.get(k)?)));
    let Some((key, value)) = found else {
        return Err(LmError::Config(format!("config.json: {key} and layers_block_type are missing")));
    };
    let names: Option<Vec<String>> = match value {
        serde_json::Value::String(all) => Some(all.chars().map(String::from).collect()),
        serde_json::Value::Array(list) => list.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let kinds = names.and_then(|names| names.iter().map(|n| of_name(n)).collect::<Option<Vec<char>>>());
    let kinds = kinds.filter(|kinds| (1..=MAX_LAYERS).contains(&kinds.len()));
    kinds.ok_or_else(|| c.fields.invalid(key, "something else", "a kind for each layer: M, *, - or E"))
}

fn mamba(c: &Config<'_>, path: &str) -> Result<Block> {
    let sizes = Sizes {
        heads: c.count("mamba_num_heads")?,
        head_dim: c.count("mamba_head_dim")?,
        groups: c.count("n_groups")?,
        state: c.count("ssm_state_size")?,
        kernel: c.count("conv_kernel")?,
        bias: c.flag("mamba_proj_bias", false)?,
        conv_bias: c.flag("use_conv_bias", true)?,
        dt_limits: mamba2::limits(c, (0.0, f32::INFINITY))?,
    };
    sizes.check(c, "mamba_num_heads")?;
    let mut mamba = mamba2::layer(c, path, &sizes);
    let dim = sizes.inner() / sizes.groups;
    let norm = Norm::rms(format!("{path}.norm.weight"), dim, c.eps).weights_for(sizes.groups);
    mamba.norm = Some(GroupedNorm { norm, gate_first: true });
    Ok(Block::Mamba2(Box::new(mamba)))
}

/// Two matrices with a squared ReLU between.
fn wide(c: &Config<'_>, path: &str, inner: usize) -> Result<Block> {
    let bias = c.flag("mlp_bias", false)?;
    Ok(c.mlp_of_two(path, ["up_proj", "down_proj"], inner, MlpActivation::Relu2, bias).block())
}

fn sparse(c: &Config<'_>, path: &str) -> Result<Block> {
    let n = c.count("n_routed_experts")?;
    let router = experts::grouped_router(c, path, n, &experts::Grouped {
        factor: ("routed_scaling_factor", 1.0),
        ..experts::GROUPED
    })?;
    let inner = c.count("moe_intermediate_size")?;
    let latent = c.fields.count("moe_latent_size", super::common::MAX_EXTENT)?;
    let names = [None, Some("fc1"), Some("fc2")];
    let sizes = [inner, latent.unwrap_or(c.hidden)];
    let all = experts::experts_of(&format!("{path}.switch_mlp"), names, n, sizes, MlpActivation::Relu2);
    let bias = c.flag("mlp_bias", false)?;
    let shared = match c.fields.get("n_shared_experts") {
        None => None,
        Some(_) => {
            let inner = c.count("moe_shared_expert_intermediate_size")?;
            let own = format!("{path}.shared_experts");
            Some(experts::shared(c.mlp_of_two(&own, ["up_proj", "down_proj"], inner, MlpActivation::Relu2, bias)))
        }
    };
    let matrix = |name: &str, outputs, inputs| Matrix::new(format!("{path}.{name}"), outputs, inputs).with_bias(bias);
    let latent = latent.map(|width| (matrix("fc1_latent_proj", width, c.hidden), None, matrix("fc2_latent_proj", c.hidden, width)));
    let mut block = experts::moe(router, all, shared);
    if let Block::Moe(moe) = &mut block {
        moe.latent = latent;
    }
    Ok(block)
}
