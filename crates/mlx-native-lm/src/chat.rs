//! Chat templates: from messages to the text that a model was trained on.
//!
//! A template is a Jinja program that comes with the model, so it is treated as the work of a stranger: it runs with a
//! budget for time, memory and depth, sees nothing but what it is given, and ends in one line of error at worst.

mod jinja;
mod time;

use std::fmt;
use std::sync::Arc;

use serde_json::Map;

use crate::error::{LmError, Result, one_line};
use crate::json::{self, FLOAT_TAG, INT_TAG};
use jinja::{Budget, Dict, Error, Interp, Program, Res, Value};

/// Longest template, in bytes. Those of today's models have at most some tens of thousands.
const MAX_TEMPLATE: usize = 256 << 10;
/// Longest text that a template may make, in bytes.
const MAX_TEXT: usize = 16 << 20;
/// Stacks of the thread that renders, and the part of the budget's depth that each is large enough for, one over this. Most
/// templates need little, and address space may be short: the larger one is for those that were too deep for the smaller.
const STACKS: [(usize, u32); 2] = [(2 << 20, 8), (16 << 20, 1)];
/// What is appended to a message that is to be continued, to find its end in the text: as in transformers, so that
/// templates which strip the message are handled the same way.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
/// Names for what an assistant thought before it answered, of which the first is the one that templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
    /// Other fields that the template may ask for, such as `tool_calls` or `reasoning_content`. A field `content` (or
    /// `role`) in here takes the place of the one above: a list of parts, an object, or null for none at all.
    pub other: Map<String, serde_json::Value>,
}

impl ChatMessage {
    /// A message with a role and a content.
    #[must_use]
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        ChatMessage {
            role: role.into(),
            content: content.into(),
            other: Map::new(),
        }
    }

    /// A message as JSON has it: `content` may be a text, a list of parts, an object, null or absent.
    #[must_use]
    pub fn from_json(fields: Map<String, serde_json::Value>) -> Self {
        let mut message = ChatMessage::new("", "");
        for key in ["role", "content"] {
            if !fields.contains_key(key) {
                message.other.insert(key.to_owned(), serde_json::Value::Null);
            }
        }
        for (key, value) in fields {
            match (key.as_str(), value) {
                ("role", serde_json::Value::String(text)) => message.role = text,
                ("content", serde_json::Value::String(text)) => message.content = text,
                (_, value) => {
                    message.other.insert(key, value);
                }
            }
        }
        message
    }

    /// The fields as the template sees them: those that are null are absent, and what was thought has all its names, as
    /// in transformers.
    fn fields(&self) -> Map<String, serde_json::Value> {
        let mut fields = Map::new();
        for (key, text) in [("role", &self.role), ("content", &self.content)] {
            if !self.other.contains_key(key) {
                fields.insert(key.to_owned(), serde_json::Value::String(text.clone()));
            }
        }
        for (key, value) in self.other.iter().filter(|(_, value)| !value.is_null()) {
            fields.insert(key.clone(), value.clone());
        }
        let thought = REASONING.iter().find_map(|name| fields.get(*name).cloned());
        if let Some(thought) = thought {
            let [standard, first, _] = REASONING;
            let own = fields.shift_remove(first);
            fields.shift_insert(0, first.to_owned(), own.unwrap_or_else(|| thought.clone()));
            fields.insert(standard.to_owned(), thought);
        }
        fields
    }
}

/// Settings of [`ChatTemplate::render`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatOptions {
    /// Whether the text ends with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Whether the text ends where the last message does, so that the model goes on with it.
    pub continue_final_message: bool,
    /// Further variables of the template, such as `enable_thinking` or `tools`.
    pub variables: Map<String, serde_json::Value>,
    /// What `strftime_now` shows, in seconds since 1970-01-01 00:00 of local time; `None`: the system's clock, in UTC.
    pub local_time: Option<i64>,
}

/// A chat template, compiled.
pub struct ChatTemplate {
    program: Arc<Program>,
    mentions_content: bool,
    special_tokens: Vec<(String, String)>,
    /// Variables that the caller's go before.
    defaults: Map<String, serde_json::Value>,
    /// What takes this one's place where tools are given.
    for_tools: Option<Box<ChatTemplate>>,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("special_tokens", &self.special_tokens)
            .finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles a template. `special_tokens` are names and texts, such as `bos_token` and `<s>`, that it sees as variables.
    ///
    /// # Errors
    /// [`LmError::ChatTemplate`], naming the line, when the text is no template or longer than 256 KiB.
    pub fn new(source: &str, special_tokens: Vec<(String, String)>) -> Result<Self> {
        if source.len() > MAX_TEMPLATE {
            return Err(LmError::ChatTemplate(format!(
                "found {} bytes, wanted at most {MAX_TEMPLATE}",
                source.len()
            )));
        }
        let program = on_own_stack(|part| jinja::parse(source, part))?;
        Ok(ChatTemplate {
            program: Arc::new(program),
            mentions_content: source.contains("content"),
            special_tokens,
            defaults: Map::new(),
            for_tools: None,
        })
    }

    /// Sets a variable that the template sees unless the caller sets it.
    pub fn set_default(&mut self, name: impl Into<String>, value: serde_json::Value) {
        self.defaults.insert(name.into(), value);
    }

    /// Sets the template that takes this one's place for chats with a variable `tools` that is not null.
    pub fn set_for_tools(&mut self, template: ChatTemplate) {
        self.for_tools = Some(Box::new(template));
    }

    /// The text of a chat. Special tokens are spelled out in it: encode it without adding them again.
    ///
    /// # Errors
    /// [`LmError::ChatTemplate`], naming the line, when the template refuses the messages, does something impossible, or
    /// takes more than its budget: 50 million steps of one operation or 64 bytes each (in any case seconds), 256 MiB of
    /// values, 16 MiB of text; [`LmError::InvalidArgument`] for a chat without messages, a variable that has a meaning
    /// already, or a last message that cannot be continued.
    pub fn render(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<String> {
        let tools = options
            .variables
            .get("tools")
            .is_some_and(|tools| !tools.is_null());
        if let Some(template) = self.for_tools.as_ref().filter(|_| tools) {
            return template.render(messages, options);
        }
        if messages.is_empty() {
            return Err(LmError::InvalidArgument(
                "chat template: found no message, wanted one at least".to_owned(),
            ));
        }
        if !options.continue_final_message {
            return self.run(messages.iter().map(ChatMessage::fields).collect(), options);
        }
        if options.add_generation_prompt {
            return Err(LmError::InvalidArgument(
                "continue_final_message: found add_generation_prompt too, wanted one of them".to_owned(),
            ));
        }
        self.continued(messages, options)
    }

    fn continued(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<String> {
        let failed = |what: &str| {
            Err(LmError::InvalidArgument(format!(
                "continue_final_message: {what}"
            )))
        };
        let mut marked: Vec<Map<String, serde_json::Value>> =
            messages.iter().map(ChatMessage::fields).collect();
        let content = marked.last_mut().and_then(|last| last.get_mut("content"));
        let said = match content {
            Some(serde_json::Value::String(text)) => mark(text),
            // Of several parts the last one that is text.
            Some(serde_json::Value::Array(parts)) => {
                let text = parts
                    .iter_mut()
                    .rev()
                    .find_map(|part| match part.get_mut("text") {
                        Some(serde_json::Value::String(text)) => Some(text),
                        _ => None,
                    });
                match text {
                    Some(text) => mark(text),
                    None => return failed("the last message has no text"),
                }
            }
            _ => return failed("the last message has no content"),
        };
        if !self.mentions_content {
            return failed("the chat template does not look at the content of messages");
        }
        let mut text = self.run(marked, options)?;
        let end = text.rfind(CONTINUE_TAG.trim_end());
        let Some(end) = end.filter(|_| text.contains(said.trim())) else {
            return failed("the chat template leaves the last message out, or changes it");
        };
        let kept = text[end..].starts_with(CONTINUE_TAG);
        text.truncate(end);
        if !kept {
            // The template strips what is said, so it would have stripped this too.
            text.truncate(text.trim_end().len());
        }
        Ok(text)
    }

    fn run(&self, messages: Vec<Map<String, serde_json::Value>>, options: &ChatOptions) -> Result<String> {
        for name in ["messages", "add_generation_prompt", "strftime_now"] {
            if options.variables.contains_key(name) {
                return Err(LmError::InvalidArgument(format!(
                    "chat template variable {name}: found it among the further variables, wanted another name"
                )));
            }
        }
        on_own_stack(|part| {
            let mut interp = Interp::new(&self.program, options.local_time, MAX_TEXT, part);
            // Templates ask for tools and documents without asking first whether they are defined.
            for name in ["tools", "documents"] {
                interp.set_variable(name, |_| Ok(Value::None))?;
            }
            for (name, token) in &self.special_tokens {
                interp.set_variable(name, |_| Ok(Value::text(token.as_str())))?;
            }
            for (name, value) in self.defaults.iter().chain(&options.variables) {
                interp.set_variable(name, |budget| value_of(value, budget))?;
            }
            interp.set_variable("messages", |budget| {
                let messages = messages.iter().map(|message| dict_of(message, budget));
                Value::list(messages.collect::<Res<_>>()?)
            })?;
            let prompt = options.add_generation_prompt;
            interp.set_variable("add_generation_prompt", |_| Ok(Value::Bool(prompt)))?;
            interp.run()
        })
    }
}

/// Puts the tag behind a text; what the text was before.
fn mark(text: &mut String) -> String {
    let before = text.clone();
    text.push_str(CONTINUE_TAG);
    before
}

/// Runs something on a thread whose stack is large enough for what a budget allows, whatever thread asks for it. It is told
/// which part of that depth the stack is large enough for: one over what it gets.
fn on_own_stack<T: Send>(run: impl Fn(u32) -> Res<T> + Sync) -> Result<T> {
    let run = &run;
    let mut last = None;
    for (stack, part) in STACKS {
        let ended = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("chat template".to_owned())
                .stack_size(stack)
                .spawn_scoped(scope, move || run(part));
            thread.map(std::thread::ScopedJoinHandle::join)
        });
        match ended {
            Ok(Ok(Ok(result))) => return Ok(result),
            Ok(Ok(Err(error))) => {
                let again = error.is_too_deep();
                last = Some(describe(&error));
                if !again {
                    break;
                }
            }
            Ok(Err(_)) => return Err(LmError::ChatTemplate("the template engine failed".to_owned())),
            // What was said before counts.
            Err(error) => {
                last.get_or_insert_with(|| LmError::ChatTemplate(format!("no thread to run it on: {error}")));
            }
        }
    }
    Err(last.unwrap_or_else(|| LmError::ChatTemplate("no thread to run it on".to_owned())))
}

/// A value of JSON as one of the template; it keeps the order of keys.
fn value_of(json: &serde_json::Value, budget: &Budget) -> Res<Value> {
    use serde_json::Value as Json;
    budget.step()?;
    match json {
        Json::Null => Ok(Value::None),
        Json::Bool(b) => Ok(Value::Bool(*b)),
        Json::Number(n) => Ok(number_of(n)),
        Json::String(text) => {
            budget.charge(text.len())?;
            Ok(Value::text(text.as_str()))
        }
        Json::Array(list) => Value::list(list.iter().map(|v| value_of(v, budget)).collect::<Res<_>>()?),
        Json::Object(map) => match json::number(json) {
            Some(f) if map.contains_key(FLOAT_TAG) => Ok(Value::Float(f)),
            Some(_) => match map.get(INT_TAG).and_then(Json::as_str) {
                Some(digits) => Ok(whole_of(digits)),
                None => dict_of(map, budget),
            },
            None => dict_of(map, budget),
        },
    }
}

fn number_of(n: &serde_json::Number) -> Value {
    match (n.as_i64(), n.as_u64()) {
        (Some(n), _) => Value::Int(n.into()),
        (None, Some(n)) => Value::Int(n.into()),
        (None, None) => {
            // Where the program that uses this library keeps the digits of numbers, they are there.
            let text = n.to_string();
            let digits = text.strip_prefix('-').unwrap_or(&text);
            if digits.bytes().all(|b| b.is_ascii_digit()) {
                return whole_of(&text);
            }
            Value::Float(n.as_f64().unwrap_or(f64::NAN))
        }
    }
}

fn whole_of(digits: &str) -> Value {
    digits
        .parse()
        .map_or_else(|_| Value::BigInt(digits.into()), Value::Int)
}

fn dict_of(map: &Map<String, serde_json::Value>, budget: &Budget) -> Res<Value> {
    let entries = map
        .iter()
        .map(|(key, value)| Ok((Value::text(key.as_str()), value_of(value, budget)?)));
    Ok(Value::Dict(Dict::new(entries.collect::<Res<_>>()?, budget)?))
}

/// An error of the template engine as one line, with the template's line.
fn describe(error: &Error) -> LmError {
    let line = error
        .line()
        .map_or(String::new(), |line| format!("line {line}: "));
    LmError::ChatTemplate(format!("{line}{}", one_line(error.text())))
}

#[cfg(test)]
mod tests;
