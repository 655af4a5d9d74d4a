//! What the emulator has to say about a kernel.

use std::collections::HashSet;
use std::ffi::{CStr, c_char};
use std::fmt;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// An access outside every buffer and threadgroup variable, or a bad index of an array.
    OutOfBounds,
    /// A write to a buffer that is bound for reading.
    ReadOnlyWrite,
    /// A read of threadgroup memory that nobody has written.
    UninitialisedThreadgroup,
    /// Two threads touch the same byte, one writing, with nothing that orders them.
    Race,
    /// As [`Race`](Self::Race), and a barrier stands between the two, but with memory flags that do not cover the memory.
    WrongMemFlags,
    /// A `threadgroup_barrier` that some threads wait at while the others have returned.
    BarrierNotReached,
    /// Threads of one group wait at different barriers.
    DifferentBarriers,
    /// A simdgroup operation that some lanes of the simdgroup do not take part in.
    DivergentSimd,
    /// Lanes that meet at one call with different simdgroup operations, or a matrix operation without all lanes.
    MismatchedSimd,
    /// More threadgroup memory than a threadgroup has.
    ThreadgroupMemory,
    /// An integer division by zero.
    DivisionByZero,
    /// A fault of the processor: an access to unmapped memory, a stack too deep.
    Fault,
}

/// Whether a finding fails the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Worth a look; Metal leaves room for it.
    Warning,
    /// The kernel is wrong.
    Error,
}

impl FindingKind {
    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Self::DivergentSimd => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

/// One defect of a kernel, seen while it ran.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen, in words.
    pub message: String,
    /// File of the kernel's text, as its `#line` directives name it.
    pub file: String,
    /// Line in that file; 0 where it could not be told.
    pub line: u32,
    /// Host name of the kernel.
    pub kernel: String,
    /// Position of the thread in its threadgroup.
    pub thread: [u32; 3],
    /// Position of the threadgroup in the grid.
    pub group: [u32; 3],
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(
            f,
            "{}:{}: {severity}: {} [kernel {}",
            self.file, self.line, self.message, self.kernel
        )?;
        write!(f, ", thread {:?} of group {:?}]", self.thread, self.group)
    }
}

/// Where in the kernel, as the runtime knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// The prelude passed its caller's line; the string lives in the loaded object.
    Line(*const c_char, u32),
    /// An address of code in the loaded object.
    Code(usize),
    Unknown,
}

impl Place {
    /// File and line of [`Place::Line`].
    ///
    /// # Safety
    /// The object that the string lies in must still be loaded.
    pub unsafe fn spelled(self) -> Option<(String, u32)> {
        match self {
            // SAFETY: `__builtin_FILE()` gives a terminated string in the object, loaded as the caller says.
            Self::Line(file, line) if !file.is_null() => Some((
                unsafe { CStr::from_ptr(file) }.to_string_lossy().into_owned(),
                line,
            )),
            _ => None,
        }
    }
}

/// A finding before its places are looked up.
#[derive(Clone, Debug)]
pub(super) struct Observation {
    pub kind: FindingKind,
    pub place: Place,
    /// The other access of a race, the other barrier.
    pub other: Option<Place>,
    pub message: String,
    pub thread: [u32; 3],
    pub group: [u32; 3],
}

/// What one worker has seen: the first few of each kind and place, and how many in all.
#[derive(Default)]
pub(super) struct Observations {
    list: Vec<Observation>,
    seen: HashSet<(FindingKind, Place)>,
    errors: u64,
}

/// Most findings that are reported in full.
const MAX_REPORTED: usize = 64;

impl Observations {
    /// Whether a finding of this kind and place would still be kept: spares the words otherwise.
    pub fn is_new(&mut self, kind: FindingKind, place: Place) -> bool {
        if kind.severity() == Severity::Error {
            self.errors += 1;
        }
        self.list.len() < MAX_REPORTED && self.seen.insert((kind, place))
    }

    /// Keeps a finding for which [`is_new`](Self::is_new) was just true.
    pub fn push(&mut self, observation: Observation) {
        self.list.push(observation);
    }

    /// Everything so far, and the number of errors; starts afresh.
    pub fn take(&mut self) -> (Vec<Observation>, u64) {
        self.seen.clear();
        (std::mem::take(&mut self.list), std::mem::take(&mut self.errors))
    }
}
