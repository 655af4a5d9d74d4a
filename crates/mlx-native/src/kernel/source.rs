//! A kernel text: flattened and parsed once, shared by every kernel defined in it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use super::headers;
use super::msl::{self, KernelSignature};

/// Metal Shading Language text with its `#include "…"` lines resolved, and what was parsed out of it.
#[derive(Debug)]
pub struct SourceText {
    raw: Cow<'static, str>,
    is_of_library: bool,
    parsed: OnceLock<Result<Parsed, String>>,
}

#[derive(Debug)]
struct Parsed {
    flat: String,
    module: msl::Module,
    kernels: Vec<Arc<KernelSignature>>,
}

impl SourceText {
    pub(crate) fn new(raw: Cow<'static, str>) -> Self {
        SourceText {
            raw,
            is_of_library: false,
            parsed: OnceLock::new(),
        }
    }

    /// A text of this library, whose kernels are proven to compile.
    pub(crate) fn of_library(raw: &'static str) -> Self {
        SourceText {
            is_of_library: true,
            ..Self::new(Cow::Borrowed(raw))
        }
    }

    /// Whether it is one of this library's.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) fn is_of_library(&self) -> bool {
        self.is_of_library
    }

    /// The text as it was registered.
    #[must_use]
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// The text with its includes resolved.
    ///
    /// # Errors
    /// What the flattener or the parser found wrong.
    pub fn flat(&self) -> Result<&str, String> {
        self.parsed().map(|p| p.flat.as_str())
    }

    /// Every kernel and function constant that the text declares.
    ///
    /// # Errors
    /// What the flattener or the parser found wrong.
    pub fn module(&self) -> Result<&msl::Module, String> {
        self.parsed().map(|p| &p.module)
    }

    pub(crate) fn signature(&self, name: &str) -> Result<Option<Arc<KernelSignature>>, String> {
        Ok(self.parsed()?.kernels.iter().find(|k| k.name == name).cloned())
    }

    fn parsed(&self) -> Result<&Parsed, String> {
        self.parsed
            .get_or_init(|| {
                let flat = headers::flatten(&self.raw)?;
                let module = msl::parse(&flat).map_err(|e| e.to_string())?;
                let kernels = module.kernels.iter().cloned().map(Arc::new).collect();
                Ok(Parsed {
                    flat,
                    module,
                    kernels,
                })
            })
            .as_ref()
            .map_err(Clone::clone)
    }
}
