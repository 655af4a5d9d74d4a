// The ground of the prelude: integer names, the runtime's interface, library constants.
//
// A kernel's text, rewritten to C++, is compiled behind these headers for the host. Memory is flat; every thread of a
// threadgroup is a fiber; what only a GPU can do (barriers, simdgroup operations) is asked of the runtime through a
// table of functions. Everything internal lives in namespace `emu`, what MSL names in namespace `metal`.
#pragma once

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef unsigned long uintptr_t;
typedef long intptr_t;
typedef _Float16 half;

static_assert(sizeof(int) == 4 && sizeof(long) == 8 && sizeof(void*) == 8, "MSL's integer sizes");

#define EMU_INLINE inline __attribute__((__always_inline__))
// Code that the access checker must not see: it works for the emulator, not for the kernel. Where such code is inlined
// by force, the checker sees it all the same: only what touches the worker's region may be.
#define EMU_UNCHECKED __attribute__((no_sanitize("kernel-address", "array-bounds", "integer-divide-by-zero")))
// Trailing parameters that carry the caller's line.
#define EMU_HERE int line_ = __builtin_LINE(), const char* file_ = __builtin_FILE()

// ---- the runtime ---------------------------------------------------------------------------------------------------
// Mirrored in `abi.rs`; EMU_ABI changes with it.
#define EMU_ABI 1

extern "C" {
struct emu_group {
  uint threadgroup_position_in_grid[3];
  uint threads_per_threadgroup[3];
  uint dispatch_threads_per_threadgroup[3];
  uint threadgroups_per_grid[3];
  uint threads_per_grid[3];
  uint simdgroups_per_threadgroup;
  void* const* buffers;
  void* const* threadgroup;
};
struct emu_lane {
  uint thread_position_in_threadgroup[3];
  uint thread_index_in_threadgroup;
};
struct emu_world {
  const emu_lane* lane;
  const emu_group* group;
  void* engine;
  ulong reduction_seed;
};
// Computes the results of all lanes in `mask` from their inputs; lane l's slots are at l * stride.
typedef void (*emu_simd_function)(const uchar* in, uchar* out, uint mask, uint stride, ulong seed);
struct emu_runtime {
  const void* (*simd)(void* engine, emu_simd_function f, const void* in, uint size, bool whole, int line, const char* file,
                      const void* site);
  void (*barrier)(void* engine, int flags, int line, const char* file, const void* site);
  void (*simdgroup_barrier)(void* engine, int flags, int line, const char* file, const void* site);
  void* (*threadgroup_variable)(void* engine, uint id, ulong size, bool zeroed);
  void (*atomic)(void* engine, const volatile void* p, ulong size, bool writes, int line, const char* file);
  void (*access)(void* engine, const void* p, ulong size, bool writes, const void* pc);
  void (*trap)(void* engine, int kind, long value, const char* file, uint line);
};
typedef void (*emu_entry_function)();

__attribute__((visibility("default"))) const emu_runtime* emu_rt = 0;
}

namespace emu {

// Every fiber's stack lies in one aligned region of its worker; the region begins with the world.
EMU_INLINE EMU_UNCHECKED emu_world* world() {
  uintptr_t sp;
#if defined(__x86_64__)
  __asm__("movq %%rsp, %0" : "=r"(sp));
#elif defined(__aarch64__)
  __asm__("mov %0, sp" : "=r"(sp));
#else
#error "the emulator runs on x86-64 and aarch64"
#endif
  return (emu_world*)(sp & ~((uintptr_t)EMU_REGION_BYTES - 1));
}

}  // namespace emu

// The rendez-vous points. Out of line, so that their return address names the operation in the kernel; `convergent`, so
// that the optimiser neither duplicates them nor makes them depend on more control flow.
extern "C" {
__attribute__((noinline, convergent)) EMU_UNCHECKED static const void* emu_simd(emu_simd_function f, const void* in, uint size,
                                                                                bool whole, int line, const char* file) {
  return emu_rt->simd(emu::world()->engine, f, in, size, whole, line, file, __builtin_return_address(0));
}
__attribute__((noinline, convergent)) EMU_UNCHECKED static void emu_barrier(int flags, int line, const char* file) {
  emu_rt->barrier(emu::world()->engine, flags, line, file, __builtin_return_address(0));
}
__attribute__((noinline, convergent)) EMU_UNCHECKED static void emu_simdgroup_barrier(int flags, int line, const char* file) {
  emu_rt->simdgroup_barrier(emu::world()->engine, flags, line, file, __builtin_return_address(0));
}
}

namespace emu {

// Thread indices, read where the checker does not look.
__attribute__((noinline)) EMU_UNCHECKED static uint thread_index() { return world()->lane->thread_index_in_threadgroup; }
EMU_INLINE uint lane_index() { return thread_index() & 31u; }

// A `threadgroup` variable of a kernel.
__attribute__((noinline)) EMU_UNCHECKED static void* threadgroup_memory(uint id, size_t size, bool zeroed) {
  return emu_rt->threadgroup_variable(world()->engine, id, size, zeroed);
}
template <class T>
EMU_INLINE T& threadgroup_variable(uint id, bool zeroed) {
  return *(T*)threadgroup_memory(id, sizeof(T), zeroed);
}

}  // namespace emu

// ---- constants of the library --------------------------------------------------------------------------------------
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define HUGE_VALH half(__builtin_inff())
#define FLT_DIG 6
#define FLT_MANT_DIG 24
#define FLT_MAX 0x1.fffffep127f
#define FLT_MIN 0x1p-126f
#define FLT_EPSILON 0x1p-23f
#define MAXFLOAT FLT_MAX
#define HALF_MAX half(65504.0f)
#define MAXHALF HALF_MAX
#define HALF_MIN half(0x1p-14f)
#define HALF_EPSILON half(0x1p-10f)
#define CHAR_BIT 8
#define CHAR_MAX 127
#define CHAR_MIN (-128)
#define SCHAR_MAX 127
#define SCHAR_MIN (-128)
#define UCHAR_MAX 255
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX 9223372036854775807L
#define LONG_MIN (-9223372036854775807L - 1)
#define ULONG_MAX 18446744073709551615UL
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.43429448190325182765f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.78539816339744830962f
#define M_1_PI_F 0.31830988618379067154f
#define M_2_PI_F 0.63661977236758134308f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f
#define METAL_INTERNAL inline
#define METAL_CONST const
#define METAL_PURE

namespace std {
// What the compiler builds for `{a, b, c}`.
template <class E>
class initializer_list {
  const E* begin_;
  size_t size_;

 public:
  constexpr initializer_list() : begin_(0), size_(0) {}
  constexpr size_t size() const { return size_; }
  constexpr const E* begin() const { return begin_; }
  constexpr const E* end() const { return begin_ + size_; }
};
}  // namespace std
