//! What MSL means: arithmetic, vectors, simdgroup operations, templates, constants.

use super::*;

#[test]
fn doubles_a_vector() {
    let body =
        "kernel void twice(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] *= 2; }";
    for checked in [false, true] {
        let kernel = compile(body, "twice", checked);
        let mut x: Vec<f32> = (0..77).map(|i| i as f32).collect();
        let arguments = [(0, buffer(&mut x))];
        let report = run(
            &kernel,
            &Launch::new(LaunchGrid::Threads([77, 1, 1]), [32, 1, 1], &arguments),
        );
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert!(x.iter().enumerate().all(|(i, v)| *v == 2.0 * i as f32), "{x:?}");
    }
}
