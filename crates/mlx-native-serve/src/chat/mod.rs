//! A chat, whichever interface it came by: messages to a prompt, tools and forms to a grammar.

pub(crate) mod family;
mod forced;
pub(crate) mod messages;
pub(crate) mod prepare;
pub(crate) mod thoughts;
