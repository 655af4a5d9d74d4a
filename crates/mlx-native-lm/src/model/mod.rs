//! The decoder: a specification lowered to a program, and executed for every device and every family alike.

mod build;
mod inputs;
mod linear;
mod loader;
mod number;
mod plan;
mod program;
mod rotation;
mod run;
mod state;

use mlx_native::weights::ModelWeights;
use mlx_native::{DType, KernelRegistry, MlxBuffer, MlxDevice};

use build::Built;
use inputs::Inputs;
use linear::Recorder;
use loader::Loader;
use run::Pass;
pub use state::{KvCache, LayerState, RecurrentState, SequenceState};

use crate::error::{LmError, Result};
use crate::quantization::QuantizationConfig;
use crate::spec::DecoderSpec;
use crate::tensors::{MlxSource, Source};

/// Activations of one chunk of a prompt stay below this many bytes; a longer prompt is fed in more chunks.
const ACTIVATION_BUDGET: usize = 32 << 20;

/// A model on a device: mapped weights, and room for the activations of one chunk.
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
}

/// Rows of logits that a caller wants.
#[derive(Clone, Copy)]
enum Logits {
    None,
    Last,
    All,
}

impl Decoder {
    /// Builds a model on `device` from `weights`, with activations of `dtype`. Weights stay where they are mapped.
    /// Chunks of a prompt have `prefill_step` tokens at most, fewer where activations would take more than 32 MiB.
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
        let affordable = ACTIVATION_BUDGET / built.body.bytes_per_row.max(1);
        let rows = prefill_step.clamp(1, affordable.max(1));
        built.body.allocate(device, rows)?;
        built.head.allocate(device, 1)?;
        let inputs = Inputs::new(device, dtype, rows, built.temperatures.len(), &built.own_ids)?;
        Ok(Decoder {
            spec,
            device: device.clone(),
            registry,
            dtype,
            built,
            rows,
            inputs,
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

    /// An empty state for at least `positions` positions.
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
        SequenceState::new(&self.device, self.dtype, &self.built.states, positions, self.rows)
    }

    /// Feeds `tokens` behind what `state` holds, and gives the logits behind the last of them.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] for no tokens, more than [`chunk`](Self::chunk), or an id outside the vocabulary; what the
    /// device reports.
    pub fn forward(&mut self, tokens: &[u32], state: &mut SequenceState) -> Result<Vec<f32>> {
        self.run(tokens, state, Logits::Last)
    }

    /// Like [`forward`](Self::forward), with the logits behind every token: `tokens.len()` rows of `vocab_size`.
    ///
    /// # Errors
    /// As `forward`.
    pub fn forward_all(&mut self, tokens: &[u32], state: &mut SequenceState) -> Result<Vec<f32>> {
        self.run(tokens, state, Logits::All)
    }

    /// Feeds `tokens` without asking for logits: all but the last chunk of a prompt.
    ///
    /// # Errors
    /// As `forward`.
    pub fn feed(&mut self, tokens: &[u32], state: &mut SequenceState) -> Result<()> {
        self.run(tokens, state, Logits::None).map(drop)
    }

    fn run(&mut self, tokens: &[u32], state: &mut SequenceState, wanted: Logits) -> Result<Vec<f32>> {
        let rows = tokens.len();
        self.check(tokens, state)?;
        state.reserve(&self.device, state.len() + rows)?;
        let (start, room) = (state.len(), state.capacity());
        let temperatures = &self.built.temperatures;
        self.inputs
            .write(&self.device, tokens, start, room, temperatures)?;
        let logit_rows = match wanted {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => rows,
        };
        if logit_rows > self.built.head.rows {
            self.built.head.allocate(&self.device, logit_rows)?;
        }
        let mut encoder = self.device.command_encoder()?;
        let mut pass = Pass {
            r: Recorder {
                encoder: &mut encoder,
                registry: &mut self.registry,
                device: &self.device,
            },
            program: &self.built.body,
            inputs: &self.inputs,
            state: Some(state),
            rows,
        };
        pass.record()?;
        if logit_rows > 0 {
            let stream = &self.built.body.views[self.built.stream.0];
            let width = self.spec.hidden_size;
            let first = (rows - logit_rows) * width * self.dtype.size_of();
            let last = stream.view(first, self.dtype, vec![logit_rows * width])?;
            self.built.head.views[self.built.head_input.0] = last;
            pass.program = &self.built.head;
            pass.rows = logit_rows;
            pass.record()?;
        }
        encoder.commit_and_wait()?;
        state.advance(rows);
        let logits = &self.built.head.views[self.built.logits.0];
        read_f32(logits, self.dtype, logit_rows * self.spec.vocab_size)
    }

    fn check(&self, tokens: &[u32], state: &SequenceState) -> Result<()> {
        let rows = tokens.len();
        if rows == 0 || rows > self.rows {
            return Err(LmError::InvalidArgument(format!(
                "forward: {rows} tokens, 1 to {} are possible",
                self.rows
            )));
        }
        let vocab_size = self.spec.vocab_size;
        if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab_size) {
            return Err(LmError::InvalidArgument(format!(
                "token id {id} is outside a vocabulary of {vocab_size}"
            )));
        }
        if let Some((_, rows_of_positions)) = &self.spec.embedding.positions
            && state.len() + rows > *rows_of_positions
        {
            return Err(LmError::InvalidArgument(format!(
                "a context of {} tokens, the model has {rows_of_positions} positions",
                state.len() + rows
            )));
        }
        Ok(())
    }
}

/// The first `n` elements of `buffer` as f32.
fn read_f32(buffer: &MlxBuffer, dtype: DType, n: usize) -> Result<Vec<f32>> {
    let mut out = vec![0f32; n];
    match dtype {
        DType::F16 => {
            let mut half = vec![half::f16::ZERO; n];
            buffer.read_into(0, &mut half)?;
            out.iter_mut().zip(half).for_each(|(o, h)| *o = h.to_f32());
        }
        DType::BF16 => {
            let mut half = vec![half::bf16::ZERO; n];
            buffer.read_into(0, &mut half)?;
            out.iter_mut().zip(half).for_each(|(o, h)| *o = h.to_f32());
        }
        _ => buffer.read_into(0, &mut out)?,
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
