//! Every documented field of the interfaces: it reaches the engine, or it is refused by its name, or it is known to change no answer.
//! The lists are those of the clients openai 3.57 and anthropic 2.14, and of the servers whose extensions clients send.

use mlx_native_serve::ServeConfig;
use serde_json::{Value, json};

use crate::client::post;
use crate::script::{Running, Script, scripted};

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// The engine is asked for something else.
    Asked,
    /// The answer looks different.
    Shown,
    /// It is read: another value than one of its kind is refused by name.
    Read,
    /// Refused by name.
    Refused,
    /// Metadata, or a hint about the service: it changes no answer.
    Harmless,
}
use Fate::{Asked, Harmless, Read, Refused, Shown};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}\
{% if add_generation_prompt %}assistant: <think>\n{% endif %}{% if x is defined %}{{ x }}{% endif %}";

struct Try {
    server: Running,
    script: std::sync::Arc<Script>,
    path: &'static str,
    body: Value,
}

impl Try {
    fn new(path: &'static str, body: Value) -> Self {
        let (server, script) = scripted(Script::saying("Hello"), Some(TEMPLATE), ServeConfig::default());
        Try {
            server,
            script,
            path,
            body,
        }
    }

    /// What the engine was asked, and the answer without what differs each time.
    fn ask(&self, more: &Value) -> (u16, String, Value) {
        let mut body = self.body.clone();
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        *self.script.asked.lock().unwrap() = None;
        let reply = post(self.server.address, self.path, &body);
        let asked = format!("{:?}", self.script.asked.lock().unwrap().take());
        let mut json = match serde_json::from_str::<Value>(&reply.body) {
            Ok(json) => json,
            Err(_) => json!(reply.header("content-type")),
        };
        for key in ["id", "created", "created_at", "output"] {
            if let Some(map) = json.as_object_mut().filter(|_| key != "output") {
                map.remove(key);
            } else if let Some(items) = json.get_mut(key).and_then(Value::as_array_mut) {
                for item in items {
                    item.as_object_mut().unwrap().remove("id");
                }
            }
        }
        (reply.status, asked, json)
    }

    fn check(&self, field: &str, value: &Value, fate: Fate) {
        let plain = self.ask(&json!({}));
        assert_eq!(plain.0, 200, "{}", plain.2);
        let (status, asked, answer) = self.ask(&json!({ field: value }));
        let refused = |status: u16, answer: &Value| {
            let text = answer["error"]["message"].as_str().unwrap_or_default();
            status == 400 && text.starts_with(field)
        };
        let what = format!("{} {field}: {value}: {status} {answer}", self.path);
        match fate {
            Asked => assert!(status == 200 && asked != plain.1, "{what}"),
            Shown => assert!(status == 200 && asked == plain.1 && answer != plain.2, "{what}"),
            Refused => assert!(refused(status, &answer), "{what}"),
            Harmless => assert!(status == 200 && asked == plain.1, "{what}"),
            Read => assert!(refused(status, &answer) || status == 200, "{what}"),
        }
        if matches!(fate, Asked | Shown | Read) {
            // Nothing that is read takes a list of numbers in a list for its value.
            let (status, _, answer) = self.ask(&json!({ field: [[1.5]] }));
            assert!(
                refused(status, &answer),
                "{} {field}: [[1.5]]: {status} {answer}",
                self.path
            );
        }
    }
}

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}})
}

/// Fields of samplers, and extensions, that all interfaces share.
fn shared() -> Vec<(&'static str, Value, Fate)> {
    let mut fields = vec![
        ("temperature", json!(0.5), Asked),
        ("top_p", json!(0.5), Asked),
        ("top_k", json!(5), Asked),
        ("min_p", json!(0.1), Asked),
        ("seed", json!(5), Asked),
        ("frequency_penalty", json!(0.5), Asked),
        ("presence_penalty", json!(0.5), Asked),
        ("repetition_penalty", json!(1.5), Asked),
        ("repeat_penalty", json!(1.5), Asked),
        ("repetition_context_size", json!(7), Asked),
        ("xtc_probability", json!(0.5), Asked),
        ("xtc_threshold", json!(0.3), Asked),
        ("logit_bias", json!({"5": 1.0}), Asked),
        ("min_tokens", json!(2), Asked),
        ("ignore_eos", json!(true), Asked),
        ("stop_token_ids", json!([7]), Asked),
        ("allowed_token_ids", json!([7]), Asked),
        ("cache_prompt", json!(false), Asked),
        ("cache_salt", json!("a"), Asked),
        // The script has no grammars: it says so.
        ("structured_outputs", json!({"regex": "a"}), Read),
        ("guided_regex", json!("a"), Read),
        ("guided_json", json!({"type": "object"}), Read),
        ("json_schema", json!({"type": "object"}), Read),
        ("grammar", json!("start: \"a\""), Read),
        ("num_draft_tokens", json!(5), Harmless),
        ("user", json!("me"), Harmless),
        ("nobody_knows_it", json!({"a": 1}), Harmless),
    ];
    let refused = [
        ("audio", json!({"voice": "a"})),
        ("functions", json!([{"name": "f"}])),
        ("function_call", json!("auto")),
        ("suffix", json!("end")),
        ("moderation", json!({"a": 1})),
        ("web_search_options", json!({"a": 1})),
        ("use_beam_search", json!(true)),
        ("best_of", json!(3)),
        ("length_penalty", json!(0.5)),
        ("include_stop_str_in_output", json!(true)),
        ("skip_special_tokens", json!(false)),
        ("truncate_prompt_tokens", json!(10)),
        ("logits_processors", json!(["a"])),
        ("priority", json!(1)),
        ("bad_words", json!(["a"])),
        ("return_token_ids", json!(true)),
        ("return_tokens_as_token_ids", json!(true)),
        ("adapters", json!("a")),
        ("role_mapping", json!({"a": "b"})),
        ("draft_model", json!("a")),
        ("mirostat", json!(2)),
        ("typical_p", json!(0.9)),
        ("dry_multiplier", json!(0.8)),
        ("dynatemp_range", json!(0.5)),
        ("n_probs", json!(3)),
        ("id_slot", json!(1)),
        ("t_max_predict_ms", json!(100)),
        ("lora", json!([{"id": 0}])),
        ("timings_per_token", json!(true)),
        ("chat_template", json!("{{ 1 }}")),
    ];
    fields.extend(refused.map(|(name, value)| (name, value, Refused)));
    fields
}

/// Fields of the chats in OpenAI's manner.
fn thoughts() -> Vec<(&'static str, Value, Fate)> {
    vec![
        ("reasoning_effort", json!("low"), Asked),
        ("enable_thinking", json!(false), Asked),
        ("thinking_token_budget", json!(9), Asked),
        ("thinking_budget", json!(9), Asked),
        ("thinking_budget_tokens", json!(9), Asked),
        ("reasoning_budget", json!(0), Asked),
        ("reasoning", json!({"max_tokens": 9}), Asked),
        ("reasoning.exclude", json!(true), Harmless),
        ("thinking", json!({"type": "disabled"}), Asked),
        ("chat_template_kwargs", json!({"x": "y"}), Asked),
        ("documents", json!([{"text": "a"}]), Refused),
        ("include_reasoning", json!(false), Refused),
        ("verbosity", json!("low"), Refused),
        ("echo", json!(true), Refused),
        ("prompt_logprobs", json!(1), Refused),
        ("add_special_tokens", json!(true), Refused),
    ]
}

#[test]
fn fields_of_chats() {
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "tools": [tool()]});
    let server = Try::new("/v1/chat/completions", body);
    let own = [
        ("messages", json!([{"role": "user", "content": "ho"}]), Asked),
        ("model", json!("scripted"), Harmless),
        ("max_tokens", json!(9), Asked),
        ("max_completion_tokens", json!(9), Asked),
        ("n_predict", json!(-1), Harmless),
        ("modalities", json!(["audio"]), Refused),
        ("n", json!(2), Asked),
        ("logprobs", json!(true), Asked),
        ("top_logprobs", json!(2), Refused),
        ("parallel_tool_calls", json!(false), Read),
        ("response_format", json!({"type": "json_object"}), Read),
        ("stop", json!("x"), Asked),
        ("stream", json!(true), Shown),
        ("stream_options", json!({"include_usage": true}), Read),
        ("tool_choice", json!("none"), Asked),
        ("tools", json!([]), Asked),
        ("continue_final_message", json!(true), Asked),
        ("metadata", json!({"a": "b"}), Harmless),
        ("prediction", json!({"type": "content", "content": "a"}), Harmless),
        ("prompt_cache_key", json!("a"), Harmless),
        ("prompt_cache_options", json!({"mode": "explicit"}), Harmless),
        ("prompt_cache_retention", json!("24h"), Harmless),
        ("safety_identifier", json!("a"), Harmless),
        ("service_tier", json!("flex"), Harmless),
        ("store", json!(true), Harmless),
        ("verbosity", json!("medium"), Harmless),
    ];
    for (field, value, fate) in own.into_iter().chain(shared()).chain(thoughts()) {
        server.check(field, &value, fate);
    }
}

#[test]
fn fields_of_completions() {
    let server = Try::new("/v1/completions", json!({"prompt": "hi", "max_tokens": 20}));
    let own = [
        ("prompt", json!("ho"), Asked),
        ("max_tokens", json!(9), Asked),
        ("best_of", json!(1), Harmless),
        ("echo", json!(true), Shown),
        ("logprobs", json!(2), Asked),
        ("prompt_logprobs", json!(2), Asked),
        ("n", json!(2), Asked),
        ("stop", json!(["x"]), Asked),
        ("stream", json!(true), Shown),
        ("stream_options", json!({"include_usage": true}), Read),
        ("add_special_tokens", json!(false), Read),
        ("response_format", json!({"type": "json_object"}), Read),
        ("messages", json!([{"role": "user"}]), Refused),
        ("tools", json!([tool()]), Refused),
        ("thinking_token_budget", json!(5), Refused),
    ];
    for (field, value, fate) in own.into_iter().chain(shared()) {
        server.check(field, &value, fate);
    }
    let (status, _, answer) = server.ask(&json!({"stream": true, "prompt_logprobs": 1}));
    assert_eq!(
        (status, &answer["error"]["param"]),
        (400, &json!("prompt_logprobs"))
    );
}

#[test]
fn fields_of_responses() {
    let flat = json!({"type": "function", "name": "now", "parameters": {"type": "object"}});
    let body = json!({"input": "hi", "max_output_tokens": 20, "tools": [flat]});
    let server = Try::new("/v1/responses", body);
    let own = [
        ("input", json!("ho"), Asked),
        ("instructions", json!("be brief"), Asked),
        ("max_output_tokens", json!(9), Asked),
        ("include", json!(["message.output_text.logprobs"]), Asked),
        ("top_logprobs", json!(2), Asked),
        ("parallel_tool_calls", json!(false), Read),
        ("stream", json!(true), Shown),
        ("text", json!({"format": {"type": "text"}}), Read),
        ("tool_choice", json!("none"), Asked),
        ("tools", json!([]), Asked),
        ("previous_response_id", json!("resp_1"), Refused),
        ("conversation", json!("conv_1"), Refused),
        ("prompt", json!({"id": "p"}), Refused),
        ("background", json!(true), Refused),
        ("background_options", json!({"a": 1}), Refused),
        ("context_management", json!([{"type": "compaction"}]), Refused),
        ("access_programs", json!({"a": 1}), Refused),
        ("image", json!({"a": 1}), Refused),
        ("truncation", json!("auto"), Refused),
        ("truncation", json!("disabled"), Harmless),
        ("max_tool_calls", json!(3), Harmless),
        ("metadata", json!({"a": "b"}), Harmless),
        ("prompt_cache_key", json!("a"), Harmless),
        ("prompt_cache_options", json!({"a": 1}), Harmless),
        ("prompt_cache_retention", json!("24h"), Harmless),
        ("safety_identifier", json!("a"), Harmless),
        ("service_tier", json!("auto"), Harmless),
        ("store", json!(true), Harmless),
        ("stream_options", json!({"include_obfuscation": true}), Harmless),
    ];
    for (field, value, fate) in own.into_iter().chain(shared()).chain(thoughts()) {
        server.check(field, &value, fate);
    }
    for (value, param) in [
        (json!({"text": {"verbosity": "low"}}), "text.verbosity"),
        (json!({"reasoning": {"mode": "pro"}}), "reasoning.mode"),
        (
            json!({"reasoning": {"context": "all_turns"}}),
            "reasoning.context",
        ),
        (json!({"reasoning": {"effort": "much"}}), "reasoning.effort"),
        (json!({"reasoning": {"exclude": true}}), "reasoning.exclude"),
        (
            json!({"tool_choice": {"type": "file_search"}}),
            "tool_choice.type",
        ),
        (json!({"include": ["more"]}), "include"),
    ] {
        let (status, _, answer) = server.ask(&value);
        assert_eq!(
            (status, &answer["error"]["param"]),
            (400, &json!(param)),
            "{value}"
        );
    }
    for reasoning in [
        json!({"effort": "high", "summary": "auto"}),
        json!({"effort": null}),
    ] {
        assert_eq!(server.ask(&json!({ "reasoning": reasoning })).0, 200);
    }
    let more = json!({"include": ["message.output_text.logprobs"]});
    let answer = server.ask(&more).2;
    let text = &answer["output"].as_array().unwrap().last().unwrap();
    assert!(
        text["type"] == "message" || text["type"] == "reasoning",
        "{answer}"
    );
}

#[test]
fn fields_of_messages() {
    let tools = json!([{"name": "now", "input_schema": {"type": "object"}}]);
    let body = json!({"max_tokens": 20, "messages": [{"role": "user", "content": "hi"}], "tools": tools});
    let server = Try::new("/v1/messages", body);
    let named = |more: Value| {
        let mut tool = json!({"name": "now", "input_schema": {"type": "object"}});
        for (key, value) in more.as_object().unwrap() {
            tool[key] = value.clone();
        }
        json!({ "tools": [tool] })
    };
    let own = [
        ("max_tokens", json!(9), Asked),
        ("messages", json!([{"role": "user", "content": "ho"}]), Asked),
        ("model", json!("claude-haiku-4"), Harmless),
        ("stop_sequences", json!(["x"]), Asked),
        ("stream", json!(true), Shown),
        ("system", json!("be brief"), Asked),
        ("thinking", json!({"type": "enabled", "budget_tokens": 9}), Asked),
        ("tool_choice", json!({"type": "none"}), Asked),
        ("tools", json!([]), Asked),
        ("output_config", json!({"effort": "low"}), Asked),
        ("output_format", json!({"type": "text"}), Read),
        ("cache_control", json!({"type": "ephemeral"}), Harmless),
        ("inference_geo", json!("eu"), Harmless),
        ("metadata", json!({"user_id": "a"}), Harmless),
        ("service_tier", json!("auto"), Harmless),
        ("speed", json!("fast"), Harmless),
        ("user_profile_id", json!("a"), Harmless),
        ("workspace_id", json!("a"), Harmless),
        ("billing_policy", json!({"a": 1}), Harmless),
        ("betas", json!(["a"]), Harmless),
        (
            "context_management",
            json!({"edits": [{"type": "clear_thinking_20251015"}]}),
            Harmless,
        ),
        (
            "context_management",
            json!({"edits": [{"type": "clear_tool_uses_20250919"}]}),
            Refused,
        ),
        ("container", json!("a"), Refused),
        ("mcp_servers", json!([{"a": 1}]), Refused),
        ("compaction", json!({"a": 1}), Refused),
        ("thread", json!({"type": "create"}), Refused),
        ("fallbacks", json!(["a"]), Refused),
        ("diagnostics", json!({"a": 1}), Refused),
    ];
    let shared = shared().into_iter().filter(|(name, ..)| *name != "user");
    for (field, value, fate) in own.into_iter().chain(shared) {
        server.check(field, &value, fate);
    }
    for (more, name) in [
        (named(json!({"defer_loading": true})), "tools[0].defer_loading"),
        (named(json!({"input_examples": [{}]})), "tools[0].input_examples"),
        (
            named(json!({"allowed_callers": ["code"]})),
            "tools[0].allowed_callers",
        ),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 20}}),
            "thinking.budget_tokens",
        ),
        (
            json!({"thinking": {"type": "enabled", "display": "omitted"}}),
            "thinking.display",
        ),
        (json!({"thinking": {"type": "some"}}), "thinking.type"),
        (
            json!({"output_config": {"effort": "much"}}),
            "output_config.effort",
        ),
        (
            json!({"output_config": {"task_budget": {"a": 1}}}),
            "output_config.task_budget",
        ),
    ] {
        let (status, _, answer) = server.ask(&more);
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(
            status == 400 && message.starts_with(name),
            "{name}: {status} {answer}"
        );
    }
    assert_eq!(
        server
            .ask(&named(
                json!({"cache_control": {"type": "ephemeral"}, "allowed_callers": ["direct"]})
            ))
            .0,
        200
    );
}

#[test]
fn allowed_tools_are_all_that_there_are() {
    let other = json!({"type": "function", "function": {"name": "other"}});
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "tools": [tool(), other]});
    let server = Try::new("/v1/chat/completions", body.clone());
    let choice = |tools: Value, mode: &str| json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}});
    let one = json!([{"type": "function", "function": {"name": "now"}}]);
    let some = server.ask(&choice(one.clone(), "auto")).1;
    assert_eq!(some, server.ask(&json!({ "tools": [tool()] })).1);
    assert_ne!(some, server.ask(&json!({})).1);
    let unknown = json!([{"type": "function", "function": {"name": "none"}}]);
    for wrong in [
        choice(unknown, "auto"),
        choice(one, "all"),
        choice(json!(null), "auto"),
    ] {
        assert_eq!(server.ask(&wrong).0, 400, "{wrong}");
    }
}

#[test]
fn budgets_reach_the_engine() {
    let thinking = |more: Value, template: &'static str| {
        let (server, script) = scripted(Script::saying("Hello"), Some(template), ServeConfig::default());
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 50});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        assert_eq!(
            post(server.address, "/v1/chat/completions", &body).status,
            200,
            "{more}"
        );
        let request = script.asked.lock().unwrap().take().unwrap();
        request.thinking.map(|t| {
            let ending = crate::script::tokenizer(None).decode(&t.ending, false).unwrap();
            (t.budget, t.is_open, ending)
        })
    };
    const OPEN: &str = "{{ messages[0].content }}<think>\n";
    const SHUT: &str = "{{ messages[0].content }}{% if not enable_thinking %}<think></think>{% endif %}";
    const WORDS: &str = "{{ messages[0].content }}{{ reasoning_effort }}<think>";
    let ending = || "\n</think>\n\n".to_owned();
    assert_eq!(thinking(json!({}), OPEN), Some((None, true, String::new())));
    assert_eq!(
        thinking(json!({"thinking_budget": 7}), OPEN),
        Some((Some(7), true, ending()))
    );
    assert_eq!(
        thinking(json!({"thinking_budget": -1}), OPEN),
        Some((None, true, String::new()))
    );
    assert_eq!(
        thinking(json!({"thinking_budget": 7, "enable_thinking": true}), SHUT),
        Some((Some(7), false, ending()))
    );
    assert_eq!(
        thinking(json!({"enable_thinking": false}), OPEN),
        Some((Some(0), true, ending()))
    );
    assert_eq!(
        thinking(json!({"enable_thinking": false}), SHUT),
        None,
        "the template has closed it"
    );
    assert_eq!(
        thinking(json!({"reasoning_effort": "low"}), OPEN),
        Some((Some(1024), true, ending()))
    );
    assert_eq!(
        thinking(json!({"reasoning_effort": "high"}), OPEN),
        Some((None, true, String::new()))
    );
    assert_eq!(
        thinking(json!({"reasoning_effort": "none"}), OPEN),
        Some((Some(0), true, ending()))
    );
    assert_eq!(
        thinking(json!({"reasoning_effort": "low"}), WORDS),
        Some((None, true, String::new())),
        "the template tells the model"
    );
    assert_eq!(
        thinking(json!({"thinking_budget": 7}), "{{ messages[0].content }}"),
        None,
        "nothing to limit"
    );
}
