//! Where the layers meet: the operators' kernels go into the registry, sessions get the operators' names, and graphs the pass
//! that knows operators.

mod fuse;
mod session;

use std::sync::{Arc, OnceLock};

use crate::device::DeviceRef;
use crate::error::Result;
use crate::graph::ComputeGraph;
use crate::ops;
use crate::registry::{KernelRegistry, KernelTable};

impl Default for KernelRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl KernelRegistry {
    /// A registry that knows every kernel of this library; none is compiled yet.
    #[must_use]
    pub fn new() -> Self {
        static TABLE: OnceLock<Arc<KernelTable>> = OnceLock::new();
        Self::with_base(
            TABLE
                .get_or_init(|| Arc::new(KernelTable::of(ops::all()).with_names(ops::published_names::NAMES)))
                .clone(),
        )
    }
}

impl ComputeGraph {
    /// Puts an RMS norm and the elementwise product behind it, with barriers between them, into one dispatch, and returns how many
    /// pairs it found. The norm's own output is still written: nobody who reads it sees a difference, and results differ by at
    /// most the rounding of the product.
    ///
    /// A pair fits when the product is one of all elements of the norm's output with another buffer.
    ///
    /// # Errors
    /// What making the pipeline ends with; the graph is then as it was.
    pub fn fuse(&mut self, registry: &mut KernelRegistry, device: &DeviceRef) -> Result<u32> {
        let (nodes, fused) = fuse::fuse(self.nodes(), registry, device)?;
        *self = ComputeGraph::from_nodes(nodes);
        Ok(fused)
    }
}
