// linear_mm for 4-bit codes with bfloat scales and many rows of x, by warpgroups (sm_90a): four functions, run in this order.
//
//   linear_mm_weights   W, and what its biases come to, as tiles of halves in scratch memory
//   linear_mm_rows      x likewise
//   linear_mm_product   the product of the tiles
//   linear_mm_rest      what halves do not hold: made again as `linear_mm_tensor` makes it
//
// Nothing is rounded: a scale has 8 significant bits and code - 8 has 3 or is -8, so that scale * (code - 8) has 11 at most, as
// many as a half. A row of x is bfloat or half, times a power of two; so is a row of W. What is left, (bias + 8 scale) times the
// sum of the group's x, are three more columns for each group, of high and low halves of both: high * high, high * low, low *
// high. A row with numbers of which this does not hold, that are not finite among them, gets the factor 0: the last function
// makes all tiles of 128 x 128 outputs that it touches again.
//
// The order of k in the tiles of W and x is the same, and not that of the matrices: of eight codes, i and i + 4 are neighbours.
// An output's sum has one order whatever the number of rows.

namespace warpgroups {

constexpr uint TM = 128, TN = 256, TK = 64, X_BYTES = TM * TK * 2, W_BYTES = TN * TK * 2, STAGES = 4;
constexpr uint STAGE_BYTES = X_BYTES + W_BYTES;
constexpr uint GROUPS_TOGETHER = 16;

// What the scratch memory holds, in bytes from its start.
struct Scratch {
  uint k_tiles, m_tiles, n_tiles;
  size_t x_factors, w, w_factors;

  MSL_INLINE explicit Scratch(const LinearShape& p) {
    const uint groups = p.k / GROUP_SIZE;
    k_tiles = p.k / TK + (3 * groups + TK - 1) / TK;
    m_tiles = (p.m + TM - 1) / TM;
    n_tiles = (p.n + TN - 1) / TN;
    // What is of x lies where it does whatever n is.
    x_factors = (size_t)m_tiles * k_tiles * X_BYTES;
    w = x_factors + (size_t)m_tiles * TM * 4;
    w_factors = w + (size_t)n_tiles * k_tiles * W_BYTES;
  }
};

// Where part `part` of 16 bytes of a row is, from the start of the row's tiles.
template <uint ROWS_OF_TILE>
MSL_INLINE size_t place(uint row, uint part) {
  return (size_t)(part / 8) * (ROWS_OF_TILE * 128) + row * 128 + ((part % 8) ^ (row % 8)) * 16;
}

// 2^n, |n| < 127.
MSL_INLINE float power_of_two(int n) { return as_type<float>((uint)(n + 127) << 23); }

// The exponent of a float: 2^e <= |x| < 2^(e + 1); -127 of zero.
MSL_INLINE int exponent_of(float x) { return (int)(as_type<uint>(x) >> 23 & 255) - 127; }

MSL_INLINE uint pack_halves(float low, float high) { return tensor::pack<false>(low, high); }
MSL_INLINE float first_of(uint two) { return float(as_type<half>((ushort)(two & 0xffffu))); }

// The greatest |x| for which a factor may be a power of two beyond this is none that halves are used for.
constexpr int MOST_EXPONENT = 60;

}  // namespace warpgroups

template <typename F>
static void linear_mm_weights(const uchar* codes, const uchar* scales, const uchar* biases, const LinearShape& p, uchar* scratch) {
  using namespace warpgroups;
  const uint lane = threadIdx.x % 32, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= p.n) return;
  const Scratch s(p);
  const WeightRow w = weight_row(codes, scales, biases, 0, p.n, row, p.codes_stride, p.scales_stride);
  uchar* tiles = scratch + s.w + (size_t)(row / TN) * s.k_tiles * W_BYTES;
  const uint in_tile = row % TN, groups = p.k / GROUP_SIZE;
  const ushort* own_scales = (const ushort*)w.scales;
  const ushort* own_biases = (const ushort*)w.biases;
  // What a group's numbers are made of, as floats.
  const auto scale_at = [&](uint g) { return as_type<float>((uint)own_scales[g] << 16); };
  const auto offset_at = [&](uint g) { return as_type<float>((uint)own_biases[g] << 16) + 8.0f * scale_at(g); };
  float most = 0;
  bool whole = true;
  for (uint g = lane; g < groups; g += 32) {
    const float scale = scale_at(g), offset = offset_at(g);
    whole = whole && is_finite(scale) && is_finite(offset);
    most = max(most, max(8.0f * fabs(scale), fabs(offset)));
  }
  most = simd_max(most);
  const int e = most == 0.0f ? 0 : exponent_of(most);
  whole = whole && e < MOST_EXPONENT && e > -MOST_EXPONENT;
  // The greatest number is below 2^15.
  const float up = power_of_two(whole ? 14 - e : 0);
  for (uint g = lane; g < groups; g += 32) {
    const float scale = scale_at(g) * up;
    whole = whole && first_of(pack_halves(scale, 0)) == scale;
  }
  whole = simd_all(whole);
  if (lane == 0) ((float*)(scratch + s.w_factors))[row] = whole ? power_of_two(e - 14) : 0.0f;
  // Sixteen codes are two parts.
#pragma unroll 4
  for (uint at = lane; at < p.k / 16; at += 32) {
    const uint2 words = *(const uint2*)(w.codes + (size_t)at * 8);
    const uint scale = pack_halves(scale_at(at * 16 / GROUP_SIZE) * up, 0) & 0xffffu, both = scale | scale << 16;
    uint out[8];
#pragma unroll
    for (uint i = 0; i < 8; i++) {
      uint two = ((i < 4 ? words.x : words.y) >> (4 * (i % 4)) & 0x000f000fu) | 0x64006400u;
      asm("add.rn.f16x2 %0, %0, %1;" : "+r"(two) : "r"(0xe408e408u));
      asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out[i]) : "r"(two), "r"(both));
    }
    *(uint4*)(tiles + place<TN>(in_tile, 2 * at)) = uint4(out[0], out[1], out[2], out[3]);
    *(uint4*)(tiles + place<TN>(in_tile, 2 * at + 1)) = uint4(out[4], out[5], out[6], out[7]);
  }
  // Columns 0 to G: high; to 2 G: high; to 3 G: low; then zeros.
  for (uint e_at = lane; e_at < (s.k_tiles - p.k / TK) * TK; e_at += 32) {
    float value = 0;
    if (e_at < 3 * groups) {
      const float offset = offset_at(e_at % groups) * up;
      const float high = first_of(pack_halves(offset, 0));
      value = e_at < 2 * groups ? high : offset - high;
    }
    const uint column = p.k + e_at;
    *(ushort*)(tiles + place<TN>(in_tile, column / 8) + column % 8 * 2) = (ushort)pack_halves(value, 0);
  }
}

template <typename F>
static void linear_mm_rows(const uchar* x, const LinearShape& p, uchar* scratch) {
  using namespace warpgroups;
  __shared__ float parts[32];
  const uint thread = threadIdx.x, lane = thread % 32, warps = blockDim.x / 32, row = blockIdx.x, groups = p.k / GROUP_SIZE;
  const Scratch s(p);
  uchar* tiles = scratch + (size_t)(row / TM) * s.k_tiles * X_BYTES;
  const uint in_tile = row % TM;
  const uint4* from = (const uint4*)(x + (size_t)row * p.k * 2);
  const auto floats_of = [&](uint4 eight, float (&out)[8]) {
    const uint words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (uint i = 0; i < 8; i++) out[i] = element_of(words, i, typename tensor::Scale<X_TYPE>::type());
  };
  float most = 0;
  for (uint at = thread; at < p.k / 8; at += blockDim.x) {
    float eight[8];
    floats_of(from[at], eight);
#pragma unroll
    // The greater of two is the other where one is no number: a sum is not.
    for (uint i = 0; i < 8; i++) most = is_finite(eight[i]) ? max(most, fabs(eight[i])) : INFINITY;
  }
  most = simd_max(most);
  if (lane == 0) parts[thread / 32] = most;
  __syncthreads();
  most = 0;
  for (uint i = 0; i < warps; i++) most = max(most, parts[i]);
  const int e = most == 0.0f ? 0 : exponent_of(most);
  const bool whole = e < MOST_EXPONENT && e > -MOST_EXPONENT;
  if (thread == 0) ((float*)(scratch + s.x_factors))[row] = whole ? power_of_two(e - 7) : 0.0f;
  // The greatest number is below 2^8, so that a sum of 128 is below 2^15.
  const float up = power_of_two(whole ? 7 - e : 0);
  constexpr uint TOGETHER = GROUP_SIZE / 8;
  // All threads of a warp come along: they add up together.
  for (uint first = 0; first < p.k / 8; first += blockDim.x) {
    const uint at = first + thread;
    float eight[8] = {0, 0, 0, 0, 0, 0, 0, 0}, sum = 0;
    if (at < p.k / 8) {
      floats_of(from[at], eight);
#pragma unroll
      for (uint i = 0; i < 8; i++) {
        eight[i] *= up;
        sum += eight[i];
      }
      *(uint4*)(tiles + place<TM>(in_tile, at)) = uint4(pack_halves(eight[0], eight[4]), pack_halves(eight[1], eight[5]),
                                                       pack_halves(eight[2], eight[6]), pack_halves(eight[3], eight[7]));
    }
#pragma unroll
    for (uint apart = 1; apart < TOGETHER; apart *= 2) sum += simd_shuffle_xor(sum, ushort(apart));
    if (at < p.k / 8 && at % TOGETHER == 0) {
      const uint g = at / TOGETHER;
      const uint high = pack_halves(sum, 0) & 0xffffu, low = pack_halves(sum - first_of(high), 0) & 0xffffu;
#pragma unroll
      for (uint part = 0; part < 3; part++) {
        const uint column = p.k + part * groups + g;
        *(ushort*)(tiles + place<TM>(in_tile, column / 8) + column % 8 * 2) = (ushort)(part == 1 ? low : high);
      }
    }
  }
  for (uint column = p.k + 3 * groups + thread; column < s.k_tiles * TK; column += blockDim.x) {
    *(ushort*)(tiles + place<TM>(in_tile, column / 8) + column % 8 * 2) = 0;
  }
}

#if HAS_WARPGROUPS
namespace warpgroups {

// Which tile comes after so many: tiles of up to 16 groups of rows go down before they go right, so that what runs at once has
// its x and its W in the cache.
MSL_INLINE uint2 tile_of_turn(uint turn, const Scratch& s) {
  const uint band = turn / (GROUPS_TOGETHER * s.n_tiles), first = band * GROUPS_TOGETHER;
  const uint height = min(GROUPS_TOGETHER, s.m_tiles - first), inside = turn - first * s.n_tiles;
  return uint2(first + inside % height, inside / height);
}

// Brings stages, tile after tile.
MSL_INLINE void bring_stages(const uchar* scratch, const Scratch& s, uint stages, uint full, uint empty) {
  uint stage = 0, parity = 1;
  for (uint turn = blockIdx.x; turn < s.m_tiles * s.n_tiles; turn += gridDim.x) {
    const uint2 tile = tile_of_turn(turn, s);
    const uchar* x = scratch + (size_t)tile.x * s.k_tiles * X_BYTES;
    const uchar* w = scratch + s.w + (size_t)tile.y * s.k_tiles * W_BYTES;
    for (uint k = 0; k < s.k_tiles; k++) {
      hopper::wait(empty + 8 * stage, parity);
      const uint to = stages + stage * STAGE_BYTES, barrier = full + 8 * stage;
      hopper::expect(barrier, STAGE_BYTES);
      hopper::bring(to, x + (size_t)k * X_BYTES, X_BYTES, barrier);
      hopper::bring(to + X_BYTES, w + (size_t)k * W_BYTES, W_BYTES, barrier);
      if (++stage == STAGES) stage = 0, parity ^= 1;
    }
  }
}

// Four lanes that have two columns of eight each, of four eights, get one eight each.
MSL_INLINE uint4 eight_of(uint (&two)[4], uint lane) {
  const uint t = lane % 4;
  uint out[4];
#pragma unroll
  for (uint i = 0; i < 4; i++) {
    // Lane t gives what lane t ^ i wants, and gets of it the columns 2 (t ^ i) of its own eight.
    const uint to = t ^ i;
    const uint give = to == 0 ? two[0] : to == 1 ? two[1] : to == 2 ? two[2] : two[3];
    const uint got = simd_shuffle_xor(give, ushort(i));
#pragma unroll
    for (uint j = 0; j < 4; j++) {
      if ((t ^ i) == j) out[j] = got;
    }
  }
  return uint4(out[0], out[1], out[2], out[3]);
}

// Rounds and stores the outputs of a warpgroup: rows from `first_row` on, columns from `first_column` on.
MSL_INLINE void store_tile(const float (&total)[128], uchar* output, const uchar* bias, const LinearShape& p, const float* x_factors,
                           const float* w_factors, uint first_row, uint first_column, uint thread) {
  const uint lane = thread % 32, own_row = first_row + thread / 32 * 16 + lane / 4;
  const bool in_eights = p.n % 8 == 0 && ((size_t)output & 15) == 0;
#pragma unroll
  for (uint h = 0; h < 2; h++) {
    const uint row = own_row + 8 * h;
    const float by_row = row < p.m ? x_factors[row] : 0.0f;
#pragma unroll
    for (uint j = 0; j < 32; j += 4) {
      uint two[4];
#pragma unroll
      for (uint i = 0; i < 4; i++) {
        const uint column = first_column + (j + i) * 8 + lane % 4 * 2;
        float value[2];
#pragma unroll
        for (uint c = 0; c < 2; c++) {
          const bool is_there = column + c < p.n;
          value[c] = total[4 * (j + i) + 2 * h + c] * by_row * (is_there ? w_factors[column + c] : 0.0f);
          if (BIASED && is_there) value[c] += float_at(bias, X_TYPE, column + c);
        }
        two[i] = tensor::pack<X_TYPE == 2>(value[0], value[1]);
      }
      if (in_eights) {
        const uint4 eight = eight_of(two, lane);
        const uint column = first_column + (j + lane % 4) * 8;
        if (row < p.m && column < p.n) *(uint4*)(output + ((size_t)row * p.n + column) * 2) = eight;
      } else {
#pragma unroll
        for (uint i = 0; i < 4; i++) {
          const uint column = first_column + (j + i) * 8 + lane % 4 * 2;
          ushort* to = (ushort*)output + (size_t)row * p.n + column;
          if (row < p.m && column < p.n) to[0] = (ushort)two[i];
          if (row < p.m && column + 1 < p.n) to[1] = (ushort)(two[i] >> 16);
        }
      }
    }
  }
}

}  // namespace warpgroups
#endif

template <typename F>
static void linear_mm_product(uchar* output, const LinearShape& p, const uchar* bias, uchar* scratch) {
#if HAS_WARPGROUPS
  using namespace warpgroups;
  const Scratch s(p);
  const uint memory = (tensor::shared_address(on_cuda::threadgroup_memory) + 1023) & ~1023u;
  const uint full = memory + STAGES * STAGE_BYTES, empty = full + 8 * STAGES;
  const uint thread = threadIdx.x % 128, part = threadIdx.x / 128;
  if (threadIdx.x == 0) {
    for (uint i = 0; i < STAGES; i++) {
      hopper::make_barrier(full + 8 * i, 1);
      hopper::make_barrier(empty + 8 * i, 2);
    }
    hopper::fence_barriers();
  }
  __syncthreads();
  if (part == 0) {
    hopper::fewer_registers<24>();
    if (thread == 0) bring_stages(scratch, s, memory, full, empty);
  } else {
    hopper::more_registers<240>();
    const float* x_factors = (const float*)(scratch + s.x_factors);
    const float* w_factors = (const float*)(scratch + s.w_factors);
    const uint own_rows = (part - 1) * 64;
    uint stage = 0, parity = 0;
    for (uint turn = blockIdx.x; turn < s.m_tiles * s.n_tiles; turn += gridDim.x) {
      const uint2 tile = tile_of_turn(turn, s);
      float total[128];
#pragma unroll
      for (uint i = 0; i < 128; i++) total[i] = 0;
      uint last = 0;
      for (uint k = 0; k < s.k_tiles; k++) {
        hopper::wait(full + 8 * stage, parity);
        const uint from = memory + stage * STAGE_BYTES;
        const ulong a = hopper::tile_at(from + own_rows * 128), b = hopper::tile_at(from + X_BYTES);
        hopper::fence();
#pragma unroll
        for (uint i = 0; i < 4; i++) hopper::multiply(total, a + 2 * i, b + 2 * i, k != 0 || i != 0);
        hopper::end_of_products();
        hopper::wait_for_products<1>();
        if (k != 0 && thread == 0) hopper::arrive(empty + 8 * last);
        last = stage;
        if (++stage == STAGES) stage = 0, parity ^= 1;
      }
      hopper::wait_for_products<0>();
      if (thread == 0) hopper::arrive(empty + 8 * last);
#pragma unroll
      for (uint i = 0; i < 128; i++) asm volatile("" : "+f"(total[i])::"memory");
      store_tile(total, output, bias, p, x_factors, w_factors, tile.x * TM + own_rows, tile.y * TN, thread);
    }
  }
#endif
}

template <typename F>
static void linear_mm_rest(const uchar* x, const uchar* codes, const uchar* scales, const uchar* biases, uchar* output,
                           const LinearShape& p, const uchar* bias, uint2 group, uint thread, const uchar* scratch) {
  using namespace warpgroups;
  const Scratch s(p);
  const float* x_factors = (const float*)(scratch + s.x_factors);
  const float* w_factors = (const float*)(scratch + s.w_factors);
  bool is_left_out = false;
  if (thread < 128) {
    const uint row = group.y * 128 + thread;
    is_left_out = row < p.m && x_factors[row] == 0.0f;
  } else {
    const uint column = group.x * 128 + thread - 128;
    is_left_out = column < p.n && w_factors[column] == 0.0f;
  }
  if (!__syncthreads_or(is_left_out)) return;
  linear_mm_tensor<F>(x, codes, scales, biases, output, p, nullptr, nullptr, bias, group, thread, thread / 32);
}
