// output = x * W' (+ bias) or x * W, with W in any format: weight.h reads it. x and output are of the dtype X_TYPE; sums are
// in float, outputs are rounded once.
//
// Names: linear_mv_<format> and linear_mm_<format>. Launch shapes are in threadgroups:
//   linear_mv  W [n, k], ROWS rows of x together:  64 * K_PARTS threads, grid (n / 8 up, m / ROWS up)
//   linear_mm  W [n, k], or [k, n] if PLAIN:      128 threads, grid (n / 32 up, m / 32 up)
// With GATHERED, W is [experts, n, k], row i of the output is made with matrix ids[i], and of row chosen[i] of x (CHOSEN) or
// row i / rows_per_x; it is zeros where there is no such matrix or row. linear_mv then takes one row at a time.

#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

#include "weight.h"

// The dtype of x, bias and output.
constant uint X_TYPE [[function_constant(0)]];
// Rows of x that share each read of W: 1, 2 or 4. For linear_mv only.
constant uint ROWS [[function_constant(4)]];
constant bool GATHERED [[function_constant(5)]];
constant bool CHOSEN [[function_constant(6)]];
constant bool BIASED [[function_constant(7)]];
// Whether W is [k, n]. For linear_mm only.
constant bool PLAIN [[function_constant(8)]];
// Whether rows of x are at multiples of 16 bytes and of whole runs. Bodies of linear_mm for tensor cores ask it too.
constant bool WIDE_X [[function_constant(10)]];
// Simdgroups that share outputs: 1, 2 or 4. For linear_mv only.
constant uint K_PARTS [[function_constant(11)]];

struct LinearShape {
    uint m;
    uint n;
    uint k;
    uint experts;
    uint x_rows;
    uint rows_per_x;
    uint codes_stride;
    uint scales_stride;
};

// --- few rows of x ---------------------------------------------------------------------------------------------------

// A simdgroup makes OUT_ROWS outputs for each of ROWS rows of x. Each lane takes a run of a row of W at a time, and the
// elements of x that belong to it; these are read once for all OUT_ROWS. The sum of code * scale + bias times x is
// scale * sum(code * x) + bias * sum(x). Codes may come spread; x carries the inverse power of two instead.
//
// K_PARTS simdgroups share outputs, and take turns at the runs: where there are few outputs, more loads are on their way.
// Their sums are added in ascending order.
constant constexpr uint OUT_ROWS = 4;
constant constexpr uint SIMDGROUPS = 2;
constant constexpr uint LANES = 32;
constant constexpr uint MAX_ROWS = 4;
constant constexpr uint MAX_K_PARTS = 4;

// The run of x at `start`, of which `count` elements are inside the row.
inline void read_x(device const uchar *x, size_t start, uint count, thread float *values) {
    if (WIDE_X) {
        wide_floats_at<RUN>(x, X_TYPE, start, values);
        return;
    }
    #pragma unroll
    for (uint i = 0; i < RUN; i++) {
        values[i] = i < count ? float_at(x, X_TYPE, start + i) : 0.0f;
    }
}

template <typename F>
[[kernel]] void linear_mv(device const uchar *x [[buffer(0)]],
                          device const uchar *codes [[buffer(1)]],
                          device const uchar *scales [[buffer(2)]],
                          device const uchar *biases [[buffer(3)]],
                          device uchar *output [[buffer(4)]],
                          constant LinearShape &p [[buffer(5)]],
                          device const uint *ids [[buffer(6), function_constant(GATHERED)]],
                          device const uint *chosen [[buffer(7), function_constant(CHOSEN)]],
                          device const uchar *bias [[buffer(8), function_constant(BIASED)]],
                          uint2 group [[threadgroup_position_in_grid]],
                          uint simdgroup [[simdgroup_index_in_threadgroup]],
                          uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float parts[SIMDGROUPS * MAX_K_PARTS * MAX_ROWS * OUT_ROWS];
    const uint k_part = simdgroup % K_PARTS;
    const uint first_out = (group.x * SIMDGROUPS + simdgroup / K_PARTS) * OUT_ROWS;
    const uint first_row = group.y * ROWS;
    uint expert = 0;
    if (GATHERED) {
        expert = ids[first_row];
    }
    // Rows beyond the last repeat it; nothing is stored for them.
    size_t x_start[MAX_ROWS];
    bool is_there = first_out < p.n && expert < p.experts;
    #pragma unroll
    for (uint r = 0; r < ROWS; r++) {
        const uint row = min(first_row + r, p.m - 1);
        uint x_row = row / p.rows_per_x;
        if (CHOSEN) {
            x_row = chosen[row];
        }
        is_there = is_there && x_row < p.x_rows;
        x_start[r] = size_t(x_row) * p.k;
    }
    float total[MAX_ROWS][OUT_ROWS];
    #pragma unroll
    for (uint r = 0; r < ROWS; r++) {
        #pragma unroll
        for (uint o = 0; o < OUT_ROWS; o++) {
            total[r][o] = 0;
        }
    }
    const uint length = is_there ? p.k : 0;
    for (uint k = (k_part * LANES + lane) * RUN; k < length; k += K_PARTS * LANES * RUN) {
        const uint count = F::WHOLE ? RUN : min(RUN, p.k - k);
        F w[OUT_ROWS];
        bool is_plain = true;
        #pragma unroll
        for (uint o = 0; o < OUT_ROWS; o++) {
            w[o].read(weight_row(codes, scales, biases, expert, p.n, min(first_out + o, p.n - 1), p.codes_stride,
                                 p.scales_stride),
                      k, count);
            is_plain = is_plain && is_finite(w[o].scale);
        }
        float values[MAX_ROWS][RUN];
        float sum[MAX_ROWS];
        #pragma unroll
        for (uint r = 0; r < ROWS; r++) {
            read_x(x, x_start[r] + k, count, values[r]);
            sum[r] = 0;
            #pragma unroll
            for (uint i = 0; i < RUN; i++) {
                sum[r] += values[r][i];
                values[r][i] *= F::gather(i);
            }
            is_plain = is_plain && is_finite(sum[r]);
        }
        if (is_plain) {
            #pragma unroll
            for (uint o = 0; o < OUT_ROWS; o++) {
                float dot[MAX_ROWS];
                #pragma unroll
                for (uint r = 0; r < ROWS; r++) {
                    dot[r] = 0;
                }
                #pragma unroll
                for (uint i = 0; i < RUN; i++) {
                    const float code = w[o].spread(i);
                    #pragma unroll
                    for (uint r = 0; r < ROWS; r++) {
                        dot[r] += code * values[r][i];
                    }
                }
                #pragma unroll
                for (uint r = 0; r < ROWS; r++) {
                    total[r][o] += w[o].scale * dot[r];
                    if (F::HAS_BIAS) {
                        total[r][o] += w[o].bias * sum[r];
                    }
                }
            }
        } else {
            // Infinities meet the weight itself, not its parts.
            #pragma unroll
            for (uint o = 0; o < OUT_ROWS; o++) {
                #pragma unroll
                for (uint r = 0; r < ROWS; r++) {
                    float dot = 0;
                    #pragma unroll
                    for (uint i = 0; i < RUN; i++) {
                        dot += i < count ? w[o].weight(i) * (values[r][i] / F::gather(i)) : 0.0f;
                    }
                    total[r][o] += dot;
                }
            }
        }
    }
    #pragma unroll
    for (uint r = 0; r < ROWS; r++) {
        #pragma unroll
        for (uint o = 0; o < OUT_ROWS; o++) {
            total[r][o] = simd_sum(total[r][o]);
        }
    }
    if (K_PARTS > 1) {
        const uint part = simdgroup * MAX_ROWS * OUT_ROWS;
        #pragma unroll
        for (uint r = 0; r < ROWS; r++) {
            #pragma unroll
            for (uint o = 0; o < OUT_ROWS; o++) {
                if (lane == 0) {
                    parts[part + r * OUT_ROWS + o] = total[r][o];
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        #pragma unroll
        for (uint r = 0; r < ROWS; r++) {
            #pragma unroll
            for (uint o = 0; o < OUT_ROWS; o++) {
                total[r][o] = 0;
                for (uint i = 0; i < K_PARTS; i++) {
                    const uint of_part = (simdgroup - k_part + i) * MAX_ROWS * OUT_ROWS;
                    total[r][o] += parts[of_part + r * OUT_ROWS + o];
                }
            }
        }
    }
    #pragma unroll
    for (uint r = 0; r < ROWS; r++) {
        #pragma unroll
        for (uint o = 0; o < OUT_ROWS; o++) {
            float value = total[r][o];
            if (k_part == 0 && lane == 0 && first_row + r < p.m && first_out + o < p.n) {
                if (BIASED && expert < p.experts) {
                    value += float_at(bias, X_TYPE, size_t(expert) * p.n + first_out + o);
                }
                put_float(output, X_TYPE, size_t(first_row + r) * p.n + first_out + o, value);
            }
        }
    }
}

// --- many rows of x --------------------------------------------------------------------------------------------------

// A threadgroup of 4 simdgroups makes TILE x TILE outputs, DEPTH elements of k at a time: x and the weights go to threadgroup
// memory, with zeros beyond m, n and k; each simdgroup multiplies one quarter, 2 x 2 matrices of 8 x 8. Each thread fills one
// run of each tile.
constant constexpr uint TILE = 32;
constant constexpr uint DEPTH = 64;
// Elements from one row of a tile to the next: not a power of two, for the sake of the memory banks.
constant constexpr uint K_STRIDE = DEPTH + 4;
constant constexpr uint N_STRIDE = TILE + 4;

// Fills a run of the tile of weights from element `column` of a row of `length`, or with zeros.
template <typename F>
inline void fill_weights(threadgroup float *run, WeightRow row, bool inside, uint column, uint length) {
    if (!inside || column >= length) {
        for (uint i = 0; i < RUN; i++) {
            run[i] = 0;
        }
        return;
    }
    F w;
    w.read(row, column, F::WHOLE ? RUN : min(RUN, length - column));
    for (uint i = 0; i < RUN; i++) {
        run[i] = w.weight(i);
    }
}

template <typename F>
[[kernel]] void linear_mm(device const uchar *x [[buffer(0)]],
                          device const uchar *codes [[buffer(1)]],
                          device const uchar *scales [[buffer(2)]],
                          device const uchar *biases [[buffer(3)]],
                          device uchar *output [[buffer(4)]],
                          constant LinearShape &p [[buffer(5)]],
                          device const uint *ids [[buffer(6), function_constant(GATHERED)]],
                          device const uint *chosen [[buffer(7), function_constant(CHOSEN)]],
                          device const uchar *bias [[buffer(8), function_constant(BIASED)]],
                          uint2 group [[threadgroup_position_in_grid]],
                          uint thread_index [[thread_index_in_threadgroup]],
                          uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    threadgroup float x_tile[TILE * K_STRIDE];
    threadgroup float w_tile[DEPTH * N_STRIDE];
    const uint first_column = group.x * TILE;
    const uint first_row = group.y * TILE;
    const uint end_row = min(first_row + TILE, p.m);
    // The thread's run in the tile of x, and in a tile of transposed weights.
    const uint row = thread_index / 4;
    const uint run = thread_index % 4 * RUN;
    const uint quarter_row = simdgroup / 2 * 16;
    const uint quarter_column = simdgroup % 2 * 16;
    uint x_row = 0;
    if (first_row + row < p.m) {
        x_row = (first_row + row) / p.rows_per_x;
        if (CHOSEN) {
            x_row = chosen[first_row + row];
        }
    }

    // Rows that follow each other and meet the same matrix are multiplied together, the others of the tile being zeros.
    uint end = first_row;
    for (uint begin = first_row; begin < end_row; begin = end) {
        uint expert = 0;
        end = end_row;
        if (GATHERED) {
            expert = ids[begin];
            end = begin + 1;
            while (end < end_row && ids[end] == expert) {
                end++;
            }
        }
        const bool is_mine = first_row + row >= begin && first_row + row < end && x_row < p.x_rows;
        const uint length = expert < p.experts ? p.k : 0;
        simdgroup_matrix<float, 8, 8> total[2][2];
        for (uint i = 0; i < 2; i++) {
            for (uint j = 0; j < 2; j++) {
                total[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
            }
        }
        for (uint k = 0; k < length; k += DEPTH) {
            for (uint i = 0; i < RUN; i++) {
                const bool inside = is_mine && k + run + i < p.k;
                x_tile[row * K_STRIDE + run + i] =
                    inside ? float_at(x, X_TYPE, size_t(x_row) * p.k + k + run + i) : 0.0f;
            }
            if (PLAIN) {
                // Rows of the tile are rows of W.
                const uint w_row = k + thread_index / 2;
                const uint w_run = thread_index % 2 * RUN;
                fill_weights<F>(w_tile + thread_index / 2 * N_STRIDE + w_run,
                                weight_row(codes, scales, biases, 0, p.k, w_row, p.codes_stride, p.scales_stride),
                                w_row < p.k, first_column + w_run, p.n);
            } else {
                // Rows of the tile are rows of W: columns of the output.
                const uint w_row = first_column + row;
                fill_weights<F>(w_tile + row * K_STRIDE + run,
                                weight_row(codes, scales, biases, expert, p.n, w_row, p.codes_stride, p.scales_stride),
                                w_row < p.n, k + run, p.k);
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            for (uint step = 0; step < DEPTH; step += 8) {
                simdgroup_matrix<float, 8, 8> a[2];
                simdgroup_matrix<float, 8, 8> b[2];
                for (uint i = 0; i < 2; i++) {
                    simdgroup_load(a[i], x_tile + (quarter_row + 8 * i) * K_STRIDE + step, K_STRIDE);
                    if (PLAIN) {
                        simdgroup_load(b[i], w_tile + step * N_STRIDE + quarter_column + 8 * i, N_STRIDE);
                    } else {
                        simdgroup_load(b[i], w_tile + (quarter_column + 8 * i) * K_STRIDE + step, K_STRIDE,
                                       ulong2(0, 0), true);
                    }
                }
                for (uint i = 0; i < 2; i++) {
                    for (uint j = 0; j < 2; j++) {
                        simdgroup_multiply_accumulate(total[i][j], a[i], b[j], total[i][j]);
                    }
                }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        // Through the tile of x, which is no longer needed, to rounded outputs inside m and n.
        for (uint i = 0; i < 2; i++) {
            for (uint j = 0; j < 2; j++) {
                simdgroup_store(total[i][j], x_tile + (quarter_row + 8 * i) * N_STRIDE + quarter_column + 8 * j, N_STRIDE);
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint first = thread_index % 4 * 8;
        for (uint i = 0; i < 8; i++) {
            const uint column = first_column + first + i;
            if (first_row + row >= begin && first_row + row < end && column < p.n) {
                float value = x_tile[row * N_STRIDE + first + i];
                if (BIASED && expert < p.experts) {
                    value += float_at(bias, X_TYPE, size_t(expert) * p.n + column);
                }
                put_float(output, X_TYPE, size_t(first_row + row) * p.n + column, value);
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

template [[host_name("linear_mv_f32")]] [[kernel]] decltype(linear_mv<Dense<float>>) linear_mv<Dense<float>>;
template [[host_name("linear_mv_f16")]] [[kernel]] decltype(linear_mv<Dense<half>>) linear_mv<Dense<half>>;
template [[host_name("linear_mv_bf16")]] [[kernel]] decltype(linear_mv<Dense<bfloat>>) linear_mv<Dense<bfloat>>;
template [[host_name("linear_mv_affine1")]] [[kernel]] decltype(linear_mv<Affine<1>>) linear_mv<Affine<1>>;
template [[host_name("linear_mv_affine2")]] [[kernel]] decltype(linear_mv<Affine<2>>) linear_mv<Affine<2>>;
template [[host_name("linear_mv_affine3")]] [[kernel]] decltype(linear_mv<Affine<3>>) linear_mv<Affine<3>>;
template [[host_name("linear_mv_affine4")]] [[kernel]] decltype(linear_mv<Affine<4>>) linear_mv<Affine<4>>;
template [[host_name("linear_mv_affine5")]] [[kernel]] decltype(linear_mv<Affine<5>>) linear_mv<Affine<5>>;
template [[host_name("linear_mv_affine6")]] [[kernel]] decltype(linear_mv<Affine<6>>) linear_mv<Affine<6>>;
template [[host_name("linear_mv_affine8")]] [[kernel]] decltype(linear_mv<Affine<8>>) linear_mv<Affine<8>>;
template [[host_name("linear_mv_mxfp4")]] [[kernel]] decltype(linear_mv<Float4<false>>) linear_mv<Float4<false>>;
template [[host_name("linear_mv_mxfp8")]] [[kernel]] decltype(linear_mv<Float8>) linear_mv<Float8>;
template [[host_name("linear_mv_nvfp4")]] [[kernel]] decltype(linear_mv<Float4<true>>) linear_mv<Float4<true>>;
template [[host_name("linear_mv_q4_0")]] [[kernel]] decltype(linear_mv<Blocks<Q4_0>>) linear_mv<Blocks<Q4_0>>;
template [[host_name("linear_mv_q4_1")]] [[kernel]] decltype(linear_mv<Blocks<Q4_1>>) linear_mv<Blocks<Q4_1>>;
template [[host_name("linear_mv_q5_0")]] [[kernel]] decltype(linear_mv<Blocks<Q5_0>>) linear_mv<Blocks<Q5_0>>;
template [[host_name("linear_mv_q5_1")]] [[kernel]] decltype(linear_mv<Blocks<Q5_1>>) linear_mv<Blocks<Q5_1>>;
template [[host_name("linear_mv_q8_0")]] [[kernel]] decltype(linear_mv<Blocks<Q8_0>>) linear_mv<Blocks<Q8_0>>;
template [[host_name("linear_mv_q2_k")]] [[kernel]] decltype(linear_mv<Blocks<Q2K>>) linear_mv<Blocks<Q2K>>;
template [[host_name("linear_mv_q3_k")]] [[kernel]] decltype(linear_mv<Blocks<Q3K>>) linear_mv<Blocks<Q3K>>;
template [[host_name("linear_mv_q4_k")]] [[kernel]] decltype(linear_mv<Blocks<Q4K>>) linear_mv<Blocks<Q4K>>;
template [[host_name("linear_mv_q5_k")]] [[kernel]] decltype(linear_mv<Blocks<Q5K>>) linear_mv<Blocks<Q5K>>;
template [[host_name("linear_mv_q6_k")]] [[kernel]] decltype(linear_mv<Blocks<Q6K>>) linear_mv<Blocks<Q6K>>;
template [[host_name("linear_mv_iq4_nl")]] [[kernel]] decltype(linear_mv<Blocks<Iq4Nl>>) linear_mv<Blocks<Iq4Nl>>;
template [[host_name("linear_mv_iq4_xs")]] [[kernel]] decltype(linear_mv<Blocks<Iq4Xs>>) linear_mv<Blocks<Iq4Xs>>;
template [[host_name("linear_mv_ggml_mxfp4")]] [[kernel]] decltype(linear_mv<Blocks<GgmlMxfp4>>) linear_mv<Blocks<GgmlMxfp4>>;
template [[host_name("linear_mm_f32")]] [[kernel]] decltype(linear_mm<Dense<float>>) linear_mm<Dense<float>>;
template [[host_name("linear_mm_f16")]] [[kernel]] decltype(linear_mm<Dense<half>>) linear_mm<Dense<half>>;
template [[host_name("linear_mm_bf16")]] [[kernel]] decltype(linear_mm<Dense<bfloat>>) linear_mm<Dense<bfloat>>;
template [[host_name("linear_mm_affine1")]] [[kernel]] decltype(linear_mm<Affine<1>>) linear_mm<Affine<1>>;
template [[host_name("linear_mm_affine2")]] [[kernel]] decltype(linear_mm<Affine<2>>) linear_mm<Affine<2>>;
template [[host_name("linear_mm_affine3")]] [[kernel]] decltype(linear_mm<Affine<3>>) linear_mm<Affine<3>>;
template [[host_name("linear_mm_affine4")]] [[kernel]] decltype(linear_mm<Affine<4>>) linear_mm<Affine<4>>;
template [[host_name("linear_mm_affine5")]] [[kernel]] decltype(linear_mm<Affine<5>>) linear_mm<Affine<5>>;
template [[host_name("linear_mm_affine6")]] [[kernel]] decltype(linear_mm<Affine<6>>) linear_mm<Affine<6>>;
template [[host_name("linear_mm_affine8")]] [[kernel]] decltype(linear_mm<Affine<8>>) linear_mm<Affine<8>>;
template [[host_name("linear_mm_mxfp4")]] [[kernel]] decltype(linear_mm<Float4<false>>) linear_mm<Float4<false>>;
template [[host_name("linear_mm_mxfp8")]] [[kernel]] decltype(linear_mm<Float8>) linear_mm<Float8>;
template [[host_name("linear_mm_nvfp4")]] [[kernel]] decltype(linear_mm<Float4<true>>) linear_mm<Float4<true>>;
template [[host_name("linear_mm_q4_0")]] [[kernel]] decltype(linear_mm<Blocks<Q4_0>>) linear_mm<Blocks<Q4_0>>;
template [[host_name("linear_mm_q4_1")]] [[kernel]] decltype(linear_mm<Blocks<Q4_1>>) linear_mm<Blocks<Q4_1>>;
template [[host_name("linear_mm_q5_0")]] [[kernel]] decltype(linear_mm<Blocks<Q5_0>>) linear_mm<Blocks<Q5_0>>;
template [[host_name("linear_mm_q5_1")]] [[kernel]] decltype(linear_mm<Blocks<Q5_1>>) linear_mm<Blocks<Q5_1>>;
template [[host_name("linear_mm_q8_0")]] [[kernel]] decltype(linear_mm<Blocks<Q8_0>>) linear_mm<Blocks<Q8_0>>;
template [[host_name("linear_mm_q2_k")]] [[kernel]] decltype(linear_mm<Blocks<Q2K>>) linear_mm<Blocks<Q2K>>;
template [[host_name("linear_mm_q3_k")]] [[kernel]] decltype(linear_mm<Blocks<Q3K>>) linear_mm<Blocks<Q3K>>;
template [[host_name("linear_mm_q4_k")]] [[kernel]] decltype(linear_mm<Blocks<Q4K>>) linear_mm<Blocks<Q4K>>;
template [[host_name("linear_mm_q5_k")]] [[kernel]] decltype(linear_mm<Blocks<Q5K>>) linear_mm<Blocks<Q5K>>;
template [[host_name("linear_mm_q6_k")]] [[kernel]] decltype(linear_mm<Blocks<Q6K>>) linear_mm<Blocks<Q6K>>;
template [[host_name("linear_mm_iq4_nl")]] [[kernel]] decltype(linear_mm<Blocks<Iq4Nl>>) linear_mm<Blocks<Iq4Nl>>;
template [[host_name("linear_mm_iq4_xs")]] [[kernel]] decltype(linear_mm<Blocks<Iq4Xs>>) linear_mm<Blocks<Iq4Xs>>;
template [[host_name("linear_mm_ggml_mxfp4")]] [[kernel]] decltype(linear_mm<Blocks<GgmlMxfp4>>) linear_mm<Blocks<GgmlMxfp4>>;
