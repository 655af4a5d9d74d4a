//! What the chores need beyond the Rust toolchain, and how a fresh Debian machine gets it.
//!
//! Everything comes from package registries: Debian's by `apt-get`, crates.io by `cargo install`, PyPI by `pip`.

use crate::cuda_wheels;
use crate::shell::{Cmd, Result, on_path, read_file, target_dir, write_file};
use std::path::Path;

/// The cargo-deny that is built when none is installed. Its debug build takes a minute on two cores, the release build
/// several, and it only reads a lock file.
const CARGO_DENY: &str = "cargo-deny@0.20.2";

/// Something that a step cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// rustfmt and clippy of the toolchain in use.
    RustComponents,
    /// A C++ compiler under the name `c++`, which the fuzz targets' runtime is built with.
    Cxx,
    /// clang 19, which the emulator compiles kernels with.
    Clang,
    /// cargo-deny.
    CargoDeny,
    /// Python with pip.
    Pip,
    /// Python that can make virtual environments.
    Venv,
    /// The compiler and the stub SDK of the Mac check, in the user's cache folder.
    Darwin,
    /// qemu's user mode for aarch64.
    Qemu,
    /// The standard library for [`AARCH64`].
    Aarch64Std,
    /// NVIDIA's compiler and assembler, in the target folder.
    Nvrtc,
}

/// The target whose programs run under qemu: linked statically by the toolchain alone, so that no other compiler and no
/// libraries of that architecture are needed.
pub const AARCH64: &str = "aarch64-unknown-linux-musl";

impl Need {
    fn name(self) -> &'static str {
        match self {
            Self::RustComponents => "rustfmt and clippy",
            Self::Cxx => "a C++ compiler",
            Self::Clang => "clang 19",
            Self::CargoDeny => "cargo-deny",
            Self::Pip => "Python 3 with pip",
            Self::Venv => "Python 3 with venv",
            Self::Darwin => "the compiler of the Mac check",
            Self::Qemu => "qemu-aarch64",
            Self::Aarch64Std => "the standard library for aarch64",
            Self::Nvrtc => "NVRTC and ptxas",
        }
    }

    fn is_there(self) -> bool {
        match self {
            Self::RustComponents => {
                Cmd::line("cargo fmt --version").succeeds() && Cmd::line("cargo clippy --version").succeeds()
            }
            Self::Cxx => on_path("c++"),
            // A Mac has Apple's clang under the plain name, with its command-line tools.
            Self::Clang => on_path("clang-19") || (cfg!(target_os = "macos") && on_path("clang")),
            Self::CargoDeny => Cmd::line("cargo deny --version").succeeds(),
            Self::Pip => Cmd::line("python3 -m pip --version").succeeds(),
            Self::Venv => Cmd::new("python3")
                .args(["-c", "import venv, ensurepip"])
                .succeeds(),
            Self::Darwin => Cmd::line("tools/check-darwin.sh ready").succeeds(),
            Self::Qemu => on_path("qemu-aarch64"),
            Self::Aarch64Std => {
                let folder = Cmd::line("rustc --print target-libdir --target")
                    .args([AARCH64])
                    .capture();
                folder.is_ok_and(|(ok, folder)| ok && Path::new(folder.trim()).is_dir())
            }
            Self::Nvrtc => cuda_wheels::is_installed(),
        }
    }

    fn install(self) -> Result<()> {
        match self {
            Self::RustComponents => Cmd::line("rustup component add rustfmt clippy").run(),
            Self::Cxx => apt_install("g++"),
            Self::Clang => apt_install("clang-19"),
            Self::CargoDeny => {
                eprintln!("building cargo-deny, once (a minute or two)");
                Cmd::line("cargo install --quiet --locked --debug")
                    .args([CARGO_DENY])
                    .run()
            }
            Self::Pip => apt_install("python3-pip"),
            Self::Venv => apt_install("python3-venv"),
            Self::Darwin => {
                ensure(&[Self::Pip], true)?;
                // It downloads packages of Debian's by version: an old list names versions that are gone.
                apt(&["update"])?;
                Cmd::line("tools/check-darwin.sh setup").run()
            }
            Self::Qemu => apt_install("qemu-user"),
            Self::Aarch64Std => Cmd::line("rustup target add").args([AARCH64]).run(),
            Self::Nvrtc => {
                ensure(&[Self::Pip], true)?;
                cuda_wheels::install()
            }
        }
    }
}

/// Installs what is missing, or, if that is not allowed, says what is.
pub fn ensure(needs: &[Need], may_install: bool) -> Result<()> {
    for need in needs.iter().filter(|need| !need.is_there()) {
        if !may_install {
            return Err(format!("{} is missing (and --no-install was given)", need.name()).into());
        }
        eprintln!("{} is missing: installing it", need.name());
        need.install()
            .map_err(|e| format!("cannot install {}: {e}", need.name()))?;
        if !need.is_there() {
            return Err(format!("{} is still missing after it was installed", need.name()).into());
        }
    }
    Ok(())
}

/// The Python of an environment under target/ that holds exactly these packages; made again when they change.
pub fn python(name: &str, packages: &[&str]) -> Result<String> {
    let dir = target_dir().join(name);
    let python = dir.join("bin/python").to_string_lossy().into_owned();
    let stamp = dir.join("pinned");
    let pins = packages.join("\n");
    if read_file(&stamp).as_deref() != Some(pins.as_str()) {
        ensure(&[Need::Venv], true)?;
        Cmd::line("python3 -m venv --clear")
            .args([dir.to_string_lossy()])
            .run()?;
        Cmd::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .args(packages)
            .run()?;
        write_file(&stamp, &pins)?;
    }
    Ok(python)
}

fn apt_install(package: &str) -> Result<()> {
    apt(&["update"])?;
    apt(&["install", "-y", "--no-install-recommends", package])
}

/// Runs apt-get as root: directly, or by a sudo that does not ask for a password.
fn apt(args: &[&str]) -> Result<()> {
    if !on_path("apt-get") {
        return Err("there is no apt-get here, only Debian's way is known: install it by hand".into());
    }
    let root = Cmd::line("id -u")
        .capture()
        .is_ok_and(|(_, uid)| uid.trim() == "0");
    let base = if root {
        Cmd::new("apt-get")
    } else if on_path("sudo") {
        Cmd::line("sudo -n DEBIAN_FRONTEND=noninteractive apt-get")
    } else {
        return Err("apt-get needs root, and there is no sudo".into());
    };
    base.env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-qq"])
        .args(args)
        .run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_says_what_it_is_and_nothing_is_installed_unasked() {
        assert!(ensure(&[], false).is_ok());
        for need in [
            Need::RustComponents,
            Need::Cxx,
            Need::Clang,
            Need::CargoDeny,
            Need::Pip,
            Need::Venv,
            Need::Qemu,
            Need::Aarch64Std,
            Need::Nvrtc,
        ] {
            match ensure(&[need], false) {
                Ok(()) => assert!(need.is_there()),
                Err(error) => assert!(error.to_string().contains(need.name())),
            }
        }
    }
}
