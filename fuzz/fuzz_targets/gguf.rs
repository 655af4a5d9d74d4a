//! The GGUF reader takes any bytes: `cargo +nightly fuzz run gguf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mlx_native::testing::fuzz_gguf(data));
