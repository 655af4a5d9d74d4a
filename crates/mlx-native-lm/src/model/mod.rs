//! The decoder: a specification lowered to a program, and executed for every device and every family alike.

mod build;
mod choose;
mod inputs;
mod linear;
mod loader;
mod number;
mod pass;
mod plan;
mod program;
mod rotation;
mod run;
mod state;

use std::collections::HashMap;
use std::sync::Arc;

use mlx_native::weights::ModelWeights;
use mlx_native::{DType, KernelRegistry, MatrixUnits, MlxBuffer, MlxDevice, PreparedGraph};

use build::Built;
pub(crate) use choose::{Choice, Chooser, Wish};
use inputs::Inputs;
use linear::Recorder;
use loader::Loader;
pub(crate) use pass::InFlight;
use pass::Key;
use program::Step;
use run::Pass;
pub(crate) use state::PAGE;
use state::Pool;
pub use state::{LayerState, PagedKv, Recurrent, RotatingKv, SequenceState};

use crate::error::{LmError, Result};
use crate::quantization::QuantizationConfig;
use crate::spec::DecoderSpec;
use crate::tensors::{MlxSource, Source};

/// Activations of one chunk of a prompt stay below this many bytes; a longer prompt is fed in more chunks.
const ACTIVATION_BUDGET: usize = 32 << 20;
/// Devices whose tensor cores need many rows to be busy may take this share of their memory instead.
const ACTIVATION_SHARE: usize = 64;

/// A model on a device: mapped weights, the states of all sequences, and room for the activations of one chunk.
///
/// A step of decoding is recorded once for each number of sequences and each doubling of the longest, and replayed: what
/// changes from step to step is in small buffers of the device.
#[derive(Debug)]
pub struct Decoder {
    spec: DecoderSpec,
    device: MlxDevice,
    registry: KernelRegistry,
    dtype: DType,
    built: Built,
    /// Tokens of a chunk.
    rows: usize,
    inputs: Inputs,
    pool: Arc<Pool>,
    /// Where the head finds rows that had to be gathered.
    gathered: MlxBuffer,
    /// Counts the times that scratch memory was replaced.
    scratch: u64,
    singly: bool,
    /// Whether one recording serves every position, and rows of many sequences can be in a pass.
    is_fixed: bool,
    recorded: HashMap<Key, PreparedGraph>,
    /// What the recordings hold for.
    recorded_for: [u64; 3],
}

/// Which rows of logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None: all but the last chunk of a prompt.
    None,
    /// Those behind the last token.
    Last,
    /// Those behind every token.
    All,
}

/// What one sequence does in a step.
#[derive(Debug)]
pub struct Rows<'a> {
    /// The tokens that come next.
    pub tokens: &'a [u32],
    /// What is kept of the sequence: of this decoder.
    pub state: &'a mut SequenceState,
    /// Which logits are wanted.
    pub wanted: Wanted,
}

impl Decoder {
    /// Builds a model on `device` from `weights`, with activations of `dtype`. Weights stay where they are mapped.
    /// Chunks of a prompt have `prefill_step` tokens at most, fewer where activations would take more than 32 MiB (on devices
    /// with tensor cores, a 64th of their memory).
    ///
    /// # Errors
    /// [`LmError`] naming the field, tensor or operator at fault.
    pub fn new(
        device: &MlxDevice,
        spec: DecoderSpec,
        weights: &ModelWeights,
        quantization: &QuantizationConfig,
        dtype: DType,
        prefill_step: usize,
    ) -> Result<Self> {
        let source = Box::new(MlxSource::new(weights, quantization, device));
        Self::from_source(device, spec, source, dtype, prefill_step)
    }

    /// [`new`](Self::new) with tensors from anywhere.
    pub(crate) fn from_source(
        device: &MlxDevice,
        spec: DecoderSpec,
        source: Box<dyn Source + '_>,
        dtype: DType,
        prefill_step: usize,
    ) -> Result<Self> {
        if !dtype.is_float() {
            return Err(LmError::InvalidArgument(format!(
                "activations of {dtype}: f32, f16 and bf16 are possible"
            )));
        }
        let mut registry = KernelRegistry::new();
        let mut loader = Loader::new(device, &mut registry, source, dtype)?;
        let mut built = build::build(&mut loader, &spec)?;
        loader.encoder.commit_and_wait()?;
        drop(loader);
        let affordable = activation_budget(device) / built.body.bytes_per_row.max(1);
        let rows = prefill_step.clamp(1, affordable.max(1));
        built.body.allocate(device, rows)?;
        built.head.allocate(device, 1)?;
        let pool = Arc::new(Pool::new(device, dtype, &built.states, rows)?);
        let groups = pool.lock().groups.len();
        let inputs = Inputs::new(
            device,
            dtype,
            rows,
            groups,
            built.temperatures.len(),
            &built.own_ids,
        )?;
        let head_input = &built.head.views[built.head_input.0];
        let gathered = head_input.view(0, dtype, head_input.shape().to_vec())?;
        let is_fixed = built.body.steps.iter().all(|step| match step {
            Step::Attend(s) => s.is_maskless(),
            Step::NgramIds { .. } | Step::NgramKeep { .. } => false,
            Step::Rope(s) => s.rotation.table.is_fixed(),
            _ => true,
        });
        Ok(Decoder {
            spec,
            device: device.clone(),
            registry,
            dtype,
            built,
            rows,
            inputs,
            pool,
            gathered,
            scratch: 0,
            singly: false,
            is_fixed,
            recorded: HashMap::new(),
            recorded_for: [0; 3],
        })
    }

    /// What was built.
    #[must_use]
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The device it runs on.
    #[must_use]
    pub fn device(&self) -> &MlxDevice {
        &self.device
    }

    /// The dtype of activations and of the cache.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Tokens that one call of [`forward`](Self::forward) takes at most.
    #[must_use]
    pub fn chunk(&self) -> usize {
        self.rows
    }

    /// Bytes of scratch memory: what the plan of lifetimes makes of the activations of one chunk.
    #[must_use]
    pub fn activation_bytes(&self) -> usize {
        self.built.body.bytes_per_row * self.rows
    }

    /// Bytes of a state for `positions` positions.
    #[must_use]
    pub fn state_bytes(&self, positions: usize) -> usize {
        state::bytes_for(&self.built.states, self.dtype, positions, self.rows)
    }

    /// Whether products take one row at a time, however many there are, and attention its kernels for few rows. A row's bits
    /// then depend on its sequence alone: not on other sequences, nor on how a prompt is cut. Without, that holds within a
    /// family of kernels. A prompt takes as long as decoding it.
    pub fn set_row_independent(&mut self, yes: bool) {
        self.singly = yes;
        self.scratch += 1;
    }

    /// The most bytes that the states of all sequences may take; `None` = what the device has.
    pub fn set_cache_limit(&mut self, bytes: Option<usize>) {
        let bytes = bytes.or(self.device.limits().max_working_set);
        self.pool.lock().set_limit(bytes);
    }

    /// Bytes that the states of all sequences take: the whole pool, used or free.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        self.pool.lock().byte_len()
    }

    /// Bytes of that that no sequence holds.
    #[must_use]
    pub fn free_cache_bytes(&self) -> usize {
        let blocks = self.pool.lock();
        (0..blocks.groups.len())
            .map(|g| blocks.n_free(g) * blocks.block_bytes(g))
            .sum()
    }

    /// Whether a step may be handed over before the host knows the tokens of the last: not where a state that has gone too
    /// far cannot go back, or where the host writes more than ids.
    pub(crate) fn can_run_ahead(&self) -> bool {
        self.is_fixed
            && self.built.temperatures.is_empty()
            && !self
                .built
                .states
                .iter()
                .any(|s| matches!(s, state::StateSpec::Recurrent(_)))
    }

    /// Whether sequences can be in one pass.
    pub(crate) fn is_batched(&self) -> bool {
        self.is_fixed
    }

    /// An empty state with room for at least `positions` positions.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn new_state(&self, positions: usize) -> Result<SequenceState> {
        let bytes = self.state_bytes(positions);
        if let Some(limit) = self
            .device
            .limits()
            .max_working_set
            .filter(|limit| bytes > *limit)
        {
            return Err(LmError::InvalidArgument(format!(
                "a context of {positions} tokens needs {bytes} bytes of keys and values, the device has {limit}"
            )));
        }
        let mut state = SequenceState::new(&self.pool);
        state.reserve(positions)?;
        Ok(state)
    }

    /// Feeds `tokens` behind what `state` holds, and gives the logits behind the last of them.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] for no tokens, more than [`chunk`](Self::chunk), or an id outside the vocabulary; what the
    /// device reports.
    pub fn forward(&mut self, tokens: &[u32], state: &mut SequenceState) -> Result<Vec<f32>> {
        self.one(tokens, state, Wanted::Last)
    }

    /// Like [`forward`](Self::forward), with the logits behind every token: `tokens.len()` rows of `vocab_size`.
    ///
    /// # Errors
    /// As `forward`.
    pub fn forward_all(&mut self, tokens: &[u32], state: &mut SequenceState) -> Result<Vec<f32>> {
        self.one(tokens, state, Wanted::All)
    }

    /// Feeds `tokens` without asking for logits: all but the last chunk of a prompt.
    ///
    /// # Errors
    /// As `forward`.
    pub fn feed(&mut self, tokens: &[u32], state: &mut SequenceState) -> Result<()> {
        self.one(tokens, state, Wanted::None).map(drop)
    }

    fn one(&mut self, tokens: &[u32], state: &mut SequenceState, wanted: Wanted) -> Result<Vec<f32>> {
        let mut rows = [Rows {
            tokens,
            state,
            wanted,
        }];
        Ok(self.step(&mut rows)?.pop().unwrap_or_default())
    }

    /// Computes the rows of many sequences in one pass: decoding ones and chunks of prompts, mixed as one likes. Gives the
    /// logits that each wanted, rows of `vocab_size`. Models with layers whose masks depend on the position (chunked
    /// attention) or with rotations that depend on the length take the sequences one after the other.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] for a sequence without tokens, more than [`chunk`](Self::chunk) tokens in all, an id
    /// outside the vocabulary, or a state of another decoder; what the device reports. The states hold what they held then,
    /// unless the device failed.
    pub fn step(&mut self, rows: &mut [Rows<'_>]) -> Result<Vec<Vec<f32>>> {
        self.check(rows)?;
        if !self.is_fixed && rows.len() > 1 {
            let each = rows
                .chunks_mut(1)
                .map(|row| Ok(self.step(row)?.pop().unwrap_or_default()));
            return each.collect();
        }
        let vocab = self.spec.vocab_size;
        let work = self.submit(rows, false)?;
        work.wait()?;
        let counts = rows.iter().map(Rows::n_logits);
        let logits = self.read_logits(0, counts.clone().sum())?;
        let mut rest = &logits[..];
        let mut parts = counts.map(|n| {
            let (part, others) = rest.split_at(n * vocab);
            rest = others;
            part.to_vec()
        });
        // A single sequence takes all, uncopied.
        if rows.len() == 1 {
            drop(parts);
            return Ok(vec![logits]);
        }
        Ok(parts.by_ref().collect())
    }

    /// `n` rows of the logits of the last pass, from `first` on.
    pub(crate) fn read_logits(&self, first: usize, n: usize) -> Result<Vec<f32>> {
        let vocab = self.spec.vocab_size;
        if n == 0 {
            return Ok(Vec::new());
        }
        read_f32(
            &self.built.head.views[self.built.logits.0],
            self.dtype,
            first * vocab,
            n * vocab,
        )
    }
}

/// Bytes that the activations of one chunk may take.
fn activation_budget(device: &MlxDevice) -> usize {
    let limits = device.limits();
    match (limits.profile.matrix_units, limits.max_working_set) {
        (MatrixUnits::Tensor, Some(bytes)) => ACTIVATION_BUDGET.max(bytes / ACTIVATION_SHARE),
        _ => ACTIVATION_BUDGET,
    }
}

/// `n` elements of `buffer` as f32, from `first` on.
fn read_f32(buffer: &MlxBuffer, dtype: DType, first: usize, n: usize) -> Result<Vec<f32>> {
    let mut out = vec![0f32; n];
    match dtype {
        DType::F16 => {
            let mut half = vec![half::f16::ZERO; n];
            buffer.read_into(first, &mut half)?;
            out.iter_mut().zip(half).for_each(|(o, h)| *o = h.to_f32());
        }
        DType::BF16 => {
            let mut half = vec![half::bf16::ZERO; n];
            buffer.read_into(first, &mut half)?;
            out.iter_mut().zip(half).for_each(|(o, h)| *o = h.to_f32());
        }
        _ => buffer.read_into(first, &mut out)?,
    }
    Ok(out)
}

/// Writes `values` to the first elements of `buffer`, rounded to its dtype.
fn write_f32(buffer: &mut MlxBuffer, values: &[f32]) -> Result<()> {
    match buffer.dtype() {
        DType::F16 => buffer.write(
            0,
            &values.iter().map(|v| half::f16::from_f32(*v)).collect::<Vec<_>>(),
        )?,
        DType::BF16 => buffer.write(
            0,
            &values
                .iter()
                .map(|v| half::bf16::from_f32(*v))
                .collect::<Vec<_>>(),
        )?,
        _ => buffer.write(0, values)?,
    }
    Ok(())
}
