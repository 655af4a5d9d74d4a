//! Grammars of calls: what the text has to be so that a call comes out, in the syntax of the model's family.

use mlx_native_lm::engine::{Begin, Constraint, Grammar};
use serde_json::{Value, json};

use super::family::Family;
use super::messages::{Choice, Tool};
use crate::error::{ApiError, ApiResult};
use crate::models::ServedModel;

/// Calls that may be forced at once at most.
const MOST_CALLS: usize = 16;

/// The texts around a call whose arguments are JSON.
struct Frame {
    /// Before the name.
    open: &'static str,
    /// Between name and arguments.
    between: &'static str,
    /// Behind the arguments.
    close: &'static str,
    /// Around all calls.
    before_all: &'static str,
    after_all: &'static str,
    /// What the lazy grammar waits for, and what of `open` is behind it.
    trigger: Option<(&'static str, &'static str)>,
}

fn frame(family: Family) -> Frame {
    let plain = Frame {
        open: "<tool_call>\n{\"name\": \"",
        between: "\", \"arguments\": ",
        close: "}\n</tool_call>",
        before_all: "",
        after_all: "",
        trigger: Some(("<tool_call>", "\n{\"name\": \"")),
    };
    match family {
        Family::Llama3 => Frame {
            open: "{\"name\": \"",
            between: "\", \"parameters\": ",
            close: "}",
            trigger: None,
            ..plain
        },
        Family::Mistral => Frame {
            open: "[TOOL_CALLS]",
            between: "[ARGS]",
            close: "",
            trigger: None,
            ..plain
        },
        Family::DeepSeek => Frame {
            open: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            between: "\n```json\n",
            close: "\n```<｜tool▁call▁end｜>",
            before_all: "<｜tool▁calls▁begin｜>",
            after_all: "<｜tool▁calls▁end｜>",
            trigger: None,
        },
        Family::LongCat => Frame {
            open: "<longcat_tool_call>\n{\"name\": \"",
            close: "}\n</longcat_tool_call>",
            trigger: Some(("<longcat_tool_call>", "\n{\"name\": \"")),
            ..plain
        },
        _ => plain,
    }
}

/// The family whose parser reads what the grammar of `family` makes.
pub(crate) fn parser_of(family: Family) -> Family {
    match family {
        Family::Llama3 | Family::Mistral | Family::DeepSeek | Family::LongCat => family,
        // The others do not write their arguments as JSON: where calls are forced, the most widespread form is.
        _ => Family::Hermes,
    }
}

/// A text as it stands in Lark; marks that are special tokens stand for those.
fn literal(model: &ServedModel, text: &str) -> String {
    let marks = [
        "[TOOL_CALLS]",
        "[ARGS]",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<tool_call>",
        "</tool_call>",
    ];
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let special = |mark: &&str| {
            let id = model
                .tokenizer
                .token_id(mark)
                .filter(|id| model.tokenizer.is_special(*id))?;
            Some((rest.find(mark)?, mark.len(), id))
        };
        match marks.iter().filter_map(special).min() {
            Some((at, len, id)) => {
                if at > 0 {
                    parts.push(json!(rest[..at]).to_string());
                }
                parts.push(format!("<[{id}]>"));
                rest = &rest[at + len..];
            }
            None => {
                parts.push(json!(rest).to_string());
                rest = "";
            }
        }
    }
    parts.join(" ")
}

/// The rule of one call, and those that it needs.
fn call_rules(
    model: &ServedModel,
    frame: &Frame,
    open: &str,
    tools: &[&Tool],
    loose: bool,
) -> Result<String, String> {
    let mut rules = String::new();
    let mut calls = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        let schema = if loose && !tool.strict {
            json!({"type": "object"})
        } else {
            tool.parameters.clone()
        };
        let schema: Value = Grammar::schema_for_lark(&schema)?;
        // The name stands in a JSON string, or bare where the family has it so.
        let quoted = json!(tool.name).to_string();
        let inner = &quoted[1..quoted.len() - 1];
        calls.push(format!("call{index}"));
        let head = literal(model, &format!("{open}{inner}{}", frame.between));
        let tail = literal(model, frame.close);
        rules += &format!("call{index}: {head} args{index} {tail}\nargs{index}: %json {schema}\n");
    }
    Ok(format!("call: {}\n{rules}", calls.join(" | ")))
}

/// The grammar that forces calls, from the first token on.
pub(crate) fn required(
    model: &ServedModel,
    tools: &[Tool],
    choice: &Choice,
    parallel: Option<bool>,
) -> ApiResult<Constraint> {
    let wanted: Vec<&Tool> = match choice {
        Choice::Named(name) => tools.iter().filter(|t| t.name == *name).collect(),
        _ => tools.iter().collect(),
    };
    let frame = frame(parser_of(model.family));
    let separator = match model.family {
        Family::Llama3 => "\";\" ",
        Family::Mistral | Family::DeepSeek => "",
        _ => "\"\\n\" ",
    };
    let more = if parallel == Some(true) && !matches!(choice, Choice::Named(_)) {
        format!(" ({separator}call){{0,{}}}", MOST_CALLS - 1)
    } else {
        String::new()
    };
    let wrap = |text: &str| {
        if text.is_empty() {
            String::new()
        } else {
            literal(model, text)
        }
    };
    let (before, after) = (wrap(frame.before_all), wrap(frame.after_all));
    let compile = |loose: bool| {
        let rules = call_rules(model, &frame, frame.open, &wanted, loose)?;
        let lark = format!("start: {before} call{more} {after}\n{rules}");
        model
            .backend
            .compile(&Grammar::Lark(lark))
            .map_err(|e| e.to_string())
    };
    let made = compile(false).or_else(|error| {
        // A schema beyond the library still makes a call, unless its exactness was asked for.
        if wanted.iter().any(|t| t.strict) {
            Err(error)
        } else {
            compile(true)
        }
    });
    made.map_err(|message| ApiError::invalid("tools", message))
}

/// The grammar that holds once the model begins a call by itself; `None` where the family's calls have no mark, or a schema
/// is beyond the library and its exactness was not asked for.
pub(crate) fn lazy(
    model: &ServedModel,
    tools: &[Tool],
    parallel: Option<bool>,
) -> ApiResult<Option<Constraint>> {
    if parser_of(model.family) != model.family && model.family != Family::Hermes {
        return Ok(None);
    }
    let frame = frame(model.family);
    let Some((trigger, open)) = frame.trigger else {
        return Ok(None);
    };
    let wanted: Vec<&Tool> = tools.iter().collect();
    let compile = || {
        let rules = call_rules(model, &frame, open, &wanted, false)?;
        let lark = format!("start: call\n{rules}");
        model
            .backend
            .compile(&Grammar::Lark(lark))
            .map_err(|e| e.to_string())
    };
    match compile() {
        // The text ends with a call that may be the only one.
        Ok(constraint) => Ok(Some(constraint.beginning(match parallel {
            Some(false) => Begin::After(trigger.to_owned()),
            _ => Begin::Each(trigger.to_owned()),
        }))),
        Err(message) if tools.iter().any(|t| t.strict) => Err(ApiError::invalid("tools", message)),
        Err(_) => Ok(None),
    }
}
