//! Pointers between address spaces.

use super::*;

fn lint(body: &str) -> Vec<(u32, String)> {
    let findings = emulator()
        .lint(&metal(body), "planted.metal")
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(findings.iter().all(|f| f.file == "planted.metal"), "{findings:?}");
    findings.into_iter().map(|f| (f.line, f.message)).collect()
}

#[track_caller]
fn found_at(body: &str, line: u32) {
    let findings = lint(body);
    assert!(findings.len() == 1 && findings[0].0 == line, "{findings:?}");
}

#[test]
fn missing_device() {
    found_at(
        "kernel void f(device const float* a [[buffer(0)]], device float* o [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  const float* p = a + i;
  o[i] = p[0]; }",
        4,
    );
}

#[test]
fn threadgroup_as_device() {
    found_at(
        "kernel void f(device float* o [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[32];
  device float* p = s;
  p[i] = 1; }",
        5,
    );
}

#[test]
fn helper_without_a_space() {
    found_at(
        "inline float g(const float* p) { return p[0]; }
kernel void f(device const float* a [[buffer(0)]], device float* o [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  o[i] = g(a + i); }",
        5,
    );
}

#[test]
fn cast_to_another_space() {
    for expression in ["a", "(a + i)", "&a[i]"] {
        found_at(
            &format!(
                "kernel void f(device const uchar* a [[buffer(0)]], device float* o [[buffer(1)]],
  uint i [[thread_position_in_grid]]) {{
  o[i] = *((threadgroup const float*){expression}); }}"
            ),
            5,
        );
    }
}

#[test]
fn named_cast_to_another_space() {
    found_at(
        "kernel void f(device const uchar* a [[buffer(0)]], device float* o [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  o[i] = *reinterpret_cast<threadgroup const float*>(a); }",
        4,
    );
}

#[test]
fn legal_pointers() {
    let body = "struct P { uint n; float f; };
template <typename T> inline float load(const device T* p, uint i) { return float(p[i]); }
template <typename T> inline float load(const threadgroup T* p, uint i) { return float(p[i]); }
constant float table[2] = {1, 2};
kernel void f(device const float4* a [[buffer(0)]], device float4* o [[buffer(1)]], constant P& p [[buffer(2)]],
  uint i [[thread_position_in_grid]]) {
  P q = p;
  threadgroup float4 s[32];
  threadgroup float* flat = (threadgroup float*)s;
  device const half* h = (device const half*)(a + 1);
  s[i] = a[i] * table[i & 1];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float4 v = s[i ^ 1] + load(flat, i) + load(h, i);
  o[i] = v * q.f;
}";
    assert_eq!(lint(body), []);
}
