//! The engine over the demo model, on the processor.

use std::collections::BTreeMap;

use mlx_native::{DType, DeviceKind, MlxDevice};

use super::super::{Begin, Engine, EngineConfig, EngineError, Event, Grammar, Request, StopReason, Usage};
use crate::{Model, ModelOptions, SamplingParams};

fn engine(config: EngineConfig) -> Engine {
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    // In f32, in which a text does not depend on how it was cut.
    let options = ModelOptions {
        dtype: Some(DType::F32),
        ..ModelOptions::default()
    };
    let model = Model::from_files(&device, mlx_native_demo::files(), &options).unwrap();
    Engine::start(model, config).unwrap()
}

/// What became of one choice.
#[derive(Debug, Clone, Default, PartialEq)]
struct Answer {
    text: String,
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    reason: Option<StopReason>,
    cached: usize,
    completion: usize,
}

fn collect(events: impl Iterator<Item = Event>) -> BTreeMap<usize, Answer> {
    let mut answers: BTreeMap<usize, Answer> = BTreeMap::new();
    for event in events {
        match event {
            Event::Prompt { .. } => {}
            Event::Text { index, text, tokens } => {
                let answer = answers.entry(index).or_default();
                answer.text += &text;
                answer.ids.extend(tokens.iter().map(|t| t.id));
                answer.logprobs.extend(
                    tokens
                        .iter()
                        .filter_map(|t| t.logprobs.as_ref())
                        .map(|l| l.logprob),
                );
            }
            Event::Finished { index, reason, usage } => {
                let answer = answers.entry(index).or_default();
                let Usage {
                    cached_tokens,
                    completion_tokens,
                    ..
                } = usage;
                (answer.reason, answer.cached, answer.completion) =
                    (Some(reason), cached_tokens, completion_tokens);
            }
            Event::Failed(message) => panic!("{message}"),
        }
    }
    answers
}

fn request(engine: &Engine, prompt: &str, max_tokens: usize) -> Request {
    let mut request = Request::new(engine.tokenizer().encode(prompt).unwrap());
    request.max_tokens = Some(max_tokens);
    request.logprobs = Some(0);
    request
}

fn answer(engine: &Engine, request: Request) -> Answer {
    collect(engine.submit(request).unwrap()).remove(&0).unwrap()
}

const PROMPTS: [&str; 5] = [
    "Ownership in Rust means",
    "A slice is a view into",
    "fn main() { let x = Vec::new(); for i in 0..10 { println!(\"{}\", i); } } // This program prints the numbers from 0 to 9, each on a line of its own",
    "The trait `Iterator`",
    "Returns",
];

#[test]
fn company_and_cache_change_no_bit() {
    let alone = engine(EngineConfig {
        max_sequences: 1,
        prompt_cache_entries: 0,
        ..EngineConfig::default()
    });
    let sampled = |engine: &Engine, prompt: &str, seed: u64| {
        let mut request = request(engine, prompt, 12);
        request.sampling = SamplingParams {
            temperature: 0.8,
            top_p: 0.95,
            seed: Some(seed),
            ..SamplingParams::default()
        };
        request
    };
    let wanted: Vec<Answer> = (0..20)
        .map(|i| answer(&alone, sampled(&alone, PROMPTS[i % 5], i as u64)))
        .collect();
    let many = engine(EngineConfig {
        prefill_tokens: 7,
        ..EngineConfig::default()
    });
    for round in 0..2 {
        let streams: Vec<_> = (0..20)
            .map(|i| many.submit(sampled(&many, PROMPTS[i % 5], i as u64)).unwrap())
            .collect();
        for (i, stream) in streams.into_iter().enumerate() {
            let found = collect(stream).remove(&0).unwrap();
            assert!(round == 0 || i % 5 != 2 || found.cached > 0, "the cache knows it");
            let wanted = Answer {
                cached: found.cached,
                ..wanted[i].clone()
            };
            assert_eq!(found, wanted, "prompt {i}, round {round}");
        }
    }
    assert!(many.stats().cache_hits > 0);
}

#[test]
fn texts_that_must_wait_for_memory_are_the_same() {
    let roomy = engine(EngineConfig::default());
    let bytes = roomy.state_bytes;
    let tight = engine(EngineConfig {
        kv_bytes: bytes[0] * 8,
        ..EngineConfig::default()
    });
    let make = |engine: &Engine, i: usize| request(engine, PROMPTS[i % 5], 150);
    let wanted: Vec<Answer> = (0..5).map(|i| answer(&roomy, make(&roomy, i))).collect();
    let streams: Vec<_> = (0..5).map(|i| tight.submit(make(&tight, i)).unwrap()).collect();
    for (i, stream) in streams.into_iter().enumerate() {
        let found = collect(stream).remove(&0).unwrap();
        assert_eq!(
            (&found.text, &found.ids, &found.logprobs),
            (&wanted[i].text, &wanted[i].ids, &wanted[i].logprobs)
        );
    }
    let error = tight
        .submit(request(&tight, &PROMPTS[2].repeat(8), 1).clone())
        .err();
    assert!(matches!(
        error,
        None | Some(EngineError::Memory { .. } | EngineError::ContextLength { .. })
    ));
}

#[test]
fn choices_share_a_prompt_and_differ_by_their_seeds() {
    let engine = engine(EngineConfig::default());
    let mut request = request(&engine, PROMPTS[0], 10);
    request.n = 4;
    request.sampling.temperature = 1.0;
    request.sampling.seed = Some(3);
    let first = collect(engine.submit(request.clone()).unwrap());
    assert_eq!(first.len(), 4);
    let texts: std::collections::BTreeSet<_> = first.values().map(|a| a.text.clone()).collect();
    assert!(texts.len() > 1);
    assert!(
        first
            .values()
            .all(|a| a.completion == 10 && a.reason == Some(StopReason::Length))
    );
    let strip = |answers: BTreeMap<usize, Answer>| answers.into_values().map(|a| a.ids).collect::<Vec<_>>();
    assert_eq!(strip(first), strip(collect(engine.submit(request).unwrap())));
}

#[test]
fn stops_end_the_text_where_they_should() {
    let engine = engine(EngineConfig::default());
    let whole = answer(&engine, request(&engine, PROMPTS[0], 24));
    assert!(
        whole.text.starts_with(" that you can use the borrow operator"),
        "{:?}",
        whole.text
    );
    for stop in ["e bor", "can", "operator", " "] {
        let mut with_stop = request(&engine, PROMPTS[0], 24);
        with_stop.stop = vec![stop.to_owned()];
        let found = answer(&engine, with_stop);
        let at = whole.text.find(stop).unwrap();
        assert_eq!(found.text, whole.text[..at]);
        assert_eq!(found.reason, Some(StopReason::StopText(stop.to_owned())));
    }
    let mut by_id = request(&engine, PROMPTS[0], 24);
    by_id.stop_token_ids = vec![whole.ids[3]];
    let found = answer(&engine, by_id.clone());
    assert_eq!(
        (found.ids.len(), found.reason),
        (3, Some(StopReason::StopToken(whole.ids[3])))
    );
    by_id.min_tokens = 6;
    assert!(answer(&engine, by_id).ids.len() >= 6);
    let mut bias = request(&engine, PROMPTS[0], 4);
    bias.sampling.logit_bias.insert(engine.eos_ids()[0], 1000.0);
    let found = answer(&engine, bias.clone());
    assert_eq!((found.text.as_str(), found.completion), ("", 1));
    bias.ignore_eos = true;
    let found = answer(&engine, bias);
    assert_eq!(
        (found.text.as_str(), found.reason),
        ("", Some(StopReason::Length))
    );
}

#[test]
fn prompts_have_probabilities_too() {
    let engine = engine(EngineConfig {
        prefill_tokens: 5,
        ..EngineConfig::default()
    });
    let whole = answer(&engine, request(&engine, PROMPTS[0], 6));
    let mut echo = request(&engine, PROMPTS[0], 0);
    echo.prompt.extend(&whole.ids);
    echo.prompt_logprobs = Some(2);
    let n = echo.prompt.len();
    let mut found = Vec::new();
    for event in engine.submit(echo).unwrap() {
        match event {
            Event::Prompt { logprobs, .. } => found = logprobs,
            Event::Finished { usage, .. } => assert_eq!(usage.completion_tokens, 0),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((found.len(), found[0].is_none()), (n, true));
    let of_answer: Vec<f32> = found[n - 6..]
        .iter()
        .map(|l| l.as_ref().unwrap().logprob)
        .collect();
    // Rows of a prompt come from kernels for many rows, which add up in another order.
    for (of_prompt, of_text) in of_answer.iter().zip(&whole.logprobs) {
        assert!((of_prompt - of_text).abs() < 1e-4, "{of_prompt} beside {of_text}");
    }
    assert_eq!(of_answer.len(), whole.logprobs.len());
    assert!(
        found[1..]
            .iter()
            .all(|l| l.as_ref().is_some_and(|l| l.top.len() == 2))
    );
}

#[test]
fn what_cannot_be_is_refused_at_once() {
    let engine = engine(EngineConfig {
        max_queue: 2,
        ..EngineConfig::default()
    });
    let error = engine.submit(Request::new(vec![])).unwrap_err();
    assert!(matches!(error, EngineError::Invalid { param: "prompt", .. }));
    let error = engine.submit(Request::new(vec![1; 512])).unwrap_err();
    assert_eq!(
        error,
        EngineError::ContextLength {
            prompt: 512,
            limit: 512
        }
    );
    let error = engine.submit(Request::new(vec![70_000])).unwrap_err();
    assert!(error.to_string().contains("70000"), "{error}");
    let mut bad = request(&engine, "x", 1);
    bad.sampling.temperature = -1.0;
    assert!(matches!(
        engine.submit(bad),
        Err(EngineError::Invalid {
            param: "temperature",
            ..
        })
    ));
    // Nobody listens: the first is dropped before the others are done.
    drop(engine.submit(request(&engine, PROMPTS[0], 400)).unwrap());
    assert_eq!(answer(&engine, request(&engine, PROMPTS[1], 3)).ids.len(), 3);
}

#[test]
fn grammars_hold() {
    let engine = engine(EngineConfig::default());
    let schema = serde_json::json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 7},
        "ok": {"type": "boolean"}}, "required": ["n", "ok"], "additionalProperties": false});
    let mut with_schema = request(&engine, PROMPTS[0], 60);
    with_schema.sampling.temperature = 1.0;
    for seed in 0..4 {
        with_schema.sampling.seed = Some(seed);
        with_schema.constraint = Some(engine.compile(&Grammar::JsonSchema(schema.clone())).unwrap());
        let found = answer(&engine, with_schema.clone());
        let json: serde_json::Value = serde_json::from_str(&found.text).unwrap();
        assert!(
            (3..=7).contains(&json["n"].as_i64().unwrap()) && json["ok"].is_boolean(),
            "{json}"
        );
    }
    let mut choice = request(&engine, PROMPTS[0], 20);
    choice.constraint = Some(
        engine
            .compile(&Grammar::Choice(vec![
                "yes, \"indeed\"".to_owned(),
                "no".to_owned(),
            ]))
            .unwrap(),
    );
    assert!(["yes, \"indeed\"", "no"].contains(&answer(&engine, choice.clone()).text.as_str()));
    choice.constraint = Some(
        engine
            .compile(&Grammar::Regex("[0-9]{3}-[a-f]{2}".to_owned()))
            .unwrap(),
    );
    let text = answer(&engine, choice.clone()).text;
    assert!(text.len() == 6 && text.as_bytes()[3] == b'-', "{text}");
    // Behind a word of the text that would have come anyway.
    let later = engine.compile(&Grammar::Regex("!{3}".to_owned())).unwrap();
    choice.constraint = Some(later.clone().beginning(Begin::After("can use".to_owned())));
    assert!(answer(&engine, choice.clone()).text.ends_with(" can use!!!"));
    choice.constraint = Some(later.beginning(Begin::Each("can use".to_owned())));
    let text = answer(&engine, choice).text;
    assert!(text.contains(" can use!!!") && !text.ends_with("!!!"), "{text}");
    for bad in [
        Grammar::JsonSchema(serde_json::json!({"type": "nonsense"})),
        Grammar::JsonSchema(serde_json::json!({"type": "object", "unevaluatedProperties": false})),
        Grammar::Regex("(".to_owned()),
        Grammar::Lark("start: missing".to_owned()),
        Grammar::Choice(vec![]),
    ] {
        assert!(engine.compile(&bad).is_err(), "{bad:?}");
    }
}
