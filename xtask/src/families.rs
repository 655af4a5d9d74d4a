//! `cargo xtask families`: the model families against mlx-lm. The work is a test of the crate `mlx-native-lm`; this passes the
//! arguments on.

use crate::shell::{Cmd, Result};

/// The chore.
pub fn main(args: &[String]) -> Result<()> {
    let on_emulator = args
        .windows(2)
        .any(|pair| pair[0] == "--device" && pair[1] == "emulator");
    let mut cmd = Cmd::line("cargo test --package mlx-native-lm --test families");
    if on_emulator {
        cmd = cmd.args(["--features", "emulator"]);
    }
    cmd.args(["--"]).args(args).run()
}
