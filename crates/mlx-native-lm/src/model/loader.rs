//! Tensors of a model folder as the weights of layers, used in place.

use std::collections::HashMap;
use std::sync::Arc;

use mlx_native::quant::Weight;
use mlx_native::{CommandEncoder, DType, KernelRegistry, MlxBuffer, MlxDevice, ops};

use super::linear::{Embedding, Linear};
use super::number::u32_of;
use crate::adapter::LowRank;
use crate::error::{LmError, Result};
use crate::spec::{Matrix, Rows, Run, Stack, Unit};
use crate::tensors::Source;

const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// Hands out the weights of a model by their path. A tensor that is asked for twice is loaded once.
pub(super) struct Loader<'a> {
    pub device: &'a MlxDevice,
    registry: &'a mut KernelRegistry,
    /// Casts that are still to run.
    pub encoder: CommandEncoder,
    /// The dtype of activations.
    pub dtype: DType,
    source: Box<dyn Source + 'a>,
    vectors: HashMap<(String, DType, u32), Arc<MlxBuffer>>,
    embeddings: HashMap<String, Arc<Embedding>>,
}

/// What an adapter adds to a matrix: `x W'ᵀ` becomes `factors · (x Wᵀ + scale · (x Aᵀ) Bᵀ)`.
pub(super) struct Addition {
    pub a: Arc<Linear>,
    pub b: Arc<Linear>,
    pub scale: f32,
    /// Of DoRA: one for each output.
    pub factors: Option<Arc<MlxBuffer>>,
}

impl<'a> Loader<'a> {
    pub fn new(
        device: &'a MlxDevice,
        registry: &'a mut KernelRegistry,
        source: Box<dyn Source + 'a>,
        dtype: DType,
    ) -> Result<Self> {
        Ok(Loader {
            device,
            registry,
            encoder: device.command_encoder()?,
            dtype,
            source,
            vectors: HashMap::new(),
            embeddings: HashMap::new(),
        })
    }

    fn load(&mut self, name: &str, dtypes: &[DType], shape: &[usize]) -> Result<MlxBuffer> {
        self.source.load(name, dtypes, shape)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.source.shape(name)
    }

    /// A vector in the dtype of activations: norms and biases, small enough to be cast when they differ.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<Arc<MlxBuffer>> {
        self.vector_as(name, &[len], self.dtype, 0.0)
    }

    /// A small tensor in `dtype`, `offset` being added to each element.
    pub fn vector_as(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        offset: f32,
    ) -> Result<Arc<MlxBuffer>> {
        let key = (name.to_owned(), dtype, offset.to_bits());
        if let Some(known) = self.vectors.get(&key) {
            return Ok(known.clone());
        }
        let tensor = self.load(name, FLOATS, shape)?;
        let vector = if offset == 0.0 {
            self.cast(tensor, dtype)?
        } else {
            let mut values = self.floats(&tensor)?;
            values.iter_mut().for_each(|v| *v += offset);
            self.upload(&values, dtype)?
        };
        let vector = Arc::new(vector);
        self.vectors.insert(key, vector.clone());
        Ok(vector)
    }

    /// A tensor's elements, on the host.
    pub fn host(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.load(name, FLOATS, shape)?;
        self.floats(&tensor)
    }

    /// A tensor of one element, on the host.
    pub fn scalar(&mut self, name: &str) -> Result<f32> {
        let shape = self.shape(name).map_or(vec![1], <[usize]>::to_vec);
        if shape.iter().product::<usize>() != 1 {
            return Err(LmError::Weights(format!(
                "{name}: found {shape:?}, wanted one element"
            )));
        }
        Ok(self.host(name, &shape)?[0])
    }

    fn floats(&self, tensor: &MlxBuffer) -> Result<Vec<f32>> {
        super::read_f32(tensor, tensor.dtype(), 0, tensor.element_count())
    }

    /// A buffer of `values`, in `dtype`.
    pub fn upload(&mut self, values: &[f32], dtype: DType) -> Result<MlxBuffer> {
        let mut wide = self.device.alloc_tensor(DType::F32, &[values.len()])?;
        wide.write(0, values)?;
        self.cast(wide, dtype)
    }

    fn cast(&mut self, tensor: MlxBuffer, dtype: DType) -> Result<MlxBuffer> {
        if tensor.dtype() == dtype {
            return Ok(tensor);
        }
        let cast = self.device.alloc_tensor(dtype, tensor.shape())?;
        let params = ops::copy::CopyParams {
            n_elements: u32_of(tensor.element_count())?,
        };
        ops::copy::copy(
            &mut self.encoder,
            self.registry,
            self.device,
            &tensor,
            &cast,
            &params,
        )?;
        Ok(cast)
    }

    /// The matrix that `spec` names, with its bias.
    pub fn linear(&mut self, spec: &Matrix) -> Result<Arc<Linear>> {
        let stored = match &spec.rows {
            Rows::All => spec.outputs,
            Rows::From { of, .. } | Rows::Picked { of, .. } => *of,
        };
        let bias = match spec.bias {
            false => None,
            true => {
                let name = format!("{}.bias", spec.path);
                let whole = self.vector(&name, stored)?;
                Some(match &spec.rows {
                    Rows::All => whole,
                    Rows::From { first, .. } => Arc::new(rows_of(&whole, 1, *first, spec.outputs)?),
                    Rows::Picked { runs, .. } => {
                        let values = self.host(&name, &[stored])?;
                        let rows = rows_of_runs(&spec.path, runs, stored)?;
                        let picked: Vec<f32> = rows.iter().map(|r| values[*r as usize]).collect();
                        Arc::new(self.upload(&picked, self.dtype)?)
                    }
                })
            }
        };
        let shape = [stored, spec.inputs];
        let weight = match spec.bare {
            true => Weight::dense(self.load(&spec.path, FLOATS, &shape)?, &shape)?,
            false => self.weight(&spec.path, stored, spec.inputs)?,
        };
        let weight = match spec.unit {
            Some(unit) if weight.planes().len() == 1 => self.unit(&weight, &shape, unit)?,
            _ => weight,
        };
        let weight = match &spec.rows {
            Rows::All => weight,
            Rows::From { first, .. } => weight.rows_from(*first, spec.outputs)?,
            // The tensor is known to have `stored` rows now.
            Rows::Picked { runs, .. } => {
                let rows = rows_of_runs(&spec.path, runs, stored)?;
                self.picked(&weight, &rows, &[rows.len(), spec.inputs])?
            }
        };
        Ok(Arc::new(Linear { weight, bias }))
    }

    /// What an adapter adds to a matrix that was loaded as `loaded`; `None` where it adds nothing.
    pub fn low_rank(&mut self, spec: &Matrix, loaded: &Linear) -> Result<Option<Addition>> {
        let Some(found) = self.source.low_rank(&spec.path).cloned() else {
            return Ok(None);
        };
        let stored = match &spec.rows {
            Rows::All => spec.outputs,
            Rows::From { of, .. } | Rows::Picked { of, .. } => *of,
        };
        if (found.inputs, found.outputs) != (spec.inputs, stored) {
            return Err(LmError::Weights(format!(
                "the adapter's matrices of {} have {} inputs and {} outputs, the model's {} and {stored}",
                spec.path, found.inputs, found.outputs, spec.inputs
            )));
        }
        let rank = found.rank;
        let rows: Vec<u32> = match &spec.rows {
            Rows::All => (0..u32_of(stored)?).collect(),
            Rows::From { first, .. } => (u32_of(*first)?..u32_of(first + spec.outputs)?).collect(),
            Rows::Picked { runs, .. } => rows_of_runs(&spec.path, runs, stored)?,
        };
        let row = |r: &u32| &found.b[*r as usize * rank..][..rank];
        let b = rows.iter().map(row).collect::<Vec<_>>().concat();
        let factors = match &found.magnitude {
            None => None,
            Some(lengths) => {
                let lengths: Vec<f32> = rows.iter().map(|r| lengths[*r as usize]).collect();
                let factors = self.row_factors(&loaded.weight, (&found, &b), &lengths)?;
                Some(Arc::new(self.upload(&factors, self.dtype)?))
            }
        };
        let matrix = |values: &[f32], shape: [usize; 2]| -> Result<Arc<Linear>> {
            let mut buffer = self.device.alloc_tensor(self.dtype, &shape)?;
            super::write_f32(&mut buffer, values)?;
            let weight = Weight::dense(buffer, &shape)?;
            Ok(Arc::new(Linear { weight, bias: None }))
        };
        Ok(Some(Addition {
            a: matrix(&found.a, [rank, found.inputs])?,
            b: matrix(&b, [rows.len(), rank])?,
            scale: found.scale,
            factors,
        }))
    }

    /// What the rows of a matrix with its addition have to be multiplied with to have these lengths.
    fn row_factors(
        &mut self,
        weight: &Weight,
        (low, b): (&LowRank, &[f32]),
        lengths: &[f32],
    ) -> Result<Vec<f32>> {
        /// Rows that are unpacked at a time.
        const ROWS: usize = 256;
        let (inputs, rank) = (low.inputs, low.rank);
        let mut ids = self.device.alloc_tensor(DType::U32, &[ROWS])?;
        let unpacked = self.device.alloc_tensor(DType::F32, &[ROWS, inputs])?;
        let mut factors = Vec::with_capacity(lengths.len());
        for (number, lengths) in lengths.chunks(ROWS).enumerate() {
            let first = number * ROWS;
            let numbers: Vec<u32> = (first..first + lengths.len())
                .map(u32_of)
                .collect::<Result<_>>()?;
            ids.write(0, &numbers)?;
            let params = ops::embed::EmbedParams {
                n_tokens: u32_of(lengths.len())?,
            };
            let mut encoder = self.device.command_encoder()?;
            ops::embed::embed(
                &mut encoder,
                self.registry,
                self.device,
                &ids,
                weight,
                &unpacked,
                &params,
            )?;
            encoder.commit_and_wait()?;
            let values = super::read_f32(&unpacked, DType::F32, 0, lengths.len() * inputs)?;
            for (row, length) in lengths.iter().enumerate() {
                let mut values = values[row * inputs..][..inputs].to_vec();
                for (j, b) in b[(first + row) * rank..][..rank].iter().enumerate() {
                    let a = &low.a[j * inputs..][..inputs];
                    values
                        .iter_mut()
                        .zip(a)
                        .for_each(|(v, a)| *v += low.scale * b * a);
                }
                let squares: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
                factors.push((f64::from(*length) / squares.sqrt()) as f32);
            }
        }
        Ok(factors)
    }

    /// A dense matrix with each row or column divided by its length.
    fn unit(&self, weight: &Weight, shape: &[usize; 2], unit: Unit) -> Result<Weight> {
        let [rows, columns] = *shape;
        let stored = &weight.planes()[0];
        let mut values = self.floats(stored)?;
        let (n, index): (_, fn(usize, usize) -> usize) = match unit {
            Unit::Rows => (rows, |i, columns| i / columns),
            Unit::Columns => (columns, |i, columns| i % columns),
        };
        let mut squares = vec![0.0f32; n];
        for (i, v) in values.iter().enumerate() {
            squares[index(i, columns)] += v * v;
        }
        for (i, v) in values.iter_mut().enumerate() {
            *v /= squares[index(i, columns)].sqrt() + 1e-7;
        }
        let mut divided = self.device.alloc_tensor(stored.dtype(), shape)?;
        super::write_f32(&mut divided, &values)?;
        Ok(Weight::dense(divided, shape)?)
    }

    /// A small dense matrix, its elements clipped to ± `clip`.
    pub fn clipped(&mut self, spec: &Matrix, clip: f32) -> Result<Arc<Linear>> {
        let shape = [spec.outputs, spec.inputs];
        let mut values = self.host(&format!("{}.weight", spec.path), &shape)?;
        values.iter_mut().for_each(|v| *v = v.clamp(-clip, clip));
        let mut clipped = self.device.alloc_tensor(self.dtype, &shape)?;
        super::write_f32(&mut clipped, &values)?;
        let weight = Weight::dense(clipped, &shape)?;
        Ok(Arc::new(Linear { weight, bias: None }))
    }

    /// A matrix of -1, 0 and 1 times one number, four rows in a byte: bits `2j` of byte row `r` hold row `r + j·⌈rows / 4⌉`, plus
    /// one. Becomes codes of 2 bits in groups, or numbers where the columns are no whole groups.
    fn ternary(&mut self, path: &str, rows: usize, columns: usize) -> Result<Weight> {
        let quarter = rows.div_ceil(4);
        let packed = self.load(&format!("{path}.weight"), &[DType::U8], &[quarter, columns])?;
        let mut bytes = vec![0u8; quarter * columns];
        packed.read_into(0, &mut bytes)?;
        let scale = self.scalar(&format!("{path}.weight_scale"))?;
        let code = |row: usize, column: usize| {
            u32::from(bytes[row % quarter * columns + column] >> (2 * (row / quarter))) & 3
        };
        let Some(group) = [64, 128, 32].into_iter().find(|g| columns.is_multiple_of(*g)) else {
            let value = |i: usize| (code(i / columns, i % columns) as f32 - 1.0) * scale;
            let values: Vec<f32> = (0..rows * columns).map(value).collect();
            let mut dense = self.device.alloc_tensor(self.dtype, &[rows, columns])?;
            super::write_f32(&mut dense, &values)?;
            return Ok(Weight::dense(dense, &[rows, columns])?);
        };
        let word = |w: usize| {
            let (row, first) = (w / (columns / 16), w % (columns / 16) * 16);
            (0..16).fold(0u32, |word, i| word | code(row, first + i) << (2 * i))
        };
        let words: Vec<u32> = (0..rows * columns / 16).map(word).collect();
        let mut codes = self.device.alloc_tensor(DType::U32, &[rows, columns / 16])?;
        codes.write(0, &words)?;
        let mut planes = vec![codes];
        for value in [scale, -scale] {
            let mut plane = self.device.alloc_tensor(DType::F32, &[rows, columns / group])?;
            plane.write(0, &vec![value; rows * columns / group])?;
            planes.push(plane);
        }
        let format = mlx_native::quant::WeightFormat::affine(2, group as u32, DType::F32)?;
        Ok(Weight::new(format, planes, &[rows, columns])?)
    }

    /// Blocks `[n, inputs, outputs]`, which multiply from the right, as matrices `[outputs, inputs]`, with a bias `[n, outputs]`.
    pub fn transposed_stack(
        &mut self,
        names: &(String, String),
        n: usize,
        dim: usize,
    ) -> Result<Arc<Linear>> {
        let blocks = self.host(&names.0, &[n, dim, dim])?;
        let at = |i: usize| blocks[i / (dim * dim) * dim * dim + i % dim * dim + i / dim % dim];
        let turned: Vec<f32> = (0..blocks.len()).map(at).collect();
        let mut stack = self.device.alloc_tensor(self.dtype, &[n, dim, dim])?;
        super::write_f32(&mut stack, &turned)?;
        let dtype = self.dtype;
        let bias = self.vector_as(&names.1, &[n, dim], dtype, 0.0)?;
        Ok(Arc::new(Linear {
            weight: Weight::dense(stack, &[n, dim, dim])?,
            bias: Some(bias),
        }))
    }

    /// Rows of a matrix of `columns` elements each, copied one by one.
    fn pick(&self, matrix: &MlxBuffer, columns: usize, rows: &[u32]) -> Result<MlxBuffer> {
        let row_bytes = columns * matrix.dtype().size_of();
        let mut copy = self.device.alloc_tensor(matrix.dtype(), &[rows.len(), columns])?;
        let mut row = vec![0u8; row_bytes];
        for (i, from) in rows.iter().enumerate() {
            matrix.read_into(*from as usize * row_bytes, &mut row)?;
            copy.write(i * row_bytes, &row)?;
        }
        Ok(copy)
    }

    /// `path.weight` as an embedding of `vocab_size` rows of `dim`.
    pub fn embedding(&mut self, path: &str, vocab_size: usize, dim: usize) -> Result<Arc<Embedding>> {
        if let Some(known) = self.embeddings.get(path) {
            return Ok(known.clone());
        }
        let embedding = Arc::new(Embedding {
            table: self.weight(path, vocab_size, dim)?,
        });
        self.embeddings.insert(path.to_owned(), embedding.clone());
        Ok(embedding)
    }

    /// `path.weight` and what belongs to it, `[rows, columns]`, in the format that the checkpoint has.
    fn weight(&mut self, path: &str, rows: usize, columns: usize) -> Result<Weight> {
        let packed = [rows.div_ceil(4), columns];
        let scale = self.shape(&format!("{path}.weight_scale"));
        if scale.is_some_and(|shape| shape.iter().product::<usize>() == 1)
            && self.shape(&format!("{path}.weight")) == Some(&packed[..])
        {
            return self.ternary(path, rows, columns);
        }
        self.weight_of(path, &[rows], columns)
    }

    /// The same with all extents but the last in `lead`.
    fn weight_of(&mut self, path: &str, lead: &[usize], columns: usize) -> Result<Weight> {
        self.source.weight(path, lead, columns)
    }

    /// Matrices of `n` experts or heads, stacked in one tensor, with their biases.
    pub fn stack(&mut self, spec: &Stack, n: usize) -> Result<Arc<Linear>> {
        if spec.path.contains("{}") {
            return self.gathered_stack(spec, n);
        }
        let stored = spec.rows.map_or(spec.outputs, |(of, _)| of);
        let weight = self.weight_of(&spec.path, &[n, stored], spec.inputs)?;
        let dtype = self.dtype;
        let bias = match spec.bias {
            true => Some(self.vector_as(&format!("{}.bias", spec.path), &[n, stored], dtype, 0.0)?),
            false => None,
        };
        let Some((_, first)) = spec.rows else {
            return Ok(Arc::new(Linear { weight, bias }));
        };
        // Some rows of each matrix: copied.
        let rows: Vec<u32> = (0..n * spec.outputs)
            .map(|r| u32_of(r / spec.outputs * stored + first + r % spec.outputs))
            .collect::<Result<_>>()?;
        let weight = self.picked(&weight, &rows, &[n, spec.outputs, spec.inputs])?;
        let bias = match bias {
            Some(bias) => Some(Arc::new(self.pick(&bias, 1, &rows)?)),
            None => None,
        };
        Ok(Arc::new(Linear { weight, bias }))
    }

    /// A stack of matrices that are stored one by one: copied together.
    fn gathered_stack(&mut self, spec: &Stack, n: usize) -> Result<Arc<Linear>> {
        let mut planes: Vec<MlxBuffer> = Vec::new();
        let mut format = None;
        // The last is asked for before there is room for all.
        let last = n.saturating_sub(1).to_string();
        self.weight(&spec.path.replace("{}", &last), spec.outputs, spec.inputs)?;
        for i in 0..n {
            let one = self.weight(
                &spec.path.replace("{}", &i.to_string()),
                spec.outputs,
                spec.inputs,
            )?;
            if *format.get_or_insert(one.format()) != one.format() {
                return Err(LmError::Weights(format!(
                    "{}: packed differently from expert to expert",
                    spec.path
                )));
            }
            for (j, plane) in one.planes().iter().enumerate() {
                let bytes = plane.byte_len();
                if planes.len() == j {
                    planes.push(
                        self.device
                            .alloc_tensor(plane.dtype(), &[n, plane.element_count()])?,
                    );
                }
                let mut contents = vec![0u8; bytes];
                plane.read_into(0, &mut contents)?;
                planes[j].write(i * bytes, &contents)?;
            }
        }
        let format = format.ok_or_else(|| LmError::Config(format!("{}: no experts", spec.path)))?;
        let weight = Weight::new(format, planes, &[n, spec.outputs, spec.inputs])?;
        Ok(Arc::new(Linear { weight, bias: None }))
    }

    /// Rows of a weight, copied, as a weight of `shape`.
    fn picked(&self, weight: &Weight, rows: &[u32], shape: &[usize]) -> Result<Weight> {
        let planes = weight.format().planes(weight.columns() as usize)?;
        let picked = (planes.iter().zip(weight.planes())).map(|(plane, buffer)| match plane.row {
            // One for the whole matrix.
            0 => Ok(buffer.view(0, plane.dtype, vec![1])?),
            _ => self.pick(buffer, plane.row, rows),
        });
        let picked = picked.collect::<Result<Vec<_>>>()?;
        Ok(Weight::new(weight.format(), picked, shape)?)
    }

    /// Every tensor of the checkpoint was read, or is listed in `dropped`.
    ///
    /// # Errors
    /// [`LmError::Weights`], naming some that are neither.
    pub fn finish(&self, dropped: &[String]) -> Result<()> {
        let listed = |name: &str| {
            dropped.iter().any(|pattern| match pattern.strip_prefix('*') {
                Some(part) => name.contains(part),
                None => name.starts_with(pattern.as_str()),
            })
        };
        let mut left = self.source.unread();
        left.retain(|name| !listed(name));
        left.sort_unstable();
        if left.is_empty() {
            return Ok(());
        }
        let more = left.len().saturating_sub(3);
        let shown: Vec<String> = left.iter().take(3).map(|name| format!("{name:?}")).collect();
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        Err(LmError::Weights(format!(
            "{}{more}: in the checkpoint, but not in the model that config.json describes",
            shown.join(", ")
        )))
    }
}

/// The rows that runs name, all of them below `stored`.
fn rows_of_runs(path: &str, runs: &[Run], stored: usize) -> Result<Vec<u32>> {
    let mut rows = Vec::new();
    for run in runs {
        // Repeated blocks may be more rows than are stored, by a number that other tensors have checked.
        if run.block == 0 || run.count > stored.saturating_mul(256) {
            return Err(LmError::Config(format!("{path}: {} rows of {stored}", run.count)));
        }
        for row in run.rows() {
            if row >= stored {
                return Err(LmError::Config(format!("{path}: row {row} of {stored}")));
            }
            rows.push(u32_of(row)?);
        }
    }
    Ok(rows)
}

/// Rows of a buffer of `columns` elements a row, where they are.
fn rows_of(buffer: &MlxBuffer, columns: usize, first: usize, rows: usize) -> Result<MlxBuffer> {
    let offset = first * columns * buffer.dtype().size_of();
    Ok(buffer.view(offset, buffer.dtype(), vec![rows, columns])?)
}
