//! Values of function constants.

use smallvec::SmallVec;

/// The value of one function constant, `constant T name [[function_constant(index)]]` in the kernel's text.
///
/// Floating-point constants are kept by their bits, so that a set of constants can key a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConstantValue {
    /// `bool`
    Bool(bool),
    /// `uint`
    U32(u32),
    /// `int`
    I32(i32),
    /// `float`, as its bits
    F32Bits(u32),
}

impl From<bool> for ConstantValue {
    fn from(v: bool) -> Self {
        ConstantValue::Bool(v)
    }
}
impl From<u32> for ConstantValue {
    fn from(v: u32) -> Self {
        ConstantValue::U32(v)
    }
}
impl From<i32> for ConstantValue {
    fn from(v: i32) -> Self {
        ConstantValue::I32(v)
    }
}
impl From<f32> for ConstantValue {
    fn from(v: f32) -> Self {
        ConstantValue::F32Bits(v.to_bits())
    }
}

/// Function constants of one specialisation: `(index, value)`.
pub type Constants = SmallVec<[(u32, ConstantValue); 6]>;
