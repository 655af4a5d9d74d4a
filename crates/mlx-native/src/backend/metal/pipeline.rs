//! Kernels to pipelines: text, function constants, archives on disk; and what of a kernel this GPU cannot run.

use std::any::Any;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::archive::{ArchiveKey, Archives, Hash};
use crate::profile::GpuArchitecture;
use super::gpu::{Gpu, PipelineFacts};
use crate::backend::{Limits, PipelineBody};
use crate::error::{MlxError, Result};
use crate::kernel::msl::{self, Reach};
use crate::kernel::{ConstantValue, Kernel};

/// Texts compiled and kept, for further constants of the same kernel. Beyond that all are let go.
const MAX_LIBRARIES: usize = 128;

/// A pipeline of Metal's.
pub(super) struct MetalPipeline<G: Gpu> {
    pub state: G::Pipeline,
    pub static_threadgroup_memory: usize,
    max_threads: u32,
}

impl<G: Gpu> PipelineBody for MetalPipeline<G> {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn max_threads(&self) -> Option<u32> {
        Some(self.max_threads)
    }
}

/// Makes pipelines.
pub(super) struct Compiler<G: Gpu> {
    gpu: Arc<G>,
    fast_math: bool,
    archives: Option<Archives>,
    libraries: Mutex<HashMap<u128, Arc<G::Library>>>,
}

impl<G: Gpu> Compiler<G> {
    /// `cache`: the folder for archives; none are kept without.
    pub fn new(gpu: Arc<G>, fast_math: bool, cache: Option<&Path>) -> Self {
        let facts = gpu.facts();
        let gpu_name = format!("{} {}", facts.name, facts.architecture);
        let archives = cache.map(|folder| Archives::new(folder, &gpu_name, &facts.os));
        Compiler {
            gpu,
            fast_math,
            archives,
            libraries: Mutex::default(),
        }
    }

    pub fn compile(
        &self,
        kernel: &Kernel,
        constants: &[(u32, ConstantValue)],
        limits: &Limits,
    ) -> Result<MetalPipeline<G>> {
        let failed = |message: String| MlxError::ShaderCompilationError {
            name: kernel.name.to_string(),
            message,
        };
        let flat = kernel.source.flat().map_err(failed)?;
        // A text instantiates its templates many times over; only one of them is wanted.
        let text = msl::only(flat, &kernel.name);
        let state = G::pool(|| self.compile_text(kernel, &text, constants)).map_err(failed)?;
        let facts = G::pipeline_facts(&state);
        check_facts(&facts, limits).map_err(failed)?;
        Ok(MetalPipeline {
            state,
            static_threadgroup_memory: facts.static_threadgroup_memory,
            max_threads: u32::try_from(facts.max_threads)
                .unwrap_or(u32::MAX)
                .min(limits.max_threads_per_threadgroup),
        })
    }

    fn compile_text(
        &self,
        kernel: &Kernel,
        text: &str,
        constants: &[(u32, ConstantValue)],
    ) -> std::result::Result<G::Pipeline, String> {
        let library = self.library(text)?;
        let function = self.gpu.new_function(&library, &kernel.name, constants)?;
        let Some(archives) = &self.archives else {
            return self.gpu.new_pipeline(&function, &kernel.name, None);
        };
        let path = archives.path(&ArchiveKey {
            text,
            name: &kernel.name,
            constants,
            fast_math: self.fast_math,
        });
        if path.exists() {
            let old = self.gpu.open_archive(Some(&path));
            match old.and_then(|a| self.gpu.new_pipeline(&function, &kernel.name, Some(&a))) {
                Ok(pipeline) => return Ok(pipeline),
                Err(why) => {
                    tracing::debug!(path = %path.display(), why, "metal: an archive cannot be used");
                    archives.discard(&path);
                }
            }
        }
        let archive = self.new_archive(&function, &kernel.name);
        let pipeline = self.gpu.new_pipeline(&function, &kernel.name, archive.as_ref())?;
        if let Some(archive) = archive {
            let stored = archives.store(&path, |to| self.gpu.save_archive(&archive, to));
            if let Err(why) = stored {
                tracing::debug!(path = %path.display(), why, "metal: an archive cannot be stored");
            }
        }
        Ok(pipeline)
    }

    fn new_archive(&self, function: &G::Function, label: &str) -> Option<G::Archive> {
        let archive = self.gpu.open_archive(None);
        let filled = archive.and_then(|a| self.gpu.add_to_archive(&a, function, label).map(|()| a));
        filled
            .inspect_err(|why| tracing::debug!(why, "metal: no archive is made"))
            .ok()
    }

    fn library(&self, text: &str) -> std::result::Result<Arc<G::Library>, String> {
        let mut hash = Hash::default();
        hash.piece(text.as_bytes());
        let key = hash.value();
        let libraries = || self.libraries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = libraries().get(&key) {
            return Ok(library.clone());
        }
        // Compiled without the lock: other threads may want other texts.
        let library = Arc::new(self.gpu.new_library(text, self.fast_math)?);
        let mut libraries = libraries();
        if libraries.len() >= MAX_LIBRARIES {
            libraries.clear();
        }
        libraries.insert(key, library.clone());
        Ok(library)
    }
}

fn check_facts(facts: &PipelineFacts, limits: &Limits) -> std::result::Result<(), String> {
    if facts.simd_width != limits.simd_width as usize {
        return Err(format!(
            "its simdgroups have {} threads here, the kernels are written for {}",
            facts.simd_width, limits.simd_width
        ));
    }
    if facts.static_threadgroup_memory > limits.max_threadgroup_memory as usize {
        return Err(format!(
            "it declares {} bytes of threadgroup memory, {} are possible",
            facts.static_threadgroup_memory, limits.max_threadgroup_memory
        ));
    }
    if facts.max_threads == 0 {
        return Err("it needs more registers than the GPU has".to_owned());
    }
    Ok(())
}

/// Why a GPU cannot run a kernel, if so: it uses a type that the GPU lacks.
pub(super) fn supports(kernel: &Kernel, gpu: &GpuArchitecture) -> std::result::Result<(), String> {
    if gpu.simdgroup_matrix && gpu.bfloat {
        return Ok(());
    }
    let reach = msl::reach(kernel.source.flat()?, &kernel.name).map_err(|e| e.to_string())?;
    needs(&reach, gpu)
}

fn needs(reach: &Reach, gpu: &GpuArchitecture) -> std::result::Result<(), String> {
    let uses = |start: &str| reach.words.iter().any(|w| w.starts_with(start));
    let is_matrix = |w: &String| w.starts_with("simdgroup_") && (w.contains("8x8") || w.contains("matrix"));
    if !gpu.simdgroup_matrix && reach.words.iter().any(is_matrix) {
        return Err("it uses simdgroup_matrix, which this GPU lacks".to_owned());
    }
    if !gpu.bfloat && uses("bfloat") {
        return Err("it uses bfloat, which this GPU lacks".to_owned());
    }
    Ok(())
}
