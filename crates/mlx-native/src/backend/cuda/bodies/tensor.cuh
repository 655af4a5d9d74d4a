// What bodies for tensor cores share. Matrices are of 16-bit floats: half, or bfloat where IS_BFLOAT.

namespace tensor {

// Two floats, rounded to 16 bits each; the first in the low half.
template <bool IS_BFLOAT>
MSL_INLINE uint pack(float low, float high) {
  uint both;
  if (IS_BFLOAT) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  }
  return both;
}

// sums += a * b, a of 16 x 16 elements, b of 16 x 8. Lane l has of the sums row l / 4 (and + 8), columns 2 (l % 4) and + 1; of
// a and b the elements of k that `fragment` gives it.
template <bool IS_BFLOAT>
MSL_INLINE void multiply(float (&sums)[4], const uint (&a)[4], const uint (&b)[2]) {
  if (IS_BFLOAT) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

// sums = a * b.
template <bool IS_BFLOAT>
MSL_INLINE void multiply_first(float (&sums)[4], const uint (&a)[4], const uint (&b)[2]) {
  const float zero = 0;
  if (IS_BFLOAT) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
        : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(zero));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
        : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(zero));
  }
}

// The address of shared memory as instructions want it.
MSL_INLINE uint shared_address(const void* p) { return (uint)__cvta_generic_to_shared(p); }

// Copies 16 bytes to shared memory in the background, or fills them with zeros.
MSL_INLINE void copy_16(void* to, const void* from, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(is_there ? 16 : 0)
               : "memory");
}

MSL_INLINE void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all groups of copies but the last `N`.
template <int N>
MSL_INLINE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four matrices of 8 x 8 from shared memory: lane l names row l % 8 of matrix l / 8, 16 bytes. Each lane gets of row l / 4 of
// each matrix the elements 2 (l % 4) and + 1; of the transposed matrix in the second case.
MSL_INLINE void load_matrices(uint (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

MSL_INLINE void load_transposed(uint (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

}  // namespace tensor
