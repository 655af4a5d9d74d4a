//! Messages as clients send them, made into what chat templates expect.

use mlx_native_lm::ChatMessage;
use serde_json::{Map, Value, json};

use crate::error::{ApiError, ApiResult};
use crate::fields::{Fields, kind};

/// Messages of one request at most.
const MAX_MESSAGES: usize = 10_000;
/// Tools of one request at most.
const MAX_TOOLS: usize = 1024;

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    pub name: String,
    /// The schema of its arguments.
    pub parameters: Value,
    pub strict: bool,
    /// As the template sees it: `{"type": "function", "function": {…}}`.
    pub json: Value,
}

impl Tool {
    pub fn new(name: &str, description: Option<&str>, parameters: Option<&Value>, strict: bool) -> Self {
        let parameters = parameters
            .cloned()
            .unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        let mut function = Map::new();
        function.insert("name".to_owned(), json!(name));
        if let Some(description) = description {
            function.insert("description".to_owned(), json!(description));
        }
        function.insert("parameters".to_owned(), parameters.clone());
        Tool {
            name: name.to_owned(),
            parameters,
            strict,
            json: json!({"type": "function", "function": function}),
        }
    }
}

/// Which calls are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Choice {
    None,
    #[default]
    Auto,
    Required,
    Named(String),
}

/// `tools` of a chat in OpenAI's manner; those of responses have no `function` inside.
pub(crate) fn tools(fields: &Fields<'_>) -> ApiResult<Vec<Tool>> {
    let list = fields.array("tools")?.unwrap_or_default();
    if list.len() > MAX_TOOLS {
        return Err(ApiError::invalid(
            "tools",
            format!("found {}, wanted at most {MAX_TOOLS}", list.len()),
        ));
    }
    let mut tools = Vec::new();
    for (index, tool) in list.iter().enumerate() {
        let path = format!("tools[{index}].");
        let Value::Object(map) = tool else {
            return Err(ApiError::invalid(
                format!("tools[{index}]"),
                format!("found {}, wanted an object", kind(tool)),
            ));
        };
        let outer = Fields::inside(map, &path);
        match outer.str("type")? {
            Some("function") | None => {}
            Some(other) => {
                return Err(ApiError::invalid(
                    outer.name("type"),
                    format!("found {other:?}, wanted \"function\""),
                ));
            }
        }
        let inner_path = format!("{path}function.");
        let function = match outer.object("function")? {
            Some(function) => Fields::inside(function, &inner_path),
            None => outer,
        };
        let Some(name) = function.str("name")?.filter(|n| !n.is_empty()) else {
            return Err(ApiError::invalid(function.name("name"), "missing"));
        };
        let parameters = match function.get("parameters") {
            Some(value) if !value.is_object() => {
                return Err(function.wrong("parameters", value, "a schema: an object"));
            }
            value => value,
        };
        let strict = function.bool("strict")?.unwrap_or(false);
        tools.push(Tool::new(name, function.str("description")?, parameters, strict));
    }
    Ok(tools)
}

/// `tool_choice` of a chat in OpenAI's manner.
/// Where only some of the tools are allowed, the others are taken away.
pub(crate) fn choice(fields: &Fields<'_>, tools: &mut Vec<Tool>) -> ApiResult<Choice> {
    let choice = match fields.get("tool_choice") {
        None => Choice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "none" => Choice::None,
            "auto" => Choice::Auto,
            "required" | "any" => Choice::Required,
            other => {
                return Err(ApiError::invalid(
                    "tool_choice",
                    format!("found {other:?}, wanted \"none\", \"auto\", \"required\" or a function"),
                ));
            }
        },
        Some(Value::Object(map)) => {
            let inner = Fields::inside(map, "tool_choice.");
            match inner.str("type")? {
                Some("function") | None => {}
                Some("allowed_tools") => {
                    let choice = allowed(&inner, tools)?;
                    check_choice(&choice, tools)?;
                    return Ok(choice);
                }
                Some(_) => return Err(ApiError::unsupported("tool_choice.type")),
            }
            let named = map
                .get("function")
                .unwrap_or(&Value::Null)
                .get("name")
                .or(map.get("name"));
            match named.and_then(Value::as_str) {
                Some(name) => Choice::Named(name.to_owned()),
                None => return Err(ApiError::invalid("tool_choice.function.name", "missing")),
            }
        }
        Some(other) => return Err(fields.wrong("tool_choice", other, "a string or an object")),
    };
    check_choice(&choice, tools)?;
    Ok(choice)
}

/// `tool_choice` of type `allowed_tools`: the tools of a list, and whether one has to be called.
fn allowed(fields: &Fields<'_>, tools: &mut Vec<Tool>) -> ApiResult<Choice> {
    let path = fields.name("allowed_tools.");
    let inner = match fields.object("allowed_tools")? {
        Some(map) => Fields::inside(map, &path),
        None => *fields,
    };
    let Some(list) = inner.array("tools")? else {
        return Err(ApiError::invalid(inner.name("tools"), "missing"));
    };
    let name = |tool: &Value| {
        let holder = tool.get("function").unwrap_or(tool);
        holder.get("name").and_then(Value::as_str).map(str::to_owned)
    };
    let Some(names) = list.iter().map(name).collect::<Option<Vec<String>>>() else {
        return Err(ApiError::invalid(
            inner.name("tools"),
            "wanted functions with names",
        ));
    };
    if let Some(unknown) = names.iter().find(|n| !tools.iter().any(|t| t.name == **n)) {
        let message = format!("there is no tool named {unknown:?}");
        return Err(ApiError::invalid(inner.name("tools"), message));
    }
    tools.retain(|t| names.contains(&t.name));
    match inner.str("mode")? {
        Some("auto") => Ok(Choice::Auto),
        Some("required") => Ok(Choice::Required),
        _ => Err(ApiError::invalid(inner.name("mode"), "wanted auto or required")),
    }
}

/// A choice that asks for calls needs tools to call.
pub(crate) fn check_choice(choice: &Choice, tools: &[Tool]) -> ApiResult<()> {
    match choice {
        Choice::Required if tools.is_empty() => Err(ApiError::invalid(
            "tool_choice",
            "a call is required, and there are no tools",
        )),
        Choice::Named(name) if !tools.iter().any(|t| t.name == *name) => Err(ApiError::invalid(
            "tool_choice",
            format!("there is no tool named {name:?}"),
        )),
        _ => Ok(()),
    }
}

/// `messages` of a chat in OpenAI's manner.
pub(crate) fn messages(fields: &Fields<'_>) -> ApiResult<Vec<ChatMessage>> {
    let Some(list) = fields.array("messages")? else {
        return Err(ApiError::invalid("messages", "missing"));
    };
    if list.is_empty() || list.len() > MAX_MESSAGES {
        return Err(ApiError::invalid(
            "messages",
            format!("found {}, wanted 1 to {MAX_MESSAGES}", list.len()),
        ));
    }
    list.iter()
        .enumerate()
        .map(|(index, message)| one(index, message))
        .collect()
}

fn one(index: usize, message: &Value) -> ApiResult<ChatMessage> {
    let path = format!("messages[{index}].");
    let Value::Object(map) = message else {
        return Err(ApiError::invalid(
            format!("messages[{index}]"),
            format!("found {}, wanted an object", kind(message)),
        ));
    };
    let fields = Fields::inside(map, &path);
    let role = match fields.str("role")? {
        Some("developer") => "system",
        Some("function") => "tool",
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role,
        Some(other) => {
            return Err(ApiError::invalid(
                fields.name("role"),
                format!("found {other:?}, wanted system, developer, user, assistant or tool"),
            ));
        }
        None => return Err(ApiError::invalid(fields.name("role"), "missing")),
    };
    let content = content(&fields, "content")?;
    if content.is_none() && role != "assistant" {
        return Err(ApiError::invalid(fields.name("content"), "missing"));
    }
    let mut out = ChatMessage::new(role, content.unwrap_or_default());
    for key in ["name", "tool_call_id"] {
        if let Some(text) = fields.str(key)? {
            out.other.insert(key.to_owned(), json!(text));
        }
    }
    for key in ["reasoning_content", "reasoning"] {
        if let Some(Value::String(text)) = fields.get(key) {
            out.other.insert(key.to_owned(), json!(text));
        }
    }
    if let Some(calls) = fields.array("tool_calls")?.filter(|c| !c.is_empty()) {
        let calls: ApiResult<Vec<Value>> = calls.iter().map(|call| tool_call(&fields, call)).collect();
        out.other.insert("tool_calls".to_owned(), Value::Array(calls?));
    }
    Ok(out)
}

/// A content: a text, or parts of which the texts are put together.
pub(crate) fn content(fields: &Fields<'_>, key: &str) -> ApiResult<Option<String>> {
    let parts = match fields.get(key) {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(fields.wrong(key, other, "a string or a list of parts")),
    };
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let name = || format!("{}[{index}]", fields.name(key));
        if let Value::String(part) = part {
            text.push_str(part);
            continue;
        }
        let part_text = |key: &str| part.get(key).and_then(Value::as_str);
        let kind = part_text("type").unwrap_or("text");
        let found = match kind {
            "text" | "input_text" | "output_text" => part_text("text"),
            "refusal" => part_text("refusal"),
            // What was thought before is the template's to show.
            "thinking" | "redacted_thinking" | "reasoning" => continue,
            other => {
                return Err(ApiError {
                    code: Some("unsupported_content"),
                    ..ApiError::invalid(
                        format!("{}.type", name()),
                        format!("{other:?} is not supported: only text is"),
                    )
                });
            }
        };
        match found {
            Some(found) => text.push_str(found),
            None => return Err(ApiError::invalid(format!("{}.text", name()), "missing")),
        }
    }
    Ok(Some(text))
}

/// A call that the assistant made before: its arguments, which are JSON in a string, are read, for templates write them themselves.
fn tool_call(fields: &Fields<'_>, call: &Value) -> ApiResult<Value> {
    let name = fields.name("tool_calls");
    let function = call.get("function").unwrap_or(&Value::Null);
    let Some(called) = function.get("name").and_then(Value::as_str) else {
        return Err(ApiError::invalid(format!("{name}.function.name"), "missing"));
    };
    let arguments = match function.get("arguments") {
        None | Some(Value::Null) => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => match serde_json::from_str::<Value>(text) {
            Ok(value @ Value::Object(_)) => value,
            // What is no object stays as it was said.
            _ => json!(text),
        },
        Some(other) => other.clone(),
    };
    let mut out = Map::new();
    if let Some(id) = call.get("id").and_then(Value::as_str) {
        out.insert("id".to_owned(), json!(id));
    }
    out.insert("type".to_owned(), json!("function"));
    out.insert(
        "function".to_owned(),
        json!({"name": called, "arguments": arguments}),
    );
    Ok(Value::Object(out))
}
