//! The demo model, end to end.

use mlx_native::{DType, DeviceKind, MlxDevice};
use mlx_native_lm::engine::{Engine, EngineConfig};
use mlx_native_lm::{Model, ModelOptions};
use mlx_native_serve::{ModelSource, ServeConfig, ServedModel};
use serde_json::{Value, json};

use crate::client::{get, post};
use crate::script::{Running, run};

fn server() -> Running {
    let source = ModelSource {
        id: mlx_native_demo::NAME.to_owned(),
        aliases: Vec::new(),
        load: Box::new(|| {
            let make = || {
                let device = MlxDevice::open(DeviceKind::Cpu).map_err(mlx_native_lm::LmError::from)?;
                // In f32, in which a text does not depend on how it was cut.
                let options = ModelOptions {
                    dtype: Some(DType::F32),
                    ..ModelOptions::default()
                };
                let model = Model::from_files(&device, mlx_native_demo::files(), &options)?;
                ServedModel::of_engine(
                    mlx_native_demo::NAME,
                    Engine::start(model, EngineConfig::default())?,
                )
            };
            make().map_err(|e: mlx_native_lm::LmError| e.to_string())
        }),
    };
    run(vec![source], ServeConfig::default())
}

#[test]
fn the_demo_model_answers() {
    let server = server();
    let complete = |body: Value| post(server.address, "/v1/completions", &body);
    let prompt = "Ownership in Rust means";
    let reply = complete(json!({"prompt": prompt, "max_tokens": 12, "temperature": 0, "logprobs": 1}));
    let json = reply.json();
    let text = json["choices"][0]["text"].as_str().unwrap().to_owned();
    assert!(
        text.starts_with(" that you can use the borrow operator"),
        "{json}"
    );
    assert_eq!(json["choices"][0]["finish_reason"], "length");
    assert_eq!(
        json["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(),
        12
    );
    // The probability of a given text, as lm_eval asks for it.
    let ids = post(
        server.address,
        "/tokenize",
        &json!({"prompt": format!("{prompt}{text}")}),
    )
    .json()["tokens"]
        .clone();
    let n = ids.as_array().unwrap().len();
    let json = complete(json!({"prompt": [ids], "echo": true, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234})).json();
    let logprobs = json["choices"][0]["logprobs"]["token_logprobs"]
        .as_array()
        .unwrap();
    assert_eq!((logprobs.len(), logprobs[0].is_null()), (n + 1, true));
    assert!(logprobs[1..].iter().all(Value::is_number));
    // A form, a call that has to be made, and a prompt that is too long.
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["n"], "additionalProperties": false});
    let messages = json!([{"role": "user", "content": "Give a number."}]);
    let chat = |more: Value| {
        let mut body = json!({"messages": messages, "temperature": 1.0, "seed": 1, "max_tokens": 60});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        post(server.address, "/v1/chat/completions", &body)
    };
    let json = chat(json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}}})).json();
    let made: Value =
        serde_json::from_str(json["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert!((0..100).contains(&made["n"].as_i64().unwrap()), "{json}");
    let tool = json!({"type": "function", "function": {"name": "pick", "parameters": schema}});
    for choice in [
        json!("required"),
        json!({"type": "function", "function": {"name": "pick"}}),
    ] {
        let json = chat(json!({"tools": [tool], "tool_choice": choice, "parallel_tool_calls": false})).json();
        let call = &json["choices"][0]["message"]["tool_calls"][0]["function"];
        assert_eq!(call["name"], "pick", "{json}");
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["n"].is_number());
        assert_eq!(json["choices"][0]["finish_reason"], "tool_calls");
    }
    let reply = chat(
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "nonsense"}}}}),
    );
    assert_eq!(
        (reply.status, &reply.json()["error"]["param"]),
        (400, &json!("response_format"))
    );
    let reply = chat(json!({"messages": [{"role": "user", "content": "word ".repeat(600)}]}));
    assert_eq!(
        (reply.status, reply.json()["error"]["code"].as_str()),
        (400, Some("context_length_exceeded"))
    );
    assert!(
        get(server.address, "/metrics")
            .body
            .contains("mlx_native_generation_tokens_total")
    );
}

#[test]
fn what_real_clients_stumbled_over_stays_mended() {
    let server = server();
    let ask = |path: &str, body: Value| post(server.address, path, &body);
    // A weak model does not go on with calls, nor with properties that the schema does not name.
    let open = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["a"]});
    let tool = json!({"type": "function", "function": {"name": "add", "parameters": open}});
    for seed in 0..3 {
        let chat = json!({"messages": [{"role": "user", "content": "x"}], "tools": [tool], "tool_choice": "required", "temperature": 1.0,
            "seed": seed, "max_tokens": 80});
        let json = ask("/v1/chat/completions", chat).json();
        let choice = &json["choices"][0];
        assert_eq!(
            (
                &choice["finish_reason"],
                choice["message"]["tool_calls"].as_array().unwrap().len()
            ),
            (&json!("tool_calls"), 1),
            "{json}"
        );
        let arguments: Value = serde_json::from_str(
            choice["message"]["tool_calls"][0]["function"]["arguments"]
                .as_str()
                .unwrap(),
        )
        .unwrap();
        assert_eq!(arguments.as_object().unwrap().len(), 1, "{arguments}");
    }
    // Several prompts with several choices, as a stream and not.
    let mut body = json!({"prompt": ["fn main", "let x"], "n": 2, "max_tokens": 4, "temperature": 1.0, "seed": 3, "echo": true});
    let whole = ask("/v1/completions", body.clone()).json();
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let chunks = ask("/v1/completions", body).chunks();
    let mut texts = vec![String::new(); 4];
    for choice in chunks.iter().flat_map(|c| c["choices"].as_array().unwrap()) {
        texts[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    for (index, text) in texts.iter().enumerate() {
        assert_eq!(whole["choices"][index]["text"], json!(text));
    }
    assert_eq!(
        chunks.last().unwrap()["usage"]["prompt_tokens"],
        whole["usage"]["prompt_tokens"]
    );
    // Errors that name what is wrong, in the words that clients look for.
    for (path, body, param) in [
        ("/detokenize", json!({"tokens": [1, 99_999_999]}), "tokens[1]"),
        (
            "/v1/completions",
            json!({"prompt": "x", "structured_outputs": {"nope": 1}}),
            "structured_outputs",
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "return_token_ids": true}),
            "return_token_ids",
        ),
    ] {
        let reply = ask(path, body);
        assert_eq!(
            (reply.status, reply.json()["error"]["param"].as_str()),
            (400, Some(param)),
            "{}",
            reply.body
        );
    }
    let long = ask("/v1/completions", json!({"prompt": "word ".repeat(600)}));
    assert!(
        long.body
            .contains("This model's maximum context length is 512 tokens"),
        "{}",
        long.body
    );
    let tools =
        json!({"max_tokens": 4, "messages": [{"role": "user", "content": "x"}], "tools": [{"name": "x"}]});
    assert_eq!(ask("/v1/messages", tools).status, 400);
    let budget = json!({"max_tokens": 4, "messages": [{"role": "user", "content": "x"}], "thinking": {"type": "enabled", "budget_tokens": 9}});
    assert_eq!(ask("/v1/messages", budget).status, 400);
    let metrics = get(server.address, "/metrics").body;
    for name in [
        "spec_decode_num_draft_tokens_total",
        "spec_decode_num_accepted_tokens_total",
        "iteration_tokens_total_bucket",
    ] {
        assert!(metrics.contains(&format!("mlx_native_{name}")), "{name}");
    }
}
