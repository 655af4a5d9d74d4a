// output[r] = the index of the largest of x[r, ..]: the lowest of equals; NaN is larger than everything. With values, values[r] is
// the element itself, and NaN counts as -infinity.
//
// Launch: one threadgroup for a row, of up to 1024 threads, whole simdgroups.

#include <metal_stdlib>
using namespace metal;

struct ArgmaxParams {
    uint rows;
    uint cols;
};

constant bool has_values_given [[function_constant(0)]];
constant bool has_values = is_function_constant_defined(has_values_given) ? has_values_given : false;

// Ordered as the values are, -0 equal to 0, all NaN equal and on top; never 0.
inline uint order_key(float value) {
    const uint bits = as_type<uint>(value);
    const uint magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) {
        return 0xFFFFFFFF;
    }
    return bits == magnitude ? 0x80000000 + magnitude : 0x80000000 - magnitude;
}

template <typename T>
[[kernel]] void argmax(device const T *x [[buffer(0)]],
                       device uint *output [[buffer(1)]],
                       constant ArgmaxParams &p [[buffer(2)]],
                       device float *values [[buffer(3), function_constant(has_values)]],
                       uint row [[threadgroup_position_in_grid]],
                       uint thread_index [[thread_index_in_threadgroup]],
                       uint n_threads [[threads_per_threadgroup]],
                       uint simdgroup [[simdgroup_index_in_threadgroup]],
                       uint n_simdgroups [[simdgroups_per_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]]) {
    threadgroup uint keys[32];
    threadgroup uint indices[32];
    const size_t start = size_t(row) * p.cols;
    uint best = 0, index = 0xFFFFFFFF;
    // Columns ascend, so the first of a thread's equals is the lowest.
    for (uint c = thread_index; c < p.cols; c += n_threads) {
        const float value = float(x[start + c]);
        const uint key = order_key(has_values && isnan(value) ? -INFINITY : value);
        if (key > best) {
            best = key;
            index = c;
        }
    }
    const uint simd_best = simd_max(best);
    const uint simd_index = simd_min(best == simd_best ? index : 0xFFFFFFFF);
    if (lane == 0) {
        keys[simdgroup] = simd_best;
        indices[simdgroup] = simd_index;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simdgroup == 0) {
        const uint key = lane < n_simdgroups ? keys[lane] : 0;
        const uint largest = simd_max(key);
        const uint lowest = simd_min(lane < n_simdgroups && key == largest ? indices[lane] : 0xFFFFFFFF);
        if (lane == 0) {
            output[row] = lowest;
            if (has_values) {
                const float value = float(x[start + lowest]);
                values[row] = isnan(value) ? -INFINITY : value;
            }
        }
    }
}

template [[host_name("argmax_f32")]] [[kernel]] decltype(argmax<float>) argmax<float>;
template [[host_name("argmax_f16")]] [[kernel]] decltype(argmax<half>) argmax<half>;
template [[host_name("argmax_bf16")]] [[kernel]] decltype(argmax<bfloat>) argmax<bfloat>;
