//! Metal text into CUDA text. That NVRTC takes it is proven by `cargo xtask cuda --offline`.

use super::super::text::{Argument, Form, Wanted, unit, usual_form};
use super::TEXT;

fn text_of(kernel: &str, form: Form) -> (String, super::super::text::Entry) {
    let wanted = Wanted {
        kernel,
        form,
        max_threads: None,
        body: None,
        many: false,
    };
    let mut unit = unit(TEXT, &[], &[wanted]).unwrap();
    (unit.text, unit.entries.remove(0))
}

#[test]
fn an_entry_takes_buffers_threadgroup_memory_and_shape() {
    let (text, entry) = text_of(
        "shared",
        Form {
            mapped: true,
            pointers: 0,
        },
    );
    assert_eq!(entry.symbol, "msl_shared");
    assert_eq!(entry.threadgroup, [0, 3]);
    assert_eq!(
        entry.arguments,
        [Argument {
            index: 1,
            copied: None
        }]
    );
    assert!(entry.mapped && !text.contains("MSL_PARTIAL"));
    for part in [
        "extern \"C\" __global__ void msl_shared(on_cuda::parameter<0, msl_shared_type> a0, uint a1, uint a2, const \
         __grid_constant__ on_cuda::shape shape) {",
        "const on_cuda::mapped_launch launch(shape);\n  if (launch.is_beyond()) return;",
        "shared(a0, (on_cuda::parameter<1, msl_shared_type>)(on_cuda::threadgroup_memory + a1), ",
        "on_cuda::thread_index_in_threadgroup(launch).as<on_cuda::parameter<3, msl_shared_type>>());",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn constants_are_values_or_addresses() {
    let (text, entry) = text_of("rows", Form::default());
    let copied = Some("msl_rows_bytes_0".to_owned());
    assert_eq!(
        entry.arguments,
        [
            Argument {
                index: 1,
                copied: None
            },
            Argument { index: 0, copied }
        ]
    );
    assert!(
        text.contains("const __grid_constant__ on_cuda::copy_of<on_cuda::parameter<1, msl_rows_type>> a1")
    );
    assert!(text.contains("extern \"C\" __device__ char msl_rows_bytes_0[sizeof("));
    let (text, entry) = text_of(
        "rows",
        Form {
            mapped: false,
            pointers: 1,
        },
    );
    assert!(entry.arguments.iter().all(|a| a.copied.is_none()));
    assert!(text.contains("on_cuda::address_of<on_cuda::parameter<1, msl_rows_type>> a1"));
}

#[test]
fn kernels_that_ask_for_their_place_in_the_grid_are_mapped() {
    assert!(usual_form(TEXT, "copy").mapped && !usual_form(TEXT, "rows").mapped);
}

#[test]
fn threadgroup_variables_are_shared_and_odd_names_are_bytes() {
    let source = "[[host_name(\"a-b\")]] kernel void f(device float *y [[buffer(0)]]) \
                  { threadgroup float t[4], u; y[0] = t[1] + u; }";
    let wanted = Wanted {
        kernel: "a-b",
        form: Form::default(),
        max_threads: Some(64),
        body: None,
        many: false,
    };
    let unit = unit(source, &[], &[wanted]).unwrap();
    let squeezed = unit.text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        squeezed.contains("__shared__ __align__(16) float t [ 4 ] ; __shared__ __align__(16) float u ;"),
        "{squeezed}"
    );
    assert!(squeezed.contains("void __launch_bounds__(64) mslx_612d62("));
}

#[test]
fn every_kernel_of_the_library_becomes_text() {
    let mut n = 0;
    for op in crate::ops::all() {
        let source = crate::kernel::SourceText::new(op.source.into());
        let flat = source.flat().unwrap();
        let module = source.module().unwrap();
        let wanted: Vec<Wanted<'_>> = module
            .kernels
            .iter()
            .map(|k| Wanted {
                kernel: &k.name,
                form: usual_form(flat, &k.name),
                max_threads: k.max_threads,
                body: None,
                many: false,
            })
            .collect();
        let unit = unit(flat, &[], &wanted).unwrap_or_else(|e| panic!("{}: {e}", op.name));
        assert_eq!(unit.entries.len(), module.kernels.len());
        for (kernel, entry) in module.kernels.iter().zip(&unit.entries) {
            let mut declared: Vec<u32> = kernel.bindings.iter().map(|b| b.index).collect();
            let mut given: Vec<u32> = entry.arguments.iter().map(|a| a.index).collect();
            declared.sort_unstable();
            given.sort_unstable();
            assert_eq!(declared, given, "{}", kernel.name);
            n += 1;
        }
    }
    assert!(n >= 240, "{n} kernels");
}
