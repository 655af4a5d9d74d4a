//! MSL to what NVRTC compiles: the rewritten text, and an entry for each kernel that is wanted of it.
//!
//! An entry is an `extern "C" __global__` function. Its parameters are, in this order, the kernel's buffers, its threadgroup
//! memory and, where the launch is mapped, the launch's shape; [`Entry`] says which. It works out the builtins and calls
//! the kernel, which is inlined.

use std::fmt::Write;

use super::bodies::{Body, BodyLaunch, Many};
use crate::kernel::ConstantValue;
use crate::kernel::msl::rewrite::{self, Options, Target};
use crate::kernel::msl::{self, MslError, ParameterKind, Space};

/// The headers that a text is compiled behind: name and text.
pub(super) const PRELUDE: [(&str, &str); 9] = [
    ("base.hpp", include_str!("prelude/base.hpp")),
    ("half.hpp", include_str!("prelude/half.hpp")),
    ("vector.hpp", include_str!("prelude/vector.hpp")),
    ("math.hpp", include_str!("prelude/math.hpp")),
    ("integer.hpp", include_str!("prelude/integer.hpp")),
    ("simdgroup.hpp", include_str!("prelude/simdgroup.hpp")),
    ("matrix.hpp", include_str!("prelude/matrix.hpp")),
    ("atomic.hpp", include_str!("prelude/atomic.hpp")),
    ("launch.hpp", include_str!("prelude/launch.hpp")),
];

/// Kernels that wait for memory and use more registers than leave room for others to run meanwhile: threads of a block, and blocks that a
/// multiprocessor must have registers for.
const CROWDED: (&str, u32, u32) = ("attention_rows_", 256, 2);

/// In which of its forms a kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Form {
    /// Blocks and threads are counted along one dimension, and the launch's shape is a parameter: for grids whose last
    /// threadgroups are partial, or that have more threadgroups along y or z than CUDA takes.
    pub mapped: bool,
    /// Bit `i` is set where argument `i`, a reference to constants, is bound to a buffer; others are copied into the launch.
    pub pointers: u32,
}

/// What the parameters of an entry are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The function's name in the compiled module.
    pub symbol: String,
    /// The buffers.
    pub arguments: Vec<Argument>,
    /// Indices of threadgroup memory: each parameter is its first byte in what the launch asks for.
    pub threadgroup: Vec<u32>,
    pub mapped: bool,
    /// How it is launched where it is a body.
    pub body: Option<BodyLaunch>,
    /// What takes its place where there is much to do; [`Entry::stage`] names the functions.
    pub many: Option<ManyOf>,
    /// Whether there is a function that does the work of up to [`MOST_JOINED`] launches; [`Entry::joined`] is its name.
    pub joins: bool,
}

/// Launches that one may take the place of.
pub(super) const MOST_JOINED: usize = 3;

/// A body's functions for much work. Two are equal that have the same functions.
#[derive(Debug, Clone, Copy)]
pub(super) struct ManyOf(pub &'static Many);

impl PartialEq for ManyOf {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for ManyOf {}

impl Entry {
    /// The name of the function of a stage in the compiled module.
    pub fn stage(&self, function: &str) -> String {
        format!("{}_{function}", self.symbol)
    }

    /// The name of the function for launches that are joined. Its parameters are those of each launch, one after the other,
    /// then the first blocks of the second and of the third.
    pub fn joined(&self) -> String {
        format!("{}_joined", self.symbol)
    }
}

/// A buffer argument as a parameter of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argument {
    pub index: u32,
    /// The value itself is the parameter; the module has a variable of this name that is as long. A pointer without.
    pub copied: Option<String>,
}

/// A text for NVRTC, and the entries in it.
#[derive(Debug)]
pub(super) struct Unit {
    pub text: String,
    pub entries: Vec<Entry>,
}

/// A kernel in one form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub kernel: &'a str,
    pub form: Form,
    /// The most threads of a threadgroup, where the kernel says so.
    pub max_threads: Option<u32>,
    /// What runs in the place of the Metal text's function.
    pub body: Option<&'a Body>,
    /// Whether the functions are wanted that take the body's place where there is much to do.
    pub many: bool,
}

impl Wanted<'_> {
    fn many(&self) -> Option<&'static Many> {
        self.body.and_then(|b| b.many).filter(|_| self.many)
    }
}

/// Makes the text of `wanted`, kernels of the MSL text `source`.
///
/// # Errors
/// Text that cannot be read, and a kernel that it does not have.
pub(super) fn unit(
    source: &str,
    constants: &[(u32, ConstantValue)],
    wanted: &[Wanted<'_>],
) -> Result<Unit, MslError> {
    let options = Options {
        target: Target::Cuda,
        file: "kernel.metal",
        constants,
    };
    let rewritten = rewrite::rewrite(source, &options)?;
    let mut text = String::with_capacity(rewritten.text.len() + 4096);
    // Threads beyond a partial threadgroup matter to nobody but operations across a simdgroup.
    if wanted
        .iter()
        .any(|w| w.form.mapped && uses_simdgroups(source, w.kernel))
    {
        text.push_str("#define MSL_PARTIAL 1\n");
    }
    for (name, _) in PRELUDE {
        let _ = writeln!(text, "#include \"{name}\"");
    }
    text.push_str("namespace metal {\n");
    text.push_str(&rewritten.text);
    // Bodies share texts: each goes in once.
    let mut texts: Vec<&(&str, &str)> = Vec::new();
    let of_many = wanted.iter().filter_map(|w| w.many()).flat_map(|m| m.texts);
    let of_bodies = wanted.iter().filter_map(|w| w.body).flat_map(|b| b.texts);
    for body_text in of_bodies.chain(of_many) {
        if !texts.contains(&body_text) {
            texts.push(body_text);
        }
    }
    for (name, body) in texts {
        let _ = write!(text, "\n#line 1 \"{name}\"\n{body}");
    }
    text.push_str("\n#line 1 \"entry\"\n");
    let mut entries = Vec::with_capacity(wanted.len());
    for w in wanted {
        let found = rewritten.entries.iter().find(|e| e.host_name == w.kernel);
        let Some(found) = found else {
            return Err(MslError::new(0, format!("the text has no kernel `{}`", w.kernel)));
        };
        entries.push(entry(&mut text, found, w));
    }
    text.push_str("}\n");
    Ok(Unit { text, entries })
}

/// The form in which `kernel` is compiled when it is first wanted, as far as the launch leaves the choice: kernels that ask
/// for their place in the grid are launched by threads, where the last threadgroup is seldom whole.
pub(super) fn usual_form(source: &str, kernel: &str) -> Form {
    let asks = ["thread_position_in_grid", "threads_per_grid", "grid_size"];
    let mapped = msl::reach(source, kernel).is_ok_and(|r| asks.iter().any(|w| r.words.contains(*w)));
    Form { mapped, pointers: 0 }
}

/// Whether a kernel has operations across a simdgroup; yes, if in doubt.
fn uses_simdgroups(source: &str, kernel: &str) -> bool {
    msl::reach(source, kernel).map_or(true, |reach| {
        let starts = ["simd_", "quad_", "simdgroup_"];
        reach
            .words
            .iter()
            .any(|w| starts.iter().any(|s| w.starts_with(s)))
    })
}

/// The name of a kernel's function: its host name where that is one, or its bytes.
fn symbol(kernel: &str) -> String {
    if kernel.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return format!("msl_{kernel}");
    }
    let bytes: String = kernel.bytes().map(|b| format!("{b:02x}")).collect();
    format!("mslx_{bytes}")
}

fn entry(text: &mut String, entry: &rewrite::Entry, wanted: &Wanted<'_>) -> Entry {
    let symbol = symbol(&entry.host_name);
    let function = match wanted.body {
        // `f` or `f < float >`.
        Some(body) => entry.expression.replacen(body.replaces, body.function, 1),
        None => entry.expression.clone(),
    };
    let mut made = Entry {
        symbol: symbol.clone(),
        arguments: Vec::new(),
        threadgroup: Vec::new(),
        mapped: wanted.form.mapped,
        body: wanted.body.map(|b| b.launch),
        many: wanted.many().map(ManyOf),
        joins: wanted.body.is_some_and(|b| b.joins),
    };
    let (mut buffers, mut memory, mut call, mut lengths) =
        (Vec::new(), Vec::new(), Vec::new(), String::new());
    let mut stages: Vec<String> = Vec::new();
    for (i, p) in entry.parameters.iter().enumerate() {
        let ty = format!("on_cuda::parameter<{i}, {symbol}_type>");
        match p.kind {
            ParameterKind::Buffer { space, .. } => {
                let by_value =
                    p.reference && space == Space::Constant && wanted.form.pointers >> p.index & 1 == 0;
                let mut copied = None;
                if by_value {
                    let length = format!("{symbol}_bytes_{}", p.index);
                    buffers.push(format!("const __grid_constant__ on_cuda::copy_of<{ty}> a{i}"));
                    let _ = writeln!(
                        lengths,
                        "extern \"C\" __device__ char {length}[sizeof(on_cuda::copy_of<{ty}>)];"
                    );
                    call.push(format!("a{i}.value"));
                    copied = Some(length);
                } else if p.reference {
                    buffers.push(format!("on_cuda::address_of<{ty}> a{i}"));
                    call.push(format!("*a{i}"));
                } else {
                    buffers.push(format!("{ty} a{i}"));
                    call.push(format!("a{i}"));
                }
                made.arguments.push(Argument {
                    index: p.index,
                    copied,
                });
            }
            ParameterKind::Threadgroup => {
                memory.push(format!("uint a{i}"));
                let star = if p.reference { "*" } else { "" };
                let pointer = if p.reference {
                    format!("on_cuda::address_of<{ty}>")
                } else {
                    ty
                };
                call.push(format!("{star}({pointer})(on_cuda::threadgroup_memory + a{i})"));
                made.threadgroup.push(p.index);
            }
            ParameterKind::Builtin(builtin) => {
                call.push(format!("on_cuda::{}(launch).as<{ty}>()", builtin.name()));
            }
        }
    }
    if let (Some(many), Some(body)) = (wanted.many(), wanted.body) {
        for stage in many.stages {
            let function = entry.expression.replacen(body.replaces, stage.function, 1);
            stages.push(format!(
                "extern \"C\" __global__ void __launch_bounds__({}, {}) {}({}, uchar* scratch) {{\n  \
                 on_cuda::let_next_start();\n  on_cuda::wait_for_earlier();\n  {function}({});\n}}\n",
                stage.threads,
                stage.blocks,
                made.stage(stage.function),
                buffers.join(", "),
                stage.call
            ));
        }
    }
    buffers.append(&mut memory);
    let launch = if wanted.form.mapped {
        buffers.push("const __grid_constant__ on_cuda::shape shape".to_owned());
        "const on_cuda::mapped_launch launch(shape);"
    } else {
        "const on_cuda::plain_launch launch;"
    };
    let bounds = match (wanted.body, wanted.max_threads) {
        (Some(body), _) => format!(
            "__launch_bounds__({}, {}) ",
            body.launch.threads, body.launch.blocks
        ),
        (None, _) if wanted.kernel.starts_with(CROWDED.0) => {
            format!("__launch_bounds__({}, {}) ", CROWDED.1, CROWDED.2)
        }
        (None, Some(n)) => format!("__launch_bounds__({n}) "),
        (None, None) => String::new(),
    };
    // A launch may start while those before it run; see `Launch::early`.
    let wait = "on_cuda::let_next_start();\n  on_cuda::wait_for_earlier();\n  ";
    let _ = write!(
        text,
        "typedef decltype({function}) {symbol}_type;\n{lengths}extern \"C\" __global__ void {bounds}{symbol}({}) {{\n  \
         {wait}{launch}\n  if (launch.is_beyond()) return;\n  {function}({});\n}}\n",
        buffers.join(", "),
        call.join(", ")
    );
    stages.iter().for_each(|stage| text.push_str(stage));
    if made.joins {
        text.push_str(&joined(&made, &bounds, wait, &function, &call.join(", ")));
    }
    made
}

/// The function that does the work of several launches: each block finds whose it is.
fn joined(entry: &Entry, bounds: &str, wait: &str, function: &str, call: &str) -> String {
    let (name, mut parameters, mut chosen) = (entry.joined(), Vec::new(), String::new());
    for part in 0..MOST_JOINED {
        for (i, argument) in entry.arguments.iter().enumerate() {
            let ty = format!("on_cuda::parameter<{i}, {}_type>", entry.symbol);
            parameters.push(match argument.copied {
                Some(_) => format!("const __grid_constant__ on_cuda::copy_of<{ty}> a{i}_{part}"),
                None => format!("{ty} a{i}_{part}"),
            });
        }
    }
    for (i, argument) in entry.arguments.iter().enumerate() {
        let ty = if argument.copied.is_some() {
            "const auto&"
        } else {
            "const auto"
        };
        let _ = writeln!(
            chosen,
            "  {ty} a{i} = part == 0 ? a{i}_0 : part == 1 ? a{i}_1 : a{i}_2;"
        );
    }
    format!(
        "extern \"C\" __global__ void {bounds}{name}({}, const __grid_constant__ on_cuda::joints joints) {{\n  {wait}\
         const uint part = joints.part();\n  const on_cuda::joined_launch launch(joints, part);\n{chosen}  \
         {function}({call});\n}}\n",
        parameters.join(", ")
    )
}
