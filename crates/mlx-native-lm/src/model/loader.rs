//! Tensors of a model folder as the weights of layers, used in place.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mlx_native::quant::Weight;
use mlx_native::weights::{ModelWeights, WeightLoader};
use mlx_native::{CommandEncoder, DType, KernelRegistry, MlxBuffer, MlxDevice, ops};

use super::linear::{Embedding, Linear};
use super::number::u32_of;
use crate::error::{LmError, Result};
use crate::quantization::QuantizationConfig;
use crate::spec::{Matrix, Rows, Stack};

const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// Hands out the weights of a model by their path. A tensor that is asked for twice is loaded once.
pub(super) struct Loader<'a> {
    pub device: &'a MlxDevice,
    registry: &'a mut KernelRegistry,
    /// Casts that are still to run.
    pub encoder: CommandEncoder,
    /// The dtype of activations.
    pub dtype: DType,
    tensors: WeightLoader<'a>,
    quantization: &'a QuantizationConfig,
    vectors: HashMap<(String, DType, u32), Arc<MlxBuffer>>,
    embeddings: HashMap<String, Arc<Embedding>>,
    /// Names of the tensors that were asked for.
    read: BTreeSet<String>,
}

impl<'a> Loader<'a> {
    pub fn new(
        device: &'a MlxDevice,
        registry: &'a mut KernelRegistry,
        weights: &'a ModelWeights,
        quantization: &'a QuantizationConfig,
        dtype: DType,
    ) -> Result<Self> {
        Ok(Loader {
            device,
            registry,
            encoder: device.command_encoder()?,
            dtype,
            tensors: WeightLoader::new(weights, device),
            quantization,
            vectors: HashMap::new(),
            embeddings: HashMap::new(),
            read: BTreeSet::new(),
        })
    }

    fn load(&mut self, name: &str, dtypes: &[DType], shape: &[usize]) -> Result<MlxBuffer> {
        self.read.insert(name.to_owned());
        Ok(self.tensors.load_as(name, dtypes, shape)?)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors
            .weights()
            .info(name)
            .map(|info| info.shape.as_slice())
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
                    Rows::Picked { rows, .. } => {
                        let values = self.host(&name, &[stored])?;
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
        let weight = match &spec.rows {
            Rows::All => weight,
            Rows::From { first, .. } => weight.rows_from(*first, spec.outputs)?,
            Rows::Picked { rows, .. } => {
                let planes = weight.format().planes(spec.inputs)?;
                let picked = (planes.iter().zip(weight.planes())).map(|(plane, buffer)| match plane.row {
                    // One for the whole matrix.
                    0 => Ok(buffer.view(0, plane.dtype, vec![1])?),
                    _ => self.pick(buffer, plane.row, rows),
                });
                let picked = picked.collect::<Result<Vec<_>>>()?;
                Weight::new(weight.format(), picked, &[rows.len(), spec.inputs])?
            }
        };
        Ok(Arc::new(Linear { weight, bias }))
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
        self.weight_of(path, &[rows], columns)
    }

    /// The same with all extents but the last in `lead`.
    fn weight_of(&mut self, path: &str, lead: &[usize], columns: usize) -> Result<Weight> {
        let shape = [lead, &[columns]].concat();
        let weights = self.tensors.weights();
        let Some(spec) = self.quantization.for_module(path, columns, weights)? else {
            let values = self.load(&format!("{path}.weight"), FLOATS, &shape)?;
            return Ok(Weight::dense(values, &shape)?);
        };
        let format = spec.weight_format(path, weights)?;
        let mut planes = Vec::new();
        for plane in format.planes(columns)? {
            let name = format!("{path}.{}", plane.name);
            // One for the whole matrix is a scalar, or a list of one.
            let stored = match plane.row {
                0 => self.shape(&name).map_or(vec![], <[usize]>::to_vec),
                row => [lead, &[row]].concat(),
            };
            planes.push(self.load(&name, &[plane.dtype], &stored)?);
        }
        Ok(Weight::new(format, planes, &shape)?)
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
        let mut left: Vec<&str> = (self.tensors.weights().names())
            .filter(|name| !self.read.contains(*name) && !listed(name))
            .collect();
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

/// Rows of a buffer of `columns` elements a row, where they are.
fn rows_of(buffer: &MlxBuffer, columns: usize, first: usize, rows: usize) -> Result<MlxBuffer> {
    let offset = first * columns * buffer.dtype().size_of();
    Ok(buffer.view(offset, buffer.dtype(), vec![rows, columns])?)
}
