//! From a chat to a request of the engine, and to what reads its answer.

use std::sync::Arc;
use std::time::Duration;

use mlx_native_lm::engine::{Begin, Grammar, Request};
use mlx_native_lm::{ChatMessage, ChatOptions};
use serde_json::{Map, Value, json};

use super::family::{Family, HARMONY};
use super::forced;
use super::messages::{Choice, Tool};
use super::thoughts::Thoughts;
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::models::ServedModel;
use crate::output::Reader;

/// Longest time that a chat template may take.
const TEMPLATE_TIME: Duration = Duration::from_secs(10);

/// A chat, whichever interface it came by.
#[derive(Debug, Clone)]
pub(crate) struct Chat {
    pub messages: Vec<ChatMessage>,
    pub tools: Vec<Tool>,
    pub choice: Choice,
    /// Whether there may be several calls; where nothing is said, several that the model makes by itself, but one that is forced:
    /// weak models would go on for ever.
    pub parallel: Option<bool>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
    /// Whether and how much the model may think.
    pub thoughts: Thoughts,
    /// Whether the answer goes on with the last message.
    pub continues: bool,
    /// The form of the answer, and the name of the field that asks for it.
    pub grammar: Option<(String, Grammar)>,
    pub request: Request,
}

/// A request that is ready, and what reads the text of its choices.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub model: Arc<ServedModel>,
    pub request: Request,
    pub reader: Reader,
}

/// Makes the prompt and the grammar. Everything that may be wrong with a request is said here, before an answer begins.
pub(crate) async fn prepare(app: &App, model: Arc<ServedModel>, mut chat: Chat) -> ApiResult<Prepared> {
    if chat.choice == Choice::None {
        chat.tools.clear();
    }
    chat.thoughts.check(&model)?;
    chat.thoughts.variables(&mut chat.variables);
    let permit = app.templates.clone().acquire_owned().await;
    let task = {
        let model = model.clone();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let text = render(&model, &mut chat)?;
            Ok::<_, ApiError>((chat, text))
        })
    };
    let (chat, text) = match tokio::time::timeout(TEMPLATE_TIME, task).await {
        Ok(Ok(rendered)) => rendered?,
        Ok(Err(_)) => return Err(ApiError::invalid("messages", "the prompt could not be made")),
        // The thread runs on until the template's own budget ends it; its permit is not given back before.
        Err(_) => return Err(ApiError::invalid("messages", "the chat template takes too long")),
    };
    // Not a matter of the template: the first grammar of a model takes its time, and each has limits of its own.
    let task = tokio::task::spawn_blocking(move || build(model, chat, &text));
    task.await
        .unwrap_or_else(|_| Err(ApiError::invalid("messages", "the prompt could not be made")))
}

fn build(model: Arc<ServedModel>, mut chat: Chat, text: &str) -> ApiResult<Prepared> {
    chat.request.prompt = model.tokenizer.encode_with(text, false)?;
    // Where the template has opened what the model thinks, the text begins inside.
    let open = model.thinking.filter(|t| text.trim_end().ends_with(t.open));
    let closed = model.thinking.is_some_and(|t| text.trim_end().ends_with(t.close));
    let mut family = model.family;
    let mut constraint = None;
    let forced = matches!(chat.choice, Choice::Required | Choice::Named(_));
    if let Some((name, grammar)) = &chat.grammar {
        if forced {
            return Err(ApiError::invalid(
                name,
                "it cannot be joined with a tool_choice that forces a call",
            ));
        }
        let compiled = model.backend.compile(grammar).map_err(|error| match error {
            mlx_native_lm::engine::EngineError::Invalid { message, .. } => ApiError::invalid(name, message),
            other => other.into(),
        })?;
        constraint = Some(compiled);
    } else if forced {
        family = forced::parser_of(model.family);
        constraint = Some(forced::required(
            &model,
            &chat.tools,
            &chat.choice,
            chat.parallel,
        )?);
    } else if !chat.tools.is_empty() {
        constraint = forced::lazy(&model, &chat.tools, chat.parallel)?;
        chat.request.constraint = constraint.take();
    }
    if let Some(constraint) = constraint {
        // What a model thinks is free; where the prompt does not open it, the form holds at once.
        let begin = match open {
            Some(thinking) => Begin::After(thinking.close.to_owned()),
            None => Begin::AtOnce,
        };
        chat.request.constraint = Some(constraint.beginning(begin));
    }
    let is_form = chat.grammar.is_some();
    let thinking = model.thinking.filter(|_| !closed && (!is_form || open.is_some()));
    let tools = if is_form && chat.tools.is_empty() {
        Vec::new()
    } else {
        chat.tools
    };
    let harmony = model.family == Family::Harmony && !is_form && !forced;
    let marks = if harmony { Some(HARMONY) } else { thinking };
    chat.request.thinking = match marks {
        Some(marks) => Some(chat.thoughts.rules(&model, marks, open.is_some() && !harmony)?),
        None => None,
    };
    let reader = Reader::new(
        if harmony { Family::Harmony } else { family },
        tools,
        thinking,
        open.is_some(),
    );
    Ok(Prepared {
        model,
        request: chat.request,
        reader,
    })
}

fn render(model: &ServedModel, chat: &mut Chat) -> ApiResult<String> {
    if !chat.tools.is_empty() {
        let tools: Vec<Value> = chat.tools.iter().map(|t| t.json.clone()).collect();
        if model.template_has_tools {
            chat.variables.insert("tools".to_owned(), Value::Array(tools));
        } else {
            describe_tools(&mut chat.messages, &tools);
        }
    }
    let options = ChatOptions {
        add_generation_prompt: !chat.continues,
        continue_final_message: chat.continues,
        variables: std::mem::take(&mut chat.variables),
        local_time: None,
    };
    Ok(model.template.render(&chat.messages, &options)?)
}

/// Tells a model whose template knows no tools of them, in the system's message.
fn describe_tools(messages: &mut Vec<ChatMessage>, tools: &[Value]) {
    let list: Vec<String> = tools.iter().map(Value::to_string).collect();
    let text = format!(
        "You may call these tools:\n<tools>\n{}\n</tools>\nA call is written as\n<tool_call>\n{{\"name\": \"NAME\", \"arguments\": {{…}}}}\n</tool_call>",
        list.join("\n")
    );
    match messages.first_mut() {
        Some(first) if first.role == "system" => {
            first.content = format!("{}\n\n{text}", first.content);
        }
        _ => messages.insert(0, ChatMessage::new("system", text)),
    }
}

/// Variables of the template that requests in OpenAI's manner may set.
pub(crate) fn variables(fields: &Fields<'_>, model: &ServedModel) -> ApiResult<Map<String, Value>> {
    let mut variables = Map::new();
    if let Some(further) = fields.object("chat_template_kwargs")? {
        for (name, value) in further {
            variables.insert(name.clone(), value.clone());
        }
    }
    for name in ["messages", "tools", "add_generation_prompt"] {
        if variables.contains_key(name) {
            return Err(ApiError::invalid(
                format!("chat_template_kwargs.{name}"),
                "it is set by the request itself",
            ));
        }
    }
    if let Some(documents) = fields.array("documents")?.filter(|list| !list.is_empty()) {
        if !model.template_has_documents {
            return Err(ApiError::unsupported(fields.name("documents")));
        }
        variables.insert("documents".to_owned(), json!(documents));
    }
    verbosity(fields, model, &mut variables)?;
    Ok(variables)
}

/// How much is to be said: the template's to tell the model, where it can.
pub(crate) fn verbosity(
    fields: &Fields<'_>,
    model: &ServedModel,
    variables: &mut Map<String, Value>,
) -> ApiResult<()> {
    match fields.str("verbosity")? {
        Some(word) if model.template_has_verbosity => {
            variables.insert("verbosity".to_owned(), json!(word));
            Ok(())
        }
        // What there is where nothing is said.
        None | Some("medium") => Ok(()),
        Some(_) => Err(ApiError::unsupported(fields.name("verbosity"))),
    }
}
