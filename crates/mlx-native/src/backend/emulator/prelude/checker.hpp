// What instrumented code calls. The compiler's kernel-address sanitizer announces every access of the kernel, the
// undefined-behaviour sanitizer every bad index of an array; both end in the runtime, which knows the buffers.
#pragma once
#ifdef EMU_CHECKED

extern "C" {

#define EMU_ACCESS(P, N, W) emu_rt->access(emu::world()->engine, (const void*)(P), N, W, __builtin_return_address(0))
#define EMU_HOOK __attribute__((noinline, used, visibility("hidden"))) EMU_UNCHECKED
#define EMU_SIZED_HOOKS(N)                                                      \
  EMU_HOOK void __asan_load##N##_noabort(void* p) { EMU_ACCESS(p, N, false); }  \
  EMU_HOOK void __asan_store##N##_noabort(void* p) { EMU_ACCESS(p, N, true); }
EMU_SIZED_HOOKS(1)
EMU_SIZED_HOOKS(2)
EMU_SIZED_HOOKS(4)
EMU_SIZED_HOOKS(8)
EMU_SIZED_HOOKS(16)
EMU_HOOK void __asan_loadN_noabort(void* p, size_t n) { EMU_ACCESS(p, n, false); }
EMU_HOOK void __asan_storeN_noabort(void* p, size_t n) { EMU_ACCESS(p, n, true); }
EMU_HOOK void* __asan_memcpy(void* to, const void* from, size_t n) {
  EMU_ACCESS(from, n, false);
  EMU_ACCESS(to, n, true);
  return __builtin_memcpy(to, from, n);
}
EMU_HOOK void* __asan_memmove(void* to, const void* from, size_t n) {
  EMU_ACCESS(from, n, false);
  EMU_ACCESS(to, n, true);
  return __builtin_memmove(to, from, n);
}
EMU_HOOK void* __asan_memset(void* to, int byte, size_t n) {
  EMU_ACCESS(to, n, true);
  return __builtin_memset(to, byte, n);
}
EMU_HOOK void __asan_handle_no_return() {}

// The head of every report of the undefined-behaviour sanitizer.
struct emu_source {
  const char* file;
  uint line, column;
};
EMU_HOOK void __ubsan_handle_out_of_bounds(emu_source* at, ulong index) {
  emu_rt->trap(emu::world()->engine, 0, (long)index, at->file, at->line);
}
EMU_HOOK void __ubsan_handle_divrem_overflow(emu_source* at, ulong, ulong) {
  emu_rt->trap(emu::world()->engine, 1, 0, at->file, at->line);
}

}  // extern "C"

#endif
