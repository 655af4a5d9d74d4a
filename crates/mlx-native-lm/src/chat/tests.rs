use serde_json::{Value, json};

use super::*;

/// Texts that Python's jinja2 made: see `tools/golden_chat.py`.
const CASES: &str = include_str!("golden/cases.json");
const TEMPLATES: [(&str, &str); 5] = [
    ("chatml.jinja", include_str!("golden/chatml.jinja")),
    ("llama3.jinja", include_str!("golden/llama3.jinja")),
    ("mistral.jinja", include_str!("golden/mistral.jinja")),
    ("qwen3.jinja", include_str!("golden/qwen3.jinja")),
    ("features.jinja", include_str!("golden/features.jinja")),
];

fn template(source: &str) -> ChatTemplate {
    let tokens = [
        ("bos_token", "<s>"),
        ("eos_token", "</s>"),
        ("pad_token", "<pad>"),
    ];
    ChatTemplate::new(source, tokens.map(|(a, b)| (a.to_owned(), b.to_owned())).into()).unwrap()
}

fn named(name: &str) -> ChatTemplate {
    template(TEMPLATES.iter().find(|(n, _)| *n == name).unwrap().1)
}

fn messages(list: &Value) -> Vec<ChatMessage> {
    let message = |value: &Value| {
        let mut other = value.as_object().unwrap().clone();
        let mut take = |key| other.remove(key).unwrap().as_str().unwrap().to_owned();
        ChatMessage {
            role: take("role"),
            content: take("content"),
            other,
        }
    };
    list.as_array().unwrap().iter().map(message).collect()
}

fn user(text: &str) -> Vec<ChatMessage> {
    vec![ChatMessage::new("user", text)]
}

fn render(source: &str) -> Result<String> {
    template(source).render(&user("hello"), &ChatOptions::default())
}

/// What is wrong with a template, found when it is compiled or when it runs.
#[track_caller]
fn refused(source: &str, words: &[&str]) {
    let error = ChatTemplate::new(source, Vec::new())
        .and_then(|t| t.render(&user("hello"), &ChatOptions::default()))
        .unwrap_err()
        .to_string();
    assert!(error.lines().count() == 1 && error.len() < 500, "{error}");
    for word in words {
        assert!(error.contains(word), "{error:?} does not mention {word:?}");
    }
}

#[test]
fn texts_equal_those_of_python() {
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let options = ChatOptions {
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
            continue_final_message: false,
            variables: case["variables"].as_object().unwrap().clone(),
            local_time: case["now"].as_i64(),
        };
        let name = case["template"].as_str().unwrap();
        let found = named(name).render(&messages(&case["messages"]), &options);
        match case["text"].as_str() {
            Some(text) => assert_eq!(found.unwrap(), text, "{name}"),
            None => {
                let (error, raises) = (found.unwrap_err().to_string(), case["raises"].as_str().unwrap());
                assert!(
                    error.contains(raises) && error.contains("line "),
                    "{name}: {error:?}, wanted {raises:?}"
                );
            }
        }
    }
}

#[test]
fn the_last_message_is_continued() {
    let mut chat = user("Hi");
    chat.push(ChatMessage::new("assistant", "Sure, "));
    let options = ChatOptions {
        continue_final_message: true,
        ..Default::default()
    };
    let text = named("chatml.jinja").render(&chat, &options).unwrap();
    assert!(text.ends_with("<|im_start|>assistant\nSure, "), "{text:?}");
    // This one strips what the assistant says.
    let text = named("mistral.jinja").render(&chat, &options).unwrap();
    assert_eq!(text, "<s>[INST] Hi[/INST] Sure,");

    assert!(
        named("chatml.jinja")
            .render(&[], &options)
            .unwrap_err()
            .to_string()
            .contains("no message")
    );
    let error = template("{{ messages[0].content }}")
        .render(&chat, &options)
        .unwrap_err();
    assert!(
        error.to_string().contains("leaves the last message out"),
        "{error}"
    );
}

#[test]
fn errors_name_the_line_and_what_is_undefined() {
    refused("a\nb\n{{ message.content.x }}", &["line 3", "message"]);
    refused(
        "{% for m in messages %}\n{{ m.x.y }}{% endfor %}",
        &["line 2", "m.x"],
    );
    refused("\n{% if %}", &["chat template: line 2", "syntax error"]);
    refused("{% for m in messages %}", &["line 1"]);
    refused("\n\n{{ nothing() }}", &["line 3", "nothing"]);
    refused("{{ 'a'|nothing }}", &["line 1", "nothing"]);
    refused("{% include 'other' %}", &["line 1"]);
    refused(
        "\n{{ raise_exception('no\nway') }}",
        &["line 2: the template says: no way"],
    );
    refused("{{ raise_exception('x' * 100000) }}", &["line 1", "…"]);
    refused("{{ strftime_now('%Q') }}", &["line 1", "%Q"]);
    refused("{{ {'a': raise_exception}|tojson }}", &["line 1", "tojson"]);
    refused("{{ 'a'|tojson(nothing=1) }}", &["line 1", "nothing"]);
    refused("{{ 'a'|tojson(indent=99999999) }}", &["line 1", "indent"]);
    refused("{{ debug() }}", &["debug"]);
    refused("{{ 1|pprint }}", &["pprint"]);
    refused(&"x".repeat(MAX_TEMPLATE + 1), &["262145 bytes"]);
}

#[test]
fn hostile_templates_run_out_of_steps() {
    let words = ["steps"];
    let forever = "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}";
    refused(forever, &words);
    refused(&format!("\n{forever}"), &["line 2"]);
    refused("{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}", &words);
    refused("{{ 'x' * 99999999999 }}", &words);
    let growing =
        "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = MORE %}{% endfor %}SHOW";
    let grow = |start: &str, more: &str, show: &str| {
        growing
            .replace("START", start)
            .replace("MORE", more)
            .replace("SHOW", show)
    };
    refused(&grow("'ab'", "ns.x ~ ns.x", ""), &words);
    refused(&grow("'ab'", "ns.x.replace('a', ns.x)", ""), &words);
    // A list that is in itself twice, at each of 99 levels, takes little memory and would make an endless text.
    refused(&grow("[1]", "[ns.x, ns.x]", "{{ ns.x|tojson }}"), &words);
    // And comparing two of them ends with the time.
    let twins = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}";
    refused(&format!("{twins}{{{{ ns.x == ns.y }}}}"), &["5 seconds"]);
}

#[test]
fn deep_recursion_ends_in_an_error() {
    refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", &["recursion"]);
    refused(
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        &["recursion"],
    );
    refused(
        &format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000)),
        &["line 1"],
    );
    refused(
        &format!("{}{}", "{% if 1 %}".repeat(10_000), "{% endif %}".repeat(10_000)),
        &["line 1"],
    );
    let deep = "{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}";
    refused(&format!("{deep}{{{{ ns.x|tojson }}}}"), &["levels"]);
}

/// Values nested as deeply as the budget allows do not overflow the stack when something walks through them.
#[test]
fn deep_values_do_not_end_the_process() {
    let nest = |open: &str, close: &str, of: &str| format!("{}ns.{of}{}", open.repeat(60), close.repeat(60));
    for (open, close) in [("[", "]"), ("{'a':", "}"), ("(", ",)")] {
        for show in [
            "{{ ns.x }}",
            "{{ ns.x == ns.y }}",
            "{{ [ns.x, ns.y]|sort|length }}",
            "{{ ns.x|string|length }}",
        ] {
            let mut done = false;
            for rounds in [6000, 3000, 1500, 800, 400] {
                let (x, y) = (nest(open, close, "x"), nest(open, close, "y"));
                let source = format!(
                    "{{% set ns = namespace(x=[], y=[]) %}}{{% for i in range({rounds}) %}}{{% set ns.x = {x} %}}{{% set ns.y = {y} %}}{{% endfor %}}{show}"
                );
                done |= render(&source).is_ok();
            }
            assert!(done, "{open} {show}: no depth fits the budget");
        }
    }
}

#[test]
fn variables_are_the_callers_but_for_those_with_a_meaning() {
    let mut options = ChatOptions::default();
    options.variables.insert("bos_token".to_owned(), json!("[BOS]"));
    options
        .variables
        .insert("n".to_owned(), json!({"b": [1, 2.5, null], "a": true}));
    let shown = template("{{ bos_token }}{{ pad_token }}{{ n }}{{ tools }}").render(&user(""), &options);
    assert_eq!(shown.unwrap(), "[BOS]<pad>{'b': [1, 2.5, None], 'a': True}None");
    options.variables.insert("messages".to_owned(), json!([]));
    assert!(
        template("")
            .render(&user(""), &options)
            .unwrap_err()
            .to_string()
            .contains("variable messages")
    );
}

#[test]
fn long_prompts_fit_the_budget() {
    let text = "words and words ".repeat(1 << 16);
    let options = ChatOptions {
        add_generation_prompt: true,
        ..Default::default()
    };
    for (name, _) in &TEMPLATES[..4] {
        let shown = named(name).render(&user(&text), &options).unwrap();
        assert!(shown.len() >= text.trim().len());
    }
    let error = render("{% set x = 'x' * 900000 %}{% for i in range(20) %}{{ x }}{% endfor %}")
        .unwrap_err()
        .to_string();
    assert!(error.contains("18000000 bytes"), "{error}");
}

#[test]
fn dates_are_those_of_the_calendar() {
    let show = |seconds| time::strftime("%F %T %a %j", Some(seconds)).unwrap();
    for (seconds, text) in [
        (0, "1970-01-01 00:00:00 Thu 001"),
        (951_827_696, "2000-02-29 12:34:56 Tue 060"),
        (4_107_542_400, "2100-03-01 00:00:00 Mon 060"),
        (-1, "1969-12-31 23:59:59 Wed 365"),
        (i64::MAX, "9999-12-31 23:59:59 Fri 365"),
        (i64::MIN, "0001-01-01 00:00:00 Mon 001"),
    ] {
        assert_eq!(show(seconds), text);
    }
    assert_eq!(time::strftime("%I %p %-I", Some(0)).unwrap(), "12 AM 12");
    // Without a time it is the clock's, which is past the day this was written.
    assert!(time::strftime("%F", None).unwrap().as_str() > "2025-01-01");
}
