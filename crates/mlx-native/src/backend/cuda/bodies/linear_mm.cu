// linear_mm for x of 16 bits, on tensor cores: the same arguments, another tile.
//
// A block of 8 warps makes 128 x 128 outputs, 32 elements of k at a time; a warp makes 32 x 64. Codes are exact in 16 bits, so
// that a sum of products of them with x is exact up to the sum's own rounding; scale and bias meet that sum in float: no
// weight is rounded. Sums of x, which the biases meet, are products with ones.
//
// What is not finite must meet the weight itself, not its parts. An element of x, a scale or a bias that is not finite leaves
// no sum finite that it meets, so that a block which finds such a sum makes its outputs again, one by one.
//
// Stages of x and of codes lie in shared memory; x comes there in the background, codes through registers. Rows of x are 40
// elements apart, rows of codes 48, so that no two lanes that load at once meet in a bank. A lane multiplies of each 16 codes
// 2 t, 2 t + 1, 2 t + 8 and 2 t + 9, t = lane % 4: these lie side by side in a stage, and come with one load.

namespace tensor {

constexpr uint M = 128, N = 128, K = 32, RUNS = K / RUN, X_STRIDE = 40, CODE_STRIDE = 48, STAGES = 3, THREADS = 256, TILES_OF_X = 2;
constexpr uint NO_ROW = 0xffffffffu;
constexpr bool IS_BFLOAT = X_TYPE == 2;

// The dtype of affine scales.
template <uint TYPE>
struct Scale {
  typedef float type;
};
template <>
struct Scale<1> {
  typedef half type;
};
template <>
struct Scale<2> {
  typedef bfloat type;
};
typedef Scale<SCALE_TYPE>::type SCALE;

struct Stage {
  ushort x[M * X_STRIDE];
  ushort codes[N * CODE_STRIDE];
  float scales[RUNS][N];
  float biases[RUNS][N];
};

// Runs of a format that have one scale: their products are added before it is applied.
template <typename F>
struct Together {
  static constexpr uint RUNS_ = 1;
};
template <uint BITS>
struct Together<Affine<BITS>> {
  static constexpr uint RUNS_ = 2;
};
template <>
struct Together<Float4<false>> {
  static constexpr uint RUNS_ = 2;
};
template <>
struct Together<Float8> {
  static constexpr uint RUNS_ = 2;
};

// The sixteen codes of a run as 16-bit floats, in order.
template <typename F>
MSL_INLINE void codes_of(const F& w, uint (&out)[8]) {
  for (uint i = 0; i < 8; i++) out[i] = pack<IS_BFLOAT>(w.code(2 * i), w.code(2 * i + 1));
}

// 4 bits: with the exponent of 128 (bfloat) or 1024 (half) above it a code is that number and the code, exactly.
MSL_INLINE void codes_of(const Affine<4>& w, uint (&out)[8]) {
  constexpr uint magic = IS_BFLOAT ? 0x43004300u : 0x64006400u, one = IS_BFLOAT ? 0x3f803f80u : 0x3c003c00u;
  constexpr uint minus = IS_BFLOAT ? 0xc300c300u : 0xe400e400u;
#pragma unroll
  for (uint word = 0; word < 2; word++) {
    const uint even = w.words[word] & 0x0f0f0f0fu, odd = w.words[word] >> 4 & 0x0f0f0f0fu;
#pragma unroll
    for (uint i = 0; i < 4; i++) {
      const uint two = (__byte_perm(even, odd, 0x0400u + 0x0101u * i) & 0x00ff00ffu) | magic;
      if (IS_BFLOAT) {
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out[4 * word + i]) : "r"(two), "r"(one), "r"(minus));
      } else {
        asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out[4 * word + i]) : "r"(two), "r"(one), "r"(minus));
      }
    }
  }
}

template <typename F>
struct Raw {
  F run;

  MSL_INLINE void read(const WeightRow& row, uint k, uint count) { run.read(row, k, count); }
  MSL_INLINE void finish() {}
};

// Affine scales become floats when they are needed: a conversion would wait for the memory.
template <uint BITS>
struct Raw<Affine<BITS>> {
  Affine<BITS> run;
  uint scale, bias;

  static MSL_INLINE uint bits_at(const uchar* p, uint index) {
    return SCALE_TYPE == 0 ? ((const uint*)p)[index] : (uint)((const ushort*)p)[index];
  }

  static MSL_INLINE float value_of(uint bits) { return element_of(&bits, 0, SCALE()); }

  MSL_INLINE void read(const WeightRow& row, uint k, uint) {
    run.read_codes(row, k);
    scale = bits_at(row.scales, k / GROUP_SIZE);
    bias = bits_at(row.biases, k / GROUP_SIZE);
  }

  MSL_INLINE void finish() {
    run.scale = value_of(scale);
    run.bias = value_of(bias);
  }
};

// A run of codes on its way from memory to a stage: thread i has run i % 2 of row i / 2 of the tile.
template <typename F>
struct Codes {
  Raw<F> raw;

  MSL_INLINE void read(const WeightRow& row, uint k, uint length) {
    if (k < length) raw.read(row, k, F::WHOLE ? RUN : min(RUN, length - k));
  }

  MSL_INLINE void write(Stage& stage, uint thread, uint k, uint length) {
    const uint row = thread / RUNS, r = thread % RUNS;
    uint words[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    float scale = 0, bias = 0;
    if (k < length) {
      raw.finish();
      codes_of(raw.run, words);
      scale = raw.run.scale;
      bias = F::HAS_BIAS ? raw.run.bias : 0.0f;
    }
    uint4* to = (uint4*)(stage.codes + row * CODE_STRIDE + r * RUN);
    to[0] = uint4(words[0], words[4], words[1], words[5]);
    to[1] = uint4(words[2], words[6], words[3], words[7]);
    stage.scales[r][row] = scale;
    if (F::HAS_BIAS) stage.biases[r][row] = bias;
  }
};

// Starts to bring the tile of x from `k` on. `rows`: which row of x each row of the tile is, or NO_ROW.
MSL_INLINE void bring_x(Stage& stage, const uchar* x, const uint* rows, uint k, uint length, uint thread) {
#pragma unroll
  for (uint i = 0; i < M * K / 8 / THREADS; i++) {
    const uint chunk = thread + i * THREADS, row = chunk / (K / 8), column = chunk % (K / 8) * 8;
    const uint x_row = rows[row];
    ushort* to = stage.x + row * X_STRIDE + column;
    const bool is_there = x_row != NO_ROW && k + column < length;
    if (WIDE_X) {
      // Whole rows of runs: a chunk is inside or beyond.
      const ushort* from = (const ushort*)x + (is_there ? (size_t)x_row * length + k + column : 0);
      copy_16(to, from, is_there);
    } else {
      for (uint j = 0; j < 8; j++) {
        const bool inside = x_row != NO_ROW && k + column + j < length;
        to[j] = inside ? ((const ushort*)x)[(size_t)x_row * length + k + column + j] : ushort(0);
      }
    }
  }
}

// The products of one stage.
template <typename F>
MSL_INLINE void multiply_stage(float (&total)[TILES_OF_X][8][4], const Stage& stage, uint warp, uint lane) {
  constexpr uint TOGETHER = Together<F>::RUNS_;
  const uint ones[2] = {IS_BFLOAT ? 0x3f803f80u : 0x3c003c00u, IS_BFLOAT ? 0x3f803f80u : 0x3c003c00u};
  const ushort* x = stage.x + (warp / 2 * 32 + lane % 16) * X_STRIDE + lane / 16 * 8;
  const ushort* codes = stage.codes + (warp % 2 * 64 + lane / 4) * CODE_STRIDE + lane % 4 * 4;
  const uint column = warp % 2 * 64 + lane % 4 * 2;
  uint a[TILES_OF_X][RUNS][4];
  float sums[TILES_OF_X][RUNS / TOGETHER][4];
#pragma unroll
  for (uint m = 0; m < TILES_OF_X; m++) {
#pragma unroll
    for (uint r = 0; r < RUNS; r++) load_matrices(a[m][r], x + m * 16 * X_STRIDE + r * RUN);
#pragma unroll
    for (uint g = 0; g < RUNS / TOGETHER; g++) {
      multiply_first<IS_BFLOAT>(sums[m][g], a[m][g * TOGETHER], ones);
#pragma unroll
      for (uint r = 1; r < TOGETHER; r++) multiply<IS_BFLOAT>(sums[m][g], a[m][g * TOGETHER + r], ones);
    }
  }
#pragma unroll
  for (uint n = 0; n < 8; n++) {
    uint b[RUNS][2];
#pragma unroll
    for (uint r = 0; r < RUNS; r++) {
      const uint2 four = *(const uint2*)(codes + n * 8 * CODE_STRIDE + r * RUN);
      b[r][0] = four.x, b[r][1] = four.y;
    }
#pragma unroll
    for (uint g = 0; g < RUNS / TOGETHER; g++) {
      const float2 scale = *(const float2*)&stage.scales[g * TOGETHER][column + 8 * n];
      float2 bias = float2(0.0f, 0.0f);
      if (F::HAS_BIAS) bias = *(const float2*)&stage.biases[g * TOGETHER][column + 8 * n];
#pragma unroll
      for (uint m = 0; m < TILES_OF_X; m++) {
        float part[4];
        multiply_first<IS_BFLOAT>(part, a[m][g * TOGETHER], b[g * TOGETHER]);
#pragma unroll
        for (uint r = 1; r < TOGETHER; r++) multiply<IS_BFLOAT>(part, a[m][g * TOGETHER + r], b[g * TOGETHER + r]);
        total[m][n][0] += scale.x * part[0];
        total[m][n][1] += scale.y * part[1];
        total[m][n][2] += scale.x * part[2];
        total[m][n][3] += scale.y * part[3];
        if (F::HAS_BIAS) {
          total[m][n][0] += bias.x * sums[m][g][0];
          total[m][n][1] += bias.y * sums[m][g][0];
          total[m][n][2] += bias.x * sums[m][g][2];
          total[m][n][3] += bias.y * sums[m][g][2];
        }
      }
    }
  }
}

// One output after the other, each weight as it is.
template <typename F>
MSL_INLINE void one_by_one(const uchar* x, const uchar* codes, const uchar* scales, const uchar* biases, uchar* output,
                           const LinearShape& p, const uchar* bias, const uint* rows, uint expert, uint begin, uint end,
                           uint first_row, uint first_column, uint thread) {
  const uint column = first_column + thread % N;
  if (column >= p.n) return;
  const WeightRow row = weight_row(codes, scales, biases, expert, p.n, column, p.codes_stride, p.scales_stride);
  for (uint i = begin + thread / N; i < end; i += THREADS / N) {
    const uint x_row = rows[i - first_row];
    float sum = 0;
    for (uint k = 0; k < p.k && x_row != NO_ROW; k += RUN) {
      const uint count = F::WHOLE ? RUN : min(RUN, p.k - k);
      F w;
      w.read(row, k, count);
      for (uint j = 0; j < count; j++) sum += w.weight(j) * float_at(x, X_TYPE, (size_t)x_row * p.k + k + j);
    }
    if (BIASED) sum += float_at(bias, X_TYPE, (size_t)expert * p.n + column);
    put_float(output, X_TYPE, (size_t)i * p.n + column, sum);
  }
}

}  // namespace tensor

template <typename F>
static void linear_mm_tensor(const uchar* x, const uchar* codes, const uchar* scales, const uchar* biases, uchar* output,
                             const LinearShape& p, const uint* ids, const uint* chosen, const uchar* bias, uint2 group,
                             uint thread, uint warp) {
  using namespace tensor;
  Stage* stages = (Stage*)on_cuda::threadgroup_memory;
  uint* rows = (uint*)(stages + STAGES);
  const uint lane = thread % 32;
  const uint first_column = group.x * N, first_row = group.y * M;
  if (first_row >= p.m || first_column >= p.n) return;
  const uint end_row = min(first_row + M, p.m);
  // Rows beyond the last repeat it: nothing is stored for them.
  const uint w_row = min(first_column + thread / RUNS, p.n - 1), w_run = thread % RUNS * RUN;

  // Rows that follow each other and meet the same matrix are multiplied together, the others of the tile being zeros.
  uint end = first_row;
  for (uint begin = first_row; begin < end_row; begin = end) {
    uint expert = 0;
    end = end_row;
    if (GATHERED) {
      expert = ids[begin];
      end = begin + 1;
      while (end < end_row && ids[end] == expert) end++;
    }
    if (thread < M) {
      const uint row = first_row + thread;
      uint x_row = NO_ROW;
      if (row >= begin && row < end) {
        x_row = CHOSEN ? chosen[row] : row / p.rows_per_x;
        if (x_row >= p.x_rows) x_row = NO_ROW;
      }
      rows[thread] = x_row;
    }
    __syncthreads();
    const uint length = expert < p.experts ? p.k : 0;
    const uint steps = (length + K - 1) / K;
    const WeightRow weight = weight_row(codes, scales, biases, expert < p.experts ? expert : 0, p.n, w_row, p.codes_stride,
                                        p.scales_stride);
    float total[TILES_OF_X][8][4];
#pragma unroll
    for (uint m = 0; m < TILES_OF_X; m++) {
#pragma unroll
      for (uint n = 0; n < 8; n++) {
#pragma unroll
        for (uint i = 0; i < 4; i++) total[m][n][i] = 0;
      }
    }
    Codes<F> next;
    for (uint s = 0; s < STAGES - 1; s++) {
      if (s < steps) {
        bring_x(stages[s], x, rows, s * K, length, thread);
        next.read(weight, s * K + w_run, length);
        next.write(stages[s], thread, s * K + w_run, length);
      }
      end_of_copies();
    }
    // Codes are read a step before they are written: the products of that step hide the memory's latency.
    next.read(weight, (STAGES - 1) * K + w_run, length);
    // A warp whose rows are all beyond has nothing to multiply.
    const uint warp_row = first_row + warp / 2 * 32;
    const bool has_rows = warp_row < end && warp_row + 32 > begin;
    for (uint step = 0; step < steps; step++) {
      wait_for_copies<STAGES - 2>();
      __syncthreads();
      const uint ahead = step + STAGES - 1;
      Stage& coming = stages[ahead % STAGES];
      if (ahead < steps) {
        bring_x(coming, x, rows, ahead * K, length, thread);
        next.write(coming, thread, ahead * K + w_run, length);
        next.read(weight, (ahead + 1) * K + w_run, length);
      }
      end_of_copies();
      if (has_rows) multiply_stage<F>(total, stages[step % STAGES], warp, lane);
    }
    bool finite = true;
    const bool in_pairs = p.n % 2 == 0 && ((size_t)output & 3) == 0;
#pragma unroll
    for (uint m = 0; m < TILES_OF_X; m++) {
#pragma unroll
      for (uint n = 0; n < 8; n++) {
#pragma unroll
        for (uint h = 0; h < 2; h++) {
          const uint row = warp_row + m * 16 + lane / 4 + 8 * h;
          const uint column = first_column + warp % 2 * 64 + n * 8 + lane % 4 * 2;
          if (row < begin || row >= end || column >= p.n) continue;
          float two[2] = {total[m][n][2 * h], total[m][n][2 * h + 1]};
          finite = finite && is_finite(two[0]) && is_finite(two[1]);
          const size_t at = (size_t)row * p.n + column;
          for (uint i = 0; i < 2; i++) {
            if (BIASED && expert < p.experts && column + i < p.n) {
              two[i] += float_at(bias, X_TYPE, (size_t)expert * p.n + column + i);
            }
          }
          if (in_pairs) {
            *(uint*)((ushort*)output + at) = pack<IS_BFLOAT>(two[0], two[1]);
          } else {
            put_float(output, X_TYPE, at, two[0]);
            if (column + 1 < p.n) put_float(output, X_TYPE, at + 1, two[1]);
          }
        }
      }
    }
    // Also before the next rows use the memory.
    if (__syncthreads_or(!finite)) {
      one_by_one<F>(x, codes, scales, biases, output, p, bias, rows, expert, begin, end, first_row, first_column, thread);
      __syncthreads();
    }
  }
}
