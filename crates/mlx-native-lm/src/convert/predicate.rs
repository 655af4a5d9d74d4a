//! Which matrices are packed, and how: mlx-lm's rules.

use serde_json::{Value, json};

use super::ConvertOptions;
use crate::error::{LmError, Result};
use crate::quantization::{QuantMode, QuantSpec};
use crate::tensors::{Part, Plan};
use mlx_native::quant::WeightFormat;

/// Recipes that pack values, `down_proj` and the head finer, in some layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// 2 and 6 bits.
    Mixed2And6,
    /// 3 and 4 bits.
    Mixed3And4,
    /// 3 and 6 bits.
    Mixed3And6,
    /// 4 and 6 bits.
    Mixed4And6,
}

impl Recipe {
    /// All of them.
    pub const ALL: [Recipe; 4] = [
        Recipe::Mixed2And6,
        Recipe::Mixed3And4,
        Recipe::Mixed3And6,
        Recipe::Mixed4And6,
    ];

    /// Its name in mlx-lm.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Recipe::Mixed2And6 => "mixed_2_6",
            Recipe::Mixed3And4 => "mixed_3_4",
            Recipe::Mixed3And6 => "mixed_3_6",
            Recipe::Mixed4And6 => "mixed_4_6",
        }
    }

    const fn bits(self) -> (u32, u32) {
        match self {
            Recipe::Mixed2And6 => (2, 6),
            Recipe::Mixed3And4 => (3, 4),
            Recipe::Mixed3And6 => (3, 6),
            Recipe::Mixed4And6 => (4, 6),
        }
    }
}

/// How a matrix is packed, and what the configuration has to say of it.
pub(super) struct Choice {
    pub spec: QuantSpec,
    pub noted: Option<Value>,
}

/// Chooses for every matrix of a model.
pub(super) struct Choices<'a> {
    family: &'a str,
    options: &'a ConvertOptions,
    layers: usize,
    /// Which part of a path is the layer's number.
    place: usize,
    /// Paths of layers with convolutions.
    convolved: Vec<String>,
}

/// Families of which mlx-lm keeps the router as a bare tensor that is never packed.
const BARE_ROUTERS: &[&str] = &[
    "bailing_moe_v3",
    "deepseek",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "exaone_moe",
    "kimi_k25",
    "mimo_v2_flash",
    "nemotron_h",
    "dots1",
    "glm4_moe",
    "glm4_moe_lite",
];

/// How they are packed.
const FINER: QuantSpec = QuantSpec {
    bits: 8,
    group_size: 64,
    mode: QuantMode::Affine,
};

/// Ends of paths that a family packs with 8 bits in groups of 64.
fn finer(family: &str) -> &'static [&'static str] {
    match family {
        "qwen3_moe" | "qwen3_vl_moe" | "Klear" | "mellum" | "kimi_linear" | "kimi_k3" => &["mlp.gate"],
        "afmoe" => &["router.gate"],
        "bailing_hybrid" | "bailing_moe" | "bailing_moe_linear" => &["mlp.gate.gate_proj"],
        "gemma4" | "gemma4_text" => &["router.proj"],
        "jamba" => &["router"],
        "laguna" => &["mlp.gate.proj"],
        "longcat_flash" | "longcat_flash_ngram" => &["classifier"],
        "step3p5" => &["mlp.gate.gate"],
        "gpt_oss" => &["router"],
        "qwen3_next" | "qwen3_5" | "qwen3_5_moe" => &["mlp.gate", "shared_expert_gate"],
        "granite" => &["self_attn.o_proj", "mlp.down_proj", "lm_head"],
        "granitemoe" => &[
            "block_sparse_moe.router.layer",
            "self_attn.o_proj",
            "mlp.down_proj",
            "lm_head",
        ],
        "granitemoehybrid" => &["router.layer"],
        "lfm2_moe" => &["feed_forward.gate"],
        "minimax" | "minimax_m3_vl" => &["block_sparse_moe.gate"],
        _ => &[],
    }
}

impl<'a> Choices<'a> {
    pub fn new(family: &'a str, options: &'a ConvertOptions, plan: &Plan, layers: usize) -> Result<Self> {
        let down = plan.parts.iter().find(|p| p.path.contains("down_proj"));
        let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let place = down.and_then(|p| p.path.split('.').position(is_number));
        if options.recipe.is_some() && place.is_none() {
            return Err(LmError::Unsupported(
                "a mixed recipe for a model without down_proj in its layers".to_owned(),
            ));
        }
        Ok(Choices {
            family,
            options,
            layers,
            place: place.unwrap_or(0),
            convolved: plan
                .parts
                .iter()
                .filter_map(|p| Some(p.path.split_once("q_conv1d")?.0.to_owned()))
                .collect(),
        })
    }

    /// How a part is packed; `None`: it stays as it is.
    pub fn of(&self, part: &Part) -> Result<Option<Choice>> {
        let (Some(spec), true) = (self.options.quantize, part.matrix) else {
            return Ok(None);
        };
        let is_dense = matches!(part.format, WeightFormat::Dense(_) | WeightFormat::Ggml(_));
        let columns = part.shape.last().copied().unwrap_or(0);
        let path = part.path.as_str();
        let bare = BARE_ROUTERS.contains(&self.family)
            && (path.ends_with("mlp.gate") || path.ends_with("mixer.gate"));
        let kept = bare || self.options.recipe.is_none() && self.kept(path);
        if !is_dense || kept || !columns.is_multiple_of(spec.group_size as usize) {
            return Ok(None);
        }
        if let Some(recipe) = self.options.recipe {
            let spec = QuantSpec {
                bits: self.mixed(recipe, path),
                ..spec
            };
            let noted = json!({"group_size": spec.group_size, "bits": spec.bits, "mode": "affine"});
            return Ok(Some(Choice {
                spec,
                noted: Some(noted),
            }));
        }
        if self.family == "rwkv7" && (path.contains("lora.2") || path.contains("embeddings")) {
            return Ok(Some(Choice {
                spec: FINER,
                noted: Some(json!({"bits": 8})),
            }));
        }
        if !finer(self.family).iter().any(|end| path.ends_with(end)) {
            return Ok(Some(Choice { spec, noted: None }));
        }
        if !columns.is_multiple_of(64) {
            return Err(LmError::Unsupported(format!(
                "{path}: rows of {columns} elements in groups of 64"
            )));
        }
        let noted = Some(json!({"group_size": 64, "bits": 8}));
        Ok(Some(Choice { spec: FINER, noted }))
    }

    /// Whether the family leaves a matrix as it is.
    fn kept(&self, path: &str) -> bool {
        let ends = |all: &[&str]| all.iter().any(|end| path.ends_with(end));
        let layer = path.split('.').find_map(|part| part.parse::<usize>().ok());
        match self.family {
            "bailing_hybrid" => ends(&["attention.embed_q", "attention.unembed_out"]),
            "bailing_moe_v3" => {
                let outer = path == "model.word_embeddings" || path == "lm_head";
                let latent = [
                    "q_a_proj",
                    "q_b_proj",
                    "kv_a_proj_with_mqa",
                    "embed_q",
                    "unembed_out",
                    "b_proj",
                ];
                let of = |part: &str| path.strip_suffix(part).is_some_and(|p| p.ends_with("attention."));
                let linear = ["q_proj", "g_proj"]
                    .iter()
                    .find_map(|part| path.strip_suffix(part));
                let linear = linear.filter(|p| p.ends_with("attention."));
                outer
                    || latent.into_iter().any(of)
                    || linear.is_some_and(|p| !self.convolved.iter().any(|c| c == p))
            }
            "kimi_k3" => ends(&["res_proj"]),
            "spark2_5" => ends(&["self_attn.g_proj"]),
            "muse_spark" => {
                let experts =
                    ["gate_proj", "up_proj", "down_proj"].map(|part| format!(".mlp.experts.{part}"));
                let inner = layer.is_some_and(|l| l > 0 && l + 1 < self.layers);
                !(inner && experts.iter().any(|end| path.ends_with(end.as_str())))
            }
            _ => false,
        }
    }

    fn mixed(&self, recipe: Recipe, path: &str) -> u32 {
        let (low, high) = recipe.bits();
        let index = path
            .split('.')
            .nth(self.place)
            .and_then(|s| s.parse().ok())
            .unwrap_or(0);
        let (n, eighth) = (self.layers, self.layers / 8);
        let edge = index < eighth || index >= 7 * n / 8;
        // Below the first eighth Python's remainder is not negative either: those are at the edge.
        let more = edge || (index - eighth) % 3 == 2;
        let value = ["v_proj", "v_a_proj", "v_b_proj"]
            .iter()
            .any(|part| path.contains(part));
        if more && (value || path.contains("down_proj")) || path.contains("lm_head") {
            return high;
        }
        low
    }
}
