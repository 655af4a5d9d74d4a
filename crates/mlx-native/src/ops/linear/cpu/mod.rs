//! Bodies of `linear` for the CPU.
//!
//! Packed rows are used in place. Rows of `x` that meet one matrix together, all of them or those of one expert, are a group.
//! With few rows a product is bound by reading the weights once: [`dots`]. With many, blocks of the weight are unpacked and
//! used for all rows: [`panels`], and `backend::cpu::gemm` does the rest. Where activations are bf16 or f16 and the format is
//! one of integers, both have a faster way, [`integer`].

mod dots;
mod integer;
mod panels;
mod work;

use super::{BIASED, CHOSEN, GATHERED, PLAIN, Shape};
use crate::backend::cpu::Launch;
use crate::backend::cpu::gemm::{self, PanelSource, Product};
use crate::ops::coding::{self, Coding, Floats, FloatsMut, Source};
use dots::{CLAIM, Format};
use work::{Kept, Work};

/// Multiply-adds below which one thread does all: waking others costs more.
const ALONE: usize = 16 * 1024;

/// The arguments of a launch.
struct Args<'a> {
    shape: Shape,
    x: Floats<'a>,
    source: Source<'a>,
    output: FloatsMut<'a>,
    /// The expert of each row, if rows choose one.
    ids: Option<&'a [u32]>,
    /// The row of `x` for each row of the output, if it is listed.
    chosen: Option<&'a [u32]>,
    bias: Option<Floats<'a>>,
    transpose: bool,
}

impl<'a> Args<'a> {
    fn new(launch: &Launch<'a>, format: &Format) -> Option<Self> {
        let shape: Shape = launch.params(5);
        let dtype = coding::dtype(launch, coding::X_TYPE)?;
        let transpose = !launch.flag(PLAIN);
        let (rows, columns) = if transpose { (shape.n, shape.k) } else { (shape.k, shape.n) };
        let [rows, columns, matrices, stride] = [rows, columns, shape.experts, shape.codes_stride].map(|v| v as usize);
        let source = Source::new(launch, &format.coding, rows, columns, matrices, stride)?;
        let args = Args {
            shape,
            x: Floats::input(launch, 0, dtype),
            source,
            output: FloatsMut::output(launch, 4, dtype),
            ids: launch.flag(GATHERED).then(|| launch.input(6)),
            chosen: launch.flag(CHOSEN).then(|| launch.input(7)),
            bias: launch.flag(BIASED).then(|| Floats::input(launch, 8, dtype)),
            transpose,
        };
        let m = shape.m as usize;
        let fits = args.ids.is_none_or(|ids| ids.len() >= m)
            && args.chosen.is_none_or(|rows| rows.len() >= m)
            && args.x.len() >= shape.x_rows as usize * shape.k as usize;
        if !fits {
            launch.fail("an argument is smaller than the sizes say".to_owned());
            return None;
        }
        Some(args)
    }

    fn k(&self) -> usize {
        self.shape.k as usize
    }

    fn n(&self) -> usize {
        self.shape.n as usize
    }

    fn is_small(&self) -> bool {
        (self.shape.m as usize).saturating_mul(self.n()).saturating_mul(self.k()) <= ALONE
    }

    /// Where the row of `x` begins that output row `row` is made of, if there is one.
    fn x_start(&self, row: u32) -> Option<usize> {
        let x_row = match self.chosen {
            Some(chosen) => chosen[row as usize],
            None => row / self.shape.rows_per_x,
        };
        (x_row < self.shape.x_rows).then(|| x_row as usize * self.k())
    }

    /// The values of the row of `x` that output row `row` is made of, from column `k` on; zeros where there is none.
    fn x_row(&self, row: u32, k: usize, values: &mut [f32]) {
        match self.x_start(row) {
            Some(start) => self.x.widen(start + k, values),
            None => values.fill(0.0),
        }
    }

    /// Whether that row has neither NaN nor infinity.
    fn is_finite(&self, row: u32) -> bool {
        self.x_start(row).is_none_or(|start| self.x.are_finite(start, self.k()))
    }

    /// Adds the bias of `expert` to the values of row `row` from column `column` on, and writes them.
    ///
    /// # Safety
    /// No other part writes them.
    unsafe fn store(&self, expert: u32, row: u32, column: usize, values: &mut [f32]) {
        if let Some(bias) = &self.bias {
            // In pieces, to need no memory.
            let mut piece = [0.0; CLAIM];
            let first = expert as usize * self.n() + column;
            for (i, values) in values.chunks_mut(CLAIM).enumerate() {
                bias.widen(first + i * CLAIM, &mut piece[..values.len()]);
                values.iter_mut().zip(piece).for_each(|(v, b)| *v += b);
            }
        }
        // SAFETY: the caller's word.
        unsafe { self.output.store(row as usize * self.n() + column, values) };
    }
}

/// Rows of the output that meet one matrix.
struct Group {
    expert: u32,
    rows: Vec<u32>,
    /// Whether they are multiplied as integers.
    integers: bool,
}

/// The groups, in the order of their experts, rows in order; rows of no expert are in a group of their own, the last.
fn groups(args: &Args<'_>, format: &Format) -> Vec<Group> {
    let m = args.shape.m;
    let all = match args.ids {
        None => vec![(0, (0..m).collect())],
        Some(ids) => {
            let mut order: Vec<u32> = (0..m).collect();
            order.sort_by_key(|row| (ids[*row as usize].min(args.shape.experts), *row));
            order
                .chunk_by(|a, b| ids[*a as usize].min(args.shape.experts) == ids[*b as usize].min(args.shape.experts))
                .map(|rows| (ids[rows[0] as usize], rows.to_vec()))
                .collect::<Vec<_>>()
        }
    };
    let integers = args.transpose && format.integer.is_some() && integer::applies(&args.x, &args.source);
    let mut groups = Vec::with_capacity(all.len());
    for (expert, rows) in all {
        // Integers know neither NaN nor infinity.
        let (taken, left): (Vec<u32>, Vec<u32>) = if integers {
            rows.into_iter().partition(|row| args.is_finite(*row))
        } else {
            (Vec::new(), rows)
        };
        let parts = [(taken, true), (left, false)].into_iter().filter(|(rows, _)| !rows.is_empty());
        groups.extend(parts.map(|(rows, integers)| Group { expert, rows, integers }));
    }
    groups
}

/// `x · Wᵀ` or `x · W`: the kernels for few rows and for many share this body.
pub(super) fn linear<C: Coding>(launch: &Launch<'_>, part: usize, parts: usize) {
    multiply(launch, &Format::of::<C>(), part, parts);
}

/// The share of one part. Compiled once: what differs between formats is in `format`.
fn multiply(launch: &Launch<'_>, format: &Format, part: usize, parts: usize) {
    let Some(args) = Args::new(launch, format) else { return };
    if args.is_small() && part > 0 {
        return;
    }
    let groups = groups(&args, format);
    if !args.transpose {
        let source = panels::Rows { source: &args.source, n: args.n() };
        return product(&args, &groups[0], &source, |p| p.share(launch, parts));
    }
    let isa = launch.isa();
    let works: Vec<Work<'_>> = groups.iter().map(|group| Work::new(&args, format, isa, parts, group)).collect();
    let total = works.iter().map(Work::tasks).sum();
    let mut kept = Kept::default();
    let (mut work, mut first) = (0, 0);
    while let Some(claim) = launch.next_chunk(total, if args.is_small() { total } else { 1 }) {
        for task in claim {
            // Claims come in ascending order: the task is one of this work, or of a later one.
            while task >= first + works[work].tasks() {
                first += works[work].tasks();
                work += 1;
                kept.forget();
            }
            works[work].run(task - first, &mut kept);
        }
    }
}

/// Calls `use_it` with the product of the rows of a group and the matrix that `source` unpacks.
fn product<R>(args: &Args<'_>, group: &Group, source: &dyn PanelSource, use_it: impl FnOnce(&Product<'_>) -> R) -> R {
    let rows = &group.rows;
    use_it(&Product {
        shape: gemm::Shape { m: rows.len(), n: args.n(), k: args.k() },
        x: &|i, k, values| args.x_row(rows[i], k, values),
        source,
        // SAFETY: tasks have disjoint rows or columns, and this part claimed the one at hand.
        sink: &|i, j, values| unsafe { args.store(group.expert, rows[i], j, values) },
    })
}
