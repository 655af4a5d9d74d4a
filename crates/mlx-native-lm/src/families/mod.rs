//! The model families: what maps a configuration to a decoder. A family is one file here and one line of the list below.

mod common;
mod experts;

use crate::config::{ConfigFile, FamilyInput};
use crate::error::{LmError, Result};
use crate::spec::DecoderSpec;

/// A family of models of one shape.
#[derive(Debug)]
pub struct Family {
    /// Its `model_type`.
    pub name: &'static str,
    /// Other `model_type`s of models that are the same in all but name.
    pub also: &'static [&'static str],
    /// Makes a specification of the configuration and of the tensors there are.
    pub spec: fn(&FamilyInput<'_>) -> Result<DecoderSpec>,
}

macro_rules! families {
    ($($family:ident),* $(,)?) => {
        $(mod $family;)*

        /// Every family that can be run.
        pub static FAMILIES: &[Family] = &[$($family::FAMILY),*];
    };
}

// The list: one line for each family.
families! {
    afm7,
    afmoe,
    apertus,
    baichuan_m1,
    bailing_hybrid,
    bailing_moe,
    bailing_moe_linear,
    bitnet,
    cohere,
    cohere2,
    dbrx,
    deepseek,
    deepseek_v2,
    deepseek_v3,
    deepseek_v32,
    dots1,
    ernie4_5,
    ernie4_5_moe,
    exaone,
    exaone4,
    exaone_moe,
    falcon_h1,
    gear,
    gemma,
    gemma2,
    gemma3,
    gemma3_text,
    gemma3n,
    gemma4,
    gemma4_text,
    glm,
    glm4,
    glm4_moe,
    glm4_moe_lite,
    gpt2,
    gpt_bigcode,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    granitemoe,
    granitemoehybrid,
    helium,
    hunyuan,
    hunyuan_v1_dense,
    internlm2,
    internlm3,
    iquestloopcoder,
    jamba,
    kimi_k25,
    kimi_k3,
    kimi_linear,
    klear,
    laguna,
    lfm2,
    lfm2_moe,
    lfm2_vl,
    lille_130m,
    llama,
    llama4,
    llama4_text,
    longcat_flash,
    longcat_flash_ngram,
    mamba,
    mamba2,
    mellum,
    mimo,
    mimo_v2_flash,
    minicpm,
    minicpm3,
    minimax,
    minimax_m3_vl,
    ministral3,
    mistral3,
    mistral4,
    mixtral,
    muse_glimmer,
    muse_spark,
    nanbeige,
    nanochat,
    nemotron,
    nemotron_h,
    nemotron_nas,
    olmo,
    olmo2,
    olmo3,
    olmo_hybrid,
    olmoe,
    openelm,
    phi,
    phi3,
    phi3small,
    phimoe,
    phixtral,
    pixtral,
    plamo,
    plamo2,
    plamo3,
    prism_hadamard_qwen35,
    qwen,
    qwen2,
    qwen2_moe,
    qwen2_vl,
    qwen3,
    qwen3_5,
    qwen3_5_moe,
    qwen3_moe,
    qwen3_next,
    qwen3_vl,
    qwen3_vl_moe,
    recurrent_gemma,
    rwkv7,
    seed_oss,
    smollm3,
    spark2_5,
    stablelm,
    starcoder2,
    step3p5,
    talkie,
    telechat3,
    youtu_llm,
}

impl Family {
    /// The family of a configuration, by its `model_type`.
    ///
    /// # Errors
    /// [`LmError::Unsupported`], listing the families there are; [`LmError::Config`] when `model_type` is missing.
    pub fn of(config: &ConfigFile) -> Result<&'static Family> {
        let wanted = config.model_type()?;
        FAMILIES
            .iter()
            .find(|f| f.name == wanted || f.also.contains(&wanted))
            .ok_or_else(|| {
                let mut known: Vec<&str> = FAMILIES
                    .iter()
                    .flat_map(|f| std::iter::once(f.name).chain(f.also.iter().copied()))
                    .collect();
                known.sort_unstable();
                LmError::Unsupported(format!(
                    "config.json: model_type {wanted:?}; supported: {}",
                    known.join(", ")
                ))
            })
    }
}
