//! Every kernel of the library, as far as it can be held against Metal's rules without a Mac.

use std::collections::{BTreeMap, BTreeSet};

use super::super::recording::{Call, facts};
use super::Bench;
use crate::kernel::msl;
use crate::ops::suites;
use crate::registry::KernelRegistry;
use crate::testing::{Case, Context, Rng};

const MAX_THREADS: usize = 1024;
const MAX_THREADGROUP_MEMORY: u64 = 32 << 10;

/// What a kernel declares for itself.
struct Declared {
    max_threads: usize,
    static_memory: u64,
}

fn declared(registry: &KernelRegistry) -> BTreeMap<String, Declared> {
    let names: Vec<String> = registry.names().map(str::to_owned).collect();
    let mut all = BTreeMap::new();
    for name in names {
        let kernel = registry.kernel(&name).unwrap();
        let bytes = msl::threadgroup_bytes(kernel.source.flat().unwrap(), &name).unwrap();
        let declared = Declared {
            max_threads: kernel.signature.max_threads.map_or(MAX_THREADS, |n| n as usize),
            // What cannot be worked out is left to the pipeline, which says it on a Mac.
            static_memory: bytes.unwrap_or(0),
        };
        assert!(
            declared.max_threads <= MAX_THREADS,
            "{name}: {} threads",
            declared.max_threads
        );
        all.insert(name, declared);
    }
    all
}

/// Holds the calls of one command buffer against what the kernels declare; gives the names of those that ran.
fn check(calls: &[Call], all: &BTreeMap<String, Declared>, ran: &mut BTreeSet<String>) -> Result<(), String> {
    let (mut name, mut memory) = (String::new(), BTreeMap::new());
    for call in calls {
        match call {
            Call::Pipeline(label) => {
                name.clone_from(label);
                memory.clear();
            }
            Call::ThreadgroupMemory(bytes, index) => {
                memory.insert(*index, *bytes as u64);
            }
            Call::Threads(_, group) | Call::Threadgroups(_, group) => {
                let kernel = &all[&name];
                let threads: usize = group.iter().product();
                if threads > kernel.max_threads {
                    return Err(format!(
                        "{name}: {threads} threads, {} declared",
                        kernel.max_threads
                    ));
                }
                let bytes = kernel.static_memory + memory.values().sum::<u64>();
                if bytes > MAX_THREADGROUP_MEMORY {
                    return Err(format!("{name}: {bytes} bytes of threadgroup memory"));
                }
                ran.insert(name.clone());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Records a case on the stand-in.
fn record(b: &mut Bench, case: &dyn Case) -> crate::Result<()> {
    let mut rng = Rng::new(1);
    let mut inputs = Vec::new();
    for tensor in case.inputs(&mut rng) {
        let mut buffer = b.device.alloc_tensor(tensor.dtype(), tensor.shape())?;
        buffer.write(0, tensor.bytes())?;
        inputs.push(buffer);
    }
    let mut outputs = Vec::new();
    for (dtype, shape) in case.outputs() {
        outputs.push(b.device.alloc_tensor(dtype, &shape)?);
    }
    let mut encoder = b.device.command_encoder()?;
    case.encode(&mut Context {
        device: &b.device,
        registry: &mut b.registry,
        encoder: &mut encoder,
        inputs: &inputs,
        outputs: &outputs,
    })?;
    encoder.commit_and_wait()
}

#[test]
fn every_launch_stays_within_what_its_kernel_declares() {
    let registry = KernelRegistry::new();
    let all = declared(&registry);
    let mut ran = BTreeSet::new();
    for suite in suites() {
        let mut b = Bench::new();
        for (name, kernel) in &all {
            b.log()
                .static_memory
                .insert(name.clone(), kernel.static_memory as usize);
        }
        for case in &suite.cases {
            // Every kernel has a small case; large ones would only fill memory here.
            if !case.is_small() {
                continue;
            }
            record(&mut b, &**case).unwrap_or_else(|e| panic!("{} {case:?}: {e}", suite.op_name()));
            for (_, calls) in b.log().committed.drain(..) {
                check(&calls, &all, &mut ran).unwrap_or_else(|e| panic!("{} {case:?}: {e}", suite.op_name()));
            }
        }
    }
    let idle: Vec<&String> = all.keys().filter(|name| !ran.contains(*name)).collect();
    assert!(idle.is_empty(), "no case launches {idle:?}");
}

#[test]
fn a_launch_beyond_the_declaration_is_found() {
    let all = BTreeMap::from([(
        "k".to_owned(),
        Declared {
            max_threads: 64,
            static_memory: 100,
        },
    )]);
    let with = |group: usize, memory: usize| {
        let calls = [
            Call::Pipeline("k".into()),
            Call::ThreadgroupMemory(memory, 0),
            Call::Threads([1, 1, 1], [group, 1, 1]),
        ];
        check(&calls, &all, &mut BTreeSet::new())
    };
    assert_eq!(with(64, 32000), Ok(()));
    assert!(with(65, 0).unwrap_err().contains("65 threads"));
    assert!(with(64, 32768).unwrap_err().contains("32868 bytes"));
}

/// Words that MSL 3.1 does not have: C++ that Metal leaves out, later versions of MSL, and what Apple does not document.
const FOREIGN: &[&str] = &[
    "double",
    "goto",
    "new",
    "delete",
    "throw",
    "try",
    "catch",
    "dynamic_cast",
    "typeid",
    "virtual",
    "thread_local",
    "asm",
    "std",
    "printf",
    "malloc",
    "os_log",
    "logging",
    "tensor_ops",
    "cooperative_tensor",
    "tensor_handle",
    "tensor_inline",
    "mpp",
    "coherent",
    "atomic_thread_fence",
    "mem_none_device",
];
const FOREIGN_STARTS: &[&str] = &[
    "__metal",
    "__air",
    "air_",
    "__builtin",
    "simdgroup_async",
    "__asm",
];
/// Standard headers that MSL documents.
const HEADERS: &[&str] = &[
    "metal_stdlib",
    "metal_simdgroup",
    "metal_simdgroup_matrix",
    "metal_math",
    "metal_atomic",
    "metal_integer",
    "metal_compute",
    "metal_common",
    "metal_geometric",
    "metal_pack",
    "metal_types",
    "metal_limits",
    "metal_relational",
];

/// What in a text MSL 3.1 does not have.
fn foreign(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let plain = without_comments(text);
    for line in plain.lines().map(str::trim).filter(|l| l.starts_with('#')) {
        let included = line.split_once('<').filter(|_| line.contains("include"));
        if included.is_some_and(|(_, name)| !HEADERS.contains(&name.trim_end_matches('>').trim())) {
            found.push(line.to_owned());
        }
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for word in plain.split(|c| !is_word(c)).filter(|w| !w.is_empty()) {
        if FOREIGN.contains(&word) || FOREIGN_STARTS.iter().any(|s| word.starts_with(s)) {
            found.push(word.to_owned());
        }
    }
    for lambda in ["[&]", "[=]"] {
        if plain.contains(lambda) {
            found.push(lambda.to_owned());
        }
    }
    found
}

fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("/") {
        let (before, after) = rest.split_at(start);
        out.push_str(before);
        let end = if after.starts_with("//") {
            after.find('\n')
        } else if after.starts_with("/*") {
            after.find("*/").map(|i| i + 2)
        } else {
            out.push('/');
            Some(1)
        };
        rest = end.map_or("", |i| &after[i..]);
    }
    out + rest
}

#[test]
fn every_text_is_msl_3_1_and_states_its_launch() {
    let mut texts = BTreeMap::new();
    let registry = KernelRegistry::new();
    for name in registry.names() {
        let source = registry.kernel(name).unwrap().source;
        texts.insert(source.raw().to_owned(), (name.to_owned(), source));
    }
    for (name, source) in texts.values() {
        assert_eq!(foreign(source.flat().unwrap()), [""; 0], "the text of {name}");
        // Under the word, or in the comment that the text begins with.
        let mut comments = source.raw().lines().filter(|l| l.trim_start().starts_with("//"));
        let mut head = source
            .raw()
            .lines()
            .take_while(|l| l.starts_with("//") || l.is_empty());
        let stated = comments.any(|l| l.to_lowercase().contains("launch"))
            || head.any(|l| l.to_lowercase().contains("thread"));
        assert!(stated, "the text of {name} does not state its launch shape");
    }
}

/// In the emulator memory is flat, on a GPU it is not: a pointer without its `device` compiles there and not here.
#[cfg(feature = "emulator")]
#[test]
fn pointers_stay_in_their_address_space() {
    use crate::backend::emulator::{Emulator, EmulatorSettings};
    let emulator = Emulator::new(&EmulatorSettings {
        clang: None,
        cache_dir: std::env::temp_dir().join("mlx-native-metal-lint"),
    })
    .expect("the emulator's tests need clang");
    let registry = KernelRegistry::new();
    let mut texts = BTreeMap::new();
    for name in registry.names() {
        let source = registry.kernel(name).unwrap().source;
        texts.insert(source.raw().to_owned(), (name.to_owned(), source));
    }
    for (name, source) in texts.values() {
        let findings = emulator.lint(source.flat().unwrap(), name).unwrap();
        let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(findings, [""; 0], "the text of {name}");
    }
}

#[test]
fn foreign_words_are_found() {
    let text = "#include <metal_stdlib>\n#include <metal_tensor>\n// goto\n/* new */ double x = a / b; auto f = [&]() {};";
    assert_eq!(foreign(text), ["#include <metal_tensor>", "double", "[&]"]);
    assert!(foreign("float2 renew; simdgroup_float8x8 m; // try").is_empty());
}

#[test]
fn matrix_kernels_are_found_on_a_gpu_without_matrices() {
    let mut lacking = facts();
    lacking.apple7 = false;
    let b = Bench::with(lacking, |_| ());
    for name in b.registry.names() {
        let kernel = b.registry.kernel(name).unwrap();
        let text = msl::only(kernel.source.flat().unwrap(), name);
        let may_need =
            text.contains("simdgroup_") && (text.contains("8x8") || text.contains("simdgroup_matrix"));
        if let Err(why) = b.device.supports(&kernel) {
            assert!(may_need, "{name}: {why}");
        } else if may_need {
            let reach = msl::reach(kernel.source.flat().unwrap(), name).unwrap();
            assert!(
                !reach.words.iter().any(|w| w.contains("8x8")),
                "{name} needs matrices and is not refused"
            );
        }
    }
}
