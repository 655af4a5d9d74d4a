//! The front end on sound, odd and hostile text.

use super::rewrite::{Options, Target, rewrite};
use super::{Access, ConstantType, KernelSignature, Module, MslError, Space, parse};
use crate::kernel::ConstantValue;
use std::time::Instant;

fn module(text: &str) -> Module {
    parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn kernel(text: &str) -> KernelSignature {
    let mut module = module(text);
    assert_eq!(module.kernels.len(), 1, "{:?}", module.kernels);
    module.kernels.remove(0)
}

#[track_caller]
fn refused(text: &str, words: &str) {
    let error = parse(text).expect_err("must be refused").to_string();
    assert!(error.contains(words), "wanted {words:?}, got {error:?}");
}

/// `index name type space access` of every binding.
fn bindings(kernel: &KernelSignature) -> Vec<String> {
    let show =
        |b: &super::BindingDecl| format!("{} {} {} {:?} {:?}", b.index, b.name, b.ty, b.space, b.access);
    kernel.bindings.iter().map(show).collect()
}

#[test]
fn plain_kernel() {
    let k = kernel(
        "#include <metal_stdlib>
using namespace metal;
struct P { uint n; float s; };
// kernel void not_this_one(device float* x) {}
/* kernel void nor_this(device float* x) {} */
kernel void scale(device const float* a [[buffer(0)]],
                  device   float     *o [[buffer(1)]],
                  constant P &p         [[buffer(2)]],
                  threadgroup float4* s [[threadgroup(1)]],
                  uint3 i [[thread_position_in_grid]],
                  ushort lane [[thread_index_in_simdgroup]]) {
  o[i.x] = a[i.x] * p.s; // \"kernel void in_a_string()\"
}",
    );
    assert_eq!(k.name, "scale");
    assert_eq!(k.line, 6);
    let wanted = [
        "0 a float Device Read",
        "1 o float Device ReadWrite",
        "2 p P Constant Read",
    ];
    assert_eq!(bindings(&k), wanted);
    assert_eq!(k.bindings[2].line, 8);
    assert_eq!((k.threadgroup[0].index, k.threadgroup[0].name.as_str()), (1, "s"));
    assert_eq!(k.threadgroup[0].ty, "float4");
    assert_eq!(k.max_threads, None);
}

#[test]
fn spellings_of_kernel() {
    for text in [
        "kernel void f(device int* a [[buffer(0)]]) {}",
        "[[kernel]] void f(device int* a [[buffer(0)]]) {}",
        "[[ kernel ]] void f(device int* a [[ buffer( 0 ) ]]) {}",
        "extern \"C\" kernel void f(device int* a [[buffer(0)]]) {}",
        "namespace n { namespace m { kernel void f(device int* a [[buffer(0)]]) {} } }",
        "[[kernel, max_total_threads_per_threadgroup(64)]] void f(device int* a) {}",
        "[[host_name(\"f\")]] kernel void other(device int* a) {}",
        "kernel void f(device int* a);\nkernel void f(device int* a) {}",
        "inline int g(thread int& x) { return x; }\nkernel void f(device int *a) { }\nstruct S { int x; };",
    ] {
        let k = kernel(text);
        assert_eq!(k.name, "f", "{text}");
        assert_eq!(bindings(&k), ["0 a int Device ReadWrite"], "{text}");
    }
}

#[test]
fn attributes_in_any_order() {
    let k = kernel(
        "[[max_total_threads_per_threadgroup(4 * (32))]] kernel void f([[buffer(3)]] device const half* a,
  device float [[buffer(1)]] * b, constant float4x4& m [[maybe_unused, buffer(0)]],
  const device uchar* c [[buffer(2), function_constant(has_c)]]) {}",
    );
    assert_eq!(k.max_threads, Some(128));
    let wanted = [
        "0 m float4x4 Constant Read",
        "1 b float Device ReadWrite",
        "2 c uchar Device Read",
        "3 a half Device Read",
    ];
    assert_eq!(bindings(&k), wanted);
    assert_eq!(
        k.bindings.iter().map(|b| b.optional).collect::<Vec<_>>(),
        [false, false, true, false]
    );
}

#[test]
fn odd_declarators() {
    let k = kernel(
        "kernel void f(constant int (&shape)[4], device vec<float, 4>* v, const device array<vec<half, 2>, 3>& nested,
  constant const long strides[2], device metal::atomic_uint* count, device const packed_float3 *p,
  threadgroup float (*tile)[32][8], threadgroup int& one) {}",
    );
    let wanted = [
        "0 shape int [4] Constant Read",
        "1 v vec<float, 4> Device ReadWrite",
        "2 nested array<vec<half, 2 >>, 3> Device Read",
        "3 strides long [2] Constant Read",
        "4 count metal::atomic_uint Device ReadWrite",
        "5 p packed_float3 Device Read",
    ];
    let squeeze = |s: &String| s.replace(' ', "");
    assert_eq!(
        bindings(&k).iter().map(squeeze).collect::<Vec<_>>(),
        wanted.map(|s| squeeze(&s.to_owned()).replace("2>>,3>", "2>,3>"))
    );
    let names: Vec<&str> = k.threadgroup.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["tile", "one"]);
}

#[test]
fn missing_indices_are_given_in_order() {
    let k = kernel(
        "kernel void f(device int* a, device int* b [[buffer(0)]], device int* c [[buffer(2)]], device int* d) {}",
    );
    let order: Vec<(u32, &str)> = k.bindings.iter().map(|b| (b.index, b.name.as_str())).collect();
    assert_eq!(order, [(0, "b"), (1, "a"), (2, "c"), (3, "d")]);
}

#[test]
fn no_parameters() {
    assert!(kernel("kernel void f() {}").bindings.is_empty());
    assert!(kernel("kernel void f(void) {}").bindings.is_empty());
    assert!(module("").kernels.is_empty());
    assert!(
        module("struct kernel_params { int device_index; };")
            .kernels
            .is_empty()
    );
}

#[test]
fn instantiations() {
    let m = module(
        "#define instantiate(name, T, N) \\
  template [[host_name(\"f_\" #name \"_\" #N)]] [[kernel]] void f<T, N>(device T* a [[buffer(0)]], uint i [[thread_position_in_grid]]);
template <typename T, int N = 4, typename U = vec<T, 4>>
[[kernel]] void f(device T* a [[buffer(0)]], constant U& u [[buffer(1)]], uint i [[thread_position_in_grid]]) { a[i] = T(N); }
instantiate(half, half, 2)
instantiate(float, float, (1 << 3))
typedef decltype(f<float, 4>) f_t;
template [[host_name(\"g\")]] [[kernel]] f_t f<float, 4>;
template [[host_name(\"h\")]] kernel decltype(f<bfloat, 8>) f<bfloat, 8>;
template void helper<int>(int);
template struct Thing<int>;",
    );
    let names: Vec<&str> = m.kernels.iter().map(|k| k.name.as_str()).collect();
    assert_eq!(names, ["f_half_2", "f_float_(1 << 3)", "g", "h"]);
    assert_eq!(bindings(&m.kernels[0])[0], "0 a half Device ReadWrite");
    assert_eq!(m.kernels[3].bindings[0].ty, "bfloat");
    assert_eq!(m.kernels[0].line, 5);
}

#[test]
fn function_constants() {
    let m = module(
        "constant bool causal [[function_constant(20)]];
constant constexpr int table[2] = {1, 2};
constant uint width [[function_constant(3)]];
constant short s [[function_constant(4)]];
constant float scale [[ function_constant(5) ]];
constant float other = 0.5f;",
    );
    let show = |c: &super::FunctionConstant| (c.index, c.name.clone(), c.ty, c.line);
    let all: Vec<_> = m.constants.iter().map(show).collect();
    assert_eq!(all[0], (20, "causal".to_owned(), ConstantType::Bool, 1));
    assert_eq!(
        all[all.len() - 1],
        (5, "scale".to_owned(), ConstantType::Float, 5)
    );
    refused(
        "constant P p [[function_constant(0)]];",
        "type `P` is not supported",
    );
    refused(
        "constant int a [[function_constant(0)]], b = 1;",
        "one declaration each",
    );
    refused(
        "constant int a [[function_constant(0)]];\nconstant int b [[function_constant(0)]];",
        "`a` and `b` share index 0",
    );
}

#[test]
fn the_preprocessor_is_followed() {
    let m = module(
        "#define DEVICE device
#if defined(__METAL_VERSION__) && __METAL_VERSION__ >= 310
#define T bfloat
#else
#define T half
#endif
#ifdef NOTHING
kernel void gone(device float* a) {}
#elif 1 + 1 == 3 || !defined NOTHING
kernel void kept(DEVICE T* a) {}
#else
#error \"not here\"
#endif
#define CAT(a, b) a##b
#define NAME(x) CAT(k_, x)
#define KERNEL(name, ...) kernel void name(__VA_ARGS__) {}
KERNEL(NAME(one), device float* a, device float* b)
#undef T
#define SELF SELF x
int SELF;
#pragma METAL internals : enable
#line 100 \"other.metal\"
kernel void
  numbered(device float* T) {}",
    );
    let names: Vec<(&str, u32)> = m.kernels.iter().map(|k| (k.name.as_str(), k.line)).collect();
    assert_eq!(names, [("kept", 10), ("k_one", 17), ("numbered", 101)]);
    assert_eq!(m.kernels[0].bindings[0].ty, "bfloat");
    assert_eq!(m.kernels[1].bindings.len(), 2);
}

#[test]
fn refusals_say_what_and_where() {
    refused(
        "\n\nkernel void f(device int* a [[buffer(0)]], device int* b [[buffer(0)]]) {}",
        "line 3: kernel `f`: `a` and `b` share buffer index 0",
    );
    refused(
        "kernel void f(threadgroup int* a [[threadgroup(1)]], threadgroup int* b [[threadgroup(1)]]) {}",
        "share threadgroup index 1",
    );
    refused(
        "kernel void f(texture2d<float> t [[texture(0)]]) {}",
        "attribute [[texture]] is not supported",
    );
    refused("kernel void f(uint i) {}", "neither an attribute nor a pointer");
    refused(
        "kernel void f(float* a [[buffer(0)]]) {}",
        "needs an address space",
    );
    refused(
        "kernel void f(device float* a [[buffer(N)]]) {}",
        "must be an integer literal",
    );
    refused(
        "kernel void f(device float* a [[buffer(31)]]) {}",
        "the highest index is 30",
    );
    refused(
        "kernel void f(device float* a [[threadgroup(0)]]) {}",
        "[[threadgroup]] on a buffer",
    );
    refused(
        "kernel void f() {}\nkernel void f() {}",
        "line 2: kernel `f` is defined twice",
    );
    refused(
        "[[host_name(\"f\")]] kernel void g() {}\nkernel void f() {}",
        "host name `f` is given to two kernels",
    );
    refused(
        "template [[host_name(\"x\")]] [[kernel]] void f<float>(device float*);",
        "not a kernel of this text",
    );
    refused("kernel void f(device int* a} {}", "`}` closes the `(` of line 1");
    refused("kernel void f(device int* a) {", "never closed");
    refused("}", "closes nothing");
    refused("kernel void f(device int* a)", "does not end");
    refused("/* open", "does not end");
    refused("int x = \"open\n\";", "does not end on its line");
    refused("#if 1\n", "#if without #endif");
    refused("#endif", "#endif without #if");
    refused("#if 1/0\n#endif", "division by zero");
    refused("#error stop here", "#error stop here");
    refused("#include \"mine.h\"", "must be flattened first");
    refused("#define F(a) a\nint x = F(1", "does not end");
    refused("#define F(a, b) a\nint x = F(1);", "takes 2 arguments, found 1");
    refused("int caf\u{e9};", "unexpected character");
}

#[test]
fn hostile_text_ends_soon() {
    let many = |s: &str, n: usize| s.repeat(n);
    let bomb: String = (0..40)
        .map(|i| format!("#define a{} a{i} a{i}\n", i + 1))
        .collect();
    let chain: String = (0..5000).map(|i| format!("#define b{i} b{}\n", i + 1)).collect();
    let texts = [
        bomb + "a40",
        chain + "b0",
        "#define f(x) x x\n".to_owned() + &many("f(", 300) + &many(")", 300),
        many("(", 200_000),
        many("{", 200_000) + &many("}", 200_000),
        many("namespace a {", 50_000) + &many("}", 50_000),
        many("struct s {", 5000) + &many("};", 5000),
        many("a<", 300_000),
        many("template <", 100_000),
        many("template<typename T> ", 50_000),
        many("[[", 100_000),
        many("[[a(", 1000) + &many(")]]", 1000),
        many("#if 1\n", 10_000),
        "#if ".to_owned() + &many("(", 100_000) + "\n#endif",
        "#if ".to_owned() + &many("!", 100_000) + "1\n#endif",
        "#if ".to_owned() + &many("1?", 100_000) + "1\n#endif",
        "#if ".to_owned() + &many("1+", 100_000) + "1\n#endif",
        many("x ", 1_000_000) + ";",
        "kernel void f(".to_owned() + &many("device int* a, ", 50_000) + "device int* b) {}",
        many("\\\n", 100_000),
        many("#define x\n", 50_000),
        (0..5000).map(|i| format!("#line 1 \"f{i}\"\n")).collect(),
        many("/", 100_000),
        many("x", 5 << 20),
    ];
    for text in texts {
        let start = Instant::now();
        let result = parse(&text).map(|m| m.kernels.len());
        let head: String = text.chars().take(20).collect();
        // Far beyond what a busy machine takes, far below what any growth faster than the text's would.
        assert!(
            start.elapsed().as_secs() < 120,
            "{head:?} took {:?}",
            start.elapsed()
        );
        let options = Options {
            target: Target::Cpp,
            file: "f",
            constants: &[],
        };
        let rewritten = rewrite(&text, &options).map(|r| r.entries.len());
        assert!(
            start.elapsed().as_secs() < 20,
            "{head:?} took {:?}: {result:?} {rewritten:?}",
            start.elapsed()
        );
    }
}

/// A text with a bit of everything, cut, doubled and bent: whatever comes out is a result, not a panic.
#[test]
fn broken_text_is_total() {
    let text = "#define M(a, ...) a##_x #a __VA_ARGS__\n#if 1 ? (2) : 3\n#endif\n#line 3 \"f\"\nconstant int c [[function_constant(1)]];
template <typename T, int N> struct S<device T*> : B<(N > 2)> { T x; S(T a) : x{a}, y(1) {} T get() const thread { return x; } };
template [[host_name(\"h\" \"2\")]] [[kernel]] decltype(f<float, 2>) f<float, 2>;
template <typename T, int N> [[kernel, max_total_threads_per_threadgroup(N * 32)]] void f(device T* a [[buffer(1)]], constant int (&s)[4]) {
  threadgroup vec<T, 4> t[N][2], u = {0}; for (int i = 0; i < 1.5e3; i++) t[i][0] = M(1, 2.0h, 0x1p3) >> 2; }
extern \"C\" { namespace n { kernel void g(device const float* a) { if (is_function_constant_defined(c)) return; } } }
";
    assert_eq!(module(text).kernels.len(), 2);
    let options = Options {
        target: Target::Cpp,
        file: "f",
        constants: &[],
    };
    let mut seed = 1u64;
    let mut random = |n: usize| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as usize % n
    };
    let bits = [
        "<",
        ">",
        ">>",
        "(",
        ")",
        "[[",
        "]]",
        "{",
        "}",
        ";",
        "template",
        "kernel",
        "#",
        "\n",
        "\"",
        "threadgroup",
        "operator",
        "é",
        "\\",
    ];
    let try_text = |t: &str| {
        let _: Result<Module, MslError> = parse(t);
        let _ = rewrite(t, &options).map(|r| r.text);
        let _ = super::casts::between_spaces(t).map(|c| c.len());
    };
    for end in 0..text.len() {
        try_text(&text[..end]);
        try_text(&text[end..]);
    }
    for _ in 0..4000 {
        let mut bent: Vec<char> = text.chars().collect();
        for _ in 0..1 + random(4) {
            let at = random(bent.len());
            match random(3) {
                0 => drop(bent.drain(at..(at + random(9)).min(bent.len()))),
                1 => drop(bent.splice(at..at, bits[random(bits.len())].chars())),
                _ => {
                    let piece: Vec<char> = bent[at..(at + random(60)).min(bent.len())].to_vec();
                    let to = random(bent.len());
                    drop(bent.splice(to..to, piece));
                }
            }
        }
        try_text(&bent.into_iter().collect::<String>());
    }
}

fn cpp(text: &str, constants: &[(u32, ConstantValue)]) -> String {
    let options = Options {
        target: Target::Cpp,
        file: "k.metal",
        constants,
    };
    rewrite(text, &options).unwrap_or_else(|e| panic!("{e}")).text
}

#[test]
fn rewriting_keeps_lines_and_drops_what_cpp_lacks() {
    let text = "kernel void f(device const float* a [[buffer(0)]],
  constant int& n [[buffer(1)]]) {
  threadgroup float s[4], t;
  float x = 1.0 + 2.5e-3 + .5 + 1.f + 7 + 0x1p-2 + 0xffu;
  half h = 0.1h; bfloat b = 2bf;
}";
    let out = cpp(text, &[]);
    let line = |n: usize| out.lines().nth(1 + n).unwrap_or("").trim().to_owned();
    assert_eq!(out.lines().nth(1), Some("#line 1 \"k.metal\""));
    assert_eq!(line(1), "static void f ( const float * a ,");
    assert_eq!(line(2), "const int & n ) {");
    assert!(
        line(3).contains("typedef float emu_type_1 [ 4 ] ; emu_type_1& s ="),
        "{out}"
    );
    assert!(
        line(3).contains("typedef float emu_type_2 ; emu_type_2& t ="),
        "{out}"
    );
    assert_eq!(
        line(4),
        "float x = 1.0f + 2.5e-3f + .5f + 1.f + 7 + 0x1p-2f + 0xffu ;"
    );
    assert_eq!(line(5), "half h = half(0.1f) ; bfloat b = bfloat(2.0f) ;");
}

#[test]
fn rewriting_drops_what_differs_in_spaces_only() {
    let out = cpp(
        "template <typename T> T get(const device T* p) { return p[0]; }
template <typename T> T get(const threadgroup T* p) { return p[0]; }
template <typename T> T get(constant T* p) { return p[0]; }
template <typename T> T get(thread T* p) { return p[0]; }
struct S { int x; int f() const device { return x; } int f() const thread { return x; } int f() const constant { return x; }
  S(int a) thread : x(a) {} S(int a) constant : x(a) {} };
template <typename T> struct R {}; template <typename T> struct R<device T*> { int a; }; template <typename T> struct R<threadgroup T*> { int b; };
int plain(int); int plain(int);",
        &[],
    );
    assert_eq!(out.matches("T get (").count(), 2, "const T* and T*: {out}");
    assert_eq!(out.matches("int f ( )").count(), 1, "{out}");
    assert_eq!(out.matches("S ( int a )").count(), 1, "{out}");
    assert_eq!(out.matches("struct R").count(), 2, "{out}");
    assert_eq!(out.matches("int plain").count(), 2, "{out}");
}

#[test]
fn rewriting_bakes_function_constants_in() {
    let text = "constant bool a [[function_constant(0)]];\nconstant float b [[function_constant(1)]];
constant uint c [[function_constant(2)]];\nconstant bool has = is_function_constant_defined(b);";
    let out = cpp(
        text,
        &[(0, ConstantValue::Bool(true)), (2, ConstantValue::U32(7))],
    );
    assert!(out.contains("static constexpr bool a = bool(true)"), "{out}");
    assert!(
        out.contains("static constexpr float b = float(0); static constexpr bool b__defined = false;"),
        "{out}"
    );
    assert!(out.contains("static constexpr uint c = uint(7u)"), "{out}");
    assert!(out.contains("const bool has = b__defined ;"), "{out}");
    let unset = cpp(text, &[]);
    assert!(
        unset.contains("extern const bool a __asm__(\"msl_function_constant_is_not_set_a\")"),
        "{unset}"
    );
}

#[test]
fn what_is_made_of_a_constant_without_a_value_has_none_on_cuda() {
    let text =
        "constant bool a [[function_constant(0)]];\nconstant bool b = !a;\nconstant uint c = b ? 1 : 2;
constant uint d = 3;";
    let cuda = |constants: &[(u32, ConstantValue)]| {
        let options = Options {
            target: Target::Cuda,
            file: "k.metal",
            constants,
        };
        rewrite(text, &options).unwrap().text
    };
    let unset = cuda(&[]);
    for name in ["bool a", "bool b", "uint c"] {
        assert!(
            unset.contains(&format!("extern __device__ const {name};")),
            "{unset}"
        );
    }
    assert!(unset.contains("const uint d = 3 ;"), "{unset}");
    let set = cuda(&[(0, ConstantValue::Bool(true))]);
    assert!(
        set.contains("const bool b = ! a ;") && !set.contains("extern"),
        "{set}"
    );
}

#[test]
fn spaces_and_accesses_are_told_apart() {
    let k =
        kernel("kernel void f(const constant float* a, constant const float& b, device float* const c) {}");
    let told: Vec<_> = k.bindings.iter().map(|b| (b.space, b.access)).collect();
    let wanted = [
        (Space::Constant, Access::Read),
        (Space::Constant, Access::Read),
        (Space::Device, Access::ReadWrite),
    ];
    assert_eq!(told, wanted);
}
