//! The tensors of safetensors files, with those that mlx-lm makes of others when it loads a checkpoint of another program:
//! experts put together, fused heads taken apart, foreign ways of packing repacked. What is as MLX has it stays in the file.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use mlx_native::weights::{ModelWeights, TensorType};

use super::foreign::{self, Make};
use crate::error::{LmError, Result};

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

/// A tensor made of others.
#[derive(Debug)]
pub(crate) struct Derived {
    pub dtype: TensorType,
    pub shape: Vec<usize>,
    pub make: Make,
}

/// Tensors of files, and tensors made of them.
#[derive(Debug)]
pub(crate) struct StoredTensors {
    weights: ModelWeights,
    derived: BTreeMap<String, Derived>,
    /// Names that are no longer there by themselves.
    consumed: BTreeSet<String>,
}

impl StoredTensors {
    /// The tensors of files as they are.
    pub fn plain(weights: ModelWeights) -> Self {
        StoredTensors {
            weights,
            derived: BTreeMap::new(),
            consumed: BTreeSet::new(),
        }
    }

    /// The same, with what `family` makes of foreign names.
    ///
    /// # Errors
    /// [`LmError::Weights`] for foreign tensors that do not fit together; [`LmError::Unsupported`] for ways of packing that
    /// mlx-lm refuses too.
    pub fn of(weights: ModelWeights, rules: &foreign::Rules) -> Result<Self> {
        let mut this = Self::plain(weights);
        foreign::derive(&mut this, rules)?;
        Ok(this)
    }

    /// The files.
    pub fn weights(&self) -> &ModelWeights {
        &self.weights
    }

    pub fn add(&mut self, name: String, derived: Derived) {
        self.consumed.remove(&name);
        self.derived.insert(name, derived);
    }

    /// Takes a tensor out: it is part of another now.
    pub fn consume(&mut self, name: &str) {
        self.consumed.insert(name.to_owned());
    }

    pub fn info(&self, name: &str) -> Option<Info<'_>> {
        if let Some(d) = self.derived.get(name).filter(|_| !self.consumed.contains(name)) {
            return Some(Info {
                dtype: d.dtype,
                shape: &d.shape,
            });
        }
        self.of_file(name).filter(|_| !self.consumed.contains(name))
    }

    /// What is known of a tensor, taken out or not.
    pub fn any(&self, name: &str) -> Option<Info<'_>> {
        match self.derived.get(name) {
            Some(d) => Some(Info {
                dtype: d.dtype,
                shape: &d.shape,
            }),
            None => self.of_file(name),
        }
    }

    fn of_file(&self, name: &str) -> Option<Info<'_>> {
        let info = self.weights.info(name)?;
        Some(Info {
            dtype: info.dtype,
            shape: &info.shape,
        })
    }

    pub fn contains(&self, name: &str) -> bool {
        self.info(name).is_some()
    }

    /// Whether a tensor is made of others.
    pub fn is_derived(&self, name: &str) -> bool {
        self.derived.contains_key(name)
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let own = self
            .weights
            .names()
            .filter(|name| !self.derived.contains_key(*name));
        let all = own.chain(self.derived.keys().map(String::as_str));
        all.filter(|name| !self.consumed.contains(*name))
    }

    pub fn total_bytes(&self) -> usize {
        self.weights.total_bytes()
    }

    /// The bytes of a tensor, made where it is made of others.
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self.derived.get(name) {
            None => Ok(Cow::Borrowed(self.weights.bytes(name)?)),
            Some(derived) => {
                let bytes = derived.make.run(self, &derived.shape)?;
                let wanted = derived.shape.iter().product::<usize>() * derived.dtype.size_of();
                if bytes.len() != wanted {
                    return Err(LmError::Weights(format!(
                        "{name}: made {} bytes of {wanted}",
                        bytes.len()
                    )));
                }
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

impl Known for StoredTensors {
    fn known(&self, name: &str) -> Option<(TensorType, &[usize])> {
        self.info(name).map(|info| (info.dtype, info.shape))
    }
}
