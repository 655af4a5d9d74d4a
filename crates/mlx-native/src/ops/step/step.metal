// positions[row] = what its sequence held before this step, and the row's index within the sequence.
//
// Launch: one threadgroup of up to 256 threads.

#include "segments.h"

struct StepParams {
    uint n_rows;
    uint n_seqs;
    uint advance;
};

// kv_lens: with `advance`, positions before the step, increased by the rows of the step; else with them already.
[[kernel]] void step_positions(constant uint *seq_starts [[buffer(0)]],
                               device uint *kv_lens [[buffer(1)]],
                               device uint *positions [[buffer(2)]],
                               constant StepParams &p [[buffer(3)]],
                               uint thread_index [[thread_index_in_threadgroup]],
                               uint n_threads [[threads_per_threadgroup]]) {
    for (uint row = thread_index; row < p.n_rows; row += n_threads) {
        const uint sequence = sequence_of(seq_starts, p.n_seqs, row);
        uint position = 0;
        if (sequence < p.n_seqs) {
            const uint from = p.advance != 0 ? seq_starts[sequence] : seq_starts[sequence + 1];
            position = kv_lens[sequence] + row - from;
        }
        positions[row] = position;
    }
    threadgroup_barrier(mem_flags::mem_device);
    if (p.advance != 0) {
        for (uint sequence = thread_index; sequence < p.n_seqs; sequence += n_threads) {
            const uint start = seq_starts[sequence], end = seq_starts[sequence + 1];
            kv_lens[sequence] += end > start ? end - start : 0;
        }
    }
}
