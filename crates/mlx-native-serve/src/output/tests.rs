//! Every family, at every split.

use serde_json::{Value, json};

use super::*;

/// What became of an answer: thought, said, and calls with their arguments.
#[derive(Debug, Default, PartialEq)]
struct Read {
    reasoning: String,
    content: String,
    calls: Vec<(String, Value)>,
    broken: usize,
}

fn read(reader: &Reader, pieces: &[&str]) -> Read {
    let mut reader = reader.clone();
    let mut deltas: Vec<Delta> = pieces.iter().flat_map(|p| reader.push(p)).collect();
    deltas.extend(reader.finish(false));
    let mut read = Read::default();
    let mut open: Option<(String, String)> = None;
    for delta in deltas {
        match delta {
            Delta::Reasoning(text) => read.reasoning += &text,
            Delta::Content(text) => {
                assert!(open.is_none(), "content inside a call");
                read.content += &text;
            }
            Delta::CallStart { name, .. } => {
                assert!(open.is_none(), "a call inside a call");
                open = Some((name, String::new()));
            }
            Delta::CallArguments(text) => open.as_mut().expect("arguments without a call").1 += &text,
            Delta::CallEnd { raw } => {
                let (name, arguments) = open.take().expect("an end without a call");
                match raw {
                    None => read.calls.push((name, serde_json::from_str(&arguments).unwrap())),
                    Some(_) => read.broken += 1,
                }
            }
        }
    }
    assert!(open.is_none(), "a call without an end");
    read
}

fn tools() -> Vec<Tool> {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "opts": {"type": "object"}}});
    vec![
        Tool::new("weather", None, Some(&schema), false),
        Tool::new("now", None, None, false),
    ]
}

/// The same whole, in characters, and cut in two at every place.
#[track_caller]
fn check(family: Family, text: &str, wanted: &Read) {
    let thinking = Thinking::of_template("<think></think>").filter(|_| family != Family::Harmony);
    check_with(&Reader::new(family, tools(), thinking, false), text, wanted);
}

#[track_caller]
fn check_with(reader: &Reader, text: &str, wanted: &Read) {
    assert_eq!(&read(reader, &[text]), wanted, "whole");
    let bounds: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
    for at in &bounds {
        assert_eq!(
            &read(reader, &[&text[..*at], &text[*at..]]),
            wanted,
            "cut at {at}: {:?}",
            &text[..*at]
        );
    }
    for step in [1, 2, 3, 5, 7] {
        let mut cuts: Vec<usize> = bounds.iter().copied().step_by(step).collect();
        cuts.push(text.len());
        let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        assert_eq!(&read(reader, &pieces), wanted, "in pieces of {step}");
    }
}

fn two_calls(content: &str) -> Read {
    Read {
        content: content.to_owned(),
        calls: vec![
            ("weather".to_owned(), json!({"city": "São \"P\" {x}", "days": 3})),
            ("now".to_owned(), json!({})),
        ],
        ..Read::default()
    }
}

#[test]
fn hermes() {
    let text = "I look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"São \\\"P\\\" {x}\", \"days\": 3}}\n</tool_call>\n<tool_call>{\"arguments\": {}, \"name\": \"now\"}</tool_call>";
    check(Family::Hermes, text, &two_calls("I look."));
    check(
        Family::LongCat,
        &text.replace("tool_call>", "longcat_tool_call>"),
        &two_calls("I look."),
    );
    // The mark that closes is missing at the end.
    let cut = text.strip_suffix("</tool_call>").unwrap();
    check(Family::Hermes, cut, &two_calls("I look."));
    // Arguments in a string, and none at all.
    check(
        Family::Hermes,
        "<tool_call>{\"name\":\"weather\",\"arguments\":\"{\\\"days\\\": 2}\"}</tool_call><tool_call>{\"name\":\"now\"}</tool_call>",
        &Read {
            calls: vec![
                ("weather".to_owned(), json!({"days": 2})),
                ("now".to_owned(), json!({})),
            ],
            ..Read::default()
        },
    );
}

#[test]
fn what_is_no_call_is_content() {
    for text in [
        "a <tool_call>nothing</tool_call> b",
        "a <tool_call>{\"name\": 7}</tool_call>",
        "a <tool_call>{\"x\": 7}</tool_call> <tool",
        "x < y <tool_ and </tool_call>",
        "cut off <tool_call>{\"name\": \"wea",
        "{\"name\" is JSON}",
    ] {
        let wanted = Read {
            content: text.to_owned(),
            ..Read::default()
        };
        check(Family::Hermes, text, &wanted);
        check(Family::Llama3, text, &wanted);
    }
    let broken = Read {
        broken: 1,
        ..Read::default()
    };
    check(
        Family::Hermes,
        "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": tru",
        &broken,
    );
    check(
        Family::Hermes,
        "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\" 1}}</tool_call>",
        &broken,
    );
}

#[test]
fn qwen_coder_and_others_with_marks() {
    let text = "I look.\n<tool_call>\n<function=weather>\n<parameter=city>\nSão \"P\" {x}\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>";
    check(Family::QwenCoder, text, &two_calls("I look."));
    let text = "I look.\n<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">São \"P\" {x}</parameter>\n<parameter name=\"days\">3</parameter>\n</invoke>\n<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>";
    check(Family::MiniMax, text, &two_calls("I look."));
    let text = "I look.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>São \"P\" {x}</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>";
    check(Family::Glm, text, &two_calls("I look."));
}

#[test]
fn llama_and_python() {
    let one = "{\"name\": \"weather\", \"parameters\": {\"city\": \"São \\\"P\\\" {x}\", \"days\": 3}}";
    check(
        Family::Llama3,
        &format!("{one}; {{\"name\": \"now\", \"parameters\": {{}}}}"),
        &two_calls(""),
    );
    check(
        Family::Llama3,
        &format!("<|python_tag|>{one};{{\"name\": \"now\", \"parameters\": {{}}}}"),
        &two_calls(""),
    );
    let list = "[weather(city=\"São \\\"P\\\" {x}\", days=3), now()]";
    check(Family::Pythonic, list, &two_calls(""));
    check(
        Family::Lfm2,
        &format!("I look.<|tool_call_start|>{list}<|tool_call_end|>"),
        &two_calls("I look."),
    );
    for text in ["[1] says so", "no [list] here", "[f(x)]"] {
        check(
            Family::Pythonic,
            text,
            &Read {
                content: text.to_owned(),
                ..Read::default()
            },
        );
    }
}

#[test]
fn mistral_deepseek_kimi() {
    let arguments = "{\"city\": \"São \\\"P\\\" {x}\", \"days\": 3}";
    check(
        Family::Mistral,
        &format!(
            "I look.[TOOL_CALLS][{{\"name\": \"weather\", \"arguments\": {arguments}}}, {{\"name\": \"now\", \"arguments\": {{}}}}]"
        ),
        &two_calls("I look."),
    );
    check(
        Family::Mistral,
        &format!("I look.[TOOL_CALLS]weather[ARGS]{arguments}[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{{}}"),
        &two_calls("I look."),
    );
    check(
        Family::DeepSeek,
        &format!(
            "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{arguments}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>now<｜tool▁sep｜>{{}}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        &two_calls("I look."),
    );
    check(
        Family::Kimi,
        &format!(
            "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{arguments}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{{}}<|tool_call_end|><|tool_calls_section_end|>"
        ),
        &two_calls("I look."),
    );
}

#[test]
fn gemma_and_harmony() {
    check(
        Family::Gemma3,
        "I look.<start_function_call>call:weather{city:<escape>São \"P\" {x}<escape>,days:3}<end_function_call><start_function_call>call:now{}<end_function_call>",
        &two_calls("I look."),
    );
    check(
        Family::Gemma4,
        "I look.<|tool_call>call:weather{city:<|\"|>São \"P\" {x}<|\"|>,days:3}<tool_call|><|tool_call>call:now{}<tool_call|>",
        &two_calls("I look."),
    );
    check(
        Family::Harmony,
        "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\": \"São \\\"P\\\" {x}\", \"days\": 3}<|call|><|start|>assistant to=functions.now<|channel|>commentary json<|message|>{}<|call|>",
        &Read {
            reasoning: "Let me see.".to_owned(),
            ..two_calls("")
        },
    );
    check(
        Family::Harmony,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello <b>!",
        &Read {
            reasoning: "Hm.".to_owned(),
            content: "Hello <b>!".to_owned(),
            ..Read::default()
        },
    );
}

#[test]
fn thought_and_said() {
    let thinking = Thinking::of_template("<think></think>");
    let wanted = Read {
        reasoning: "First a, then b.".to_owned(),
        content: "So: <think> is a mark.".to_owned(),
        ..Read::default()
    };
    let closed = Reader::new(Family::Hermes, Vec::new(), thinking, false);
    check_with(
        &closed,
        "\n<think>\nFirst a, then b.\n</think>\n\nSo: <think> is a mark.",
        &wanted,
    );
    let open = Reader::new(Family::Hermes, Vec::new(), thinking, true);
    check_with(
        &open,
        "\nFirst a, then b.\n</think>\n\nSo: <think> is a mark.",
        &wanted,
    );
    let plain = Read {
        content: "<thin line".to_owned(),
        ..Read::default()
    };
    check_with(&closed, "<thin line", &plain);
    // Calls behind what was thought, and none in it.
    let tools = Reader::new(Family::Hermes, tools(), thinking, true);
    check_with(
        &tools,
        "I may write <tool_call>{} </think><tool_call>{\"name\": \"now\"}</tool_call>",
        &Read {
            reasoning: "I may write <tool_call>{}".to_owned(),
            calls: vec![("now".to_owned(), json!({}))],
            ..Read::default()
        },
    );
}

#[test]
fn a_call_that_was_cut_before_its_name_is_not_shown() {
    let cut = |family: Family, text: &str| {
        let mut reader = Reader::new(family, tools(), None, false);
        let mut deltas = reader.push(text);
        deltas.extend(reader.finish(true));
        let shown = deltas.iter().map(|d| match d {
            Delta::Content(text) => text.clone(),
            Delta::CallStart { name, .. } => format!("[{name}]"),
            Delta::CallArguments(text) => text.clone(),
            Delta::CallEnd { raw } => format!("[{}]", if raw.is_some() { "broken" } else { "end" }),
            Delta::Reasoning(_) => String::new(),
        });
        shown.collect::<String>()
    };
    let cases = [
        (Family::Hermes, "I look.\n<tool_call>\n{\"na", "I look."),
        (
            Family::Hermes,
            "I look.\n<tool_call>\n{\"name\": \"wea",
            "I look.",
        ),
        (Family::Hermes, "I look.\n<tool_c", "I look.\n"),
        (Family::Hermes, "a <", "a <"),
        (
            Family::Hermes,
            "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": 1}}</tool",
            "[now]{\"a\": 1}[end]",
        ),
        (
            Family::Hermes,
            "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": 1",
            "[now]{\"a\": 1[broken]",
        ),
        (Family::QwenCoder, "<tool_call>\n<function=wea", ""),
        (Family::Glm, "Yes. <tool_call>wea", "Yes."),
        (Family::Llama3, "{\"name\": \"wea", ""),
        (Family::Llama3, "{\"answer\": \"Par", "{\"answer\": \"Par"),
        (Family::Pythonic, "[weather(city=\"O", ""),
        (Family::Pythonic, "[1, 2, 3", "[1, 2, 3"),
        (Family::Pythonic, "[\"a\", \"b", "[\"a\", \"b"),
        (Family::Mistral, "[TOOL_CALLS]wea", ""),
        (
            Family::DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>we",
            "",
        ),
    ];
    for (family, text, shown) in cases {
        assert_eq!(cut(family, text), shown, "{family:?}: {text}");
    }
}
