//! What a request says of the model's thoughts: whether there may be any, how much effort they are worth, how many tokens they may
//! have. Every interface and client has a name of its own for it.

use mlx_native_lm::engine;
use serde_json::{Map, Value, json};

use super::family::Thinking;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::models::ServedModel;

/// Names of a number of tokens.
const BUDGETS: [&str; 4] = [
    "thinking_token_budget",
    "thinking_budget",
    "thinking_budget_tokens",
    "reasoning_budget",
];

/// Tokens of thoughts that an effort stands for, where the template has no words for efforts; `None`: as many as the model likes.
const EFFORTS: [(&str, Option<usize>); 6] = [
    ("minimal", Some(128)),
    ("low", Some(1024)),
    ("medium", Some(4096)),
    ("high", None),
    ("xhigh", None),
    ("max", None),
];

/// What a request says of thoughts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Thoughts {
    /// Whether the model may think, where that is said.
    pub enabled: Option<bool>,
    /// Tokens at most.
    pub budget: Option<usize>,
    /// The name of the field and its word.
    pub effort: Option<(String, String)>,
}

impl Thoughts {
    /// All that requests in OpenAI's manner may say.
    pub fn of_openai(fields: &Fields<'_>) -> ApiResult<Self> {
        let mut thoughts = Thoughts::default();
        if let Some(reasoning) = fields.object("reasoning")? {
            thoughts.reasoning(&Fields::inside(reasoning, "reasoning."))?;
        }
        thoughts.anthropic(fields)?;
        if let Some(effort) = fields.str("reasoning_effort")? {
            thoughts.say_effort(fields.name("reasoning_effort"), effort);
        }
        if let Some(flag) = fields.bool("enable_thinking")? {
            thoughts.enabled = Some(flag);
        }
        if let Some(variables) = fields.object("chat_template_kwargs")? {
            let inner = Fields::inside(variables, "chat_template_kwargs.");
            for name in ["enable_thinking", "thinking"] {
                if let Some(Value::Bool(flag)) = inner.get(name) {
                    thoughts.enabled = Some(*flag);
                }
            }
        }
        for name in BUDGETS {
            match fields.i64(name)? {
                // -1 is how some say that there is no limit.
                None | Some(-1) => {}
                Some(_) => thoughts.budget = fields.usize(name, 0, usize::MAX)?,
            }
        }
        Ok(thoughts)
    }

    /// `reasoning` of responses, and of some servers' chats.
    fn reasoning(&mut self, fields: &Fields<'_>) -> ApiResult<()> {
        if let Some(effort) = fields.str("effort")? {
            self.say_effort(fields.name("effort"), effort);
        }
        if let Some(flag) = fields.bool("enabled")? {
            self.enabled = Some(flag);
        }
        if let Some(budget) = fields.usize("max_tokens", 0, usize::MAX)? {
            self.budget = Some(budget);
        }
        if fields.bool("exclude")? == Some(true) {
            return Err(ApiError::unsupported(fields.name("exclude")));
        }
        // The model has one mode, and its template decides what it sees of earlier thoughts.
        for (name, neutral) in [("mode", "standard"), ("context", "auto")] {
            if fields.str(name)?.is_some_and(|word| word != neutral) {
                return Err(ApiError::unsupported(fields.name(name)));
            }
        }
        for name in ["summary", "generate_summary"] {
            fields.str(name)?;
        }
        Ok(())
    }

    /// `thinking` as Anthropic has it.
    pub fn anthropic(&mut self, fields: &Fields<'_>) -> ApiResult<()> {
        let Some(thinking) = fields.object("thinking")? else {
            return Ok(());
        };
        let path = format!("{}.", fields.name("thinking"));
        let thinking = Fields::inside(thinking, &path);
        match thinking.str("type")? {
            Some("enabled" | "adaptive" | "auto") => self.enabled = Some(true),
            Some("disabled") => self.enabled = Some(false),
            Some(other) => {
                return Err(ApiError::invalid(
                    thinking.name("type"),
                    format!("found {other:?}, wanted \"enabled\", \"adaptive\" or \"disabled\""),
                ));
            }
            None => return Err(ApiError::invalid(thinking.name("type"), "missing")),
        }
        if thinking.str("display")?.is_some_and(|word| word != "summarized") {
            return Err(ApiError::unsupported(thinking.name("display")));
        }
        self.budget = thinking.usize("budget_tokens", 1, usize::MAX)?;
        Ok(())
    }

    /// An effort by a field of this name.
    pub fn say_effort(&mut self, name: String, effort: &str) {
        if effort == "none" {
            self.enabled = Some(false);
        } else {
            self.effort = Some((name, effort.to_owned()));
        }
    }

    /// What the template gets of it.
    pub fn variables(&self, variables: &mut Map<String, Value>) {
        let mut say = |name: &str, value: Value| {
            // What was said to the template itself counts.
            variables.entry(name).or_insert(value);
        };
        if let Some(enabled) = self.enabled {
            say("enable_thinking", json!(enabled));
            say("thinking", json!(enabled));
        }
        if let Some((_, effort)) = &self.effort {
            say("reasoning_effort", json!(effort));
        }
    }

    /// Checks the effort: what the template has no words for has to be one that everybody knows.
    pub fn check(&self, model: &ServedModel) -> ApiResult<()> {
        match &self.effort {
            Some((name, effort)) if !model.template_has_effort => {
                let known = EFFORTS.iter().any(|(word, _)| word == effort);
                let words: Vec<&str> = EFFORTS.iter().map(|(word, _)| *word).collect();
                let message = || format!("found {effort:?}, wanted one of none, {}", words.join(", "));
                if known {
                    Ok(())
                } else {
                    Err(ApiError::invalid(name, message()))
                }
            }
            _ => Ok(()),
        }
    }

    /// Tokens of thoughts at most.
    fn tokens(&self, model: &ServedModel) -> Option<usize> {
        if self.enabled == Some(false) {
            return Some(0);
        }
        let by_effort = || {
            let (_, effort) = self.effort.as_ref().filter(|_| !model.template_has_effort)?;
            EFFORTS.iter().find(|(word, _)| word == effort)?.1
        };
        self.budget.or_else(by_effort)
    }

    /// What the engine is told, for thoughts between these marks.
    pub fn rules(&self, model: &ServedModel, marks: Thinking, is_open: bool) -> ApiResult<engine::Thinking> {
        let budget = self.tokens(model);
        let ending = match budget {
            Some(_) => model.tokenizer.encode_with(marks.ending, false)?,
            None => Vec::new(),
        };
        Ok(engine::Thinking {
            open: marks.open.to_owned(),
            close: marks.close.to_owned(),
            is_open,
            budget: budget.filter(|_| !ending.is_empty()),
            ending,
        })
    }
}
