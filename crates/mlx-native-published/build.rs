//! Makes a module of each file of the folder that `MLX_NATIVE_PUBLISHED_TESTS` names.

use std::error::Error;
use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    const FOLDER: &str = "MLX_NATIVE_PUBLISHED_TESTS";
    println!("cargo::rerun-if-env-changed={FOLDER}");
    println!("cargo::rustc-check-cfg=cfg(published_tests)");
    let mut modules = String::new();
    if let Some(folder) = env::var_os(FOLDER) {
        println!("cargo::rustc-cfg=published_tests");
        println!("cargo::rerun-if-changed={}", PathBuf::from(&folder).display());
        let mut files = fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>, std::io::Error>>()?;
        files.sort();
        for file in files
            .iter()
            .filter(|file| file.extension().is_some_and(|e| e == "rs"))
        {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            writeln!(modules, "#[path = {file:?}]\nmod {name};")?;
        }
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?);
    fs::write(out.join("modules.rs"), modules)?;
    Ok(())
}
