//! NVRTC, the compiler of CUDA C++ as a library, by the few functions that are needed.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use super::library::{functions, load_first};
use super::text::PRELUDE;

type Status = c_int;
type Program = *mut c_void;

functions! {
    /// The functions of NVRTC.
    Functions {
        fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> Status;
        fn nvrtcGetNumSupportedArchs(count: *mut c_int) -> Status;
        fn nvrtcGetSupportedArchs(capabilities: *mut c_int) -> Status;
        fn nvrtcGetErrorString(status: Status) -> *const c_char;
        fn nvrtcCreateProgram(
            program: *mut Program,
            text: *const c_char,
            name: *const c_char,
            n_headers: c_int,
            headers: *const *const c_char,
            header_names: *const *const c_char,
        ) -> Status;
        fn nvrtcDestroyProgram(program: *mut Program) -> Status;
        fn nvrtcCompileProgram(program: Program, n_options: c_int, options: *const *const c_char) -> Status;
        fn nvrtcGetProgramLogSize(program: Program, size: *mut usize) -> Status;
        fn nvrtcGetProgramLog(program: Program, log: *mut c_char) -> Status;
        fn nvrtcGetCUBINSize(program: Program, size: *mut usize) -> Status;
        fn nvrtcGetCUBIN(program: Program, out: *mut c_char) -> Status;
        fn nvrtcGetPTXSize(program: Program, size: *mut usize) -> Status;
        fn nvrtcGetPTX(program: Program, out: *mut c_char) -> Status;
    }
}

/// The major versions that are looked for by name, newest first.
const MAJORS: [u32; 2] = [13, 12];

/// Options of every compilation: C++17, every function on the device, divisions and roots rounded correctly (the default),
/// products fused with sums (the default), subnormal numbers kept (the default).
pub(super) const OPTIONS: [&str; 2] = ["--std=c++17", "--device-as-default-execution-space"];

/// Who turns text into machine code: NVRTC, or a stand-in for it.
pub(super) trait TextCompiler: Send + Sync + 'static {
    /// Major and minor version.
    fn version(&self) -> (u32, u32);

    /// The compute capabilities, times ten, that it makes machine code for, in rising order.
    fn capabilities(&self) -> Vec<u32>;

    /// Compiles a text behind the prelude.
    ///
    /// # Errors
    /// The compiler's words.
    fn compile(&self, text: &str, output: Output) -> std::result::Result<Vec<u8>, String>;
}

/// What a program is compiled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Machine code of one architecture: 90 is sm_90.
    Cubin(u32),
    /// The same, with what is this architecture's alone: 90 is sm_90a.
    Exact(u32),
    /// NVIDIA's intermediate language, which the driver compiles.
    Ptx(u32),
    /// The same, with what is one architecture's alone.
    #[cfg(any(test, feature = "testing"))]
    ExactPtx(u32),
}

impl Output {
    /// The architecture as the compiler's options name it.
    pub fn architecture(self) -> String {
        match self {
            Output::Cubin(n) => format!("sm_{n}"),
            Output::Exact(n) => format!("sm_{n}a"),
            Output::Ptx(n) => format!("compute_{n}"),
            #[cfg(any(test, feature = "testing"))]
            Output::ExactPtx(n) => format!("compute_{n}a"),
        }
    }
}

/// A loaded NVRTC.
pub(super) struct Nvrtc {
    functions: Functions,
    /// Major and minor.
    pub version: (u32, u32),
    /// Compute capabilities, times ten, that it makes machine code for, in rising order.
    capabilities: Vec<u32>,
    pub path: PathBuf,
}

impl Nvrtc {
    /// Loads NVRTC: from `path` if given, otherwise by name, from the toolkit's folders, or from where pip puts it.
    ///
    /// # Errors
    /// In words.
    pub fn load(path: Option<&Path>) -> Result<Self, String> {
        let candidates = match path {
            Some(path) => vec![path.to_owned()],
            None => candidates(),
        };
        for path in &candidates {
            load_builtins(path);
        }
        let (library, path) = load_first(&candidates)?;
        // SAFETY: the types are those of `nvrtc.h`, which have not changed since version 11.1.
        let functions = unsafe { Functions::of(library) }.map_err(|e| format!("{}: {e}", path.display()))?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two places to write to.
        let status = unsafe { functions.nvrtcVersion(&mut major, &mut minor) };
        let mut nvrtc = Nvrtc {
            version: (major.unsigned_abs(), minor.unsigned_abs()),
            functions,
            capabilities: Vec::new(),
            path,
        };
        nvrtc.check(status)?;
        let mut count = 0;
        // SAFETY: a place to write to.
        nvrtc.check(unsafe { nvrtc.functions.nvrtcGetNumSupportedArchs(&mut count) })?;
        let mut capabilities = vec![0; count.unsigned_abs() as usize];
        // SAFETY: as many places as the library asked for.
        nvrtc.check(unsafe { nvrtc.functions.nvrtcGetSupportedArchs(capabilities.as_mut_ptr()) })?;
        nvrtc.capabilities = capabilities.iter().map(|c| c.unsigned_abs()).collect();
        Ok(nvrtc)
    }
}

impl TextCompiler for Nvrtc {
    fn version(&self) -> (u32, u32) {
        self.version
    }

    fn capabilities(&self) -> Vec<u32> {
        self.capabilities.clone()
    }

    fn compile(&self, text: &str, output: Output) -> Result<Vec<u8>, String> {
        let c_string = |s: &str| CString::new(s).map_err(|_| "the text has a zero byte".to_owned());
        let text = c_string(text)?;
        let mut names = Vec::new();
        let mut headers = Vec::new();
        for (name, header) in PRELUDE {
            names.push(c_string(name)?);
            headers.push(c_string(header)?);
        }
        let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let mut options = vec![c_string(&format!(
            "--gpu-architecture={}",
            output.architecture()
        ))?];
        for option in OPTIONS {
            options.push(c_string(option)?);
        }
        let mut program = Owned {
            nvrtc: self,
            program: std::ptr::null_mut(),
        };
        // SAFETY: strings end with a zero and outlive the call, which copies them; the counts are those of the lists.
        let status = unsafe {
            self.functions.nvrtcCreateProgram(
                &mut program.program,
                text.as_ptr(),
                c"kernel.cu".as_ptr(),
                PRELUDE.len() as c_int,
                pointers(&headers).as_ptr(),
                pointers(&names).as_ptr(),
            )
        };
        self.check(status)?;
        let list = pointers(&options);
        // SAFETY: a program that was made, and as many options as said.
        let status = unsafe {
            self.functions
                .nvrtcCompileProgram(program.program, list.len() as c_int, list.as_ptr())
        };
        if status != 0 {
            return Err(program.complaint(status));
        }
        match output {
            Output::Cubin(_) | Output::Exact(_) => {
                program.bytes(Functions::nvrtcGetCUBINSize, Functions::nvrtcGetCUBIN)
            }
            _ => program.bytes(Functions::nvrtcGetPTXSize, Functions::nvrtcGetPTX),
        }
    }
}

impl Nvrtc {
    fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: gives a static string for every number.
        let text = unsafe { self.functions.nvrtcGetErrorString(status) };
        if text.is_null() {
            return Err(format!("NVRTC error {status}"));
        }
        // SAFETY: not null, and ends with a zero.
        Err(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }
}

/// A program that is destroyed when dropped.
struct Owned<'n> {
    nvrtc: &'n Nvrtc,
    program: Program,
}

impl Owned<'_> {
    fn bytes(
        &self,
        size: unsafe fn(&Functions, Program, *mut usize) -> Status,
        get: unsafe fn(&Functions, Program, *mut c_char) -> Status,
    ) -> Result<Vec<u8>, String> {
        let mut len = 0;
        // SAFETY: the program lives, `len` is a place to write to.
        let status = unsafe { size(&self.nvrtc.functions, self.program, &mut len) };
        self.nvrtc.check(status)?;
        let mut out = vec![0u8; len];
        // SAFETY: `out` has as many bytes as the compiler asked for.
        let status = unsafe { get(&self.nvrtc.functions, self.program, out.as_mut_ptr().cast()) };
        self.nvrtc.check(status)?;
        Ok(out)
    }

    /// Errors of the compiler, or the status where it wrote none.
    fn complaint(&self, status: Status) -> String {
        let log = self.bytes(Functions::nvrtcGetProgramLogSize, Functions::nvrtcGetProgramLog);
        let log = log
            .map(|l| String::from_utf8_lossy(&l).trim_end_matches('\0').to_owned())
            .unwrap_or_default();
        let lines: Vec<&str> = log
            .lines()
            .filter(|l| l.contains("error") || l.contains("nresolved"))
            .take(24)
            .collect();
        if lines.is_empty() {
            let status = self.nvrtc.check(status).err().unwrap_or_default();
            return format!("{status} {}", log.trim()).trim().to_owned();
        }
        lines.join("\n")
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: made by this library and not used any more.
            let _ = unsafe { self.nvrtc.functions.nvrtcDestroyProgram(&mut self.program) };
        }
    }
}

fn file_names() -> Vec<String> {
    let named = MAJORS.iter().map(|n| {
        if cfg!(windows) {
            format!("nvrtc64_{n}0_0.dll")
        } else {
            format!("libnvrtc.so.{n}")
        }
    });
    let plain = (!cfg!(windows)).then(|| "libnvrtc.so".to_owned());
    named.chain(plain).collect()
}

/// Where NVRTC may be.
fn candidates() -> Vec<PathBuf> {
    let names = file_names();
    let mut all: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    for folder in folders() {
        all.extend(names.iter().map(|n| folder.join(n)));
    }
    all
}

/// The toolkit's folders, and those of packages for Python, newest first.
fn folders() -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("/usr/local/cuda/lib64")];
    let mut listed = |parent: &str, keep: fn(&str) -> bool, below: &[&str]| {
        let Ok(entries) = std::fs::read_dir(parent) else {
            return;
        };
        let mut found: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| keep(n))
            .collect();
        found.sort();
        for name in found.iter().rev() {
            folders.extend(below.iter().map(|b| Path::new(parent).join(name).join(b)));
        }
    };
    listed("/usr/local", |n| n.starts_with("cuda-"), &["lib64"]);
    let pip = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"];
    for parent in ["/usr/lib/python3", "/usr/local/lib", "/usr/lib"] {
        listed(
            parent,
            |n| n.starts_with("python3") || n == "dist-packages",
            &[
                "site-packages/nvidia/cu13/lib",
                "site-packages/nvidia/cuda_nvrtc/lib",
                "dist-packages/nvidia/cu13/lib",
                "dist-packages/nvidia/cuda_nvrtc/lib",
                pip[0],
                pip[1],
            ],
        );
    }
    folders
}

/// NVRTC opens the library of its builtins by name, wherever itself lies: loaded first, it is found. What cannot be loaded
/// here, NVRTC will name.
fn load_builtins(nvrtc: &Path) {
    let Some(entries) = nvrtc
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .and_then(|p| std::fs::read_dir(p).ok())
    else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("libnvrtc-builtins.so") && nvrtc.exists() {
            // SAFETY: NVIDIA's library: its initialisers may run at any time. It stays for the rest of the process.
            if let Ok(library) = unsafe { libloading::Library::new(entry.path()) } {
                std::mem::forget(library);
            }
        }
    }
}
