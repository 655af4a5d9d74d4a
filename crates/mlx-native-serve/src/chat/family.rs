//! How families of models write calls of tools, and what they think before they answer; told by the text of the chat template.

/// How a call of a tool is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.
    Hermes,
    /// `<function=NAME><parameter=K>V</parameter></function>`, in `<tool_call>`.
    QwenCoder,
    /// `{"name": …, "parameters": {…}}`, bare or behind `<|python_tag|>`.
    Llama3,
    /// `[f(a=1)]`.
    Pythonic,
    /// `<|tool_call_start|>[f(a=1)]<|tool_call_end|>`.
    Lfm2,
    /// `[TOOL_CALLS][{…}]` and `[TOOL_CALLS]name[ARGS]{…}`.
    Mistral,
    /// Channels: `<|channel|>commentary to=functions.NAME<|message|>{…}<|call|>`.
    Harmony,
    /// `<start_function_call>call:f{k:<escape>v<escape>}<end_function_call>`.
    Gemma3,
    /// `<|tool_call>call:f{k:<|"|>v<|"|>}<tool_call|>`.
    Gemma4,
    /// `<｜tool▁call▁begin｜>…<｜tool▁sep｜>…<｜tool▁call▁end｜>`.
    DeepSeek,
    /// `<tool_call>NAME<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>`.
    Glm,
    /// `<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`.
    Kimi,
    /// `<invoke name="f"><parameter name="k">v</parameter></invoke>`, in `<minimax:tool_call>`.
    MiniMax,
    /// `<longcat_tool_call>{…}</longcat_tool_call>`.
    LongCat,
}

impl Family {
    /// By marks in the chat template; the most widespread form where there is none. Marks that contain others go first.
    pub fn of_template(text: &str) -> Self {
        let marks = [
            ("<|channel|>", Family::Harmony),
            ("<|tool_call>", Family::Gemma4),
            ("<start_function_call>", Family::Gemma3),
            ("<｜tool▁call", Family::DeepSeek),
            ("<|tool_call_begin|>", Family::Kimi),
            ("<minimax:tool_call>", Family::MiniMax),
            ("<longcat_tool_call>", Family::LongCat),
            ("<|tool_call_start|>", Family::Lfm2),
            ("[TOOL_CALLS]", Family::Mistral),
            ("<arg_key>", Family::Glm),
            ("<function=", Family::QwenCoder),
            ("<tool_call>", Family::Hermes),
            ("<|python_tag|>", Family::Llama3),
            ("[func_name1(", Family::Pythonic),
            ("<|header_start|>", Family::Pythonic),
        ];
        // Llama 3 names its tag in a comment of some templates only; its headers are certain.
        let llama = text.contains("<|start_header_id|>") && text.contains("parameters");
        let found = marks.iter().find(|(mark, _)| text.contains(mark));
        match found {
            Some((_, family)) => *family,
            None if llama => Family::Llama3,
            None => Family::Hermes,
        }
    }
}

/// The marks around what a model thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thinking {
    pub open: &'static str,
    pub close: &'static str,
    /// What is written in the model's stead where it may think no longer: the mark that closes, with the white space that models were
    /// trained to have around it.
    pub ending: &'static str,
}

/// Thoughts of gpt-oss are a channel of their own; the answer is another.
pub(crate) const HARMONY: Thinking = Thinking {
    open: "<|channel|>analysis<|message|>",
    close: "<|end|>",
    ending: "<|end|><|start|>assistant<|channel|>final<|message|>",
};

impl Thinking {
    /// By marks in the chat template; `None` where it has none.
    pub fn of_template(text: &str) -> Option<Self> {
        let marks = [
            ("<think>", "</think>", "\n</think>\n\n"),
            ("[THINK]", "[/THINK]", "[/THINK]"),
            ("<|channel>thought", "<channel|>", "<channel|>"),
            ("<longcat_think>", "</longcat_think>", "\n</longcat_think>\n"),
            ("<|think:start|>", "<|think:end|>", "<|think:end|>"),
            ("<seed:think>", "</seed:think>", "</seed:think>"),
        ];
        let has = |(open, close, _): &&(&str, &str, &str)| text.contains(close) || text.contains(open);
        let (open, close, ending) = marks.iter().find(has)?;
        Some(Thinking { open, close, ending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_contains_another_goes_first() {
        let cases = [
            ("… <|tool_call>call: …", Family::Gemma4),
            ("<tool_call>\n<function=", Family::QwenCoder),
            ("<tool_call>{name}", Family::Hermes),
            ("<tool_call>{n}<arg_key>", Family::Glm),
            ("{{ '<|tool_call_begin|>' }}", Family::Kimi),
            ("<|start_header_id|>… \"parameters\"", Family::Llama3),
            ("", Family::Hermes),
        ];
        for (text, family) in cases {
            assert_eq!(Family::of_template(text), family, "{text}");
        }
        assert_eq!(Thinking::of_template("…</think>…").unwrap().open, "<think>");
        assert_eq!(Thinking::of_template("nothing"), None);
    }
}
