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
