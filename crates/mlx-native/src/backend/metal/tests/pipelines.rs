//! Kernels to pipelines, archives, refusals, limits.

use std::path::PathBuf;

use super::super::recording::facts;
use super::Bench;
use crate::error::MlxError;
use crate::kernel::ConstantValue;
use crate::profile::{CommandBounds, GpuClass};
use crate::testing::assert_invalid;

#[test]
fn limits_are_the_device_s() {
    let b = Bench::new();
    let limits = b.device.limits();
    assert_eq!(
        (limits.max_threads_per_threadgroup, limits.max_threadgroup_memory),
        (1024, 32768)
    );
    assert_eq!(
        (limits.max_buffer_len, limits.max_working_set),
        (1 << 33, Some(11 << 30))
    );
    let gpu = limits.gpu.unwrap();
    assert_eq!((gpu.generation, gpu.class), (13, GpuClass::Base));
    assert!(gpu.simdgroup_matrix && gpu.bfloat);
    let ultra = Bench::with(facts(), |c| c.metal.architecture = Some("applegpu_g15d".into()));
    let gpu = ultra.device.limits().gpu.unwrap();
    assert_eq!((gpu.generation, gpu.class), (15, GpuClass::Ultra));
}

#[test]
fn settings_out_of_bounds_are_refused() {
    let good = CommandBounds::of(GpuClass::Base);
    for bad in [
        CommandBounds {
            first_dispatches: 0,
            ..good
        },
        CommandBounds {
            dispatches: 0,
            ..good
        },
        CommandBounds { bytes: 0, ..good },
        CommandBounds { in_flight: 0, ..good },
        CommandBounds {
            in_flight: 64,
            ..good
        },
    ] {
        let opened = Bench::open(facts(), |c| c.metal.bounds = Some(bad));
        assert_invalid(opened.map(|_| ()), &["CommandBounds", "0"]);
    }
    let mut discrete = facts();
    discrete.unified_memory = false;
    let error = Bench::open(discrete, |_| ()).err().unwrap();
    assert!(matches!(error, MlxError::DeviceUnavailable(why) if why.contains("share its memory")));
}

#[test]
fn kernels_that_the_gpu_cannot_run_are_refused_by_name() {
    let mut paravirtual = facts();
    paravirtual.apple7 = false;
    let mut b = Bench::with(paravirtual.clone(), |_| ());
    let error = b
        .registry
        .get_pipeline("matrix", &b.device)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"matrix\"") && error.contains("simdgroup_matrix"),
        "{error}"
    );
    assert!(b.events("library").is_empty());
    for name in ["copy", "brain", "special"] {
        b.registry.get_pipeline(name, &b.device).unwrap();
    }
    paravirtual.metal3 = false;
    let mut b = Bench::with(paravirtual, |_| ());
    let error = b
        .registry
        .get_pipeline("brain", &b.device)
        .unwrap_err()
        .to_string();
    assert!(error.contains("\"brain\"") && error.contains("bfloat"), "{error}");
    b.registry.get_pipeline("copy", &b.device).unwrap();
    let mut all = Bench::new();
    for name in ["matrix", "brain", "copy"] {
        all.registry.get_pipeline(name, &all.device).unwrap();
    }
}

#[test]
fn pipelines_that_do_not_fit_the_device_are_refused() {
    let mut b = Bench::new();
    b.log().refuse.push("library");
    let error = b.registry.get_pipeline("copy", &b.device).unwrap_err();
    let MlxError::ShaderCompilationError { name, message } = error else {
        panic!("{error}");
    };
    assert_eq!((name.as_str(), message.as_str()), ("copy", "library refused"));
    b.log().refuse.clear();
    b.log().simd_width = Some(64);
    let error = b
        .registry
        .get_pipeline("copy", &b.device)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("copy") && error.contains("64") && error.contains("32"),
        "{error}"
    );
    b.log().simd_width = None;
    b.log().static_memory.insert("copy".into(), 32769);
    let error = b
        .registry
        .get_pipeline("copy", &b.device)
        .unwrap_err()
        .to_string();
    assert!(error.contains("32769"), "{error}");
}

#[test]
fn a_text_is_compiled_once_for_all_constants() {
    let mut b = Bench::new();
    for n in [1u32, 2, 1] {
        let constants = [(0, ConstantValue::U32(n)), (1, ConstantValue::Bool(true))];
        b.registry
            .get_pipeline_with_constants("special", &b.device, &constants)
            .unwrap();
    }
    assert_eq!(b.events("library"), ["library"]);
    assert_eq!(b.events("pipeline"), ["pipeline special", "pipeline special"]);
}

#[test]
fn fast_math_is_asked_for_and_keeps_its_pipelines_apart() {
    let (mut safe, fast) = (Bench::new(), Bench::with(facts(), |c| c.metal.fast_math = true));
    safe.registry.get_pipeline("copy", &safe.device).unwrap();
    safe.registry.get_pipeline("copy", &fast.device).unwrap();
    assert_eq!(safe.events("library"), ["library"]);
    assert_eq!(fast.events("library"), ["library fast"]);
}

/// A cache folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mlx-native-metal-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// A device that keeps archives here, fresh as after a start of the program.
    fn bench(&self) -> Bench {
        Bench::with(facts(), |c| {
            c.metal.archives = true;
            c.cache_dir = Some(self.0.clone());
        })
    }

    fn files(&self) -> Vec<PathBuf> {
        let folders = std::fs::read_dir(self.0.join("metal")).into_iter().flatten();
        folders
            .flat_map(|f| std::fs::read_dir(f.unwrap().path()).unwrap())
            .map(|f| f.unwrap().path())
            .collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What happens with archives when `special` is made.
fn archive_events(b: &mut Bench) -> Vec<String> {
    b.registry
        .get_pipeline_with_constants("special", &b.device, &[(0, 7u32.into())])
        .unwrap();
    b.log()
        .events
        .drain(..)
        .filter(|e| !e.starts_with("library"))
        .collect()
}

#[test]
fn compiled_kernels_are_kept_on_disk() {
    let folder = Folder::new("kept");
    let made = ["archive new", "pipeline special from archive"];
    assert_eq!(archive_events(&mut folder.bench()), made);
    assert_eq!(folder.files().len(), 1);
    assert_eq!(
        archive_events(&mut folder.bench()),
        ["archive read", "pipeline special from archive"]
    );
}

#[test]
fn a_broken_archive_is_made_again() {
    let folder = Folder::new("broken");
    archive_events(&mut folder.bench());
    std::fs::write(&folder.files()[0], "half an arch").unwrap();
    let again = ["archive read", "archive new", "pipeline special from archive"];
    assert_eq!(archive_events(&mut folder.bench()), again);
    assert_eq!(
        archive_events(&mut folder.bench()),
        ["archive read", "pipeline special from archive"]
    );
    // One of another function: Metal does not find the function in it and compiles.
    std::fs::write(&folder.files()[0], "archive of other").unwrap();
    assert_eq!(
        archive_events(&mut folder.bench()),
        ["archive read", "pipeline special"]
    );
}

#[test]
fn without_archives_kernels_compile_all_the_same() {
    let folder = Folder::new("without");
    for (refused, last) in [
        ("archive", "pipeline special"),
        ("add", "pipeline special"),
        ("save", "pipeline special from archive"),
    ] {
        let mut b = folder.bench();
        b.log().refuse.push(refused);
        assert_eq!(archive_events(&mut b).last().unwrap(), last);
        assert!(folder.files().is_empty(), "{refused}");
    }
    let mut off = Bench::new();
    assert_eq!(archive_events(&mut off), ["pipeline special"]);
}
