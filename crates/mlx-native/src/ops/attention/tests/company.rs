//! A row gives the same bits in any company: alone, in a batch, in chunks, paged in any order, in a larger bucket.
#![cfg(test)]

use super::super::Dense;
use super::super::record::{Buffers, Layout, record};
use super::*;
use crate::testing::{TestDevice, test_devices};
use crate::{KernelRegistry, MlxBuffer, MlxDevice};

const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;

/// Everything of one sequence, and how to compute it.
struct Text {
    dim: usize,
    len: usize,
    /// `[len, heads, dim]`.
    q: Vec<f32>,
    /// `[kv_heads, len, dim]` each.
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Text {
    fn new(seed: u64, dim: usize, len: usize) -> Self {
        let mut rng = Rng::new(seed);
        let mut normal = |n: usize| (0..n * dim * len).map(|_| rng.normal()).collect();
        Text { dim, len, q: normal(HEADS as usize), k: normal(KV_HEADS as usize), v: normal(KV_HEADS as usize) }
    }

    fn query(&self, row: usize) -> &[f32] {
        let width = HEADS as usize * self.dim;
        &self.q[row * width..(row + 1) * width]
    }
}

/// Some rows of some texts in one step.
struct Step<'a> {
    /// Text, first row, rows; keys are those up to the last row.
    parts: Vec<(&'a Text, usize, usize)>,
    block_size: u32,
    spare: u32,
    window: u32,
    family: Family,
}

fn filled<T: bytemuck::Pod>(device: &MlxDevice, dtype: DType, values: &[T]) -> MlxBuffer {
    let mut buffer = device.alloc_tensor(dtype, &[values.len().max(1)]).expect("memory for a test");
    buffer.write(0, values).expect("as large");
    buffer
}

impl Step<'_> {
    /// The rows' outputs, in the order of the parts.
    fn run(&self, device: &MlxDevice) -> Vec<Vec<u32>> {
        let dim = self.parts[0].0.dim;
        let seqs: Vec<(u32, u32)> = self.parts.iter().map(|p| (p.2 as u32, (p.1 + p.2) as u32)).collect();
        let c = AttentionCase {
            block_size: self.block_size,
            spare: self.spare,
            window: self.window,
            family: self.family,
            ..case((HEADS, KV_HEADS), dim as u32, &seqs)
        };
        let (p, table) = (c.params(), c.table());
        let mut pools = [(); 2].map(|()| {
            vec![f32::NAN; (p.pool.n_blocks * KV_HEADS * p.pool.block_size) as usize * dim]
        });
        let mut q = Vec::new();
        for (s, (text, first, rows)) in self.parts.iter().enumerate() {
            (*first..first + rows).for_each(|row| q.extend_from_slice(text.query(row)));
            for (pool, from) in pools.iter_mut().zip([&text.k, &text.v]) {
                for head in 0..KV_HEADS as usize {
                    for key in 0..first + rows {
                        let to = c.pool_row(&table, s, head, key) * dim;
                        pool[to..to + dim].copy_from_slice(&from[(head * text.len + key) * dim..][..dim]);
                    }
                }
            }
        }
        let [k, v] = pools.map(|pool| filled(device, DType::F32, &pool));
        let (q, output) = (filled(device, DType::F32, &q), device.alloc_tensor(DType::F32, &[q.len()]).expect("memory"));
        let state = KvState {
            block_table: &filled(device, DType::U32, &table),
            seq_starts: &filled(device, DType::U32, &starts(&c.rows())),
            kv_lens: &filled(device, DType::U32, &c.lens()[0]),
        };
        let mut encoder = device.command_encoder().expect("an encoder");
        let (mut registry, extras) = (KernelRegistry::new(), Extras::default());
        attention(&mut encoder, &mut registry, device, &q, &k, &v, &output, &extras, &state, &p).expect("valid");
        encoder.commit_and_wait().expect("runs");
        let bits: Vec<u32> = output.read::<f32>().expect("a read").iter().map(|x| x.to_bits()).collect();
        bits.chunks_exact(HEADS as usize * dim).map(<[u32]>::to_vec).collect()
    }
}

/// A text over a dense cache, heads first.
fn dense(device: &MlxDevice, text: &Text, first: usize, rows: usize, family: Family) -> Vec<Vec<u32>> {
    let (dim, heads) = (text.dim, HEADS as usize);
    let mut q = Vec::new();
    for head in 0..heads {
        (first..first + rows).for_each(|row| q.extend_from_slice(&text.query(row)[head * dim..(head + 1) * dim]));
    }
    let [q, k, v] = [&q, &text.k, &text.v].map(|x| filled(device, DType::F32, x));
    let output = device.alloc_tensor(DType::F32, &[heads * rows * dim]).expect("memory");
    let layout = Dense {
        batch_size: 1,
        n_heads: HEADS,
        n_kv_heads: KV_HEADS,
        head_dim: dim as u32,
        v_dim: dim as u32,
        rows: rows as u32,
        keys: (first + rows) as u32,
        capacity: text.len as u32,
        scale: 1.0 / (dim as f32).sqrt(),
        softcap: 0.0,
        window: 0,
        causal: true,
        family,
    };
    let extras = Extras::default();
    let layout = Layout::dense(&layout, &extras).expect("fits");
    let buffers = Buffers { q: &q, k: &k, v: &v, output: &output, extras, state: None };
    let mut encoder = device.command_encoder().expect("an encoder");
    record(&mut encoder, &mut KernelRegistry::new(), device, &buffers, DType::F32, &layout).expect("valid");
    encoder.commit_and_wait().expect("runs");
    let out = output.read::<f32>().expect("a read");
    let row = |i: usize| (0..heads).flat_map(move |h| (h * rows + i) * dim..(h * rows + i + 1) * dim);
    (0..rows).map(|i| row(i).map(|at| out[at].to_bits()).collect()).collect()
}

fn devices() -> Vec<TestDevice> {
    let mut all = test_devices();
    // One schedule of the emulator is enough here: that all agree is proven elsewhere.
    all.retain(|d| !d.small_only || d.name.ends_with("forward"));
    all
}

fn company(device: &TestDevice, family: Family, window: u32) {
    let long = if device.small_only { 270 } else { 700 };
    let texts: Vec<Text> = [(1, long), (2, 21), (3, 90)].map(|(seed, len)| Text::new(seed, 64, len)).into();
    let step = |parts: Vec<(usize, usize, usize)>, block_size, spare| {
        let parts = parts.into_iter().map(|(t, first, rows)| (&texts[t], first, rows)).collect();
        Step { parts, block_size, spare, window, family }.run(&device.device)
    };
    // The last rows of each text, alone: what everything else is held against.
    let alone: Vec<_> = texts.iter().enumerate().map(|(t, x)| step(vec![(t, x.len - 12, 12)], 64, 0)).collect();
    let name = &device.name;
    let batch = step(vec![(0, long - 12, 12), (1, 9, 12), (2, 78, 12)], 64, 0);
    assert_eq!(batch, alone.concat(), "{name} {family:?}: in a batch");
    let other = step(vec![(2, 78, 12), (1, 20, 1), (0, long - 12, 12), (1, 9, 11)], 8, 900);
    let expected = [&alone[2][..], &alone[1][11..], &alone[0][..], &alone[1][..11]].concat();
    assert_eq!(other, expected, "{name} {family:?}: other blocks, another order, a larger bucket");
    let chunks = [step(vec![(0, long - 12, 7)], 64, 64), step(vec![(0, long - 5, 4), (1, 9, 2)], 16, 0)].concat();
    assert_eq!(chunks, [&alone[0][..11], &alone[1][..2]].concat(), "{name} {family:?}: in chunks");
    let single = step(vec![(2, 89, 1)], 64, 300);
    assert_eq!(single, alone[2][11..], "{name} {family:?}: one row");
    if window == 0 {
        for (t, text) in texts.iter().enumerate() {
            assert_eq!(dense(&device.device, text, text.len - 12, 12, family), alone[t], "{name} {family:?}: dense");
            assert_eq!(dense(&device.device, text, text.len - 1, 1, family), alone[t][11..], "{name} {family:?}: dense, one");
        }
    }
}

#[test]
fn a_row_of_the_family_rows_is_the_same_in_any_company() {
    for device in devices() {
        company(&device, Family::Rows, 0);
    }
}

#[test]
fn a_row_of_the_family_tiles_is_the_same_in_any_company() {
    for device in devices() {
        company(&device, Family::Tiles, 0);
    }
}

#[test]
fn so_it_is_with_a_window() {
    for device in devices().iter().filter(|d| !d.small_only) {
        company(device, Family::Rows, 300);
        company(device, Family::Tiles, 300);
    }
}
