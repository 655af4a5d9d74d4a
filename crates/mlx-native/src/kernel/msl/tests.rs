#[test]
fn placeholder_compiles() {
    let m = super::parse("kernel void f(device const float* a, device float* o [[buffer(3)]], uint i [[thread_position_in_grid]]) {}").unwrap();
    assert_eq!(m.kernels[0].bindings.len(), 2);
}
