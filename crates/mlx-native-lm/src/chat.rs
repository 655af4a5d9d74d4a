//! Chat templates: from messages to the text that a model was trained on.
//!
//! A template is a Jinja program that comes with the model, so it is treated as the work of a stranger: it runs with a
//! budget for time and memory, sees nothing but what it is given, and ends in one line of error at worst.

mod json;
mod python;
mod time;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::Map;

use crate::error::{LmError, Result, one_line};

/// Longest template, in bytes. Those of today's models have at most some tens of thousands.
const MAX_TEMPLATE: usize = 256 << 10;
/// Longest text that a template may make, in bytes.
const MAX_TEXT: usize = 16 << 20;
/// Budget of one rendering: an instruction costs one, data that is made or looked through one for each 64 bytes. A chat of
/// a hundred messages takes some ten thousand.
const FUEL: u64 = 500_000;
/// Longest time of one rendering. The budget above is spent in well under a second; but the engine does not charge for what
/// printing and comparing meet inside lists, and a list that is in itself twice, forty times over, is without end.
const TIME: Duration = Duration::from_secs(5);
/// Stack of the thread that renders. A template can nest a list in a list as often as its budget allows, some 330,000 times,
/// and printing or comparing that recurses, at up to a kilobyte a level. Only what is used takes memory.
const STACK: usize = if cfg!(target_pointer_width = "64") {
    768 << 20
} else {
    64 << 20
};
/// Name of the only template of an environment.
const NAME: &str = "chat";
/// What is appended to a message that is to be continued, to find its end in the text: as in transformers, so that
/// templates which strip the message are handled the same way.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
    /// Other fields that the template may ask for, such as `tool_calls` or `reasoning_content`.
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

    fn value(&self) -> Value {
        let own = [("role", &self.role), ("content", &self.content)];
        let own = own.map(|(key, text)| (key, Value::from(text.as_str())));
        let other = self
            .other
            .iter()
            .filter(|(key, _)| !matches!(key.as_str(), "role" | "content"));
        Value::from_pairs(
            own.into_iter()
                .chain(other.map(|(key, value)| (key.as_str(), value_of(value)))),
        )
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
    env: Arc<Environment<'static>>,
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
        let mut env = environment()?;
        env.add_template_owned(NAME, generation_blocks(source))
            .map_err(|e| describe(&e))?;
        Ok(ChatTemplate {
            env: Arc::new(env),
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
    /// It is made on a thread of its own. After an error for want of time that thread goes on until it is done, which it may
    /// never be: a server should not use such a template again.
    ///
    /// # Errors
    /// [`LmError::ChatTemplate`], naming the line, when the template refuses the messages, does something impossible, or
    /// takes more than its budget: 500,000 steps of one instruction or 64 bytes each, 5 seconds, 16 MiB of text;
    /// [`LmError::InvalidArgument`] for a variable that has a meaning already, or a last message that cannot be continued.
    pub fn render(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<String> {
        let tools = options
            .variables
            .get("tools")
            .is_some_and(|tools| !tools.is_null());
        if let Some(template) = self.for_tools.as_ref().filter(|_| tools) {
            return template.render(messages, options);
        }
        if !options.continue_final_message {
            return self.run(messages, options);
        }
        let Some((last, _)) = messages.split_last() else {
            return Err(LmError::InvalidArgument(
                "continue_final_message: there is no message".to_owned(),
            ));
        };
        let mut marked = messages.to_vec();
        if let Some(last) = marked.last_mut() {
            last.content.push_str(CONTINUE_TAG);
        }
        let mut text = self.run(&marked, options)?;
        let end = text.rfind(CONTINUE_TAG.trim_end());
        let Some(end) = end.filter(|_| self.mentions_content && text.contains(last.content.trim())) else {
            return Err(LmError::InvalidArgument(
                "continue_final_message: the chat template leaves the last message out, or changes it"
                    .to_owned(),
            ));
        };
        let kept = text[end..].starts_with(CONTINUE_TAG);
        text.truncate(end);
        if !kept {
            // The template strips what is said, so it would have stripped this too.
            text.truncate(text.trim_end().len());
        }
        Ok(text)
    }

    fn run(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<String> {
        let context = Value::from(self.context(messages, options)?);
        let env = Arc::clone(&self.env);
        let (sender, receiver) = mpsc::sync_channel(1);
        let render = move || {
            // The error holds values of the template, which may be nested deeply: they are dropped on the same thread.
            let result = env
                .get_template(NAME)
                .and_then(|template| template.render(context))
                .map_err(|e| describe(&e));
            // Nobody listens any more where it took too long.
            let _ = sender.send(result);
        };
        std::thread::Builder::new()
            .name("chat template".to_owned())
            .stack_size(STACK)
            .spawn(render)
            .map_err(|e| LmError::ChatTemplate(format!("no thread to render it on: {e}")))?;
        let text = match receiver.recv_timeout(TIME) {
            Ok(result) => result?,
            Err(RecvTimeoutError::Timeout) => {
                return Err(LmError::ChatTemplate(format!(
                    "takes more than {} seconds",
                    TIME.as_secs()
                )));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(LmError::ChatTemplate("the template engine failed".to_owned()));
            }
        };
        if text.len() > MAX_TEXT {
            return Err(LmError::ChatTemplate(format!(
                "made a text of {} bytes, allowed are {MAX_TEXT}",
                text.len()
            )));
        }
        Ok(text)
    }

    /// What the template sees.
    fn context(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<BTreeMap<String, Value>> {
        // Templates ask for tools and documents without asking first whether they are defined.
        let mut context: BTreeMap<String, Value> = ["tools", "documents"]
            .map(|name| (name.to_owned(), Value::from(())))
            .into();
        for (name, token) in &self.special_tokens {
            context.insert(name.clone(), Value::from(token.as_str()));
        }
        for (name, value) in self.defaults.iter().chain(&options.variables) {
            context.insert(name.clone(), value_of(value));
        }
        let now = options.local_time;
        let given = [
            ("messages", messages.iter().map(ChatMessage::value).collect()),
            (
                "add_generation_prompt",
                Value::from(options.add_generation_prompt),
            ),
            (
                "strftime_now",
                Value::from_function(move |format: &str| time::strftime(format, now)),
            ),
        ];
        for (name, value) in given {
            if options.variables.contains_key(name) {
                return Err(LmError::InvalidArgument(format!(
                    "chat template variable {name}: found it among the further variables, wanted another name"
                )));
            }
            context.insert(name.to_owned(), value);
        }
        Ok(context)
    }
}

/// A value of JSON as one of the template engine; it keeps the order of keys.
fn value_of(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(list) => list.iter().map(value_of).collect(),
        Json::Object(map) => {
            Value::from_pairs(map.iter().map(|(key, value)| (key.as_str(), value_of(value))))
        }
    }
}

/// Jinja as transformers sets it up.
fn environment() -> Result<Environment<'static>> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    env.set_syntax(syntax.map_err(|e| describe(&e))?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_unknown_method_callback(python::method);
    env.set_fuel(Some(FUEL));
    // Errors then name what is undefined.
    env.set_debug(true);
    env.add_filter("tojson", json::tojson);
    env.add_test("sequence", python::is_sequence);
    env.add_function(
        "raise_exception",
        |message: Value| -> std::result::Result<Value, Error> {
            Err(Error::new(
                ErrorKind::InvalidOperation,
                RAISED.to_owned() + &message.to_string(),
            ))
        },
    );
    // Both are for those who write templates, and what they print of nested values grows with the square of the depth.
    env.remove_global("debug");
    env.remove_filter("pprint");
    Ok(env)
}

/// Marks an error as the template's own.
const RAISED: &str = "the template says: ";

/// An error of the template engine as one line, with the template's line.
fn describe(error: &Error) -> LmError {
    let line = error
        .line()
        .map_or(String::new(), |line| format!("line {line}: "));
    let text = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("takes more than {FUEL} steps"),
        (ErrorKind::InvalidOperation, Some(detail)) if detail.starts_with(RAISED) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    LmError::ChatTemplate(format!("{line}{}", one_line(&text)))
}

/// The template with `generation` blocks, which mark what to train on and print what is in them, as `with` blocks.
fn generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let inside = start + 2;
        out.push_str(&rest[..inside]);
        rest = &rest[inside..];
        let Some(end) = rest.find("%}") else {
            break;
        };
        let tag = &rest[..end];
        let name = tag.trim_matches(['-', '+']).trim();
        let replacement = match name {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        out.push_str(&tag.replacen(name, replacement, 1));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
