//! The harness: cases as data, run on every device against a reference in f64.
//!
//! An operator gives a [`Suite`]: a list of [`Case`]s and a generator of more. A case names its inputs, computes its
//! outputs in f64 (that is the specification), and records the operator. [`run_case`] puts every buffer at an odd offset
//! between guard bytes, runs the case on a device and holds the result against the reference; the guards must survive.
//! The same cases feed the tests on every device, the property tests and the benchmarks. Cargo feature `testing`.

mod compare;
mod devices;
mod fuzz;
mod golden;
mod prove;
mod rng;
mod tensor;
mod weights;

use std::fmt::Debug;

#[cfg(feature = "cuda")]
pub use crate::backend::cuda::offline::{Offline, OfflineReport, compile_offline};
#[cfg(feature = "emulator")]
pub use crate::backend::metal::executing::{MetalHost, MetalHostDefect, MetalHostOrder};
pub use compare::Tolerance;
#[cfg(feature = "emulator")]
pub use devices::metal_host_device;
pub use devices::{TestDevice, test_devices, test_devices_of};
#[doc(hidden)]
pub use fuzz::{fuzz_gguf, fuzz_msl, fuzz_safetensors};
pub use golden::Golden;
pub use prove::{CaseTime, Proof, SuiteEnd, kernel_table, prove, time_table};
pub use rng::Rng;
pub use tensor::{Tensor, rounded};
pub(crate) use weights::{WeightCase, every_format};

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{MlxError, Result};
use crate::registry::KernelRegistry;
use crate::registry::Op;

/// The floating-point dtypes.
pub const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// Dtype and shape of each output.
pub type Outputs = Vec<(DType, Vec<usize>)>;

/// One run of an operator, as data.
pub trait Case: Debug + Send + Sync {
    /// The inputs, of contents that depend on nothing but `rng`.
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor>;

    /// The outputs' dtypes and shapes.
    fn outputs(&self) -> Outputs;

    /// What the outputs hold before the operator runs, for operators that write parts of them; `None` = canary bytes, all
    /// of which must be overwritten.
    fn before(&self, _rng: &mut Rng) -> Option<Vec<Tensor>> {
        None
    }

    /// What the outputs shall hold, in f64, from the inputs as rounded to their dtypes. With [`before`](Self::before),
    /// `inputs` is followed by those tensors.
    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>>;

    /// Records the operator.
    ///
    /// # Errors
    /// The operator's own.
    fn encode(&self, context: &mut Context<'_>) -> Result<()>;

    /// How near is near enough, with the reason beside it.
    fn tolerance(&self) -> Tolerance;

    /// Whether the emulator can run it in a moment: some ten thousand multiply-adds.
    fn is_small(&self) -> bool;

    /// Bytes read and written at least, and floating-point operations: for benchmarks. `None` where nobody asks.
    fn cost(&self) -> Option<(f64, f64)> {
        None
    }

    /// Whether the case is there to be timed alone: too much for the reference in a test.
    fn is_only_timed(&self) -> bool {
        false
    }
}

/// What a case records with.
pub struct Context<'a> {
    /// The device.
    pub device: &'a MlxDevice,
    /// A registry.
    pub registry: &'a mut KernelRegistry,
    /// An encoder of the device.
    pub encoder: &'a mut CommandEncoder,
    /// The inputs, in the order of [`Case::inputs`].
    pub inputs: &'a [MlxBuffer],
    /// The outputs, in the order of [`Case::outputs`].
    pub outputs: &'a [MlxBuffer],
}

/// The cases of one operator.
pub struct Suite {
    pub(crate) op: &'static Op,
    /// The fixed cases.
    pub cases: Vec<Box<dyn Case>>,
    /// Draws another, small enough for every device.
    pub random: fn(&mut Rng) -> Box<dyn Case>,
}

impl Suite {
    /// Name of the operator.
    #[must_use]
    pub fn op_name(&self) -> &'static str {
        self.op.name
    }

    /// Names of the operator's kernels.
    pub fn kernel_names(&self) -> impl Iterator<Item = &'static str> {
        self.op.kernels.iter().map(|k| k.0)
    }
}

/// What a case left behind on a device.
#[derive(Debug)]
pub struct Outcome {
    /// Names of the kernels that ran.
    pub kernels: Vec<String>,
    /// The outputs' bytes, with every NaN made the same one: its sign and payload are the compiler's choice.
    pub bytes: Vec<Vec<u8>>,
}

const GUARD: u8 = 0xA5;
/// Elements before and after each buffer that nobody may touch. Odd, so that views begin at odd offsets.
const GUARD_ELEMENTS: usize = 33;

/// Runs `case` on `device` and holds its outputs against the reference.
///
/// # Errors
/// What went wrong, in words.
pub fn run_case(case: &dyn Case, device: &MlxDevice) -> std::result::Result<Outcome, String> {
    Prepared::new(case).run(device, &mut KernelRegistry::new())
}

/// A case with its inputs and its reference, which are made once for all devices.
pub struct Prepared<'c> {
    case: &'c dyn Case,
    inputs: Vec<Tensor>,
    before: Option<Vec<Tensor>>,
    outputs: Outputs,
    reference: Vec<Vec<f64>>,
}

impl<'c> Prepared<'c> {
    /// Draws the inputs and computes the reference.
    #[must_use]
    pub fn new(case: &'c dyn Case) -> Self {
        let mut rng = Rng::new(0x5EED);
        let inputs = case.inputs(&mut rng);
        let before = case.before(&mut rng);
        let reference = match &before {
            None => case.reference(&inputs),
            Some(before) => case.reference(&[&inputs[..], before].concat()),
        };
        Prepared {
            case,
            inputs,
            before,
            outputs: case.outputs(),
            reference,
        }
    }

    /// Runs the case and holds its outputs against the reference.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(
        &self,
        device: &MlxDevice,
        registry: &mut KernelRegistry,
    ) -> std::result::Result<Outcome, String> {
        let text = |e: MlxError| e.to_string();
        let mut inputs = Vec::new();
        for tensor in &self.inputs {
            inputs.push(guarded(device, tensor.dtype(), tensor.shape(), Some(tensor.bytes())).map_err(text)?);
        }
        let mut outputs = Vec::new();
        for (i, (dtype, shape)) in self.outputs.iter().enumerate() {
            let contents = self.before.as_ref().map(|b| b[i].bytes());
            outputs.push(guarded(device, *dtype, shape, contents).map_err(text)?);
        }
        let views = |list: &[Guarded]| list.iter().map(|g| g.view.share()).collect::<Vec<_>>();
        let (input_views, output_views) = (views(&inputs), views(&outputs));
        let mut encoder = device.command_encoder().map_err(text)?;
        self.case
            .encode(&mut Context {
                device,
                registry,
                encoder: &mut encoder,
                inputs: &input_views,
                outputs: &output_views,
            })
            .map_err(text)?;
        let kernels = encoder.recorded_kernels().map(str::to_owned).collect();
        encoder.commit_and_wait().map_err(text)?;

        let mut bytes = Vec::new();
        for (i, g) in outputs.iter().enumerate() {
            g.check_guards().map_err(|e| format!("output {i}: {e}"))?;
            bytes.push(g.view.read::<u8>().map_err(text)?);
        }
        for (i, (g, tensor)) in inputs.iter().zip(&self.inputs).enumerate() {
            if g.view.read::<u8>().map_err(text)? != tensor.bytes() {
                return Err(format!("input {i} was written"));
            }
        }
        self.judge(bytes, kernels)
    }

    fn judge(&self, mut bytes: Vec<Vec<u8>>, kernels: Vec<String>) -> std::result::Result<Outcome, String> {
        for (i, (dtype, shape)) in self.outputs.iter().enumerate() {
            let got = Tensor::from_bytes(*dtype, shape, bytes[i].clone()).to_f64();
            self.case
                .tolerance()
                .check(&got, &self.reference[i])
                .map_err(|e| format!("output {i} {dtype} {shape:?}: {e}"))?;
        }
        for ((dtype, _), bytes) in self.outputs.iter().zip(&mut bytes) {
            tensor::canonical_nans(*dtype, bytes);
        }
        Ok(Outcome { kernels, bytes })
    }
}

/// A buffer between guard bytes.
struct Guarded {
    whole: MlxBuffer,
    view: MlxBuffer,
    start: usize,
}

fn guarded(device: &MlxDevice, dtype: DType, shape: &[usize], contents: Option<&[u8]>) -> Result<Guarded> {
    let size = dtype.size_of();
    let len = shape.iter().product::<usize>() * size;
    let start = GUARD_ELEMENTS * size;
    let total = len + 2 * start;
    let mut whole = device.alloc_buffer(total, DType::U8, vec![total])?;
    let mut image = vec![GUARD; total];
    if let Some(contents) = contents {
        image[start..start + len].copy_from_slice(contents);
    }
    whole.write(0, &image)?;
    let view = whole.view(start, dtype, shape.to_vec())?;
    Ok(Guarded { whole, view, start })
}

impl Guarded {
    fn check_guards(&self) -> std::result::Result<(), String> {
        let all = self.whole.read::<u8>().map_err(|e| e.to_string())?;
        let end = all.len() - self.start;
        match all[..self.start]
            .iter()
            .chain(&all[end..])
            .position(|b| *b != GUARD)
        {
            Some(i) => Err(format!(
                "guard byte {i} before or behind the buffer was overwritten"
            )),
            None => Ok(()),
        }
    }
}

/// A device, a registry and an encoder, for tests of refusals.
pub struct Bench {
    /// The best device here.
    pub device: MlxDevice,
    /// A new registry.
    pub registry: KernelRegistry,
    /// An encoder of the device.
    pub encoder: CommandEncoder,
}

impl Bench {
    /// The three, fresh.
    #[allow(clippy::new_without_default, clippy::missing_panics_doc)]
    #[must_use]
    pub fn new() -> Self {
        let device = MlxDevice::open(crate::DeviceKind::Cpu).expect("every machine has a cpu");
        let encoder = device.command_encoder().expect("a cpu gives encoders");
        Bench {
            device,
            registry: KernelRegistry::new(),
            encoder,
        }
    }

    /// A zeroed buffer.
    #[allow(clippy::missing_panics_doc)]
    #[must_use]
    pub fn buffer(&self, dtype: DType, shape: &[usize]) -> MlxBuffer {
        self.device.alloc_tensor(dtype, shape).expect("a small buffer")
    }
}

/// Asserts that `result` is `InvalidArgument` and that its text holds every one of `words`.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn assert_invalid<T: Debug>(result: Result<T>, words: &[&str]) {
    match result {
        Err(MlxError::InvalidArgument(text)) => {
            for word in words {
                assert!(text.contains(word), "{text:?} does not mention {word:?}");
            }
        }
        other => panic!("expected InvalidArgument with {words:?}, found {other:?}"),
    }
}
