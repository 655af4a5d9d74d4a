// Attention of the rows of a step over paged keys and values: softmax(scale * q k^T) v for each row and head.
//
//   q, output  heads of rows, as far apart as the strides say
//   k, v       [n_blocks, n_kv_heads, head_rows, head_dim or v_dim]; a table says which block holds which positions
//
// Row i of the rows of a sequence is at position kv_len - rows + i. It sees the keys up to its own position if the attention
// is causal, all otherwise; of these the last `window`; of these what the mask lets through.
//
// All kernels compute in f32 with the online softmax: a running maximum m, a running sum l of 2^(score - m), and the
// equally weighted sum o of value rows; a new maximum scales l and o down. Scores are kept in units of ln 2, so that
// exp2 serves. Keys are taken in an order that depends on their positions alone, so that a row gives the same bits in any
// company. A key of weight zero adds nothing, be its value NaN; nothing beyond a row's keys reaches it. A row without keys
// gives zeros.
//
// Lengths, ranges and blocks come out of buffers and may be anything: they are cut to what there is.

#include "segments.h"
#include "floats.h"
#include <metal_simdgroup_matrix>

struct AttentionParams {
    uint n_rows;
    uint n_seqs;
    uint n_heads;
    uint n_kv_heads;
    uint head_dim;
    uint v_dim;
    float scale;
    float softcap;         // 0: none
    uint window;           // 0: none
    uint causal;
    uint max_kv_len;
    uint block_shift;      // position p is in entry p >> block_shift
    uint head_rows;        // positions that a block has for each head
    uint n_blocks;
    uint blocks_per_seq;
    uint dense;            // 1: sequence s has block s, `dense_rows` rows and max_kv_len keys; no tables are read
    uint dense_rows;
    uint dense_start;      // rows from one sequence to the next, in units of q_row_stride and out_row_stride
    uint q_row_stride;
    uint q_head_stride;
    uint out_row_stride;
    uint out_head_stride;
    uint mask_kind;        // 0: none, 1: bytes, 0 = hidden, 2: values of T, added
    uint mask_seq_stride;
    uint mask_head_stride;
    uint mask_row_stride;
    uint has_sinks;
    uint min_rows;         // sequences with fewer or more rows are not this kernel's
    uint max_rows;
    // Of this dispatch:
    uint first_seq;
    uint first_row;        // first of the rows of each sequence that it has
    uint rows_here;        // how many it has of each
    uint slots_per_seq;    // threadgroups along x for each sequence; 0: as `tile_of` finds them
    uint n_parts;          // room for parts of each row
};

// The maximum of no scores: finite, so that differences of it are.
constant constexpr float NO_SCORE = -3.0e38f;

// Keys of a part. Parts begin at multiples of it, whatever the number of keys.
constant constexpr uint PART = 256;

struct Sequence {
    ulong start;  // first row
    uint rows;    // 0: none for this kernel
    uint kv_len;
};

inline Sequence sequence_at(constant AttentionParams &p, constant uint *seq_starts, constant uint *kv_lens, uint s) {
    Sequence q;
    if (p.dense != 0) {
        q.start = ulong(s) * p.dense_start;
        q.rows = p.dense_rows;
        q.kv_len = p.max_kv_len;
    } else {
        const uint start = min(seq_starts[s], p.n_rows);
        const uint end = min(seq_starts[s + 1], p.n_rows);
        q.start = start;
        q.rows = end > start ? end - start : 0;
        q.kv_len = min(kv_lens[s], p.max_kv_len);
    }
    if (q.rows < p.min_rows || q.rows > p.max_rows) {
        q.rows = 0;
    }
    return q;
}

// One beyond the last key that row i sees.
inline uint end_of(constant AttentionParams &p, Sequence q, uint i) {
    const ulong end = ulong(q.kv_len) + i + 1;
    return p.causal == 0 ? q.kv_len : end > q.rows ? uint(end - q.rows) : 0;
}

// The first key of the window that ends at `end`.
inline uint low_of(constant AttentionParams &p, uint end) {
    return p.window != 0 && end > p.window ? end - p.window : 0;
}

// Where a key lies: row of the pool. Eight keys from a multiple of 8 on lie side by side.
inline uint key_row(constant AttentionParams &p, constant uint *block_table, uint s, uint kv_head, uint key) {
    uint block = s;
    if (p.dense == 0) {
        block = min(block_entry(block_table, p.blocks_per_seq, s, key >> p.block_shift), p.n_blocks - 1);
    }
    return (block * p.n_kv_heads + kv_head) * p.head_rows + (key & ((1u << p.block_shift) - 1));
}

// What a product of query and key is multiplied by: to a score in units of ln 2, unless a cap comes between.
inline float score_factor(constant AttentionParams &p) {
    return p.softcap != 0.0f ? p.scale : p.scale * M_LOG2E_F;
}

// A score, after cap and mask; -infinity where the mask hides the key.
template <typename T>
inline float masked(constant AttentionParams &p, device const uchar *mask, float score, uint s, uint head, uint i,
                    uint key) {
    if (p.softcap != 0.0f) {
        score = p.softcap * precise::tanh(score / p.softcap) * M_LOG2E_F;
    }
    if (p.mask_kind != 0) {
        const ulong at = ulong(s) * p.mask_seq_stride + ulong(head) * p.mask_head_stride + ulong(i) * p.mask_row_stride + key;
        if (p.mask_kind == 1) {
            score = mask[at] != 0 ? score : -INFINITY;
        } else {
            score += float(((device const T *)mask)[at]) * M_LOG2E_F;
        }
    }
    return score;
}

// ---- Rows: few rows a sequence --------------------------------------------------------------------------------------
//
// The rows of a sequence that share a kv head are G * rows, G = n_heads / n_kv_heads: row r is head r / rows of the group,
// row r % rows of the sequence. A threadgroup of 8 simdgroups has ROWS of them and one part of the keys. The simdgroups
// take SIDES * KEYS keys in turn, each for all rows. LANES lanes have a key, each a run of V elements of it, so that a
// simdgroup has SIDES = 32 / LANES keys side by side; the sides have maxima and sums of their own, which are joined at the
// end, then those of the simdgroups in threadgroup memory.
//
// Launch: groups of 256 threads, grid (slots_per_seq * sequences, n_kv_heads, n_parts). LANES * V >= head_dim, v_dim. ROWS
// is at most MAX_ROWS. DIRECT: there is one part, and the result goes to the output.

constant uint ROWS [[function_constant(0)]];
constant bool DIRECT [[function_constant(1)]];
constant bool IN_PARTS = !DIRECT;
// Whether keys and values are at multiples of 16 bytes, and so are their rows.
constant bool WIDE [[function_constant(2)]];

constant constexpr uint SIMDGROUPS = 8;

// V elements of a row of keys or values, as words.
template <typename T, uint V>
struct Run {
    static constant constexpr uint WORDS = V * sizeof(T) / 4;
    uint words[WORDS];

    // Elements from `first` on of a row of `length`; zeros beyond it, and for no row at all.
    void read(device const T *row, uint first, uint length, bool is_row) {
        #pragma unroll
        for (uint i = 0; i < WORDS; i++) {
            words[i] = 0;
        }
        if (WIDE) {
            // A run may begin inside the row and end beyond it, by whole fours of words.
            #pragma unroll
            for (uint i = 0; i < WORDS / 4; i++) {
                if (is_row && first + i * (16 / sizeof(T)) < length) {
                    const uint4 four = ((device const uint4 *)(row + first))[i];
                    words[4 * i] = four.x;
                    words[4 * i + 1] = four.y;
                    words[4 * i + 2] = four.z;
                    words[4 * i + 3] = four.w;
                }
            }
            return;
        }
        #pragma unroll
        for (uint i = 0; i < V; i++) {
            if (is_row && first + i < length) {
                if (sizeof(T) == 4) {
                    words[i] = ((device const uint *)row)[first + i];
                } else {
                    words[i / 2] |= uint(((device const ushort *)row)[first + i]) << (i % 2 * 16);
                }
            }
        }
    }

    float at(uint i) const {
        return element_of(words, i, T(0));
    }
};

template <typename T, uint LANES, uint V, uint KEYS, uint MAX_ROWS>
[[kernel]] void attention_rows(device const T *q [[buffer(0)]],
                               device const T *k [[buffer(1)]],
                               device const T *v [[buffer(2)]],
                               device T *output [[buffer(3), function_constant(DIRECT)]],
                               constant AttentionParams &p [[buffer(4)]],
                               constant uint *block_table [[buffer(5)]],
                               constant uint *seq_starts [[buffer(6)]],
                               constant uint *kv_lens [[buffer(7)]],
                               device const uchar *mask [[buffer(8)]],
                               device float *sums [[buffer(9), function_constant(IN_PARTS)]],
                               device float *states [[buffer(10), function_constant(IN_PARTS)]],
                               uint3 group [[threadgroup_position_in_grid]],
                               uint thread_index [[thread_index_in_threadgroup]],
                               uint simdgroup [[simdgroup_index_in_threadgroup]],
                               uint lane [[thread_index_in_simdgroup]]) {
    constexpr uint DIM = LANES * V;
    constexpr uint SIDES = 32 / LANES;
    constexpr uint STEP = SIDES * KEYS;
    threadgroup float part_o[SIMDGROUPS * DIM];
    threadgroup float part_m[SIMDGROUPS * MAX_ROWS];
    threadgroup float part_l[SIMDGROUPS * MAX_ROWS];

    const uint s = p.first_seq + group.x / p.slots_per_seq;
    const Sequence seq = sequence_at(p, seq_starts, kv_lens, s);
    if (seq.rows <= p.first_row) {
        return;
    }
    const uint rows_here = min(p.rows_here, seq.rows - p.first_row);
    const uint heads = p.n_heads / p.n_kv_heads;
    const uint n = heads * rows_here;
    const uint first = group.x % p.slots_per_seq * ROWS;
    const uint first_part = low_of(p, end_of(p, seq, p.first_row)) / PART;
    const uint last_end = end_of(p, seq, p.first_row + rows_here - 1);
    const ulong part_start = (ulong(first_part) + group.z) * PART;
    // With one part, rows without keys must be written all the same.
    if (first >= n || (part_start >= last_end && !DIRECT)) {
        return;
    }
    const uint first_key = min(uint(part_start), last_end);
    const uint end_key = min(last_end, first_key + PART);
    const float factor = score_factor(p);
    const uint side = lane / LANES;
    const uint run = lane % LANES * V;

    float query[MAX_ROWS][V], o[MAX_ROWS][V], m[MAX_ROWS], l[MAX_ROWS];
    uint low[MAX_ROWS], end[MAX_ROWS];
    #pragma unroll
    for (uint r = 0; r < MAX_ROWS; r++) {
        const bool is_row = r < ROWS && first + r < n;
        const uint head = group.y * heads + (first + r) / rows_here;
        const uint i = p.first_row + (first + r) % rows_here;
        end[r] = is_row ? min(end_key, end_of(p, seq, i)) : 0;
        low[r] = is_row ? low_of(p, end_of(p, seq, i)) : 0;
        m[r] = NO_SCORE;
        l[r] = 0.0f;
        const ulong at = (seq.start + i) * p.q_row_stride + ulong(head) * p.q_head_stride;
        #pragma unroll
        for (uint e = 0; e < V; e++) {
            query[r][e] = is_row && run + e < p.head_dim ? float(q[at + run + e]) * factor : 0.0f;
            o[r][e] = 0.0f;
        }
    }

    for (uint base = first_key + STEP * simdgroup; base < end_key; base += STEP * SIMDGROUPS) {
        const ulong row = key_row(p, block_table, s, group.y, base) + side;
        const uint key = base + side;
        Run<T, V> keys[KEYS], values[KEYS];
        #pragma unroll
        for (uint j = 0; j < KEYS; j++) {
            keys[j].read(k + (row + j * SIDES) * p.head_dim, run, p.head_dim, key + j * SIDES < end_key);
        }
        #pragma unroll
        for (uint j = 0; j < KEYS; j++) {
            values[j].read(v + (row + j * SIDES) * p.v_dim, run, p.v_dim, key + j * SIDES < end_key);
        }
        float weight[MAX_ROWS][KEYS];
        #pragma unroll
        for (uint j = 0; j < KEYS; j++) {
            #pragma unroll
            for (uint r = 0; r < MAX_ROWS; r++) {
                if (r < ROWS) {
                    float sum = 0.0f;
                    #pragma unroll
                    for (uint e = 0; e < V; e++) {
                        sum += query[r][e] * keys[j].at(e);
                    }
                    weight[r][j] = sum;
                }
            }
        }
        #pragma unroll
        for (uint r = 0; r < MAX_ROWS; r++) {
            if (r < ROWS) {
                #pragma unroll
                for (uint j = 0; j < KEYS; j++) {
                    #pragma unroll
                    for (uint apart = LANES / 2; apart > 0; apart /= 2) {
                        weight[r][j] += simd_shuffle_xor(weight[r][j], ushort(apart));
                    }
                }
                float new_m = m[r];
                #pragma unroll
                for (uint j = 0; j < KEYS; j++) {
                    const uint at = key + j * SIDES;
                    const bool is_seen = at >= low[r] && at < end[r];
                    if (is_seen && (p.softcap != 0.0f || p.mask_kind != 0)) {
                        const uint head = group.y * heads + (first + r) / rows_here;
                        const uint i = p.first_row + (first + r) % rows_here;
                        weight[r][j] = masked<T>(p, mask, weight[r][j], s, head, i, at);
                    }
                    new_m = is_seen ? max(new_m, weight[r][j]) : new_m;
                }
                const float keep = exp2(m[r] - new_m);
                m[r] = new_m;
                l[r] *= keep;
                #pragma unroll
                for (uint j = 0; j < KEYS; j++) {
                    const uint at = key + j * SIDES;
                    const bool is_seen = at >= low[r] && at < end[r];
                    weight[r][j] = is_seen ? exp2(weight[r][j] - new_m) : 0.0f;
                    l[r] += weight[r][j];
                }
                #pragma unroll
                for (uint e = 0; e < V; e++) {
                    o[r][e] *= keep;
                }
            }
        }
        #pragma unroll
        for (uint j = 0; j < KEYS; j++) {
            #pragma unroll
            for (uint r = 0; r < MAX_ROWS; r++) {
                // The test keeps what a row must not see out of it, be it NaN.
                if (r < ROWS && weight[r][j] != 0.0f) {
                    #pragma unroll
                    for (uint e = 0; e < V; e++) {
                        o[r][e] += weight[r][j] * values[j].at(e);
                    }
                }
            }
        }
    }

    #pragma unroll
    for (uint r = 0; r < MAX_ROWS; r++) {
        if (r < ROWS) {
            #pragma unroll
            for (uint apart = LANES; apart < 32; apart *= 2) {
                const float other_m = simd_shuffle_xor(m[r], ushort(apart));
                const float new_m = max(m[r], other_m);
                const float keep = exp2(m[r] - new_m);
                const float mine = l[r] * keep;
                const float other = simd_shuffle_xor(mine, ushort(apart));
                m[r] = new_m;
                l[r] = mine + other;
                #pragma unroll
                for (uint e = 0; e < V; e++) {
                    o[r][e] *= keep;
                    o[r][e] += simd_shuffle_xor(o[r][e], ushort(apart));
                }
            }
        }
    }
    if (lane == 0) {
        #pragma unroll
        for (uint r = 0; r < MAX_ROWS; r++) {
            part_m[simdgroup * MAX_ROWS + r] = m[r];
            part_l[simdgroup * MAX_ROWS + r] = l[r];
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    #pragma unroll
    for (uint r = 0; r < MAX_ROWS; r++) {
        if (r < ROWS) {
            float all_m = NO_SCORE, all_l = 0.0f;
            #pragma unroll
            for (uint g = 0; g < SIMDGROUPS; g++) {
                all_m = max(all_m, part_m[g * MAX_ROWS + r]);
            }
            #pragma unroll
            for (uint g = 0; g < SIMDGROUPS; g++) {
                all_l += part_l[g * MAX_ROWS + r] * exp2(part_m[g * MAX_ROWS + r] - all_m);
            }
            const float keep = exp2(m[r] - all_m);
            if (side == 0) {
                #pragma unroll
                for (uint e = 0; e < V; e++) {
                    part_o[simdgroup * DIM + e * LANES + lane] = o[r][e] * keep;
                }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            const bool is_row = first + r < n;
            const uint head = group.y * heads + (first + r) / rows_here;
            const uint i = (first + r) % rows_here;
            const ulong in_parts =
                ((ulong(s - p.first_seq) * p.rows_here + i) * p.n_heads + head) * p.n_parts + group.z;
            for (uint d = thread_index; d < DIM; d += SIMDGROUPS * 32) {
                float sum = 0.0f;
                #pragma unroll
                for (uint g = 0; g < SIMDGROUPS; g++) {
                    sum += part_o[g * DIM + d % V * LANES + d / V];
                }
                if (is_row && d < p.v_dim) {
                    if (DIRECT) {
                        const ulong at =
                            (seq.start + p.first_row + i) * p.out_row_stride + ulong(head) * p.out_head_stride;
                        output[at + d] = T(all_l == 0.0f ? 0.0f : sum / all_l);
                    } else {
                        sums[in_parts * p.v_dim + d] = sum;
                    }
                }
            }
            if (!DIRECT && is_row && thread_index == 0) {
                states[in_parts * 2] = all_m;
                states[in_parts * 2 + 1] = all_l;
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
    }
}

// Adds up the parts of a row, in ascending order, and the sink. Launch: one threadgroup of 128 threads for each row, grid
// (rows_here, n_heads, sequences).
constant constexpr uint MERGE_THREADS = 128;

template <typename T>
[[kernel]] void attention_merge(device const float *sums [[buffer(0)]],
                                device const float *states [[buffer(1)]],
                                device T *output [[buffer(2)]],
                                constant AttentionParams &p [[buffer(3)]],
                                constant uint *seq_starts [[buffer(4)]],
                                constant uint *kv_lens [[buffer(5)]],
                                constant float *sinks [[buffer(6)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint thread_index [[thread_index_in_threadgroup]],
                                uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float weights[MERGE_THREADS];
    const uint s = p.first_seq + group.z;
    const Sequence seq = sequence_at(p, seq_starts, kv_lens, s);
    const uint i = p.first_row + group.x;
    if (seq.rows <= i) {
        return;
    }
    const uint first_part = low_of(p, end_of(p, seq, p.first_row)) / PART;
    const uint end_part = (end_of(p, seq, i) + PART - 1) / PART;
    const uint n = end_part > first_part ? min(p.n_parts, end_part - first_part) : 0;
    const ulong row = (ulong(group.z) * p.rows_here + group.x) * p.n_heads + group.y;
    sums += row * p.n_parts * p.v_dim;
    states += row * p.n_parts * 2;

    const float sink = p.has_sinks != 0 ? sinks[group.y] * M_LOG2E_F : NO_SCORE;
    float m = sink;
    for (uint part = lane; part < n; part += 32) {
        m = max(m, states[2 * part]);
    }
    m = simd_max(m);
    float l = 0.0f;
    for (uint part = lane; part < n; part += 32) {
        l += states[2 * part + 1] * exp2(states[2 * part] - m);
    }
    l = simd_sum(l);
    l += p.has_sinks != 0 ? exp2(sink - m) : 0.0f;

    float o[5] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (uint first = 0; first < n; first += MERGE_THREADS) {
        const uint parts = min(MERGE_THREADS, n - first);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (thread_index < parts) {
            weights[thread_index] = exp2(states[2 * (first + thread_index)] - m);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint part = 0; part < parts; part++) {
            for (uint e = 0; e < 5; e++) {
                const uint d = thread_index + MERGE_THREADS * e;
                if (d < p.v_dim) {
                    o[e] += weights[part] * sums[ulong(first + part) * p.v_dim + d];
                }
            }
        }
    }
    const ulong at = (seq.start + i) * p.out_row_stride + ulong(group.y) * p.out_head_stride;
    for (uint e = 0; e < 5; e++) {
        const uint d = thread_index + MERGE_THREADS * e;
        if (d < p.v_dim) {
            output[at + d] = T(l == 0.0f ? 0.0f : o[e] / l);
        }
    }
}

template [[host_name("attention_merge_f32")]] [[kernel]] decltype(attention_merge<float>) attention_merge<float>;
template [[host_name("attention_merge_f16")]] [[kernel]] decltype(attention_merge<half>) attention_merge<half>;
template [[host_name("attention_merge_bf16")]] [[kernel]] decltype(attention_merge<bfloat>) attention_merge<bfloat>;

template [[host_name("attention_rows_d64_f32")]] [[kernel]] decltype(attention_rows<float, 8, 8, 2, 8>) attention_rows<float, 8, 8, 2, 8>;
template [[host_name("attention_rows_d64_f16")]] [[kernel]] decltype(attention_rows<half, 8, 8, 2, 8>) attention_rows<half, 8, 8, 2, 8>;
template [[host_name("attention_rows_d64_bf16")]] [[kernel]] decltype(attention_rows<bfloat, 8, 8, 2, 8>) attention_rows<bfloat, 8, 8, 2, 8>;
template [[host_name("attention_rows_d128_f32")]] [[kernel]] decltype(attention_rows<float, 16, 8, 4, 8>) attention_rows<float, 16, 8, 4, 8>;
template [[host_name("attention_rows_d128_f16")]] [[kernel]] decltype(attention_rows<half, 16, 8, 4, 8>) attention_rows<half, 16, 8, 4, 8>;
template [[host_name("attention_rows_d128_bf16")]] [[kernel]] decltype(attention_rows<bfloat, 16, 8, 4, 8>) attention_rows<bfloat, 16, 8, 4, 8>;
template [[host_name("attention_rows_d256_f32")]] [[kernel]] decltype(attention_rows<float, 32, 8, 4, 4>) attention_rows<float, 32, 8, 4, 4>;
template [[host_name("attention_rows_d256_f16")]] [[kernel]] decltype(attention_rows<half, 32, 8, 4, 4>) attention_rows<half, 32, 8, 4, 4>;
template [[host_name("attention_rows_d256_bf16")]] [[kernel]] decltype(attention_rows<bfloat, 32, 8, 4, 4>) attention_rows<bfloat, 32, 8, 4, 4>;
template [[host_name("attention_rows_d512_f32")]] [[kernel]] decltype(attention_rows<float, 32, 16, 4, 2>) attention_rows<float, 32, 16, 4, 2>;
template [[host_name("attention_rows_d512_f16")]] [[kernel]] decltype(attention_rows<half, 32, 16, 4, 2>) attention_rows<half, 32, 16, 4, 2>;
template [[host_name("attention_rows_d512_bf16")]] [[kernel]] decltype(attention_rows<bfloat, 32, 16, 4, 2>) attention_rows<bfloat, 32, 16, 4, 2>;
template [[host_name("attention_rows_d576_f32")]] [[kernel]] decltype(attention_rows<float, 32, 24, 2, 2>) attention_rows<float, 32, 24, 2, 2>;
template [[host_name("attention_rows_d576_f16")]] [[kernel]] decltype(attention_rows<half, 32, 24, 2, 2>) attention_rows<half, 32, 24, 2, 2>;
template [[host_name("attention_rows_d576_bf16")]] [[kernel]] decltype(attention_rows<bfloat, 32, 24, 2, 2>) attention_rows<bfloat, 32, 24, 2, 2>;

// ---- Tiles: many rows a sequence ------------------------------------------------------------------------------------
//
// Flash attention on 8x8 tiles. A threadgroup has 8 * TILES rows of one head of a sequence and walks the keys up to the last that
// they see, KEYS at a time: scores are summed in tiles, go through threadgroup memory for the softmax, and come back as
// weights of the value rows. Keys and values pass through one buffer in threadgroup memory, CHUNK columns at a time.
// SHARE simdgroups share 8 rows: they divide the keys for the scores, the rows for the softmax, and the columns of o,
// which stays in registers. Head dimensions below D are padded with zeros in threadgroup memory.
//
// A tile multiplies every value by every row's weight, also by 0. So values that are NaN or infinite pass as zeros, and
// where there was one, it is added to the rows that see it, and to no other, by itself.
//
// Launch: groups of 32 * TILES * SHARE threads, grid (slots, n_heads, 1). The last, longest block of a sequence comes first.

// The sequence and the block of `size` rows that slot `slot` stands for. Sequence s has the slots from starts[s] / size + s
// on: as many as its rows need, wherever they begin.
inline uint2 tile_of(constant AttentionParams &p, constant uint *seq_starts, uint slot, uint size) {
    if (p.slots_per_seq != 0) {
        return uint2(slot / p.slots_per_seq, slot % p.slots_per_seq);
    }
    uint low = 0, high = p.n_seqs;
    while (low < high) {
        const uint middle = (low + high) / 2;
        if (min(seq_starts[middle], p.n_rows) / size + middle <= slot) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const uint s = low == 0 ? 0 : low - 1;
    return uint2(s, slot - (min(seq_starts[s], p.n_rows) / size + s));
}

// The simdgroups that share a row of tiles wait for one another.
template <int SHARE>
void tile_barrier() {
    if (SHARE == 1) {
        simdgroup_barrier(mem_flags::mem_threadgroup);
    } else {
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

// By their bits: no setting of the compiler may take the question away.
inline bool is_special(float x) {
    return (as_type<uint>(x) & 0x7F800000u) == 0x7F800000u;
}
inline bool is_special(half x) {
    return (as_type<ushort>(x) & 0x7C00u) == 0x7C00u;
}
inline bool is_special(bfloat x) {
    return (as_type<ushort>(x) & 0x7F80u) == 0x7F80u;
}

// Copies columns [first_column, first_column + COLUMNS) of rows of the pool into a tile; zeros beyond the rows and columns.
// With FINITE, also for NaN and infinity, and says whether there was one.
template <typename T, int KEYS, int COLUMNS, int STRIDE, int THREADS, bool FINITE>
bool stage(device const T *source, threadgroup const uint *rows, uint n_rows, uint dim, uint first_column,
           threadgroup T *tile, uint thread_index) {
    bool found = false;
    for (uint i = thread_index; i < KEYS * COLUMNS; i += THREADS) {
        const uint row = i / COLUMNS;
        const uint column = i % COLUMNS;
        const uint d = first_column + column;
        T x = row < n_rows && d < dim ? source[ulong(rows[row]) * dim + d] : T(0.0f);
        if (FINITE && is_special(x)) {
            found = true;
            x = T(0.0f);
        }
        tile[row * STRIDE + column] = x;
    }
    return found;
}

template <typename T, int D, int TILES, int SHARE, int KEYS, int CHUNK>
[[kernel]] void attention_tiles(device const T *q [[buffer(0)]],
                                device const T *k [[buffer(1)]],
                                device const T *v [[buffer(2)]],
                                device T *output [[buffer(3)]],
                                constant AttentionParams &p [[buffer(4)]],
                                constant uint *block_table [[buffer(5)]],
                                constant uint *seq_starts [[buffer(6)]],
                                constant uint *kv_lens [[buffer(7)]],
                                device const uchar *mask [[buffer(8)]],
                                constant float *sinks [[buffer(9)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint3 groups [[threadgroups_per_grid]],
                                uint thread_index [[thread_index_in_threadgroup]],
                                uint simdgroup [[simdgroup_index_in_threadgroup]],
                                uint lane [[thread_index_in_simdgroup]]) {
    constexpr int QUERIES = 8 * TILES;
    constexpr int THREADS = 32 * TILES * SHARE;
    // Rows are 16 bytes longer than need be, so that the rows of a tile lie in different banks.
    constexpr int PAD = 16 / int(sizeof(T));
    constexpr int Q_STRIDE = D + PAD;
    constexpr int KV_STRIDE = CHUNK + PAD;
    constexpr int SCORE_TILES = KEYS / 8 / SHARE;
    constexpr int CHUNK_TILES = CHUNK / 8 / SHARE;
    constexpr int LANES_PER_ROW = 4 * SHARE;
    threadgroup T q_tile[QUERIES * Q_STRIDE];
    threadgroup T kv_tile[KEYS * KV_STRIDE];
    threadgroup float scores[QUERIES * KEYS];
    threadgroup float factors[QUERIES];
    threadgroup float numbers[2 * 64];
    threadgroup uint rows[KEYS];
    threadgroup uint found[TILES * SHARE];

    const uint2 at = tile_of(p, seq_starts, groups.x - 1 - group.x, QUERIES);
    const uint s = at.x;
    const Sequence seq = sequence_at(p, seq_starts, kv_lens, s);
    if (at.y >= (seq.rows + QUERIES - 1) / QUERIES) {
        return;
    }
    const uint head = group.y;
    const uint kv_head = head / (p.n_heads / p.n_kv_heads);
    const uint first_query = at.y * QUERIES;
    const uint n_queries = min(uint(QUERIES), seq.rows - first_query);
    const uint n_keys = end_of(p, seq, first_query + n_queries - 1);
    const uint start_key = low_of(p, end_of(p, seq, first_query)) / KEYS * KEYS;
    q += (seq.start + first_query) * p.q_row_stride + ulong(head) * p.q_head_stride;
    output += (seq.start + first_query) * p.out_row_stride + ulong(head) * p.out_head_stride;

    const uint tile = simdgroup / SHARE;
    const uint share = simdgroup % SHARE;
    threadgroup T *my_q = q_tile + tile * 8 * Q_STRIDE;
    threadgroup float *my_scores = scores + tile * 8 * KEYS;

    // For the softmax: a row of this tile, and where this lane begins in it.
    const uint row = (share * 32 + lane) / LANES_PER_ROW;
    const uint first_in_row = lane % LANES_PER_ROW;
    const uint query = min(first_query + tile * 8 + row, seq.rows - 1);
    const uint end = end_of(p, seq, query);
    const uint low = low_of(p, end);
    const float factor = score_factor(p);
    float m = NO_SCORE, l = 0.0f;

    for (uint i = thread_index; i < QUERIES * D; i += THREADS) {
        const uint r = i / D, d = i % D;
        q_tile[r * Q_STRIDE + d] = r < n_queries && d < p.head_dim ? q[ulong(r) * p.q_row_stride + d] : T(0.0f);
    }
    for (uint i = thread_index; i < 64; i += THREADS) {
        numbers[i] = float(i / 8);
        numbers[64 + i] = float(i % 8);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // Which rows and columns the two elements of a tile are in that this lane holds.
    simdgroup_float8x8 in_rows, in_columns;
    simdgroup_load(in_rows, numbers, 8);
    simdgroup_load(in_columns, numbers + 64, 8);
    const uint row_a = tile * 8 + uint(in_rows.thread_elements()[0]);
    const uint row_b = tile * 8 + uint(in_rows.thread_elements()[1]);
    const uint column_a = uint(in_columns.thread_elements()[0]);
    const uint column_b = uint(in_columns.thread_elements()[1]);

    simdgroup_float8x8 o[D / 8 / SHARE];
    for (int i = 0; i < D / 8 / SHARE; i++) {
        o[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
    for (uint first_key = start_key; first_key < n_keys; first_key += KEYS) {
        const uint keys_here = min(uint(KEYS), n_keys - first_key);
        simdgroup_float8x8 sum[SCORE_TILES];
        for (int i = 0; i < SCORE_TILES; i++) {
            sum[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint i = thread_index; i < keys_here; i += THREADS) {
            rows[i] = key_row(p, block_table, s, kv_head, first_key + i);
        }
        for (int chunk = 0; chunk < D / CHUNK; chunk++) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
            stage<T, KEYS, CHUNK, KV_STRIDE, THREADS, false>(k, rows, keys_here, p.head_dim, chunk * CHUNK, kv_tile,
                                                             thread_index);
            threadgroup_barrier(mem_flags::mem_threadgroup);
            for (int d = 0; d < CHUNK; d += 8) {
                simdgroup_matrix<T, 8, 8> a;
                simdgroup_load(a, my_q + chunk * CHUNK + d, Q_STRIDE);
                for (int i = 0; i < SCORE_TILES; i++) {
                    simdgroup_matrix<T, 8, 8> b;
                    simdgroup_load(b, kv_tile + (i * SHARE + share) * 8 * KV_STRIDE + d, KV_STRIDE, ulong2(0, 0), true);
                    simdgroup_multiply_accumulate(sum[i], a, b, sum[i]);
                }
            }
        }
        for (int i = 0; i < SCORE_TILES; i++) {
            simdgroup_store(sum[i], my_scores + (i * SHARE + share) * 8, KEYS);
        }
        tile_barrier<SHARE>();

        float weight[KEYS / LANES_PER_ROW];
        float new_m = m;
        for (int i = 0; i < KEYS / LANES_PER_ROW; i++) {
            const uint key = first_key + first_in_row + i * LANES_PER_ROW;
            weight[i] = my_scores[row * KEYS + key - first_key] * factor;
            if (key >= low && key < end) {
                if (p.softcap != 0.0f || p.mask_kind != 0) {
                    weight[i] = masked<T>(p, mask, weight[i], s, head, query, key);
                }
                new_m = max(new_m, weight[i]);
            }
        }
        for (ushort other = 1; other < LANES_PER_ROW; other *= 2) {
            new_m = max(new_m, simd_shuffle_xor(new_m, other));
        }
        const float keep = exp2(m - new_m);
        float all = 0.0f;
        for (int i = 0; i < KEYS / LANES_PER_ROW; i++) {
            const uint key = first_key + first_in_row + i * LANES_PER_ROW;
            weight[i] = key >= low && key < end ? exp2(weight[i] - new_m) : 0.0f;
            all += weight[i];
            my_scores[row * KEYS + key - first_key] = weight[i];
        }
        for (ushort other = 1; other < LANES_PER_ROW; other *= 2) {
            all += simd_shuffle_xor(all, other);
        }
        m = new_m;
        l = l * keep + all;
        if (first_in_row == 0) {
            factors[tile * 8 + row] = keep;
        }
        tile_barrier<SHARE>();

        const float keep_a = factors[row_a], keep_b = factors[row_b];
        for (int i = 0; i < D / 8 / SHARE; i++) {
            o[i].thread_elements()[0] *= keep_a;
            o[i].thread_elements()[1] *= keep_b;
        }
        for (int chunk = 0; chunk < D / CHUNK; chunk++) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
            const bool mine = stage<T, KEYS, CHUNK, KV_STRIDE, THREADS, true>(v, rows, keys_here, p.v_dim, chunk * CHUNK,
                                                                              kv_tile, thread_index);
            const bool ours = simd_any(mine);
            if (lane == 0) {
                found[simdgroup] = ours ? 1 : 0;
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            for (int key = 0; key < KEYS; key += 8) {
                simdgroup_float8x8 a;
                simdgroup_load(a, my_scores + key, KEYS);
                for (int i = 0; i < CHUNK_TILES; i++) {
                    simdgroup_matrix<T, 8, 8> b;
                    simdgroup_load(b, kv_tile + key * KV_STRIDE + (i * SHARE + share) * 8, KV_STRIDE);
                    simdgroup_multiply_accumulate(o[chunk * CHUNK_TILES + i], a, b, o[chunk * CHUNK_TILES + i]);
                }
            }
            uint any = 0;
            for (int i = 0; i < TILES * SHARE; i++) {
                any |= found[i];
            }
            if (any != 0) {
                for (int i = 0; i < CHUNK_TILES; i++) {
                    const uint d_a = chunk * CHUNK + (i * SHARE + share) * 8 + column_a;
                    const uint d_b = chunk * CHUNK + (i * SHARE + share) * 8 + column_b;
                    for (uint key = 0; key < keys_here; key++) {
                        const float weight_a = scores[row_a * KEYS + key], weight_b = scores[row_b * KEYS + key];
                        const T x_a = d_a < p.v_dim ? v[ulong(rows[key]) * p.v_dim + d_a] : T(0.0f);
                        const T x_b = d_b < p.v_dim ? v[ulong(rows[key]) * p.v_dim + d_b] : T(0.0f);
                        if (weight_a != 0.0f && is_special(x_a)) {
                            o[chunk * CHUNK_TILES + i].thread_elements()[0] += weight_a * float(x_a);
                        }
                        if (weight_b != 0.0f && is_special(x_b)) {
                            o[chunk * CHUNK_TILES + i].thread_elements()[1] += weight_b * float(x_b);
                        }
                    }
                }
            }
        }
    }

    // Divide by the sums and write out, tile by tile through threadgroup memory: rows and columns may end anywhere.
    tile_barrier<SHARE>();
    if (first_in_row == 0) {
        float scaled = 1.0f;
        if (p.has_sinks != 0) {
            const float sink = sinks[head] * M_LOG2E_F;
            const float new_m = max(m, sink);
            scaled = exp2(m - new_m);
            l = l * scaled + exp2(sink - new_m);
        }
        factors[tile * 8 + row] = l == 0.0f ? 0.0f : scaled / l;
    }
    tile_barrier<SHARE>();
    const float last_a = factors[row_a], last_b = factors[row_b];
    threadgroup float *my_tile = my_scores + share * 64;
    for (int i = 0; i < D / 8 / SHARE; i++) {
        o[i].thread_elements()[0] *= last_a;
        o[i].thread_elements()[1] *= last_b;
        simdgroup_store(o[i], my_tile, 8);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        const uint first_column = (i / CHUNK_TILES) * CHUNK + (i % CHUNK_TILES * SHARE + share) * 8;
        for (uint element = lane; element < 64; element += 32) {
            const uint out_row = tile * 8 + element / 8;
            const uint d = first_column + element % 8;
            if (out_row < n_queries && d < p.v_dim) {
                output[ulong(out_row) * p.out_row_stride + d] = T(my_tile[element]);
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}

template [[host_name("attention_tiles_d64_f32")]] [[kernel]] decltype(attention_tiles<float, 64, 4, 1, 32, 64>) attention_tiles<float, 64, 4, 1, 32, 64>;
template [[host_name("attention_tiles_d64_f16")]] [[kernel]] decltype(attention_tiles<half, 64, 4, 1, 32, 64>) attention_tiles<half, 64, 4, 1, 32, 64>;
template [[host_name("attention_tiles_d64_bf16")]] [[kernel]] decltype(attention_tiles<bfloat, 64, 4, 1, 32, 64>) attention_tiles<bfloat, 64, 4, 1, 32, 64>;
template [[host_name("attention_tiles_d72_f32")]] [[kernel]] decltype(attention_tiles<float, 72, 4, 1, 16, 72>) attention_tiles<float, 72, 4, 1, 16, 72>;
template [[host_name("attention_tiles_d72_f16")]] [[kernel]] decltype(attention_tiles<half, 72, 4, 1, 32, 72>) attention_tiles<half, 72, 4, 1, 32, 72>;
template [[host_name("attention_tiles_d72_bf16")]] [[kernel]] decltype(attention_tiles<bfloat, 72, 4, 1, 32, 72>) attention_tiles<bfloat, 72, 4, 1, 32, 72>;
template [[host_name("attention_tiles_d80_f32")]] [[kernel]] decltype(attention_tiles<float, 80, 4, 1, 16, 80>) attention_tiles<float, 80, 4, 1, 16, 80>;
template [[host_name("attention_tiles_d80_f16")]] [[kernel]] decltype(attention_tiles<half, 80, 4, 1, 32, 80>) attention_tiles<half, 80, 4, 1, 32, 80>;
template [[host_name("attention_tiles_d80_bf16")]] [[kernel]] decltype(attention_tiles<bfloat, 80, 4, 1, 32, 80>) attention_tiles<bfloat, 80, 4, 1, 32, 80>;
template [[host_name("attention_tiles_d96_f32")]] [[kernel]] decltype(attention_tiles<float, 96, 4, 1, 16, 96>) attention_tiles<float, 96, 4, 1, 16, 96>;
template [[host_name("attention_tiles_d96_f16")]] [[kernel]] decltype(attention_tiles<half, 96, 4, 1, 32, 96>) attention_tiles<half, 96, 4, 1, 32, 96>;
template [[host_name("attention_tiles_d96_bf16")]] [[kernel]] decltype(attention_tiles<bfloat, 96, 4, 1, 32, 96>) attention_tiles<bfloat, 96, 4, 1, 32, 96>;
// Published names.
template [[host_name("sdpa")]] [[kernel]] decltype(attention_tiles<float, 128, 4, 1, 16, 128>) attention_tiles<float, 128, 4, 1, 16, 128>;
template [[host_name("sdpa_f16")]] [[kernel]] decltype(attention_tiles<half, 128, 4, 1, 32, 128>) attention_tiles<half, 128, 4, 1, 32, 128>;
template [[host_name("sdpa_bf16")]] [[kernel]] decltype(attention_tiles<bfloat, 128, 4, 1, 32, 128>) attention_tiles<bfloat, 128, 4, 1, 32, 128>;
template [[host_name("attention_tiles_d192_f32")]] [[kernel]] decltype(attention_tiles<float, 192, 2, 2, 16, 96>) attention_tiles<float, 192, 2, 2, 16, 96>;
template [[host_name("attention_tiles_d192_f16")]] [[kernel]] decltype(attention_tiles<half, 192, 2, 2, 32, 96>) attention_tiles<half, 192, 2, 2, 32, 96>;
template [[host_name("attention_tiles_d192_bf16")]] [[kernel]] decltype(attention_tiles<bfloat, 192, 2, 2, 32, 96>) attention_tiles<bfloat, 192, 2, 2, 32, 96>;
template [[host_name("attention_tiles_d256_f32")]] [[kernel]] decltype(attention_tiles<float, 256, 2, 2, 16, 128>) attention_tiles<float, 256, 2, 2, 16, 128>;
template [[host_name("attention_tiles_d256_f16")]] [[kernel]] decltype(attention_tiles<half, 256, 2, 2, 32, 128>) attention_tiles<half, 256, 2, 2, 32, 128>;
template [[host_name("attention_tiles_d256_bf16")]] [[kernel]] decltype(attention_tiles<bfloat, 256, 2, 2, 32, 128>) attention_tiles<bfloat, 256, 2, 2, 32, 128>;
template [[host_name("attention_tiles_d512_f32")]] [[kernel]] decltype(attention_tiles<float, 512, 1, 4, 32, 64>) attention_tiles<float, 512, 1, 4, 32, 64>;
template [[host_name("attention_tiles_d512_f16")]] [[kernel]] decltype(attention_tiles<half, 512, 1, 4, 32, 64>) attention_tiles<half, 512, 1, 4, 32, 64>;
template [[host_name("attention_tiles_d512_bf16")]] [[kernel]] decltype(attention_tiles<bfloat, 512, 1, 4, 32, 64>) attention_tiles<bfloat, 512, 1, 4, 32, 64>;
template [[host_name("attention_tiles_d576_f32")]] [[kernel]] decltype(attention_tiles<float, 576, 1, 4, 32, 64>) attention_tiles<float, 576, 1, 4, 32, 64>;
template [[host_name("attention_tiles_d576_f16")]] [[kernel]] decltype(attention_tiles<half, 576, 1, 4, 32, 64>) attention_tiles<half, 576, 1, 4, 32, 64>;
template [[host_name("attention_tiles_d576_bf16")]] [[kernel]] decltype(attention_tiles<bfloat, 576, 1, 4, 32, 64>) attention_tiles<bfloat, 576, 1, 4, 32, 64>;
