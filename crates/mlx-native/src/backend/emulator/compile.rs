//! From MSL text to loaded code: rewrite, compile, keep, load.

use super::abi::{ABI, EntryFunction, MAX_ARGUMENTS, Runtime};
use super::prelude;
use super::runtime::RUNTIME;
use super::symbols::Symbols;
use super::toolchain::{self, Outcome};
use super::{CompileOptions, Emulator, EmulatorError};
use crate::backend::fingerprint::Fingerprint;
use crate::kernel::ConstantValue;
use crate::kernel::msl::rewrite::{self, Entry, Options, Target, UNSET_CONSTANT_SYMBOL};
use crate::kernel::msl::{self, KernelSignature, ParameterKind};
use std::ffi::c_void;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A kernel ready to run, for as long as the value lives.
pub struct LoadedKernel {
    pub(super) signature: KernelSignature,
    pub(super) entry: EntryFunction,
    /// Where the object is loaded.
    pub(super) image: usize,
    pub(super) symbols: Symbols,
    pub(super) checked: bool,
    /// Keeps the code in memory.
    _library: libloading::Library,
}

impl LoadedKernel {
    /// What the kernel wants to be given.
    pub fn signature(&self) -> &KernelSignature {
        &self.signature
    }

    /// Whether it was compiled for the access checker.
    pub fn is_checked(&self) -> bool {
        self.checked
    }
}

impl std::fmt::Debug for LoadedKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedKernel")
            .field("name", &self.signature.name)
            .field("checked", &self.checked)
            .finish()
    }
}

impl Emulator {
    /// Compiles one kernel of an MSL text, or takes it from the cache.
    ///
    /// `constants` are function constants by index. Objects lie in the cache folder under a key made of everything that
    /// matters: text, kernel, constants, prelude, compiler, flags.
    ///
    /// # Errors
    /// Text that cannot be read, a kernel it does not have, the compiler's complaints (with lines of the text), a
    /// function constant that the kernel uses and nobody set.
    pub fn compile(
        &self,
        source: &str,
        kernel: &str,
        constants: &[(u32, ConstantValue)],
        options: &CompileOptions<'_>,
    ) -> Result<Arc<LoadedKernel>, EmulatorError> {
        let module = msl::parse(source).map_err(EmulatorError::Msl)?;
        let Some(signature) = module.kernel(kernel) else {
            let known = module.kernels.iter().map(|k| k.name.clone()).collect();
            return Err(EmulatorError::UnknownKernel {
                name: kernel.to_owned(),
                known,
            });
        };
        if let Some((index, _)) = constants
            .iter()
            .find(|(i, _)| !module.constants.iter().any(|c| c.index == *i))
        {
            let message =
                format!("kernel `{kernel}`: the text declares no function constant with index {index}");
            return Err(EmulatorError::Launch(message));
        }
        let file = options.file.unwrap_or("kernel.metal");
        let rewriting = Options {
            target: Target::Cpp,
            file,
            constants,
        };
        let rewritten = rewrite::rewrite(source, &rewriting).map_err(EmulatorError::Msl)?;
        let Some(entry) = rewritten.entries.iter().find(|e| e.host_name == kernel) else {
            return Err(EmulatorError::UnknownKernel {
                name: kernel.to_owned(),
                known: Vec::new(),
            });
        };
        let text = rewritten.text + &entry_text(entry);
        let (object, key) = self.object(&text, kernel, options.checked)?;
        self.loaded(key, || load(&object, signature.clone(), options.checked))
    }

    /// The kernel of this key, loaded at most once per emulator.
    fn loaded(
        &self,
        key: u128,
        load: impl FnOnce() -> Result<LoadedKernel, EmulatorError>,
    ) -> Result<Arc<LoadedKernel>, EmulatorError> {
        let mut kernels = self
            .kernels
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = kernels.get(&key) {
            return Ok(Arc::clone(known));
        }
        let made = Arc::new(load()?);
        kernels.insert(key, Arc::clone(&made));
        Ok(made)
    }

    /// The prelude as a precompiled header, which spares most of the time of a small kernel; the plain header where
    /// that cannot be made.
    fn header(&self, prelude: &Path, checked: bool, flags: &[String]) -> PathBuf {
        let plain = prelude.join("prelude.hpp");
        let mut key = Fingerprint::new();
        key.add(&self.toolchain.version);
        flags.iter().for_each(|f| key.add(f));
        let name = if checked { "checked" } else { "plain" };
        let precompiled = prelude.join(format!("{name}-{:016x}.pch", key.0 as u64));
        if precompiled.exists() {
            return precompiled;
        }
        match publish(&precompiled, |fresh| {
            self.toolchain.precompile(&plain, fresh, flags)
        }) {
            Ok(None) => precompiled,
            _ => plain,
        }
    }

    /// Path of the compiled object, compiling it if need be, and its key.
    fn object(&self, text: &str, kernel: &str, checked: bool) -> Result<(PathBuf, u128), EmulatorError> {
        let prelude = prelude::install(&self.cache, &self.prelude_key)?;
        let flags = toolchain::compile_flags(&prelude, checked);
        let mut key = Fingerprint::new();
        for part in [text, kernel, &self.prelude_key, &self.toolchain.version] {
            key.add(part);
        }
        // The prelude's place is no part of what it says.
        flags
            .iter()
            .filter(|f| !f.starts_with("-I"))
            .for_each(|f| key.add(f));
        key.add(&ABI.to_string());
        let key = key.0;
        let object = self.cache.join(format!("{key:032x}.so"));
        if !object.exists() {
            let header = self.header(&prelude, checked, &flags);
            let outcome = publish(&object, |fresh| {
                self.toolchain.build(text, fresh, &header, &flags)
            })?;
            if let Some(messages) = outcome {
                return Err(complaint(kernel, &messages));
            }
        }
        Ok((object, key))
    }
}

/// Makes a file under a name of our own, then renames it: other processes see a whole file or none. Gives the
/// compiler's messages where it refused.
fn publish(
    path: &Path,
    make: impl FnOnce(&Path) -> Result<Outcome, EmulatorError>,
) -> Result<Option<String>, EmulatorError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let unique = COUNT.fetch_add(1, Ordering::Relaxed);
    let fresh = path.with_extension(format!("{}.{unique}.tmp", std::process::id()));
    let done = make(&fresh).and_then(|outcome| {
        if !outcome.success {
            return Ok(Some(outcome.messages));
        }
        let renamed = std::fs::rename(&fresh, path);
        renamed.map(|()| None).map_err(|source| EmulatorError::Io {
            path: path.to_owned(),
            source,
        })
    });
    // Nothing may be there any more; what is, is of no use.
    let _ = std::fs::remove_file(&fresh);
    done
}

/// The compiler's words, or what they mean.
fn complaint(kernel: &str, messages: &str) -> EmulatorError {
    if let Some(rest) = messages.split(UNSET_CONSTANT_SYMBOL).nth(1) {
        let name: String = rest
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        return EmulatorError::UnsetConstant {
            kernel: kernel.to_owned(),
            name,
        };
    }
    let lines: Vec<&str> = messages
        .lines()
        .filter(|l| l.contains("error") || l.contains("note:"))
        .take(24)
        .collect();
    let message = if lines.is_empty() {
        messages.trim().to_owned()
    } else {
        lines.join("\n")
    };
    EmulatorError::Compile {
        kernel: kernel.to_owned(),
        message,
    }
}

/// The symbol that a compiled object exports for its kernel.
const ENTRY_SYMBOL: &str = "emu_kernel_entry";

fn entry_text(entry: &Entry) -> String {
    let f = &entry.expression;
    let mut text = format!(
        "\n#line 1 \"<entry>\"\nextern \"C\" __attribute__((visibility(\"default\"))) const emu_entry_function {ENTRY_SYMBOL} = \
         (emu_entry_function)&emu::entry<decltype(({f}))>::call<&{f}"
    );
    for p in &entry.parameters {
        let kind = match p.kind {
            ParameterKind::Buffer { .. } => "buffer",
            ParameterKind::Threadgroup => "threadgroup",
            ParameterKind::Builtin(builtin) => builtin.name(),
        };
        let _ = write!(text, ", emu::parameter<emu::kind::{kind}, {}>", p.index);
    }
    text.push_str(">;\n");
    text
}

fn load(object: &Path, signature: KernelSignature, checked: bool) -> Result<LoadedKernel, EmulatorError> {
    let fail = |e: libloading::Error| EmulatorError::Load {
        path: object.to_owned(),
        message: e.to_string(),
    };
    debug_assert!(
        signature
            .bindings
            .iter()
            .all(|b| (b.index as usize) < MAX_ARGUMENTS)
    );
    // SAFETY: the object was made by our own compile step from rewritten kernel text: it has no initialisers that run
    // at load, and its two exported symbols have these types.
    unsafe {
        let library = libloading::Library::new(object).map_err(fail)?;
        let runtime = library.get::<*mut *const Runtime>(b"emu_rt\0").map_err(fail)?;
        **runtime = &raw const RUNTIME;
        let entry = **library
            .get::<*const EntryFunction>(format!("{ENTRY_SYMBOL}\0").as_bytes())
            .map_err(fail)?;
        let mut info = std::mem::zeroed::<libc::Dl_info>();
        let known = libc::dladdr(entry as usize as *const c_void, &mut info) != 0;
        let image = if known { info.dli_fbase as usize } else { 0 };
        let symbols = Symbols::new(object.to_owned());
        Ok(LoadedKernel {
            signature,
            entry,
            image,
            symbols,
            checked,
            _library: library,
        })
    }
}
