//! What 0.1 let through and must not be: every operator with each buffer too short, with sizes of zero, and with sizes near the
//! greatest number. Nothing may panic, nothing be recorded, and the encoder stays usable.

mod faults;
mod table;

use mlx_native::{CommandEncoder, DType, KernelRegistry, MlxBuffer, MlxDevice, MlxError, Result};

use super::support::Bench;

pub struct Call<'a> {
    pub encoder: &'a mut CommandEncoder,
    pub registry: &'a mut KernelRegistry,
    pub device: &'a MlxDevice,
    pub buffers: &'a mut [MlxBuffer],
    pub sizes: &'a [usize],
}

impl Call<'_> {
    /// Size `i` as operators with sizes of 32 bits get it.
    pub fn u(&self, i: usize) -> u32 {
        self.sizes[i] as u32
    }
}

/// An operator, and a call of it that is right.
pub struct Operator {
    pub name: &'static str,
    /// Exactly as long as the sizes ask for.
    pub buffers: &'static [(DType, usize)],
    /// Buffers that are not read: 0.1 took sizes from them.
    pub unread: &'static [usize],
    pub sizes: &'static [usize],
    /// Sizes of which any value is fine: positions, windows.
    pub free: &'static [usize],
    /// Sizes of which zero is fine: nothing is done.
    pub may_be_zero: &'static [usize],
    /// Sizes of which any value but zero is fine: groups longer than a row, windows.
    pub open: &'static [usize],
    /// Sizes of the machine's width, of which no bit may be lost.
    pub wide: &'static [usize],
    pub call: fn(Call<'_>) -> Result<()>,
}

impl Operator {
    fn buffers(&self, bench: &Bench) -> Vec<MlxBuffer> {
        self.buffers
            .iter()
            .map(|(dtype, n)| bench.zeros(*dtype, *n))
            .collect()
    }

    /// Calls it, and commits whatever that recorded; also how many dispatches those were.
    fn run(&self, bench: &mut Bench, buffers: &mut [MlxBuffer], sizes: &[usize]) -> (Result<()>, usize) {
        let mut encoder = bench.device.command_encoder().unwrap();
        let call = Call {
            encoder: &mut encoder,
            registry: &mut bench.registry,
            device: &bench.device,
            buffers,
            sizes,
        };
        let result = (self.call)(call);
        let recorded = encoder.recorded_dispatches();
        if let Err(error) = encoder.commit_and_wait() {
            panic!(
                "{}: the encoder cannot be committed after {result:?}: {error}",
                self.name
            );
        }
        (result, recorded)
    }

    fn refuses(&self, bench: &mut Bench, buffers: &mut [MlxBuffer], sizes: &[usize], why: &str) {
        match self.run(bench, buffers, sizes) {
            (Err(MlxError::InvalidArgument(_)), 0) => {}
            other => panic!("{}, {why}: {other:?}", self.name),
        }
    }
}

#[test]
fn every_operator_does_what_is_right() {
    let mut bench = Bench::cpu();
    for op in table::OPERATORS {
        let mut buffers = op.buffers(&bench);
        let (result, recorded) = op.run(&mut bench, &mut buffers, op.sizes);
        assert!(
            result.is_ok() && recorded > 0,
            "{}: {result:?}, {recorded}",
            op.name
        );
    }
}

#[test]
fn a_buffer_that_is_too_short_is_refused_whatever_its_shape_says() {
    let mut bench = Bench::cpu();
    for op in table::OPERATORS {
        for (i, (dtype, n)) in op.buffers.iter().enumerate() {
            if op.unread.contains(&i) {
                continue;
            }
            let mut buffers = op.buffers(&bench);
            // One byte less than it needs, and next to nothing.
            for bytes in [n * dtype.size_of() - 1, 1] {
                buffers[i] = bench.device.alloc_buffer(bytes.max(1), *dtype, vec![*n]).unwrap();
                op.refuses(
                    &mut bench,
                    &mut buffers,
                    op.sizes,
                    &format!("buffer {i} of {bytes} bytes"),
                );
            }
        }
    }
}

#[test]
fn sizes_of_zero_are_refused_or_do_nothing() {
    let mut bench = Bench::cpu();
    for op in table::OPERATORS {
        for i in 0..op.sizes.len() {
            let mut sizes = op.sizes.to_vec();
            sizes[i] = 0;
            let mut buffers = op.buffers(&bench);
            if op.free.contains(&i) {
                op.run(&mut bench, &mut buffers, &sizes).0.unwrap();
            } else if op.may_be_zero.contains(&i) {
                let (result, _) = op.run(&mut bench, &mut buffers, &sizes);
                assert!(result.is_ok(), "{}, size {i} of 0: {result:?}", op.name);
            } else {
                op.refuses(&mut bench, &mut buffers, &sizes, &format!("size {i} of 0"));
            }
        }
    }
}

#[test]
fn sizes_near_the_greatest_number_are_refused() {
    let mut bench = Bench::cpu();
    const HUGE: [usize; 6] = [
        u32::MAX as usize,
        u32::MAX as usize - 1,
        1 << 31,
        (1 << 31) + 1,
        usize::MAX,
        usize::MAX / 2 + 1,
    ];
    for op in table::OPERATORS {
        for i in 0..op.sizes.len() {
            for huge in HUGE {
                let mut sizes = op.sizes.to_vec();
                sizes[i] = huge;
                let mut buffers = op.buffers(&bench);
                if op.free.contains(&i) || op.open.contains(&i) || huge as u32 == 0 {
                    // Whatever it is, it is no panic.
                    let _ = op.run(&mut bench, &mut buffers, &sizes);
                } else {
                    op.refuses(&mut bench, &mut buffers, &sizes, &format!("size {i} of {huge}"));
                }
            }
        }
        // What 32 bits would lose.
        for i in op.wide {
            let mut sizes = op.sizes.to_vec();
            sizes[*i] += 1 << 32;
            let mut buffers = op.buffers(&bench);
            op.refuses(&mut bench, &mut buffers, &sizes, &format!("size {i} and 2^32"));
        }
        // All of them at once: products that overflow.
        for huge in HUGE.into_iter().filter(|_| !op.sizes.is_empty()) {
            let sizes = vec![huge; op.sizes.len()];
            let mut buffers = op.buffers(&bench);
            let (result, recorded) = op.run(&mut bench, &mut buffers, &sizes);
            let is_nothing = result.is_ok() && recorded == 0;
            assert!(
                is_nothing || matches!(result, Err(MlxError::InvalidArgument(_))),
                "{}: {result:?}",
                op.name
            );
        }
    }
}

#[test]
fn outputs_that_overlap_inputs_in_part_are_refused_or_fine() {
    // Every pair of buffers as halves of one allocation, one element apart.
    let mut bench = Bench::cpu();
    for op in table::OPERATORS {
        for (i, j) in (0..op.buffers.len()).flat_map(|i| (0..i).map(move |j| (i, j))) {
            let mut buffers = op.buffers(&bench);
            let [(first, n), (second, m)] = [op.buffers[i], op.buffers[j]];
            let bytes = (n * first.size_of()).max(m * second.size_of()) + 4;
            let whole = bench.device.alloc_buffer(bytes, DType::U8, vec![bytes]).unwrap();
            buffers[i] = whole.view(0, first, vec![n]).unwrap();
            buffers[j] = whole.view(4, second, vec![m]).unwrap();
            let (result, _) = op.run(&mut bench, &mut buffers, op.sizes);
            assert!(
                matches!(result, Ok(()) | Err(MlxError::InvalidArgument(_))),
                "{}, buffers {i} and {j}: {result:?}",
                op.name
            );
        }
    }
}
