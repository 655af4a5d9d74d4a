// A token drawn from softmax(logits / temperature): the first whose cumulative probability reaches `random`, and its
// logarithm. `probabilities` keeps the softmax.
//
// Launch: one threadgroup of up to 1024 threads, whole simdgroups.

#include <metal_stdlib>
using namespace metal;

struct SoftmaxSampleParams {
    uint n_elements;
    float temperature;
    float random;
};

[[kernel]] void softmax_sample_f32(device const float *logits [[buffer(0)]],
                                   device float *probabilities [[buffer(1)]],
                                   device uint *token [[buffer(2)]],
                                   device float *logprob [[buffer(3)]],
                                   constant SoftmaxSampleParams &p [[buffer(4)]],
                                   uint thread_index [[thread_index_in_threadgroup]],
                                   uint n_threads [[threads_per_threadgroup]],
                                   uint lane [[thread_index_in_simdgroup]],
                                   uint simdgroup [[simdgroup_index_in_threadgroup]],
                                   uint n_simdgroups [[simdgroups_per_threadgroup]]) {
    threadgroup float maxima[32];
    threadgroup float sums[32];
    threadgroup float masses[1024];
    threadgroup uint last[32];
    // Each thread has a stretch of neighbours, so that sums go in the order of the tokens.
    const uint stretch = (p.n_elements + n_threads - 1) / n_threads;
    const uint first = min(p.n_elements, thread_index * stretch);
    const uint end = min(p.n_elements, first + stretch);
    const float inverse = 1.0f / p.temperature;

    float largest = -INFINITY;
    for (uint i = first; i < end; i++) {
        largest = max(largest, logits[i] * inverse);
    }
    largest = simd_max(largest);
    if (lane == 0) {
        maxima[simdgroup] = largest;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    largest = simd_max(lane < n_simdgroups ? maxima[lane] : -INFINITY);
    const float shift = largest == -INFINITY ? 0.0f : largest;

    float sum = 0.0f;
    for (uint i = first; i < end; i++) {
        const float e = precise::exp(logits[i] * inverse - shift);
        probabilities[i] = e;
        sum += e;
    }
    sum = simd_sum(sum);
    if (lane == 0) {
        sums[simdgroup] = sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum = simd_sum(lane < n_simdgroups ? sums[lane] : 0.0f);

    float mass = 0.0f;
    uint last_possible = 0;
    for (uint i = first; i < end; i++) {
        const float probability = probabilities[i] / sum;
        probabilities[i] = probability;
        mass += probability;
        last_possible = probability > 0.0f ? i + 1 : last_possible;
    }
    masses[thread_index] = mass;
    last_possible = simd_max(last_possible);
    if (lane == 0) {
        last[simdgroup] = last_possible;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
    if (thread_index != 0) {
        return;
    }
    // The stretch in which the sum gets there, then the token in it.
    float below = 0.0f;
    uint found = 0;
    while (found < n_threads && below + masses[found] < p.random) {
        below += masses[found];
        found++;
    }
    for (uint i = 0; i < n_simdgroups; i++) {
        last_possible = max(last_possible, last[i]);
    }
    uint chosen = last_possible == 0 ? p.n_elements - 1 : last_possible - 1;
    for (uint i = min(p.n_elements, found * stretch); i < p.n_elements; i++) {
        below += probabilities[i];
        if (probabilities[i] > 0.0f && below >= p.random) {
            chosen = i;
            break;
        }
    }
    token[0] = chosen;
    logprob[0] = precise::log(probabilities[chosen]);
}
