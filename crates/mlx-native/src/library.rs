//! Where the layers meet: the operators' kernels go into the registry, and sessions get the operators' names.

use std::sync::{Arc, OnceLock};

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::error::Result;
use crate::graph::GraphSession;
use crate::ops;
use crate::ops::sdpa::{SdpaParams, sdpa};
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
                .get_or_init(|| Arc::new(KernelTable::of(ops::all())))
                .clone(),
        )
    }
}

impl GraphSession<'_> {
    /// Records scaled dot-product attention: [`sdpa`].
    ///
    /// # Errors
    /// As [`sdpa`].
    #[allow(clippy::too_many_arguments)]
    pub fn sdpa(
        &mut self,
        registry: &mut KernelRegistry,
        device: &MlxDevice,
        q: &MlxBuffer,
        k: &MlxBuffer,
        v: &MlxBuffer,
        output: &MlxBuffer,
        params: &SdpaParams,
        batch_size: u32,
    ) -> Result<()> {
        sdpa(
            self.encoder_mut(),
            registry,
            device,
            q,
            k,
            v,
            output,
            params,
            batch_size,
        )
    }
}
