// A linear recurrence over the tokens of a step; the rules are in mod.rs.
//
// Launch: threadgroups (v_dim / 4 rounded up, n_heads) of 128 threads: one simdgroup for a row of a head's state, its
// elements 32 apart in the lanes' registers from the first token to the last.

#include <metal_stdlib>
using namespace metal;

struct LinearScanParams {
    uint rows;
    uint n_heads;
    uint n_k_heads;
    uint k_dim;
    uint v_dim;
    uint q_stride;
    uint k_stride;
    uint v_stride;
};

constant uint RULE [[function_constant(0)]];
constant uint DECAY [[function_constant(1)]];

template <typename T>
[[kernel]] void linear_scan(device const T *q [[buffer(0)]],
                            device const T *k [[buffer(1)]],
                            device const T *v [[buffer(2)]],
                            device const float *decay [[buffer(3)]],
                            device const float *rates [[buffer(4)]],
                            device const float *first [[buffer(5)]],
                            device const float *second [[buffer(6)]],
                            device float *state [[buffer(7)]],
                            device T *output [[buffer(8)]],
                            constant LinearScanParams &p [[buffer(9)]],
                            uint2 group [[threadgroup_position_in_grid]],
                            uint lane [[thread_index_in_simdgroup]],
                            uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    const uint head = group.y;
    const uint row = group.x * 4 + simdgroup;
    if (row >= p.v_dim) {
        return;
    }
    const uint k_head = head / (p.n_heads / p.n_k_heads);
    device float *own = state + (ulong(head) * p.v_dim + row) * p.k_dim;
    float s[16];
    for (uint j = 0; j < 16; j++) {
        const uint i = j * 32 + lane;
        s[j] = i < p.k_dim ? own[i] : 0.0f;
    }
    for (uint t = 0; t < p.rows; t++) {
        device const T *q_row = q + ulong(t) * p.q_stride + ulong(k_head) * p.k_dim;
        device const T *k_row = k + ulong(t) * p.k_stride + ulong(k_head) * p.k_dim;
        const float value = float(v[ulong(t) * p.v_stride + ulong(head) * p.v_dim + row]);
        const ulong at_head = ulong(t) * p.n_heads + head;
        const ulong at_channel = at_head * p.k_dim;
        // What the state answers to a key before it is decayed (LowRank) or after (Delta).
        float answer = 0.0f;
        for (uint j = 0; j * 32 < p.k_dim; j++) {
            const uint i = j * 32 + lane;
            if (i < p.k_dim) {
                if (RULE == 2) {
                    answer += s[j] * first[at_channel + i];
                }
                const float g = DECAY == 1   ? decay[at_channel + i]
                                : DECAY == 2 ? precise::exp(decay[at_head] * rates[ulong(head) * p.k_dim + i])
                                             : decay[at_head];
                s[j] *= g;
                if (RULE == 1) {
                    answer += s[j] * float(k_row[i]);
                }
            }
        }
        float added = value;
        if (RULE != 0) {
            answer = simd_sum(answer);
        }
        if (RULE == 1) {
            added = first[at_head] * (value - answer);
        }
        float sum = 0.0f;
        for (uint j = 0; j * 32 < p.k_dim; j++) {
            const uint i = j * 32 + lane;
            if (i < p.k_dim) {
                s[j] += added * float(k_row[i]);
                if (RULE == 2) {
                    s[j] += answer * second[at_channel + i];
                }
                sum += s[j] * float(q_row[i]);
            }
        }
        sum = simd_sum(sum);
        if (lane == 0) {
            output[at_head * p.v_dim + row] = T(sum);
        }
    }
    for (uint j = 0; j < 16; j++) {
        const uint i = j * 32 + lane;
        if (i < p.k_dim) {
            own[i] = s[j];
        }
    }
}

template [[host_name("linear_scan_f32")]] [[kernel]] decltype(linear_scan<float>) linear_scan<float>;
template [[host_name("linear_scan_f16")]] [[kernel]] decltype(linear_scan<half>) linear_scan<half>;
template [[host_name("linear_scan_bf16")]] [[kernel]] decltype(linear_scan<bfloat>) linear_scan<bfloat>;
