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
fn products_of_one_row_that_nothing_lies_between_are_one_launch() {
    let mut b = Bench::new();
    let weights: Vec<Weight> = [300, 40, 64, 16].map(|n| weight(&b, n, 256)).into();
    let mut products: Vec<(&Weight, usize)> = weights.iter().map(|w| (w, 0)).collect();
    // 19 blocks of 16 outputs, 3 and 4; a fourth is a launch of its own.
    let launches = multiply(&mut b, 1, 256, &products);
    let shown: Vec<_> = launches.iter().map(|l| (l.0.ends_with("_joined"), l.1)).collect();
    assert_eq!(shown, [(true, [26, 1, 1]), (false, [1, 1, 1])]);
    let parameters = |b: &Bench| match b.launches().iter().rev().nth(1) {
        Some(Call::Launch { parameters, .. }) => parameters.clone(),
        other => panic!("{other:?}"),
    };
    let all = parameters(&b);
    assert_eq!(all.len(), 28);
    assert_eq!(all[27], [19u32.to_ne_bytes(), 22u32.to_ne_bytes()].concat());
    // n of each, the second word of its sizes.
    let n = |all: &[Vec<u8>], part: usize| u32::from_ne_bytes(all[part * 9 + 5][4..8].try_into().unwrap());
    assert_eq!([0, 1, 2].map(|part| n(&all, part)), [300, 40, 64]);
    // Two: no block is the third's.
    products.truncate(2);
    let launches = multiply(&mut b, 1, 256, &products);
    assert_eq!(launches[0].1, [22, 1, 1]);
    let all = match b.launches().pop() {
        Some(Call::Launch { parameters, .. }) => parameters,
        other => panic!("{other:?}"),
    };
    assert_eq!(all[27], [19u32.to_ne_bytes(), 22u32.to_ne_bytes()].concat());
    assert_eq!([0, 1, 2].map(|part| n(&all, part)), [300, 40, 40]);
    // More rows than a block has are several blocks along y: each product is a launch.
    let launches = multiply(&mut b, 12, 256, &products);
    assert_eq!(launches.len(), 2);
    assert!(launches.iter().all(|l| !l.0.ends_with("_joined")));
}

#[test]
fn products_are_not_joined_across_a_barrier() {
    let mut b = Bench::new();
    let (w, v) = (weight(&b, 256, 256), weight(&b, 40, 256));
    let device = b.device.clone();
    let tensor = |n: usize| device.alloc_tensor(DType::BF16, &[1, n]).unwrap();
    let (x, y, z) = (tensor(256), tensor(256), tensor(40));
    let mut encoder = b.encoder();
    let params = LinearParams { m: 1 };
    // The second reads what the first writes.
    for (x, w, y) in [(&x, &w, &y), (&y, &v, &z)] {
        linear(&mut encoder, &mut b.registry, &device, x, w, None, y, &params).unwrap();
    }
    encoder.commit_and_wait().unwrap();
    let blocks: Vec<_> = (b.launches().iter())
        .map(|c| {
            if let Call::Launch { blocks, .. } = c {
                blocks[0]
            } else {
                0
            }
        })
        .collect();
    assert_eq!(blocks, [16, 3]);
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
