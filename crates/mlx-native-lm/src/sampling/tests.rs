//! The expected sets and logits were computed by mlx-lm 0.32.2 (`make_logits_processors`, `apply_top_p`, `apply_min_p`,
//! `apply_xtc` with probability 1, `apply_top_k`, in that order) on mlx 0.32.4.

use super::*;

const LOGITS: [f32; 16] = [
    2.04, -2.56, 0.42, -0.57, -0.45, 3.32, -2.02, -0.23, -0.87, 3.32, 0.23, -0.35, -0.28, -0.67, -1.06, -0.39,
];

fn params() -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        seed: Some(1),
        ..SamplingParams::default()
    }
}

/// The ids that the filters leave.
fn kept(params: &SamplingParams, logits: &[f32]) -> Vec<u32> {
    let mut sampler = Sampler::new(params).unwrap();
    sampler.candidates = (0u32..)
        .zip(logits)
        .map(|(id, &logit)| Candidate { logit, id })
        .collect();
    let (_, max) = argmax(logits).unwrap();
    sampler.filter(max, logits.len(), 0).unwrap();
    sampler.candidates.iter().map(|c| c.id).collect()
}

#[test]
fn filters_leave_what_mlx_lm_leaves() {
    let all: Vec<u32> = (0..16).collect();
    let without = |out: &[u32]| {
        all.iter()
            .copied()
            .filter(|id| !out.contains(id))
            .collect::<Vec<_>>()
    };
    let xtc = |threshold| SamplingParams {
        xtc_probability: 1.0,
        xtc_threshold: threshold,
        ..params()
    };
    let cases = [
        (params(), all.clone()),
        (
            SamplingParams {
                top_p: 0.5,
                ..params()
            },
            vec![5, 9],
        ),
        (
            SamplingParams {
                top_p: 0.9,
                ..params()
            },
            vec![0, 2, 5, 9],
        ),
        (
            SamplingParams {
                top_p: 0.99,
                ..params()
            },
            without(&[1, 6, 14]),
        ),
        (
            SamplingParams {
                top_p: 1.0,
                ..params()
            },
            all.clone(),
        ),
        (
            SamplingParams {
                min_p: 0.05,
                ..params()
            },
            vec![0, 2, 5, 9],
        ),
        (
            SamplingParams {
                min_p: 0.5,
                min_tokens_to_keep: 5,
                ..params()
            },
            vec![0, 2, 5, 9, 10],
        ),
        (
            SamplingParams {
                min_p: 0.5,
                min_tokens_to_keep: 50,
                ..params()
            },
            vec![5, 9],
        ),
        (xtc(0.1), without(&[5, 9])),
        (xtc(0.05), without(&[5, 9])),
        (
            SamplingParams {
                xtc_special_tokens: vec![5],
                ..xtc(0.05)
            },
            without(&[9]),
        ),
        (xtc(0.5), all.clone()),
        (SamplingParams { top_k: 1, ..params() }, vec![5]),
        (
            SamplingParams { top_k: 7, ..params() },
            vec![0, 2, 5, 7, 9, 10, 12],
        ),
        (
            SamplingParams {
                top_p: 0.95,
                min_p: 0.1,
                top_k: 3,
                ..xtc(0.08)
            },
            vec![0],
        ),
        (
            SamplingParams {
                top_p: 0.8,
                min_p: 0.9,
                min_tokens_to_keep: 4,
                top_k: 2,
                ..params()
            },
            vec![5, 9],
        ),
        (
            SamplingParams {
                top_p: 0.6,
                ..xtc(0.1)
            },
            vec![5, 9],
        ),
    ];
    for (params, wanted) in cases {
        assert_eq!(kept(&params, &LOGITS), wanted, "{params:?}");
    }
}

#[test]
fn processors_do_what_mlx_lm_s_do() {
    let base = [
        4.08, -5.11, 0.84, -1.14, -0.91, 6.65, -4.04, -0.46, -1.73, 6.65, 0.45, -0.71, -0.56, -1.34, -2.11,
        -0.78f32,
    ];
    let history = [3, 3, 5, 9, 1, 3, 12];
    // The logits that differ from `base`.
    let cases: [(SamplingParams, &[(usize, f32)]); 5] = [
        (
            SamplingParams {
                repetition_penalty: Some(1.3),
                ..params()
            },
            &[(1, -6.643), (3, -1.482), (5, 5.1154), (9, 5.1154), (12, -0.728)],
        ),
        (
            SamplingParams {
                repetition_penalty: Some(1.3),
                repetition_context_size: 3,
                ..params()
            },
            &[(1, -6.643), (3, -1.482), (12, -0.728)],
        ),
        (
            SamplingParams {
                presence_penalty: Some(0.5),
                ..params()
            },
            &[(1, -5.61), (3, -1.64), (5, 6.15), (9, 6.15), (12, -1.06)],
        ),
        (
            SamplingParams {
                frequency_penalty: Some(0.25),
                frequency_context_size: 6,
                ..params()
            },
            &[(1, -5.36), (3, -1.64), (5, 6.4), (9, 6.4), (12, -0.81)],
        ),
        (
            SamplingParams {
                logit_bias: BTreeMap::from([(2, 1.5), (7, -3.0)]),
                repetition_penalty: Some(2.0),
                presence_penalty: Some(-0.5),
                frequency_penalty: Some(0.5),
                ..params()
            },
            &[
                (1, -10.22),
                (2, 2.34),
                (3, -3.28),
                (5, 3.325),
                (7, -3.46),
                (9, 3.325),
                (12, -1.12),
            ],
        ),
    ];
    for (params, changed) in cases {
        let mut logits = base;
        Sampler::new(&params)
            .unwrap()
            .process(&mut logits, &history)
            .unwrap();
        let mut wanted = base;
        for &(id, logit) in changed {
            wanted[id] = logit;
        }
        for (id, (found, wanted)) in logits.iter().zip(wanted).enumerate() {
            assert!(
                (found - wanted).abs() < 1e-4,
                "{params:?}: token {id}: {found}, wanted {wanted}"
            );
        }
    }
}

/// Pseudo-random logits, many of them equal.
fn noise(n: usize, levels: u32) -> Vec<f32> {
    (0..n as u64)
        .map(|i| (rule::random(u64::from(levels), i, 0) % u64::from(levels)) as f32 * 12.0 / levels as f32)
        .collect()
}

#[test]
fn selection_equals_sorting() {
    for (n, levels) in [(1, 4), (2, 1), (7, 3), (100, 5), (1000, 100_000), (4096, 50)] {
        let logits = noise(n, levels);
        let mut sorted: Vec<Candidate> = (0u32..)
            .zip(&logits)
            .map(|(id, &logit)| Candidate { logit, id })
            .collect();
        sorted.sort_by(|a, b| b.cmp(a));
        let max = sorted[0].logit;
        let total: u64 = sorted.iter().map(|c| c.weight(max)).sum();
        for p in [0.01f32, 0.3, 0.9, 0.999] {
            let (mut above, wanted) = (0, rule::part_of(total, rule::fraction(p)));
            let dropped = sorted.iter().position(|c| {
                let drop = above >= wanted;
                above += c.weight(max);
                drop
            });
            let least = sorted[dropped.unwrap_or(n) - 1].logit;
            let mut wanted: Vec<u32> = sorted.iter().filter(|c| c.logit >= least).map(|c| c.id).collect();
            wanted.sort_unstable();
            assert_eq!(
                kept(&SamplingParams { top_p: p, ..params() }, &logits),
                wanted,
                "{n} {levels} {p}"
            );
        }
        for k in [1, 2, n / 2, n - 1].into_iter().filter(|k| (1..n).contains(k)) {
            let mut wanted: Vec<u32> = sorted[..k].iter().map(|c| c.id).collect();
            wanted.sort_unstable();
            assert_eq!(
                kept(&SamplingParams { top_k: k, ..params() }, &logits),
                wanted,
                "{n} {levels} {k}"
            );
        }
    }
}

#[test]
fn the_smallest_temperature_takes_the_likeliest() {
    for temperature in [1e-3, f32::MIN_POSITIVE, 1e-45] {
        let mut sampler = Sampler::new(&SamplingParams {
            temperature,
            ..params()
        })
        .unwrap();
        assert_eq!(sampler.sample(&mut [1.0, 3.0, 2.0], &[]).unwrap(), 1);
    }
}

#[test]
fn draws_reach_all_of_a_vocabulary() {
    const QUARTER: usize = 1024;
    let n = 3 * QUARTER + 7;
    let mut sampler = Sampler::new(&params()).unwrap();
    let mut counts = [0u32; 4];
    for _ in 0..4000 {
        let id = sampler.sample(&mut vec![0.5; n], &[]).unwrap() as usize;
        counts[id / QUARTER] += 1;
    }
    assert!(
        counts[..3].iter().all(|c| (1150..1500).contains(c)) && counts[3] < 40,
        "{counts:?}"
    );
    // One possible token, in the last block.
    let mut logits = vec![-200.0; n];
    logits[n - 1] = 0.0;
    assert_eq!(sampler.sample(&mut logits, &[]).unwrap() as usize, n - 1);
}

#[test]
fn draws_follow_the_probabilities_with_temperature() {
    let logits = [1.0f32, 0.0, 2.0, f32::NEG_INFINITY];
    let temperature = 0.7;
    let mut sampler = Sampler::new(&SamplingParams {
        temperature,
        ..params()
    })
    .unwrap();
    let mut counts = [0u32; 4];
    let n = 40_000;
    for _ in 0..n {
        counts[sampler.sample(&mut logits.clone(), &[]).unwrap() as usize] += 1;
    }
    let weights = logits.map(|l| f64::from(l / temperature).exp());
    let total: f64 = weights.iter().sum();
    for (count, weight) in counts.iter().zip(weights) {
        let p = weight / total;
        // Six standard deviations.
        let slack = 6.0 * (p * (1.0 - p) / f64::from(n)).sqrt();
        assert!(
            (f64::from(*count) / f64::from(n) - p).abs() <= slack,
            "{counts:?}"
        );
    }
}

#[test]
fn a_seed_fixes_the_draws_for_good() {
    let draws = |seed| {
        let mut sampler = Sampler::new(&SamplingParams {
            seed,
            temperature: 1.5,
            ..params()
        })
        .unwrap();
        (0..12)
            .map(|_| sampler.sample(&mut LOGITS.clone(), &[]).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(draws(Some(42)), FORTY_TWO);
    assert_ne!(draws(Some(43)), FORTY_TWO);
    assert_ne!(draws(None), draws(None));
}

/// What seed 42 gave when this was written; users' texts depend on it.
const FORTY_TWO: [u32; 12] = [5, 5, 9, 9, 9, 5, 9, 5, 2, 5, 9, 5];

#[test]
fn xtc_applies_as_often_as_it_says() {
    let params = SamplingParams {
        xtc_probability: 0.25,
        xtc_threshold: 0.1,
        ..params()
    };
    let mut sampler = Sampler::new(&params).unwrap();
    let all: Vec<Candidate> = (0u32..)
        .zip(LOGITS)
        .map(|(id, logit)| Candidate { logit, id })
        .collect();
    let applied = (0..4000).filter(|counter| {
        sampler.candidates.clone_from(&all);
        sampler.filter(3.32, 16, *counter).unwrap();
        sampler.candidates.len() == 14
    });
    assert!((850..1150).contains(&applied.count()));
}

#[test]
fn temperature_zero_takes_the_first_of_the_largest() {
    let mut sampler = Sampler::new(&SamplingParams {
        top_k: 3,
        ..SamplingParams::default()
    })
    .unwrap();
    assert_eq!(sampler.sample(&mut LOGITS.clone(), &[]).unwrap(), 5);
    // Processors count all the same.
    let params = SamplingParams {
        logit_bias: BTreeMap::from([(5, f32::NEG_INFINITY)]),
        ..SamplingParams::default()
    };
    assert_eq!(
        Sampler::new(&params)
            .unwrap()
            .sample(&mut LOGITS.clone(), &[])
            .unwrap(),
        9
    );
}

#[test]
fn unusable_logits_are_refused() {
    for temperature in [0.0, 1.0] {
        let mut sampler = Sampler::new(&SamplingParams {
            temperature,
            ..params()
        })
        .unwrap();
        let mut refusal = |logits: &mut [f32]| match sampler.sample(logits, &[]) {
            Err(LmError::Logits(message)) => message,
            other => panic!("{other:?}"),
        };
        assert!(refusal(&mut [0.0, f32::NAN, 1.0]).contains("token 1 is NaN"));
        assert!(refusal(&mut [f32::NEG_INFINITY; 3]).contains("all 3 are negative infinity"));
        assert!(refusal(&mut [0.0, f32::INFINITY]).contains("token 1 is infinite"));
        assert!(refusal(&mut []).contains("all 0"));
        assert_eq!(sampler.sample(&mut [f32::NEG_INFINITY, -5.0], &[]).unwrap(), 1);
    }
}

#[test]
fn parameters_out_of_their_domain_are_refused_by_name() {
    let bad = |params: SamplingParams, name: &str| match Sampler::new(&params) {
        Err(LmError::InvalidArgument(message)) => assert!(message.starts_with(name), "{message}"),
        other => panic!("{name}: {other:?}"),
    };
    for value in [-0.1, f32::NAN, f32::INFINITY] {
        bad(
            SamplingParams {
                temperature: value,
                ..params()
            },
            "temperature",
        );
        bad(
            SamplingParams {
                top_p: value,
                ..params()
            },
            "top_p",
        );
        bad(
            SamplingParams {
                min_p: value,
                ..params()
            },
            "min_p",
        );
        bad(
            SamplingParams {
                xtc_probability: value,
                ..params()
            },
            "xtc_probability",
        );
        bad(
            SamplingParams {
                xtc_threshold: value,
                ..params()
            },
            "xtc_threshold",
        );
        bad(
            SamplingParams {
                repetition_penalty: Some(value),
                ..params()
            },
            "repetition_penalty",
        );
    }
    bad(
        SamplingParams {
            top_p: 2.0,
            ..params()
        },
        "top_p: found 2, wanted a number from 0 to 1",
    );
    bad(
        SamplingParams {
            xtc_threshold: 0.6,
            ..params()
        },
        "xtc_threshold",
    );
    bad(
        SamplingParams {
            presence_penalty: Some(f32::NAN),
            ..params()
        },
        "presence_penalty",
    );
    bad(
        SamplingParams {
            frequency_penalty: Some(f32::INFINITY),
            ..params()
        },
        "frequency_penalty",
    );
    bad(
        SamplingParams {
            min_tokens_to_keep: 0,
            ..params()
        },
        "min_tokens_to_keep",
    );
    bad(
        SamplingParams {
            repetition_context_size: 0,
            ..params()
        },
        "repetition_context_size",
    );
    bad(
        SamplingParams {
            logit_bias: BTreeMap::from([(3, f32::NAN)]),
            ..params()
        },
        "logit_bias of token 3",
    );

    let sample = |params: SamplingParams, history: &[u32]| {
        Sampler::new(&params)
            .unwrap()
            .sample(&mut LOGITS.clone(), history)
            .unwrap_err()
            .to_string()
    };
    assert!(
        sample(
            SamplingParams {
                top_k: 16,
                ..params()
            },
            &[]
        )
        .starts_with("top_k: found 16")
    );
    let penalty = SamplingParams {
        repetition_penalty: Some(2.0),
        ..params()
    };
    assert!(sample(penalty, &[16]).starts_with("history: token: found 16"));
    assert!(
        sample(
            SamplingParams {
                logit_bias: BTreeMap::from([(99, 1.0)]),
                ..params()
            },
            &[]
        )
        .contains("99")
    );
}

#[test]
fn a_large_vocabulary_costs_little() {
    let logits = noise(151_936, 1 << 20);
    let params = SamplingParams {
        temperature: 0.8,
        top_p: 0.9,
        min_p: 0.02,
        top_k: 50,
        ..params()
    };
    let mut sampler = Sampler::new(&params).unwrap();
    let mut best = std::time::Duration::MAX;
    for _ in 0..5 {
        let mut logits = logits.clone();
        let start = std::time::Instant::now();
        sampler.sample(&mut logits, &[]).unwrap();
        best = best.min(start.elapsed());
    }
    println!("top_p, min_p and top_k over 151936 tokens: {best:?}");
    // Linear work; sorting anything of this size in a debug build takes longer by far.
    assert!(best < std::time::Duration::from_millis(100), "{best:?}");
}

#[test]
fn the_device_chooses_what_the_host_chooses() {
    use mlx_native::ops::sample::{SampleParams, SampleState, sample};
    use mlx_native::{DType, DeviceKind, KernelRegistry, MlxBuffer, MlxDevice};

    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let mut registry = KernelRegistry::new();
    let buffer = |dtype: DType, len: usize| device.alloc_tensor(dtype, &[len]).unwrap();
    let chains = [
        SamplingParams::default(),
        params(),
        SamplingParams {
            top_p: 0.8,
            temperature: 1.7,
            ..params()
        },
        SamplingParams {
            min_p: 0.05,
            top_k: 9,
            seed: Some(u64::MAX),
            ..params()
        },
        SamplingParams {
            top_p: 0.95,
            min_p: 0.01,
            top_k: 40,
            repetition_penalty: Some(1.2),
            repetition_context_size: 4,
            presence_penalty: Some(0.3),
            frequency_penalty: Some(0.1),
            frequency_context_size: 30,
            ..params()
        },
        SamplingParams {
            repetition_penalty: Some(1.5),
            ..SamplingParams::default()
        },
    ];
    let vocab = 500;
    for chain in chains {
        let mut host = Sampler::new(&chain).unwrap();
        let [mut logits, mut wanted] = [buffer(DType::F32, vocab), buffer(DType::U32, 16)];
        let [mut starts, mut history, mut counts] = [2, 32, 2].map(|n| buffer(DType::U32, n));
        let [ids, ring] = [1, 4].map(|n| buffer(DType::U32, n));
        let prompt = [3, 3, 77, 499];
        wanted
            .write(0, &host.on_device().expect("a common chain").words().unwrap())
            .unwrap();
        starts.write(0, &[0u32, 1]).unwrap();
        history.write(0, &prompt).unwrap();
        counts.write(0, &[prompt.len() as u32, 0]).unwrap();
        let mut text = prompt.to_vec();
        for step in 0..60 {
            let values = noise(vocab, 1000 + step % 5);
            logits.write(0, &values).unwrap();
            let state = SampleState {
                wanted: &wanted,
                seq_starts: &starts,
                history: &history,
                counts: &counts,
                ids: &ids,
                ring: &ring,
            };
            let sizes = SampleParams {
                n_seqs: 1,
                vocab: vocab as u32,
                history_len: 32,
                ring_len: 4,
                n_ids: 1,
                logits_stride: 0,
            };
            let mut encoder = device.command_encoder().unwrap();
            sample(&mut encoder, &mut registry, &device, &logits, &state, &sizes).unwrap();
            encoder.commit_and_wait().unwrap();
            let read = |b: &MlxBuffer, at: usize| b.read::<u32>().unwrap()[at];
            let found = read(&ring, step as usize % 4);
            assert_eq!(
                found,
                host.sample(&mut values.clone(), &text).unwrap(),
                "{chain:?}, step {step}"
            );
            assert_eq!(read(&ids, 0), found);
            text.push(found);
        }
    }
    let host_only = SamplingParams {
        logit_bias: BTreeMap::from([(1, 2.0)]),
        ..params()
    };
    assert!(Sampler::new(&host_only).unwrap().on_device().is_none());
}
