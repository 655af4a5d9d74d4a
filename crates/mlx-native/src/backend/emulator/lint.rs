//! Pointers that leave their address space.

/// A pointer of one address space where another is wanted.
#[derive(Clone, Debug)]
pub struct LintFinding {
    /// File of the text.
    pub file: String,
    /// Line in it.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}
