use super::nvrtc::{Nvrtc, Output};
use super::text::{Form, Wanted, unit};
use crate::kernel::ConstantValue;

#[test]
#[ignore]
fn trial() {
    let path = std::env::var("NVRTC").unwrap();
    let nvrtc = Nvrtc::load(Some(path.as_ref())).unwrap();
    println!("{:?}", nvrtc.version);
    let archs: Vec<u32> = std::env::var("ARCH").unwrap().split(',').map(|s| s.parse().unwrap()).collect();
    let only = std::env::var("ONLY").unwrap_or_default();
    for op in crate::ops::all() {
        if !op.name.contains(&only) { continue; }
        let source = crate::kernel::SourceText::new(op.source.into());
        let module = source.module().unwrap();
        let constants: Vec<(u32, ConstantValue)> = module.constants.iter().map(|c| (c.index, match c.ty {
            crate::kernel::msl::ConstantType::Bool => ConstantValue::Bool(true),
            _ => ConstantValue::U32(if c.name == "GROUP_SIZE" {64} else {4}),
        })).collect();
        let wanted: Vec<_> = module.kernels.iter().map(|k| Wanted { kernel: &k.name, form: Form::default(), max_threads: k.max_threads }).collect();
        let made = unit(source.flat().unwrap(), &constants, &wanted).unwrap();
        std::fs::write(format!("/tmp/cuda/{}.cu", op.name), &made.text).unwrap();
        for a in &archs {
            let t = std::time::Instant::now();
            let out = if std::env::var("PTX").is_ok() { Output::Ptx(*a) } else { Output::Cubin(*a) };
            let r = nvrtc.compile(&made.text, out);
            println!("{} {} kernels sm_{a}: {:.1}s {}", op.name, wanted.len(), t.elapsed().as_secs_f32(), match &r { Ok(b) => format!("{} bytes", b.len()), Err(e) => e.clone() });
        }
    }
}
