//! Which steps bring a family's tensors from Hugging Face's layout to MLX's: what mlx-lm 0.32.2 does when it loads such a
//! folder. What it drops is listed by the families themselves.

mod own;

use super::layout::Step::{
    self, Apart, Conv, Drop, Halves, Other, PlusOne, Rename, Stack, Turned, TurnedHalves, Under,
};
use super::layout::has;
use own::{
    apertus, dbrx, falcon_h1, flat, gpt2, granite_dense, harmony, hunyuan, minimax_m3, mistral3, rwkv7,
    together, unit_columns, unit_rows, words,
};

const NAMED: &[(&str, &str)] = &[
    ("gate_proj", "gate_proj"),
    ("up_proj", "up_proj"),
    ("down_proj", "down_proj"),
];
const NUMBERED: &[(&str, &str)] = &[("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")];
const MLP: Step = Stack {
    at: ".mlp.experts.",
    to: ".mlp.switch_mlp.",
    parts: NAMED,
};
const IN_PLACE: Step = Stack {
    at: ".mlp.experts.",
    to: ".mlp.experts.",
    parts: NAMED,
};
const BLOCK_SPARSE: Step = Stack {
    at: ".block_sparse_moe.experts.",
    to: ".block_sparse_moe.switch_mlp.",
    parts: NUMBERED,
};
const CONV1D: Step = Conv(&["conv1d.weight"]);
const NORMS: &[&str] = &[
    ".input_layernorm.weight$",
    ".post_attention_layernorm.weight$",
    "model.norm.weight$",
    ".q_norm.weight$",
    ".k_norm.weight$",
];
const GATE: Step = Rename(&[
    (".mlp.gate.weight$", ".mlp.gate.gate_proj.weight"),
    (".mlp.gate.bias$", ".mlp.gate.gate_proj.bias"),
]);
const DROP_VISION: Step = Drop(&["^visual.", "^vision_tower", "^model.visual"]);
const GATE_AND_UP: [&str; 2] = [
    ".mlp.switch_mlp.gate_proj.weight",
    ".mlp.switch_mlp.up_proj.weight",
];
const DOWN: Step = Rename(&[(".mlp.experts.down_proj$", ".mlp.switch_mlp.down_proj.weight")]);
const FUSED: Step = Halves(".mlp.experts.gate_up_proj$", GATE_AND_UP);
const GEMMA_A: Step = Halves(
    ".experts.gate_up_proj$",
    [
        ".experts.switch_glu.gate_proj.weight",
        ".experts.switch_glu.up_proj.weight",
    ],
);
const GEMMA_B: Step = Rename(&[(".experts.down_proj$", ".experts.switch_glu.down_proj.weight")]);
const GRANITE_A: Step = Halves(
    ".block_sparse_moe.input_linear.weight$",
    [
        ".block_sparse_moe.switch_mlp.gate_proj.weight",
        ".block_sparse_moe.switch_mlp.up_proj.weight",
    ],
);
const GRANITE_B: Step = Rename(&[(
    ".block_sparse_moe.output_linear.weight$",
    ".block_sparse_moe.switch_mlp.down_proj.weight",
)]);
const KIMI_EXPERTS: Step = Stack {
    at: ".block_sparse_moe.experts.",
    to: ".mlp.switch_mlp.",
    parts: NUMBERED,
};
const KIMI_NAMES: Step = Rename(&[
    (
        ".block_sparse_moe.gate.e_score_correction_bias$",
        ".mlp.e_score_correction_bias",
    ),
    (".block_sparse_moe.", ".mlp."),
    (".q_conv1d.weight$", ".q_conv.conv.weight"),
    (".k_conv1d.weight$", ".k_conv.conv.weight"),
    (".v_conv1d.weight$", ".v_conv.conv.weight"),
]);
const KIMI_CONVS: Step = Conv(&["_conv.conv.weight$"]);
const QWEN35_A: Step = DROP_VISION;
const QWEN35_B: Step = PlusOne {
    raw: |t| {
        t.names()
            .any(|n| n.contains("conv1d.weight") && t.info(n).is_some_and(|i| i.shape.last() != Some(&1)))
    },
    ends: NORMS,
};
const QWEN35_C: Step = Rename(&[("^model.language_model", "language_model.model")]);
const QWEN35_D: Step = Under("language_model.");

/// The families' steps.
pub(super) static LAYOUTS: &[(&[&str], &[Step])] = &[
    (
        &[
            "deepseek",
            "deepseek_v2",
            "ernie4_5_moe",
            "glm4_moe",
            "mellum",
            "mimo_v2_flash",
            "olmoe",
            "qwen2_moe",
            "qwen3_moe",
        ],
        &[MLP],
    ),
    (&["Klear", "klear", "afmoe", "dots1"], &[IN_PLACE]),
    (
        &[
            "deepseek_v3",
            "deepseek_v32",
            "glm4_moe_lite",
            "kimi_k25",
            "longcat_flash",
            "bailing_moe_v3",
        ],
        &[MLP, Apart, Conv(&["_conv1d.weight"])],
    ),
    (
        &["longcat_flash_ngram"],
        &[
            MLP,
            Apart,
            Rename(&[(
                "^model.embed_tokens.weight$",
                "model.ngram_embeddings.word_embeddings.weight",
            )]),
        ],
    ),
    (&["baichuan_m1"], &[Other(unit_rows)]),
    (
        &["bailing_hybrid", "bailing_moe", "bailing_moe_linear"],
        &[MLP, GATE, Apart, Other(unit_columns)],
    ),
    (&["mixtral", "minimax", "phimoe"], &[BLOCK_SPARSE]),
    (
        &["exaone_moe"],
        &[
            Rename(&[(
                ".mlp.e_score_correction_bias$",
                ".mlp.gate.e_score_correction_bias",
            )]),
            MLP,
        ],
    ),
    (&["mamba", "mamba2", "olmo_hybrid", "plamo2"], &[CONV1D]),
    (&["recurrent_gemma"], &[Conv(&["conv_1d.weight"])]),
    (&["gear"], &[Conv(&["key_conv.weight$", "value_conv.weight$"])]),
    (&["lfm2", "lfm2-vl"], &[Conv(&["conv.weight"])]),
    (
        &["lfm2_moe"],
        &[
            Conv(&["conv.weight"]),
            Rename(&[
                ("w1.weight", "gate_proj.weight"),
                ("w2.weight", "down_proj.weight"),
                ("w3.weight", "up_proj.weight"),
            ]),
            Stack {
                at: ".feed_forward.experts.",
                to: ".feed_forward.switch_mlp.",
                parts: NAMED,
            },
        ],
    ),
    (
        &["jamba"],
        &[
            CONV1D,
            Stack {
                at: ".feed_forward.experts.",
                to: ".feed_forward.switch_mlp.",
                parts: NAMED,
            },
        ],
    ),
    (
        &["nemotron_h"],
        &[
            Drop(&["^mtp."]),
            CONV1D,
            Stack {
                at: ".mixer.experts.",
                to: ".mixer.switch_mlp.",
                parts: &[("down_proj", "fc2"), ("up_proj", "fc1")],
            },
        ],
    ),
    (
        &["phixtral"],
        &[Stack {
            at: ".moe.mlp.",
            to: ".moe.switch_mlp.",
            parts: &[("fc1", "fc1"), ("fc2", "fc2")],
        }],
    ),
    (
        &["qwen3_next"],
        &[
            Drop(&["mtp."]),
            PlusOne {
                raw: |t| t.names().any(|n| has(n, ".mlp.experts.0.up_proj.weight$")),
                ends: NORMS,
            },
            MLP,
            CONV1D,
        ],
    ),
    (
        &["qwen3_5", "qwen3_5_moe", "prism_hadamard_qwen35"],
        &[
            Drop(&["mtp."]),
            QWEN35_A,
            QWEN35_B,
            QWEN35_C,
            QWEN35_D,
            FUSED,
            DOWN,
            CONV1D,
        ],
    ),
    (
        &["qwen2_vl", "qwen3_vl"],
        &[
            DROP_VISION,
            Rename(&[("^model.language_model.", "language_model.model.")]),
            Under("language_model."),
        ],
    ),
    (
        &["qwen3_vl_moe"],
        &[
            DROP_VISION,
            Rename(&[
                ("^model.language_model.", "language_model.model."),
                ("^lm_head.", "language_model.lm_head."),
            ]),
            TurnedHalves(".mlp.experts.gate_up_proj$", GATE_AND_UP),
            Turned(".mlp.experts.down_proj$", ".mlp.switch_mlp.down_proj.weight"),
        ],
    ),
    (
        &["llama4"],
        &[
            TurnedHalves(
                ".feed_forward.experts.gate_up_proj$",
                [
                    ".feed_forward.experts.gate_proj.weight",
                    ".feed_forward.experts.up_proj.weight",
                ],
            ),
            Turned(
                ".feed_forward.experts.down_proj$",
                ".feed_forward.experts.down_proj.weight",
            ),
        ],
    ),
    (
        &["mistral3", "mistral4"],
        &[
            Drop(&["vision_tower", "multi_modal_projector"]),
            Other(mistral3),
            FUSED,
            DOWN,
            MLP,
            Apart,
        ],
    ),
    (
        &["gemma4"],
        &[
            Drop(&[
                "^model.vision_tower",
                "^model.multi_modal_projector",
                "^model.audio_tower",
                "^model.embed_audio",
                "^model.embed_vision",
                "^model.vision_embedder",
            ]),
            Rename(&[
                ("^model.language_model.", "language_model.model."),
                ("^model.", ""),
            ]),
            GEMMA_A,
            GEMMA_B,
        ],
    ),
    (&["gemma4_text"], &[GEMMA_A, GEMMA_B]),
    (&["granitemoe"], &[GRANITE_A, GRANITE_B]),
    (
        &["granitemoehybrid"],
        &[CONV1D, GRANITE_A, GRANITE_B, Other(granite_dense)],
    ),
    (
        &["gpt_neox"],
        &[
            Under("model."),
            Rename(&[(".gpt_neox.layers.", ".h."), (".gpt_neox.", ".")]),
        ],
    ),
    (&["gptj"], &[Rename(&[("transformer.", "model.")])]),
    (
        &["spark2_5"],
        &[Rename(&[(
            "^model.embed_tokens.weight$",
            "model.embedding.weight",
        )])],
    ),
    (
        &["laguna"],
        &[
            Rename(&[
                ("^language_model.", ""),
                (".mlp.gate.weight$", ".mlp.gate.proj.weight"),
                (
                    ".mlp.experts.e_score_correction_bias$",
                    ".mlp.gate.e_score_correction_bias",
                ),
            ]),
            MLP,
        ],
    ),
    (
        &["muse_glimmer"],
        &[Rename(&[
            ("^language_model.model.", "model."),
            ("^language_model.lm_head.", "lm_head."),
            ("^model.language_model.", "model."),
        ])],
    ),
    (
        &["step3p5"],
        &[
            PlusOne {
                raw: |t| {
                    t.names().any(|n| {
                        n.contains(".moe.")
                            || n.contains(".share_expert.") && !n.contains(".mlp.share_expert.")
                    })
                },
                ends: &["norm.weight$"],
            },
            Rename(&[
                (".moe.gate_proj.", ".mlp.switch_mlp.gate_proj."),
                (".moe.up_proj.", ".mlp.switch_mlp.up_proj."),
                (".moe.down_proj.", ".mlp.switch_mlp.down_proj."),
                (".moe.gate.", ".mlp.gate.gate."),
                (".moe.router_bias", ".mlp.gate.router_bias"),
                (".mlp.share_expert.", ".share_expert."),
                (".share_expert.", ".mlp.share_expert."),
            ]),
        ],
    ),
    (
        &["kimi_linear"],
        &[KIMI_EXPERTS, KIMI_NAMES, KIMI_CONVS, Other(flat), Apart],
    ),
    (
        &["kimi_k3"],
        &[
            Drop(&[
                "^vision_tower",
                "^vision_model",
                "^multi_modal_projector",
                "^mm_projector",
            ]),
            Under("language_model."),
            Rename(&[
                (
                    "self_attention_res.proj_weight$",
                    "self_attention_res_proj.weight",
                ),
                (
                    "self_attention_res.norm_weight$",
                    "self_attention_res_norm.weight",
                ),
                ("mlp_res.proj_weight$", "mlp_res_proj.weight"),
                ("mlp_res.norm_weight$", "mlp_res_norm.weight"),
                ("output_attn_res.proj_weight$", "output_attn_res_proj.weight"),
                ("output_attn_res.norm_weight$", "output_attn_res_norm.weight"),
            ]),
            Other(words),
            KIMI_EXPERTS,
            KIMI_NAMES,
            KIMI_CONVS,
            Other(flat),
            Other(together),
            Apart,
        ],
    ),
    (&["gpt_oss"], &[Other(harmony)]),
    (&["gpt2"], &[Other(gpt2)]),
    (&["apertus"], &[Other(apertus)]),
    (&["rwkv7"], &[Other(rwkv7)]),
    (&["dbrx"], &[Other(dbrx)]),
    (&["hunyuan"], &[Other(hunyuan), MLP]),
    (&["falcon_h1"], &[Other(falcon_h1)]),
    (&["minimax_m3_vl"], &[Other(minimax_m3), BLOCK_SPARSE]),
];

#[cfg(test)]
mod tests;
