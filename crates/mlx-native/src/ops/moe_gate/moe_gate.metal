// The routing of tokens to experts.
//
//   moe_route:    the top_k experts of the largest logits, the lowest index of equals first;
//                 weights = softmax over these, * scale of the expert, and, if asked for, divided by their sum
//   moe_gate:     the same, the logits being router . (x / sqrt(mean(x^2) + eps) * norm_weight)
//   weigh_sorted: the same, of probabilities whose order is known
//
// A NaN counts as larger than everything. Sums that are 0 divide nothing.
//
// Launch: moe_route and moe_gate: one threadgroup for a token, any number of whole simdgroups up to 32. weigh_sorted: one
// thread for a token.

#include <metal_stdlib>
using namespace metal;

struct RouteParams {
    uint n_tokens;
    uint n_experts;
    uint top_k;
    uint normalize;
};

struct GateParams {
    RouteParams route;
    uint hidden;
    float eps;
};

constant bool has_scale [[function_constant(0)]];

// Ordered as the values are, -0 equal to 0, all NaN equal and on top; never 0.
inline uint order_key(float value) {
    const uint bits = as_type<uint>(value);
    const uint magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) {
        return 0xFFFFFFFF;
    }
    return bits == magnitude ? 0x80000000 + magnitude : 0x80000000 - magnitude;
}

// Turns the exponentials, or probabilities, in weights[0 .. top_k] into weights. By one thread.
inline void finish(device const uint *ids, device float *weights, device const float *scale, RouteParams p) {
    float sum = 0.0f;
    for (uint k = 0; k < p.top_k; k++) {
        sum += weights[k];
    }
    float scaled = 0.0f;
    for (uint k = 0; k < p.top_k; k++) {
        float w = sum == 0.0f ? 0.0f : weights[k] / sum;
        if (has_scale) {
            w *= ids[k] < p.n_experts ? scale[ids[k]] : 0.0f;
        }
        weights[k] = w;
        scaled += w;
    }
    if (p.normalize != 0 && scaled > 0.0f) {
        for (uint k = 0; k < p.top_k; k++) {
            weights[k] /= scaled;
        }
    }
}

// By a whole threadgroup.
inline void route(device const float *logits,
                  device const float *scale,
                  device uint *ids,
                  device float *weights,
                  RouteParams p,
                  threadgroup uint *keys,
                  threadgroup uint *indices,
                  uint thread_index,
                  uint n_threads,
                  uint simdgroup,
                  uint n_simdgroups,
                  uint lane) {
    uint bound_key = 0, bound_index = 0;
    float shift = 0.0f;
    for (uint k = 0; k < p.top_k; k++) {
        // The best of those behind the last one that was chosen.
        uint best = 0, index = 0xFFFFFFFF;
        for (uint e = thread_index; e < p.n_experts; e += n_threads) {
            const uint key = order_key(logits[e]);
            const bool is_behind = k == 0 || key < bound_key || (key == bound_key && e > bound_index);
            if (is_behind && key > best) {
                best = key;
                index = e;
            }
        }
        const uint simd_best = simd_max(best);
        const uint simd_index = simd_min(best == simd_best ? index : 0xFFFFFFFF);
        if (lane == 0) {
            keys[simdgroup] = simd_best;
            indices[simdgroup] = simd_index;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint key = lane < n_simdgroups ? keys[lane] : 0;
        bound_key = simd_max(key);
        bound_index = simd_min(lane < n_simdgroups && key == bound_key ? indices[lane] : 0xFFFFFFFF);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (thread_index == 0) {
            const float logit = logits[bound_index];
            if (k == 0) {
                shift = logit == -INFINITY ? 0.0f : logit;
            }
            ids[k] = bound_index;
            weights[k] = precise::exp(logit - shift);
        }
    }
    if (thread_index == 0) {
        finish(ids, weights, scale, p);
    }
}

[[kernel]] void moe_route(device const float *logits [[buffer(0)]],
                          device const float *scale [[buffer(1), function_constant(has_scale)]],
                          device uint *ids [[buffer(2)]],
                          device float *weights [[buffer(3)]],
                          constant RouteParams &p [[buffer(4)]],
                          uint token [[threadgroup_position_in_grid]],
                          uint thread_index [[thread_index_in_threadgroup]],
                          uint n_threads [[threads_per_threadgroup]],
                          uint simdgroup [[simdgroup_index_in_threadgroup]],
                          uint n_simdgroups [[simdgroups_per_threadgroup]],
                          uint lane [[thread_index_in_simdgroup]]) {
    threadgroup uint keys[32];
    threadgroup uint indices[32];
    route(logits + ulong(token) * p.n_experts, scale, ids + ulong(token) * p.top_k, weights + ulong(token) * p.top_k, p,
          keys, indices, thread_index, n_threads, simdgroup, n_simdgroups, lane);
}

template <typename T>
[[kernel]] void moe_gate(device const T *x [[buffer(0)]],
                         device const float *router [[buffer(1)]],
                         device const float *norm_weight [[buffer(2)]],
                         device const float *scale [[buffer(3), function_constant(has_scale)]],
                         device uint *ids [[buffer(4)]],
                         device float *weights [[buffer(5)]],
                         device float *logits [[buffer(6)]],
                         constant GateParams &p [[buffer(7)]],
                         uint token [[threadgroup_position_in_grid]],
                         uint thread_index [[thread_index_in_threadgroup]],
                         uint n_threads [[threads_per_threadgroup]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint n_simdgroups [[simdgroups_per_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]]) {
    threadgroup uint keys[32];
    threadgroup uint indices[32];
    const ulong start = ulong(token) * p.hidden;
    device float *own = logits + ulong(token) * p.route.n_experts;
    // Every simdgroup takes the sum itself: it is short, and saves a barrier.
    float squares = 0.0f;
    for (uint i = lane; i < p.hidden; i += 32) {
        const float v = float(x[start + i]);
        squares += v * v;
    }
    const float inverse = precise::rsqrt(simd_sum(squares) / float(p.hidden) + p.eps);
    for (uint e = simdgroup; e < p.route.n_experts; e += n_simdgroups) {
        float sum = 0.0f;
        for (uint i = lane; i < p.hidden; i += 32) {
            sum += float(x[start + i]) * inverse * norm_weight[i] * router[ulong(e) * p.hidden + i];
        }
        sum = simd_sum(sum);
        if (lane == 0) {
            own[e] = sum;
        }
    }
    threadgroup_barrier(mem_flags::mem_device);
    const ulong out = ulong(token) * p.route.top_k;
    route(own, scale, ids + out, weights + out, p.route, keys, indices, thread_index, n_threads, simdgroup, n_simdgroups,
          lane);
}

[[kernel]] void weigh_sorted(device const float *probabilities [[buffer(0)]],
                             device const uint *sorted [[buffer(1)]],
                             device const float *scale [[buffer(2), function_constant(has_scale)]],
                             device uint *ids [[buffer(3)]],
                             device float *weights [[buffer(4)]],
                             constant RouteParams &p [[buffer(5)]],
                             uint token [[thread_position_in_grid]]) {
    const ulong in = ulong(token) * p.n_experts;
    device uint *own_ids = ids + ulong(token) * p.top_k;
    device float *own = weights + ulong(token) * p.top_k;
    for (uint k = 0; k < p.top_k; k++) {
        const uint id = sorted[in + k];
        own_ids[k] = id;
        own[k] = id < p.n_experts ? probabilities[in + id] : 0.0f;
    }
    finish(own_ids, own, scale, p);
}

template [[host_name("moe_gate_f32")]] [[kernel]] decltype(moe_gate<float>) moe_gate<float>;
template [[host_name("moe_gate_f16")]] [[kernel]] decltype(moe_gate<half>) moe_gate<half>;
template [[host_name("moe_gate_bf16")]] [[kernel]] decltype(moe_gate<bfloat>) moe_gate<bfloat>;
