//! The thin layer: what this backend asks of a CUDA driver, call by call.
//!
//! `driver.rs` answers with the real thing, a recording stand-in answers in the tests on any machine. Whatever can be
//! decided is decided above this line; below it stand calls, and nothing that needs a test.

use std::fmt;

/// What the device says of itself, once.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub name: String,
    /// Which of the machine's devices it is.
    pub ordinal: usize,
    /// Compute capability times ten: 90 is an H100.
    pub capability: u32,
    /// Version of CUDA that the driver serves, major and minor.
    pub driver: (u32, u32),
    /// Bytes of memory.
    pub memory: usize,
    pub max_threads: u32,
    pub multiprocessors: u32,
    /// Bytes of shared memory of a block that need no leave.
    pub max_shared_memory: u32,
}

/// An address on the device.
pub(super) type Address = u64;

/// What a loaded function says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FunctionFacts {
    /// Threads of a block that its registers allow.
    pub max_threads: u32,
    /// Bytes of shared memory that it declares.
    pub shared_memory: u32,
    /// Bytes of each variable that was asked for.
    pub lengths: Vec<usize>,
}

/// A launch of a function, complete.
#[derive(Debug, Clone, Copy)]
pub(super) struct Launch<'a, F> {
    pub function: &'a F,
    pub blocks: [u32; 3],
    pub threads: [u32; 3],
    /// Bytes of shared memory beyond what the function declares.
    pub shared_memory: u32,
    /// The parameters' bytes, each as long as the function wants it or longer.
    pub parameters: &'a [&'a [u8]],
    /// Whether it may start while the launch before it in the stream still runs: its text waits, before it touches memory
    /// that others write. A device that cannot do this starts it when that one has ended.
    pub early: bool,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The driver's number.
    pub code: i32,
    /// The driver's words.
    pub text: String,
}

impl Failure {
    pub fn new(code: i32, text: impl Into<String>) -> Self {
        Failure {
            code,
            text: text.into(),
        }
    }

    /// Whether nothing on the device works any more in this process.
    ///
    /// The numbers are those of `cuda.h` whose description says that the context cannot be used afterwards.
    pub fn is_sticky(&self) -> bool {
        matches!(
            self.code,
            214 | 220 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 999
        )
    }

    /// Whether the device has no memory left.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == 2
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (error {})", self.text, self.code)
    }
}

/// A device with one stream of work and one of transfers.
pub(super) trait Gpu: Send + Sync + Sized + 'static {
    /// A function of a loaded module, which it keeps loaded.
    type Function: Send + Sync + 'static;
    /// A moment in the stream of work.
    type Event: Send + 'static;
    /// A list of launches, copies and fills that the driver has made ready to run as one.
    type Graph: Send + 'static;

    fn facts(&self) -> &Facts;

    /// Bytes of memory that nobody uses at present.
    fn free_memory(&self) -> Result<usize, Failure>;

    /// Memory at a multiple of 256; zeroed if asked for, when the call returns.
    fn allocate(&self, byte_len: usize, zeroed: bool) -> Result<Address, Failure>;

    /// Gives memory back that nothing on the device uses any more.
    fn free(&self, address: Address);

    /// Copies to the device, beside the stream of work. Returns when the bytes are there.
    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), Failure>;

    /// Copies a large read-only range of the host, such as a mapped file, to the device. Returns when it is there.
    fn upload_large(&self, to: Address, bytes: &[u8]) -> Result<(), Failure>;

    /// Copies from the device, beside the stream of work. Returns when the bytes are there.
    fn download(&self, from: Address, out: &mut [u8]) -> Result<(), Failure>;

    /// Loads machine code, or intermediate code for the driver to compile, and finds in it the function `symbol` and the
    /// lengths of `variables`. Launches will ask for up to `shared_memory` bytes beyond what the function declares.
    fn load(
        &self,
        image: &[u8],
        symbol: &str,
        variables: &[&str],
        shared_memory: u32,
    ) -> Result<(Self::Function, FunctionFacts), Failure>;

    /// Puts a launch into the stream of work.
    fn launch(&self, launch: Launch<'_, Self::Function>) -> Result<(), Failure>;

    /// Puts a copy on the device into the stream of work.
    fn copy(&self, from: Address, to: Address, byte_len: usize) -> Result<(), Failure>;

    /// Puts a fill on the device into the stream of work.
    fn fill(&self, to: Address, byte_len: usize, value: u8) -> Result<(), Failure>;

    /// Keeps what this thread puts into the stream of work from here on, until [`run_graph`](Self::run_graph), and runs none
    /// of it.
    fn begin_graph(&self) -> Result<(), Failure>;

    /// Runs what was kept as one. `known` is brought to what was kept where it has the same shape, which is quick; otherwise
    /// a new graph is made, and returned. Nothing runs if `put` failed, and nothing is kept any more. A graph must not be
    /// dropped before its last run has ended.
    fn run_graph(
        &self,
        put: Result<(), Failure>,
        known: Option<&Self::Graph>,
    ) -> Result<Option<Self::Graph>, Failure>;

    /// Runs a graph once more, as it is.
    fn run_again(&self, graph: &Self::Graph) -> Result<(), Failure>;

    /// Marks the stream's present end.
    fn record(&self) -> Result<Self::Event, Failure>;

    /// Blocks until the stream has come to `event`.
    fn wait(&self, event: &Self::Event) -> Result<(), Failure>;

    /// Seconds between two moments that the stream has passed.
    fn seconds(&self, from: &Self::Event, to: &Self::Event) -> Result<f64, Failure>;

    /// Blocks until the stream of work is empty.
    fn wait_for_all(&self) -> Result<(), Failure>;
}
