//! What it costs to read keys and values through a block table, and to take one family of kernels for every number of rows.
//!
//! `cargo bench -p mlx-native --bench paged`. Pairs of runs, one after the other, on one thread; processor time, so that other
//! work on the machine counts as little as can be; the median of the ratios.

use mlx_native::ops::attention::{AttentionParams, Extras, Family, attention};
use mlx_native::ops::sdpa::{SdpaParams, sdpa};
use mlx_native::ops::step::{KvPool, KvState};
use mlx_native::{CommandEncoder, Config, DType, DeviceKind, KernelRegistry, MlxBuffer, MlxDevice};

const PAIRS: usize = 60;
const N_HEADS: u32 = 16;
const N_KV_HEADS: u32 = 8;
const HEAD_DIM: u32 = 128;

struct Bench {
    device: MlxDevice,
    registry: KernelRegistry,
}

/// An attention of `rows` rows over `keys` keys.
struct Shape {
    rows: u32,
    keys: u32,
}

impl Bench {
    fn floats(&self, len: usize) -> MlxBuffer {
        let mut buffer = self.device.alloc_tensor(DType::BF16, &[len]).expect("memory");
        // Some values, none of them special: exponents around that of 1.
        let values: Vec<u16> = (0..len)
            .map(|i| 0x3E00 + ((i * 2_654_435_761) >> 7) as u16 % 0x0180)
            .collect();
        buffer.write(0, &values).expect("as large");
        buffer
    }

    fn words(&self, values: &[u32]) -> MlxBuffer {
        let mut buffer = self
            .device
            .alloc_tensor(DType::U32, &[values.len()])
            .expect("memory");
        buffer.write(0, values).expect("as large");
        buffer
    }

    /// Seconds of processor time that `record`'s work takes.
    fn time(&mut self, record: &mut dyn FnMut(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice)) -> f64 {
        let mut encoder = self.device.command_encoder().expect("an encoder");
        record(&mut encoder, &mut self.registry, &self.device);
        let start = processor_time();
        encoder.commit_and_wait().expect("runs");
        processor_time() - start
    }

    fn dense(&self, s: &Shape) -> impl FnMut(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice) + use<> {
        let rows = (s.rows * N_HEADS * HEAD_DIM) as usize;
        let cache = (s.keys * N_KV_HEADS * HEAD_DIM) as usize;
        let [q, output, k, v] = [rows, rows, cache, cache].map(|n| self.floats(n));
        let params = SdpaParams {
            n_heads: N_HEADS,
            n_kv_heads: N_KV_HEADS,
            head_dim: HEAD_DIM,
            seq_len: s.rows,
            kv_seq_len: s.keys,
            scale: 0.088,
            kv_capacity: 0,
        };
        move |e, r, d| sdpa(e, r, d, &q, &k, &v, &output, &params, 1).expect("valid")
    }

    fn paged(
        &self,
        s: &Shape,
        block_size: u32,
        family: Family,
    ) -> impl FnMut(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice) + use<> {
        let blocks_per_seq = s.keys.div_ceil(block_size);
        let pool = KvPool {
            n_blocks: blocks_per_seq,
            block_size,
            n_seqs: 1,
            blocks_per_seq,
        };
        let rows = (s.rows * N_HEADS * HEAD_DIM) as usize;
        let cache = (blocks_per_seq * block_size * N_KV_HEADS * HEAD_DIM) as usize;
        let [q, output, k, v] = [rows, rows, cache, cache].map(|n| self.floats(n));
        // Blocks in an order that no prefetcher guesses.
        let mut table: Vec<u32> = (0..blocks_per_seq).collect();
        table.sort_by_key(|b| b.wrapping_mul(2_654_435_761));
        let (table, starts, lens) = (
            self.words(&table),
            self.words(&[0, s.rows]),
            self.words(&[s.keys]),
        );
        let params = AttentionParams {
            pool,
            n_rows: s.rows,
            n_heads: N_HEADS,
            n_kv_heads: N_KV_HEADS,
            head_dim: HEAD_DIM,
            v_dim: 0,
            scale: 0.088,
            softcap: 0.0,
            window: 0,
            causal: true,
            max_rows_per_seq: s.rows,
            max_kv_len: s.keys,
            q_row_stride: 0,
            family,
        };
        move |e, r, d| {
            let state = KvState {
                block_table: &table,
                seq_starts: &starts,
                kv_lens: &lens,
            };
            attention(e, r, d, &q, &k, &v, &output, &Extras::default(), &state, &params).expect("valid");
        }
    }

    fn compare(
        &mut self,
        name: &str,
        one: &mut dyn FnMut(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice),
        other: &mut dyn FnMut(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice),
    ) {
        let (mut ratios, mut times) = (Vec::new(), [Vec::new(), Vec::new()]);
        for pair in 0..PAIRS + 4 {
            // Which goes first changes, so that what the first leaves in caches favours neither.
            let (a, b) = if pair % 2 == 0 {
                let a = self.time(one);
                (a, self.time(other))
            } else {
                let b = self.time(other);
                (self.time(one), b)
            };
            if pair >= 4 {
                ratios.push(b / a);
                times[0].push(a);
                times[1].push(b);
            }
        }
        let median = |x: &mut Vec<f64>| {
            x.sort_by(f64::total_cmp);
            x[x.len() / 2]
        };
        let [a, b] = times.each_mut().map(median);
        println!(
            "{name:<58} {:>9.1} µs {:>9.1} µs   ratio {:.3}",
            a * 1e6,
            b * 1e6,
            median(&mut ratios)
        );
    }
}

fn processor_time() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is there to be written.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn main() {
    let mut config = Config::default();
    config.threads = Some(1);
    let device = MlxDevice::with_config(DeviceKind::Cpu, &config).expect("a cpu opens");
    println!(
        "{}, {N_HEADS}/{N_KV_HEADS} heads of {HEAD_DIM}, bf16: left, right, right / left",
        device.name()
    );
    let mut bench = Bench {
        device,
        registry: KernelRegistry::new(),
    };
    for keys in [512, 4096, 32_768] {
        let s = Shape { rows: 1, keys };
        for block_size in [64, 16] {
            let (mut dense, mut paged) = (bench.dense(&s), bench.paged(&s, block_size, Family::Auto));
            bench.compare(
                &format!("1 row, {keys} keys: dense, blocks of {block_size}"),
                &mut dense,
                &mut paged,
            );
        }
    }
    let s = Shape {
        rows: 512,
        keys: 2048,
    };
    let (mut dense, mut paged) = (bench.dense(&s), bench.paged(&s, 64, Family::Auto));
    bench.compare("512 rows, 2048 keys: dense, blocks of 64", &mut dense, &mut paged);
    for rows in [4, 8, 32, 512] {
        let s = Shape { rows, keys: 2048 };
        let (mut auto, mut one) = (
            bench.paged(&s, 64, Family::Auto),
            bench.paged(&s, 64, Family::Rows),
        );
        bench.compare(
            &format!("{rows} rows, 2048 keys: Auto, Rows for all"),
            &mut auto,
            &mut one,
        );
    }
    let s = Shape { rows: 1, keys: 2048 };
    let (mut auto, mut one) = (
        bench.paged(&s, 64, Family::Auto),
        bench.paged(&s, 64, Family::Tiles),
    );
    bench.compare("1 row, 2048 keys: Auto, Tiles for all", &mut auto, &mut one);
}
