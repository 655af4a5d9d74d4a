//! Nothing: this package is `tests/tests_of_0_1.rs`, the tests that mlx-native 0.1.0 published, run against this version.
//!
//! `cargo xtask published` fetches them through cargo into the target folder and names that folder to the build script; nothing
//! of them is in the repository. Without it there is one test, which is ignored and says so.
