// The step's state: which sequence a row of tokens belongs to, and where its keys and values lie.
//
// Contents of these buffers are the caller's: whatever they hold, what is computed here leads inside the memory.

#include <metal_stdlib>
using namespace metal;

// The sequence that `row` belongs to; n_seqs for rows of nobody. `starts` ascends and has n_seqs + 1 entries.
inline uint sequence_of(constant uint *starts, uint n_seqs, uint row) {
    uint low = 0, high = n_seqs + 1;
    while (low < high) {
        const uint middle = (low + high) / 2;
        if (starts[middle] <= row) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low == 0 ? n_seqs : low - 1;
}

// The entry of the block table, a row of it per sequence, that holds `position`. The table is a ring.
inline uint block_entry(constant uint *block_table, uint blocks_per_seq, uint sequence, uint index) {
    return block_table[ulong(sequence) * blocks_per_seq + (index < blocks_per_seq ? index : index % blocks_per_seq)];
}
