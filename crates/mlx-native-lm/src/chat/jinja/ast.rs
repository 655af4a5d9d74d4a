//! A template, parsed.

use std::sync::Arc;

/// Index of a name in [`Program::names`].
pub(crate) type Name = u32;

/// A whole template.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) names: Vec<String>,
    pub(crate) constants: Vec<Constant>,
    pub(crate) blocks: Vec<BlockDef>,
    pub(crate) body: Body,
}

/// Statements in a row.
pub(crate) type Body = Vec<Node>;

/// A literal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Constant {
    None,
    Bool(bool),
    Int(i128),
    BigInt(String),
    Float(f64),
    Text(String),
}

/// A statement and its line.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) line: u32,
    pub(crate) statement: Statement,
}

#[derive(Debug)]
pub(crate) enum Statement {
    Text(String),
    Print(Vec<Expr>),
    For(Arc<For>),
    If {
        branches: Vec<(Expr, Body)>,
        otherwise: Body,
    },
    Set {
        target: Target,
        value: Expr,
    },
    SetBlock {
        target: Target,
        filters: Vec<Filter>,
        body: Body,
    },
    With {
        pairs: Vec<(Target, Expr)>,
        body: Body,
    },
    Macro(Name, Arc<MacroDef>),
    Call {
        caller: Arc<MacroDef>,
        call: Expr,
    },
    FilterBlock {
        filters: Vec<Filter>,
        body: Body,
    },
    Autoescape {
        value: Expr,
        body: Body,
    },
    /// Index into [`Program::blocks`].
    Block(usize),
    /// A scope of its own: what a `generation` tag is here.
    Scope(Body),
    Break,
    Continue,
    /// What needs other templates: an error when it runs.
    Elsewhere(&'static str),
}

#[derive(Debug)]
pub(crate) struct For {
    pub(crate) target: Target,
    pub(crate) iter: Expr,
    pub(crate) test: Option<Expr>,
    pub(crate) recursive: bool,
    pub(crate) body: Body,
    pub(crate) otherwise: Body,
}

#[derive(Debug)]
pub(crate) struct BlockDef {
    pub(crate) name: String,
    pub(crate) scoped: bool,
    pub(crate) required: bool,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) struct MacroDef {
    pub(crate) name: Option<String>,
    pub(crate) arguments: Vec<Name>,
    /// Of the last arguments.
    pub(crate) defaults: Vec<Expr>,
    pub(crate) body: Body,
    pub(crate) takes_varargs: bool,
    pub(crate) takes_kwargs: bool,
    pub(crate) takes_caller: bool,
}

/// What is assigned to.
#[derive(Debug)]
pub(crate) enum Target {
    Name(Name),
    Attribute(Name, String),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(crate) enum Expr {
    Constant(usize),
    Name(Name),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    If {
        test: Box<Expr>,
        yes: Box<Expr>,
        no: Option<Box<Expr>>,
    },
    Or(Vec<Expr>),
    And(Vec<Expr>),
    Not(Box<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// From left to right.
    Binary(Box<Expr>, Vec<(Operator, Expr)>),
    Concat(Vec<Expr>),
    Negate(Box<Expr>),
    Plus(Box<Expr>),
    /// What follows a value, from left to right.
    Chain(Box<Expr>, Vec<Link>),
}

#[derive(Debug)]
pub(crate) enum Link {
    Attribute(String),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Arguments),
    Filter(Filter),
    Test(Test),
}

#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) name: String,
    pub(crate) arguments: Arguments,
}

#[derive(Debug)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) negated: bool,
    pub(crate) arguments: Arguments,
}

#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) positional: Vec<Expr>,
    pub(crate) named: Vec<(String, Expr)>,
    pub(crate) more_positional: Option<Box<Expr>>,
    pub(crate) more_named: Option<Box<Expr>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}
