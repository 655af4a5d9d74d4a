//! The prompt as a chat.

use anyhow::Result;
use mlx_native_lm::{ChatMessage, ChatOptions, ChatTemplate, parse_object};
use serde_json::{Map, Value};

use crate::args::Generate;

/// The variables of `--chat-template-config`.
///
/// # Errors
/// When it is no JSON object.
pub fn variables(options: &Generate) -> Result<Map<String, Value>> {
    parse_variables(options.chat_template_config.as_deref())
}

/// The same of the flag's value.
///
/// # Errors
/// When it is no JSON object.
pub fn parse_variables(text: Option<&str>) -> Result<Map<String, Value>> {
    let Some(text) = text else {
        return Ok(Map::new());
    };
    parse_object("--chat-template-config", text.as_bytes())
        .map_err(|e| anyhow::anyhow!("{e}; wanted a JSON object such as {{\"enable_thinking\": false}}"))
}

/// Flags that were given and mean nothing without a chat template.
pub fn unused_flags(options: &Generate) -> impl Iterator<Item = &'static str> {
    let given = [
        ("--system-prompt", options.system_prompt.is_some()),
        ("--prefill-response", options.prefill_response.is_some()),
        ("--chat-template-config", options.chat_template_config.is_some()),
    ];
    given
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(flag, _)| flag)
}

/// The text of the chat that the flags describe.
///
/// # Errors
/// What the template had to say.
pub fn text(
    options: &Generate,
    template: &ChatTemplate,
    prompt: String,
    variables: Map<String, Value>,
) -> Result<String> {
    let mut messages = Vec::new();
    if let Some(system) = &options.system_prompt {
        messages.push(ChatMessage::new("system", system));
    }
    messages.push(ChatMessage::new("user", prompt));
    if let Some(answer) = &options.prefill_response {
        messages.push(ChatMessage::new("assistant", answer));
    }
    let prefilled = options.prefill_response.is_some();
    let options = ChatOptions {
        add_generation_prompt: !prefilled,
        continue_final_message: prefilled,
        variables,
        local_time: local_time(),
    };
    Ok(template.render(&messages, &options)?)
}

/// Seconds since 1970-01-01 00:00 of local time; `None` where the system does not tell.
pub fn local_time() -> Option<i64> {
    let mut local = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: a null pointer is allowed here: the time is only returned.
    let now = unsafe { libc::time(std::ptr::null_mut()) };
    // SAFETY: both pointers are to values of the right types that outlive the call; all zeros is a valid tm, so it may be
    // read whether or not it was written.
    let local = unsafe {
        if libc::localtime_r(&raw const now, local.as_mut_ptr()).is_null() {
            return None;
        }
        local.assume_init()
    };
    now.checked_add(local.tm_gmtoff)
}
