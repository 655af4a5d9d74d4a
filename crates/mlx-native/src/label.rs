//! What dispatches are labelled with: words that operators, the encoder and the graph's passes share, and that lie below
//! all of them.

/// What a captured dispatch is, as far as the graph's passes care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapturedOpKind {
    /// RMS norm.
    RmsNorm,
    /// Elementwise multiplication.
    ElemMul,
    /// Elementwise addition.
    ElemAdd,
    /// Scaled dot-product attention.
    Sdpa,
    /// Softmax.
    Softmax,
    /// Anything else.
    Other,
}

impl CapturedOpKind {
    /// Whether the reorder pass may move it forward past others.
    #[must_use]
    pub fn is_reorderable(&self) -> bool {
        !matches!(self, CapturedOpKind::Sdpa | CapturedOpKind::Softmax)
    }
}
