// Which keys a row may attend to, by an indexer's scores; the rules are in mod.rs.

#include "segments.h"

struct IndexMaskParams {
    uint n_blocks;
    uint block_size;
    uint n_seqs;
    uint blocks_per_seq;
    uint n_rows;
    uint n_heads;
    uint head_dim;
    uint group;
    uint top;
    uint local;
    uint max_rows;
    uint max_kv_len;
    uint weighted;
    uint repeat;
};

template <typename T>
float product(device const T *a, device const T *b, uint n) {
    float sum = 0.0f;
    for (uint i = 0; i < n; i++) {
        sum += float(a[i]) * float(b[i]);
    }
    return sum;
}

// Launch: a grid of (groups, heads that choose, rows) threads, a group's score each; any group size.
template <typename T>
[[kernel]] void index_scores(device const T *q [[buffer(0)]],
                             device const T *k_pool [[buffer(1)]],
                             device const T *weights [[buffer(2)]],
                             device float *scores [[buffer(3)]],
                             constant IndexMaskParams &p [[buffer(4)]],
                             constant uint *block_table [[buffer(5)]],
                             constant uint *seq_starts [[buffer(6)]],
                             constant uint *kv_lens [[buffer(7)]],
                             uint3 at [[thread_position_in_grid]]) {
    const uint row = at.z;
    const uint sequence = sequence_of(seq_starts, p.n_seqs, row);
    if (sequence >= p.n_seqs) {
        return;
    }
    const uint groups = (p.max_kv_len + p.group - 1) / p.group;
    const uint choosers = p.weighted != 0 ? 1 : p.n_heads;
    const uint position = kv_lens[sequence] - (seq_starts[sequence + 1] - row);
    const uint first = at.x * p.group;
    const uint end = min(min(position, p.max_kv_len - 1), first + p.group - 1);
    device const T *own = q + ulong(row) * p.n_heads * p.head_dim;
    float best = -INFINITY;
    for (uint key = first; key <= end; key++) {
        const uint block = min(block_entry(block_table, p.blocks_per_seq, sequence, key / p.block_size), p.n_blocks - 1);
        device const T *k = k_pool + (ulong(block) * p.block_size + key % p.block_size) * p.head_dim;
        float score = 0.0f;
        if (p.weighted != 0) {
            for (uint h = 0; h < p.n_heads; h++) {
                const float one = product(own + ulong(h) * p.head_dim, k, p.head_dim);
                score += float(weights[ulong(row) * p.n_heads + h]) * (one < 0.0f ? 0.0f : one);
            }
        } else {
            score = product(own + ulong(at.y) * p.head_dim, k, p.head_dim);
        }
        best = isnan(score) ? best : max(best, score);
    }
    const uint last = min(position, p.max_kv_len - 1) / p.group;
    if (at.x <= last && last - at.x < p.local) {
        best = INFINITY;
    }
    scores[(ulong(row) * choosers + at.y) * groups + at.x] = best;
}

template [[host_name("index_scores_f32")]] [[kernel]] decltype(index_scores<float>) index_scores<float>;
template [[host_name("index_scores_f16")]] [[kernel]] decltype(index_scores<half>) index_scores<half>;
template [[host_name("index_scores_bf16")]] [[kernel]] decltype(index_scores<bfloat>) index_scores<bfloat>;

// Bits that ascend with the number.
inline uint ordered(float x) {
    const uint bits = as_type<uint>(x);
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// Launch: one threadgroup of 32 threads for a row and a head that chooses.
[[kernel]] void index_select(device const float *scores [[buffer(0)]],
                             device uchar *mask [[buffer(1)]],
                             constant IndexMaskParams &p [[buffer(2)]],
                             constant uint *seq_starts [[buffer(3)]],
                             constant uint *kv_lens [[buffer(4)]],
                             uint3 at [[threadgroup_position_in_grid]],
                             uint lane [[thread_index_in_simdgroup]]) {
    const uint row = at.x;
    const uint sequence = sequence_of(seq_starts, p.n_seqs, row);
    if (sequence >= p.n_seqs || row - seq_starts[sequence] >= p.max_rows) {
        return;
    }
    const uint groups = (p.max_kv_len + p.group - 1) / p.group;
    const uint choosers = p.weighted != 0 ? 1 : p.n_heads;
    const uint position = kv_lens[sequence] - (seq_starts[sequence + 1] - row);
    const uint seen = min(min(position, p.max_kv_len - 1) / p.group + 1, groups);
    device const float *own = scores + (ulong(row) * choosers + at.y) * groups;
    // The greatest bits that at least `top` scores reach.
    uint threshold = 0;
    for (uint bit = 0; bit < 32; bit++) {
        const uint candidate = threshold | (0x80000000u >> bit);
        uint reach = 0;
        for (uint g = lane; g < seen; g += 32) {
            reach += ordered(own[g]) >= candidate ? 1 : 0;
        }
        if (simd_sum(reach) >= p.top) {
            threshold = candidate;
        }
    }
    uint above = 0;
    for (uint g = lane; g < seen; g += 32) {
        above += ordered(own[g]) > threshold ? 1 : 0;
    }
    // Of those at the threshold the first stay.
    uint left = p.top - min(p.top, simd_sum(above));
    if (seen <= p.top) {
        left = seen;
    }
    const ulong mask_row = (ulong(sequence) * p.max_rows + (row - seq_starts[sequence])) * choosers + at.y;
    for (uint base = 0; base < groups; base += 32) {
        const uint g = base + lane;
        const uint bits = g < seen ? ordered(own[g]) : 0;
        const uint equal = g < seen && bits == threshold ? 1 : 0;
        const uint before = simd_prefix_exclusive_sum(equal);
        const bool stays = g < seen && (bits > threshold || (equal != 0 && before < left));
        left -= min(left, simd_sum(equal));
        if (g < groups) {
            for (uint r = 0; r < p.repeat; r++) {
                device uchar *target = mask + (mask_row * p.repeat + r) * p.max_kv_len;
                for (uint key = g * p.group; key < min((g + 1) * p.group, p.max_kv_len); key++) {
                    target[key] = stays ? 1 : 0;
                }
            }
        }
    }
}
