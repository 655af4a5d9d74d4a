// Walsh-Hadamard transform of rows, natural order: output[row] = H x[row] * scale.
//
// Stages of ascending distance, one product with the scale at the end: the order of the sums is that of the bodies for the
// CPU, so that results are equal to the bit.
//
// Launch: one threadgroup for a row, any number of threads; threadgroup memory 0 holds the row in f32. `output` may be `x`.

#include <metal_stdlib>
using namespace metal;

struct HadamardParams {
    uint rows;
    uint dim;
    float scale;
};

// in place: hadamard(output = x)
template <typename T>
[[kernel]] void hadamard(device const T *x [[buffer(0)]],
                         device T *output [[buffer(1)]],
                         constant HadamardParams &p [[buffer(2)]],
                         threadgroup float *values [[threadgroup(0)]],
                         uint row [[threadgroup_position_in_grid]],
                         uint thread_index [[thread_index_in_threadgroup]],
                         uint n_threads [[threads_per_threadgroup]]) {
    const ulong start = ulong(row) * p.dim;
    for (uint i = thread_index; i < p.dim; i += n_threads) {
        values[i] = float(x[start + i]);
    }
    for (uint distance = 1; distance < p.dim; distance *= 2) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint pair = thread_index; pair < p.dim / 2; pair += n_threads) {
            const uint first = pair / distance * 2 * distance + pair % distance;
            const float a = values[first];
            const float b = values[first + distance];
            values[first] = a + b;
            values[first + distance] = a - b;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = thread_index; i < p.dim; i += n_threads) {
        output[start + i] = T(values[i] * p.scale);
    }
}

template [[host_name("hadamard_f32")]] [[kernel]] decltype(hadamard<float>) hadamard<float>;
template [[host_name("hadamard_f16")]] [[kernel]] decltype(hadamard<half>) hadamard<half>;
template [[host_name("hadamard_bf16")]] [[kernel]] decltype(hadamard<bfloat>) hadamard<bfloat>;
