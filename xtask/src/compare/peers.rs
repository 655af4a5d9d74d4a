//! The peers, from their published packages.

use super::number_after;
use crate::install::{self, Need};
use crate::shell::{Cmd, Result, read_file, write_file};
use std::path::{Path, PathBuf};

/// llama.cpp as this package carries it.
const LLAMA: &str = "llama-cpp-python==0.3.36";
/// What the Python environment has: MLX, what writes models, and what builds llama.cpp.
const PINNED: &[&str] = &[
    "mlx==0.32.4",
    "mlx-cpu==0.32.4",
    "mlx-lm==0.32.2",
    "numpy==2.4.6",
    "gguf==0.19.0",
    "cmake",
    "ninja",
];

/// Where they are.
pub struct Peers {
    bin: PathBuf,
    llama: PathBuf,
}

impl Peers {
    /// Installs and builds what is missing in `dir`: some minutes, once.
    pub fn ready(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let venv = dir.join("venv");
        let peers = Peers {
            bin: venv.join("bin"),
            llama: dir.join("sdist/vendor/llama.cpp"),
        };
        let stamp = venv.join("pinned");
        if read_file(&stamp).as_deref() != Some(PINNED.join("\n").as_str()) {
            install::ensure(&[Need::Venv], true)?;
            Cmd::line("python3 -m venv --clear")
                .args([venv.to_string_lossy()])
                .run()?;
            Cmd::new(peers.python())
                .args(["-m", "pip", "install", "--quiet"])
                .args(PINNED)
                .run()?;
            write_file(&stamp, &PINNED.join("\n"))?;
        }
        if !peers.bench().is_file() {
            peers.build_llama(dir)?;
        }
        Ok(peers)
    }

    pub fn python(&self) -> String {
        self.bin.join("python").to_string_lossy().into_owned()
    }

    fn bench(&self) -> PathBuf {
        self.llama.join("build/bin/llama-bench")
    }

    fn build_llama(&self, dir: &Path) -> Result<()> {
        install::ensure(&[Need::Clang], true)?;
        let sdist = dir.join("sdist");
        if !self.llama.join("CMakeLists.txt").is_file() {
            let (packages, unpacked) = (dir.join("package"), dir.join("unpacked"));
            Cmd::new(self.python())
                .args([
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--no-deps",
                    "--no-binary",
                    "llama-cpp-python",
                    LLAMA,
                ])
                .args(["--dest", &packages.to_string_lossy()])
                .run()?;
            let package = first_file(&packages)?;
            std::fs::create_dir_all(&unpacked)?;
            Cmd::new("tar")
                .args([
                    "-xf",
                    &package.to_string_lossy(),
                    "--strip-components=1",
                    "-C",
                    &unpacked.to_string_lossy(),
                ])
                .run()?;
            std::fs::rename(&unpacked, &sdist)?;
        }
        let cmake = self.bin.join("cmake").to_string_lossy().into_owned();
        let ninja = self.bin.join("ninja").to_string_lossy().into_owned();
        // clang, for gcc 12 makes AMX code that crashes; its own threads, for OpenMP's are slower.
        Cmd::new(&cmake)
            .args([
                "-G",
                "Ninja",
                "-B",
                "build",
                "-DCMAKE_BUILD_TYPE=Release",
                &format!("-DCMAKE_MAKE_PROGRAM={ninja}"),
            ])
            .args([
                "-DCMAKE_C_COMPILER=clang-19",
                "-DCMAKE_CXX_COMPILER=clang++-19",
                "-DGGML_NATIVE=ON",
            ])
            .args([
                "-DGGML_OPENMP=OFF",
                "-DLLAMA_CURL=OFF",
                "-DLLAMA_OPENSSL=OFF",
                "-DLLAMA_BUILD_TESTS=OFF",
            ])
            .args([
                "-DLLAMA_BUILD_EXAMPLES=OFF",
                "-DLLAMA_BUILD_SERVER=OFF",
                "-DBUILD_SHARED_LIBS=OFF",
            ])
            .dir(&self.llama)
            .run()?;
        Cmd::new(&cmake)
            .args(["--build", "build", "--target", "llama-bench"])
            .dir(&self.llama)
            .run()
    }

    /// Tokens each second of one test of llama-bench.
    pub fn llama_bench(&self, model: &Path, test: &[&str], threads: usize) -> Result<f64> {
        let (ok, output) = Cmd::new(self.bench().to_string_lossy())
            .args([
                "-m",
                &model.to_string_lossy(),
                "-t",
                &threads.to_string(),
                "-r",
                "1",
                "-o",
                "json",
            ])
            .args(test)
            .capture()?;
        let speed = number_after(&output, "avg_ts").filter(|_| ok);
        speed.ok_or_else(|| format!("llama-bench failed: {output}").into())
    }

    /// Tokens each second of mlx-lm: of a prompt, and generated.
    pub fn mlx_lm(&self, folder: &Path, prompt: usize, tokens: usize) -> Result<(f64, f64)> {
        let program = format!(
            "from mlx_lm import load, stream_generate\n\
             model, tokenizer = load({:?})\n\
             for r in stream_generate(model, tokenizer, [2] * {prompt}, max_tokens={tokens}): pass\n\
             print('\"prompt\":', r.prompt_tps, '\"decode\":', r.generation_tps)",
            folder.to_string_lossy()
        );
        let (_, output) = Cmd::new(self.python()).args(["-c", &program]).capture()?;
        match (number_after(&output, "prompt"), number_after(&output, "decode")) {
            (Some(prompt), Some(decode)) => Ok((prompt, decode)),
            _ => Err(format!("mlx-lm failed: {output}").into()),
        }
    }
}

/// The only file of a folder.
fn first_file(dir: &Path) -> Result<PathBuf> {
    let entry = std::fs::read_dir(dir)?
        .next()
        .ok_or_else(|| format!("{} is empty", dir.display()))?;
    Ok(entry?.path())
}
