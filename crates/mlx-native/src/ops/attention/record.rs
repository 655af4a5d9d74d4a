//! From a checked attention to dispatches.

use bytemuck::{Pod, Zeroable};

use super::plan::{self, Family, Variant, rows_cut};
use super::{AttentionParams, Extras, MAX_KV_LEN};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CapturedOpKind, CommandEncoder, KernelArg, as_bytes};
use crate::error::{MlxError, Result, invalid};
use crate::kernel::ConstantValue;
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;
use crate::ops::check;
use crate::ops::step::KvState;

/// The parameter struct of the kernels; `attention.metal` says what the fields mean.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Shape {
    pub n_rows: u32,
    pub n_seqs: u32,
    pub n_heads: u32,
    pub n_kv_heads: u32,
    pub head_dim: u32,
    pub v_dim: u32,
    pub scale: f32,
    pub softcap: f32,
    pub window: u32,
    pub causal: u32,
    pub max_kv_len: u32,
    pub block_shift: u32,
    pub head_rows: u32,
    pub n_blocks: u32,
    pub blocks_per_seq: u32,
    pub dense: u32,
    pub dense_rows: u32,
    pub dense_start: u32,
    pub q_row_stride: u32,
    pub q_head_stride: u32,
    pub out_row_stride: u32,
    pub out_head_stride: u32,
    pub mask_kind: u32,
    pub mask_seq_stride: u32,
    pub mask_head_stride: u32,
    pub mask_row_stride: u32,
    pub has_sinks: u32,
    pub min_rows: u32,
    pub max_rows: u32,
    pub first_seq: u32,
    pub first_row: u32,
    pub rows_here: u32,
    pub slots_per_seq: u32,
    pub n_parts: u32,
}

/// Indices of function constants.
const ROWS: u32 = 0;
pub(super) const DIRECT: u32 = 1;
const WIDE: u32 = 2;

/// A checked attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    shape: Shape,
    max_rows_per_seq: u32,
    family: Family,
}

/// Sizes of an attention over a dense cache: sequence `s` has block `s`, and all have as many rows and keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dense {
    pub batch_size: u32,
    pub n_heads: u32,
    pub n_kv_heads: u32,
    pub head_dim: u32,
    pub v_dim: u32,
    pub rows: u32,
    pub keys: u32,
    /// Positions that a head of the cache has room for.
    pub capacity: u32,
    pub scale: f32,
    pub softcap: f32,
    pub window: u32,
    pub causal: bool,
    pub family: Family,
}

/// The buffers of an attention.
#[derive(Clone, Copy)]
pub(crate) struct Buffers<'a> {
    pub q: &'a MlxBuffer,
    pub k: &'a MlxBuffer,
    pub v: &'a MlxBuffer,
    pub output: &'a MlxBuffer,
    pub extras: Extras<'a>,
    /// None for a dense cache.
    pub state: Option<KvState<'a>>,
}

impl Layout {
    pub(super) fn paged(p: &AttentionParams, extras: &Extras<'_>) -> Self {
        let shape = Shape {
            n_rows: p.n_rows,
            n_seqs: p.pool.n_seqs,
            n_heads: p.n_heads,
            n_kv_heads: p.n_kv_heads,
            head_dim: p.head_dim,
            v_dim: p.v_dim,
            scale: p.scale,
            softcap: p.softcap,
            window: p.window,
            causal: p.causal.into(),
            max_kv_len: p.max_kv_len,
            block_shift: p.pool.block_size.trailing_zeros(),
            head_rows: p.pool.block_size,
            n_blocks: p.pool.n_blocks,
            blocks_per_seq: p.pool.blocks_per_seq,
            q_row_stride: p.q_row_stride,
            q_head_stride: p.head_dim,
            out_row_stride: p.n_heads * p.v_dim,
            out_head_stride: p.v_dim,
            ..Shape::zeroed()
        };
        Layout { shape, max_rows_per_seq: p.max_rows_per_seq, family: p.family }.with_extras(extras)
    }

    /// `q` and `output` are `[batch_size, n_heads, rows, head_dim or v_dim]`; sizes are checked.
    ///
    /// # Errors
    /// When a stride, or the cache's rows, go beyond 32 bits, or a sequence has more than [`MAX_KV_LEN`] keys.
    pub(crate) fn dense(d: &Dense, extras: &Extras<'_>) -> Result<Self> {
        let fits = |factors: &[u32]| {
            let product = check::product("sdpa", "a sequence", factors)?;
            u32::try_from(product)
                .map_err(|_| MlxError::InvalidArgument(format!("sdpa: the product of {factors:?} is beyond 32 bits")))
        };
        fits(&[d.batch_size, d.n_kv_heads, d.capacity])?;
        if d.keys > MAX_KV_LEN {
            return invalid!("sdpa: {} keys, at most {MAX_KV_LEN} are possible", d.keys);
        }
        let shape = Shape {
            n_rows: d.rows,
            n_seqs: d.batch_size,
            n_heads: d.n_heads,
            n_kv_heads: d.n_kv_heads,
            head_dim: d.head_dim,
            v_dim: d.v_dim,
            scale: d.scale,
            softcap: d.softcap,
            window: d.window,
            causal: d.causal.into(),
            max_kv_len: d.keys,
            // All positions are in the first entry.
            block_shift: 31,
            head_rows: d.capacity,
            n_blocks: d.batch_size,
            blocks_per_seq: 1,
            dense: 1,
            dense_rows: d.rows,
            dense_start: fits(&[d.n_heads, d.rows])?,
            q_row_stride: d.head_dim,
            q_head_stride: fits(&[d.rows, d.head_dim])?,
            out_row_stride: d.v_dim,
            out_head_stride: fits(&[d.rows, d.v_dim])?,
            ..Shape::zeroed()
        };
        Ok(Layout { shape, max_rows_per_seq: d.rows, family: d.family }.with_extras(extras))
    }

    fn with_extras(mut self, extras: &Extras<'_>) -> Self {
        self.shape.has_sinks = extras.sinks.is_some().into();
        if let Some(mask) = &extras.mask {
            self.shape.mask_kind = if mask.buffer.dtype() == DType::U8 { 1 } else { 2 };
            self.shape.mask_seq_stride = mask.seq_stride;
            self.shape.mask_head_stride = mask.head_stride;
            self.shape.mask_row_stride = mask.row_stride;
        }
        self
    }

    /// The rows of sequences, from and to, that each family has to do.
    fn shares(&self) -> [(Family, u32, u32); 2] {
        let (most, none) = (self.max_rows_per_seq, (Family::Tiles, 1, 0));
        let cut = rows_cut(self.shape.n_heads / self.shape.n_kv_heads);
        match self.family {
            Family::Rows => [(Family::Rows, 1, most), none],
            Family::Tiles => [(Family::Tiles, 1, most), none],
            Family::Auto if most <= cut => [(Family::Rows, 1, most), none],
            // All sequences have as many.
            Family::Auto if self.shape.dense != 0 => [(Family::Tiles, 1, most), none],
            Family::Auto => [(Family::Rows, 1, cut), (Family::Tiles, cut + 1, most)],
        }
    }
}

/// Records a checked attention.
pub(crate) fn record(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    buffers: &Buffers<'_>,
    dtype: DType,
    layout: &Layout,
) -> Result<()> {
    let mut call = Call { encoder, registry, device, buffers, dtype };
    for (family, min_rows, max_rows) in layout.shares() {
        let shape = Shape { min_rows, max_rows, ..layout.shape };
        match family {
            _ if max_rows < min_rows => {}
            Family::Tiles => call.tiles(shape)?,
            _ => call.rows(shape)?,
        }
    }
    Ok(())
}

/// Whether a buffer, and its rows of `dim` elements, are at multiples of 16 bytes; memory begins at multiples of 64.
fn is_wide(buffer: &MlxBuffer, dim: u32) -> bool {
    buffer.byte_offset().is_multiple_of(16) && (dim as usize * buffer.dtype().size_of()).is_multiple_of(16)
}

/// Bound where there is nothing to bind.
static NOTHING: [u8; 16] = [0; 16];

struct Call<'a, 'b> {
    encoder: &'a mut CommandEncoder,
    registry: &'a mut KernelRegistry,
    device: &'a MlxDevice,
    buffers: &'a Buffers<'b>,
    dtype: DType,
}

impl<'b> Call<'_, 'b> {
    /// The table, the starts and the lengths.
    fn state(&self) -> [KernelArg<'b>; 3] {
        match self.buffers.state {
            Some(s) => [s.block_table, s.seq_starts, s.kv_lens].map(KernelArg::Buffer),
            None => [KernelArg::Bytes(&NOTHING); 3],
        }
    }

    /// The mask; where there is none, something that can be bound in its place.
    fn mask(&self) -> KernelArg<'b> {
        KernelArg::Buffer(self.buffers.extras.mask.map_or(self.buffers.q, |m| m.buffer))
    }

    fn sinks(&self) -> KernelArg<'b> {
        self.buffers.extras.sinks.map_or(KernelArg::Bytes(&NOTHING), KernelArg::Buffer)
    }

    fn tiles(&mut self, mut shape: Shape) -> Result<()> {
        let variant = Variant::of(Family::Tiles, shape.head_dim.max(shape.v_dim));
        // One after the other where sequences differ much in rows, a rectangle where that is less.
        let rectangle = u64::from(shape.max_rows.div_ceil(variant.rows)) * u64::from(shape.n_seqs);
        let found = u64::from(shape.n_rows / variant.rows) + u64::from(shape.n_seqs);
        let is_rectangle = shape.dense != 0 || rectangle <= found;
        shape.slots_per_seq = if is_rectangle { shape.max_rows.div_ceil(variant.rows) } else { 0 };
        let slots = if is_rectangle { rectangle } else { found };
        let [table, starts, lens] = self.state();
        let b = self.buffers;
        let args = [
            (0, KernelArg::Buffer(b.q)),
            (1, KernelArg::Buffer(b.k)),
            (2, KernelArg::Buffer(b.v)),
            (3, KernelArg::Buffer(b.output)),
            (4, KernelArg::Bytes(as_bytes(&shape))),
            (5, table),
            (6, starts),
            (7, lens),
            (8, self.mask()),
            (9, self.sinks()),
        ];
        // The Metal text does not ask; bodies for tensor cores do, which know no mask and no cap.
        let strides = [shape.q_row_stride, shape.q_head_stride];
        let wide = [b.q, b.k, b.v].iter().all(|x| is_wide(x, shape.head_dim))
            && is_wide(b.v, shape.v_dim)
            && strides.iter().all(|stride| is_wide(b.q, *stride))
            && shape.mask_kind == 0
            && shape.softcap == 0.0;
        let constants = [(WIDE, ConstantValue::Bool(wide))];
        let kernel = variant.kernel(self.dtype);
        let pipeline = self.registry.get_pipeline_with_constants(kernel, self.device, &constants)?;
        self.encoder.set_op_kind(CapturedOpKind::Sdpa);
        self.encoder.try_encode_threadgroups_with_args(
            pipeline,
            &args,
            MTLSize::new(slots, u64::from(shape.n_heads), 1),
            MTLSize::new(u64::from(variant.threads), 1, 1),
        )
    }

    fn rows(&mut self, mut shape: Shape) -> Result<()> {
        let variant = Variant::of(Family::Rows, shape.head_dim.max(shape.v_dim));
        let most = shape.max_rows;
        shape.n_parts = plan::n_parts(shape.max_kv_len, shape.window, most);
        // The sink is added when parts are merged.
        let is_direct = shape.n_parts == 1 && shape.has_sinks == 0;
        let of_a_row = u64::from(shape.n_heads) * u64::from(shape.n_parts) * u64::from(shape.v_dim + 2) * 4;
        let (n_seqs, rows) =
            if is_direct { (shape.n_seqs, most) } else { plan::rounds(shape.n_seqs, most, of_a_row) };
        let group = shape.n_heads / shape.n_kv_heads;
        let at_once = variant.rows_at_once(group.saturating_mul(rows));
        shape.slots_per_seq = group.saturating_mul(rows).div_ceil(at_once);
        shape.rows_here = rows;
        for first_seq in (0..shape.n_seqs).step_by(n_seqs as usize) {
            for first_row in (0..most).step_by(rows as usize) {
                let shape = Shape { first_seq, first_row, ..shape };
                let seqs_here = n_seqs.min(shape.n_seqs - first_seq);
                self.some_rows(&shape, variant, at_once, seqs_here, is_direct)?;
            }
        }
        Ok(())
    }

    /// Some rows of some sequences, and the merge of their parts.
    fn some_rows(
        &mut self,
        shape: &Shape,
        variant: &Variant,
        at_once: u32,
        n_seqs: u32,
        is_direct: bool,
    ) -> Result<()> {
        let b = self.buffers;
        let [table, starts, lens] = self.state();
        let mut args = vec![
            (0, KernelArg::Buffer(b.q)),
            (1, KernelArg::Buffer(b.k)),
            (2, KernelArg::Buffer(b.v)),
            (4, KernelArg::Bytes(as_bytes(shape))),
            (5, table),
            (6, starts),
            (7, lens),
            (8, self.mask()),
        ];
        let slots = u64::from(shape.slots_per_seq) * u64::from(n_seqs);
        let grid = MTLSize::new(slots, u64::from(shape.n_kv_heads), u64::from(shape.n_parts));
        let group = MTLSize::new(u64::from(variant.threads), 1, 1);
        let wide = is_wide(b.k, shape.head_dim) && is_wide(b.v, shape.v_dim);
        let constants = [
            (ROWS, ConstantValue::U32(at_once)),
            (DIRECT, ConstantValue::Bool(is_direct)),
            (WIDE, ConstantValue::Bool(wide)),
        ];
        let kernel = variant.kernel(self.dtype);
        if is_direct {
            args.push((3, KernelArg::Buffer(b.output)));
            let pipeline = self.registry.get_pipeline_with_constants(kernel, self.device, &constants)?;
            self.encoder.set_op_kind(CapturedOpKind::Sdpa);
            return self.encoder.try_encode_threadgroups_with_args(pipeline, &args, grid, group);
        }
        let parts = check::product(
            "attention",
            "the parts (sequences, rows, n_heads, parts)",
            &[n_seqs, shape.rows_here, shape.n_heads, shape.n_parts],
        )?;
        let (n_sums, n_states) = (parts * shape.v_dim as usize, parts * 2);
        let scratch = self.registry.scratch(self.device, (n_sums + n_states) * size_of::<f32>())?;
        let states = scratch.view(n_sums * size_of::<f32>(), DType::F32, vec![n_states])?;
        let sums = scratch.view(0, DType::F32, vec![n_sums])?;
        args.extend([(9, KernelArg::Buffer(&sums)), (10, KernelArg::Buffer(&states))]);
        let pipeline = self.registry.get_pipeline_with_constants(kernel, self.device, &constants)?;
        self.encoder.set_op_kind(CapturedOpKind::Sdpa);
        self.encoder.try_encode_threadgroups_with_args(pipeline, &args, grid, group)?;
        let sinks = self.sinks();
        let merge = self.registry.get_pipeline(plan::merge_kernel(self.dtype), self.device)?;
        self.encoder.set_op_kind(CapturedOpKind::Sdpa);
        self.encoder.try_encode_threadgroups_with_args(
            merge,
            &[
                (0, KernelArg::Buffer(&sums)),
                (1, KernelArg::Buffer(&states)),
                (2, KernelArg::Buffer(b.output)),
                (3, KernelArg::Bytes(as_bytes(shape))),
                (4, starts),
                (5, lens),
                (6, sinks),
            ],
            MTLSize::new(u64::from(shape.rows_here), u64::from(shape.n_heads), u64::from(n_seqs)),
            MTLSize::new(128, 1, 1),
        )
    }
}
