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
