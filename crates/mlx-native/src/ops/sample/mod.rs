//! The next token of every sequence, chosen on the device: penalties, then the likeliest; or top-p, min-p, top-k and a draw.
//!
//! The id is written where the next step reads it, and into a ring that the host reads a step behind. What is wanted of a
//! sequence is data, so that one recording serves any parameters. The arithmetic is in [`rule`], whole numbers throughout:
//! a host that uses it finds the same tokens.

mod cpu;
pub mod rule;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;
use rule::Penalties;

/// The Metal text of the kernels `sample_f32`, `sample_f16`, `sample_bf16`.
pub static SAMPLE_SHADER_SOURCE: &str = include_str!("sample.metal");

pub(crate) static OP: Op = Op {
    name: "sample",
    source: SAMPLE_SHADER_SOURCE,
    kernels: &[
        ("sample_f32", cpu::sample::<f32>),
        ("sample_f16", cpu::sample::<f16>),
        ("sample_bf16", cpu::sample::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// What the ring holds where logits were NaN or infinite, or nothing but negative infinity.
pub const NO_TOKEN: u32 = u32::MAX;

/// Words of [`Sampling::words`].
pub const WORDS: usize = 16;

/// What is wanted for a sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this before the draw; 0 takes the likeliest, the first of equals, and no filter matters.
    pub temperature: f32,
    /// Keeps the likeliest tokens that together have this probability, before temperature; 0 and 1 keep all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the likeliest, before temperature; 0 keeps all.
    pub min_p: f32,
    /// Keeps this many of the likeliest, the lower ids of equals; 0 keeps all.
    pub top_k: u32,
    /// Changes of the logits of tokens that have occurred.
    pub penalties: Penalties,
    /// Seed of the draws.
    pub seed: u64,
}

/// [`Sampling`] as the kernels read it.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Wanted {
    is_on: u32,
    scale: f32,
    top_p: u32,
    min_p: f32,
    top_k: u32,
    repetition: f32,
    repetition_context: u32,
    presence: f32,
    presence_context: u32,
    frequency: f32,
    frequency_context: u32,
    seed_low: u32,
    seed_high: u32,
    unused: [u32; 3],
}

const _: () = assert!(size_of::<Wanted>() == 4 * WORDS);

impl Sampling {
    /// The likeliest token, always.
    pub const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_p: 0.0, min_p: 0.0, top_k: 0, penalties: Penalties::NONE, seed: 0 };

    /// Words of a sequence for which nothing is chosen: nothing of its state changes.
    pub const OFF: [u32; WORDS] = [0; WORDS];

    /// The row of [`SampleState::wanted`] of a sequence.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a probability outside 0 to
    /// 1, a temperature that is negative or not finite, a penalty that is not finite, or a negative one for repetition.
    pub fn words(&self) -> Result<[u32; WORDS]> {
        let Sampling { temperature, top_p, min_p, top_k, penalties, seed } = *self;
        for (name, value) in [("top_p", top_p), ("min_p", min_p)] {
            if !(0.0..=1.0).contains(&value) {
                return invalid!("sample: {name} is {value}, it must be from 0 to 1");
            }
        }
        for (name, value) in [("temperature", temperature), ("repetition", penalties.repetition)] {
            if !(value.is_finite() && value >= 0.0) {
                return invalid!("sample: {name} is {value}, it must be finite, and 0 or more");
            }
        }
        for (name, value) in [("presence", penalties.presence), ("frequency", penalties.frequency)] {
            if !value.is_finite() {
                return invalid!("sample: {name} is {value}, it must be finite");
            }
        }
        Ok(bytemuck::cast(Wanted {
            is_on: 1,
            scale: if temperature == 0.0 { 0.0 } else { rule::scale(temperature) },
            top_p: if top_p > 0.0 && top_p < 1.0 { rule::fraction(top_p) } else { 0 },
            min_p: if min_p > 0.0 { libm::logf(min_p) } else { f32::NEG_INFINITY },
            top_k,
            // 0 changes nothing either: as the host's sampler has it.
            repetition: if penalties.repetition == 0.0 { 1.0 } else { penalties.repetition },
            repetition_context: penalties.repetition_context,
            presence: penalties.presence,
            presence_context: penalties.presence_context,
            frequency: penalties.frequency,
            frequency_context: penalties.frequency_context,
            seed_low: seed as u32,
            seed_high: (seed >> 32) as u32,
            unused: [0; 3],
        }))
    }
}

/// What choosing reads and writes, all u32.
#[derive(Debug, Clone, Copy)]
pub struct SampleState<'a> {
    /// `[n_seqs, 16]`: [`Sampling::words`] of each sequence.
    pub wanted: &'a MlxBuffer,
    /// `[n_seqs + 1]`: where the next step has the rows of each sequence.
    pub seq_starts: &'a MlxBuffer,
    /// `[n_seqs, history_len]`: rings of the latest tokens; token `n` of a sequence is at `n % history_len`.
    pub history: &'a MlxBuffer,
    /// `[n_seqs, 2]`: tokens of the history so far, the prompt's included, and tokens chosen so far. Both are counted on.
    pub counts: &'a MlxBuffer,
    /// `[n_ids]`: the next step's ids. The chosen one is written to the first row of its sequence, if it has one; 0 for
    /// [`NO_TOKEN`].
    pub ids: &'a MlxBuffer,
    /// `[n_seqs, ring_len]`: choice `n` of a sequence is at `n % ring_len`.
    pub ring: &'a MlxBuffer,
}

/// Sizes of a choice. Also the parameter struct of the kernels: `repr(C)`, 24 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SampleParams {
    /// Sequences.
    pub n_seqs: u32,
    /// Logits of each.
    pub vocab: u32,
    /// Tokens that the history of a sequence has room for: at least [`Penalties::context`], and 1.
    pub history_len: u32,
    /// Choices that the ring of a sequence has room for.
    pub ring_len: u32,
    /// Rows of the next step.
    pub n_ids: u32,
    /// Elements from the logits of one sequence to the next; 0 for `vocab`.
    pub logits_stride: u32,
}

/// Records the choice of the next token of every sequence whose [`SampleState::wanted`] is not [`Sampling::OFF`].
///
/// `logits` is `[n_seqs, vocab]`, f32, f16 or bf16, and stays as it is; everything is computed from its values in f32. Order:
/// penalties for repetition, presence and frequency; at temperature 0 the likeliest; else top-p, min-p, top-k, each on what
/// the one before left; then a draw of [`rule::random`] with the number of choices so far as its counter. Logits that are NaN
/// or infinite after penalties, or nothing but negative infinity, give [`NO_TOKEN`] in the ring and leave the history.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `logits_stride`
/// below `vocab`, a buffer of another dtype or too small, or buffers that are written and share memory with another.
pub fn sample(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    logits: &MlxBuffer,
    state: &SampleState<'_>,
    params: &SampleParams,
) -> Result<()> {
    let p = validate(logits, state, params)?;
    let n_values = check::product("sample", "logits", &[p.n_seqs, p.vocab])?;
    let values = registry.scratch(device, n_values * size_of::<f32>())?;
    let kernel = check::by_float(logits.dtype(), ["sample_f32", "sample_f16", "sample_bf16"]);
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(logits)),
            (1, KernelArg::Buffer(&values)),
            (2, KernelArg::Buffer(state.wanted)),
            (3, KernelArg::Buffer(state.seq_starts)),
            (4, KernelArg::Buffer(state.history)),
            (5, KernelArg::Buffer(state.counts)),
            (6, KernelArg::Buffer(state.ids)),
            (7, KernelArg::Buffer(state.ring)),
            (8, KernelArg::Bytes(as_bytes(&p))),
        ],
        MTLSize::new(u64::from(p.n_seqs), 1, 1),
        MTLSize::new(check::row_threads(p.vocab), 1, 1),
    )
}

/// Checks everything; gives the parameters with the stride filled in.
fn validate(logits: &MlxBuffer, state: &SampleState<'_>, params: &SampleParams) -> Result<SampleParams> {
    const OP: &str = "sample";
    let mut p = *params;
    check::nonzero(
        OP,
        &[
            ("n_seqs", p.n_seqs),
            ("vocab", p.vocab),
            ("history_len", p.history_len),
            ("ring_len", p.ring_len),
            ("n_ids", p.n_ids),
        ],
    )?;
    check::row_length(OP, "vocab", p.vocab)?;
    if p.logits_stride == 0 {
        p.logits_stride = p.vocab;
    }
    if p.logits_stride < p.vocab {
        return invalid!("{OP}: logits_stride is {}, vocab {}", p.logits_stride, p.vocab);
    }
    check::same_float(OP, &[("logits", logits)])?;
    let before_last = check::product(OP, "logits", &[p.n_seqs - 1, p.logits_stride])?;
    check::holds(OP, "logits", logits, before_last.saturating_add(p.vocab as usize))?;
    let n = p.n_seqs as usize;
    let words = [
        ("wanted", state.wanted, check::product(OP, "wanted", &[p.n_seqs, WORDS as u32])?),
        ("seq_starts", state.seq_starts, n + 1),
        ("history", state.history, check::product(OP, "history", &[p.n_seqs, p.history_len])?),
        ("counts", state.counts, check::product(OP, "counts", &[p.n_seqs, 2])?),
        ("ids", state.ids, p.n_ids as usize),
        ("ring", state.ring, check::product(OP, "ring", &[p.n_seqs, p.ring_len])?),
    ];
    for (i, (name, buffer, elements)) in words.iter().enumerate() {
        check::dtype(OP, name, buffer, &[DType::U32])?;
        check::holds(OP, name, buffer, *elements)?;
        // The first two are read only, all others are written.
        if i >= 2 {
            check::disjoint(OP, (name, buffer), &[("logits", logits)])?;
            for (other, read, _) in &words[..i] {
                check::disjoint(OP, (name, buffer), &[(other, read)])?;
            }
        }
    }
    Ok(p)
}
