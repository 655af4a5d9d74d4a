// Appends keys and values to pools of blocks through a table: row r of the step, of sequence s, goes to position
// kv_lens[s] - rows of s + its index. Word = an unsigned integer of the dtype's size.
//
// Launch: a grid of (ceil(max(k_dim, v_dim) / 4), n_kv_heads, n_rows) threads, 4 features of a key and of a value each; any
// group size. Rows of nobody, and those whose block the pool does not have, go nowhere.

#include "segments.h"

struct PagedAppendParams {
    uint n_blocks;
    uint block_size;
    uint n_seqs;
    uint blocks_per_seq;
    uint n_rows;
    uint n_kv_heads;
    uint k_dim;
    uint v_dim;
    uint k_row_stride;
    uint v_row_stride;
};

template <typename Word>
void put(device const Word *x, device Word *pool, ulong from, ulong row, uint dim, uint first) {
    for (uint i = first; i < min(first + 4, dim); i++) {
        pool[row * dim + i] = x[from + i];
    }
}

template <typename Word>
[[kernel]] void kv_append_paged(device const Word *k [[buffer(0)]],
                                device const Word *v [[buffer(1)]],
                                device Word *k_pool [[buffer(2)]],
                                device Word *v_pool [[buffer(3)]],
                                constant PagedAppendParams &p [[buffer(4)]],
                                constant uint *block_table [[buffer(5)]],
                                constant uint *seq_starts [[buffer(6)]],
                                constant uint *kv_lens [[buffer(7)]],
                                uint3 at [[thread_position_in_grid]]) {
    const uint row = at.z;
    const uint sequence = sequence_of(seq_starts, p.n_seqs, row);
    if (sequence >= p.n_seqs) {
        return;
    }
    const uint position = kv_lens[sequence] - (seq_starts[sequence + 1] - row);
    const uint block = block_entry(block_table, p.blocks_per_seq, sequence, position / p.block_size);
    if (block >= p.n_blocks) {
        return;
    }
    const ulong to = (ulong(block) * p.n_kv_heads + at.y) * p.block_size + position % p.block_size;
    put(k, k_pool, ulong(row) * p.k_row_stride + ulong(at.y) * p.k_dim, to, p.k_dim, at.x * 4);
    put(v, v_pool, ulong(row) * p.v_row_stride + ulong(at.y) * p.v_dim, to, p.v_dim, at.x * 4);
}

template [[host_name("kv_append_paged_8")]] [[kernel]] decltype(kv_append_paged<uchar>) kv_append_paged<uchar>;
template [[host_name("kv_append_paged_16")]] [[kernel]] decltype(kv_append_paged<ushort>) kv_append_paged<ushort>;
template [[host_name("kv_append_paged_32")]] [[kernel]] decltype(kv_append_paged<uint>) kv_append_paged<uint>;
