//! Defects and their findings.

use super::*;
use mlx_native::backend::emulator::Severity;

/// Runs a planted kernel on 256 threads a group: `a` holds 0, 1, 2, … (read only), `o` is 256 floats, `n` is 256.
fn planted(body: &str, kernel: &str, checked: bool, groups: u32, schedule: Schedule) -> Report {
    let kernel = compile(body, kernel, checked);
    let a: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let mut o = vec![0f32; 256];
    let n = 256u32.to_le_bytes();
    let all = [
        (0, input(&a)),
        (1, buffer(&mut o)),
        (2, LaunchArgument::Bytes(&n)),
    ];
    let wanted: Vec<u32> = kernel.signature().bindings.iter().map(|b| b.index).collect();
    let arguments: Vec<_> = all.into_iter().filter(|(i, _)| wanted.contains(i)).collect();
    let grid = LaunchGrid::Threadgroups([groups, 1, 1]);
    run(
        &kernel,
        &Launch {
            schedule,
            ..Launch::new(grid, [256, 1, 1], &arguments)
        },
    )
}

/// The defect is found, and nothing else, under every schedule, at one of `lines`.
fn found(body: &str, checked: bool, groups: u32, kind: FindingKind, lines: &[u32]) {
    for schedule in SCHEDULES {
        let report = planted(body, "f", checked, groups, schedule);
        let first = only(&report, kind);
        assert!(lines.contains(&first.line), "{schedule:?}: {first}");
        assert_eq!(first.severity == Severity::Error, report.errors > 0);
        assert_eq!(first.kernel, "f");
    }
}

/// Nothing is found under any schedule, with and without the checker.
fn silent(body: &str, groups: u32) {
    for checked in [false, true] {
        for schedule in SCHEDULES {
            let report = planted(body, "f", checked, groups, schedule);
            assert!(
                report.findings.is_empty(),
                "{schedule:?}, checked {checked}: {}",
                report.findings[0]
            );
        }
    }
}

#[test]
fn read_out_of_bounds() {
    let body = "kernel void f(device const float* a [[buffer(0)]], device float* o [[buffer(1)]],
  constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  if (i > n) return;
  o[i & 255] = a[i];
}";
    found(body, true, 2, FindingKind::OutOfBounds, &[6]);
    let first = planted(body, "f", true, 2, Schedule::Forward).findings.remove(0);
    assert_eq!((first.thread, first.group), ([0, 0, 0], [1, 0, 0]));
    assert!(
        first.message.contains("`a`: offset 1024 of 1024 bytes"),
        "{first}"
    );
}

#[test]
fn write_out_of_bounds() {
    let body = "kernel void f(device float* o [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  o[i * 2] = 1;
}";
    found(body, true, 1, FindingKind::OutOfBounds, &[4]);
}

#[test]
fn inline_bytes_have_bounds() {
    let body = "struct P { uint n; float s; };
kernel void f(constant P& p [[buffer(2)]], device float* o [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  o[i] = p.s;
}";
    found(body, true, 1, FindingKind::OutOfBounds, &[5]);
}

#[test]
fn threadgroup_memory_has_bounds() {
    let body = "kernel void f(device float* o [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[255];
  threadgroup float* p = s;
  p[i] = 1;
  o[i] = 0;
}";
    found(body, true, 1, FindingKind::OutOfBounds, &[6]);
}

#[test]
fn array_index_out_of_range() {
    let body = "kernel void f(device float* o [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  float v[4] = {1, 2, 3, 4};
  o[i] = v[i & 7];
}";
    found(body, true, 1, FindingKind::OutOfBounds, &[5]);
}

#[test]
fn division_by_zero() {
    let body = "kernel void f(device float* o [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  o[i] = float(7u / (i & 3));
}";
    found(body, true, 1, FindingKind::DivisionByZero, &[4]);
}

#[cfg(target_os = "linux")]
#[test]
fn faults_do_not_end_the_process() {
    let divide = "kernel void f(device int* o [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  o[i] = 7 / o[i];
}";
    found(divide, false, 3, FindingKind::DivisionByZero, &[4]);
    let wild = "kernel void f(device float* o [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  if (i == 40) o[0x100000000000ul] = 1;
  o[i] = 2;
}";
    found(wild, false, 3, FindingKind::Fault, &[4]);
    let deep = "int deep(device float* o, int n) { volatile int local[2000]; local[n] = n; return n > 1990 ? local[n] : deep(o, n + 1) + local[n]; }
kernel void f(device float* o [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  o[i] = deep(o, 0);
}";
    found(deep, false, 1, FindingKind::Fault, &[3]);
    let message = planted(deep, "f", false, 1, Schedule::Forward)
        .findings
        .remove(0)
        .message;
    assert!(message.contains("stack"), "{message}");
}

#[test]
fn write_to_a_read_only_buffer() {
    let body = "kernel void f(device const float* a [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  device float* p = const_cast<device float*>(a);
  p[i] = 1;
}";
    found(body, true, 1, FindingKind::ReadOnlyWrite, &[5]);
}

#[test]
fn missing_threadgroup_barrier() {
    let body = "kernel void f(device const float* a [[buffer(0)]], device float* o [[buffer(1)]],
  uint i [[thread_index_in_threadgroup]], uint n [[threads_per_threadgroup]]) {
  threadgroup float s[256];
  s[i] = a[i];
  for (uint k = n / 2; k > 0; k >>= 1) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i < k) s[i] += s[i + k];
  }
  if (i < 4) o[i] = s[0];
}";
    found(body, true, 1, FindingKind::Race, &[9, 11]);
    // Without the checker the order of threads shows in the result.
    let result = |schedule| {
        let kernel = compile(body, "f", false);
        let a: Vec<f32> = (0..256).map(|i| i as f32).collect();
        let mut o = vec![0f32; 256];
        let arguments = [(0, input(&a)), (1, buffer(&mut o))];
        let (grid, group) = one_group(256);
        run(
            &kernel,
            &Launch {
                schedule,
                ..Launch::new(grid, group, &arguments)
            },
        );
        o[..4].to_vec()
    };
    let results: Vec<Vec<f32>> = SCHEDULES.into_iter().map(result).collect();
    assert!(results.iter().any(|r| *r != results[0]), "{results:?}");
}

#[test]
fn missing_simdgroup_barrier() {
    let body = "kernel void f(device const float* a [[buffer(0)]], device float* o [[buffer(1)]],
  uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[256];
  s[i] = a[i];
  o[i] = s[i ^ 1];
}";
    let checked = planted(body, "f", true, 1, Schedule::Forward);
    assert!(
        checked.findings.iter().any(|f| f.kind == FindingKind::Race),
        "{:?}",
        checked.findings
    );
    silent(
        "kernel void f(device const float* a [[buffer(0)]], device float* o [[buffer(1)]],
  uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[256];
  s[i] = a[i];
  simdgroup_barrier(mem_flags::mem_threadgroup);
  o[i] = s[i ^ 1];
}",
        1,
    );
}

#[test]
fn barrier_with_the_wrong_flags() {
    let body = "kernel void f(device const float* a [[buffer(0)]], device float* o [[buffer(1)]],
  uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[256];
  s[i] = a[i];
  threadgroup_barrier(mem_flags::mem_device);
  o[i] = s[255 - i];
}";
    found(body, true, 1, FindingKind::WrongMemFlags, &[8]);
    let message = planted(body, "f", true, 1, Schedule::Forward)
        .findings
        .remove(0)
        .message;
    assert!(message.contains("the other is at line 6"), "{message}");
}

#[test]
fn uninitialised_threadgroup_memory() {
    let body = "kernel void f(device const float* a [[buffer(0)]], device float* o [[buffer(1)]],
  uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[256];
  if (i & 1) s[i] = a[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  o[i] = s[255 - i];
}";
    found(body, true, 1, FindingKind::UninitialisedThreadgroup, &[8]);
    let kernel = compile(body, "f", false);
    let a = vec![1f32; 256];
    let mut o = vec![0f32; 256];
    let arguments = [(0, input(&a)), (1, buffer(&mut o))];
    let (grid, group) = one_group(256);
    run(&kernel, &Launch::new(grid, group, &arguments));
    assert_eq!(
        o.iter().filter(|v| v.is_nan()).count(),
        128,
        "the poison is a NaN"
    );
}

#[test]
fn race_between_groups() {
    let body = "kernel void f(device float* o [[buffer(1)]], uint i [[thread_index_in_threadgroup]],
  uint g [[threadgroup_position_in_grid]]) {
  o[i] = float(g);
}";
    found(body, true, 2, FindingKind::Race, &[5]);
}

#[test]
fn race_in_device_memory_of_one_group() {
    let body = "kernel void f(device float* o [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  o[i] = 1;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (i > 128) o[i - 128] = o[i] + 1;
}";
    found(body, true, 1, FindingKind::WrongMemFlags, &[6]);
}

#[test]
fn plain_access_beside_an_atomic() {
    let body = "kernel void f(device atomic_uint* c [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  if (i == 7) *(device uint*)c = 0;
  atomic_fetch_add_explicit(c, 1u, memory_order_relaxed);
}";
    found(body, true, 1, FindingKind::Race, &[4, 5]);
}

#[test]
fn barrier_that_some_do_not_reach() {
    let body = "kernel void f(device const float* a [[buffer(0)]], device float* o [[buffer(1)]],
  uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[256];
  s[i] = a[i];
  if (i >= 200) return;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  o[i] = s[i];
}";
    for checked in [false, true] {
        found(body, checked, 1, FindingKind::BarrierNotReached, &[8]);
    }
}

#[test]
fn two_different_barriers() {
    let body = "kernel void f(device float* o [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  if (i < 64) threadgroup_barrier(mem_flags::mem_threadgroup);
  else
    threadgroup_barrier(mem_flags::mem_threadgroup);
  o[i] = 1;
}";
    for checked in [false, true] {
        found(body, checked, 1, FindingKind::DifferentBarriers, &[4]);
    }
}

#[test]
fn divergent_simd_operation() {
    let body = "kernel void f(device const float* a [[buffer(0)]], device float* o [[buffer(1)]],
  uint i [[thread_index_in_threadgroup]]) {
  float v = a[i], r;
  if (i & 1) r = simd_sum(v);
  else
    r = simd_max(v);
  o[i] = r;
}";
    for checked in [false, true] {
        found(body, checked, 1, FindingKind::DivergentSimd, &[6, 8]);
    }
}

#[test]
fn matrix_operation_without_all_lanes() {
    let body = "kernel void f(device float* o [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  if (i == 255) return;
  simdgroup_float8x8 a(1.0f), b(1.0f), c(0.0f);
  simdgroup_multiply_accumulate(c, a, b, c);
  o[i] = c.thread_elements()[0];
}";
    found(body, false, 1, FindingKind::MismatchedSimd, &[6]);
}

#[test]
fn too_much_threadgroup_memory() {
    let body = "kernel void f(device float* o [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[4096], t[4097];
  s[i] = 0;
  t[i] = 0;
  o[i] = s[i] + t[i];
}";
    for schedule in SCHEDULES {
        let report = planted(body, "f", false, 1, schedule);
        assert_eq!(report.findings[0].kind, FindingKind::ThreadgroupMemory);
    }
}

#[test]
fn sound_kernels_are_silent() {
    silent(
        "kernel void f(device const float* a [[buffer(0)]], device float* o [[buffer(1)]],
  uint i [[thread_index_in_threadgroup]], uint n [[threads_per_threadgroup]],
  uint lane [[thread_index_in_simdgroup]], uint sg [[simdgroup_index_in_threadgroup]]) {
  threadgroup float s[256];
  threadgroup float partial[8];
  s[i] = a[i];
  for (uint k = n / 2; k > 0; k >>= 1) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i < k) s[i] += s[i + k];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float total = s[0];
  float mine = simd_sum(a[i]);
  if (lane == 0) partial[sg] = mine;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float again = simd_sum(lane < 8 ? partial[lane] : 0.0f);
  o[i] = total - again;
}",
        1,
    );
    // Atomics from many groups, half-words next to each other, early return without barriers.
    silent(
        "kernel void f(device atomic_uint* c [[buffer(1)]], device const half* a [[buffer(0)]],
  uint i [[thread_position_in_grid]]) {
  threadgroup half s[256];
  threadgroup atomic_uint count;
  uint l = i & 255;
  if (l == 0) atomic_store_explicit(&count, 0u, memory_order_relaxed);
  s[l] = a[l];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  atomic_fetch_add_explicit(&count, 1u, memory_order_relaxed);
  if (s[l] > 1.0h) return;
  atomic_fetch_max_explicit(&c[i & 7], i, memory_order_relaxed);
}",
        3,
    );
    // A table in constant memory, a local array, a copy of a structure.
    silent(
        "constant float table[4] = {1, 2.5, 3, 4};
struct P { float v[4]; };
kernel void f(device float* o [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  P p;
  for (uint k = 0; k < 4; k++) p.v[k] = table[k];
  thread P& q = p;
  float local[8] = {0};
  for (uint k = 0; k < 8; k++) local[k] += q.v[k & 3];
  o[i] = local[i & 7];
}",
        1,
    );
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let kernel = compile(
        "kernel void f(device float* o [[buffer(1)]], threadgroup float* s [[threadgroup(0)]],
  uint i [[thread_index_in_threadgroup]]) { s[i] = 1; o[i] = s[i]; }",
        "f",
        false,
    );
    let mut o = [0f32; 32];
    let arguments = [(1, buffer(&mut o))];
    let refused = |launch: &Launch<'_>| {
        // SAFETY: the buffer outlives the call.
        let error = unsafe { emulator().dispatch(&kernel, launch) }.expect_err("must be refused");
        error.to_string()
    };
    let memory = [(0, 128)];
    let launch = |group, arguments| Launch {
        threadgroup_memory: &memory,
        ..Launch::new(LaunchGrid::Threadgroups([1, 1, 1]), group, arguments)
    };
    assert!(refused(&launch([2000, 1, 1], &arguments)).contains("1 to 1024"));
    assert!(refused(&launch([0, 1, 1], &arguments)).contains("1 to 1024"));
    assert!(refused(&launch([32, 1, 1], &[])).contains("argument 1 (`o`) is missing"));
    let unknown = [(5, arguments[0].1)];
    assert!(refused(&launch([32, 1, 1], &unknown)).contains("no argument 5"));
    assert!(
        refused(&Launch::new(
            LaunchGrid::Threads([1, 1, 1]),
            [1, 1, 1],
            &arguments
        ))
        .contains("has no length")
    );
    let empty = Launch {
        grid: LaunchGrid::Threadgroups([1, 0, 1]),
        ..launch([32, 1, 1], &arguments)
    };
    assert!(refused(&empty).contains("grid"));
    assert!(run(&kernel, &launch([32, 1, 1], &arguments)).findings.is_empty());
}

#[test]
fn errors_of_the_compiler_name_the_line() {
    let message = |body| {
        try_compile(body, "f", &[], false)
            .expect_err("must not compile")
            .to_string()
    };
    let wrong = message(
        "kernel void f(device float* o [[buffer(0)]], uint i [[thread_position_in_grid]]) {\n  o[i] = nothing;\n}",
    );
    assert!(
        wrong.contains("planted.metal:4") && wrong.contains("nothing"),
        "{wrong}"
    );
    let unknown = message("kernel void g(device float* o [[buffer(0)]]) { o[0] = 1; }");
    assert!(
        unknown.contains("no kernel `f`") && unknown.contains('g'),
        "{unknown}"
    );
    let unset = message(
        "constant uint width [[function_constant(3)]];
kernel void f(device float* o [[buffer(0)]]) { o[0] = width; }",
    );
    assert!(unset.contains("`width`, which is not set"), "{unset}");
}
