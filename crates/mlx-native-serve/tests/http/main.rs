//! The server as clients see it: HTTP over a socket, with a script in place of the engine, and with the demo model.

mod anthropic;
mod client;
mod demo;
mod fields;
mod openai;
mod script;
mod service;
