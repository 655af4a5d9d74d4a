use serde_json::{Map, Value, json};

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
    let message = |value: &Value| ChatMessage::from_json(value.as_object().unwrap().clone());
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

/// Small templates of our own, and what transformers makes of them: see `tools/golden_jinja.py`.
#[test]
fn snippets_equal_those_of_transformers() {
    let cases = include_str!("golden/snippets.jsonl");
    let (mut count, mut wrong) = (0, Vec::new());
    for line in cases.lines() {
        let case = crate::json::parse_object("snippets.jsonl", line.as_bytes()).unwrap();
        let source = case["template"].as_str().unwrap();
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
        let tokens = tokens.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let options = ChatOptions {
            variables: case
                .get("variables")
                .map_or(Map::new(), |v| v.as_object().unwrap().clone()),
            local_time: Some(1_760_000_000),
            ..Default::default()
        };
        let chat = case.get("messages").map_or(user("Hi"), messages);
        let found = ChatTemplate::new(source, tokens.into()).and_then(|t| t.render(&chat, &options));
        count += 1;
        let right = match (&found, case.get("text")) {
            (Ok(found), Some(text)) => text.as_str() == Some(found),
            (Err(error), None) => error.to_string().lines().count() == 1,
            _ => false,
        };
        if !right {
            wrong.push(format!(
                "{source}: found {found:?}, wanted {:?}",
                case.get("text")
            ));
        }
    }
    assert!(count > 1000);
    assert!(
        wrong.is_empty(),
        "{} of {count} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
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

    let failed = |chat: &[ChatMessage], options: &ChatOptions| {
        named("chatml.jinja")
            .render(chat, options)
            .unwrap_err()
            .to_string()
    };
    assert!(failed(&[], &options).contains("no message"));
    let both = ChatOptions {
        add_generation_prompt: true,
        ..options.clone()
    };
    assert!(failed(&chat, &both).contains("add_generation_prompt"));
    let silent = json!({"role": "assistant", "content": null});
    let silent = ChatMessage::from_json(silent.as_object().unwrap().clone());
    assert!(failed(&[silent], &options).contains("no content"));
    // Of a content in parts the last text is continued.
    let parts =
        json!([{"role": "assistant", "content": [{"type": "text", "text": "Sure, "}, {"type": "image"}]}]);
    let parts = messages(&parts);
    let shown =
        template("{% for p in messages[0].content %}[{{ p.text }}]{% endfor %}").render(&parts, &options);
    assert_eq!(shown.unwrap(), "[Sure, ");
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
    refused("{{ {'a': raise_exception}|tojson }}", &["line 1", "tojson"]);
    refused("{{ 'a'|tojson(nothing=1) }}", &["line 1", "nothing"]);
    refused("{{ 'a'|tojson(indent=99999999) }}", &["line 1", "bytes"]);
    refused("{{ debug() }}", &["debug"]);
    refused(&"x".repeat(MAX_TEMPLATE + 1), &["262145 bytes"]);
}

#[test]
fn hostile_templates_run_out_of_steps() {
    let words = ["steps"];
    let forever = "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}";
    refused(forever, &words);
    refused(&format!("\n{forever}"), &["line 2"]);
    let growing =
        "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = MORE %}{% endfor %}SHOW";
    let grow = |start: &str, more: &str, show: &str| {
        growing
            .replace("START", start)
            .replace("MORE", more)
            .replace("SHOW", show)
    };
    // A list that is in itself twice, at each of 99 levels, takes little memory and would make an endless text.
    refused(&grow("[1]", "[ns.x, ns.x]", "{{ ns.x|tojson }}"), &words);
    refused(&grow("[1]", "[ns.x, ns.x]", "{{ ns.x|string|length }}"), &words);
    refused(&grow("(1,)", "(ns.x, ns.x)", "{{ {ns.x: 1} }}"), &words);
    // And comparing two of them ends too.
    let twins = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}";
    refused(&format!("{twins}{{{{ ns.x == ns.y }}}}"), &words);
    refused(&format!("{twins}{{{{ ns.x < ns.y }}}}"), &words);
    refused(&format!("{twins}{{{{ [ns.x, ns.y]|sort|length }}}}"), &words);
    refused(&format!("{twins}{{{{ ns.x in [ns.y] }}}}"), &words);
}

#[test]
fn hostile_templates_run_out_of_memory_that_they_may_take() {
    refused(
        "{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
        &["16777216 bytes"],
    );
    refused("{{ 'x' * 99999999999 }}", &["bytes"]);
    refused("{{ [1] * 99999999999 }}", &["bytes"]);
    refused("{{ [] * 99999999999999999999 }}", &["too large"]);
    let growing = "{% set ns = namespace(x='ab', all=[]) %}{% for i in range(9999) %}MORE{% endfor %}";
    for more in [
        "{% set ns.x = ns.x ~ ns.x %}",
        "{% set ns.x = ns.x.replace('a', ns.x) %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = (ns.x, ns.x)|join %}",
        "{% set ns.x = '%s%s' % (ns.x, ns.x) %}",
        "{% set ns.x = '{0}{0}'.format(ns.x) %}",
        "{% set ns.x = ns.x|e ~ '<' * 99999 %}",
        "{% set ns.x = ns.x.center(99999999) %}",
        "{% set ns.x = '%999999d' % 1 ~ ns.x %}",
        "{% set ns.all = ns.all + ['x' * 9999999] %}",
        "{% set ns.all = ns.all + range(99999)|list %}",
    ] {
        refused(&growing.replace("MORE", more), &["bytes"]);
    }
}

#[test]
fn deep_recursion_ends_in_an_error() {
    refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", &["recursion"]);
    refused(
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        &["recursion"],
    );
    refused("{% block a %}{{ self.a() }}{% endblock %}", &["recursion"]);
    let nested = |open: &str, inside: &str, close: &str| {
        let source = format!("{}{inside}{}", open.repeat(10_000), close.repeat(10_000));
        refused(&source, &["line 1", "nesting"]);
    };
    nested("{% if 1 %}", "", "{% endif %}");
    nested("{% for x in [1] %}", "", "{% endfor %}");
    for (open, inside, close) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{1:", "1", "}"),
        ("not ", "1", ""),
        ("-", "1", ""),
        ("a[", "1", "]"),
        ("a(", "1", ")"),
        ("1 if 1 else ", "1", ""),
        ("1|default(", "1", ")"),
        ("1 is eq(", "1", ")"),
    ] {
        let source = format!(
            "{{{{ {}{inside}{} }}}}",
            open.repeat(10_000),
            close.repeat(10_000)
        );
        refused(&source, &["line 1", "nesting"]);
    }
    // What stands in a row is no nesting.
    for (link, times) in [
        ("+1", 60_000),
        ("~1", 60_000),
        (" or 1", 40_000),
        ("|abs", 40_000),
        (" == 1", 40_000),
    ] {
        let source = format!("{{{{ 1{} }}}}", link.repeat(times));
        assert!(render(&source).is_ok(), "{link}");
    }
}

/// Values nested as deeply as they may be do not overflow the stack when something walks through them; deeper ones are
/// refused when they are made.
#[test]
fn deep_values_do_not_end_the_process() {
    let grow = |rounds: usize, start: &str, more: &str, show: &str| {
        render(&format!(
            "{{% set ns = namespace(x={start}, y={start}) %}}{{% for i in range({rounds}) %}}{{% set ns.x = {more} %}}{{% endfor %}}{show}"
        ))
    };
    for more in [
        "[ns.x]",
        "{'a': ns.x}",
        "(ns.x,)",
        "[ns.x]|map('list')",
        "{'a': ns.x}.items()",
        "[ns.x]|reverse",
    ] {
        for show in [
            "{{ ns.x == ns.x }}",
            "{{ ns.x|string|length }}",
            "{{ [ns.x] == [ns.x] }}",
            "{{ ns.x in [1] }}",
        ] {
            assert!(grow(60, "[]", more, "a").is_ok(), "{more} {show}");
            let _ = grow(60, "[]", more, show);
        }
        let error = grow(5000, "[]", more, "").unwrap_err().to_string();
        assert!(
            error.contains("levels") || error.contains("iterable"),
            "{more}: {error}"
        );
    }
    // Namespaces and macros may hold each other in chains of any length, and themselves.
    assert!(grow(20_000, "1", "namespace(x=ns.x)", "").is_ok());
    assert!(render("{% set ns = namespace() %}{% set ns.x = ns %}a").is_ok());
    refused(
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        &["recursion"],
    );
    assert!(render("{% macro m() %}{% endmacro %}{% set ns = namespace(m=m) %}{% for i in range(9999) %}{% macro n() %}{{ i }}{% endmacro %}{% set ns.m = n %}{% endfor %}{{ ns.m() }}").is_ok());
    let chain =
        "{% set ns = namespace(x=1) %}{% for i in range(9999) %}{% set ns.x = cycler(ns.x) %}{% endfor %}";
    refused(chain, &["levels"]);
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
    // Loops over all messages in each, over a long chat.
    let chat: Vec<ChatMessage> = (0..400)
        .map(|i| ChatMessage::new(["user", "assistant"][i % 2], &text[..1250]))
        .collect();
    let quadratic = "{% for m in messages %}{% for n in messages %}{% if n.content == m.content and loop.last %}{{ m.content }}{% endif %}{% endfor %}{% endfor %}";
    assert_eq!(
        template(quadratic).render(&chat, &options).unwrap().len(),
        500_000
    );
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
    // Weeks, of which the first and the last of a year may be the other year's: from Python's strftime.
    let weeks = |seconds| time::strftime("%G-%V %g %U %W %u", Some(seconds)).unwrap();
    for (seconds, text) in [
        (1_104_537_600, "2004-53 04 00 00 6"),
        (1_230_768_000, "2009-01 09 00 00 4"),
        (1_419_897_600, "2015-01 15 52 52 2"),
        (1_451_520_000, "2015-53 15 52 52 4"),
        (1_760_000_000, "2025-41 25 40 40 4"),
    ] {
        assert_eq!(weeks(seconds), text);
    }
    assert!(time::strftime("%999999999d", Some(0)).is_err());
    // Without a time it is the clock's, which is past the day this was written.
    assert!(time::strftime("%F", None).unwrap().as_str() > "2025-01-01");
}
