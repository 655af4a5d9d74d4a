//! What a model asks for: every tensor that building it reads, found by building it on a device that computes nothing.

use std::cell::RefCell;
use std::rc::Rc;

use mlx_native::quant::{Weight, WeightFormat};
use mlx_native::{DType, DeviceKind, MlxBuffer, MlxDevice};

use super::{Source, Tensors};
use crate::error::{LmError, Result};
use crate::model::Decoder;
use crate::quantization::QuantizationConfig;
use crate::spec::{Block, DecoderSpec};

/// A matrix, a stack of matrices or a vector that a model reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Path of a matrix, without `.weight`; the whole name of a vector.
    pub path: String,
    /// Extents, the columns last.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub format: WeightFormat,
    /// Whether it is a matrix, or a stack: what may be packed.
    pub matrix: bool,
}

impl Part {
    /// Elements, as they are unpacked.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes as stored, all planes together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let (Some(columns), rows) = (
            self.shape.last(),
            self.shape.iter().rev().skip(1).product::<usize>(),
        ) else {
            return self.format.row_bytes(1).unwrap_or(0);
        };
        let planes = self.format.planes(*columns).unwrap_or_default();
        let of_plane = planes
            .iter()
            .filter_map(|p| Some(p.elements(rows)? * p.dtype.size_of()));
        of_plane.sum()
    }
}

/// What a model reads, and what it needs beside its weights.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it reads, in the order of the layers, each once.
    pub parts: Vec<Part>,
    /// Bytes of activations of one chunk of a prompt.
    pub activation_bytes: usize,
    /// Bytes of a sequence's state: for one position, and for the context that was asked for.
    pub state_bytes: usize,
}

impl Plan {
    /// Finds out what a decoder of `spec` reads out of `tensors`, and what a state for `context` positions takes with
    /// activations of `dtype`.
    ///
    /// # Errors
    /// As building it does: what is missing, does not fit, is left over, or is not supported.
    pub(crate) fn of(
        tensors: &Tensors,
        quantization: &QuantizationConfig,
        spec: DecoderSpec,
        dtype: DType,
        context: usize,
    ) -> Result<Plan> {
        let device = MlxDevice::open(DeviceKind::Null)?;
        let parts = Rc::default();
        let source = DrySource {
            stored: tensors.source(&device, quantization),
            tensors,
            quantization,
            device: &device,
            parts: Rc::clone(&parts),
            read: Vec::new(),
        };
        let decoder = Decoder::from_source(&device, spec, Box::new(source), dtype, 512)?;
        let parts = std::mem::take(&mut *parts.borrow_mut());
        Ok(Plan {
            parts,
            activation_bytes: decoder.activation_bytes(),
            state_bytes: decoder.state_bytes(context),
        })
    }

    /// Elements of all parts together.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.parts.iter().map(Part::elements).sum()
    }

    /// Bytes of all parts together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Part::bytes).sum()
    }

    /// Bytes and elements that one token reads: of experts only those it is sent to, of a table that is no head as well
    /// nothing.
    #[must_use]
    pub fn active(&self, spec: &DecoderSpec) -> (f64, f64) {
        let tied = spec.head.matrix.is_none();
        let blocks = spec
            .layers
            .iter()
            .flat_map(|l| &l.branches)
            .flat_map(|b| &b.parts);
        let moe = blocks.filter_map(|p| match &p.block {
            Block::Moe(moe) => Some(moe),
            _ => None,
        });
        let shares: Vec<(&str, f64)> = moe
            .flat_map(|moe| {
                let share = moe.router.top_k as f64 / moe.experts.n_experts.max(1) as f64;
                let e = &moe.experts;
                let stacks = e.gate.iter().chain([&e.up, &e.down]);
                stacks.map(move |stack| (stack.path.as_str(), share))
            })
            .collect();
        let mut sums = (0.0, 0.0);
        for part in &self.parts {
            let share = if part.path == spec.embedding.table && !tied {
                0.0
            } else {
                let found = shares.iter().find(|(path, _)| match path.split_once("{}") {
                    // One matrix an expert.
                    Some((start, end)) => part.path.starts_with(start) && part.path.ends_with(end),
                    None => *path == part.path,
                });
                found.map_or(1.0, |(_, share)| *share)
            };
            sums.0 += share * part.bytes() as f64;
            sums.1 += share * part.elements() as f64;
        }
        sums
    }
}

/// Hands out memory that nobody touches, and notes what was asked for.
struct DrySource<'a> {
    /// Knows shapes.
    stored: Box<dyn Source + 'a>,
    tensors: &'a Tensors,
    quantization: &'a QuantizationConfig,
    device: &'a MlxDevice,
    parts: Rc<RefCell<Vec<Part>>>,
    /// Names of tensors.
    read: Vec<String>,
}

impl DrySource<'_> {
    fn note(&self, part: Part) {
        let mut parts = self.parts.borrow_mut();
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
}

impl Source for DrySource<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.stored.shape(name)
    }

    fn load(&mut self, name: &str, dtypes: &[DType], shape: &[usize]) -> Result<MlxBuffer> {
        let found = self.stored.shape(name);
        if found != Some(shape) {
            let found = found.map_or("nothing".to_owned(), |s| format!("{s:?}"));
            return Err(LmError::Weights(format!(
                "{name}: found {found}, wanted {shape:?}"
            )));
        }
        let dtype = self
            .tensors
            .dtype(name)
            .filter(|d| dtypes.contains(d))
            .or(dtypes.first().copied());
        let dtype = dtype.unwrap_or(DType::F32);
        if dtype.is_float() {
            self.note(Part {
                path: name.to_owned(),
                shape: shape.to_vec(),
                format: WeightFormat::Dense(dtype),
                matrix: false,
            });
        }
        self.read.push(name.to_owned());
        Ok(self.device.alloc_tensor(dtype, shape)?)
    }

    fn weight(&mut self, path: &str, lead: &[usize], columns: usize) -> Result<Weight> {
        let shape = [lead, &[columns]].concat();
        let format = self.tensors.format(path, &shape, self.quantization)?;
        let rows: usize = lead.iter().product();
        let mut planes = Vec::new();
        for plane in format.planes(columns)? {
            let elements = plane.elements(rows).unwrap_or(0);
            planes.push(self.device.alloc_tensor(plane.dtype, &[elements])?);
            self.read.push(format!("{path}.{}", plane.name));
        }
        self.note(Part {
            path: path.to_owned(),
            shape: shape.clone(),
            format,
            matrix: true,
        });
        Ok(Weight::new(format, planes, &shape)?)
    }

    fn unread(&self) -> Vec<String> {
        let read: std::collections::BTreeSet<&str> = self.read.iter().map(String::as_str).collect();
        let mut left = self.tensors.names();
        left.retain(|name| !read.contains(name.as_str()));
        left
    }
}
