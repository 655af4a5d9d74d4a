// The experts of each token and their weights; the rules are in mod.rs.
//
// Launch: one threadgroup of 32 threads for a token.

#include <metal_stdlib>
using namespace metal;

struct RouteParams {
    uint rows;
    uint n_experts;
    uint top_k;
    uint score;
    uint n_groups;
    uint top_groups;
    uint best_of;
    uint others;
    uint normalise;
    float sum_eps;
    float factor;
    float jitter;
};

constant bool has_correction [[function_constant(0)]];

template <typename T>
[[kernel]] void route(device const T *logits [[buffer(0)]],
                      device const float *correction [[buffer(1)]],
                      device uint *ids [[buffer(2)]],
                      device T *weights [[buffer(3)]],
                      constant RouteParams &p [[buffer(4)]],
                      uint row [[threadgroup_position_in_grid]],
                      uint lane [[thread_index_in_simdgroup]]) {
    // Scores, and what the choice goes by; what is chosen becomes NaN there.
    threadgroup float scores[2048];
    threadgroup float keys[2048];
    threadgroup float groups[256];
    threadgroup float picked[64];
    device const T *own = logits + ulong(row) * p.n_experts;
    float largest = -INFINITY;
    for (uint e = lane; e < p.n_experts; e += 32) {
        largest = max(largest, float(own[e]));
    }
    largest = simd_max(largest);
    float total = 0.0f;
    if (p.score == 0) {
        for (uint e = lane; e < p.n_experts; e += 32) {
            total += precise::exp(float(own[e]) - largest);
        }
        total = simd_sum(total);
    }
    for (uint e = lane; e < p.n_experts; e += 32) {
        const float x = float(own[e]);
        float s = x;
        if (p.score == 0) {
            s = precise::exp(x - largest) / total;
        } else if (p.score == 2) {
            const float t = precise::exp(-abs(x));
            s = (x < 0.0f ? t : 1.0f) / (1.0f + t);
        } else if (p.score == 3) {
            const float t = precise::exp(-abs(x));
            const float u = 1.0f + t;
            const float log1p = u == 1.0f ? t : precise::log(u) * (t / (u - 1.0f));
            s = precise::sqrt(max(x, 0.0f) + log1p);
        }
        scores[e] = s;
        const float c = has_correction ? s + correction[e] : s;
        keys[e] = isnan(c) ? -INFINITY : c;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (p.n_groups > 1) {
        const uint size = p.n_experts / p.n_groups;
        for (uint g = lane; g < p.n_groups; g += 32) {
            float first = -INFINITY;
            float second = -INFINITY;
            for (uint i = 0; i < size; i++) {
                const float v = keys[g * size + i];
                if (v > first) {
                    second = first;
                    first = v;
                } else {
                    second = max(second, v);
                }
            }
            groups[g] = p.best_of == 2 && size > 1 ? first + second : first;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint g = lane; g < p.n_groups; g += 32) {
            uint better = 0;
            for (uint other = 0; other < p.n_groups; other++) {
                better += groups[other] > groups[g] || (groups[other] == groups[g] && other < g) ? 1 : 0;
            }
            if (better >= p.top_groups) {
                for (uint i = 0; i < size; i++) {
                    keys[g * size + i] = p.others == 0 ? 0.0f : -INFINITY;
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    for (uint j = 0; j < p.top_k; j++) {
        float best = -INFINITY;
        uint at = 0xFFFFFFFFu;
        for (uint e = lane; e < p.n_experts; e += 32) {
            const float v = keys[e];
            if (!isnan(v) && (at == 0xFFFFFFFFu || v > best)) {
                best = v;
                at = e;
            }
        }
        const float top = simd_max(best);
        const uint chosen = simd_min(at != 0xFFFFFFFFu && best == top ? at : 0xFFFFFFFFu);
        float within = 0.0f;
        if (p.score == 4) {
            for (uint e = lane; e < p.n_experts; e += 32) {
                const float v = keys[e];
                if (!isnan(v) && v > -INFINITY && !((top - v) / max(abs(v), top) > 2.0f * p.jitter)) {
                    within += precise::exp(v - top);
                }
            }
            within = simd_sum(within);
        }
        // Every lane has read the keys before one of them goes.
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (lane == 0) {
            ids[ulong(row) * p.top_k + j] = chosen;
            picked[j] = p.score == 4 ? 1.0f / within : scores[chosen];
            keys[chosen] = NAN;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (lane == 0) {
        if (p.score == 1) {
            float high = -INFINITY;
            for (uint j = 0; j < p.top_k; j++) {
                high = max(high, picked[j]);
            }
            float sum = 0.0f;
            for (uint j = 0; j < p.top_k; j++) {
                picked[j] = precise::exp(picked[j] - high);
                sum += picked[j];
            }
            for (uint j = 0; j < p.top_k; j++) {
                picked[j] /= sum;
            }
        }
        float sum = p.sum_eps;
        for (uint j = 0; j < p.top_k; j++) {
            sum += picked[j];
        }
        for (uint j = 0; j < p.top_k; j++) {
            const float w = p.normalise != 0 ? picked[j] / sum : picked[j];
            weights[ulong(row) * p.top_k + j] = T(w * p.factor);
        }
    }
}

template [[host_name("route_f32")]] [[kernel]] decltype(route<float>) route<float>;
template [[host_name("route_f16")]] [[kernel]] decltype(route<half>) route<half>;
template [[host_name("route_bf16")]] [[kernel]] decltype(route<bfloat>) route<bfloat>;
