//! The tensors of safetensors files under MLX's names, with those that mlx-lm makes of others when it loads a checkpoint of
//! another program: experts put together, fused heads taken apart, foreign ways of packing repacked. What is as MLX has it
//! stays in the file, under its own name or another.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use mlx_native::weights::{ModelWeights, TensorType};

use super::foreign;
use super::layout;
use super::made::Make;
use crate::error::{LmError, Result};
use crate::json::Fields;

/// What is known of a tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Info<'a> {
    /// Its element type.
    pub dtype: TensorType,
    /// Its shape.
    pub shape: &'a [usize],
}

/// Something that knows which tensors there are.
pub trait Known {
    /// Element type and shape of a tensor.
    fn known(&self, name: &str) -> Option<(TensorType, &[usize])>;
}

impl Known for ModelWeights {
    fn known(&self, name: &str) -> Option<(TensorType, &[usize])> {
        let info = self.info(name)?;
        Some((info.dtype, &info.shape))
    }
}

/// A tensor of a file, or one that is made of such.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub dtype: TensorType,
    pub shape: Vec<usize>,
    pub make: Make,
}

/// Tensors of files, and tensors made of them.
#[derive(Debug)]
pub(crate) struct StoredTensors {
    weights: ModelWeights,
    tensors: BTreeMap<String, Arc<Tensor>>,
}

impl StoredTensors {
    /// The tensors of files as they are.
    pub fn plain(weights: ModelWeights) -> Self {
        let each = |name: &str| {
            let info = weights.info(name)?;
            let tensor = Tensor {
                dtype: info.dtype,
                shape: info.shape.clone(),
                make: Make::Stored(name.to_owned()),
            };
            Some((name.to_owned(), Arc::new(tensor)))
        };
        let tensors = weights.names().filter_map(each).collect();
        StoredTensors { weights, tensors }
    }

    /// The same as `family` names and lays them out, whatever program wrote them.
    ///
    /// # Errors
    /// [`LmError::Weights`] for foreign tensors that do not fit together; [`LmError::Unsupported`] for ways of packing that
    /// mlx-lm refuses too.
    pub fn of(weights: ModelWeights, family: &str, config: &Fields<'_>) -> Result<Self> {
        let mut this = Self::plain(weights);
        foreign::unpack(&mut this, config)?;
        layout::apply(&mut this, family, config)?;
        Ok(this)
    }

    /// The files.
    pub fn weights(&self) -> &ModelWeights {
        &self.weights
    }

    /// A tensor.
    pub fn get(&self, name: &str) -> Option<&Arc<Tensor>> {
        self.tensors.get(name)
    }

    /// Puts a tensor where this name is.
    pub fn put(&mut self, name: impl Into<String>, tensor: Arc<Tensor>) {
        self.tensors.insert(name.into(), tensor);
    }

    /// Makes a tensor of others under this name.
    pub fn add(&mut self, name: impl Into<String>, dtype: TensorType, shape: Vec<usize>, make: Make) {
        self.put(name, Arc::new(Tensor { dtype, shape, make }));
    }

    /// Takes a tensor out.
    pub fn take(&mut self, name: &str) -> Option<Arc<Tensor>> {
        self.tensors.remove(name)
    }

    pub fn info(&self, name: &str) -> Option<Info<'_>> {
        let tensor = self.tensors.get(name)?;
        Some(Info {
            dtype: tensor.dtype,
            shape: &tensor.shape,
        })
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The name in the files of a tensor that is there as it is.
    pub fn in_file(&self, name: &str) -> Option<&str> {
        match &self.tensors.get(name)?.make {
            Make::Stored(own) => Some(own),
            _ => None,
        }
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The names that `wanted` wants.
    pub fn named(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        self.names().filter(|n| wanted(n)).map(str::to_owned).collect()
    }

    pub fn total_bytes(&self) -> usize {
        self.weights.total_bytes()
    }

    /// The bytes of a tensor, made where it is made of others.
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self.tensors.get(name) {
            None => Err(LmError::Weights(format!("{name} is missing"))),
            Some(tensor) => self.bytes_of(tensor),
        }
    }

    /// The bytes of a tensor.
    pub fn bytes_of<'a>(&'a self, tensor: &'a Tensor) -> Result<Cow<'a, [u8]>> {
        if let Make::Stored(name) = &tensor.make {
            return Ok(Cow::Borrowed(self.weights.bytes(name)?));
        }
        let bytes = tensor.make.run(self, tensor)?;
        let wanted = tensor.shape.iter().product::<usize>() * tensor.dtype.size_of();
        if bytes.len() != wanted {
            return Err(LmError::Weights(format!(
                "made {} bytes of {wanted} for {:?}",
                bytes.len(),
                tensor.shape
            )));
        }
        Ok(bytes)
    }
}

impl Known for StoredTensors {
    fn known(&self, name: &str) -> Option<(TensorType, &[usize])> {
        self.info(name).map(|info| (info.dtype, info.shape))
    }
}
