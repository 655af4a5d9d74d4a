// output[r, c] = exp(x[r, c] - max of row r) / sum of those; in float, rounded once. A row of -infinity gives zeros.
//
// Launch: one threadgroup for a row, of up to 1024 threads, whole simdgroups. `output` may be `x`: each element is read
// and written by one thread.

#include <metal_stdlib>
using namespace metal;

struct SoftmaxParams {
    uint rows;
    uint cols;
};

// in place: softmax(output = x)
template <typename T>
[[kernel]] void softmax(device const T *x [[buffer(0)]],
                        device T *output [[buffer(1)]],
                        constant SoftmaxParams &p [[buffer(2)]],
                        uint row [[threadgroup_position_in_grid]],
                        uint thread_index [[thread_index_in_threadgroup]],
                        uint n_threads [[threads_per_threadgroup]],
                        uint simdgroup [[simdgroup_index_in_threadgroup]],
                        uint n_simdgroups [[simdgroups_per_threadgroup]],
                        uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float maxima[32];
    threadgroup float sums[32];
    const size_t start = size_t(row) * p.cols;

    float largest = -INFINITY;
    for (uint c = thread_index; c < p.cols; c += n_threads) {
        largest = max(largest, float(x[start + c]));
    }
    largest = simd_max(largest);
    if (lane == 0) {
        maxima[simdgroup] = largest;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    largest = simd_max(lane < n_simdgroups ? maxima[lane] : -INFINITY);
    // NaN is no maximum; exp makes it one of the sum. And -infinity less itself would be NaN.
    const float shift = largest == -INFINITY ? 0.0f : largest;

    float sum = 0;
    for (uint c = thread_index; c < p.cols; c += n_threads) {
        sum += precise::exp(float(x[start + c]) - shift);
    }
    sum = simd_sum(sum);
    if (lane == 0) {
        sums[simdgroup] = sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum = simd_sum(lane < n_simdgroups ? sums[lane] : 0.0f);

    const float factor = sum == 0 ? 0.0f : 1.0f / sum;
    for (uint c = thread_index; c < p.cols; c += n_threads) {
        output[start + c] = T(precise::exp(float(x[start + c]) - shift) * factor);
    }
}

template [[host_name("softmax_f32")]] [[kernel]] decltype(softmax<float>) softmax<float>;
template [[host_name("softmax_f16")]] [[kernel]] decltype(softmax<half>) softmax<half>;
template [[host_name("softmax_bf16")]] [[kernel]] decltype(softmax<bfloat>) softmax<bfloat>;
