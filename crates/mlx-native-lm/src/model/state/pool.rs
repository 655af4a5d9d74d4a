//! Memory of all sequences of a decoder: blocks from one pool for each group of layers, counted, so that sequences share
//! what they have in common.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mlx_native::{DType, MlxBuffer, MlxDevice};

use super::{BLOCK, LayerState, PagedKv, Recurrent, RotatingKv, StateSpec};
use crate::error::{LmError, Result};

/// What a group of layers keeps: layers of one kind share tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Kind {
    Paged,
    /// Positions of the window, and blocks of the ring.
    Rotating {
        window: usize,
        ring: usize,
    },
    Recurrent,
}

impl Kind {
    pub(super) fn state(self) -> Box<dyn LayerState> {
        match self {
            Kind::Paged => Box::new(PagedKv),
            Kind::Rotating { window, ring } => Box::new(RotatingKv::new(window, ring)),
            Kind::Recurrent => Box::new(Recurrent),
        }
    }
}

/// A buffer of blocks.
#[derive(Debug)]
pub(in crate::model) struct Plane {
    /// `[n_blocks, block…]`
    pub buffer: MlxBuffer,
    pub dtype: DType,
    /// Shape of a block.
    pub block: Vec<usize>,
}

impl Plane {
    fn new(device: &MlxDevice, dtype: DType, block: Vec<usize>) -> Result<Self> {
        Ok(Plane {
            buffer: allocate(device, dtype, 1, &block)?,
            dtype,
            block,
        })
    }

    pub fn block_elements(&self) -> usize {
        self.block.iter().product()
    }

    pub fn block_bytes(&self) -> usize {
        self.block_elements() * self.dtype.size_of()
    }
}

fn allocate(device: &MlxDevice, dtype: DType, n_blocks: usize, block: &[usize]) -> Result<MlxBuffer> {
    let mut shape = vec![n_blocks];
    shape.extend_from_slice(block);
    Ok(device.alloc_tensor(dtype, &shape)?)
}

/// The blocks of layers that keep the same positions.
#[derive(Debug)]
pub(in crate::model) struct Group {
    pub kind: Kind,
    pub planes: Vec<Plane>,
    /// How many sequences hold each block.
    holders: Vec<u32>,
    free: Vec<u32>,
}

impl Group {
    pub fn n_blocks(&self) -> usize {
        self.holders.len()
    }

    fn block_bytes(&self) -> usize {
        self.planes.iter().map(Plane::block_bytes).sum()
    }
}

/// Where the planes of a layer's state are: its group, and the first of them.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Place {
    pub group: usize,
    pub plane: usize,
}

/// All blocks.
#[derive(Debug)]
pub(in crate::model) struct Blocks {
    pub groups: Vec<Group>,
    /// Where each layer's state is.
    pub places: Vec<Place>,
    /// Counts the times that buffers were replaced.
    pub generation: u64,
    limit: Option<usize>,
}

/// The memory of all sequences of one decoder.
#[derive(Debug)]
pub(in crate::model) struct Pool {
    device: MlxDevice,
    blocks: Mutex<Blocks>,
}

impl Pool {
    /// A pool for layers that keep what `specs` say, fed `chunk` tokens at a time at most.
    pub fn new(device: &MlxDevice, dtype: DType, specs: &[StateSpec], chunk: usize) -> Result<Self> {
        let mut groups: Vec<Group> = Vec::new();
        let mut places = Vec::new();
        for spec in specs {
            let (kind, planes) = match spec {
                StateSpec::Kv {
                    n_heads,
                    k_dim,
                    v_dim,
                    window,
                } => {
                    let planes = [*k_dim, *v_dim]
                        .into_iter()
                        .map(|dim| Plane::new(device, dtype, vec![*n_heads, BLOCK, dim]))
                        .collect::<Result<Vec<_>>>()?;
                    (kind_of(*window, chunk), planes)
                }
                StateSpec::Recurrent(planes) => {
                    let planes = (planes.iter())
                        .map(|(n, dtype)| Plane::new(device, *dtype, vec![*n]))
                        .collect::<Result<Vec<_>>>()?;
                    (Kind::Recurrent, planes)
                }
            };
            let known = groups.iter().position(|g| g.kind == kind);
            let group = known.unwrap_or_else(|| {
                groups.push(Group {
                    kind,
                    planes: Vec::new(),
                    holders: vec![0],
                    free: vec![0],
                });
                groups.len() - 1
            });
            places.push(Place {
                group,
                plane: groups[group].planes.len(),
            });
            groups[group].planes.extend(planes);
        }
        Ok(Pool {
            device: device.clone(),
            blocks: Mutex::new(Blocks {
                groups,
                places,
                generation: 0,
                limit: device.limits().max_working_set,
            }),
        })
    }

    pub fn device(&self) -> &MlxDevice {
        &self.device
    }

    /// The blocks, for as long as the guard lives. A panic of another holder leaves the counts as they were between two of
    /// their changes.
    pub fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kind_of(window: Option<usize>, chunk: usize) -> Kind {
    match window {
        // A ring holds the window and a chunk, and a block more to go back into.
        Some(window) => Kind::Rotating {
            window,
            ring: window.saturating_add(chunk).div_ceil(BLOCK).saturating_add(1),
        },
        None => Kind::Paged,
    }
}

impl Blocks {
    /// Bytes of all buffers.
    pub fn byte_len(&self) -> usize {
        self.groups.iter().map(|g| g.block_bytes() * g.n_blocks()).sum()
    }

    /// Bytes of one block of a group.
    pub fn block_bytes(&self, group: usize) -> usize {
        self.groups[group].block_bytes()
    }

    /// The most bytes that the pool may grow to; `None` = what the device has.
    pub fn set_limit(&mut self, limit: Option<usize>) {
        self.limit = limit;
    }

    /// Free blocks of a group.
    pub fn n_free(&self, group: usize) -> usize {
        self.groups[group].free.len()
    }

    /// A block that nobody holds, now held once. The state of a recurrence begins with zeros.
    pub fn take(&mut self, device: &MlxDevice, group: usize, wanted: usize) -> Result<u32> {
        if self.groups[group].free.is_empty() {
            self.grow(device, group, wanted.max(1))?;
        }
        let g = &mut self.groups[group];
        let Some(block) = g.free.pop() else {
            return Err(LmError::InvalidArgument("the pool of blocks is empty".to_owned()));
        };
        g.holders[block as usize] = 1;
        if g.kind == Kind::Recurrent {
            let mut encoder = device.command_encoder()?;
            for plane in &g.planes {
                let bytes = plane.block_bytes();
                encoder.fill_bytes(&plane.buffer, block as usize * bytes, bytes, 0)?;
            }
            encoder.try_commit()?;
        }
        Ok(block)
    }

    /// One more sequence holds the block.
    pub fn share(&mut self, group: usize, block: u32) {
        self.groups[group].holders[block as usize] += 1;
    }

    /// One sequence less holds the block.
    pub fn release(&mut self, group: usize, block: u32) {
        let g = &mut self.groups[group];
        let holders = &mut g.holders[block as usize];
        *holders = holders.saturating_sub(1);
        if *holders == 0 {
            g.free.push(block);
        }
    }

    /// A block with the contents of `block` that only the caller holds: itself, where nobody else does.
    pub fn owned(&mut self, device: &MlxDevice, group: usize, block: u32) -> Result<u32> {
        if self.groups[group].holders[block as usize] == 1 {
            return Ok(block);
        }
        let copy = self.take(device, group, 1)?;
        let mut encoder = device.command_encoder()?;
        for plane in &self.groups[group].planes {
            let bytes = plane.block_bytes();
            let (from, to) = (block as usize * bytes, copy as usize * bytes);
            encoder.copy_bytes(&plane.buffer, from, &plane.buffer, to, bytes)?;
        }
        encoder.try_commit()?;
        self.release(group, block);
        Ok(copy)
    }

    /// Makes room for at least `more` blocks: by half at least, so that a long text is not moved again and again.
    fn grow(&mut self, device: &MlxDevice, group: usize, more: usize) -> Result<()> {
        let old = self.groups[group].n_blocks();
        let least = old + more;
        let mut new = least.max(old + old / 2);
        if let Some(limit) = self.limit {
            let g = &self.groups[group];
            let others = self.byte_len() - g.block_bytes() * old;
            let most = limit.saturating_sub(others) / g.block_bytes().max(1);
            if most < least {
                return Err(LmError::InvalidArgument(format!(
                    "the cache of all sequences would take {} bytes, {limit} are allowed",
                    others.saturating_add(g.block_bytes().saturating_mul(least))
                )));
            }
            new = new.min(most);
        }
        if u32::try_from(new.saturating_mul(BLOCK)).is_err() {
            return Err(LmError::InvalidArgument(format!(
                "a cache of {new} blocks is too large"
            )));
        }
        let g = &mut self.groups[group];
        let mut encoder = device.command_encoder()?;
        let mut grown = Vec::new();
        for plane in &g.planes {
            let buffer = allocate(device, plane.dtype, new, &plane.block)?;
            encoder.copy_bytes(&plane.buffer, 0, &buffer, 0, plane.block_bytes() * old)?;
            grown.push(buffer);
        }
        encoder.try_commit()?;
        for (plane, buffer) in g.planes.iter_mut().zip(grown) {
            plane.buffer = buffer;
        }
        g.holders.resize(new, 0);
        // The lowest come first, so that a sequence by itself has its blocks in order.
        g.free.splice(0..0, (old as u32..new as u32).rev());
        self.generation += 1;
        Ok(())
    }
}
