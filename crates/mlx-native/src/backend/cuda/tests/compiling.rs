//! Kernels into functions: what is compiled when, and what is kept on disk.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::super::compile::Finder;
use super::super::device::CudaBackend;
use super::super::nvrtc::{Output, TextCompiler};
use super::super::recording::{Recording, facts};
use super::{Bench, TEXT};
use crate::config::Config;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::error::MlxError;
use crate::ops::elementwise::elementwise_mul;
use crate::registry::KernelRegistry;

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(folder.join("cuda")).map_or(Vec::new(), |d| d.flatten().map(|e| e.path()).collect())
}

fn cached(folder: &Path) -> Bench {
    Bench::with(facts(), |c| {
        c.cuda.cache = true;
        c.cache_dir = Some(folder.to_owned());
    })
}

#[test]
fn machine_code_is_kept_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let constants = [(0, 5u32.into()), (1, true.into())];
    let get = |b: &mut Bench, constants: &[_]| {
        b.registry
            .get_pipeline_with_constants("special", &b.device, constants)
            .unwrap();
    };
    let mut b = cached(folder.path());
    get(&mut b, &constants);
    assert_eq!(*b.compiled.lock().unwrap(), [Output::Cubin(90)]);
    assert_eq!(files(folder.path()).len(), 1);
    let mut b = cached(folder.path());
    get(&mut b, &constants);
    assert!(b.compiled.lock().unwrap().is_empty(), "it was on disk");
    // Other constants are another kernel.
    get(&mut b, &[(0, 6u32.into()), (1, true.into())]);
    assert_eq!(files(folder.path()).len(), 2);
    // What the driver does not take is made again.
    for file in files(folder.path()) {
        fs::write(file, "half a fil").unwrap();
    }
    let mut b = cached(folder.path());
    get(&mut b, &constants);
    assert_eq!(b.compiled.lock().unwrap().len(), 1);
    let sizes: Vec<u64> = files(folder.path())
        .iter()
        .map(|f| fs::metadata(f).unwrap().len())
        .collect();
    assert!(sizes.iter().any(|n| *n > 100) && sizes.contains(&10), "{sizes:?}");
}

#[test]
fn without_a_compiler_what_is_on_disk_still_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut b = cached(folder.path());
    b.registry.get_pipeline("copy", &b.device).unwrap();
    let mut config = Config {
        cache_dir: Some(folder.path().to_owned()),
        ..Config::default()
    };
    config.cuda.cache = true;
    let (gpu, _log, _moved) = Recording::new(facts());
    let none: Finder = Box::new(|| Err("no NVRTC far and wide".to_owned()));
    let device = MlxDevice::of(Arc::new(CudaBackend::new(gpu, &config, none).unwrap()));
    let mut registry = KernelRegistry::new();
    registry.register_source("copy", TEXT);
    registry.register_source("rows", TEXT);
    registry.get_pipeline("copy", &device).unwrap();
    let error = registry.get_pipeline("rows", &device).unwrap_err();
    assert!(
        matches!(&error, MlxError::ShaderCompilationError { name, message } if name == "rows" && message.contains("far and wide")),
        "{error}"
    );
}

#[test]
fn a_gpu_that_the_compiler_does_not_know_gets_intermediate_code() {
    for (capability, output) in [
        (80, Output::Cubin(80)),
        (89, Output::Ptx(86)),
        (103, Output::Ptx(90)),
        (121, Output::Ptx(120)),
    ] {
        let mut b = Bench::with(
            super::super::gpu::Facts {
                capability,
                ..facts()
            },
            |_| (),
        );
        b.registry.get_pipeline("copy", &b.device).unwrap();
        assert_eq!(*b.compiled.lock().unwrap(), [output]);
    }
}

#[test]
fn the_compilers_words_are_the_error() {
    let mut b = Bench::new();
    let text =
        |words: &str| format!("kernel void bad(device uint *y [[buffer(0)]]) {{ y[0] = 1; }} // {words}");
    for (said, heard) in [
        (
            "text.metal(1): error: expected a semicolon",
            "text.metal(1): error: expected a semicolon",
        ),
        (
            "ptxas fatal : Unresolved extern variable '_ZN5metal33msl_function_constant_is_not_set_9transposeE'",
            "it uses function constant `transpose`, which is not set",
        ),
        (
            "Unresolved extern function '_ZN5metal33msl_function_constant_is_not_set_99tE'",
            "'_ZN5metal33msl",
        ),
    ] {
        let source = text("").replace("y[0] = 1", &format!("refuse_this {said}"));
        b.registry.register_source("bad", source);
        let error = b.registry.get_pipeline("bad", &b.device).unwrap_err().to_string();
        let squeezed = |s: &str| s.split_whitespace().collect::<String>();
        assert!(squeezed(&error).contains(&squeezed(heard)), "{error}");
    }
}

#[test]
fn a_kernel_that_declares_too_much_memory_is_refused() {
    let mut b = Bench::new();
    let facts = super::super::gpu::FunctionFacts {
        max_threads: 640,
        shared_memory: 50 << 10,
        lengths: vec![8],
    };
    b.log().functions.insert("msl_rows".into(), facts.clone());
    let error = b
        .registry
        .get_pipeline("rows", &b.device)
        .unwrap_err()
        .to_string();
    assert!(error.contains("51200 bytes of threadgroup memory"), "{error}");
    let facts = super::super::gpu::FunctionFacts {
        shared_memory: 0,
        ..facts
    };
    b.log().functions.insert("msl_rows".into(), facts);
    let pipeline = b.registry.get_pipeline("rows", &b.device).unwrap();
    assert_eq!(pipeline.max_total_threads_per_threadgroup(), 640);
}

/// A compiler that gives nothing before as many threads as `all` counts are in it.
struct Together(Arc<std::sync::Barrier>);

impl TextCompiler for Together {
    fn version(&self) -> (u32, u32) {
        (12, 9)
    }
    fn capabilities(&self) -> Vec<u32> {
        vec![90]
    }
    fn compile(&self, text: &str, _output: Output) -> std::result::Result<Vec<u8>, String> {
        self.0.wait();
        match text.contains("msl_elementwise_mul") {
            true => Err("on purpose".to_owned()),
            false => Ok(text.as_bytes().to_vec()),
        }
    }
}

fn together(n: usize) -> MlxDevice {
    let mut config = Config::default();
    config.cuda.cache = false;
    let (gpu, _log, _moved) = Recording::new(facts());
    let all = Arc::new(std::sync::Barrier::new(n));
    let find: Finder = Box::new(move || Ok(Box::new(Together(all.clone())) as Box<dyn TextCompiler>));
    MlxDevice::of(Arc::new(CudaBackend::new(gpu, &config, find).unwrap()))
}

#[test]
fn kernels_of_the_library_are_compiled_side_by_side() {
    let device = together(2);
    let mut registry = KernelRegistry::new();
    // With one after the other, the first would wait for ever; another thread or this one makes the second.
    registry.get_pipeline("add_f32", &device).unwrap();
    let second = registry.get_pipeline("add_f16", &device).unwrap();
    assert_eq!(second.max_total_threads_per_threadgroup(), 1024);
}

#[test]
fn what_the_librarys_own_kernel_lacks_is_told_with_its_name() {
    let device = together(1);
    let mut registry = KernelRegistry::new();
    let x = device.alloc_tensor(DType::F32, &[64]).unwrap();
    let y = device.alloc_tensor(DType::F32, &[64]).unwrap();
    let mut encoder = device.command_encoder().unwrap();
    elementwise_mul(
        &mut encoder,
        &mut registry,
        device.as_ref(),
        &x,
        &x,
        &y,
        64,
        DType::F32,
    )
    .unwrap();
    let error = encoder.commit_and_wait().unwrap_err();
    assert!(
        matches!(&error, MlxError::ShaderCompilationError { name, message } if name == "elementwise_mul_f32" && message.contains("on purpose")),
        "{error}"
    );
    // A kernel of one's own says so at once.
    let own = "kernel void msl_elementwise_mul(device uint *y [[buffer(0)]]) { y[0] = 1; }";
    registry.register_source("msl_elementwise_mul", own);
    let error = registry.get_pipeline("msl_elementwise_mul", &device).unwrap_err();
    assert!(error.to_string().contains("on purpose"), "{error}");
}

#[test]
fn a_group_that_the_compiled_function_cannot_have_is_refused_when_the_list_is_submitted() {
    let mut b = Bench::new();
    let few = super::super::gpu::FunctionFacts {
        max_threads: 64,
        shared_memory: 0,
        lengths: vec![8],
    };
    b.log().functions.insert("msl_elementwise_mul_f32".into(), few);
    let x = b.device.alloc_tensor(DType::F32, &[4096]).unwrap();
    let y = b.device.alloc_tensor(DType::F32, &[4096]).unwrap();
    let device = b.device.clone();
    let mut encoder = b.encoder();
    elementwise_mul(
        &mut encoder,
        &mut b.registry,
        device.as_ref(),
        &x,
        &x,
        &y,
        4096,
        DType::F32,
    )
    .unwrap();
    let error = encoder.commit_and_wait().unwrap_err().to_string();
    assert!(
        error.contains("elementwise_mul_f32") && error.contains("1 to 64 are possible"),
        "{error}"
    );
}
