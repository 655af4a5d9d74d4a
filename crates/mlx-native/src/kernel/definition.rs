//! A kernel as it is known before any device made something of it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use super::msl::KernelSignature;
use super::source::SourceText;

/// Everything a device needs to make a pipeline of a kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Name: the host name in the Metal text.
    pub name: Arc<str>,
    /// The text it is defined in, includes flattened.
    pub source: Arc<SourceText>,
    /// Its signature, one of `source.module()`.
    pub signature: Arc<KernelSignature>,
    /// Bodies that devices bring besides the text.
    pub bodies: Bodies,
}

/// Bodies of a kernel that are not its text, at most one of each type. A device finds its own by type (the `cpu` a
/// [`CpuBody`](crate::backend::cpu::CpuBody)); to everybody else they mean nothing.
#[derive(Clone, Default)]
pub struct Bodies(SmallVec<[Arc<dyn Any + Send + Sync>; 1]>);

impl Bodies {
    /// `body` alone.
    #[must_use]
    pub fn of<B: Any + Send + Sync>(body: B) -> Self {
        let mut all = Bodies::default();
        all.insert(body);
        all
    }

    /// Adds `body`, in place of one of the same type.
    pub fn insert<B: Any + Send + Sync>(&mut self, body: B) {
        self.0.retain(|b| !b.is::<B>());
        self.0.push(Arc::new(body));
    }

    /// The body of type `B`.
    #[must_use]
    pub fn get<B: Any + Send + Sync>(&self) -> Option<&B> {
        self.0.iter().find_map(|b| b.downcast_ref())
    }
}

impl fmt::Debug for Bodies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bodies({})", self.0.len())
    }
}
