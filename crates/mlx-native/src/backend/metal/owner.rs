//! The owner of wrapped memory.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Keeps wrapped memory valid. Metal lets go of it in its own time and on its own threads, into which a destructor of the
/// caller's must not unwind: a panic in it is logged and ends here.
struct Owner(Option<Arc<dyn Any + Send + Sync>>);

/// `owner`, safe to be dropped by Metal.
pub(super) fn quiet(owner: Arc<dyn Any + Send + Sync>) -> Arc<dyn Any + Send + Sync> {
    Arc::new(Owner(Some(owner)))
}

impl Drop for Owner {
    fn drop(&mut self) {
        let owner = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(owner))).is_err() {
            tracing::error!("metal: the owner of wrapped memory panicked when it was dropped");
        }
    }
}
