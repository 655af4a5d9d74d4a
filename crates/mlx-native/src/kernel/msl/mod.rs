//! Metal Shading Language, as far as a launcher of kernels must read it.
//!
//! [`parse`] reads the signatures out of a `.metal` text: which kernels it has, under which host names, with which
//! bindings, threadgroup arguments and function constants. Pure Rust, the same on every machine; this is where the
//! registry and the encoder learn which buffers a kernel writes. The module `rewrite` turns the same text into C++ that a host
//! compiler accepts (for the emulator), or to CUDA's.
//!
//! | step | file |
//! |---|---|
//! | text to tokens | `lexer.rs` |
//! | directives and macros | `preprocess.rs`, `macros.rs`, `condition.rs` |
//! | brackets, attributes, items of a scope | `syntax.rs` |
//! | kernels, parameters, instantiations, function constants | `declarations.rs` |
//! | what may be bound twice | `in_place.rs` |
//! | [`parse`] | this file |
//! | a text with one kernel, and what of a text a kernel uses | `only.rs`, `reach.rs` |
//! | `rewrite::rewrite` | `rewrite.rs`, `swizzle.rs`, `emit.rs` |
//!
//! The text may come from a user at run time, so everything here is total: hostile text gives an [`MslError`], in time
//! near linear in its length and with bounded recursion.

#[cfg_attr(
    not(feature = "emulator"),
    allow(dead_code, reason = "part of the emulator's lint")
)]
pub(crate) mod casts;
mod condition;
mod declarations;
#[cfg_attr(
    not(any(feature = "emulator", feature = "cuda")),
    allow(dead_code, reason = "used by the rewriter")
)]
mod emit;
#[cfg(any(test, all(feature = "testing", feature = "emulator")))]
mod extent;
mod in_place;
mod lexer;
mod macros;
#[cfg(any(
    target_vendor = "apple",
    feature = "cuda",
    test,
    all(feature = "testing", feature = "emulator")
))]
mod only;
mod preprocess;
#[cfg(any(
    target_vendor = "apple",
    feature = "cuda",
    test,
    all(feature = "testing", feature = "emulator")
))]
mod reach;
#[cfg_attr(
    not(any(feature = "emulator", feature = "cuda")),
    allow(dead_code, reason = "only devices that compile the text need it")
)]
pub(crate) mod rewrite;
#[cfg_attr(
    not(any(feature = "emulator", feature = "cuda")),
    allow(dead_code, reason = "used by the rewriter")
)]
mod swizzle;
mod syntax;
#[cfg(test)]
mod tests;

#[cfg_attr(
    not(any(feature = "emulator", feature = "cuda")),
    allow(unused_imports, reason = "for devices that compile the text")
)]
pub(crate) use declarations::ParameterKind;
use declarations::{Instantiation, KernelDefinition};
#[cfg(any(test, all(feature = "testing", feature = "emulator")))]
pub(crate) use extent::threadgroup_bytes;
#[cfg(any(
    target_vendor = "apple",
    feature = "cuda",
    test,
    all(feature = "testing", feature = "emulator")
))]
pub(crate) use only::only;
#[cfg(any(target_vendor = "apple", test, all(feature = "testing", feature = "emulator")))]
pub(crate) use reach::Reach;
#[cfg(any(
    target_vendor = "apple",
    feature = "cuda",
    test,
    all(feature = "testing", feature = "emulator")
))]
pub(crate) use reach::reach;
use std::collections::{HashMap, HashSet};
use std::fmt;
use syntax::{Item, Syntax};

/// Why a text could not be read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MslError {
    /// Line in the text (or in the file that a `#line` directive names), from 1; 0 where no line is to blame.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

impl MslError {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> Self {
        Self {
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for MslError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for MslError {}

/// What a text declares for its host.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// One entry per host name: plain kernels and named instantiations of templates, in the order of the text.
    pub kernels: Vec<KernelSignature>,
    /// Function constants, in the order of the text.
    pub constants: Vec<FunctionConstant>,
}

impl Module {
    /// The signature of the kernel that the host calls `name`.
    pub fn kernel(&self, name: &str) -> Option<&KernelSignature> {
        self.kernels.iter().find(|k| k.name == name)
    }
}

/// The signature of one kernel.
#[derive(Clone, Debug)]
pub struct KernelSignature {
    /// Host name.
    pub name: String,
    /// Buffer arguments, by rising index.
    pub bindings: Vec<BindingDecl>,
    /// Threadgroup-memory arguments (their length is given at dispatch), by rising index.
    pub threadgroup: Vec<ThreadgroupDecl>,
    /// `max_total_threads_per_threadgroup`, where it is a constant expression of integer literals.
    pub max_threads: Option<u32>,
    /// Pairs of argument indices that may be bound to exactly the same bytes, the first one written:
    /// `// in place: kernel(output = input)`.
    pub in_place: Vec<(u32, u32)>,
    /// Line of the definition (for an instantiation: of the instantiation).
    pub line: u32,
}

/// One buffer argument of a kernel.
#[derive(Clone, Debug)]
pub struct BindingDecl {
    /// Buffer index.
    pub index: u32,
    /// Name of the parameter.
    pub name: String,
    /// Type that the pointer or reference refers to, as spelled; template parameters are replaced by their arguments.
    pub ty: String,
    /// Address space.
    pub space: Space,
    /// Whether the kernel may write through it.
    pub access: Access,
    /// The parameter exists only under a function constant: it may stay unbound.
    pub optional: bool,
    /// Line of the parameter.
    pub line: u32,
}

/// Address space of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// `device`
    Device,
    /// `constant`
    Constant,
}

/// What a kernel may do with a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `device const T*` or `constant`
    Read,
    /// `device T*`
    ReadWrite,
}

/// One threadgroup-memory argument of a kernel.
#[derive(Clone, Debug)]
pub struct ThreadgroupDecl {
    /// Threadgroup-memory index.
    pub index: u32,
    /// Name of the parameter.
    pub name: String,
    /// Element type as spelled.
    pub ty: String,
}

/// `constant T name [[function_constant(index)]];`
#[derive(Clone, Debug)]
pub struct FunctionConstant {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Type.
    pub ty: ConstantType,
    /// Line of the declaration.
    pub line: u32,
}

/// Type of a function constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConstantType {
    /// `bool`
    Bool,
    /// `char`
    Char,
    /// `uchar`
    UChar,
    /// `short`
    Short,
    /// `ushort`
    UShort,
    /// `int`
    Int,
    /// `uint`
    UInt,
    /// `long`
    Long,
    /// `ulong`
    ULong,
    /// `half`
    Half,
    /// `bfloat`
    BFloat,
    /// `float`
    Float,
}

impl ConstantType {
    /// The type that MSL spells `name`, under any of its names.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "bool" => Self::Bool,
            "char" | "int8_t" | "signed char" => Self::Char,
            "uchar" | "uint8_t" | "unsigned char" => Self::UChar,
            "short" | "int16_t" => Self::Short,
            "ushort" | "uint16_t" | "unsigned short" => Self::UShort,
            "int" | "int32_t" => Self::Int,
            "uint" | "uint32_t" | "unsigned int" | "unsigned" => Self::UInt,
            "long" | "int64_t" | "ptrdiff_t" => Self::Long,
            "ulong" | "uint64_t" | "size_t" | "unsigned long" => Self::ULong,
            "half" => Self::Half,
            "bfloat" => Self::BFloat,
            "float" => Self::Float,
            _ => return None,
        })
    }

    /// The type's name in MSL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Char => "char",
            Self::UChar => "uchar",
            Self::Short => "short",
            Self::UShort => "ushort",
            Self::Int => "int",
            Self::UInt => "uint",
            Self::Long => "long",
            Self::ULong => "ulong",
            Self::Half => "half",
            Self::BFloat => "bfloat",
            Self::Float => "float",
        }
    }
}

/// Reads the kernel signatures and function constants of an MSL text.
///
/// Macros are expanded and conditionals followed; `#include <…>` is ignored, `#include "…"` must have been flattened.
///
/// # Errors
/// Text that does not lex, unbalanced brackets, directives or macros that cannot be followed, kernel parameters without
/// a meaning (textures, unknown attributes, missing attributes), an `in place` line that names no argument, an index given twice, a host name given twice, an
/// instantiation of a kernel that the text does not define.
pub fn parse(source: &str) -> Result<Module, MslError> {
    let syntax = Syntax::new(preprocess::preprocess(source)?)?;
    let mut collected = Collected {
        in_place: in_place::read(source)?,
        ..Collected::default()
    };
    let mut ends = Vec::new();
    let mut at = 0;
    while at < syntax.len() {
        if ends.last() == Some(&at) {
            ends.pop();
            at += 1;
            continue;
        }
        let item = syntax.item(at, *ends.last().unwrap_or(&syntax.len()))?;
        at = item.end();
        if let Item::Block { open, close, .. } = item {
            ends.push(close);
            at = open + 1;
        }
        collected.add(&syntax, &item)?;
    }
    collected.finish()
}

/// Kernels and constants of a text, before host names are resolved.
#[derive(Default)]
struct Collected {
    definitions: HashMap<String, Vec<KernelDefinition>>,
    /// Host-visible names in the order of the text: plain kernels, and instantiations.
    exports: Vec<Export>,
    constants: Vec<FunctionConstant>,
    in_place: Vec<in_place::InPlace>,
}

enum Export {
    Plain { host: String, function: String },
    Instance(Instantiation),
}

impl Collected {
    fn add(&mut self, syntax: &Syntax<'_>, item: &Item) -> Result<(), MslError> {
        match item {
            Item::Function { kernel: true, .. } => {
                let definition = declarations::kernel(syntax, item)?;
                if definition.has_body {
                    self.define(definition)?;
                }
            }
            Item::Instantiation { .. } => {
                if let Some(instance) = declarations::instantiation(syntax, item)? {
                    self.exports.push(Export::Instance(instance));
                }
            }
            Item::Constant { .. } => self
                .constants
                .push(declarations::constant(syntax, item)?.declaration),
            _ => {}
        }
        Ok(())
    }

    fn define(&mut self, definition: KernelDefinition) -> Result<(), MslError> {
        let overloads = self.definitions.entry(definition.name.clone()).or_default();
        if definition.template.is_none() {
            if overloads.iter().any(|d| d.template.is_none()) {
                let message = format!("kernel `{}` is defined twice", definition.name);
                return Err(MslError::new(definition.line, message));
            }
            let host = definition.host_name.as_ref().unwrap_or(&definition.name).clone();
            self.exports.push(Export::Plain {
                host,
                function: definition.name.clone(),
            });
        }
        overloads.push(definition);
        Ok(())
    }

    fn finish(self) -> Result<Module, MslError> {
        let mut names = HashSet::new();
        let mut kernels = Vec::with_capacity(self.exports.len());
        for export in &self.exports {
            let signature = self.signature(export)?;
            if !names.insert(signature.name.clone()) {
                let message = format!("host name `{}` is given to two kernels", signature.name);
                return Err(MslError::new(signature.line, message));
            }
            kernels.push(signature);
        }
        if let Some(lost) = self
            .in_place
            .iter()
            .find(|d| !self.definitions.contains_key(&d.function))
        {
            let message = format!("in place: the text has no kernel `{}`", lost.function);
            return Err(MslError::new(lost.line, message));
        }
        let mut indices = HashMap::new();
        for constant in &self.constants {
            if let Some(other) = indices.insert(constant.index, &constant.name) {
                let message = format!(
                    "function constants `{other}` and `{}` share index {}",
                    constant.name, constant.index
                );
                return Err(MslError::new(constant.line, message));
            }
        }
        Ok(Module {
            kernels,
            constants: self.constants,
        })
    }

    fn signature(&self, export: &Export) -> Result<KernelSignature, MslError> {
        let (host, function, arguments, line) = match export {
            Export::Plain { host, function } => (host, function, &[][..], None),
            Export::Instance(i) => (&i.host_name, &i.function, &i.arguments[..], Some(i.line)),
        };
        let overloads = self.definitions.get(function).map_or(&[][..], Vec::as_slice);
        let Some(definition) = declarations::overload(overloads, arguments.len()) else {
            let message = format!("`{host}` instantiates `{function}`, which is not a kernel of this text");
            return Err(MslError::new(line.unwrap_or(0), message));
        };
        let names = definition.template.as_deref().unwrap_or(&[]);
        let substitutions: HashMap<&str, &str> = names
            .iter()
            .map(String::as_str)
            .zip(arguments.iter().map(String::as_str))
            .collect();
        let mut bindings = Vec::new();
        let mut threadgroup = Vec::new();
        for p in &definition.parameters {
            let ty = declarations::substitute(&p.ty, &substitutions);
            match p.kind {
                ParameterKind::Buffer { space, access } => {
                    let name = p.name.clone();
                    bindings.push(BindingDecl {
                        index: p.index,
                        name,
                        ty,
                        space,
                        access,
                        optional: p.optional,
                        line: p.line,
                    });
                }
                ParameterKind::Threadgroup => {
                    threadgroup.push(ThreadgroupDecl {
                        index: p.index,
                        name: p.name.clone(),
                        ty,
                    });
                }
                ParameterKind::Builtin(_) => {}
            }
        }
        bindings.sort_by_key(|b| b.index);
        threadgroup.sort_by_key(|t| t.index);
        Ok(KernelSignature {
            name: host.clone(),
            in_place: in_place::resolve(&self.in_place, function, &bindings)?,
            bindings,
            threadgroup,
            max_threads: definition.max_threads,
            line: line.unwrap_or(definition.line),
        })
    }
}
