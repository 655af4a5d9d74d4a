//! Models against mlx-lm: logits, greedy tokens, log-likelihoods, with f32 activations, on every device of this build.
//! Where the files come from: `tests/models/README.md` and the demo model's card.

use std::ops::ControlFlow;
use std::path::PathBuf;

#[cfg(feature = "emulator")]
use mlx_native::Config;
use mlx_native::{DeviceKind, MlxDevice};
use mlx_native_lm::{GenerateOptions, Model, ModelOptions, SamplingParams, generate};

#[allow(dead_code, reason = "some of its fields are for the other test that has it")]
mod reference;
use reference::{Case, LOGITS, golden, greedy, logits, options};

/// The logits and what follows from them.
fn check(model: &mut Model, case: &Case, name: &str) {
    logits(model, case, name);
    greedy(model, case, name, case.greedy_ids.len());
}

/// A device with a name, and whether it is too slow for every prompt.
struct Device {
    name: &'static str,
    device: MlxDevice,
    slow: bool,
}

/// The devices of this build; one only where `MLX_NATIVE_TEST_DEVICE` names it, for machines with a GPU and no clang.
fn devices() -> Vec<Device> {
    if let Ok(name) = std::env::var("MLX_NATIVE_TEST_DEVICE") {
        let kinds = [DeviceKind::Cpu, DeviceKind::Metal, DeviceKind::Cuda];
        let kind = kinds.into_iter().find(|k| k.name() == name);
        let kind = kind.unwrap_or_else(|| panic!("no device {name:?} to test"));
        return vec![Device {
            name: kind.name(),
            device: MlxDevice::open(kind).unwrap(),
            slow: false,
        }];
    }
    let open = |kind: DeviceKind, slow: bool| {
        MlxDevice::open(kind).map(|device| Device {
            name: kind.name(),
            device,
            slow,
        })
    };
    let mut all = vec![open(DeviceKind::Cpu, false).unwrap()];
    #[cfg(feature = "emulator")]
    {
        // With memory of its own, which is harder: a model must live without an address that host and device share.
        let mut config = Config::default();
        config.emulator.separate_memory = true;
        all.push(Device {
            name: "emulator",
            device: MlxDevice::with_config(DeviceKind::Emulator, &config).unwrap(),
            slow: true,
        });
        // The whole of the Metal backend but the calls themselves, with dispatches that no barrier divides in the wrong
        // order.
        let host = mlx_native::testing::MetalHost::default();
        all.push(Device {
            name: "metal host code",
            device: mlx_native::testing::metal_host_device(&Config::default(), &host).unwrap(),
            slow: true,
        });
    }
    all.extend(open(DeviceKind::Metal, false).ok());
    all.extend(open(DeviceKind::Cuda, false).ok());
    all
}

#[test]
fn the_demo_model_computes_what_mlx_lm_computes() {
    let golden =
        golden(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rust-docs-7m-4bit.json"));
    assert!(golden.cases.len() >= 6);
    for Device { name, device, slow } in devices() {
        let mut model = Model::from_files(&device, mlx_native_demo::files(), &options()).unwrap();
        // Thread by thread is slow: the emulator takes two of the prompts.
        let few = if slow { 2 } else { golden.cases.len() };
        for case in &golden.cases[..few] {
            let name = format!("demo on {name}: {:?}", case.prompt);
            let prompt = case.prompt.as_ref().unwrap();
            assert_eq!(
                model.tokenizer().encode(prompt).unwrap(),
                case.prompt_ids,
                "{name}"
            );
            check(&mut model, case, &name);
        }
    }
}

#[test]
fn tiny_models_compute_what_mlx_lm_computes() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let golden = golden(&path.join("golden.json"));
        for Device { name, device, .. } in devices() {
            let mut decoder = mlx_native_lm::open_decoder(&device, &path, &options()).unwrap();
            for case in &golden.cases {
                let name = format!("{} on {name}: {} tokens", path.display(), case.prompt_ids.len());
                tiny(&mut decoder, case, &name);
                seen += 1;
            }
        }
    }
    assert!(seen >= 15, "{seen} cases");
}

/// These have no tokenizer: the decoder alone, fed whole and in pieces.
fn tiny(decoder: &mut mlx_native_lm::Decoder, case: &Case, name: &str) {
    let near = |got: &[f32]| {
        for (id, want) in case.logits.iter().enumerate() {
            assert!(
                (got[id] - want).abs() < LOGITS,
                "{name}: logit {id}: {} and {want}",
                got[id]
            );
        }
    };
    let mut cache = decoder.new_state(1).unwrap();
    near(&decoder.forward(&case.prompt_ids, &mut cache).unwrap());
    let mut cache = decoder.new_state(1).unwrap();
    let (last, front) = case.prompt_ids.split_last().unwrap();
    for chunk in front.chunks(7) {
        decoder.feed(chunk, &mut cache).unwrap();
    }
    let mut logits = decoder.forward(&[*last], &mut cache).unwrap();
    near(&logits);
    for (i, want) in case.greedy_ids.iter().enumerate() {
        if case.greedy_margins[i] < 2.0 * LOGITS {
            break;
        }
        let best = (0..logits.len())
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap();
        assert_eq!(best as u32, *want, "{name}: greedy token {i}");
        logits = decoder.forward(&[*want], &mut cache).unwrap();
    }
}

#[test]
fn a_cache_that_grows_holds_what_it_held() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/models/qwen3-f32");
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let mut decoder = mlx_native_lm::open_decoder(&device, &folder, &options()).unwrap();
    let tokens: Vec<u32> = (0..600).map(|i| i * 7 % 131).collect();
    let run = |decoder: &mut mlx_native_lm::Decoder, room: usize| {
        let mut cache = decoder.new_state(room).unwrap();
        let before = cache.capacity();
        for chunk in tokens.chunks(100) {
            decoder.feed(chunk, &mut cache).unwrap();
        }
        assert_eq!(cache.len(), 600);
        (
            decoder.forward(&[5], &mut cache).unwrap(),
            before,
            cache.capacity(),
        )
    };
    let (grown, small, large) = run(&mut decoder, 1);
    assert!(small < 600 && large >= 601, "it grew from {small} to {large}");
    let (roomy, before, after) = run(&mut decoder, 1000);
    assert_eq!(before, after);
    assert_eq!(grown, roomy);
}

#[test]
fn misuse_of_a_decoder_is_an_error() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/models/qwen3-f32");
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let few = ModelOptions {
        prefill_step: 4,
        ..options()
    };
    let mut decoder = mlx_native_lm::open_decoder(&device, &folder, &few).unwrap();
    let mut cache = decoder.new_state(1).unwrap();
    assert_eq!(decoder.chunk(), 4);
    assert!(decoder.forward(&[], &mut cache).is_err());
    assert!(decoder.forward(&[1; 5], &mut cache).is_err());
    let error = decoder.forward(&[1, 131], &mut cache).unwrap_err().to_string();
    assert!(error.contains("131"), "{error}");
    assert!(cache.is_empty(), "a refused call leaves the cache as it was");
    assert!(decoder.new_state(usize::MAX).is_err());
    assert_eq!(decoder.forward(&[1, 2], &mut cache).unwrap().len(), 131);
}

#[test]
fn the_iterator_gives_the_text_that_generate_gives() {
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let mut model = Model::from_files(&device, mlx_native_demo::files(), &options()).unwrap();
    let (prompt, max_tokens) = ("Returns the number of", 24);
    let sampling = SamplingParams::default();
    let asked = mlx_native_lm::PromptOptions {
        max_tokens,
        sampling: Some(sampling.clone()),
        ..mlx_native_lm::PromptOptions::default()
    };
    let pieces = model.generate_with(prompt, &asked).unwrap();
    let streamed: String = pieces.map(|piece| piece.unwrap().text).collect();
    let stop_ids = model.stop_ids(&[]).unwrap();
    let ids = model.tokenizer().encode(prompt).unwrap();
    let mut state = model.decoder().new_state(1).unwrap();
    let options = GenerateOptions {
        max_tokens,
        sampling,
        stop_ids,
    };
    let (decoder, tokenizer) = model.parts();
    let whole = generate(decoder, tokenizer, &mut state, &ids, &options, |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(streamed, whole.text);
    assert!(!streamed.is_empty());
    assert!(model.generate("").is_err(), "a prompt without tokens is refused");
}

#[test]
fn a_state_goes_back_and_forks() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/models/qwen3-f32");
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let mut decoder = mlx_native_lm::open_decoder(&device, &folder, &options()).unwrap();
    let mut state = decoder.new_state(1).unwrap();
    decoder.feed(&[3, 1, 4, 1, 5], &mut state).unwrap();
    let mut other = state.fork();
    let wanted = decoder.forward(&[9], &mut state).unwrap();
    decoder.forward(&[2, 6], &mut other).unwrap();
    other.truncate(5).unwrap();
    assert_eq!((state.len(), other.len()), (6, 5));
    assert_eq!(
        decoder.forward(&[9], &mut other).unwrap(),
        wanted,
        "as if nothing had been between"
    );
}
