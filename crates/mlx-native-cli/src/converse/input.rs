//! What is typed: lines with editing and history, put together where they belong together, and the commands among them.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

const PROMPT: &str = ">> ";
const MORE: &str = ".. ";
/// What stands before and behind a text of several lines.
const FENCE: &str = "\"\"\"";

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Say(String),
    Help,
    Reset,
    System(Option<String>),
    Save(PathBuf),
    Load(PathBuf),
    Stats,
    Quit,
    Unknown(String),
}

impl Command {
    fn of(text: String) -> Option<Self> {
        let line = text.trim();
        if line.is_empty() {
            return None;
        }
        // mlx-lm's.
        match line {
            "q" => return Some(Command::Quit),
            "r" => return Some(Command::Reset),
            "h" => return Some(Command::Help),
            _ => {}
        }
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphabetic()) && !name.is_empty();
        let command = line
            .strip_prefix('/')
            .map(|l| l.split_once(char::is_whitespace).unwrap_or((l, "")));
        // A path or a comment that begins with a slash is said, not obeyed.
        let Some((name, rest)) = command.filter(|(name, _)| is_name(name)) else {
            return Some(Command::Say(text));
        };
        let rest = rest.trim();
        Some(match (name, rest.is_empty()) {
            ("help", true) => Command::Help,
            ("reset" | "clear", true) => Command::Reset,
            ("system", empty) => Command::System((!empty).then(|| rest.to_owned())),
            ("save", false) => Command::Save(rest.into()),
            ("load", false) => Command::Load(rest.into()),
            ("stats", true) => Command::Stats,
            ("quit" | "exit" | "bye", true) => Command::Quit,
            ("save" | "load", true) => Command::Unknown(format!("/{name} without a file")),
            _ => Command::Unknown(line.to_owned()),
        })
    }
}

/// Lines of a terminal or of a pipe.
pub struct Input {
    editor: DefaultEditor,
    is_terminal: bool,
}

impl Input {
    pub fn new() -> Result<Self> {
        Ok(Input {
            editor: DefaultEditor::new().context("the terminal")?,
            is_terminal: std::io::stdin().is_terminal(),
        })
    }

    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    fn line(&mut self, prompt: &str) -> Result<String, ReadlineError> {
        self.editor.readline(if self.is_terminal { prompt } else { "" })
    }

    /// The next command.
    ///
    /// # Errors
    /// At the end of the input, by Ctrl-C, and when it cannot be read.
    pub fn next(&mut self) -> Result<Command, ReadlineError> {
        loop {
            let text = self.text()?;
            if self.is_terminal && !text.trim().is_empty() {
                self.editor.add_history_entry(text.as_str())?;
            }
            if let Some(command) = Command::of(text) {
                return Ok(command);
            }
        }
    }

    /// A line, with those that belong to it.
    fn text(&mut self) -> Result<String, ReadlineError> {
        let mut text = self.line(PROMPT)?;
        if let Some(rest) = text.trim_start().strip_prefix(FENCE) {
            let mut inside = rest.to_owned();
            loop {
                if let Some(whole) = inside.trim_end().strip_suffix(FENCE) {
                    return Ok(whole.trim_matches('\n').to_owned());
                }
                inside.push('\n');
                inside += &self.line(MORE)?;
            }
        }
        while let Some(begun) = text.strip_suffix('\\') {
            let next = self.line(MORE)?;
            text = format!("{begun}\n{next}");
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_what_is_said() {
        let of = |text: &str| Command::of(text.to_owned());
        assert_eq!(of("  "), None);
        assert_eq!(of("hello"), Some(Command::Say("hello".to_owned())));
        assert_eq!(of("/reset "), Some(Command::Reset));
        assert_eq!(
            of("/system  be brief "),
            Some(Command::System(Some("be brief".to_owned())))
        );
        assert_eq!(of("/system"), Some(Command::System(None)));
        assert_eq!(of("/save a b.json"), Some(Command::Save("a b.json".into())));
        assert_eq!(
            of("/save"),
            Some(Command::Unknown("/save without a file".to_owned()))
        );
        assert_eq!(
            of("/nonsense x"),
            Some(Command::Unknown("/nonsense x".to_owned()))
        );
        assert_eq!(of("q"), Some(Command::Quit));
        for said in ["/usr/bin is a folder", "// a comment", "/* another */", "quit"] {
            assert_eq!(of(said), Some(Command::Say(said.to_owned())));
        }
    }
}
