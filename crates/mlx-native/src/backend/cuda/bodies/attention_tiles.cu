// attention_tiles for 16 bits and heads of up to 128 elements, without mask and cap, on tensor cores: the same arguments,
// more rows a block.
//
// A block of 4 warps has 128 rows of one head, a warp 32 of them; it walks the keys 64 at a time. Scores, maxima and sums stay
// in registers; weights are rounded to 16 bits where they meet the values. Keys and values lie in shared memory, and each are
// brought while the others are used. The operator counts blocks of 8 * TILES rows: those that are not the first of 128 end at
// once.
//
// A product takes every value times every row's weight, also times 0, so that a value that is no number would reach rows that
// do not see it. A block whose results are not all finite does its rows again, one key after the other.

namespace tensor {

constexpr uint QUERIES = 128, BLOCK_KEYS = 64, ATTENTION_THREADS = 128;

// Brings `COUNT` rows of `dim` elements, D at most, into a tile; zeros beyond. `row_at` says where a row is, null for none.
template <uint COUNT, uint D, uint STRIDE, typename T, typename Where>
MSL_INLINE void bring_rows(T* tile, uint dim, uint thread, Where row_at) {
#pragma unroll 4
  for (uint chunk = thread; chunk < COUNT * (D / 8); chunk += ATTENTION_THREADS) {
    const uint row = chunk / (D / 8), column = chunk % (D / 8) * 8;
    const T* from = row_at(row);
    const bool is_there = from != nullptr && column < dim;
    copy_16(tile + row * STRIDE + column, is_there ? (const void*)(from + column) : (const void*)tile, is_there);
  }
}

// Rows of a block, one key after the other: a warp takes every fourth row.
template <typename T, uint D>
MSL_INLINE void rows_one_by_one(const T* q, const T* k, const T* v, T* output, const AttentionParams& p,
                                const uint* block_table, const float* sinks, Sequence seq, uint s, uint head,
                                uint first_query, uint n_queries, uint warp, uint lane) {
  const uint kv_head = head / (p.n_heads / p.n_kv_heads);
  const float factor = score_factor(p);
  for (uint r = warp; r < n_queries; r += 4) {
    const uint query = first_query + r, end = end_of(p, seq, query);
    float o[D / 32 + 1], m = NO_SCORE, l = 0;
#pragma unroll
    for (uint e = 0; e < D / 32 + 1; e++) o[e] = 0;
    for (uint key = low_of(p, end); key < end; key++) {
      const size_t row = key_row(p, block_table, s, kv_head, key);
      float score = 0;
      for (uint d = lane; d < p.head_dim; d += 32) score += float(q[r * (size_t)p.q_row_stride + d]) * float(k[row * p.head_dim + d]);
      score = simd_sum(score) * factor;
      const float new_m = max(m, score), keep = exp2(m - new_m), weight = exp2(score - new_m);
      m = new_m;
      l = l * keep + weight;
#pragma unroll
      for (uint e = 0; e < D / 32 + 1; e++) {
        const uint d = lane + 32 * e;
        o[e] *= keep;
        if (weight != 0.0f && d < p.v_dim) o[e] += weight * float(v[row * p.v_dim + d]);
      }
    }
    float scaled = 1;
    if (p.has_sinks != 0) {
      const float sink = sinks[head] * M_LOG2E_F, new_m = max(m, sink);
      scaled = exp2(m - new_m);
      l = l * scaled + exp2(sink - new_m);
    }
#pragma unroll
    for (uint e = 0; e < D / 32 + 1; e++) {
      const uint d = lane + 32 * e;
      if (d < p.v_dim) output[r * (size_t)p.out_row_stride + d] = T(l == 0.0f ? 0.0f : o[e] * scaled / l);
    }
  }
}

}  // namespace tensor

template <typename T, int DIM, int TILES, int SHARE, int KEYS, int CHUNK>
static void attention_tiles_tensor(const T* q, const T* k, const T* v, T* output, const AttentionParams& p,
                                   const uint* block_table, const uint* seq_starts, const uint* kv_lens, const uchar* mask,
                                   const float* sinks, uint3 group, uint3 groups, uint thread, uint warp, uint lane) {
  using namespace tensor;
  constexpr uint SLOT = 8 * TILES, D = (DIM + 15) / 16 * 16, STRIDE = D + 8;
  constexpr bool IS_BFLOAT = is_same<T, bfloat>::value;
  T* q_tile = (T*)on_cuda::threadgroup_memory;
  T* k_tile = q_tile + QUERIES * STRIDE;
  T* v_tile = k_tile + BLOCK_KEYS * STRIDE;

  const uint2 at = tile_of(p, seq_starts, groups.x - 1 - group.x, SLOT);
  const uint s = at.x;
  const Sequence seq = sequence_at(p, seq_starts, kv_lens, s);
  const uint first_query = at.y * SLOT;
  if (first_query % QUERIES != 0 || first_query >= seq.rows) return;
  const uint head = group.y, kv_head = head / (p.n_heads / p.n_kv_heads);
  const uint n_queries = min(QUERIES, seq.rows - first_query);
  const uint n_keys = end_of(p, seq, first_query + n_queries - 1);
  const uint start_key = low_of(p, end_of(p, seq, first_query)) / BLOCK_KEYS * BLOCK_KEYS;
  q += (seq.start + first_query) * p.q_row_stride + (size_t)head * p.q_head_stride;
  output += (seq.start + first_query) * p.out_row_stride + (size_t)head * p.out_head_stride;

  const auto key_at = [&](const T* pool, uint dim, uint key) -> const T* {
    return key < n_keys ? pool + (size_t)key_row(p, block_table, s, kv_head, key) * dim : nullptr;
  };
  bring_rows<QUERIES, D, STRIDE>(q_tile, p.head_dim, thread,
                                 [&](uint r) { return r < n_queries ? q + (size_t)r * p.q_row_stride : nullptr; });
  bring_rows<BLOCK_KEYS, D, STRIDE>(k_tile, p.head_dim, thread, [&](uint r) { return key_at(k, p.head_dim, start_key + r); });
  end_of_copies();

  // Rows of this lane: of tile i the rows lane / 4 and + 8.
  uint low[2][2], end[2][2];
  float m[2][2], l[2][2];
  float o[2][D / 8][4];
#pragma unroll
  for (uint i = 0; i < 2; i++) {
#pragma unroll
    for (uint h = 0; h < 2; h++) {
      const uint query = min(first_query + warp * 32 + i * 16 + h * 8 + lane / 4, seq.rows - 1);
      end[i][h] = end_of(p, seq, query);
      low[i][h] = low_of(p, end[i][h]);
      m[i][h] = NO_SCORE;
      l[i][h] = 0;
    }
#pragma unroll
    for (uint n = 0; n < D / 8; n++) {
#pragma unroll
      for (uint e = 0; e < 4; e++) o[i][n][e] = 0;
    }
  }
  const float factor = score_factor(p);

  for (uint first_key = start_key; first_key < n_keys; first_key += BLOCK_KEYS) {
    wait_for_copies<0>();
    __syncthreads();
    bring_rows<BLOCK_KEYS, D, STRIDE>(v_tile, p.v_dim, thread, [&](uint r) { return key_at(v, p.v_dim, first_key + r); });
    end_of_copies();

    float score[2][BLOCK_KEYS / 8][4];
#pragma unroll
    for (uint i = 0; i < 2; i++) {
#pragma unroll
      for (uint n = 0; n < BLOCK_KEYS / 8; n++) {
#pragma unroll
        for (uint e = 0; e < 4; e++) score[i][n][e] = 0;
      }
    }
#pragma unroll
    for (uint d = 0; d < D; d += 16) {
      uint a[2][4];
#pragma unroll
      for (uint i = 0; i < 2; i++) {
        load_matrices(a[i], q_tile + (warp * 32 + i * 16 + lane % 16) * STRIDE + d + lane / 16 * 8);
      }
#pragma unroll
      for (uint n = 0; n < BLOCK_KEYS / 16; n++) {
        uint four[4];
        load_matrices(four, k_tile + (n * 16 + lane / 16 * 8 + lane % 8) * STRIDE + d + lane / 8 % 2 * 8);
        const uint b[2][2] = {{four[0], four[1]}, {four[2], four[3]}};
#pragma unroll
        for (uint i = 0; i < 2; i++) {
          multiply<IS_BFLOAT>(score[i][2 * n], a[i], b[0]);
          multiply<IS_BFLOAT>(score[i][2 * n + 1], a[i], b[1]);
        }
      }
    }

    // Whether all rows see all keys of the tile.
    const bool is_full = first_key + BLOCK_KEYS <= end_of(p, seq, first_query) &&
                         first_key >= low_of(p, end_of(p, seq, first_query + n_queries - 1));
#pragma unroll
    for (uint i = 0; i < 2; i++) {
#pragma unroll
      for (uint n = 0; n < BLOCK_KEYS / 8; n++) {
#pragma unroll
        for (uint e = 0; e < 4; e++) score[i][n][e] *= factor;
      }
    }
    if (!is_full) {
      // Below the least maximum: the weight is 0, also where no key is seen yet.
#pragma unroll
      for (uint i = 0; i < 2; i++) {
#pragma unroll
        for (uint n = 0; n < BLOCK_KEYS / 8; n++) {
#pragma unroll
          for (uint e = 0; e < 4; e++) {
            const uint key = first_key + n * 8 + lane % 4 * 2 + e % 2;
            const bool is_seen = (key >= low[i][e / 2]) & (key < end[i][e / 2]);
            score[i][n][e] = is_seen ? score[i][n][e] : -INFINITY;
          }
        }
      }
    }
#pragma unroll
    for (uint i = 0; i < 2; i++) {
#pragma unroll
      for (uint h = 0; h < 2; h++) {
        float new_m = m[i][h];
#pragma unroll
        for (uint n = 0; n < BLOCK_KEYS / 8; n++) {
#pragma unroll
          for (uint e = 0; e < 2; e++) new_m = max(new_m, score[i][n][2 * h + e]);
        }
        new_m = max(new_m, simd_shuffle_xor(new_m, ushort(1)));
        new_m = max(new_m, simd_shuffle_xor(new_m, ushort(2)));
        const float keep = exp2(m[i][h] - new_m);
        float all = 0;
#pragma unroll
        for (uint n = 0; n < BLOCK_KEYS / 8; n++) {
#pragma unroll
          for (uint e = 0; e < 2; e++) {
            float& x = score[i][n][2 * h + e];
            x = exp2(x - new_m);
            all += x;
          }
        }
        m[i][h] = new_m;
        l[i][h] = l[i][h] * keep + all;
#pragma unroll
        for (uint n = 0; n < D / 8; n++) {
          o[i][n][2 * h] *= keep;
          o[i][n][2 * h + 1] *= keep;
        }
      }
    }

    wait_for_copies<0>();
    __syncthreads();
    bring_rows<BLOCK_KEYS, D, STRIDE>(k_tile, p.head_dim, thread,
                                      [&](uint r) { return key_at(k, p.head_dim, first_key + BLOCK_KEYS + r); });
    end_of_copies();
#pragma unroll
    for (uint n = 0; n < BLOCK_KEYS / 16; n++) {
      uint a[2][4];
#pragma unroll
      for (uint i = 0; i < 2; i++) {
        a[i][0] = pack<IS_BFLOAT>(score[i][2 * n][0], score[i][2 * n][1]);
        a[i][1] = pack<IS_BFLOAT>(score[i][2 * n][2], score[i][2 * n][3]);
        a[i][2] = pack<IS_BFLOAT>(score[i][2 * n + 1][0], score[i][2 * n + 1][1]);
        a[i][3] = pack<IS_BFLOAT>(score[i][2 * n + 1][2], score[i][2 * n + 1][3]);
      }
#pragma unroll
      for (uint d = 0; d < D; d += 16) {
        uint four[4];
        load_transposed(four, v_tile + (n * 16 + lane % 16) * STRIDE + d + lane / 16 * 8);
        const uint b[2][2] = {{four[0], four[1]}, {four[2], four[3]}};
#pragma unroll
        for (uint i = 0; i < 2; i++) {
          multiply<IS_BFLOAT>(o[i][d / 8], a[i], b[0]);
          multiply<IS_BFLOAT>(o[i][d / 8 + 1], a[i], b[1]);
        }
      }
    }
  }
  wait_for_copies<0>();

  const bool in_pairs = ((size_t)output & 3) == 0 && p.out_row_stride % 2 == 0 && p.v_dim % 2 == 0;
  bool finite = true;
#pragma unroll
  for (uint i = 0; i < 2; i++) {
#pragma unroll
    for (uint h = 0; h < 2; h++) {
      const uint r = warp * 32 + i * 16 + h * 8 + lane / 4;
      float sum = l[i][h];
      sum += simd_shuffle_xor(sum, ushort(1));
      sum += simd_shuffle_xor(sum, ushort(2));
      float scaled = 1;
      if (p.has_sinks != 0) {
        const float sink = sinks[head] * M_LOG2E_F, new_m = max(m[i][h], sink);
        scaled = exp2(m[i][h] - new_m);
        sum = sum * scaled + exp2(sink - new_m);
      }
      scaled = sum == 0.0f ? 0.0f : scaled / sum;
#pragma unroll
      for (uint n = 0; n < D / 8; n++) {
        const uint d = n * 8 + lane % 4 * 2;
        const float x = o[i][n][2 * h] * scaled, y = o[i][n][2 * h + 1] * scaled;
        finite = finite && is_finite(x) && is_finite(y);
        if (r >= n_queries || d >= p.v_dim) continue;
        const size_t to = (size_t)r * p.out_row_stride + d;
        if (in_pairs) {
          *(uint*)(output + to) = pack<IS_BFLOAT>(x, y);
        } else {
          output[to] = T(x);
          if (d + 1 < p.v_dim) output[to + 1] = T(y);
        }
      }
    }
  }
  if (__syncthreads_or(!finite)) {
    rows_one_by_one<T, D>(q, k, v, output, p, block_table, sinks, seq, s, head, first_query, n_queries, warp, lane);
  }
}
