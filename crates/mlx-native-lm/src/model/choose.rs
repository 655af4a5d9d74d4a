//! Choosing tokens on the device: the next id is written where the next step reads it, and into a ring for the host.

use std::collections::HashMap;

use mlx_native::ops::sample::{NO_TOKEN, SampleParams, SampleState, Sampling, WORDS, sample};
use mlx_native::{ComputeGraph, DType, MlxBuffer, MlxDevice, PreparedGraph, Replay};

use super::Decoder;
use super::inputs::Words;
use super::number::u32_of;
use super::pass::bucket;
use crate::error::{LmError, Result};

/// Tokens of a history on the device; penalties that look further back are the host's.
const HISTORY: usize = 1024;

/// What is wanted for a sequence.
pub(crate) struct Wish<'a> {
    /// `None` where the host chooses.
    pub sampling: Option<Sampling>,
    /// All tokens so far, the prompt's included.
    pub history: &'a [u32],
    /// Tokens chosen so far.
    pub count: u64,
}

/// The device's side of choosing, for a number of sequences in an order that stays until [`set`](Self::set).
#[derive(Debug)]
pub(crate) struct Chooser {
    device: MlxDevice,
    seqs: usize,
    wanted: Words,
    starts: Words,
    history: MlxBuffer,
    counts: MlxBuffer,
    /// Two, so that one can be read while a step writes the other.
    rings: [MlxBuffer; 2],
    next: usize,
    graphs: HashMap<(usize, usize), PreparedGraph>,
    /// The decoder's scratch memory that the graphs are for.
    graphs_for: u64,
}

/// A choice that the device is at.
#[derive(Debug)]
pub(crate) struct Choice {
    replay: Replay,
    ring: usize,
}

impl Chooser {
    pub fn new(decoder: &Decoder) -> Result<Self> {
        Self::sized(&decoder.device, 1)
    }

    fn sized(device: &MlxDevice, seqs: usize) -> Result<Self> {
        let words = |n: usize| Ok::<_, LmError>(device.alloc_tensor(DType::U32, &[n])?);
        let mut starts = Words::new(device, seqs + 1)?;
        starts.set(&(0..=seqs).map(u32_of).collect::<Result<Vec<_>>>()?)?;
        Ok(Chooser {
            device: device.clone(),
            seqs,
            wanted: Words::new(device, seqs * WORDS)?,
            starts,
            history: words(seqs * HISTORY)?,
            counts: words(seqs * 2)?,
            rings: [words(seqs)?, words(seqs)?],
            next: 0,
            graphs: HashMap::new(),
            graphs_for: 0,
        })
    }

    /// Whether the device can do it for a vocabulary of `vocab` tokens.
    pub fn can(sampling: &Sampling, vocab: usize) -> bool {
        let fits = sampling.temperature == 0.0 || (sampling.top_k as usize) < vocab;
        fits && sampling.penalties.context() as usize <= HISTORY
    }

    /// From now on row `i` of the logits is of `wishes[i]`.
    pub fn set(&mut self, wishes: &[Wish<'_>]) -> Result<()> {
        let n = bucket(wishes.len());
        if n > self.seqs {
            *self = Self::sized(&self.device, n.next_power_of_two())?;
        }
        let mut words = Vec::with_capacity(self.seqs * WORDS);
        let mut counts = Vec::with_capacity(self.seqs * 2);
        for (i, wish) in wishes.iter().enumerate() {
            words.extend(match &wish.sampling {
                Some(sampling) => sampling.words()?,
                None => Sampling::OFF,
            });
            counts.extend([u32_of(wish.history.len())?, wish.count as u32]);
            let context = wish.sampling.map_or(0, |s| s.penalties.context());
            let len = wish.history.len();
            if context > 0 {
                let mut ring = vec![0u32; HISTORY];
                for at in len.saturating_sub(HISTORY)..len {
                    ring[at % HISTORY] = wish.history[at];
                }
                self.history.write(i * HISTORY, &ring)?;
            }
        }
        words.resize(self.seqs * WORDS, 0);
        self.wanted.set(&words)?;
        Ok(self.counts.write(0, &counts)?)
    }

    /// Chooses for the first `n` rows of the decoder's last pass.
    pub fn choose(&mut self, decoder: &mut Decoder, n: usize) -> Result<Choice> {
        let ring = self.next;
        self.next = 1 - self.next;
        if self.graphs_for != decoder.scratch {
            self.graphs.clear();
            self.graphs_for = decoder.scratch;
        }
        let rows = bucket(n);
        if !self.graphs.contains_key(&(rows, ring)) {
            let graph = self.record(decoder, rows, ring)?;
            self.graphs.insert((rows, ring), graph);
        }
        Ok(Choice {
            replay: self.graphs[&(rows, ring)].replay()?,
            ring,
        })
    }

    fn record(&self, decoder: &mut Decoder, rows: usize, ring: usize) -> Result<PreparedGraph> {
        let mut encoder = self.device.command_encoder()?;
        encoder.start_capture();
        let params = SampleParams {
            n_seqs: u32_of(rows)?,
            vocab: u32_of(decoder.spec.vocab_size)?,
            history_len: HISTORY as u32,
            ring_len: 1,
            n_ids: u32_of(decoder.inputs.ids.element_count())?,
            logits_stride: 0,
        };
        let state = SampleState {
            wanted: self.wanted.buffer(),
            seq_starts: self.starts.buffer(),
            history: &self.history,
            counts: &self.counts,
            ids: &decoder.inputs.ids,
            ring: &self.rings[ring],
        };
        let logits = &decoder.built.head.views[decoder.built.logits.0];
        sample(
            &mut encoder,
            &mut decoder.registry,
            &self.device,
            logits,
            &state,
            &params,
        )?;
        let nodes = encoder.take_capture().unwrap_or_default();
        Ok(ComputeGraph::from_nodes(nodes).prepare(&self.device)?)
    }

    /// What was chosen for the first `n` rows; waits for it.
    pub fn read(&self, choice: &Choice, n: usize) -> Result<Vec<u32>> {
        choice.replay.wait()?;
        let mut ids = vec![0u32; n];
        self.rings[choice.ring].read_into(0, &mut ids)?;
        if ids.contains(&NO_TOKEN) {
            return Err(LmError::Logits(
                "they are NaN or infinite, or all are negative infinity: the weights are damaged, or overflow".to_owned(),
            ));
        }
        Ok(ids)
    }
}
