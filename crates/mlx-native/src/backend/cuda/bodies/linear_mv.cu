// linear_mv for codes of 4 bits and x of 16 bits, on tensor cores: the same arguments, more outputs a block.
//
// A block of 16 warps makes 16 outputs of up to 8 rows of x; the warps take the elements of k in turn, and their sums are added
// in ascending order. Many warps with few loads each are faster than few with many: a block's first loads, and its sum at the end,
// are most of its time, and 64 registers leave room for two blocks. Asking for rows ahead, while the launch before
// still runs, made it slower. What decides the order of a row's sums is k alone, so that a row has the same bits in any company.
//
// A warp takes a unit of 64 codes (32 where a group has no more) of each of 16 rows of W at a time, as operand A of the
// instruction; x is operand B. A lane has a quarter of a unit of two rows of W, and the elements of x that belong to it, so
// that every load is of neighbours and nothing passes through shared memory. Which element of k is where in the instruction is
// free, as long as A and B agree: of a word of 8 codes, i and i + 4 lie in one register after one mask.
//
// With the exponent of 128 above it a code is that number and the code as a bfloat, exactly; 128 times the scale leaves the
// bias instead, which meets the sum of x: a product with ones. A half has 1024 above it, which is taken off first.
//
// What is not finite must meet the weight itself: outputs that are not finite are made again, one by one.

namespace tensor {

constexpr uint MV_WARPS = 16, MV_OUTPUTS = 16, MV_ROWS = ROWS == 1 ? 1 : 8;
constexpr bool MV_BFLOAT = X_TYPE == 2;
// Codes that have one scale and are multiplied together; those of a lane, and the words that they are.
constexpr uint UNIT = GROUP_SIZE < 64 ? 32 : 64, PIECE = UNIT / 4, PIECE_WORDS = PIECE / 8;
// Units that are loaded at once, and their scales.
constexpr uint AHEAD = 2, UNIT_SCALES = AHEAD * UNIT / (GROUP_SIZE < UNIT ? UNIT : GROUP_SIZE);

// The eight codes of a word as four pairs of 16-bit floats: i and i + 4.
MSL_INLINE void pairs_of(uint word, uint (&out)[4]) {
  constexpr uint magic = MV_BFLOAT ? 0x43004300u : 0x64006400u;
#pragma unroll
  for (uint i = 0; i < 4; i++) {
    out[i] = (word >> (4 * i) & 0x000f000fu) | magic;
    if (!MV_BFLOAT) asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out[i]) : "r"(out[i]), "r"(0x3c003c00u), "r"(0xe400e400u));
  }
}

// The same of x: eight neighbours as four pairs.
MSL_INLINE void pairs_of(const uint4& x, uint (&out)[4]) {
  out[0] = __byte_perm(x.x, x.z, 0x5410);
  out[1] = __byte_perm(x.x, x.z, 0x7632);
  out[2] = __byte_perm(x.y, x.w, 0x5410);
  out[3] = __byte_perm(x.y, x.w, 0x7632);
}

// Scales, or biases, of the units from `unit` on. `wide`: they are at multiples of their length and all there.
MSL_INLINE void read_scales(const uchar* row, uint unit, uint units, bool wide, uint (&bits)[UNIT_SCALES]) {
  const ushort* p = (const ushort*)row + unit * UNIT / GROUP_SIZE;
  if (UNIT_SCALES == 2 && wide) {
    const uint word = *(const uint*)p;
    bits[0] = word & 0xffffu, bits[UNIT_SCALES - 1] = word >> 16;
  } else {
#pragma unroll
    for (uint i = 0; i < UNIT_SCALES; i++) {
      bits[i] = (unit * UNIT / GROUP_SIZE + i) * GROUP_SIZE < units * UNIT ? uint(p[i]) : 0u;
    }
  }
}

struct all_units {
  static constexpr bool value = true;
};
struct some_units {
  static constexpr bool value = false;
};

MSL_INLINE float scale_of(uint bits) {
  const ushort one = ushort(bits);
  return SCALE_TYPE == 2 ? as_type<float>(bits << 16) : float(as_type<half>(one));
}

}  // namespace tensor

template <typename F>
static void linear_mv_tensor(const uchar* x, const uchar* codes, const uchar* scales, const uchar* biases, uchar* output,
                             const LinearShape& p, const uint* ids, const uint* chosen, const uchar* bias, uint2 group,
                             uint warp, uint lane) {
  using namespace tensor;
  float(*parts)[MV_OUTPUTS * MV_ROWS] = (float(*)[MV_OUTPUTS * MV_ROWS])on_cuda::threadgroup_memory;
  const uint first_out = group.x * MV_OUTPUTS, first_row = group.y * MV_ROWS, thread = warp * 32 + lane;
  uint expert = 0;
  if (GATHERED) expert = ids[first_row];
  const bool has_weights = expert < p.experts;
  const uint units = has_weights ? p.k / UNIT : 0, matrix = has_weights ? expert : 0;
  // The lane's row of x: column `outer` of operand B.
  const uint outer = lane / 4, inner = lane % 4;
  const uint row = first_row + outer;
  bool has_x = outer < MV_ROWS && row < p.m;
  uint x_row = 0;
  if (has_x) {
    x_row = CHOSEN ? chosen[row] : row / p.rows_per_x;
    has_x = x_row < p.x_rows;
  }
  const uchar* own_x = x + ((size_t)(has_x ? x_row : 0) * p.k + inner * PIECE) * 2;
  WeightRow w[2];
#pragma unroll
  for (uint h = 0; h < 2; h++) {
    // Rows beyond the last repeat it: nothing is stored for them.
    w[h] = weight_row(codes, scales, biases, matrix, p.n, min(first_out + outer + 8 * h, p.n - 1), p.codes_stride,
                      p.scales_stride);
    w[h].codes += inner * (PIECE / 2);
  }
  const bool aligned =
      (((size_t)scales | (size_t)biases | p.scales_stride) & (2 * UNIT_SCALES - 1)) == 0;

  float total[4] = {0, 0, 0, 0};
  // `ALL`: whether all of the units are there, at addresses that take wide loads. What is asked of each load costs a third of the time.
  auto add_units = [&](uint unit, auto all) {
    constexpr bool ALL = decltype(all)::value;
    uint word[2][AHEAD][PIECE_WORDS];
    uint scale[2][UNIT_SCALES], offset[2][UNIT_SCALES];
#pragma unroll
    for (uint j = 0; j < AHEAD; j++) {
      const bool is_there = ALL || unit + j < units;
#pragma unroll
      for (uint h = 0; h < 2; h++) {
        const uchar* from = w[h].codes + (size_t)(unit + j) * (UNIT / 2);
        if (PIECE_WORDS == 2) {
          const uint2 two = is_there ? *(const uint2*)from : uint2(0, 0);
          word[h][j][0] = two.x, word[h][j][PIECE_WORDS - 1] = two.y;
        } else {
          word[h][j][0] = is_there ? *(const uint*)from : 0;
        }
      }
    }
#pragma unroll
    for (uint h = 0; h < 2; h++) {
      read_scales(w[h].scales, unit, units, ALL, scale[h]);
      read_scales(w[h].biases, unit, units, ALL, offset[h]);
    }
#pragma unroll
    for (uint j = 0; j < AHEAD; j++) {
      const bool is_there = ALL || unit + j < units;
      float dot[4] = {0, 0, 0, 0}, sum[4] = {0, 0, 0, 0};
      const uint one = MV_BFLOAT ? 0x3f803f80u : 0x3c003c00u;
      const uint ones[4] = {one, one, one, one};
#pragma unroll
      for (uint i = 0; i < PIECE_WORDS; i++) {
        uint low[4], high[4], b[4];
        const uint4* from = (const uint4*)(own_x + (size_t)(unit + j) * (UNIT * 2)) + i;
        const uint4 values = has_x && is_there ? *from : uint4(0, 0, 0, 0);
        pairs_of(word[0][j][i], low);
        pairs_of(word[1][j][i], high);
        pairs_of(values, b);
#pragma unroll
        for (uint s = 0; s < 4; s += 2) {
          const uint a[4] = {low[s], high[s], low[s + 1], high[s + 1]};
          const uint both[2] = {b[s], b[s + 1]};
          multiply<MV_BFLOAT>(dot, a, both);
          multiply<MV_BFLOAT>(sum, ones, both);
        }
      }
      constexpr uint UNITS_OF_SCALE = AHEAD / UNIT_SCALES;
#pragma unroll
      for (uint h = 0; h < 2; h++) {
        const float by = scale_of(scale[h][j / UNITS_OF_SCALE]);
        float add = scale_of(offset[h][j / UNITS_OF_SCALE]);
        if (MV_BFLOAT) add -= 128.0f * by;
        total[2 * h] += by * dot[2 * h] + add * sum[2 * h];
        total[2 * h + 1] += by * dot[2 * h + 1] + add * sum[2 * h + 1];
      }
    }
  };
  if (aligned && units % AHEAD == 0) {
    for (uint unit = warp * AHEAD; unit < units; unit += MV_WARPS * AHEAD) add_units(unit, all_units());
  } else {
    for (uint unit = warp * AHEAD; unit < units; unit += MV_WARPS * AHEAD) add_units(unit, some_units());
  }
#pragma unroll
  for (uint i = 0; i < 4; i++) {
    const uint column = inner * 2 + i % 2;
    if (column < MV_ROWS) parts[warp][column * MV_OUTPUTS + outer + i / 2 * 8] = total[i];
  }
  __syncthreads();
  const uint column = thread / MV_OUTPUTS, out = first_out + thread % MV_OUTPUTS, out_row = first_row + column;
  const bool is_mine = thread < MV_OUTPUTS * MV_ROWS && out < p.n && out_row < p.m;
  float value = 0;
  if (is_mine) {
    for (uint i = 0; i < MV_WARPS; i++) value += parts[i][thread];
  }
  if (__syncthreads_or(is_mine && !is_finite(value))) {
    if (thread < MV_OUTPUTS * MV_ROWS) parts[0][thread] = value;
    __syncthreads();
    for (uint o = warp; o < MV_OUTPUTS * MV_ROWS; o += MV_WARPS) {
      if (is_finite(parts[0][o])) continue;
      const uint its_row = first_row + o / MV_OUTPUTS;
      const uint its_x = CHOSEN ? chosen[its_row] : its_row / p.rows_per_x;
      const WeightRow its = weight_row(codes, scales, biases, matrix, p.n, first_out + o % MV_OUTPUTS, p.codes_stride,
                                       p.scales_stride);
      float sum = 0;
      for (uint k = lane * RUN; k < p.k; k += 32 * RUN) {
        F run;
        run.read(its, k, RUN);
        for (uint i = 0; i < RUN; i++) sum += run.weight(i) * float_at(x, X_TYPE, (size_t)its_x * p.k + k + i);
      }
      sum = simd_sum(sum);
      if (lane == 0) parts[0][o] = sum;
    }
    __syncthreads();
    if (is_mine) value = parts[0][thread];
  }
  if (is_mine) {
    if (BIASED && has_weights) value += float_at(bias, X_TYPE, (size_t)expert * p.n + out);
    put_float(output, X_TYPE, (size_t)out_row * p.n + out, value);
  }
}
