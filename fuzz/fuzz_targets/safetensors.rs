//! The safetensors reader takes any bytes: `cargo +nightly fuzz run safetensors`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mlx_native::testing::fuzz_safetensors(data));
