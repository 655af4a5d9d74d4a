//! Planted defects: every diagnostic of the emulator fires, with the right kind and line, and sound kernels stay silent.
#![cfg(feature = "emulator")]

mod emulator;
