// Scaled dot-product attention, causal: softmax(scale * q k^T) v, where query i of S sees the keys j <= T - S + i.
//
//   q, output  [batch, n_heads, seq_len, head_dim]
//   k, v       [batch, n_kv_heads, kv_capacity, head_dim], of which the first kv_seq_len positions count
//
// All kernels compute in f32 with the online softmax: a running maximum m, a running sum l of 2^(score - m), and the
// equally weighted sum o of value rows; a new maximum scales l and o down. Scores are kept in units of ln 2, so that
// exp2 serves. Nothing beyond kv_seq_len is read: a stale cache may hold anything.

#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

struct SdpaParams {
    uint n_heads;
    uint n_kv_heads;
    uint head_dim;
    uint seq_len;
    uint kv_seq_len;
    float scale;
    uint kv_capacity;
};

// The maximum of no scores: finite, so that differences of it are.
constant constexpr float NO_SCORE = -3.0e38f;

// ---- General: any head_dim up to 512, any number of queries -------------------------------------------------------
//
// Launch: one threadgroup of 128 threads for each query, grid (seq_len, n_heads, batch). Its 4 simdgroups take every
// fourth key; lane i of a simdgroup has the elements i, i + 32, ... of the rows.

constant constexpr uint GENERAL_SIMDGROUPS = 4;

template <typename T>
[[kernel]] void sdpa_general(device const T *q [[buffer(0)]],
                             device const T *k [[buffer(1)]],
                             device const T *v [[buffer(2)]],
                             device T *output [[buffer(3)]],
                             constant SdpaParams &p [[buffer(4)]],
                             uint3 group [[threadgroup_position_in_grid]],
                             uint thread_index [[thread_index_in_threadgroup]],
                             uint simdgroup [[simdgroup_index_in_threadgroup]],
                             uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float part_o[GENERAL_SIMDGROUPS][512];
    threadgroup float part_m[GENERAL_SIMDGROUPS];
    threadgroup float part_l[GENERAL_SIMDGROUPS];

    const uint head = group.y;
    const uint kv_head = head / (p.n_heads / p.n_kv_heads);
    const ulong row = (ulong(group.z) * p.n_heads + head) * p.seq_len + group.x;
    const ulong first_key = (ulong(group.z) * p.n_kv_heads + kv_head) * p.kv_capacity;
    const uint keys = p.kv_seq_len - p.seq_len + group.x + 1;
    q += row * p.head_dim;
    output += row * p.head_dim;
    k += first_key * p.head_dim;
    v += first_key * p.head_dim;

    float query[16], o[16];
    for (uint e = 0; e < 16; e++) {
        const uint d = lane + 32 * e;
        query[e] = d < p.head_dim ? float(q[d]) * (p.scale * M_LOG2E_F) : 0.0f;
        o[e] = 0.0f;
    }
    float m = NO_SCORE, l = 0.0f;
    for (uint key = simdgroup; key < keys; key += GENERAL_SIMDGROUPS) {
        device const T *k_row = k + ulong(key) * p.head_dim;
        device const T *v_row = v + ulong(key) * p.head_dim;
        float score = 0.0f;
        for (uint e = 0; e < 16; e++) {
            const uint d = lane + 32 * e;
            if (d < p.head_dim) {
                score += query[e] * float(k_row[d]);
            }
        }
        score = simd_sum(score);
        const float new_m = max(m, score);
        const float keep = exp2(m - new_m);
        const float weight = exp2(score - new_m);
        m = new_m;
        l = l * keep + weight;
        for (uint e = 0; e < 16; e++) {
            const uint d = lane + 32 * e;
            if (d < p.head_dim) {
                o[e] = o[e] * keep + weight * float(v_row[d]);
            }
        }
    }

    for (uint e = 0; e < 16; e++) {
        part_o[simdgroup][lane + 32 * e] = o[e];
    }
    if (lane == 0) {
        part_m[simdgroup] = m;
        part_l[simdgroup] = l;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    float all_m = part_m[0];
    for (uint s = 1; s < GENERAL_SIMDGROUPS; s++) {
        all_m = max(all_m, part_m[s]);
    }
    float weights[GENERAL_SIMDGROUPS], all_l = 0.0f;
    for (uint s = 0; s < GENERAL_SIMDGROUPS; s++) {
        weights[s] = exp2(part_m[s] - all_m);
        all_l += weights[s] * part_l[s];
    }
    for (uint d = thread_index; d < p.head_dim; d += 32 * GENERAL_SIMDGROUPS) {
        float sum = 0.0f;
        for (uint s = 0; s < GENERAL_SIMDGROUPS; s++) {
            sum += weights[s] * part_o[s][d];
        }
        output[d] = T(sum / all_l);
    }
}

template [[host_name("sdpa")]] [[kernel]] decltype(sdpa_general<float>) sdpa_general<float>;
template [[host_name("sdpa_f16")]] [[kernel]] decltype(sdpa_general<half>) sdpa_general<half>;
template [[host_name("sdpa_bf16")]] [[kernel]] decltype(sdpa_general<bfloat>) sdpa_general<bfloat>;

// ---- Decode: few queries ------------------------------------------------------------------------------------------
//
// The queries of one kv head, n_heads / n_kv_heads * seq_len rows, lie in a row in memory. A threadgroup of 8 simdgroups
// reads its keys and values once for all rows it has: simdgroups are cut into row_groups that take ROWS rows each, and
// within those share the keys, 4 keys at a time. Each simdgroup keeps its rows in registers, lane i the elements
// i, i + 32, ...; at the end the simdgroups of a row group add up in threadgroup memory.
//
// Launch: groups of 256 threads, grid (row blocks * n_splits, n_kv_heads, batch), the split varying fastest.
// E * 32 >= head_dim; ROWS, a function constant, is at most MAX_ROWS.

constant uint ROWS [[function_constant(0)]];

constant constexpr uint DECODE_SIMDGROUPS = 8;
constant constexpr uint STEP = 4;

struct SdpaSplit {
    uint row_groups;  // 1, 2 or 4
    uint n_splits;    // parts that the keys are cut into, each a threadgroup
    uint split_len;   // keys of a part
};

// Where rows of results go: to the output, finished.
template <typename T>
struct FinishedRows {
    device T *output;  // [n_rows, head_dim]
    uint head_dim;

    void put(ulong row, uint d, float o, float m, float l) const {
        output[row * head_dim + d] = T(o / l);
    }
};

// Or to scratch memory, as one part of several.
struct PartialRows {
    device float *sums;    // [n_rows, n_splits, head_dim]: o
    device float *states;  // [n_rows, n_splits, 2]: m, l
    uint head_dim;
    uint n_splits;
    uint split;

    void put(ulong row, uint d, float o, float m, float l) const {
        const ulong at = row * n_splits + split;
        sums[at * head_dim + d] = o;
        if (d == 0) {
            states[at * 2] = m;
            states[at * 2 + 1] = l;
        }
    }
};

template <typename T, uint E, uint MAX_ROWS, typename Rows>
void decode(device const T *q, device const T *k, device const T *v, constant SdpaParams &p, constant SdpaSplit &split,
            Rows target, uint3 group, uint simdgroup, uint lane, threadgroup float *part_o, threadgroup float *part_m,
            threadgroup float *part_l) {
    const uint key_groups = DECODE_SIMDGROUPS / split.row_groups;
    const uint key_group = simdgroup % key_groups;
    const uint first_simdgroup = simdgroup - key_group;
    const uint n_rows = p.n_heads / p.n_kv_heads * p.seq_len;
    const uint first_row = (group.x / split.n_splits * split.row_groups + simdgroup / key_groups) * ROWS;
    const uint first_key = group.x % split.n_splits * split.split_len;
    const uint end_key = min(p.kv_seq_len, first_key + split.split_len);
    const ulong kv_head = ulong(group.z) * p.n_kv_heads + group.y;
    const ulong row_base = kv_head * n_rows;
    k += kv_head * p.kv_capacity * p.head_dim;
    v += kv_head * p.kv_capacity * p.head_dim;

    float query[MAX_ROWS][E], o[MAX_ROWS][E], m[MAX_ROWS], l[MAX_ROWS];
    uint visible[MAX_ROWS];
    for (uint r = 0; r < MAX_ROWS; r++) {
        const uint row = first_row + r;
        const bool is_row = r < ROWS && row < n_rows;
        visible[r] = is_row ? min(end_key, p.kv_seq_len - p.seq_len + row % p.seq_len + 1) : 0;
        m[r] = NO_SCORE;
        l[r] = 0.0f;
        for (uint e = 0; e < E; e++) {
            const uint d = lane + 32 * e;
            query[r][e] =
                is_row && d < p.head_dim ? float(q[(row_base + row) * p.head_dim + d]) * (p.scale * M_LOG2E_F) : 0.0f;
            o[r][e] = 0.0f;
        }
    }

    for (uint key = first_key + STEP * key_group; key < end_key; key += STEP * key_groups) {
        float weight[MAX_ROWS][STEP];
        for (uint j = 0; j < STEP; j++) {
            device const T *k_row = k + ulong(key + j) * p.head_dim;
            float x[E];
            for (uint e = 0; e < E; e++) {
                const uint d = lane + 32 * e;
                x[e] = key + j < end_key && d < p.head_dim ? float(k_row[d]) : 0.0f;
            }
            for (uint r = 0; r < MAX_ROWS; r++) {
                if (r < ROWS) {
                    float sum = 0.0f;
                    for (uint e = 0; e < E; e++) {
                        sum += query[r][e] * x[e];
                    }
                    weight[r][j] = simd_sum(sum);
                }
            }
        }
        for (uint r = 0; r < MAX_ROWS; r++) {
            if (r < ROWS) {
                float new_m = m[r];
                for (uint j = 0; j < STEP; j++) {
                    new_m = key + j < visible[r] ? max(new_m, weight[r][j]) : new_m;
                }
                const float keep = exp2(m[r] - new_m);
                m[r] = new_m;
                l[r] *= keep;
                for (uint j = 0; j < STEP; j++) {
                    weight[r][j] = key + j < visible[r] ? exp2(weight[r][j] - new_m) : 0.0f;
                    l[r] += weight[r][j];
                }
                for (uint e = 0; e < E; e++) {
                    o[r][e] *= keep;
                }
            }
        }
        for (uint j = 0; j < STEP; j++) {
            device const T *v_row = v + ulong(key + j) * p.head_dim;
            float x[E];
            for (uint e = 0; e < E; e++) {
                const uint d = lane + 32 * e;
                x[e] = key + j < end_key && d < p.head_dim ? float(v_row[d]) : 0.0f;
            }
            for (uint r = 0; r < MAX_ROWS; r++) {
                // The test keeps what a row must not see out of it, be it NaN.
                if (r < ROWS && key + j < visible[r]) {
                    for (uint e = 0; e < E; e++) {
                        o[r][e] += weight[r][j] * x[e];
                    }
                }
            }
        }
    }

    if (lane == 0) {
        for (uint r = 0; r < MAX_ROWS; r++) {
            part_m[simdgroup * MAX_ROWS + r] = m[r];
            part_l[simdgroup * MAX_ROWS + r] = l[r];
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint r = 0; r < MAX_ROWS; r++) {
        if (r < ROWS) {
            float all_m = NO_SCORE, all_l = 0.0f;
            for (uint s = first_simdgroup; s < first_simdgroup + key_groups; s++) {
                all_m = max(all_m, part_m[s * MAX_ROWS + r]);
            }
            for (uint s = first_simdgroup; s < first_simdgroup + key_groups; s++) {
                all_l += part_l[s * MAX_ROWS + r] * exp2(part_m[s * MAX_ROWS + r] - all_m);
            }
            const float keep = exp2(m[r] - all_m);
            for (uint e = 0; e < E; e++) {
                part_o[(simdgroup * E + e) * 32 + lane] = o[r][e] * keep;
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            for (uint e = key_group; e < E; e += key_groups) {
                const uint d = lane + 32 * e;
                float sum = 0.0f;
                for (uint s = first_simdgroup; s < first_simdgroup + key_groups; s++) {
                    sum += part_o[(s * E + e) * 32 + lane];
                }
                if (first_row + r < n_rows && d < p.head_dim) {
                    target.put(row_base + first_row + r, d, sum, all_m, all_l);
                }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
    }
}

template <typename T, uint E, uint MAX_ROWS>
[[kernel]] void sdpa_decode(device const T *q [[buffer(0)]],
                            device const T *k [[buffer(1)]],
                            device const T *v [[buffer(2)]],
                            device T *output [[buffer(3)]],
                            constant SdpaParams &p [[buffer(4)]],
                            constant SdpaSplit &split [[buffer(5)]],
                            uint3 group [[threadgroup_position_in_grid]],
                            uint simdgroup [[simdgroup_index_in_threadgroup]],
                            uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float part_o[DECODE_SIMDGROUPS * E * 32];
    threadgroup float part_m[DECODE_SIMDGROUPS * MAX_ROWS];
    threadgroup float part_l[DECODE_SIMDGROUPS * MAX_ROWS];
    FinishedRows<T> target;
    target.output = output;
    target.head_dim = p.head_dim;
    decode<T, E, MAX_ROWS>(q, k, v, p, split, target, group, simdgroup, lane, part_o, part_m, part_l);
}

template <typename T, uint E, uint MAX_ROWS>
[[kernel]] void sdpa_split(device const T *q [[buffer(0)]],
                           device const T *k [[buffer(1)]],
                           device const T *v [[buffer(2)]],
                           device float *sums [[buffer(3)]],
                           constant SdpaParams &p [[buffer(4)]],
                           constant SdpaSplit &split [[buffer(5)]],
                           device float *states [[buffer(6)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]],
                           uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float part_o[DECODE_SIMDGROUPS * E * 32];
    threadgroup float part_m[DECODE_SIMDGROUPS * MAX_ROWS];
    threadgroup float part_l[DECODE_SIMDGROUPS * MAX_ROWS];
    PartialRows target;
    target.sums = sums;
    target.states = states;
    target.head_dim = p.head_dim;
    target.n_splits = split.n_splits;
    target.split = group.x % split.n_splits;
    decode<T, E, MAX_ROWS>(q, k, v, p, split, target, group, simdgroup, lane, part_o, part_m, part_l);
}

// Adds up the parts of a row. Launch: one threadgroup of 128 threads for each row, grid (seq_len, n_heads, batch).
template <typename T>
[[kernel]] void sdpa_merge(device const float *sums [[buffer(0)]],
                           device const float *states [[buffer(1)]],
                           device T *output [[buffer(2)]],
                           constant SdpaParams &p [[buffer(3)]],
                           constant SdpaSplit &split [[buffer(4)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint thread_index [[thread_index_in_threadgroup]]) {
    const ulong row = (ulong(group.z) * p.n_heads + group.y) * p.seq_len + group.x;
    sums += row * split.n_splits * p.head_dim;
    states += row * split.n_splits * 2;
    float m = NO_SCORE, l = 0.0f;
    for (uint s = 0; s < split.n_splits; s++) {
        m = max(m, states[2 * s]);
    }
    for (uint s = 0; s < split.n_splits; s++) {
        l += states[2 * s + 1] * exp2(states[2 * s] - m);
    }
    for (uint d = thread_index; d < p.head_dim; d += 128) {
        float o = 0.0f;
        for (uint s = 0; s < split.n_splits; s++) {
            o += sums[s * p.head_dim + d] * exp2(states[2 * s] - m);
        }
        output[row * p.head_dim + d] = T(o / l);
    }
}

template [[host_name("sdpa_merge_f32")]] [[kernel]] decltype(sdpa_merge<float>) sdpa_merge<float>;
template [[host_name("sdpa_merge_f16")]] [[kernel]] decltype(sdpa_merge<half>) sdpa_merge<half>;
template [[host_name("sdpa_merge_bf16")]] [[kernel]] decltype(sdpa_merge<bfloat>) sdpa_merge<bfloat>;

template [[host_name("sdpa_decode_d64_f32")]] [[kernel]] decltype(sdpa_decode<float, 2, 8>) sdpa_decode<float, 2, 8>;
template [[host_name("sdpa_decode_d64_f16")]] [[kernel]] decltype(sdpa_decode<half, 2, 8>) sdpa_decode<half, 2, 8>;
template [[host_name("sdpa_decode_d64_bf16")]] [[kernel]] decltype(sdpa_decode<bfloat, 2, 8>) sdpa_decode<bfloat, 2, 8>;
template [[host_name("sdpa_decode_d128_f32")]] [[kernel]] decltype(sdpa_decode<float, 4, 8>) sdpa_decode<float, 4, 8>;
template [[host_name("sdpa_decode_d128_f16")]] [[kernel]] decltype(sdpa_decode<half, 4, 8>) sdpa_decode<half, 4, 8>;
template [[host_name("sdpa_decode_d128_bf16")]] [[kernel]] decltype(sdpa_decode<bfloat, 4, 8>) sdpa_decode<bfloat, 4, 8>;
template [[host_name("sdpa_decode_d256_f32")]] [[kernel]] decltype(sdpa_decode<float, 8, 4>) sdpa_decode<float, 8, 4>;
template [[host_name("sdpa_decode_d256_f16")]] [[kernel]] decltype(sdpa_decode<half, 8, 4>) sdpa_decode<half, 8, 4>;
template [[host_name("sdpa_decode_d256_bf16")]] [[kernel]] decltype(sdpa_decode<bfloat, 8, 4>) sdpa_decode<bfloat, 8, 4>;
template [[host_name("sdpa_decode_d512_f32")]] [[kernel]] decltype(sdpa_decode<float, 16, 2>) sdpa_decode<float, 16, 2>;
template [[host_name("sdpa_decode_d512_f16")]] [[kernel]] decltype(sdpa_decode<half, 16, 2>) sdpa_decode<half, 16, 2>;
template [[host_name("sdpa_decode_d512_bf16")]] [[kernel]] decltype(sdpa_decode<bfloat, 16, 2>) sdpa_decode<bfloat, 16, 2>;
template [[host_name("sdpa_split_d64_f32")]] [[kernel]] decltype(sdpa_split<float, 2, 8>) sdpa_split<float, 2, 8>;
template [[host_name("sdpa_split_d64_f16")]] [[kernel]] decltype(sdpa_split<half, 2, 8>) sdpa_split<half, 2, 8>;
template [[host_name("sdpa_split_d64_bf16")]] [[kernel]] decltype(sdpa_split<bfloat, 2, 8>) sdpa_split<bfloat, 2, 8>;
template [[host_name("sdpa_split_d128_f32")]] [[kernel]] decltype(sdpa_split<float, 4, 8>) sdpa_split<float, 4, 8>;
template [[host_name("sdpa_split_d128_f16")]] [[kernel]] decltype(sdpa_split<half, 4, 8>) sdpa_split<half, 4, 8>;
template [[host_name("sdpa_split_d128_bf16")]] [[kernel]] decltype(sdpa_split<bfloat, 4, 8>) sdpa_split<bfloat, 4, 8>;
template [[host_name("sdpa_split_d256_f32")]] [[kernel]] decltype(sdpa_split<float, 8, 4>) sdpa_split<float, 8, 4>;
template [[host_name("sdpa_split_d256_f16")]] [[kernel]] decltype(sdpa_split<half, 8, 4>) sdpa_split<half, 8, 4>;
template [[host_name("sdpa_split_d256_bf16")]] [[kernel]] decltype(sdpa_split<bfloat, 8, 4>) sdpa_split<bfloat, 8, 4>;
template [[host_name("sdpa_split_d512_f32")]] [[kernel]] decltype(sdpa_split<float, 16, 2>) sdpa_split<float, 16, 2>;
template [[host_name("sdpa_split_d512_f16")]] [[kernel]] decltype(sdpa_split<half, 16, 2>) sdpa_split<half, 16, 2>;
template [[host_name("sdpa_split_d512_bf16")]] [[kernel]] decltype(sdpa_split<bfloat, 16, 2>) sdpa_split<bfloat, 16, 2>;

// ---- Prefill: many queries ----------------------------------------------------------------------------------------
//
// Flash attention on 8x8 tiles. A threadgroup has 8 * TILES queries of one head and walks the keys up to the last that
// they see, KEYS at a time: scores are summed in tiles, go through threadgroup memory for the softmax, and come back as
// weights of the value rows. Keys and values pass through one buffer in threadgroup memory, CHUNK columns at a time.
// SHARE simdgroups share 8 queries: they divide the keys for the scores, the rows for the softmax, and the columns of o,
// which stays in registers. Head dimensions below D are padded with zeros in threadgroup memory.
//
// Launch: groups of 32 * TILES * SHARE threads, grid (query blocks, n_heads, batch). The last, longest block comes first.

// The simdgroups that share a row of tiles wait for one another.
template <int SHARE>
void tile_barrier() {
    if (SHARE == 1) {
        simdgroup_barrier(mem_flags::mem_threadgroup);
    } else {
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

// Copies columns [first_column, first_column + COLUMNS) of n_rows rows into a tile; zeros beyond the rows and columns.
template <typename T, int ROWS_IN_TILE, int COLUMNS, int STRIDE, int THREADS>
void stage(device const T *source, uint n_rows, uint head_dim, uint first_column, threadgroup T *tile,
           uint thread_index) {
    for (uint i = thread_index; i < ROWS_IN_TILE * COLUMNS; i += THREADS) {
        const uint row = i / COLUMNS;
        const uint column = i % COLUMNS;
        const uint d = first_column + column;
        tile[row * STRIDE + column] = row < n_rows && d < head_dim ? source[ulong(row) * head_dim + d] : T(0.0f);
    }
}

template <typename T, int D, int TILES, int SHARE, int KEYS, int CHUNK>
[[kernel]] void sdpa_prefill(device const T *q [[buffer(0)]],
                             device const T *k [[buffer(1)]],
                             device const T *v [[buffer(2)]],
                             device T *output [[buffer(3)]],
                             constant SdpaParams &p [[buffer(4)]],
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
    threadgroup float row_numbers[64];

    const uint first_query = (groups.x - 1 - group.x) * QUERIES;
    const uint n_queries = min(uint(QUERIES), p.seq_len - first_query);
    const uint n_keys = p.kv_seq_len - p.seq_len + first_query + n_queries;
    const ulong kv_head = ulong(group.z) * p.n_kv_heads + group.y / (p.n_heads / p.n_kv_heads);
    const ulong first_row = (ulong(group.z) * p.n_heads + group.y) * p.seq_len + first_query;
    q += first_row * p.head_dim;
    output += first_row * p.head_dim;
    k += kv_head * p.kv_capacity * p.head_dim;
    v += kv_head * p.kv_capacity * p.head_dim;

    const uint tile = simdgroup / SHARE;
    const uint share = simdgroup % SHARE;
    threadgroup T *my_q = q_tile + tile * 8 * Q_STRIDE;
    threadgroup float *my_scores = scores + tile * 8 * KEYS;

    // For the softmax: a row of this tile, and where this lane begins in it.
    const uint row = (share * 32 + lane) / LANES_PER_ROW;
    const uint first_in_row = lane % LANES_PER_ROW;
    const uint query = min(first_query + tile * 8 + row, p.seq_len - 1);
    const uint visible = p.kv_seq_len - p.seq_len + query + 1;
    float m = NO_SCORE, l = 0.0f;

    stage<T, QUERIES, D, Q_STRIDE, THREADS>(q, n_queries, p.head_dim, 0, q_tile, thread_index);
    for (uint i = thread_index; i < 64; i += THREADS) {
        row_numbers[i] = float(i / 8);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // Which rows the two elements of a tile are in that this lane holds.
    simdgroup_float8x8 numbers;
    simdgroup_load(numbers, row_numbers, 8);
    const uint row_a = tile * 8 + uint(numbers.thread_elements()[0]);
    const uint row_b = tile * 8 + uint(numbers.thread_elements()[1]);

    simdgroup_float8x8 o[D / 8 / SHARE];
    for (int i = 0; i < D / 8 / SHARE; i++) {
        o[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
    for (uint first_key = 0; first_key < n_keys; first_key += KEYS) {
        const uint keys_here = min(uint(KEYS), n_keys - first_key);
        simdgroup_float8x8 s[SCORE_TILES];
        for (int i = 0; i < SCORE_TILES; i++) {
            s[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        }
        for (int chunk = 0; chunk < D / CHUNK; chunk++) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
            stage<T, KEYS, CHUNK, KV_STRIDE, THREADS>(k + ulong(first_key) * p.head_dim, keys_here, p.head_dim,
                                                      chunk * CHUNK, kv_tile, thread_index);
            threadgroup_barrier(mem_flags::mem_threadgroup);
            for (int d = 0; d < CHUNK; d += 8) {
                simdgroup_matrix<T, 8, 8> a;
                simdgroup_load(a, my_q + chunk * CHUNK + d, Q_STRIDE);
                for (int i = 0; i < SCORE_TILES; i++) {
                    simdgroup_matrix<T, 8, 8> b;
                    simdgroup_load(b, kv_tile + (i * SHARE + share) * 8 * KV_STRIDE + d, KV_STRIDE, ulong2(0, 0), true);
                    simdgroup_multiply_accumulate(s[i], a, b, s[i]);
                }
            }
        }
        for (int i = 0; i < SCORE_TILES; i++) {
            simdgroup_store(s[i], my_scores + (i * SHARE + share) * 8, KEYS);
        }
        tile_barrier<SHARE>();

        float weight[KEYS / LANES_PER_ROW];
        float new_m = m;
        for (int i = 0; i < KEYS / LANES_PER_ROW; i++) {
            const uint key = first_in_row + i * LANES_PER_ROW;
            weight[i] = my_scores[row * KEYS + key] * (p.scale * M_LOG2E_F);
            new_m = first_key + key < visible ? max(new_m, weight[i]) : new_m;
        }
        for (ushort other = 1; other < LANES_PER_ROW; other *= 2) {
            new_m = max(new_m, simd_shuffle_xor(new_m, other));
        }
        const float keep = exp2(m - new_m);
        float sum = 0.0f;
        for (int i = 0; i < KEYS / LANES_PER_ROW; i++) {
            const uint key = first_in_row + i * LANES_PER_ROW;
            weight[i] = first_key + key < visible ? exp2(weight[i] - new_m) : 0.0f;
            sum += weight[i];
            my_scores[row * KEYS + key] = weight[i];
        }
        for (ushort other = 1; other < LANES_PER_ROW; other *= 2) {
            sum += simd_shuffle_xor(sum, other);
        }
        m = new_m;
        l = l * keep + sum;
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
            stage<T, KEYS, CHUNK, KV_STRIDE, THREADS>(v + ulong(first_key) * p.head_dim, keys_here, p.head_dim,
                                                      chunk * CHUNK, kv_tile, thread_index);
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
        }
    }

    // Divide by the sums and write out, tile by tile through threadgroup memory: rows and columns may end anywhere.
    tile_barrier<SHARE>();
    if (first_in_row == 0) {
        factors[tile * 8 + row] = 1.0f / l;
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
            if (out_row < n_queries && d < p.head_dim) {
                output[ulong(out_row) * p.head_dim + d] = T(my_tile[element]);
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}

template [[host_name("sdpa_prefill_d64_f32")]] [[kernel]] decltype(sdpa_prefill<float, 64, 4, 1, 32, 64>)
    sdpa_prefill<float, 64, 4, 1, 32, 64>;
template [[host_name("sdpa_prefill_d64_f16")]] [[kernel]] decltype(sdpa_prefill<half, 64, 4, 1, 32, 64>)
    sdpa_prefill<half, 64, 4, 1, 32, 64>;
template [[host_name("sdpa_prefill_d64_bf16")]] [[kernel]] decltype(sdpa_prefill<bfloat, 64, 4, 1, 32, 64>)
    sdpa_prefill<bfloat, 64, 4, 1, 32, 64>;
template [[host_name("sdpa_prefill_d72_f32")]] [[kernel]] decltype(sdpa_prefill<float, 72, 4, 1, 16, 72>)
    sdpa_prefill<float, 72, 4, 1, 16, 72>;
template [[host_name("sdpa_prefill_d72_f16")]] [[kernel]] decltype(sdpa_prefill<half, 72, 4, 1, 32, 72>)
    sdpa_prefill<half, 72, 4, 1, 32, 72>;
template [[host_name("sdpa_prefill_d72_bf16")]] [[kernel]] decltype(sdpa_prefill<bfloat, 72, 4, 1, 32, 72>)
    sdpa_prefill<bfloat, 72, 4, 1, 32, 72>;
template [[host_name("sdpa_prefill_d80_f32")]] [[kernel]] decltype(sdpa_prefill<float, 80, 4, 1, 16, 80>)
    sdpa_prefill<float, 80, 4, 1, 16, 80>;
template [[host_name("sdpa_prefill_d80_f16")]] [[kernel]] decltype(sdpa_prefill<half, 80, 4, 1, 32, 80>)
    sdpa_prefill<half, 80, 4, 1, 32, 80>;
template [[host_name("sdpa_prefill_d80_bf16")]] [[kernel]] decltype(sdpa_prefill<bfloat, 80, 4, 1, 32, 80>)
    sdpa_prefill<bfloat, 80, 4, 1, 32, 80>;
template [[host_name("sdpa_prefill_d96_f32")]] [[kernel]] decltype(sdpa_prefill<float, 96, 4, 1, 16, 96>)
    sdpa_prefill<float, 96, 4, 1, 16, 96>;
template [[host_name("sdpa_prefill_d96_f16")]] [[kernel]] decltype(sdpa_prefill<half, 96, 4, 1, 32, 96>)
    sdpa_prefill<half, 96, 4, 1, 32, 96>;
template [[host_name("sdpa_prefill_d96_bf16")]] [[kernel]] decltype(sdpa_prefill<bfloat, 96, 4, 1, 32, 96>)
    sdpa_prefill<bfloat, 96, 4, 1, 32, 96>;
template [[host_name("sdpa_prefill_d128_f32")]] [[kernel]] decltype(sdpa_prefill<float, 128, 4, 1, 16, 128>)
    sdpa_prefill<float, 128, 4, 1, 16, 128>;
template [[host_name("sdpa_prefill_d128_f16")]] [[kernel]] decltype(sdpa_prefill<half, 128, 4, 1, 32, 128>)
    sdpa_prefill<half, 128, 4, 1, 32, 128>;
template [[host_name("sdpa_prefill_d128_bf16")]] [[kernel]] decltype(sdpa_prefill<bfloat, 128, 4, 1, 32, 128>)
    sdpa_prefill<bfloat, 128, 4, 1, 32, 128>;
template [[host_name("sdpa_prefill_d192_f32")]] [[kernel]] decltype(sdpa_prefill<float, 192, 2, 2, 16, 96>)
    sdpa_prefill<float, 192, 2, 2, 16, 96>;
template [[host_name("sdpa_prefill_d192_f16")]] [[kernel]] decltype(sdpa_prefill<half, 192, 2, 2, 32, 96>)
    sdpa_prefill<half, 192, 2, 2, 32, 96>;
template [[host_name("sdpa_prefill_d192_bf16")]] [[kernel]] decltype(sdpa_prefill<bfloat, 192, 2, 2, 32, 96>)
    sdpa_prefill<bfloat, 192, 2, 2, 32, 96>;
template [[host_name("sdpa_prefill_d256_f32")]] [[kernel]] decltype(sdpa_prefill<float, 256, 2, 2, 16, 128>)
    sdpa_prefill<float, 256, 2, 2, 16, 128>;
template [[host_name("sdpa_prefill_d256_f16")]] [[kernel]] decltype(sdpa_prefill<half, 256, 2, 2, 32, 128>)
    sdpa_prefill<half, 256, 2, 2, 32, 128>;
template [[host_name("sdpa_prefill_d256_bf16")]] [[kernel]] decltype(sdpa_prefill<bfloat, 256, 2, 2, 32, 128>)
    sdpa_prefill<bfloat, 256, 2, 2, 32, 128>;
template [[host_name("sdpa_prefill_d512_f32")]] [[kernel]] decltype(sdpa_prefill<float, 512, 1, 4, 32, 64>)
    sdpa_prefill<float, 512, 1, 4, 32, 64>;
template [[host_name("sdpa_prefill_d512_f16")]] [[kernel]] decltype(sdpa_prefill<half, 512, 1, 4, 32, 64>)
    sdpa_prefill<half, 512, 1, 4, 32, 64>;
template [[host_name("sdpa_prefill_d512_bf16")]] [[kernel]] decltype(sdpa_prefill<bfloat, 512, 1, 4, 32, 64>)
    sdpa_prefill<bfloat, 512, 1, 4, 32, 64>;
