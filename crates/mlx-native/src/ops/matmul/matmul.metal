// output[m, n] = x[m, k] * B, sums in float, rounded once. B is weight[n, k] transposed, or weight[k, n]. T: x and output,
// W: weight; what is multiplied is exact in both.

#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

struct MatmulParams {
    uint m;
    uint n;
    uint k;
};

// The weight is [n, k]. For matmul_gemm only.
constant bool transpose [[function_constant(0)]];
// Rows of x, 1 to 8. For matmul_gemv and matmul_gevm only.
constant uint rows [[function_constant(1)]];

constant constexpr uint max_rows = 8;

// weight[n, k], few rows of x.
//
// Launch: threadgroups of 64 threads, 2 simdgroups; each simdgroup has 4 rows of the weight, ceil(n / 8) groups. The
// lanes go along K together, 4 values each.
template <typename T, typename W>
[[kernel]] void matmul_gemv(device const T *x [[buffer(0)]],
                            device const W *weight [[buffer(1)]],
                            device T *output [[buffer(2)]],
                            constant MatmulParams &p [[buffer(3)]],
                            uint group [[threadgroup_position_in_grid]],
                            uint simdgroup [[simdgroup_index_in_threadgroup]],
                            uint lane [[thread_index_in_simdgroup]]) {
    constexpr uint n_rows = 4, n_values = 4;
    const uint first = (group * 2 + simdgroup) * n_rows;
    float sums[n_rows][max_rows];
    for (uint r = 0; r < n_rows; r++) {
        for (uint i = 0; i < rows; i++) {
            sums[r][i] = 0;
        }
    }
    // Rows beyond the last are read as the last, and not written.
    device const W *w[n_rows];
    for (uint r = 0; r < n_rows; r++) {
        w[r] = weight + size_t(min(first + r, p.n - 1)) * p.k;
    }
    for (uint start = 0; start < p.k; start += 32 * n_values) {
        // One test for the four values, so that the loads of a full step are unconditional.
        const uint at = start + lane * n_values;
        const uint count = at < p.k ? min(p.k - at, n_values) : 0;
        float values[max_rows][n_values];
        if (count == n_values) {
            for (uint i = 0; i < rows; i++) {
                for (uint v = 0; v < n_values; v++) {
                    values[i][v] = float(x[size_t(i) * p.k + at + v]);
                }
            }
            for (uint r = 0; r < n_rows; r++) {
                for (uint v = 0; v < n_values; v++) {
                    const float factor = float(w[r][at + v]);
                    for (uint i = 0; i < rows; i++) {
                        sums[r][i] = fma(factor, values[i][v], sums[r][i]);
                    }
                }
            }
        } else {
            for (uint v = 0; v < count; v++) {
                for (uint r = 0; r < n_rows; r++) {
                    const float factor = float(w[r][at + v]);
                    for (uint i = 0; i < rows; i++) {
                        sums[r][i] = fma(factor, float(x[size_t(i) * p.k + at + v]), sums[r][i]);
                    }
                }
            }
        }
    }
    for (uint r = 0; r < n_rows; r++) {
        for (uint i = 0; i < rows; i++) {
            const float sum = simd_sum(sums[r][i]);
            if (lane == 0 && first + r < p.n) {
                output[size_t(i) * p.n + first + r] = T(sum);
            }
        }
    }
}

// weight[k, n], few rows of x.
//
// Launch: threadgroups of 256 threads, 8 simdgroups; ceil(n / 32) groups. A lane has a column, a simdgroup every eighth
// value of K.
template <typename T, typename W>
[[kernel]] void matmul_gevm(device const T *x [[buffer(0)]],
                            device const W *weight [[buffer(1)]],
                            device T *output [[buffer(2)]],
                            constant MatmulParams &p [[buffer(3)]],
                            uint group [[threadgroup_position_in_grid]],
                            uint simdgroup [[simdgroup_index_in_threadgroup]],
                            uint lane [[thread_index_in_simdgroup]]) {
    constexpr uint n_simdgroups = 8;
    threadgroup float partial[n_simdgroups][max_rows][32];
    const uint column = group * 32 + lane;
    float sums[max_rows];
    for (uint i = 0; i < rows; i++) {
        sums[i] = 0;
    }
    if (column < p.n) {
        for (uint at = simdgroup; at < p.k; at += n_simdgroups) {
            const float factor = float(weight[size_t(at) * p.n + column]);
            for (uint i = 0; i < rows; i++) {
                sums[i] = fma(factor, float(x[size_t(i) * p.k + at]), sums[i]);
            }
        }
    }
    for (uint i = 0; i < rows; i++) {
        partial[simdgroup][i][lane] = sums[i];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // Simdgroup i adds up row i.
    if (simdgroup < rows && column < p.n) {
        float sum = 0;
        for (uint s = 0; s < n_simdgroups; s++) {
            sum += partial[s][simdgroup][lane];
        }
        output[size_t(simdgroup) * p.n + column] = T(sum);
    }
}

// Many rows: tiles of TILE x TILE through threadgroup memory, K in steps of 16. S is what is staged: T where T and W are
// the same, else float.
//
// Launch: threadgroups of 128 threads, (ceil(n / TILE), ceil(m / TILE)) groups. The 4 simdgroups have a quarter of the
// tile each.
template <typename T, typename W, typename S, uint TILE>
[[kernel]] void matmul_gemm(device const T *x [[buffer(0)]],
                            device const W *weight [[buffer(1)]],
                            device T *output [[buffer(2)]],
                            constant MatmulParams &p [[buffer(3)]],
                            uint2 group [[threadgroup_position_in_grid]],
                            uint thread_index [[thread_index_in_threadgroup]],
                            uint simdgroup [[simdgroup_index_in_threadgroup]],
                            uint lane [[thread_index_in_simdgroup]]) {
    constexpr uint n_threads = 128, depth = 16, quarter = TILE / 2, n_blocks = quarter / 8;
    // Rows of x, and rows of weight as they lie: [TILE, depth] if transposed, else [depth, TILE]. 8 more values in each row
    // keep neighbouring rows out of the same banks.
    constexpr uint x_pitch = depth + 8, w_pitch = transpose ? depth + 8 : TILE + 8;
    threadgroup S x_tile[TILE * (depth + 8)];
    threadgroup S w_tile[TILE * (depth + 8)];
    threadgroup float results[4][8 * 8];
    const uint first_row = group.y * TILE, first_column = group.x * TILE;
    const uint row = (simdgroup / 2) * quarter, column = (simdgroup % 2) * quarter;

    simdgroup_matrix<float, 8, 8> sums[n_blocks][n_blocks];
    for (uint i = 0; i < n_blocks; i++) {
        for (uint j = 0; j < n_blocks; j++) {
            sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        }
    }
    for (uint start = 0; start < p.k; start += depth) {
        for (uint e = thread_index; e < TILE * depth; e += n_threads) {
            const uint i = e / depth, v = e % depth;
            const bool is_inside = first_row + i < p.m && start + v < p.k;
            x_tile[i * x_pitch + v] = is_inside ? S(x[size_t(first_row + i) * p.k + start + v]) : S(0.0f);
        }
        for (uint e = thread_index; e < TILE * depth; e += n_threads) {
            if (transpose) {
                const uint j = e / depth, v = e % depth;
                const bool is_inside = first_column + j < p.n && start + v < p.k;
                w_tile[j * w_pitch + v] = is_inside ? S(weight[size_t(first_column + j) * p.k + start + v]) : S(0.0f);
            } else {
                const uint v = e / TILE, j = e % TILE;
                const bool is_inside = first_column + j < p.n && start + v < p.k;
                w_tile[v * w_pitch + j] = is_inside ? S(weight[size_t(start + v) * p.n + first_column + j]) : S(0.0f);
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint v = 0; v < depth; v += 8) {
            simdgroup_matrix<S, 8, 8> a[n_blocks], b[n_blocks];
            for (uint i = 0; i < n_blocks; i++) {
                simdgroup_load(a[i], x_tile + (row + i * 8) * x_pitch + v, x_pitch);
            }
            for (uint j = 0; j < n_blocks; j++) {
                if (transpose) {
                    simdgroup_load(b[j], w_tile + (column + j * 8) * w_pitch + v, w_pitch, ulong2(0), true);
                } else {
                    simdgroup_load(b[j], w_tile + v * w_pitch + column + j * 8, w_pitch);
                }
            }
            for (uint i = 0; i < n_blocks; i++) {
                for (uint j = 0; j < n_blocks; j++) {
                    simdgroup_multiply_accumulate(sums[i][j], a[i], b[j], sums[i][j]);
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    // Blocks leave through threadgroup memory: there they can be rounded, and cut off at the edges.
    threadgroup float *result = results[simdgroup];
    for (uint i = 0; i < n_blocks; i++) {
        for (uint j = 0; j < n_blocks; j++) {
            simdgroup_store(sums[i][j], result, 8);
            simdgroup_barrier(mem_flags::mem_threadgroup);
            for (uint e = lane; e < 64; e += 32) {
                const uint r = first_row + row + i * 8 + e / 8, c = first_column + column + j * 8 + e % 8;
                if (r < p.m && c < p.n) {
                    output[size_t(r) * p.n + c] = T(result[e]);
                }
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);
        }
    }
}

template [[host_name("matmul_gemv_f32_f32")]] [[kernel]] decltype(matmul_gemv<float, float>) matmul_gemv<float, float>;
template [[host_name("matmul_gemv_f32_f16")]] [[kernel]] decltype(matmul_gemv<float, half>) matmul_gemv<float, half>;
template [[host_name("matmul_gemv_f32_bf16")]] [[kernel]] decltype(matmul_gemv<float, bfloat>) matmul_gemv<float, bfloat>;
template [[host_name("matmul_gemv_f16_f32")]] [[kernel]] decltype(matmul_gemv<half, float>) matmul_gemv<half, float>;
template [[host_name("matmul_gemv_f16_f16")]] [[kernel]] decltype(matmul_gemv<half, half>) matmul_gemv<half, half>;
template [[host_name("matmul_gemv_f16_bf16")]] [[kernel]] decltype(matmul_gemv<half, bfloat>) matmul_gemv<half, bfloat>;
template [[host_name("matmul_gemv_bf16_f32")]] [[kernel]] decltype(matmul_gemv<bfloat, float>) matmul_gemv<bfloat, float>;
template [[host_name("matmul_gemv_bf16_f16")]] [[kernel]] decltype(matmul_gemv<bfloat, half>) matmul_gemv<bfloat, half>;
template [[host_name("matmul_gemv_bf16_bf16")]] [[kernel]] decltype(matmul_gemv<bfloat, bfloat>) matmul_gemv<bfloat, bfloat>;
template [[host_name("matmul_gevm_f32_f32")]] [[kernel]] decltype(matmul_gevm<float, float>) matmul_gevm<float, float>;
template [[host_name("matmul_gevm_f32_f16")]] [[kernel]] decltype(matmul_gevm<float, half>) matmul_gevm<float, half>;
template [[host_name("matmul_gevm_f32_bf16")]] [[kernel]] decltype(matmul_gevm<float, bfloat>) matmul_gevm<float, bfloat>;
template [[host_name("matmul_gevm_f16_f32")]] [[kernel]] decltype(matmul_gevm<half, float>) matmul_gevm<half, float>;
template [[host_name("matmul_gevm_f16_f16")]] [[kernel]] decltype(matmul_gevm<half, half>) matmul_gevm<half, half>;
template [[host_name("matmul_gevm_f16_bf16")]] [[kernel]] decltype(matmul_gevm<half, bfloat>) matmul_gevm<half, bfloat>;
template [[host_name("matmul_gevm_bf16_f32")]] [[kernel]] decltype(matmul_gevm<bfloat, float>) matmul_gevm<bfloat, float>;
template [[host_name("matmul_gevm_bf16_f16")]] [[kernel]] decltype(matmul_gevm<bfloat, half>) matmul_gevm<bfloat, half>;
template [[host_name("matmul_gevm_bf16_bf16")]] [[kernel]] decltype(matmul_gevm<bfloat, bfloat>) matmul_gevm<bfloat, bfloat>;
template [[host_name("matmul_gemm32_f32_f32")]] [[kernel]] decltype(matmul_gemm<float, float, float, 32>) matmul_gemm<float, float, float, 32>;
template [[host_name("matmul_gemm32_f32_f16")]] [[kernel]] decltype(matmul_gemm<float, half, float, 32>) matmul_gemm<float, half, float, 32>;
template [[host_name("matmul_gemm32_f32_bf16")]] [[kernel]] decltype(matmul_gemm<float, bfloat, float, 32>) matmul_gemm<float, bfloat, float, 32>;
template [[host_name("matmul_gemm32_f16_f32")]] [[kernel]] decltype(matmul_gemm<half, float, float, 32>) matmul_gemm<half, float, float, 32>;
template [[host_name("matmul_gemm32_f16_f16")]] [[kernel]] decltype(matmul_gemm<half, half, half, 32>) matmul_gemm<half, half, half, 32>;
template [[host_name("matmul_gemm32_f16_bf16")]] [[kernel]] decltype(matmul_gemm<half, bfloat, float, 32>) matmul_gemm<half, bfloat, float, 32>;
template [[host_name("matmul_gemm32_bf16_f32")]] [[kernel]] decltype(matmul_gemm<bfloat, float, float, 32>) matmul_gemm<bfloat, float, float, 32>;
template [[host_name("matmul_gemm32_bf16_f16")]] [[kernel]] decltype(matmul_gemm<bfloat, half, float, 32>) matmul_gemm<bfloat, half, float, 32>;
template [[host_name("matmul_gemm32_bf16_bf16")]] [[kernel]] decltype(matmul_gemm<bfloat, bfloat, bfloat, 32>) matmul_gemm<bfloat, bfloat, bfloat, 32>;
template [[host_name("matmul_gemm64_f32_f32")]] [[kernel]] decltype(matmul_gemm<float, float, float, 64>) matmul_gemm<float, float, float, 64>;
template [[host_name("matmul_gemm64_f32_f16")]] [[kernel]] decltype(matmul_gemm<float, half, float, 64>) matmul_gemm<float, half, float, 64>;
template [[host_name("matmul_gemm64_f32_bf16")]] [[kernel]] decltype(matmul_gemm<float, bfloat, float, 64>) matmul_gemm<float, bfloat, float, 64>;
template [[host_name("matmul_gemm64_f16_f32")]] [[kernel]] decltype(matmul_gemm<half, float, float, 64>) matmul_gemm<half, float, float, 64>;
template [[host_name("matmul_gemm64_f16_f16")]] [[kernel]] decltype(matmul_gemm<half, half, half, 64>) matmul_gemm<half, half, half, 64>;
template [[host_name("matmul_gemm64_f16_bf16")]] [[kernel]] decltype(matmul_gemm<half, bfloat, float, 64>) matmul_gemm<half, bfloat, float, 64>;
template [[host_name("matmul_gemm64_bf16_f32")]] [[kernel]] decltype(matmul_gemm<bfloat, float, float, 64>) matmul_gemm<bfloat, float, float, 64>;
template [[host_name("matmul_gemm64_bf16_f16")]] [[kernel]] decltype(matmul_gemm<bfloat, half, float, 64>) matmul_gemm<bfloat, half, float, 64>;
template [[host_name("matmul_gemm64_bf16_bf16")]] [[kernel]] decltype(matmul_gemm<bfloat, bfloat, bfloat, 64>) matmul_gemm<bfloat, bfloat, bfloat, 64>;
