//! Tokens back to text, with every token on the line it came from.

use super::lexer::{Kind, Token};

/// A gap of more lines than this is bridged by a `#line` directive.
const MAX_BLANK_LINES: u32 = 12;

/// Builds the output text.
pub(crate) struct Emitter {
    out: String,
    files: Vec<String>,
    line: u32,
    file: u32,
    line_is_empty: bool,
}

impl Emitter {
    /// `files` as the preprocessor found them; the text itself is called `name` in diagnostics.
    pub fn new(files: &[String], name: &str) -> Self {
        let quoted = |f: &String| {
            let f = if f.is_empty() { name } else { f };
            f.replace(['\\', '"', '\n'], "_")
        };
        let files = files.iter().map(quoted).collect();
        Self {
            out: String::new(),
            files,
            line: 0,
            file: u32::MAX,
            line_is_empty: true,
        }
    }

    /// Appends a token as it is.
    pub fn token(&mut self, token: &Token<'_>) {
        if token.kind == Kind::Pragma {
            self.pragma(token);
        } else {
            self.text(&token.text, token.line, token.file);
        }
    }

    /// Appends text that stands at `line`.
    pub fn text(&mut self, text: &str, line: u32, file: u32) {
        self.go_to(line, file);
        if !self.line_is_empty {
            self.out.push(' ');
        }
        self.out.push_str(text);
        self.line_is_empty = false;
    }

    fn pragma(&mut self, token: &Token<'_>) {
        if !self.line_is_empty {
            self.out.push('\n');
            self.line += 1;
            self.line_is_empty = true;
        }
        self.go_to(token.line, token.file);
        self.out.push_str(&token.text);
        self.out.push('\n');
        self.line += 1;
    }

    fn go_to(&mut self, line: u32, file: u32) {
        if self.file == file && self.line == line {
            return;
        }
        let near = self.file == file && line > self.line && line - self.line <= MAX_BLANK_LINES;
        if near {
            for _ in self.line..line {
                self.out.push('\n');
            }
        } else {
            let name = self.files.get(file as usize).map_or("", String::as_str);
            self.out.push_str(&format!("\n#line {line} \"{name}\"\n"));
        }
        (self.line, self.file, self.line_is_empty) = (line, file, true);
    }

    /// The text.
    pub fn finish(mut self) -> String {
        self.out.push('\n');
        self.out
    }
}
