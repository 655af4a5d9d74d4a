//! The tests that mlx-native 0.1.0 published: `cargo xtask published`.

// What they are written like is not ours to judge.
#![allow(warnings, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

#[cfg(not(published_tests))]
#[test]
#[ignore = "left out: `cargo xtask published` fetches the tests of 0.1.0 and runs them"]
fn the_tests_of_0_1() {}
