//! Sequences computed together: what each gets does not depend on the others, nor on how it was fed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mlx_native::{DType, DeviceKind, MlxDevice};
use mlx_native_lm::{
    Batch, Decoder, ModelOptions, NewSequence, Output, Rows, Sampler, SamplingParams, SequenceId, Wanted,
    open_decoder,
};

const MODELS: [&str; 4] = ["qwen3-4bit", "llama-8bit", "llama-bf16-tied", "qwen3-f32"];

fn open(name: &str, chunk: usize) -> Decoder {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/models")
        .join(name);
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let options = ModelOptions {
        dtype: Some(DType::F32),
        prefill_step: chunk,
    };
    open_decoder(&device, folder, &options).unwrap()
}

fn prompt(n: usize, seed: usize, vocab: usize) -> Vec<u32> {
    (0..n)
        .map(|i| ((i * 31 + seed * 17 + i * i * 7) % vocab) as u32)
        .collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_row_has_the_same_bits_alone_in_company_and_however_it_was_cut() {
    for name in MODELS {
        let mut decoder = open(name, 256);
        decoder.set_row_independent(true);
        let vocab = decoder.spec().vocab_size;
        let prompts: Vec<Vec<u32>> = [70, 1, 33, 9, 130]
            .iter()
            .enumerate()
            .map(|(i, n)| prompt(*n, i, vocab))
            .collect();
        let mut alone = Vec::new();
        for prompt in &prompts {
            let mut state = decoder.new_state(0).unwrap();
            let mut logits = decoder.forward(prompt, &mut state).unwrap();
            let mut all = vec![bits(&logits)];
            for next in [3u32, 5, 8] {
                logits = decoder.forward(&[next], &mut state).unwrap();
                all.push(bits(&logits));
            }
            alone.push(all);
        }
        // All at once, and in chunks of odd sizes beside each other.
        for cut in [256usize, 7] {
            let mut states: Vec<_> = prompts.iter().map(|_| decoder.new_state(0).unwrap()).collect();
            let mut fed = vec![0; prompts.len()];
            let mut first = vec![Vec::new(); prompts.len()];
            while fed.iter().zip(&prompts).any(|(f, p)| *f < p.len()) {
                let mut rows = Vec::new();
                let mut whose = Vec::new();
                for (i, state) in states.iter_mut().enumerate() {
                    let end = prompts[i].len().min(fed[i] + cut);
                    if end == fed[i] {
                        continue;
                    }
                    let wanted = if end == prompts[i].len() {
                        Wanted::Last
                    } else {
                        Wanted::None
                    };
                    rows.push(Rows {
                        tokens: &prompts[i][fed[i]..end],
                        state,
                        wanted,
                    });
                    whose.push(i);
                    fed[i] = end;
                }
                for (logits, i) in decoder.step(&mut rows).unwrap().into_iter().zip(whose) {
                    first[i] = bits(&logits);
                }
            }
            for (i, first) in first.iter().enumerate() {
                assert_eq!(*first, alone[i][0], "{name}: prompt {i}, cut {cut}");
            }
            for (at, next) in [3u32, 5, 8].into_iter().enumerate() {
                let mut rows: Vec<_> = (states.iter_mut())
                    .map(|state| Rows {
                        tokens: std::slice::from_ref(&next),
                        state,
                        wanted: Wanted::Last,
                    })
                    .collect();
                for (i, logits) in decoder.step(&mut rows).unwrap().iter().enumerate() {
                    assert_eq!(
                        bits(logits),
                        alone[i][at + 1],
                        "{name}: sequence {i}, token {at}, cut {cut}"
                    );
                }
            }
        }
    }
}

fn add(
    batch: &mut Batch,
    decoder: &Decoder,
    params: &SamplingParams,
    prompt: &[u32],
    max: usize,
    host: bool,
) -> (SequenceId, Sampler) {
    let sampler = Sampler::new(params).unwrap();
    let sampling = sampler.on_device().filter(|_| !host);
    let state = decoder.new_state(0).unwrap();
    let new = NewSequence {
        state,
        history: Vec::new(),
        sampling,
        max_tokens: max,
    };
    let id = batch.add(decoder, new).unwrap();
    batch.append(id, prompt).unwrap();
    (id, sampler)
}

/// Steps until nothing is left to do; tokens of each sequence.
fn run(
    batch: &mut Batch,
    decoder: &mut Decoder,
    samplers: &mut BTreeMap<SequenceId, Sampler>,
) -> BTreeMap<SequenceId, Vec<u32>> {
    let mut all: BTreeMap<SequenceId, Vec<u32>> = BTreeMap::new();
    while batch.has_work() {
        for (id, output) in batch.step(decoder).unwrap() {
            let token = match output {
                Output::Token(token) => token,
                Output::Logits(mut logits) => {
                    let token = samplers
                        .get_mut(&id)
                        .unwrap()
                        .sample(&mut logits, batch.tokens(id))
                        .unwrap();
                    batch.push(id, token).unwrap();
                    token
                }
            };
            all.entry(id).or_default().push(token);
        }
    }
    all
}

#[test]
fn the_device_chooses_the_tokens_that_the_host_chooses() {
    let mut decoder = open("qwen3-4bit", 64);
    let vocab = decoder.spec().vocab_size;
    let plain = SamplingParams {
        seed: Some(11),
        ..SamplingParams::default()
    };
    let warm = SamplingParams {
        temperature: 0.9,
        ..plain.clone()
    };
    let chains = [
        plain.clone(),
        warm.clone(),
        SamplingParams {
            top_k: 9,
            ..warm.clone()
        },
        SamplingParams {
            top_p: 0.8,
            ..warm.clone()
        },
        SamplingParams {
            min_p: 0.05,
            temperature: 1.7,
            ..warm.clone()
        },
        SamplingParams {
            repetition_penalty: Some(1.3),
            ..plain.clone()
        },
        SamplingParams {
            presence_penalty: Some(0.7),
            frequency_penalty: Some(0.4),
            ..warm.clone()
        },
        SamplingParams {
            top_k: 30,
            top_p: 0.9,
            min_p: 0.01,
            repetition_penalty: Some(1.1),
            repetition_context_size: 5,
            ..warm.clone()
        },
        // What the device cannot do: the host does it, in the same batch.
        SamplingParams {
            xtc_probability: 1.0,
            xtc_threshold: 0.05,
            ..warm.clone()
        },
        SamplingParams {
            logit_bias: BTreeMap::from([(3, 5.0)]),
            ..warm
        },
    ];
    let mut tokens: Vec<Vec<Vec<u32>>> = Vec::new();
    for host in [false, true] {
        // One by one.
        let mut lists = Vec::new();
        for (i, params) in chains.iter().enumerate() {
            let mut batch = Batch::new(&decoder).unwrap();
            let (id, sampler) = add(&mut batch, &decoder, params, &prompt(5 + i, i, vocab), 40, host);
            assert_eq!(batch.is_on_device(id), !host && i < 8);
            let mut samplers = BTreeMap::from([(id, sampler)]);
            lists.push(run(&mut batch, &mut decoder, &mut samplers).remove(&id).unwrap());
        }
        tokens.push(lists);
        // All together.
        let mut batch = Batch::new(&decoder).unwrap();
        let mut samplers = BTreeMap::new();
        for (i, params) in chains.iter().enumerate() {
            samplers.extend([add(
                &mut batch,
                &decoder,
                params,
                &prompt(5 + i, i, vocab),
                40,
                host,
            )]);
        }
        tokens.push(
            run(&mut batch, &mut decoder, &mut samplers)
                .into_values()
                .collect(),
        );
    }
    assert!(tokens.iter().flatten().all(|list| list.len() == 40));
    for (way, lists) in tokens.iter().enumerate() {
        for (i, list) in lists.iter().enumerate() {
            assert_eq!(*list, tokens[0][i], "way {way}, chain {i}");
        }
    }
    assert_ne!(tokens[0][0], tokens[0][1], "a draw is not the likeliest");
}

#[test]
fn sequences_come_and_go_and_their_states_are_what_they_would_be_alone() {
    let mut decoder = open("qwen3-f32", 32);
    let vocab = decoder.spec().vocab_size;
    let params = SamplingParams {
        temperature: 0.7,
        seed: Some(5),
        ..SamplingParams::default()
    };
    let mut alone = |n: usize, max: usize| {
        let mut batch = Batch::new(&decoder).unwrap();
        let (id, sampler) = add(&mut batch, &decoder, &params, &prompt(n, n, vocab), max, false);
        run(&mut batch, &mut decoder, &mut BTreeMap::from([(id, sampler)]))
            .remove(&id)
            .unwrap()
    };
    let wanted: Vec<Vec<u32>> = [(3, 30), (100, 30), (50, 12)]
        .into_iter()
        .map(|(n, max)| alone(n, max))
        .collect();
    let mut batch = Batch::new(&decoder).unwrap();
    let (a, _) = add(&mut batch, &decoder, &params, &prompt(3, 3, vocab), 1000, false);
    let mut got: BTreeMap<SequenceId, Vec<u32>> = BTreeMap::new();
    let mut step = |batch: &mut Batch, decoder: &mut Decoder| {
        for (id, output) in batch.step(decoder).unwrap() {
            let Output::Token(token) = output else {
                panic!("logits that nobody wanted")
            };
            got.entry(id).or_default().push(token);
        }
        got.clone()
    };
    for _ in 0..5 {
        step(&mut batch, &mut decoder);
    }
    let (b, _) = add(&mut batch, &decoder, &params, &prompt(100, 100, vocab), 30, false);
    let (c, _) = add(&mut batch, &decoder, &params, &prompt(50, 50, vocab), 12, false);
    let mut now = BTreeMap::new();
    while now.get(&a).is_none_or(|t: &Vec<u32>| t.len() < 30) {
        now = step(&mut batch, &mut decoder);
    }
    // It was computed ahead: the state that is given has forgotten that.
    let known = batch.tokens(a).to_vec();
    let state = batch.remove(a).unwrap();
    assert_eq!(state.len(), known.len() - 1);
    while batch.has_work() {
        now = step(&mut batch, &mut decoder);
    }
    assert_eq!(now[&a], wanted[0]);
    assert_eq!(now[&b], wanted[1]);
    assert_eq!(now[&c], wanted[2]);
    assert!(batch.remove(a).is_err() && batch.append(a, &[1]).is_err());
    // The state goes on where the sequence ended.
    let mut new = decoder.new_state(0).unwrap();
    let mut old = state;
    let (last, front) = known.split_last().unwrap();
    decoder.set_row_independent(true);
    for chunk in front.chunks(32) {
        decoder.feed(chunk, &mut new).unwrap();
    }
    let (x, y) = (
        decoder.forward(&[*last], &mut old).unwrap(),
        decoder.forward(&[*last], &mut new).unwrap(),
    );
    assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-4));
}

#[test]
fn forks_share_blocks_until_one_of_them_writes() {
    let mut decoder = open("qwen3-f32", 256);
    let vocab = decoder.spec().vocab_size;
    let mut first = decoder.new_state(0).unwrap();
    decoder.feed(&prompt(130, 1, vocab), &mut first).unwrap();
    let used = |d: &Decoder| d.cache_bytes() - d.free_cache_bytes();
    let before = used(&decoder);
    let mut forks: Vec<_> = (0..6).map(|_| first.fork()).collect();
    assert_eq!(used(&decoder), before, "forks take no memory");
    let block = before / 3;
    let mut logits = Vec::new();
    for fork in &mut forks {
        logits.push(decoder.forward(&[9], fork).unwrap());
    }
    assert_eq!(
        used(&decoder),
        before + 6 * block,
        "each has a last block of its own"
    );
    assert!(logits.iter().all(|l| bits(l) == bits(&logits[0])));
    let own = decoder.forward(&[9], &mut first).unwrap();
    assert_eq!(bits(&own), bits(&logits[0]));
    drop(forks);
    assert_eq!(used(&decoder), before);
    drop(first);
    assert_eq!(used(&decoder), 0);
    // A pool that may not grow says so, and nothing is lost.
    decoder.set_cache_limit(Some(decoder.cache_bytes()));
    let mut state = decoder.new_state(0).unwrap();
    let error = (0..100)
        .find_map(|i| decoder.feed(&prompt(200, i, vocab), &mut state).err())
        .unwrap();
    assert!(error.to_string().contains("allowed"), "{error}");
    let held = state.len();
    assert!(held > 0 && held % 200 == 0);
    let other = open("qwen3-f32", 8).new_state(0).unwrap();
    let mut other = other;
    let error = decoder.feed(&[1], &mut other).unwrap_err().to_string();
    assert!(error.contains("another decoder"), "{error}");
}

#[test]
fn prompt_caches_of_mlx_lm_are_read_and_our_own_come_back() {
    // Made by mlx-lm from 70 tokens; its metadata has the logits that mlx-lm computed behind token 5.
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/prompt-cache/qwen3-f32.safetensors");
    let mut decoder = open("qwen3-f32", 128);
    let mut state = decoder.new_state(0).unwrap();
    let metadata = state.load(&path).unwrap();
    assert_eq!((state.len(), metadata["model"].as_str()), (70, "qwen3-f32"));
    assert!(state.load(&path).is_err(), "it holds something");
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own.safetensors");
    state.save(&own, &metadata).unwrap();
    let mut again = decoder.new_state(0).unwrap();
    assert_eq!(again.load(&own).unwrap(), metadata);
    let wanted: Vec<f32> = serde_json::from_str(&metadata["logits"]).unwrap();
    let logits = decoder.forward(&[5], &mut state).unwrap();
    assert_eq!(logits.len(), wanted.len());
    assert!(logits.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 2e-3));
    assert_eq!(bits(&decoder.forward(&[5], &mut again).unwrap()), bits(&logits));
    // In chunks, the same prompt.
    let tokens: Vec<u32> = (0..70).map(|i| i * 7 % 131).collect();
    let mut fed = decoder.new_state(0).unwrap();
    decoder.feed(&tokens, &mut fed).unwrap();
    let logits = decoder.forward(&[5], &mut fed).unwrap();
    assert!(logits.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 2e-3));
}

#[test]
fn prompt_caches_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.safetensors");
    let mut decoder = open("qwen3-f32", 128);
    let empty = decoder.new_state(0).unwrap();
    assert!(empty.save(&path, &BTreeMap::new()).is_err());
    let mut state = decoder.new_state(0).unwrap();
    decoder.feed(&[1, 2, 3], &mut state).unwrap();
    state.save(&path, &BTreeMap::new()).unwrap();
    // Of another model.
    let error = open("llama-8bit", 8)
        .new_state(0)
        .unwrap()
        .load(&path)
        .unwrap_err()
        .to_string();
    assert!(error.contains("prompt cache"), "{error}");
    let good = std::fs::read(&path).unwrap();
    let refused = |from: &str, to: &str| {
        let text = String::from_utf8_lossy(&good[8..]);
        let at = text.find(from).unwrap() + 8;
        let mut bad = good.clone();
        bad[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&path, &bad).unwrap();
        let mut state = decoder.new_state(0).unwrap();
        let error = state.load(&path).unwrap_err();
        assert!(state.is_empty(), "{error}");
        error.to_string()
    };
    assert!(refused("KVCache", "XVCache").contains("XVCache"));
    assert!(refused("\"0.2\":", "\"0.9\":").contains("0.2"));
    assert!(refused("\"0.1\":", "\"0.8\":").contains("0.1"));
    std::fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(decoder.new_state(0).unwrap().load(&path).is_err(), "cut off");
    assert!(
        decoder
            .new_state(0)
            .unwrap()
            .load(folder.path().join("none"))
            .is_err()
    );
}
