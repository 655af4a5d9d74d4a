//! Jinja, as the templates of chats need it: the language, the filters, tests and methods of Python's jinja2 3.1.6 in the
//! sandbox that transformers sets up.
//!
//! A template is the work of a stranger. It is parsed into a tree ([`parser`]) and walked ([`interp`]) over values that
//! follow Python's ([`value`]), with a [`budget`] for steps, memory and depth that every operation pays into.

mod ast;
mod budget;
mod calls;
mod error;
mod escapes;
mod filters;
mod filters_links;
mod filters_numbers;
mod filters_pretty;
mod filters_text;
mod format;
mod format_fields;
mod format_spec;
mod interp;
mod json;
mod lexer;
mod methods;
mod methods_text;
mod ops;
mod parser;
mod ranges;
mod scopes;
mod tests;
mod text;
mod value;

pub(crate) use ast::Program;
pub(crate) use budget::Budget;
pub(crate) use error::{Error, Res};
pub(crate) use interp::Interp;
pub(crate) use parser::parse;
pub(crate) use value::{Dict, Value};
