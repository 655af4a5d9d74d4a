//! Weights that are made up: models of published shapes for measuring, without a download.

use std::cell::RefCell;
use std::rc::Rc;

use mlx_native::quant::{Weight, WeightFormat};
use mlx_native::{DType, MlxBuffer, MlxDevice};

use super::Source;
use super::dry::Part;
use crate::error::{LmError, Result};

/// Elements that are made at a time.
const BLOCK: usize = 1 << 18;

/// How matrices of a made-up model are stored; vectors are bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomFormat {
    /// The format; where rows are no whole groups of it, bf16.
    pub format: WeightFormat,
}

/// A tensor of a made-up model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RandomTensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What is in it.
    pub values: Values,
}

/// What is in a made-up tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Values {
    /// Random bits.
    Bits,
    /// Numbers from minus this to this.
    Spread(f32),
    /// One number.
    All(f32),
}

impl RandomTensor {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of the tensor.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size_of()
    }

    /// Calls `f` with the tensor's bytes, piece by piece. Equal names have equal contents.
    pub fn for_each_piece(&self, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let seed = self.name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        let block = self.block(seed)?;
        let mut left = self.bytes();
        while left > 0 {
            let piece = &block[..left.min(block.len())];
            f(piece)?;
            left -= piece.len();
        }
        Ok(())
    }

    /// A block of bytes that the tensor repeats.
    fn block(&self, seed: u64) -> Result<Vec<u8>> {
        let n = self.elements().min(BLOCK);
        let mut state = seed | 1;
        let mut next = move || {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
        };
        let mut number = |values: Values| match values {
            Values::Bits => 0.0,
            Values::All(v) => v,
            Values::Spread(s) => s * (next() as f32 / (1u64 << 31) as f32 - 1.0),
        };
        if self.values == Values::Bits {
            let bytes = n * self.dtype.size_of();
            let words = (0..bytes.div_ceil(4)).map(|_| next());
            let mut block: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
            block.truncate(bytes);
            return Ok(block);
        }
        let v = self.values;
        Ok(match self.dtype {
            DType::F32 => (0..n).flat_map(|_| number(v).to_le_bytes()).collect(),
            DType::F16 => (0..n)
                .flat_map(|_| half::f16::from_f32(number(v)).to_le_bytes())
                .collect(),
            DType::BF16 => (0..n)
                .flat_map(|_| half::bf16::from_f32(number(v)).to_le_bytes())
                .collect(),
            // Exponents of mxfp4 and mxfp8: the number is a byte.
            DType::U8 => (0..n).map(|_| number(v) as u8).collect(),
            other => return Err(LmError::Unsupported(format!("made-up numbers of {other}"))),
        })
    }
}

/// Makes up what it is asked for.
pub(crate) struct RandomSource<'a> {
    pub device: &'a MlxDevice,
    pub format: RandomFormat,
    /// Whether the buffers are filled; else only the list is wanted.
    pub filled: bool,
    /// The tensors that were asked for.
    pub list: Rc<RefCell<Vec<RandomTensor>>>,
    /// The same as parts of the model.
    pub parts: Rc<RefCell<Vec<Part>>>,
}

impl RandomSource<'_> {
    fn note(&self, path: &str, shape: &[usize], format: WeightFormat, matrix: bool) {
        let mut parts = self.parts.borrow_mut();
        if !parts.iter().any(|p| p.path == path) {
            parts.push(Part {
                path: path.to_owned(),
                shape: shape.to_vec(),
                format,
                matrix,
            });
        }
    }

    fn make(&mut self, tensor: RandomTensor) -> Result<MlxBuffer> {
        let mut buffer = self.device.alloc_tensor(tensor.dtype, &tensor.shape)?;
        if self.filled {
            let mut at = 0;
            let mut bytes = buffer.view(0, DType::U8, vec![tensor.bytes()])?;
            tensor.for_each_piece(|piece| {
                bytes.write(at, piece)?;
                at += piece.len();
                Ok(())
            })?;
            buffer = bytes.view(0, tensor.dtype, tensor.shape.clone())?;
        }
        let mut list = self.list.borrow_mut();
        if !list.iter().any(|t| t.name == tensor.name) {
            list.push(tensor);
        }
        Ok(buffer)
    }
}

impl Source for RandomSource<'_> {
    fn shape(&self, _name: &str) -> Option<&[usize]> {
        None
    }

    fn load(&mut self, name: &str, dtypes: &[DType], shape: &[usize]) -> Result<MlxBuffer> {
        let dtype = [DType::BF16].into_iter().chain(dtypes.iter().copied());
        let dtype = dtype
            .into_iter()
            .find(|d| dtypes.contains(d))
            .unwrap_or(DType::BF16);
        let values = if name.contains("norm") {
            Values::All(1.0)
        } else {
            Values::Spread(0.02)
        };
        self.note(name, shape, WeightFormat::Dense(dtype), false);
        self.make(RandomTensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            values,
        })
    }

    fn weight(&mut self, path: &str, lead: &[usize], columns: usize) -> Result<Weight> {
        let mut format = self.format.format;
        if !columns.is_multiple_of(format.granule()) {
            format = WeightFormat::Dense(DType::BF16);
        }
        // So spread that a row's product with ones spread by one is spread by one.
        let spread = (3.0 / columns as f32).sqrt();
        let mut planes = Vec::new();
        for plane in format.planes(columns)? {
            let values = match (format, plane.name) {
                (WeightFormat::Dense(_), _) => Values::Spread(spread),
                (WeightFormat::Affine { format, .. }, "scales") => {
                    Values::All(2.0 * spread / format.max_code() as f32)
                }
                (WeightFormat::Affine { .. }, "biases") => Values::All(-spread),
                // Halves of a power of two: the codes reach from -6 to 6, or to 448.
                (WeightFormat::Mxfp4, "scales") => Values::All((127.0 + (spread / 6.0).log2()).round()),
                (WeightFormat::Mxfp8, "scales") => Values::All((127.0 + (spread / 448.0).log2()).round()),
                // e4m3 of about the spread's sixth.
                (WeightFormat::Nvfp4 { .. }, "scales") => {
                    Values::All(((7.0 + (spread / 6.0).log2()).round() * 8.0).max(1.0))
                }
                (_, "global_scale") => Values::All(2688.0),
                _ => Values::Bits,
            };
            planes.push(self.make(RandomTensor {
                name: format!("{path}.{}", plane.name),
                dtype: plane.dtype,
                shape: [lead, &[plane.row.max(1)]].concat(),
                values,
            })?);
        }
        let shape = [lead, &[columns]].concat();
        self.note(path, &shape, format, true);
        Ok(Weight::new(format, planes, &shape)?)
    }

    fn unread(&self) -> Vec<String> {
        Vec::new()
    }
}
