//! The parser of Metal kernels takes any bytes: `cargo +nightly fuzz run msl_signature`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mlx_native::testing::fuzz_msl(data));
