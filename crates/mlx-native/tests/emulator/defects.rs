//! Defects and their findings.

use super::*;

/// Kernel, text, expected kind and line; each runs with 256 threads a group.
fn planted(body: &str, kernel: &str, checked: bool, groups: u32) -> Report {
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
    run(
        &kernel,
        &Launch::new(LaunchGrid::Threadgroups([groups, 1, 1]), [256, 1, 1], &arguments),
    )
}

#[test]
fn out_of_bounds_read() {
    let body = "kernel void oob(device const float* a [[buffer(0)]], device float* o [[buffer(1)]], constant uint& n [[buffer(2)]],
  uint i [[thread_position_in_grid]]) {
  if (i <= n) {
    o[i & 255] = a[i];
  } }";
    let report = planted(body, "oob", true, 2);
    assert_eq!(only(&report, FindingKind::OutOfBounds).line, 6);
}

#[test]
fn missing_barrier() {
    let body = "kernel void nobar(device const float* a [[buffer(0)]], device float* o [[buffer(1)]],
  uint i [[thread_index_in_threadgroup]], uint n [[threads_per_threadgroup]]) {
  threadgroup float s[256];
  s[i] = a[i];
  for (uint k = n / 2; k > 0; k >>= 1) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i < k) s[i] += s[i + k];
  }
  if (i < 4) o[i] = s[0];
}";
    let report = planted(body, "nobar", true, 1);
    println!("{:#?}", report.findings);
    assert_eq!(only(&report, FindingKind::Race).line, 11);
}
