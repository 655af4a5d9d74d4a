//! The interface of mlx-native 0.1.0: it is all here ([`signatures`], [`literals`]), does what it did ([`basics`], [`drawn`], [`graph`]),
//! and refuses what it let through ([`refusals`]). Its own tests run by `cargo xtask published`.

mod basics;
mod drawn;
mod graph;
mod literals;
mod refusals;
#[rustfmt::skip] // A line for each signature.
mod signatures;
mod support;
