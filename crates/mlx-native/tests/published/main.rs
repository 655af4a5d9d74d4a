//! The interface of mlx-native 0.1.0: it is all here ([`signatures`], [`literals`]), does what it did ([`basics`], [`drawn`], [`graph`]),
//! and refuses what it let through ([`refusals`]). Its own tests run by `cargo xtask published`.

mod basics;
mod drawn;
mod graph;
mod in_place;
mod literals;
mod refusals;
#[rustfmt::skip] // A line for each signature.
mod signatures;
mod support;

/// The program that was moved over from 0.1; it compares itself with the operators of this library.
#[allow(dead_code, reason = "its `main` reads the command line")]
#[path = "../../examples/from_0_1.rs"]
mod example;

#[test]
fn the_example_runs_on_the_cpu() {
    example::run(support::Bench::cpu().device).unwrap();
}

#[cfg(feature = "emulator")]
#[test]
fn the_example_runs_on_the_emulator() {
    example::run(support::Bench::emulator().device).unwrap();
}
