//! What the chores build: the cargo features, and the test program that is not always there.

use crate::shell::root;

/// The features that the tests need: the emulator is a device, `testing` holds the cases.
/// They are named by the crates that pass them on, for commands over the whole workspace.
pub const FEATURES: &str = "mlx-native/testing,mlx-native-lm/emulator,mlx-native-cli/emulator";

/// The same features, for commands over `mlx-native` alone.
pub const COMPUTE_FEATURES: &str = "testing,emulator,cuda";

/// The test program that runs every case of every kernel on every device. It has `test = false`, so that `cargo test`
/// leaves it to its own step.
pub fn has_prove() -> bool {
    let tests = root().join("crates/mlx-native/tests");
    tests.join("prove.rs").is_file() || tests.join("prove/main.rs").is_file()
}
