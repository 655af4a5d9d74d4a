//! MSL to the C++ of a compiler that has never heard of it.
//!
//! The compiler behind it still does all the typing; this pass only removes what it could not read. For
//! [`Target::Cpp`]: address spaces go (memory is flat), so do overloads and specialisations that differ in nothing else;
//! attributes go; `threadgroup` variables in a kernel become references into memory that the runtime hands out;
//! function constants become constants; floating literals get the type they have in MSL, which has no double; kernel
//! instantiations leave the text and come back as [`Entry`]s. Line numbers stay.
//!
//! [`Target::Cuda`] differs in three things: `threadgroup` variables become `__shared__` ones, swizzles become calls
//! (`swizzle.rs`), for this compiler has no properties, and a function constant without a value is an unresolved variable.

use super::declarations::{self, KernelDefinition, Parameter};
use super::emit::Emitter;
use super::lexer::Kind;
use super::preprocess;
use super::swizzle;
use super::syntax::{Item, Syntax};
use super::{ConstantType, MslError};
use crate::kernel::ConstantValue;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Who reads the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(all(feature = "emulator", feature = "cuda")),
    allow(dead_code, reason = "a build has the devices of its features")
)]
pub(crate) enum Target {
    /// A host compiler with flat memory, behind a prelude that defines the library.
    Cpp,
    /// A host compiler that is only asked whether pointers keep to their address spaces: the keywords stay.
    AddressSpaces,
    /// NVRTC, which puts every function on the device, behind a prelude that defines the library.
    Cuda,
}

/// A function constant's value as a C++ expression of its declared type.
fn value_text(value: ConstantValue, ty: ConstantType) -> String {
    let ty = ty.name();
    match value {
        ConstantValue::Bool(v) => format!("{ty}({v})"),
        ConstantValue::I32(v) => format!("{ty}({v}LL)"),
        ConstantValue::U32(v) => format!("{ty}({v}u)"),
        ConstantValue::F32Bits(bits) => format!("{ty}(__builtin_bit_cast(float, 0x{bits:08x}u))"),
    }
}

/// What to make.
pub(crate) struct Options<'o> {
    pub target: Target,
    /// What diagnostics call the text where no `#line` directive names a file.
    pub file: &'o str,
    /// Function constants by index; those without a value stay undefined.
    pub constants: &'o [(u32, ConstantValue)],
}

/// The C++ text and the kernels in it.
pub(crate) struct Rewritten {
    pub text: String,
    /// In the order of the MSL text.
    pub entries: Vec<Entry>,
}

/// One kernel by host name.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub host_name: String,
    /// What names the function in C++, such as `f < float , 4 >`.
    pub expression: String,
    pub parameters: Vec<Parameter>,
}

/// What the name of an undefined function constant begins with for the linker (for CUDA's: the namespace it is in): its
/// complaint then says what is missing.
pub(crate) const UNSET_CONSTANT_SYMBOL: &str = "msl_function_constant_is_not_set_";

/// Deepest nesting of namespaces and classes.
const MAX_DEPTH: usize = 64;

/// Rewrites an MSL text.
///
/// # Errors
/// As [`super::parse`]; besides, scopes nested too deeply.
pub(crate) fn rewrite(source: &str, options: &Options<'_>) -> Result<Rewritten, MslError> {
    let syntax = Syntax::new(preprocess::preprocess(source)?)?;
    let asks_defined = (0..syntax.len())
        .filter(|i| syntax.is(*i, "is_function_constant_defined"))
        .filter_map(|i| syntax.tokens.get(i + 2).map(|t| t.text.to_string()))
        .collect();
    let mut rewriter = Rewriter {
        out: Emitter::new(&syntax.files, options.file),
        s: &syntax,
        options,
        kernels: HashMap::new(),
        entries: Vec::new(),
        scope: Vec::new(),
        variables: 0,
        asks_defined,
        fields: HashSet::new(),
        unset: HashSet::new(),
    };
    if rewriter.cuda() {
        rewriter.fields = swizzle::fields(&syntax)?;
    }
    rewriter.scope(0..syntax.len(), 0)?;
    let Rewriter {
        out,
        kernels,
        entries: pending,
        ..
    } = rewriter;
    let mut entries = Vec::with_capacity(pending.len());
    for entry in pending {
        let definitions = kernels.get(&entry.function).map_or(&[][..], Vec::as_slice);
        let Some(definition) = declarations::overload(definitions, entry.arguments) else {
            let message = format!(
                "`{}` instantiates `{}`, which is not a kernel of this text",
                entry.host_name, entry.function
            );
            return Err(MslError::new(entry.line, message));
        };
        let parameters = definition.parameters.clone();
        entries.push(Entry {
            host_name: entry.host_name,
            expression: entry.expression,
            parameters,
        });
    }
    Ok(Rewritten {
        text: out.finish(),
        entries,
    })
}

/// An entry whose kernel may still be to come.
struct Pending {
    host_name: String,
    function: String,
    expression: String,
    /// Number of template arguments.
    arguments: usize,
    line: u32,
}

struct Rewriter<'r, 'a> {
    out: Emitter,
    s: &'r Syntax<'a>,
    options: &'r Options<'r>,
    kernels: HashMap<String, Vec<KernelDefinition>>,
    entries: Vec<Pending>,
    /// Names of the namespaces around.
    scope: Vec<String>,
    /// Threadgroup variables so far: numbers them.
    variables: u32,
    /// Function constants whose presence the text asks for.
    asks_defined: HashSet<String>,
    /// Members of the text's own types that are named like swizzles.
    fields: HashSet<String>,
    /// Function constants without a value, and variables made of such.
    unset: HashSet<String>,
}

impl Rewriter<'_, '_> {
    fn flat(&self) -> bool {
        matches!(self.options.target, Target::Cpp | Target::Cuda)
    }

    fn cuda(&self) -> bool {
        self.options.target == Target::Cuda
    }

    fn scope(&mut self, range: Range<usize>, depth: usize) -> Result<(), MslError> {
        if depth > MAX_DEPTH {
            return self.s.error(range.start, "scopes are nested too deeply");
        }
        let mut seen = HashSet::new();
        let mut at = range.start;
        while at < range.end {
            let item = self.s.item(at, range.end)?;
            at = item.end();
            match &item {
                Item::Block { range, open, close } => {
                    self.code(range.start..*open + 1);
                    let name = (range.start..*open).rev().find(|i| self.s.tokens[*i].is_ident());
                    let named = name.filter(|i| !self.s.is(*i, "namespace") && !self.s.is(*i, "extern"));
                    self.scope
                        .push(named.map_or(String::new(), |i| format!("{} :: ", self.s.tokens[i].text)));
                    self.scope(*open + 1..*close, depth + 1)?;
                    self.scope.pop();
                    self.code(*close..range.end);
                }
                Item::Type { range, open, close } => {
                    if self.repeats(range.start..*open, usize::MAX, true, &mut seen) {
                        continue;
                    }
                    self.code(range.start..*open + 1);
                    self.scope(*open + 1..*close, depth + 1)?;
                    self.code(*close..range.end);
                }
                Item::Function { .. } => self.function(&item, &mut seen)?,
                Item::Instantiation { range } => match declarations::instantiation(self.s, &item)? {
                    Some(i) => {
                        let expression = self.qualified(&i.expression);
                        self.entries.push(Pending {
                            host_name: i.host_name,
                            function: i.function,
                            expression,
                            arguments: i.arguments.len(),
                            line: i.line,
                        });
                    }
                    None => self.code(range.clone()),
                },
                Item::Constant { .. } => self.constant(&item)?,
                Item::Other { range } => match self.made_of_unset(range) {
                    Some(text) => {
                        let token = &self.s.tokens[range.start];
                        self.out.text(&text, token.line, token.file);
                    }
                    None => self.code(range.clone()),
                },
            }
        }
        Ok(())
    }

    fn qualified(&self, expression: &str) -> String {
        format!("{}{expression}", self.scope.concat())
    }

    /// Whether a declaration differs from an earlier one of the scope in address spaces only.
    /// Behind `parameters_end`, a space qualifies `this` and means nothing at all.
    fn repeats(
        &self,
        head: Range<usize>,
        parameters_end: usize,
        has_body: bool,
        seen: &mut HashSet<String>,
    ) -> bool {
        if !self.flat() {
            return false;
        }
        let mut key = String::from(if has_body { "{" } else { ";" });
        let mut spaces = false;
        let mut last_const = false;
        for i in self.s.without_attributes(head) {
            let word = match self.s.tokens[i].text.as_ref() {
                "device" | "threadgroup" | "thread" => {
                    spaces = true;
                    continue;
                }
                "constant" => {
                    spaces = true;
                    if i > parameters_end {
                        continue;
                    }
                    "const"
                }
                word => word,
            };
            if word == "const" && last_const {
                continue;
            }
            last_const = word == "const";
            key.push(' ');
            key.push_str(word);
        }
        let new = seen.insert(key);
        !new && spaces
    }

    fn function(&mut self, item: &Item, seen: &mut HashSet<String>) -> Result<(), MslError> {
        let Item::Function {
            range,
            paren,
            body,
            kernel,
        } = item
        else {
            return Ok(());
        };
        let head_end = body.unwrap_or(range.end);
        let close = self.s.closer(*paren).unwrap_or(*paren);
        if *kernel {
            let definition = declarations::kernel(self.s, item)?;
            let name = definition.name.clone();
            if definition.template.is_none() && definition.has_body {
                let host = definition.host_name.clone().unwrap_or_else(|| name.clone());
                let expression = self.qualified(&name);
                self.entries.push(Pending {
                    host_name: host,
                    function: name.clone(),
                    expression,
                    arguments: 0,
                    line: definition.line,
                });
                let storage = ["static", "inline", "extern"];
                if self.flat() && !(range.start..*paren).any(|i| storage.iter().any(|w| self.s.is(i, w))) {
                    // Kernels that nobody asked for then cost nothing.
                    let first = &self.s.tokens[range.start];
                    self.out.text("static", first.line, first.file);
                }
            }
            if definition.has_body {
                self.kernels.entry(name).or_default().push(definition);
            }
        } else if self.repeats(range.start..head_end, close, body.is_some(), seen) {
            return Ok(());
        }
        self.code(range.start..close + 1);
        // `float get() const device`: the space of `this` means nothing here.
        let mut at = close + 1;
        while at < head_end {
            let space = ["device", "constant", "threadgroup", "thread"]
                .iter()
                .any(|w| self.s.is(at, w));
            if !space {
                self.code(at..at + 1);
            }
            at += 1;
        }
        if let Some(open) = *body {
            self.body(open..range.end);
        }
        Ok(())
    }

    fn constant(&mut self, item: &Item) -> Result<(), MslError> {
        let constant = declarations::constant(self.s, item)?;
        let declared = &constant.declaration;
        let (name, ty) = (&declared.name, &constant.spelled);
        let value = self
            .options
            .constants
            .iter()
            .find(|(i, _)| *i == declared.index)
            .map(|(_, v)| *v);
        let text = match value {
            Some(v) => {
                let value = value_text(v, declared.ty);
                format!(
                    "static constexpr {ty} {name} = {value}; static constexpr bool {name}__defined = true;"
                )
            }
            None if !self.flat() || self.asks_defined.contains(name) => {
                format!(
                    "static constexpr {ty} {name} = {ty}(0); static constexpr bool {name}__defined = false;"
                )
            }
            // A namespace, for this compiler's variables have no symbols of one's choice.
            None if self.cuda() => {
                self.unset.insert(name.to_string());
                unset_variable(ty, name)
            }
            None => format!("extern const {ty} {name} __asm__(\"{UNSET_CONSTANT_SYMBOL}{name}\");"),
        };
        let token = &self.s.tokens[item.range().start];
        self.out.text(&text, token.line, token.file);
        Ok(())
    }

    /// What stands on CUDA for `constant bool A = !B;` where `B` has no value: `A` has none either. Its variables at the scope
    /// of the program cannot be worked out when the program starts, as other devices do.
    fn made_of_unset(&mut self, range: &Range<usize>) -> Option<String> {
        if self.unset.is_empty() || !self.s.is(range.start, "constant") {
            return None;
        }
        let equals = range.clone().find(|i| self.s.is(*i, "="))?;
        let is_unset = |i: usize| self.unset.contains(self.s.tokens[i].text.as_ref());
        if !(equals..range.end).any(is_unset) {
            return None;
        }
        let name = self.s.tokens[equals - 1].text.to_string();
        let ty: Vec<&str> = (range.start..equals - 1)
            .map(|i| self.s.tokens[i].text.as_ref())
            .filter(|word| !["constant", "const", "static", "constexpr"].contains(word))
            .collect();
        let text = unset_variable(&ty.join(" "), &name);
        self.unset.insert(name);
        Some(text)
    }

    /// Emits tokens outside function bodies.
    fn code(&mut self, range: Range<usize>) {
        let mut at = range.start;
        while at < range.end {
            at = self.one(at);
        }
    }

    /// Emits a function body, statement by statement as far as threadgroup variables need it.
    fn body(&mut self, range: Range<usize>) {
        let mut starts_statement = false;
        let mut at = range.start;
        while at < range.end {
            if starts_statement && let Some(end) = self.threadgroup_variable(at) {
                at = end;
                continue;
            }
            let token = &self.s.tokens[at];
            starts_statement = token.kind == Kind::Pragma || token.is("{") || token.is("}") || token.is(";");
            at = self.one(at);
        }
    }

    /// Emits the token at `at`, or whatever stands for it; returns the index behind it.
    fn one(&mut self, at: usize) -> usize {
        if let Some(end) = self.s.attribute_end(at) {
            return end;
        }
        let token = &self.s.tokens[at];
        if self.cuda()
            && let Some(call) = swizzle::call(self.s, at, &self.fields)
        {
            self.out.text(&call, token.line, token.file);
            return at + 1;
        }
        let replacement = match token.kind {
            Kind::Ident => match token.text.as_ref() {
                "kernel" => Some(String::new()),
                "device" | "threadgroup" | "thread" if self.flat() => Some(String::new()),
                "constant" if self.flat() => Some("const".to_owned()),
                "is_function_constant_defined" => {
                    if let (Some(close), Some(name)) = (self.s.closer(at + 1), self.s.tokens.get(at + 2)) {
                        self.out
                            .text(&format!("{}__defined", name.text), token.line, token.file);
                        return close + 1;
                    }
                    None
                }
                _ => None,
            },
            Kind::Number => literal(&token.text),
            _ => None,
        };
        match replacement {
            Some(text) if text.is_empty() => {}
            Some(text) => self.out.text(&text, token.line, token.file),
            None => self.out.token(token),
        }
        at + 1
    }

    /// `threadgroup float x[32], y;` at the start of a statement: emits what stands for it, returns the index behind.
    fn threadgroup_variable(&mut self, start: usize) -> Option<usize> {
        let s = self.s;
        let mut at = start;
        let skip_alignas = |at: usize| {
            if s.is(at, "alignas") {
                s.closer(at + 1).map_or(at, |c| c + 1)
            } else {
                at
            }
        };
        at = skip_alignas(at);
        if !s.is(at, "threadgroup") {
            return None;
        }
        let type_start = skip_alignas(at + 1);
        let mut name = None;
        at = type_start;
        loop {
            match s.tokens.get(at)?.text.as_ref() {
                ";" | "=" | "[" | "{" | "," if s.attribute_end(at).is_none() => break,
                "(" | ")" | "*" | "&" | "}" => return None,
                "<" => at = s.angle_end(at)? - 1,
                "[" => at = s.attribute_end(at)? - 1,
                _ if s.tokens[at].is_ident() => name = Some(at),
                _ => {}
            }
            at += 1;
        }
        let name = name.filter(|n| *n > type_start)?;
        let mut end = at;
        while !s.is(end, ";") {
            end = s.closer(end).unwrap_or(end) + 1;
            s.tokens.get(end)?;
        }
        let declarators = s.split_commas(name..end);
        for declarator in declarators {
            self.declare_threadgroup(type_start..name, declarator);
        }
        Some(end + 1)
    }

    fn declare_threadgroup(&mut self, ty: Range<usize>, declarator: Range<usize>) {
        let s = self.s;
        let mut initialiser = declarator.start + 1;
        while initialiser < declarator.end && s.is(initialiser, "[") {
            initialiser = s.closer(initialiser).unwrap_or(initialiser) + 1;
        }
        let dimensions = declarator.start + 1..initialiser;
        let zeroed = initialiser < declarator.end;
        let name = s.tokens[declarator.start].text.to_string();
        let (line, file) = (s.tokens[declarator.start].line, s.tokens[declarator.start].file);
        if !self.flat() {
            self.out.text("static threadgroup", line, file);
            self.code(ty);
            self.code(declarator.start..initialiser);
            self.out.text(";", line, file);
            return;
        }
        if self.cuda() {
            // Aligned, so that neighbours can be moved together. An initialiser stays: the compiler refuses it.
            self.out.text("__shared__ __align__(16)", line, file);
            self.code(ty);
            self.code(declarator);
            self.out.text(";", line, file);
            return;
        }
        self.variables += 1;
        let id = self.variables;
        self.out.text("typedef", line, file);
        self.code(ty);
        self.out.text(&format!("emu_type_{id}"), line, file);
        self.code(dimensions);
        let reference =
            format!("; emu_type_{id}& {name} = emu::threadgroup_variable<emu_type_{id}>({id}, {zeroed});");
        self.out.text(&reference, line, file);
    }
}

/// A floating literal as C++ that has MSL's type: `1.0` is a float, `1.0h` a half. `None` for what may stay.
fn literal(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("0x") {
        return (lower.contains('p') && !lower.ends_with('f')).then(|| format!("{text}f"));
    }
    let (digits, ty) = if let Some(d) = lower.strip_suffix("bf") {
        (d, Some("bfloat"))
    } else if let Some(d) = lower.strip_suffix('h') {
        (d, Some("half"))
    } else {
        (lower.as_str(), None)
    };
    let floating = digits.contains(['.', 'e']);
    let plain = digits
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | '+' | '-'));
    if !plain {
        return None;
    }
    match ty {
        Some(ty) => Some(format!("{ty}({digits}{})", if floating { "f" } else { ".0f" })),
        None => floating.then(|| format!("{text}f")),
    }
}

/// A variable whose use the assembler of CUDA's complains of, by its name. It is in a namespace because variables have no
/// symbols of one's choice there.
fn unset_variable(ty: &str, name: &str) -> String {
    format!(
        "namespace {UNSET_CONSTANT_SYMBOL} {{ extern __device__ const {ty} {name}; }} using {UNSET_CONSTANT_SYMBOL}::{name};"
    )
}
