//! What the parts of a launch claim.

use super::dots::{self, Block, CLAIM, Format, Scratch};
use super::integer::{self, Few, FewScratch, ROW_CHUNK, TileRows, Tiles, TilesScratch};
use super::{Args, Group, panels, product};
use crate::backend::cpu::IsaToken;

/// How the rows of a group are multiplied.
enum Way<'a> {
    /// Rows of no expert: zeros.
    Zeros,
    /// Few rows, in f32.
    Few,
    /// Many rows, in f32.
    Many,
    /// Few rows, as integers.
    FewIntegers,
    /// Many rows, as integers: chunks of so many rows, and so many columns for a task.
    ManyIntegers { tiles: Tiles<'a>, chunk: usize, columns: usize },
}

/// A group, cut into tasks.
pub(super) struct Work<'a> {
    args: &'a Args<'a>,
    format: &'a Format,
    isa: IsaToken,
    parts: usize,
    group: &'a Group,
    way: Way<'a>,
    tasks: usize,
}

/// What a part keeps between tasks of one work.
#[derive(Default)]
pub(super) struct Kept<'a> {
    block: Option<Block>,
    few: Option<Few<'a>>,
    /// A chunk of rows, by its number.
    rows: Option<(usize, TileRows)>,
    scratch: Scratch,
    /// Room that only its way of multiplying needs, made when it is.
    few_scratch: Option<FewScratch>,
    tiles_scratch: Option<TilesScratch>,
}

impl Kept<'_> {
    /// Before another work.
    pub(super) fn forget(&mut self) {
        (self.block, self.few, self.rows) = (None, None, None);
    }
}

impl<'a> Work<'a> {
    pub(super) fn new(
        args: &'a Args<'a>,
        format: &'a Format,
        isa: IsaToken,
        parts: usize,
        group: &'a Group,
    ) -> Self {
        let rows = group.rows.len();
        let integer = format.integer.as_ref().filter(|_| group.integers);
        let (way, tasks) = match integer {
            // Rows of no expert give zeros.
            _ if group.expert >= args.shape.experts => (Way::Zeros, 1),
            Some(_) if rows <= dots::MAX_ROWS => (Way::FewIntegers, args.n().div_ceil(CLAIM)),
            Some(integer) if integer::has_tiles(isa) => {
                let first_row = group.expert as usize * args.n();
                let tiles = Tiles::new(integer, isa, &args.source, first_row, args.n(), args.k());
                let chunks = rows.div_ceil(ROW_CHUNK);
                let columns = tiles.group(chunks, parts);
                let tasks = chunks * args.n().div_ceil(columns);
                (Way::ManyIntegers { tiles, chunk: rows.div_ceil(chunks), columns }, tasks)
            }
            _ if rows <= dots::MAX_ROWS => (Way::Few, args.n().div_ceil(CLAIM)),
            _ => {
                let columns = columns_of(args, group);
                (Way::Many, product(args, group, &columns, |p| p.tasks(isa, parts)))
            }
        };
        Work { args, format, isa, parts, group, way, tasks }
    }

    pub(super) fn tasks(&self) -> usize {
        self.tasks
    }

    /// Computes one of the tasks.
    pub(super) fn run(&self, task: usize, kept: &mut Kept<'a>) {
        let (args, group) = (self.args, self.group);
        match &self.way {
            Way::Zeros => {
                let zeros = vec![0.0; args.n()];
                for row in &group.rows {
                    // SAFETY: one task writes all these rows, and no other task these.
                    unsafe { args.output.store(*row as usize * args.n(), &zeros) };
                }
            }
            Way::Few => self.few(task, kept),
            Way::Many => {
                product(args, group, &columns_of(args, group), |p| p.run(self.isa, self.parts, task));
            }
            Way::FewIntegers => self.few_integers(task, kept),
            Way::ManyIntegers { tiles, chunk, columns } => self.many_integers(tiles, *chunk, *columns, task, kept),
        }
    }

    fn few(&self, task: usize, kept: &mut Kept<'a>) {
        let (args, rows) = (self.args, &self.group.rows);
        let block = kept.block.get_or_insert_with(|| {
            Block::new(self.format, self.isa, rows.len(), args.k(), |i, values| match rows.get(i) {
                Some(row) => args.x_row(*row, 0, values),
                None => values.fill(0.0),
            })
        });
        let columns = task * CLAIM..args.n().min((task + 1) * CLAIM);
        let mut sums = [[0.0; CLAIM]; dots::MAX_ROWS];
        let first = self.group.expert as usize * args.n();
        let weight_rows = first + columns.start..first + columns.end;
        block.times(self.format, self.isa, &args.source, weight_rows, &mut kept.scratch, &mut sums);
        self.store_few(columns, &mut sums);
    }

    fn few_integers(&self, task: usize, kept: &mut Kept<'a>) {
        let (args, rows) = (self.args, &self.group.rows);
        let few = kept.few.get_or_insert_with(|| {
            let integer = self.format.integer.as_ref().expect("the way says so");
            Few::new(integer, self.isa, rows.len(), args.k(), &args.source, |i, values| args.x_row(rows[i], 0, values))
        });
        let columns = task * CLAIM..args.n().min((task + 1) * CLAIM);
        let mut sums = [[0.0; CLAIM]; dots::MAX_ROWS];
        let first = self.group.expert as usize * args.n();
        few.times(first + columns.start..first + columns.end, kept.few_scratch.get_or_insert_default(), &mut sums);
        self.store_few(columns, &mut sums);
    }

    fn store_few(&self, columns: std::ops::Range<usize>, sums: &mut dots::Sums) {
        for (row, sums) in self.group.rows.iter().zip(sums) {
            // SAFETY: this part claimed these columns.
            unsafe { self.args.store(self.group.expert, *row, columns.start, &mut sums[..columns.len()]) };
        }
    }

    fn many_integers(&self, tiles: &Tiles<'_>, chunk: usize, columns: usize, task: usize, kept: &mut Kept<'a>) {
        let (args, rows) = (self.args, &self.group.rows);
        let groups = args.n().div_ceil(columns);
        let (number, column) = (task / groups, task % groups * columns);
        let rows = &rows[number * chunk..rows.len().min((number + 1) * chunk)];
        if kept.rows.as_ref().is_none_or(|(kept, _)| *kept != number) {
            kept.rows = Some((number, tiles.rows(rows.len(), |i, values| args.x_row(rows[i], 0, values))));
        }
        let Some((_, x)) = &kept.rows else { return };
        let columns = column..args.n().min(column + columns);
        tiles.run(x, columns, kept.tiles_scratch.get_or_insert_default(), |i, values| {
            // SAFETY: this part claimed these rows and columns.
            unsafe { args.store(self.group.expert, rows[i], column, values) };
        });
    }
}

/// The matrix of a group, as panels are unpacked from it.
fn columns_of<'a>(args: &'a Args<'a>, group: &Group) -> panels::Columns<'a> {
    panels::Columns { source: &args.source, first: group.expert as usize * args.n(), k: args.k() }
}
