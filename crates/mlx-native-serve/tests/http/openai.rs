//! Chats, completions, models, responses.

use mlx_native_lm::engine::StopReason;
use mlx_native_serve::ServeConfig;
use serde_json::{Value, json};

use crate::client::{get, post};
use crate::script::{Script, saying, scripted};

fn hello() -> Value {
    json!({"model": "org/scripted", "messages": [{"role": "user", "content": "hi"}]})
}

fn with(mut body: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

const WEATHER: &str = r#"{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}"#;

#[test]
fn a_chat() {
    let server = saying("Grüße, Welt!");
    let reply = post(server.address, "/v1/chat/completions", &hello());
    assert_eq!(reply.status, 200);
    let json = reply.json();
    assert_eq!(json["choices"][0]["message"]["content"], "Grüße, Welt!");
    assert_eq!(json["choices"][0]["finish_reason"], "stop");
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["usage"]["completion_tokens"], 4);
    assert_eq!(json["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
    assert!(reply.header("x-request-id").is_some());
    // Fields that clients leave unset come as null, and what nobody knows is no error.
    let nulls = json!({"temperature": null, "stop": null, "n": null, "tools": null, "tool_choice": null, "logit_bias": null,
        "response_format": null, "max_tokens": null, "seed": null, "stream": null, "user": "me", "metadata": {"a": "b"}, "store": false, "what": 1});
    assert_eq!(
        post(server.address, "/chat/completions", &with(hello(), nulls)).status,
        200
    );
}

#[test]
fn a_stream_to_the_letter() {
    let server = saying("Grüße, Welt!");
    let body = with(
        hello(),
        json!({"stream": true, "n": 2, "stream_options": {"include_usage": true}}),
    );
    let reply = post(server.address, "/v1/chat/completions", &body);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    let chunks = reply.chunks();
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    let (last, rest) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 8);
    for index in 0..2 {
        let own: Vec<&Value> = rest
            .iter()
            .map(|c| &c["choices"][0])
            .filter(|c| c["index"] == index)
            .collect();
        let text: String = own
            .iter()
            .filter_map(|c| c["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, "Grüße, Welt!");
        let (end, before) = own.split_last().unwrap();
        assert_eq!(
            (end["finish_reason"].as_str(), &end["delta"]),
            (Some("stop"), &json!({}))
        );
        assert!(before.iter().all(|c| c["finish_reason"].is_null()));
    }
    assert!(
        rest.iter()
            .all(|c| c["usage"].is_null() && c["id"] == last["id"] && c.get("usage").is_some())
    );
    for options in [
        json!(null),
        json!({}),
        json!({"include_usage": false}),
        json!({"include_usage": null}),
    ] {
        let body = with(hello(), json!({"stream": true, "stream_options": options}));
        let chunks = post(server.address, "/v1/chat/completions", &body).chunks();
        assert!(
            chunks
                .iter()
                .all(|c| c.get("usage").is_none() && c["choices"][0].is_object())
        );
    }
}

#[test]
fn usage_so_far_in_every_chunk() {
    let server = saying("Grüße, Welt!");
    let options =
        json!({"stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let chat = post(
        server.address,
        "/v1/chat/completions",
        &with(hello(), options.clone()),
    )
    .chunks();
    let text = with(json!({"prompt": "hi"}), options);
    for chunks in [chat, post(server.address, "/v1/completions", &text).chunks()] {
        let told: Vec<[u64; 2]> = (chunks.iter())
            .map(|c| ["prompt_tokens", "completion_tokens"].map(|k| c["usage"][k].as_u64().unwrap()))
            .collect();
        assert!(
            told.windows(2).all(|w| w[0][1] <= w[1][1] && w[0][0] == w[1][0]),
            "{told:?}"
        );
        assert_eq!(told.last().unwrap()[1], 4);
        assert!(told.iter().any(|t| t[1] == 2) && told[0][0] > 0, "{told:?}");
    }
}

#[test]
fn calls_of_tools() {
    let text =
        "I look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";
    let server = saying(text);
    let tool: Value = serde_json::from_str(WEATHER).unwrap();
    // Without a grammar the script can say what it likes.
    let body = with(hello(), json!({"tools": [tool]}));
    let json = post(server.address, "/v1/chat/completions", &body).json();
    let message = &json["choices"][0]["message"];
    assert_eq!(json["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(message["content"], "I look.");
    assert_eq!(
        message["tool_calls"][0]["function"],
        json!({"name": "weather", "arguments": "{\"city\": \"Oslo\"}"})
    );
    let chunks = post(
        server.address,
        "/v1/chat/completions",
        &with(body.clone(), json!({"stream": true})),
    )
    .chunks();
    let deltas: Vec<&Value> = chunks
        .iter()
        .filter_map(|c| c["choices"][0]["delta"].get("tool_calls"))
        .map(|c| &c[0])
        .collect();
    assert_eq!(
        (&deltas[0]["index"], &deltas[0]["type"]),
        (&json!(0), &json!("function"))
    );
    assert_eq!(deltas[0]["function"], json!({"name": "weather", "arguments": ""}));
    let arguments: String = deltas[1..]
        .iter()
        .filter_map(|d| d["function"]["arguments"].as_str())
        .collect();
    assert_eq!(arguments, "{\"city\": \"Oslo\"}");
    assert!(deltas.len() > 3, "arguments flow while they are written");
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "tool_calls"
    );
    // No tools, or none wanted: the text is text.
    for more in [json!({}), json!({"tools": [tool], "tool_choice": "none"})] {
        let json = post(server.address, "/v1/chat/completions", &with(hello(), more)).json();
        assert_eq!(json["choices"][0]["message"]["content"], text);
        assert_eq!(json["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn what_is_thought() {
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> #}";
    let (server, _) = scripted(
        Script::saying("\nHm.\n</think>\n\nYes."),
        Some(template),
        ServeConfig::default(),
    );
    let json = post(server.address, "/v1/chat/completions", &hello()).json();
    assert_eq!(json["choices"][0]["message"]["reasoning_content"], "Hm.");
    assert_eq!(json["choices"][0]["message"]["content"], "Yes.");
}

#[test]
fn wrong_requests_name_the_field() {
    let (server, script) = scripted(Script::saying("x"), None, ServeConfig::default());
    let cases = [
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"top_p": 1.5}), "top_p"),
        (json!({"n": 0}), "n"),
        (json!({"n": 33}), "n"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"stop": 7}), "stop"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias"),
        (json!({"logit_bias": [1]}), "logit_bias"),
        (json!({"top_logprobs": 21, "logprobs": true}), "top_logprobs"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "hi"}), "messages"),
        (
            json!({"messages": [{"role": "king", "content": "x"}]}),
            "messages[0].role",
        ),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            "messages[0].content[0].type",
        ),
        (json!({"tools": [{"type": "function"}]}), "tools[0].name"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "f"}}}),
            "tool_choice",
        ),
        (
            json!({"response_format": {"type": "xml"}}),
            "response_format.type",
        ),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema.schema",
        ),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"stream": "yes"}), "stream"),
    ];
    for (more, param) in cases {
        let reply = post(
            server.address,
            "/v1/chat/completions",
            &with(hello(), more.clone()),
        );
        let json = reply.json();
        assert_eq!(
            (reply.status, &json["error"]["param"]),
            (400, &json!(param)),
            "{more}: {json}"
        );
        assert_eq!(json["error"]["type"], "invalid_request_error");
        assert!(
            json["error"]["message"]
                .as_str()
                .unwrap()
                .contains(param.split(['.', '[']).next().unwrap())
        );
    }
    assert!(
        script.asked.lock().unwrap().is_none(),
        "none of them came to the engine"
    );
    let reply = post(
        server.address,
        "/v1/chat/completions",
        &with(hello(), json!({"model": "gpt-9"})),
    );
    assert_eq!(
        (reply.status, reply.json()["error"]["code"].as_str()),
        (404, Some("model_not_found"))
    );
    for body in ["", "{", "[]", "nonsense", &"[".repeat(100_000)] {
        let reply = crate::client::send(server.address, "POST", "/v1/chat/completions", &[], body);
        assert_eq!(reply.status, 400, "{body:.20}");
    }
    assert_eq!(post(server.address, "/v1/chat/completions", &hello()).status, 200);
}

#[test]
fn what_is_asked_reaches_the_engine() {
    let (server, script) = scripted(Script::saying("x"), None, ServeConfig::default());
    let body = with(
        hello(),
        json!({"temperature": 0.5, "top_k": -1, "min_p": 0.1, "seed": -3, "stop": ["a", "b"], "logit_bias": {"5": -100},
            "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1, "min_tokens": 3, "ignore_eos": true,
            "stop_token_ids": [7], "logprobs": true, "top_logprobs": 4, "max_completion_tokens": 9, "max_tokens": 5}),
    );
    assert_eq!(post(server.address, "/v1/chat/completions", &body).status, 200);
    let asked = script.asked.lock().unwrap().clone().unwrap();
    assert_eq!(
        (asked.max_tokens, asked.min_tokens, asked.ignore_eos),
        (Some(9), 3, true)
    );
    assert_eq!(
        (asked.stop, asked.stop_token_ids, asked.logprobs),
        (vec!["a".to_owned(), "b".to_owned()], vec![7], Some(4))
    );
    let s = asked.sampling;
    assert_eq!(
        (s.temperature, s.top_k, s.min_p, s.seed),
        (0.5, 0, 0.1, Some(-3i64 as u64))
    );
    assert_eq!(
        (s.presence_penalty, s.frequency_penalty, s.repetition_penalty),
        (Some(0.5), Some(-0.5), Some(1.1))
    );
    assert_eq!(s.logit_bias.get(&5), Some(&-100.0));
}

#[test]
fn completions_of_every_form_of_prompt() {
    let (server, script) = scripted(Script::saying(" and so on"), None, ServeConfig::default());
    let complete = |more: Value| {
        post(
            server.address,
            "/v1/completions",
            &with(json!({"model": "scripted"}), more),
        )
    };
    for (prompt, n) in [
        (json!("a text"), 1),
        (json!(["one", "two", "three"]), 3),
        (json!([5, 6, 7]), 1),
        (json!([[5, 6], [7]]), 2),
    ] {
        let reply = complete(json!({"prompt": prompt}));
        let json = reply.json();
        assert_eq!(reply.status, 200, "{json}");
        let choices = json["choices"].as_array().unwrap();
        assert_eq!(choices.len(), n, "{prompt}");
        assert!(
            choices
                .iter()
                .enumerate()
                .all(|(i, c)| c["index"] == i && c["text"] == " and so on")
        );
        let chunks = complete(json!({"prompt": prompt, "stream": true})).chunks();
        for index in 0..n {
            let text: String = (chunks.iter().map(|c| &c["choices"][0]))
                .filter(|c| c["index"] == index)
                .filter_map(|c| c["text"].as_str())
                .collect();
            assert_eq!(text, " and so on");
        }
    }
    assert_eq!(
        script.asked.lock().unwrap().as_ref().unwrap().max_tokens,
        Some(16)
    );
    let json = complete(json!({"prompt": "ab", "echo": true, "logprobs": 0})).json();
    assert_eq!(json["choices"][0]["text"], "ab and so on");
    let lists = &json["choices"][0]["logprobs"];
    assert!(lists["token_logprobs"][0].is_null());
    assert_eq!(
        lists["tokens"].as_array().unwrap().len(),
        lists["text_offset"].as_array().unwrap().len()
    );
    for (more, param) in [
        (json!({"prompt": ""}), "prompt"),
        (json!({}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": [1, "a"]}), "prompt"),
        (json!({"prompt": {"a": 1}}), "prompt"),
        (json!({"prompt": "x", "suffix": "y"}), "suffix"),
        (json!({"prompt": "x", "logprobs": 99}), "logprobs"),
        (json!({"prompt": "x", "best_of": 3}), "best_of"),
    ] {
        let reply = complete(more.clone());
        assert_eq!(
            (reply.status, &reply.json()["error"]["param"]),
            (400, &json!(param)),
            "{more}"
        );
    }
}

#[test]
fn models_and_others() {
    let server = saying("x");
    let json = get(server.address, "/v1/models").json();
    assert_eq!(json["data"][0]["id"], "org/scripted");
    for path in [
        "/v1/models/org/scripted",
        "/v1/models/org%2Fscripted",
        "/models/scripted",
    ] {
        assert_eq!(get(server.address, path).json()["id"], "org/scripted", "{path}");
    }
    assert_eq!(get(server.address, "/v1/models/none").status, 404);
    let tokens = post(server.address, "/tokenize", &json!({"prompt": "fn main() {}"})).json();
    let ids = &tokens["tokens"];
    assert!(ids.as_array().unwrap().len() > 1);
    assert_eq!(
        post(server.address, "/detokenize", &json!({"tokens": ids})).json()["prompt"],
        "fn main() {}"
    );
    let reply = post(server.address, "/v1/embeddings", &json!({"input": "x"}));
    assert_eq!(reply.status, 400);
}

#[test]
fn responses() {
    let mut script = Script::saying("Hello there");
    script.reason = StopReason::Length;
    let (server, _) = scripted(script, None, ServeConfig::default());
    let body = json!({"model": "scripted", "input": "hi", "instructions": "be kind"});
    let json = post(server.address, "/v1/responses", &body).json();
    assert_eq!(
        (json["status"].as_str(), json["object"].as_str()),
        (Some("incomplete"), Some("response"))
    );
    assert_eq!(json["output"][0]["content"][0]["text"], "Hello there");
    let events = post(
        server.address,
        "/v1/responses",
        &with(body, json!({"stream": true})),
    )
    .events();
    let names: Vec<&str> = events.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(
        names[..4],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added"
        ]
    );
    assert_eq!(names.last(), Some(&"response.incomplete"));
    for (index, (name, data)) in events.iter().enumerate() {
        assert_eq!(
            (&data["sequence_number"], &data["type"]),
            (&json!(index), &json!(name))
        );
    }
    let text: String = events
        .iter()
        .filter(|(n, _)| n == "response.output_text.delta")
        .filter_map(|(_, d)| d["delta"].as_str())
        .collect();
    assert_eq!(text, "Hello there");
}
