//! What ends a template.

/// Why a template cannot be compiled, or ended: one line of text, with the template's line.
#[derive(Debug, Clone)]
pub(crate) struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    text: String,
    line: Option<u32>,
    deep: bool,
}

/// `Result` with [`Error`].
pub(crate) type Res<T> = Result<T, Error>;

impl Error {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            text: text.into(),
            line: None,
            deep: false,
        }))
    }

    /// Of something nested deeper than the stack allows for.
    pub(crate) fn too_deep(text: impl Into<String>) -> Self {
        let mut error = Error::new(text);
        error.0.deep = true;
        error
    }

    /// Whether a larger stack would have helped.
    pub(crate) fn is_too_deep(&self) -> bool {
        self.0.deep
    }

    /// With the line, unless it has one: the innermost counts.
    pub(crate) fn at(mut self, line: u32) -> Self {
        self.0.line.get_or_insert(line);
        self
    }

    pub(crate) fn line(&self) -> Option<u32> {
        self.0.line
    }

    pub(crate) fn text(&self) -> &str {
        &self.0.text
    }
}
