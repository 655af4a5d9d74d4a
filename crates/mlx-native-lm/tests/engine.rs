//! The engine: what a request gets is the same however it is served, on models of every kind of state.

use std::path::{Path, PathBuf};

use mlx_native::quant::WeightFormat;
use mlx_native::{DType, DeviceKind, MlxDevice};
use mlx_native_lm::engine::{Engine, EngineConfig, Event, Request, Thinking};
use mlx_native_lm::{
    Draft, GenerateOptions, Model, ModelOptions, RandomFormat, RandomModel, SamplingParams, generate,
    generate_with_draft,
};

/// Small models with random weights: keys of all positions, a window, recurrences, experts; packed and not.
const MODELS: [(&str, u32, &str); 5] = [
    (
        "qwen3",
        4,
        r#"{"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 4096, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
        "rope_theta": 10000.0, "tie_word_embeddings": true}"#,
    ),
    (
        "window",
        16,
        r#"{"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 4096, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
        "rope_theta": 10000.0, "rope_local_base_freq": 1000.0, "query_pre_attn_scalar": 24.0, "sliding_window": 40,
        "sliding_window_pattern": 3}"#,
    ),
    (
        "recurrent",
        16,
        r#"{"model_type": "mamba", "vocab_size": 4096, "hidden_size": 64, "intermediate_size": 128, "state_size": 16,
        "num_hidden_layers": 2, "conv_kernel": 4, "use_bias": false, "use_conv_bias": true, "time_step_rank": 8,
        "tie_word_embeddings": true}"#,
    ),
    (
        "hybrid",
        8,
        r#"{"model_type": "qwen3_next", "hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 4096, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "num_experts": 8, "num_experts_per_tok": 2, "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 64, "mlp_only_layers": [0], "moe_intermediate_size": 64, "partial_rotary_factor": 0.25,
        "head_dim": 32, "full_attention_interval": 4, "norm_topk_prob": true, "linear_num_value_heads": 4,
        "linear_num_key_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4}"#,
    ),
    (
        "recurrent window",
        16,
        r#"{"model_type": "recurrent_gemma", "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 192,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "attention_bias": false, "conv1d_width": 4, "logits_soft_cap": 10.0, "attention_window_size": 40,
        "block_types": ["recurrent", "recurrent", "attention"]}"#,
    ),
];

/// Writes a model as a folder; its tokenizer is the demo's.
fn save(config: &str, bits: u32, target: &Path) {
    let format = match bits {
        16 => WeightFormat::Dense(DType::BF16),
        bits => WeightFormat::affine(bits, 64, DType::BF16).unwrap(),
    };
    RandomModel::new(config, RandomFormat { format })
        .unwrap()
        .save(target)
        .unwrap();
    for (name, bytes) in mlx_native_demo::files().filter(|(name, _)| name.starts_with("tokenizer")) {
        std::fs::write(target.join(name), bytes).unwrap();
    }
}

fn open(folder: &Path, dtype: Option<DType>) -> Model {
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let options = ModelOptions {
        dtype,
        ..ModelOptions::default()
    };
    Model::open(&device, folder, &options).unwrap()
}

/// Ids and the bits of their log probabilities, and how much of the prompt was known.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    ids: Vec<u32>,
    bits: Vec<u32>,
    cached: usize,
}

impl Answer {
    fn same(&self, other: &Answer) -> bool {
        (&self.ids, &self.bits) == (&other.ids, &other.bits)
    }
}

fn collect(events: impl Iterator<Item = Event>) -> Answer {
    let mut answer = Answer {
        ids: Vec::new(),
        bits: Vec::new(),
        cached: 0,
    };
    for event in events {
        match event {
            Event::Text { tokens, .. } => {
                for token in tokens {
                    answer.ids.push(token.id);
                    let logprobs = token.logprobs.unwrap();
                    answer.bits.push(logprobs.logprob.to_bits());
                    answer
                        .bits
                        .extend(logprobs.top.iter().flat_map(|r| [r.id, r.logprob.to_bits()]));
                }
            }
            Event::Finished { usage, .. } => answer.cached = usage.cached_tokens,
            Event::Failed(message) => panic!("{message}"),
            Event::Prompt { .. } => {}
        }
    }
    answer
}

/// Some tokens that repeat themselves, so that there is something to guess.
fn prompt(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32)
        .map(|i| 3 + (i % 37 * 31 + seed * 17 + i / 90) % 4000)
        .collect()
}

fn request(prompt: Vec<u32>, seed: u64) -> Request {
    let mut request = Request::new(prompt);
    request.max_tokens = Some(12);
    request.ignore_eos = true;
    request.logprobs = Some(2);
    request.sampling = SamplingParams {
        temperature: if seed.is_multiple_of(2) { 0.0 } else { 0.7 },
        seed: Some(seed),
        ..SamplingParams::default()
    };
    request
}

fn ask(engine: &Engine, prompt: &[u32], seed: u64) -> Answer {
    collect(engine.submit(request(prompt.to_vec(), seed)).unwrap())
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    let list = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    list.filter(|p| p.extension().is_some_and(|e| e == "page"))
        .collect()
}

fn config(folder: &Path) -> EngineConfig {
    EngineConfig {
        prompt_cache_dir: Some(folder.to_owned()),
        ..EngineConfig::default()
    }
}

#[test]
fn a_request_gets_the_same_bits_however_it_is_served() {
    for (name, bits, shape) in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let (model, cache) = (folder.path().join("model"), folder.path().join("cache"));
        save(shape, bits, &model);
        // What is packed has another way through the processor in f32.
        let dtypes = if bits == 4 {
            &[None, Some(DType::F32)][..]
        } else {
            &[None]
        };
        for &dtype in dtypes {
            let start = |config: EngineConfig| Engine::start(open(&model, dtype), config).unwrap();
            let alone = start(EngineConfig {
                max_sequences: 1,
                prompt_cache_entries: 0,
                ..EngineConfig::default()
            });
            let asked: Vec<(Vec<u32>, u64)> = [
                (0u32, 200),
                (1, 33),
                (2, 64),
                (3, 1),
                (4, 129),
                (0, 200),
                (0, 150),
            ]
            .into_iter()
            .enumerate()
            .map(|(i, (seed, n))| (prompt(seed, n), i as u64))
            .collect();
            let wanted: Vec<Answer> = asked
                .iter()
                .map(|(prompt, seed)| ask(&alone, prompt, *seed))
                .collect();
            drop(alone);
            let all = |engine: &Engine, how: &str, at_once: bool| -> usize {
                let streams = asked
                    .iter()
                    .map(|(prompt, seed)| engine.submit(request(prompt.clone(), *seed)).unwrap());
                let found: Vec<Answer> = if at_once {
                    let streams: Vec<_> = streams.collect();
                    streams.into_iter().map(collect).collect()
                } else {
                    streams.map(collect).collect()
                };
                for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                    assert!(
                        found.same(wanted),
                        "{name}, {dtype:?}, {how}, request {i}:\n{found:?}\n{wanted:?}"
                    );
                }
                found.iter().map(|a| a.cached).sum()
            };
            for prefill_tokens in [1, 512] {
                let engine = start(EngineConfig {
                    prefill_tokens,
                    ..EngineConfig::default()
                });
                all(&engine, "in company", true);
                assert!(all(&engine, "warm", false) > 0, "{name}: the cache was of no use");
            }
            let engine = start(EngineConfig {
                prompt_lookup: 5,
                ..EngineConfig::default()
            });
            all(&engine, "with guesses, in company", true);
            all(&engine, "with guesses", false);
            let repeats = name == "qwen3";
            assert!(
                !repeats || engine.stats().guessed > 0,
                "{name}: nothing was guessed"
            );
            drop(engine);
            let engine = start(config(&cache));
            all(&engine, "with a folder", true);
            drop(engine);
            assert!(!pages(&cache).is_empty(), "{name}: nothing was written");
            let engine = start(config(&cache));
            assert!(
                all(&engine, "after a restart", false) > 0,
                "{name}: the folder was of no use"
            );
        }
    }
}

#[test]
fn what_stands_in_the_folder_is_never_a_wrong_token() {
    let folder = tempfile::tempdir().unwrap();
    let (model, other, cache) = (
        folder.path().join("model"),
        folder.path().join("other"),
        folder.path().join("cache"),
    );
    save(MODELS[0].2, 4, &model);
    // The same shape with other weights, as a training that goes on leaves them.
    save(&MODELS[0].2.replace("1e-6", "1e-5"), 4, &other);
    let text = prompt(9, 300);
    let cold = |model: &Path| {
        ask(
            &Engine::start(open(model, None), EngineConfig::default()).unwrap(),
            &text,
            0,
        )
    };
    let warm = |model: &Path| {
        ask(
            &Engine::start(open(model, None), config(&cache)).unwrap(),
            &text,
            0,
        )
    };
    let (wanted, wanted_other) = (cold(&model), cold(&other));
    assert!(!wanted.same(&wanted_other));
    warm(&model);
    let whole: Vec<(PathBuf, Vec<u8>)> = pages(&cache)
        .into_iter()
        .map(|p| (p.clone(), std::fs::read(&p).unwrap()))
        .collect();
    assert!(whole.len() >= 4, "{}", whole.len());
    let found = warm(&model);
    assert!(found.same(&wanted) && found.cached >= 256, "{found:?}");
    // Another model's pages are not seen, whatever they are called.
    let found = warm(&other);
    assert!(found.same(&wanted_other) && found.cached == 0, "{found:?}");
    type Damage = fn(usize, &[u8]) -> Vec<u8>;
    let damages: [(&str, Damage); 6] = [
        ("one bit", |i, b| {
            let mut b = b.to_vec();
            let at = (i * 7919 + 81) % b.len();
            b[at] ^= 4;
            b
        }),
        ("cut", |i, b| b[..(b.len() / 3 * (i % 3)).max(1)].to_vec()),
        ("empty", |_, _| Vec::new()),
        ("longer", |_, b| [b, b].concat()),
        ("zeros", |_, b| vec![0; b.len()]),
        ("text", |_, _| b"{\"not\": \"a page\"}".to_vec()),
    ];
    for (what, damage) in damages {
        for (i, (path, bytes)) in whole.iter().enumerate() {
            std::fs::write(path, damage(i, bytes)).unwrap();
        }
        let found = warm(&model);
        assert!(found.same(&wanted), "{what}: {found:?}");
        assert_eq!(found.cached, 0, "{what}");
    }
    // Pages under each other's names.
    for (i, (path, _)) in whole.iter().enumerate() {
        std::fs::write(path, &whole[(i + 1) % whole.len()].1).unwrap();
    }
    let found = warm(&model);
    assert!(found.same(&wanted) && found.cached == 0, "{found:?}");
    // One page in the middle is missing: what comes before it is of use.
    for (path, bytes) in &whole {
        std::fs::write(path, bytes).unwrap();
    }
    std::fs::remove_file(&whole[1].0).unwrap();
    assert!(warm(&model).same(&wanted));
    // Folders and links in the place of pages.
    for (path, _) in &whole {
        let _ = std::fs::remove_file(path);
        std::fs::create_dir(path).unwrap();
    }
    assert!(warm(&model).same(&wanted));
}

#[test]
fn a_folder_that_cannot_be_one_is_refused_and_one_that_fills_up_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    save(MODELS[0].2, 4, &model);
    let file = folder.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let error = Engine::start(open(&model, None), config(&file))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("prompt cache") && error.contains("file"),
        "{error}"
    );
    let cache = folder.path().join("cache");
    let small = || EngineConfig {
        prompt_cache_disk_bytes: 100_000,
        ..config(&cache)
    };
    let engine = Engine::start(open(&model, None), small()).unwrap();
    let answers: Vec<Answer> = (0..6).map(|i| ask(&engine, &prompt(i, 260), 0)).collect();
    drop(engine);
    let bytes: u64 = pages(&cache).iter().map(|p| p.metadata().unwrap().len()).sum();
    assert!(bytes > 0 && bytes <= 100_000, "{bytes}");
    let engine = Engine::start(open(&model, None), small()).unwrap();
    for (i, wanted) in answers.iter().enumerate() {
        assert!(ask(&engine, &prompt(i as u32, 260), 0).same(wanted));
    }
}

#[test]
fn drafts_do_not_change_a_text() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bits, shape) in [MODELS[0], MODELS[1]] {
        let (model, small) = (
            folder.path().join(name),
            folder.path().join(format!("{name}-small")),
        );
        save(shape, bits, &model);
        save(
            &shape.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"),
            bits,
            &small,
        );
        for temperature in [0.0, 0.9] {
            for text in [prompt(1, 3), prompt(2, 90)] {
                let options = GenerateOptions {
                    max_tokens: 40,
                    sampling: SamplingParams {
                        temperature,
                        repetition_penalty: Some(1.1),
                        seed: Some(5),
                        ..SamplingParams::default()
                    },
                    stop_ids: Default::default(),
                };
                let quiet = |_: mlx_native_lm::Event<'_>| std::ops::ControlFlow::Continue(());
                let mut target = open(&model, None);
                let mut state = target.decoder().new_state(0).unwrap();
                let (decoder, tokenizer) = target.parts();
                let wanted = generate(decoder, tokenizer, &mut state, &text, &options, quiet).unwrap();
                let n = state.len();
                for kind in 0..3 {
                    let mut target = open(&model, None);
                    let mut draft = match kind {
                        0 => Draft::look_back(4, &target).unwrap(),
                        1 => Draft::new(open(&small, None), 3, &target).unwrap(),
                        // The model itself: every guess is right.
                        _ => Draft::new(open(&model, None), 11, &target).unwrap(),
                    };
                    let mut state = target.decoder().new_state(0).unwrap();
                    let (decoder, tokenizer) = target.parts();
                    let found = generate_with_draft(
                        decoder, &mut draft, tokenizer, &mut state, &text, &options, quiet,
                    )
                    .unwrap();
                    assert_eq!(found.token_ids, wanted.token_ids, "{name}, {temperature}, {kind}");
                    assert_eq!(
                        (found.text, found.finish_reason),
                        (wanted.text.clone(), wanted.finish_reason)
                    );
                    assert_eq!(state.len(), n);
                    let (guessed, right) = draft.acceptance();
                    assert!(
                        kind != 2 || (guessed > 20 && right * 10 > guessed * 9),
                        "{right} of {guessed}"
                    );
                }
            }
        }
    }
    // A model that cannot go back, and a vocabulary that is another.
    let recurrent = folder.path().join("recurrent");
    save(MODELS[2].2, 16, &recurrent);
    let error = Draft::look_back(4, &open(&recurrent, None))
        .unwrap_err()
        .to_string();
    assert!(error.contains("recurrent"), "{error}");
    assert!(Draft::look_back(0, &open(&folder.path().join("qwen3"), None)).is_err());
}

#[test]
fn a_draft_model_in_the_engine_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (model, small) = (folder.path().join("model"), folder.path().join("small"));
    let (_, bits, shape) = MODELS[0];
    save(shape, bits, &model);
    save(
        &shape.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"),
        bits,
        &small,
    );
    let prompts: Vec<Vec<u32>> = vec![prompt(1, 3), prompt(2, 200), prompt(3, 40), prompt(4, 9)];
    let long = |prompt: &[u32], seed: u64| {
        let mut request = request(prompt.to_vec(), seed);
        request.max_tokens = Some(30);
        request
    };
    let plain = Engine::start(open(&model, None), EngineConfig::default()).unwrap();
    let wanted: Vec<Answer> = (prompts.iter().zip(0..))
        .map(|(p, seed)| collect(plain.submit(long(p, seed)).unwrap()))
        .collect();
    // The model itself guesses right; another one now and then at most; memory for one text only, and prompts looked back in as well.
    for (kind, draft) in [&model, &small, &model, &model].into_iter().enumerate() {
        let config = EngineConfig {
            draft_tokens: [3, 4, 20, 2][kind],
            prompt_lookup: [0, 0, 0, 4][kind],
            ..EngineConfig::default()
        };
        let engine = Engine::start_with_draft(open(&model, None), open(draft, None), config).unwrap();
        for together in [false, true] {
            let mut streams = Vec::new();
            for ((prompt, seed), wanted) in prompts.iter().zip(0..).zip(&wanted) {
                let stream = engine.submit(long(prompt, seed)).unwrap();
                if together {
                    streams.push((stream, wanted));
                } else {
                    let found = collect(stream);
                    assert_eq!(
                        (&found.ids, &found.bits),
                        (&wanted.ids, &wanted.bits),
                        "{kind}, alone"
                    );
                }
            }
            for (stream, wanted) in streams {
                let found = collect(stream);
                assert_eq!(
                    (&found.ids, &found.bits),
                    (&wanted.ids, &wanted.bits),
                    "{kind}, together"
                );
            }
        }
        let stats = engine.stats();
        assert!(stats.guessed > 0, "{kind}: {stats:?}");
        assert!(
            kind != 0 || stats.guessed_right * 10 > stats.guessed * 8,
            "{stats:?}"
        );
    }
    let recurrent = folder.path().join("recurrent");
    save(MODELS[2].2, 16, &recurrent);
    for (a, b) in [(&model, &recurrent), (&recurrent, &model)] {
        let error =
            Engine::start_with_draft(open(a, None), open(b, None), EngineConfig::default()).unwrap_err();
        assert!(error.to_string().contains("go back"), "{error}");
    }
}

#[test]
fn a_budget_ends_thoughts_and_the_answer_goes_on_as_if_they_had_ended_there() {
    let folder = tempfile::tempdir().unwrap();
    let (_, bits, shape) = MODELS[0];
    let folder = folder.path().join("model");
    save(shape, bits, &folder);
    for lookup in [0, 4] {
        let config = EngineConfig {
            prompt_lookup: lookup,
            ..EngineConfig::default()
        };
        let engine = Engine::start(open(&folder, None), config).unwrap();
        let plain = ask(&engine, &prompt(2, 50), 4).ids;
        let ending = engine.tokenizer().encode_with("</think>\n", false).unwrap();
        assert!(ending.len() > 1);
        let thinking = |budget: usize, is_open: bool| {
            let mut request = request(prompt(2, 50), 4);
            request.max_tokens = Some(12 + ending.len());
            request.thinking = Some(Thinking {
                open: "<think>".to_owned(),
                close: "</think>".to_owned(),
                is_open,
                budget: Some(budget),
                ending: ending.clone(),
            });
            // Neither may keep what is forced from coming.
            request.sampling.logit_bias = ending.iter().map(|id| (*id, -100.0)).collect();
            request.stop_token_ids = vec![ending[0]];
            let mut reasoning = 0;
            let events = engine.submit(request).unwrap().inspect(|event| {
                if let Event::Finished { usage, .. } = event {
                    reasoning = usage.reasoning_tokens;
                }
            });
            (collect(events).ids, reasoning)
        };
        for budget in [0, 1, 5] {
            let (found, reasoning) = thinking(budget, true);
            assert_eq!(found[..budget], plain[..budget]);
            assert_eq!(found[budget..budget + ending.len()], ending);
            assert_eq!(reasoning, budget + ending.len());
            let mut before = prompt(2, 50);
            before.extend(&found[..budget + ending.len()]);
            let mut rest = request(before, 4);
            rest.sampling.logit_bias = ending.iter().map(|id| (*id, -100.0)).collect();
            let rest = collect(engine.submit(rest).unwrap()).ids;
            assert_eq!(found[budget + ending.len()..], rest[..12 - budget], "{budget}");
        }
        let (found, reasoning) = thinking(1, false);
        assert_eq!((&found[..12], reasoning), (&plain[..], 0), "nothing was thought");
    }
    let mut wrong = request(prompt(1, 3), 1);
    wrong.thinking = Some(Thinking {
        open: String::new(),
        close: String::new(),
        is_open: true,
        budget: Some(1),
        ending: Vec::new(),
    });
    let engine = Engine::start(open(&folder, None), EngineConfig::default()).unwrap();
    assert!(
        engine
            .submit(wrong)
            .unwrap_err()
            .to_string()
            .starts_with("thinking")
    );
}
