//! Functions that take a body's place where there is much to do.

use super::*;
use crate::ops::linear::{LinearParams, linear};
use crate::quant::{Weight, WeightFormat};

fn weight(b: &Bench, n: usize, k: usize) -> Weight {
    let tensor = |dtype, columns| b.device.alloc_tensor(dtype, &[n, columns]).unwrap();
    let planes = vec![
        tensor(DType::U32, k / 8),
        tensor(DType::BF16, k / 64),
        tensor(DType::BF16, k / 64),
    ];
    let format = WeightFormat::affine(4, 64, DType::BF16).unwrap();
    Weight::new(format, planes, &[n, k]).unwrap()
}

/// Multiplies `m` rows by each weight, in one list, each by the x of its number; gives the launches: function and blocks.
fn multiply(b: &mut Bench, m: u32, k: usize, products: &[(&Weight, usize)]) -> Vec<(String, [u32; 3])> {
    let tensor = |b: &Bench, columns: usize| {
        b.device
            .alloc_tensor(DType::BF16, &[m as usize, columns])
            .unwrap()
    };
    let x = [tensor(b, k), tensor(b, k)];
    let outputs: Vec<_> = products
        .iter()
        .map(|(w, _)| tensor(b, w.rows() as usize))
        .collect();
    let device = b.device.clone();
    let mut encoder = b.encoder();
    for ((weight, from), y) in products.iter().zip(&outputs) {
        let params = LinearParams { m };
        linear(
            &mut encoder,
            &mut b.registry,
            &device,
            &x[*from],
            weight,
            None,
            y,
            &params,
        )
        .unwrap();
    }
    let before = b.launches().len();
    encoder.commit_and_wait().unwrap();
    let launches = b.launches().split_off(before);
    let name = |symbol: &str| symbol.rsplit("linear_mm_").next().unwrap_or_default().to_owned();
    launches
        .iter()
        .map(|c| match c {
            Call::Launch { symbol, blocks, .. } => (name(symbol), *blocks),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn names(launches: &[(String, [u32; 3])]) -> Vec<&str> {
    launches.iter().map(|l| l.0.as_str()).collect()
}

#[test]
fn many_rows_take_stages_and_share_the_tiles_of_x() {
    let mut b = Bench::new();
    let (w, v) = (weight(&b, 300, 256), weight(&b, 40, 256));
    let launches = multiply(&mut b, 200, 256, &[(&w, 0)]);
    let wanted = [
        ("weights", [38, 1, 1]),
        ("rows", [200, 1, 1]),
        ("product", [4, 1, 1]),
        ("rest", [3, 2, 1]),
    ];
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(n, blocks)| ((*n).to_owned(), *blocks))
        .collect();
    assert_eq!(launches, wanted);
    // The same x again: its tiles are there, whatever n is. Another x: they are not.
    let launches = multiply(&mut b, 200, 256, &[(&w, 0), (&v, 0), (&v, 1), (&w, 0)]);
    let all = ["weights", "rows", "product", "rest"];
    let again = ["weights", "product", "rest"];
    assert_eq!(names(&launches), [&all[..], &again, &all, &all].concat());
    // The fewest rows that the kernel is for; another architecture takes the function itself.
    assert_eq!(names(&multiply(&mut b, 13, 256, &[(&w, 0)])), all);
    let mut other = Bench::with(
        Facts {
            capability: 80,
            ..facts()
        },
        |_| (),
    );
    let w = weight(&other, 300, 256);
    assert_eq!(names(&multiply(&mut other, 200, 256, &[(&w, 0)])), ["affine4"]);
    assert_eq!(*b.compiled.lock().unwrap().last().unwrap(), Output::Exact(90));
}

#[test]
fn scratch_memory_grows_and_graphs_that_know_the_old_are_gone() {
    let mut b = Bench::with(facts(), |c| c.cuda.graphs_from = Some(2));
    let w = weight(&b, 300, 256);
    let scratch = |b: &Bench| -> Vec<Vec<u8>> {
        let launches = b.launches();
        let of_stages = launches.iter().filter_map(|c| match c {
            Call::Launch { parameters, .. } => parameters.last().cloned(),
            _ => None,
        });
        of_stages.collect()
    };
    multiply(&mut b, 200, 256, &[(&w, 0)]);
    let first = scratch(&b);
    assert!(first.iter().all(|s| *s == first[0]));
    multiply(&mut b, 200, 256, &[(&w, 0)]);
    assert_eq!(scratch(&b)[4], first[0], "it is kept");
    multiply(&mut b, 2000, 256, &[(&w, 0)]);
    let last = scratch(&b).pop().unwrap();
    assert_ne!(last, first[0]);
    // A list of the first shape takes the new one, in a graph of its own.
    multiply(&mut b, 200, 256, &[(&w, 0)]);
    assert_eq!(scratch(&b).pop().unwrap(), last);
    let graphs: Vec<usize> = (b.log().calls.iter())
        .filter_map(|c| if let Call::Graph(n) = c { Some(*n) } else { None })
        .collect();
    assert_eq!(graphs, [1, 1, 2, 2]);
}
