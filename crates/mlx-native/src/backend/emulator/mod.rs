//! The emulator (under construction).
