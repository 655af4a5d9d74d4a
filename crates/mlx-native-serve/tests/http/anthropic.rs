//! Anthropic's and Ollama's interfaces.

use mlx_native_serve::ServeConfig;
use serde_json::{Value, json};

use crate::client::{get, post};
use crate::script::{Script, saying, scripted};

#[test]
fn messages() {
    let server = saying("Hello <b>");
    let body = json!({"model": "claude-haiku-4", "max_tokens": 50, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]});
    let json = post(server.address, "/v1/messages?beta=true", &body).json();
    assert_eq!(
        (&json["type"], &json["model"]),
        (&json!("message"), &json!("claude-haiku-4"))
    );
    assert_eq!(json["content"], json!([{"type": "text", "text": "Hello <b>"}]));
    assert_eq!(json["stop_reason"], "end_turn");
    let [input, cached] =
        ["input_tokens", "cache_read_input_tokens"].map(|k| json["usage"][k].as_u64().unwrap());
    assert_eq!(cached, 2);
    let counted = post(server.address, "/v1/messages/count_tokens", &body).json()["input_tokens"]
        .as_u64()
        .unwrap();
    assert_eq!(input + cached, counted);
    let mut stream = body.clone();
    stream["stream"] = json!(true);
    let events = post(server.address, "/v1/messages", &stream).events();
    let names: Vec<&str> = events
        .iter()
        .map(|(n, _)| n.as_str())
        .filter(|n| *n != "ping")
        .collect();
    assert_eq!(
        names[..3],
        ["message_start", "content_block_start", "content_block_delta"]
    );
    assert_eq!(
        names[names.len() - 3..],
        ["content_block_stop", "message_delta", "message_stop"]
    );
    let mut without = body;
    without.as_object_mut().unwrap().remove("max_tokens");
    let reply = post(server.address, "/v1/messages", &without);
    assert_eq!((reply.status, &reply.json()["type"]), (400, &json!("error")));
}

#[test]
fn calls_are_blocks() {
    let text = "I look.\n<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}</tool_call>";
    let (server, script) = scripted(Script::saying(text), None, ServeConfig::default());
    let body = json!({"model": "scripted", "max_tokens": 50, "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
    "system": [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"}, {"type": "text", "text": "be brief"}],
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]}]},
    ]});
    let json = post(server.address, "/v1/messages", &body).json();
    assert_eq!(json["stop_reason"], "tool_use");
    assert_eq!(json["content"][0], json!({"type": "text", "text": "I look."}));
    let call = &json["content"][1];
    assert_eq!(
        (&call["type"], &call["name"], &call["input"]),
        (&json!("tool_use"), &json!("weather"), &json!({"city": "Oslo"}))
    );
    let prompt = script.asked.lock().unwrap().as_ref().unwrap().prompt.clone();
    let prompt = crate::script::tokenizer(None).decode(&prompt, false).unwrap();
    assert!(
        prompt.contains("be brief") && prompt.contains("sunny") && !prompt.contains("billing"),
        "{prompt}"
    );
    let mut stream = body;
    stream["stream"] = json!(true);
    let events = post(server.address, "/v1/messages", &stream).events();
    let parts: String = events
        .iter()
        .filter_map(|(_, d)| d["delta"]["partial_json"].as_str())
        .collect();
    assert_eq!(
        serde_json::from_str::<Value>(&parts).unwrap(),
        json!({"city": "Oslo"})
    );
}

#[test]
fn ollama() {
    let server = saying("Hello there");
    let lines = |path: &str, body: Value| -> Vec<Value> {
        let reply = post(server.address, path, &body);
        assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
        reply
            .body
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    };
    let chat = lines(
        "/api/chat",
        json!({"model": "scripted:latest", "messages": [{"role": "user", "content": "hi"}]}),
    );
    let text: String = chat
        .iter()
        .filter_map(|l| l["message"]["content"].as_str())
        .collect();
    assert_eq!(text, "Hello there");
    let last = chat.last().unwrap();
    assert_eq!(
        (&last["done"], &last["done_reason"], &last["eval_count"]),
        (&json!(true), &json!("stop"), &json!(4))
    );
    assert!(chat[..chat.len() - 1].iter().all(|l| l["done"] == false));
    let whole = post(
        server.address,
        "/api/generate",
        &json!({"model": "scripted", "prompt": "hi", "stream": false, "options": {"num_predict": 5}}),
    )
    .json();
    assert_eq!(
        (&whole["response"], &whole["done"]),
        (&json!("Hello there"), &json!(true))
    );
    assert_eq!(
        get(server.address, "/api/tags").json()["models"][0]["name"],
        "org/scripted"
    );
    assert!(get(server.address, "/api/version").json()["version"].is_string());
    assert_eq!(
        post(server.address, "/api/show", &json!({"model": "scripted"})).status,
        200
    );
    let reply = post(
        server.address,
        "/api/chat",
        &json!({"model": "none", "messages": []}),
    );
    assert_eq!((reply.status, reply.json()["error"].is_string()), (404, true));
}
