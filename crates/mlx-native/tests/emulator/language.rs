//! What MSL means: arithmetic, vectors, simdgroup operations, templates, constants.

use super::*;
use half::{bf16, f16};

/// Runs `kernel` on `threads` threads in groups of up to 32·8, with `o` at index 0 and the inputs behind it; checks that
/// nothing is found, with and without the checker, under every schedule, and that the results agree to the bit.
fn results<T: Copy + PartialEq + std::fmt::Debug>(
    body: &str,
    kernel: &str,
    threads: u32,
    zero: &[T],
    inputs: &[LaunchArgument<'_>],
) -> Vec<T> {
    let mut first: Option<Vec<T>> = None;
    for checked in [false, true] {
        let kernel = compile(body, kernel, checked);
        for schedule in SCHEDULES {
            let mut o = zero.to_vec();
            let mut arguments = vec![(0, buffer(&mut o))];
            arguments.extend(inputs.iter().enumerate().map(|(i, a)| (i as u32 + 1, *a)));
            let grid = LaunchGrid::Threads([threads, 1, 1]);
            let launch = Launch {
                schedule,
                workers: 3,
                ..Launch::new(grid, [threads.min(256), 1, 1], &arguments)
            };
            let report = run(&kernel, &launch);
            assert!(report.findings.is_empty(), "{schedule:?}: {}", report.findings[0]);
            // Bit patterns, so that NaN equals NaN.
            let bits = |v: &[T]| format!("{v:?}");
            assert!(
                first.as_ref().is_none_or(|f| bits(f) == bits(&o)),
                "{schedule:?} differs"
            );
            first = Some(o);
        }
    }
    first.expect("there are schedules")
}

fn f32s(body: &str, threads: u32, n: usize, inputs: &[LaunchArgument<'_>]) -> Vec<f32> {
    results(body, "f", threads, &vec![-1f32; n], inputs)
}

fn u32s(body: &str, threads: u32, n: usize) -> Vec<u32> {
    results(body, "f", threads, &vec![u32::MAX; n], &[])
}

#[test]
fn half_rounds_after_every_operation() {
    let a: Vec<f16> = (0..3000)
        .map(|i| f16::from_f32(((i * 7919) % 2003) as f32 / 500.0 - 2.0))
        .collect();
    let body = "kernel void f(device half* o [[buffer(0)]], device const half* a [[buffer(1)]],
  uint i [[thread_position_in_grid]]) { o[i] = a[3 * i] * a[3 * i + 1] + a[3 * i + 2]; }";
    let o = results(body, "f", 1000, &vec![f16::ZERO; 1000], &[input(&a)]);
    let mut differs = 0;
    for (i, got) in o.iter().enumerate() {
        let [x, y, z] = [a[3 * i], a[3 * i + 1], a[3 * i + 2]];
        let product = f16::from_f32(x.to_f32() * y.to_f32());
        assert_eq!(*got, f16::from_f32(product.to_f32() + z.to_f32()), "element {i}");
        differs += usize::from(*got != f16::from_f32(x.to_f32() * y.to_f32() + z.to_f32()));
    }
    assert!(differs > 10, "rounding once would have been the same everywhere");
}

#[test]
fn bfloat_rounds_to_nearest_even() {
    let a: Vec<bf16> = (0..3000)
        .map(|i| bf16::from_f32(((i * 7919) % 2003) as f32 / 500.0 - 2.0))
        .collect();
    let body = "kernel void f(device bfloat* o [[buffer(0)]], device const bfloat* a [[buffer(1)]],
  uint i [[thread_position_in_grid]]) { o[i] = a[3 * i] * a[3 * i + 1] + a[3 * i + 2]; }";
    let o = results(body, "f", 1000, &vec![bf16::ZERO; 1000], &[input(&a)]);
    for (i, got) in o.iter().enumerate() {
        let [x, y, z] = [a[3 * i], a[3 * i + 1], a[3 * i + 2]];
        let product = bf16::from_f32(x.to_f32() * y.to_f32());
        assert_eq!(*got, bf16::from_f32(product.to_f32() + z.to_f32()), "element {i}");
    }
    // Ties, NaN, infinity, overflow.
    let special = [
        1.0f32,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
        f32::NAN,
        f32::INFINITY,
        f32::MAX,
        -0.0,
        1e-40,
    ];
    let body = "kernel void f(device bfloat* o [[buffer(0)]], device const float* a [[buffer(1)]],
  uint i [[thread_position_in_grid]]) { o[i] = static_cast<bfloat>(a[i]); }";
    let o = results(body, "f", 8, &[bf16::ZERO; 8], &[input(&special)]);
    for (got, x) in o.iter().zip(special) {
        let wanted = bf16::from_f32(x);
        assert!(
            got.to_bits() == wanted.to_bits() || (got.is_nan() && wanted.is_nan()),
            "{x}: {got}"
        );
    }
}

#[test]
fn bfloat_does_not_come_from_float_by_itself() {
    let body = "kernel void f(device bfloat* o [[buffer(0)]]) { o[0] = 1.5f; }";
    assert!(matches!(
        try_compile(body, "f", &[], false),
        Err(EmulatorError::Compile { .. })
    ));
}

#[test]
fn swizzles() {
    let body = "kernel void f(device float* o [[buffer(0)]]) {
  float4 v = float4(1, 2, 3, 4);
  v.xy = v.zw;
  v.zw += v.xx * 2;
  float3 q = v.wzy;
  float2 r = v.rg;
  uchar4 u = uchar4(255, 0, 128, 64);
  float4 g = float4(u) / 255.0;
  bool4 b = g > 0.5;
  o[0] = v.x; o[1] = v.y; o[2] = v.z; o[3] = v.w;
  o[4] = q.x; o[5] = q.y; o[6] = q.z;
  o[7] = r.x + r.y;
  o[8] = float(any(b)) + 2 * float(all(b));
  o[9] = dot(float3(1, 2, 3), float3(4, 5, 6));
  o[10] = float4(v.xy, q.x, 7).w;
  v[1] = 9; o[11] = v.y;
  o[12] = as_type<float>(0x3f800000u);
  o[13] = float(as_type<half2>(0x3c004000u).y);
  o[14] = select(1.0f, 2.0f, g.z > 0.25f);
  o[15] = fma(2.0f, 3.0f, 4.0f) + clamp(5.0f, 0.0f, 1.0f);
}";
    let o = f32s(body, 1, 16, &[]);
    assert_eq!(
        o,
        [
            3.0, 4.0, 9.0, 10.0, 10.0, 9.0, 4.0, 7.0, 1.0, 32.0, 7.0, 9.0, 1.0, 1.0, 2.0, 11.0
        ]
    );
}

#[test]
fn vectors_of_three_take_the_room_of_four() {
    let body = "struct S { float a; float3 v; packed_float3 p; half b; };
static_assert(sizeof(float3) == 16 && sizeof(packed_float3) == 12 && sizeof(S) == 48, \"layout\");
kernel void f(device float3* o [[buffer(0)]], device const packed_float3* p [[buffer(1)]],
  uint i [[thread_position_in_grid]]) { o[i] = float3(p[i]) * 2; }";
    let p: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let o = f32s(body, 4, 16, &[input(&p)]);
    for i in 0..4 {
        let wanted: Vec<f32> = (0..3).map(|k| 2.0 * (3 * i + k) as f32).collect();
        assert_eq!(o[4 * i..4 * i + 3], wanted);
    }
}

#[test]
fn simdgroup_operations() {
    let body = "kernel void f(device uint* o [[buffer(0)]], uint l [[thread_index_in_simdgroup]]) {
  o[l] = simd_prefix_exclusive_sum(l);
  o[32 + l] = simd_shuffle_down(l, ushort(2));
  o[64 + l] = simd_shuffle_xor(l, ushort(5));
  o[96 + l] = quad_sum(l);
  o[128 + l] = simd_broadcast(l * l, ushort(7));
  o[160 + l] = uint(ulong(simd_ballot(l % 3 == 0)));
  o[192 + l] = simd_max(l ^ 21u) * 100 + simd_min(l + 3);
  o[224 + l] = simd_shuffle(l * 2, ushort(31 - l));
  o[256 + l] = simd_shuffle_up(l, ushort(1)) + 64 * simd_prefix_inclusive_sum(1u);
  o[288 + l] = uint(simd_all(l < 32)) + 2 * uint(simd_any(l == 40)) + 4 * uint(simd_is_first());
  o[320 + l] = simd_shuffle_and_fill_down(l, 99u, ushort(4));
  o[352 + l] = simd_broadcast_first(l + 5) + simd_xor(l) + simd_or(l) + simd_and(l | 8u);
}";
    let o = u32s(body, 32, 384);
    for l in 0..32u32 {
        let at = |k: u32| o[(32 * k + l) as usize];
        assert_eq!(at(0), l * l.saturating_sub(1) / 2);
        assert_eq!(at(1), if l < 30 { l + 2 } else { l });
        assert_eq!(at(2), l ^ 5);
        assert_eq!(at(3), (l & !3) * 4 + 6);
        assert_eq!(at(4), 49);
        assert_eq!(
            at(5),
            (0..32).filter(|i| i % 3 == 0).map(|i| 1u32 << i).sum::<u32>()
        );
        assert_eq!(at(6), 3103);
        assert_eq!(at(7), 2 * (31 - l));
        assert_eq!(at(8), l.saturating_sub(1) + 64 * (l + 1));
        assert_eq!(at(9), 1 + if l == 0 { 4 } else { 0 });
        assert_eq!(at(10), if l < 28 { l + 4 } else { 99 });
        assert_eq!(at(11), 5 + 31 + 8);
    }
}

#[test]
fn simdgroup_operations_take_any_type() {
    let body = "kernel void f(device float* o [[buffer(0)]], uint l [[thread_index_in_simdgroup]]) {
  float4 v = simd_sum(float4(1, l, 2 * l, 0.5));
  half h = simd_sum(half(l));
  bfloat b = simd_max(bfloat(float(l)));
  o[l] = v.x + v.y + v.z + v.w + float(h) + float(b);
}";
    assert_eq!(
        f32s(body, 32, 32, &[]),
        vec![32.0 + 496.0 + 992.0 + 16.0 + 496.0 + 31.0; 32]
    );
}

#[test]
fn the_order_of_a_reduction_can_be_permuted() {
    let body = "kernel void f(device float* o [[buffer(0)]], device const float* a [[buffer(1)]],
  uint l [[thread_index_in_simdgroup]]) { o[l] = simd_sum(a[l]); }";
    let kernel = compile(body, "f", false);
    let a: Vec<f32> = (0..32).map(|i| 1.0 / (1.0 + i as f32 * 3.7)).collect();
    let sum = |reduction_seed| {
        let mut o = [0f32; 32];
        let arguments = [(0, buffer(&mut o)), (1, input(&a))];
        let (grid, group) = one_group(32);
        run(
            &kernel,
            &Launch {
                reduction_seed,
                ..Launch::new(grid, group, &arguments)
            },
        );
        o[0]
    };
    let sums: Vec<f32> = (0..8).map(sum).collect();
    let exact: f64 = a.iter().map(|v| f64::from(*v)).sum();
    assert!(
        sums.iter().all(|s| (f64::from(*s) - exact).abs() < 1e-6),
        "{sums:?}"
    );
    assert!(sums.iter().any(|s| s.to_bits() != sums[0].to_bits()), "{sums:?}");
}

/// An 8x8 product with one operand transposed on loading, against plain loops.
fn tile_product<T: Copy + PartialEq + std::fmt::Debug>(ty: &str, from: fn(f32) -> T, to: fn(T) -> f32) {
    let body = format!(
        "kernel void f(device float* o [[buffer(0)]], device const {ty}* a [[buffer(1)]], device const {ty}* b [[buffer(2)]]) {{
  threadgroup {ty} staged[64];
  simdgroup_matrix<{ty}, 8, 8> x, y;
  simdgroup_float8x8 c = make_filled_simdgroup_matrix<float, 8, 8>(1.0f), d;
  simdgroup_load(x, a, 8);
  simdgroup_load(y, b, 8, ulong2(0, 0), true);
  simdgroup_store(x, staged, 8);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_load(x, staged, 8);
  simdgroup_multiply_accumulate(d, x, y, c);
  simdgroup_multiply_accumulate(d, x, simdgroup_matrix<{ty}, 8, 8>({ty}(1)), d);
  simdgroup_store(d, o, 8);
}}"
    );
    let a: Vec<T> = (0..64).map(|i| from((i % 7) as f32 - 3.0)).collect();
    let b: Vec<T> = (0..64).map(|i| from((i % 5) as f32 * 0.5)).collect();
    let o = f32s(&body, 32, 64, &[input(&a), input(&b)]);
    for r in 0..8 {
        for c in 0..8 {
            let product: f32 = (0..8).map(|k| to(a[8 * r + k]) * to(b[8 * c + k])).sum();
            assert_eq!(o[8 * r + c], 1.0 + product + to(a[8 * r + c]), "{ty} ({r}, {c})");
        }
    }
}

#[test]
fn simdgroup_matrices() {
    tile_product::<f32>("float", |x| x, |x| x);
    tile_product::<f16>("half", f16::from_f32, f16::to_f32);
    tile_product::<bf16>("bfloat", bf16::from_f32, bf16::to_f32);
}

#[test]
fn grids_in_threads_have_partial_groups() {
    let body = "kernel void f(device uint* o [[buffer(0)]], uint3 p [[thread_position_in_grid]],
  uint3 n [[threads_per_grid]], uint3 g [[threads_per_threadgroup]], uint3 d [[dispatch_threads_per_threadgroup]],
  uint3 q [[thread_position_in_threadgroup]], uint3 t [[threadgroup_position_in_grid]],
  uint3 c [[threadgroups_per_grid]], uint l [[thread_index_in_threadgroup]]) {
  bool sound = all(p == t * d + q) && l == (q.z * g.y + q.y) * g.x + q.x && all(c == uint3(3, 2, 1));
  o[(p.z * n.y + p.y) * n.x + p.x] = sound ? g.x * 100 + g.y : 0;
}";
    let kernel = compile(body, "f", true);
    let mut o = vec![7u32; 11 * 5];
    let arguments = [(0, buffer(&mut o))];
    let report = run(
        &kernel,
        &Launch::new(LaunchGrid::Threads([11, 5, 1]), [4, 3, 1], &arguments),
    );
    assert!(report.findings.is_empty(), "{}", report.findings[0]);
    for (i, got) in o.iter().enumerate() {
        let (x, y) = (i % 11, i / 11);
        assert_eq!(
            *got,
            if x < 8 { 400 } else { 300 } + if y < 3 { 3 } else { 2 },
            "({x}, {y})"
        );
    }
}

#[test]
fn function_constants() {
    let body = "constant uint width [[function_constant(0)]];
constant bool scaled [[function_constant(1)]];
constant float scale [[function_constant(2)]];
constant bool has_scale = is_function_constant_defined(scale);
constant int shift [[function_constant(3)]];
template <uint N> float sum() { float s = 0; for (uint i = 0; i < N; i++) s += i; return s; }
kernel void f(device float* o [[buffer(0)]], device const float* extra [[buffer(1), function_constant(scaled)]]) {
  o[0] = sum<width>();
  if (scaled) o[0] += extra[0];
  o[1] = has_scale ? scale : -1;
  o[2] = shift;
}";
    let run_with = |constants: &[(u32, ConstantValue)], extra: &[f32]| {
        let kernel = try_compile(body, "f", constants, false).unwrap_or_else(|e| panic!("{e}"));
        let mut o = [0f32; 3];
        let mut arguments = vec![(0, buffer(&mut o))];
        if !extra.is_empty() {
            arguments.push((1, input(extra)));
        }
        run(
            &kernel,
            &Launch::new(LaunchGrid::Threadgroups([1, 1, 1]), [1, 1, 1], &arguments),
        );
        o
    };
    let base = [(0, 5u32.into()), (1, false.into()), (3, (-7i32).into())];
    assert_eq!(run_with(&base, &[]), [10.0, -1.0, -7.0]);
    let more = [
        (0, 4u32.into()),
        (1, true.into()),
        (2, 0.3f32.into()),
        (3, i32::MIN.into()),
    ];
    assert_eq!(run_with(&more, &[0.5]), [6.5, 0.3, i32::MIN as f32]);
}

#[test]
fn templates_and_instantiations() {
    let body = "enum class Kind { twice, thrice };
template <typename T> struct Traits { static constant constexpr int lanes = 4; using wide = float; };
template <> struct Traits<half> { static constant constexpr int lanes = 8; using wide = float; };
template <typename T> inline T pick(const device T* p, uint i) { return p[i]; }
template <typename T> inline T pick(const threadgroup T* p, uint i) { return p[i] + T(1); }
#define INSTANTIATE(name, T, K) \\
  template [[host_name(\"f_\" #name)]] [[kernel]] void f<T, K>(device float*, device const T*, uint);
template <typename T, Kind K>
[[kernel]] void f(device float* o [[buffer(0)]], device const T* a [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {
  typename Traits<T>::wide v = pick(a, i);
  if constexpr (K == Kind::twice) v *= 2; else v *= 3;
#pragma unroll
  for (int k = 0; k < Traits<T>::lanes; k++) v += 1;
  o[i] = v;
}
INSTANTIATE(half, half, Kind::twice)
INSTANTIATE(float, float, Kind::thrice)
template [[host_name(\"f_typed\")]] [[kernel]] decltype(f<bfloat, Kind::twice>) f<bfloat, Kind::twice>;";
    let a = [1f32, 2.0, 3.0];
    let h = a.map(f16::from_f32);
    let b = a.map(bf16::from_f32);
    assert_eq!(
        results(body, "f_half", 3, &[0f32; 3], &[input(&h)]),
        [10.0, 12.0, 14.0]
    );
    assert_eq!(
        results(body, "f_float", 3, &[0f32; 3], &[input(&a)]),
        [7.0, 10.0, 13.0]
    );
    assert_eq!(
        results(body, "f_typed", 3, &[0f32; 3], &[input(&b)]),
        [6.0, 8.0, 10.0]
    );
}

#[test]
fn library_functions() {
    let body = "kernel void f(device float* o [[buffer(0)]]) {
  o[0] = exp(1.0f) + fast::exp(0.0f) + precise::log(1.0f);
  o[1] = max(1.0f, 2.0f) + min(half(3), half(4)) + max(1, 2) + metal::min(5u, 6u);
  o[2] = rsqrt(4.0f) + fabs(-1.5f) + abs(-2) + sign(-3.0f);
  o[3] = float(numeric_limits<half>::max()) + numeric_limits<int>::min();
  o[4] = -numeric_limits<float>::infinity();
  o[5] = popcount(0xffu) + clz(1u) + ctz(8u) + extract_bits(0xf0u, 4, 4) + reverse_bits(1u) * 0;
  o[6] = isnan(NAN) + 2 * isinf(INFINITY) + 4 * isfinite(1.0f);
  o[7] = precise::divide(1.0f, 4.0f) + fract(1.25f) + mix(0.0f, 2.0f, 0.5f);
  o[8] = float(half(0.1h)) + float(bfloat(0.5bf)) + 1e-1 + 0x1p-2;
  half4 h = max(half4(1, 2, 3, 4), half4(2));
  o[9] = float(h.x + h.w) + length(float2(3, 4)) + metal::fast::tanh(0.0f) + pow(2.0f, 3.0f);
  float4 e = exp2(float4(0, 1, 2, 3));
  o[10] = e.x + e.y + e.z + e.w + erf_like(0.0f);
}";
    let body = format!("inline float erf_like(float x) {{ return tanh(x); }}\n{body}");
    let o = f32s(&body, 1, 11, &[]);
    assert!((o[0] - (std::f32::consts::E + 1.0)).abs() < 1e-6);
    assert_eq!(o[1..3], [2.0 + 3.0 + 2.0 + 5.0, 0.5 + 1.5 + 2.0 - 1.0]);
    assert_eq!(
        o[3..7],
        [
            65504.0 + i32::MIN as f32,
            f32::NEG_INFINITY,
            8.0 + 31.0 + 3.0 + 15.0,
            7.0
        ]
    );
    assert_eq!(o[7], 0.25 + 0.25 + 1.0);
    assert!((o[8] - (f16::from_f32(0.1).to_f32() + 0.5 + 0.1 + 0.25)).abs() < 1e-6);
    assert_eq!(o[9..11], [6.0 + 5.0 + 8.0, 15.0]);
}

#[test]
fn mixed_integer_arguments_of_max_are_ambiguous() {
    let body = "kernel void f(device int* o [[buffer(0)]], uint i [[thread_position_in_grid]]) { o[0] = max(i, 1); }";
    assert!(matches!(
        try_compile(body, "f", &[], false),
        Err(EmulatorError::Compile { .. })
    ));
}

#[test]
fn atomics_of_all_groups_add_up() {
    let body = "kernel void f(device atomic_uint* o [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  atomic_fetch_add_explicit(&o[0], i, memory_order_relaxed);
  atomic_fetch_max_explicit(&o[1], i, memory_order_relaxed);
  device atomic_float* s = (device atomic_float*)(o + 2);
  atomic_fetch_add_explicit(s, 0.5f, memory_order_relaxed);
}";
    let o = results(body, "f", 4096, &[0u32, 0, 0], &[]);
    assert_eq!(o, [4096 * 4095 / 2, 4095, 2048f32.to_bits()]);
}

#[test]
fn lanes_that_left_take_no_part() {
    let body = "kernel void f(device uint* o [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  if (i >= 20) return;
  o[i] = simd_sum(1u);
}";
    assert_eq!(u32s(body, 32, 32)[..20], [20; 20]);
}

#[test]
fn line_directives_name_files() {
    let source = "#include <metal_stdlib>\nusing namespace metal;\n#line 100 \"shared/helper.h\"
inline float first(device const float* p, uint i) { return p[i]; }
#line 7 \"ops/thing.metal\"
kernel void f(device const float* a [[buffer(0)]], device float* o [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  o[i] = first(a, i + 1);
}";
    let options = CompileOptions {
        checked: true,
        file: None,
    };
    let kernel = emulator()
        .compile(source, "f", &[], &options)
        .unwrap_or_else(|e| panic!("{e}"));
    let (a, mut o) = ([0f32; 4], [0f32; 4]);
    let arguments = [(0, input(&a)), (1, buffer(&mut o))];
    let report = run(
        &kernel,
        &Launch::new(LaunchGrid::Threads([4, 1, 1]), [4, 1, 1], &arguments),
    );
    assert_eq!(
        (report.findings[0].file.as_str(), report.findings[0].line),
        ("shared/helper.h", 100)
    );
}

#[test]
fn objects_are_kept_and_found_again() {
    let body = "kernel void f(device float* o [[buffer(0)]]) { o[0] = 41.0; }";
    let first = compile(body, "f", false);
    assert!(Arc::ptr_eq(&first, &compile(body, "f", false)), "loaded once");
    assert!(
        !Arc::ptr_eq(&first, &compile(body, "f", true)),
        "checked is another object"
    );
    let other = Emulator::new(&EmulatorSettings {
        clang: None,
        cache_dir: env!("CARGO_TARGET_TMPDIR").into(),
    });
    let other = other.expect("clang is here");
    let start = std::time::Instant::now();
    let options = CompileOptions {
        checked: false,
        file: Some("planted.metal"),
    };
    other
        .compile(&metal(body), "f", &[], &options)
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(
        start.elapsed().as_millis() < 100,
        "taken from the cache, not compiled: {:?}",
        start.elapsed()
    );
}

#[test]
fn a_missing_compiler_says_what_to_install() {
    let settings = EmulatorSettings {
        clang: Some("/nowhere/clang".into()),
        cache_dir: env!("CARGO_TARGET_TMPDIR").into(),
    };
    let error = Emulator::new(&settings).expect_err("there is none").to_string();
    assert!(
        error.contains("apt-get install clang-19") && error.contains("/nowhere/clang"),
        "{error}"
    );
}
