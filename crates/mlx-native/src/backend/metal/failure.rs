//! Metal's errors of command buffers as errors of this library.

use super::gpu::GpuError;
use crate::error::MlxError;

/// Metal's code, and what it means to the one who reads the error.
const CODES: &[(isize, &str)] = &[
    (1, "internal error of the driver"),
    (2, "time-out: the GPU's watchdog ended a command buffer that ran too long"),
    (3, "page fault: a kernel touched memory that is not mapped"),
    (4, "access revoked: the system took the GPU from this process after repeated faults"),
    (7, "not permitted: the process may not use the GPU now (in the background?)"),
    (8, "out of memory: the buffers of a command buffer do not fit into the GPU's memory together"),
    (9, "invalid resource: a buffer was released while in use"),
    (10, "memoryless storage is exhausted"),
    (11, "the GPU was removed"),
    (12, "stack overflow in a kernel"),
];

/// The error of a command buffer that holds the dispatches `place` (in words).
pub(super) fn command_buffer_error(error: &GpuError, place: &str) -> MlxError {
    let known = CODES
        .iter()
        .find(|row| error.of_command_buffers && row.0 == error.code)
        .map_or("error", |row| row.1);
    MlxError::CommandBufferError(format!(
        "metal: {known}, in {place}: {} (code {})",
        error.description, error.code
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(of_command_buffers: bool, code: isize) -> String {
        let error = GpuError {
            of_command_buffers,
            code,
            description: "Metal's words".to_owned(),
        };
        let error = command_buffer_error(&error, "dispatch 1 of 2 (add_f32)");
        assert!(error.is_transient());
        error.to_string()
    }

    #[test]
    fn each_code_has_its_words_and_keeps_metals() {
        for (code, words) in CODES {
            let text = text(true, *code);
            assert!(text.contains(words) && text.contains("Metal's words") && text.contains("dispatch 1 of 2 (add_f32)"));
        }
        assert!(text(true, 2).contains("time-out") && text(true, 3).contains("page fault"));
        assert!(text(true, 8).contains("out of memory"));
    }

    #[test]
    fn other_codes_and_domains_are_told_as_they_are() {
        for text in [text(true, 99), text(false, 2)] {
            assert!(text.contains("metal: error, in ") && !text.contains("watchdog"), "{text}");
        }
        assert!(text(false, 2).contains("(code 2)"));
    }
}
