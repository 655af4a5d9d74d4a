//! What the tests here share: a device with a registry, buffers from values, values from buffers, drawn numbers.

use half::{bf16, f16};
use mlx_native::{CommandEncoder, DType, DeviceKind, KernelRegistry, MlxBuffer, MlxDevice, Result};

pub struct Bench {
    pub device: MlxDevice,
    pub registry: KernelRegistry,
    /// Whether cases are to be small.
    pub is_slow: bool,
}

impl Bench {
    pub fn cpu() -> Self {
        Bench {
            device: MlxDevice::open(DeviceKind::Cpu).unwrap(),
            registry: KernelRegistry::new(),
            is_slow: false,
        }
    }

    #[cfg(feature = "emulator")]
    pub fn emulator() -> Self {
        let device = MlxDevice::open(DeviceKind::Emulator).unwrap();
        Bench {
            device,
            registry: KernelRegistry::new(),
            is_slow: true,
        }
    }

    /// `most`, or a sixteenth of it on a slow device.
    pub fn most(&self, most: usize) -> usize {
        if self.is_slow {
            most.div_ceil(16).max(4).min(most)
        } else {
            most
        }
    }

    pub fn zeros(&self, dtype: DType, n: usize) -> MlxBuffer {
        self.device
            .alloc_buffer(n * dtype.size_of(), dtype, vec![n])
            .unwrap()
    }

    /// The values rounded to `dtype`.
    pub fn floats(&self, dtype: DType, values: &[f32]) -> MlxBuffer {
        let mut buffer = self.zeros(dtype, values.len());
        match dtype {
            DType::F32 => buffer.as_mut_slice::<f32>().unwrap().copy_from_slice(values),
            DType::F16 => fill(&mut buffer, values.iter().map(|v| f16::from_f32(*v).to_bits())),
            DType::BF16 => fill(&mut buffer, values.iter().map(|v| bf16::from_f32(*v).to_bits())),
            other => panic!("{other} is no float"),
        }
        buffer
    }

    pub fn words(&self, values: &[u32]) -> MlxBuffer {
        let mut buffer = self.zeros(DType::U32, values.len());
        buffer.as_mut_slice::<u32>().unwrap().copy_from_slice(values);
        buffer
    }

    pub fn bytes(&self, values: &[u8]) -> MlxBuffer {
        let mut buffer = self.zeros(DType::U8, values.len());
        buffer.as_mut_slice::<u8>().unwrap().copy_from_slice(values);
        buffer
    }

    /// Records with `record`, runs it and waits; `record`'s own result is returned.
    pub fn try_run<R>(
        &mut self,
        record: impl FnOnce(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice) -> Result<R>,
    ) -> Result<R> {
        let mut encoder = self.device.command_encoder()?;
        let result = record(&mut encoder, &mut self.registry, &self.device);
        encoder
            .commit_and_wait()
            .expect("what a call recorded, or nothing after a refusal, runs");
        result
    }

    pub fn run<R>(
        &mut self,
        record: impl FnOnce(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice) -> Result<R>,
    ) -> R {
        self.try_run(record).unwrap()
    }
}

fn fill(buffer: &mut MlxBuffer, bits: impl Iterator<Item = u16>) {
    for (to, from) in buffer.as_mut_slice::<u16>().unwrap().iter_mut().zip(bits) {
        *to = from;
    }
}

/// The elements of a buffer by its dtype.
pub fn values(buffer: &MlxBuffer) -> Vec<f64> {
    match buffer.dtype() {
        DType::F32 => buffer.read::<f32>().unwrap().into_iter().map(f64::from).collect(),
        DType::F16 => buffer
            .read::<u16>()
            .unwrap()
            .into_iter()
            .map(|b| f16::from_bits(b).to_f64())
            .collect(),
        DType::BF16 => buffer
            .read::<u16>()
            .unwrap()
            .into_iter()
            .map(|b| bf16::from_bits(b).to_f64())
            .collect(),
        DType::U32 => buffer.read::<u32>().unwrap().into_iter().map(f64::from).collect(),
        _ => buffer.read::<u8>().unwrap().into_iter().map(f64::from).collect(),
    }
}

/// Each pair differs by at most `tolerance · (1 + |want|)`, or is NaN on both sides.
#[track_caller]
pub fn close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let fits = (got - want).abs() <= tolerance * (1.0 + want.abs())
            || got == want
            || (got.is_nan() && want.is_nan());
        assert!(fits, "{what}: element {i} is {got}, wanted {want}");
    }
}

/// What rounding once to the dtype, and sums in f32, may cost.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
        _ => 1e-5,
    }
}

pub const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Pseudo-random numbers (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn range(&mut self, low: usize, high: usize) -> usize {
        low + (self.bits() % (high - low + 1) as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.range(0, from.len() - 1)]
    }

    pub fn flip(&mut self) -> bool {
        self.bits() & 1 == 1
    }

    /// In `[-1, 1)`.
    pub fn signed(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.signed() * scale).collect()
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.bits() as u8).collect()
    }
}

/// The orthogonal Walsh-Hadamard transform.
pub fn hadamard(x: &mut [f64]) {
    let n = x.len();
    let mut h = 1;
    while h < n {
        for block in x.chunks_exact_mut(2 * h) {
            let (a, b) = block.split_at_mut(h);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        h *= 2;
    }
    x.iter_mut().for_each(|v| *v /= (n as f64).sqrt());
}
