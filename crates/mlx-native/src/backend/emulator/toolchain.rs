//! The host compiler: finding it, asking it, what it is told.

use super::EmulatorError;
use super::abi::{ABI, REGION_BYTES};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The oldest clang whose `_Float16`, property and sanitizer options are the ones used here.
const OLDEST: u32 = 16;
/// The versions that are looked for by name, newest first.
const NEWEST: u32 = 22;

/// A usable clang.
#[derive(Debug, Clone)]
pub(super) struct Toolchain {
    program: PathBuf,
    /// First line of `--version`: part of every cache key.
    pub version: String,
    major: u32,
}

/// What comes out of a run of the compiler.
pub(super) struct Outcome {
    pub success: bool,
    pub messages: String,
}

impl Toolchain {
    /// The clang at `path`, or the first one on the search path.
    pub fn find(path: Option<&Path>) -> Result<Self, EmulatorError> {
        if let Some(path) = path {
            let found = Self::ask(path);
            return match found {
                Some(t) if t.major >= OLDEST => Ok(t),
                Some(t) => Err(EmulatorError::Compiler(format!(
                    "{} is too old: {}",
                    path.display(),
                    t.version
                ))),
                None => Err(EmulatorError::Compiler(format!(
                    "{} does not run or is not clang",
                    path.display()
                ))),
            };
        }
        let named = (OLDEST..=NEWEST).rev().map(|v| format!("clang++-{v}"));
        let fixed = [
            "clang++",
            "/opt/homebrew/opt/llvm/bin/clang++",
            "/usr/local/opt/llvm/bin/clang++",
        ];
        let mut old = None;
        for name in named.chain(fixed.map(str::to_owned)) {
            match Self::ask(Path::new(&name)) {
                Some(t) if t.major >= OLDEST => return Ok(t),
                Some(t) => old = Some(t.version),
                None => {}
            }
        }
        Err(EmulatorError::Compiler(match old {
            Some(version) => format!("the clang found is too old ({version})"),
            None => "no clang was found on the search path".to_owned(),
        }))
    }

    fn ask(program: &Path) -> Option<Self> {
        let output = Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next()?.trim().to_owned();
        let after = version.split("clang version ").nth(1)?;
        let major: u32 = after.split('.').next()?.trim().parse().ok()?;
        // Apple numbers its own clang differently: 16 there began as 17 of LLVM.
        Some(Self {
            program: program.to_owned(),
            version,
            major,
        })
    }

    /// Parses the header `prelude` once and for all into `output`.
    pub fn precompile(
        &self,
        prelude: &Path,
        output: &Path,
        flags: &[String],
    ) -> Result<Outcome, EmulatorError> {
        let mut command = Command::new(&self.program);
        command
            .args(flags)
            .args(["-x", "c++-header"])
            .arg(prelude)
            .arg("-o")
            .arg(output);
        self.feed(command, "")
    }

    /// Compiles `text` to the shared object `object`, behind a header or a precompiled one (`.pch`).
    pub fn build(
        &self,
        text: &str,
        object: &Path,
        header: &Path,
        flags: &[String],
    ) -> Result<Outcome, EmulatorError> {
        let mut command = Command::new(&self.program);
        let precompiled = header.extension().is_some_and(|e| e == "pch");
        command
            .args(flags)
            .arg(if precompiled { "-include-pch" } else { "-include" })
            .arg(header)
            .arg("-shared")
            .arg("-o")
            .arg(object)
            .args(["-x", "c++", "-"])
            .args(link_flags());
        self.feed(command, text)
    }

    /// Checks `text` without making code.
    pub fn check(&self, text: &str) -> Result<Outcome, EmulatorError> {
        let mut command = Command::new(&self.program);
        command.args([
            "-std=c++17",
            "-nostdinc",
            "-w",
            "-fsyntax-only",
            "-ferror-limit=0",
            "-fno-caret-diagnostics",
        ]);
        command.args(["-fno-color-diagnostics", "-x", "c++", "-"]);
        self.feed(command, text)
    }

    fn feed(&self, mut command: Command, text: &str) -> Result<Outcome, EmulatorError> {
        let io = |source| EmulatorError::Io {
            path: self.program.clone(),
            source,
        };
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(io)?;
        let stdin = child.stdin.take();
        let text = text.to_owned();
        // From another thread: a compiler that complains at length before reading on must not block both sides.
        let writer = std::thread::spawn(move || {
            if let Some(mut stdin) = stdin {
                // A compiler that stops early closes the pipe; its messages say why.
                let _ = stdin.write_all(text.as_bytes());
            }
        });
        let output = child.wait_with_output().map_err(io)?;
        let _ = writer.join();
        let messages = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Outcome {
            success: output.status.success(),
            messages,
        })
    }
}

/// How kernels are compiled. Everything here is part of the cache key.
pub(super) fn compile_flags(prelude: &Path, checked: bool) -> Vec<String> {
    let mut flags: Vec<String> = [
        "-std=c++17",
        "-fdeclspec",
        "-fPIC",
        "-nostdinc",
        "-fvisibility=hidden",
        "-fno-exceptions",
        "-fno-rtti",
        "-fno-strict-aliasing",
        "-fno-math-errno",
        "-fsigned-char",
        "-fno-stack-protector",
        // Lanes meet at calls: the optimiser must treat an unknown call as one that all lanes make together.
        "-Xclang",
        "-fconvergent-functions",
        // Every operation rounds to its type, as on the GPU.
        "-ffp-contract=off",
        "-Xclang",
        "-ffloat16-excess-precision=none",
        "-w",
        "-Wno-c++11-narrowing",
        "-ferror-limit=20",
        "-fno-color-diagnostics",
        "-fno-caret-diagnostics",
        "-fdebug-compilation-dir=.",
        "-O2",
        "-g1",
    ]
    .map(str::to_owned)
    .to_vec();
    flags.push(format!("-I{}", prelude.display()));
    flags.push(format!("-DEMU_REGION_BYTES={REGION_BYTES}ul"));
    flags.push(format!("-DEMU_ABI_EXPECTED={ABI}"));
    flags.extend(target_flags());
    if checked {
        flags.extend(checker_flags());
    }
    flags
}

/// The instruction set of this machine, as far as it pays.
fn target_flags() -> Vec<String> {
    #[cfg(target_arch = "x86_64")]
    if ["avx2", "fma", "f16c", "bmi2"].iter().all(|f| x86_feature(f)) {
        return vec!["-march=x86-64-v3".to_owned()];
    }
    Vec::new()
}

#[cfg(target_arch = "x86_64")]
fn x86_feature(name: &str) -> bool {
    match name {
        "avx2" => is_x86_feature_detected!("avx2"),
        "fma" => is_x86_feature_detected!("fma"),
        "f16c" => is_x86_feature_detected!("f16c"),
        _ => is_x86_feature_detected!("bmi2"),
    }
}

/// Every access of the kernel becomes a call of the checker; see `prelude/checker.hpp`.
fn checker_flags() -> impl Iterator<Item = String> {
    [
        "-DEMU_CHECKED",
        "-fsanitize=kernel-address,array-bounds,integer-divide-by-zero",
        "-fno-vectorize",
        "-fno-slp-vectorize",
        "-mllvm",
        "-asan-instrumentation-with-call-threshold=0",
        "-mllvm",
        "-asan-stack=0",
        "-mllvm",
        "-asan-globals=0",
        // A read and a write of the same place in one block are both of interest.
        "-mllvm",
        "-asan-opt=0",
        "-mllvm",
        "-asan-opt-same-temp=0",
        "-mllvm",
        "-asan-kernel-mem-intrinsic-prefix=1",
    ]
    .into_iter()
    .map(str::to_owned)
}

fn link_flags() -> Vec<String> {
    let mut flags = vec!["-nostdlib++".to_owned(), "-lm".to_owned()];
    if cfg!(target_os = "linux") {
        // A name that nothing defines must fail here, not when the kernel calls it.
        flags.push("-Wl,-z,defs".to_owned());
    }
    flags
}
