//! Who touched which byte, and whether something ordered it.
//!
//! Time is counted in epochs. A `threadgroup_barrier` starts a new epoch of the memory classes that its flags name, for
//! the whole group; a `simdgroup_barrier` one for its simdgroup. Two accesses of one byte by different threads of a group
//! conflict when they fall into the same epoch (and, within a simdgroup, into the same epoch of that). Different groups
//! are never ordered within a dispatch. Per byte the last write and two reads are remembered: a few races with earlier
//! readers may be missed, none is invented.

use super::abi::SIMD_WIDTH;
use super::region::ARENA_BYTES;

/// The two kinds of memory that barriers tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    Device,
    Threadgroup,
}

/// Moment and author of an access.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// Number of the threadgroup, unique in the life of the engine and never zero.
    pub group: u32,
    /// Epoch of the memory class.
    pub epoch: u32,
    /// Epoch of the memory class in the simdgroup.
    pub simdgroup_epoch: u32,
    /// Barriers of any kind so far.
    pub barriers: u32,
    pub lane: u32,
    pub atomic: bool,
    /// Offset of the code in its object; 0 if unknown.
    pub code: u32,
}

/// A remembered access: three words, all zero for "none".
type Record = [u64; 3];

fn pack(m: Moment) -> Record {
    [
        u64::from(m.group) << 32 | u64::from(m.epoch),
        u64::from(m.simdgroup_epoch) << 32 | u64::from(m.barriers),
        u64::from(m.atomic) << 63 | u64::from(m.lane) << 32 | u64::from(m.code),
    ]
}

fn unpack(r: Record) -> Moment {
    Moment {
        group: (r[0] >> 32) as u32,
        epoch: r[0] as u32,
        simdgroup_epoch: (r[1] >> 32) as u32,
        barriers: r[1] as u32,
        lane: (r[2] >> 32) as u32 & 0x7fff_ffff,
        atomic: r[2] >> 63 != 0,
        code: r[2] as u32,
    }
}

/// Last write of a byte, and two reads by different threads: whoever writes next, one of them is by another thread.
type Cell = [Record; 3];
const WRITE: usize = 0;
const READS: [usize; 2] = [1, 2];

/// A conflict with an earlier access.
pub(super) struct Conflict {
    pub earlier: Moment,
    pub earlier_was_write: bool,
    /// First byte in conflict, counted from the start of the access.
    pub byte: usize,
}

/// The history of a piece of memory.
pub(super) struct Shadow {
    pub start: usize,
    cells: Vec<Cell>,
}

impl Shadow {
    /// For `len` bytes from address `start`. The pages come into being when touched.
    pub fn new(start: usize, len: usize) -> Self {
        Self {
            start,
            cells: vec![[[0; 3]; 3]; len],
        }
    }

    /// Whether all of `[address, address + len)` lies inside.
    pub fn covers(&self, address: usize, len: usize) -> bool {
        address >= self.start && address + len <= self.start + self.cells.len()
    }

    /// Records an access and finds what it conflicts with. The range must be covered.
    pub fn access(
        &mut self,
        address: usize,
        len: usize,
        writes: bool,
        now: Moment,
        class: Class,
    ) -> Option<Conflict> {
        let offset = address - self.start;
        let mut conflict = None;
        for (byte, cell) in self.cells.iter_mut().skip(offset).take(len).enumerate() {
            if conflict.is_none() {
                conflict = find(cell, writes, now, class).map(|slot| {
                    let earlier = unpack(cell[slot]);
                    cell[slot] = [0; 3];
                    Conflict {
                        earlier,
                        earlier_was_write: slot == WRITE,
                        byte,
                    }
                });
            }
            if writes {
                cell[WRITE] = pack(now);
            } else {
                remember_read(cell, now);
            }
        }
        conflict
    }
}

/// The first slot that holds an access which nothing orders with this one.
fn find(cell: &Cell, writes: bool, now: Moment, class: Class) -> Option<usize> {
    let slots = if writes { 0..3 } else { 0..1 };
    slots
        .into_iter()
        .find(|slot| unordered(unpack(cell[*slot]), now, class))
}

/// Keeps the first reader of an epoch and the latest other one, of another simdgroup if there has been one.
fn remember_read(cell: &mut Cell, now: Moment) {
    let simdgroup = |m: Moment| m.lane as usize / SIMD_WIDTH;
    let [first, second] = READS.map(|slot| unpack(cell[slot]));
    let current = |m: Moment| m.group == now.group && m.epoch == now.epoch;
    let stale = simdgroup(first) == simdgroup(now) && first.simdgroup_epoch != now.simdgroup_epoch;
    if !current(first) || first.lane == now.lane || stale {
        cell[READS[0]] = pack(now);
        return;
    }
    let better =
        current(second) && simdgroup(second) != simdgroup(first) && simdgroup(now) == simdgroup(first);
    if !better {
        cell[READS[1]] = pack(now);
    }
}

fn unordered(earlier: Moment, now: Moment, class: Class) -> bool {
    if earlier.group == 0 || (earlier.atomic && now.atomic) {
        return false;
    }
    if earlier.group != now.group {
        return class == Class::Device;
    }
    let same_simdgroup = earlier.lane as usize / SIMD_WIDTH == now.lane as usize / SIMD_WIDTH;
    earlier.lane != now.lane
        && earlier.epoch == now.epoch
        && (!same_simdgroup || earlier.simdgroup_epoch == now.simdgroup_epoch)
}

/// A buffer as the checker sees it.
pub(super) struct BufferRange {
    pub start: usize,
    pub len: usize,
    pub writable: bool,
    pub name: String,
    shadow: Option<usize>,
}

impl BufferRange {
    fn covers(&self, address: usize, len: usize) -> bool {
        address >= self.start && address.saturating_add(len) <= self.start + self.len
    }
}

/// Memory of one dispatch under watch.
pub(super) struct Checker {
    pub buffers: Vec<BufferRange>,
    shadows: Vec<Shadow>,
    pub arena: Shadow,
    /// Group that wrote each byte of threadgroup memory.
    written_by: Vec<u32>,
}

impl Checker {
    /// `buffers`: start, length, writable, name. Buffers that overlap share one history.
    pub fn new(arena: usize, buffers: impl IntoIterator<Item = (usize, usize, bool, String)>) -> Self {
        let mut made: Vec<BufferRange> = buffers
            .into_iter()
            .map(|(start, len, writable, name)| BufferRange {
                start,
                len,
                writable,
                name,
                shadow: None,
            })
            .collect();
        made.sort_by_key(|b| b.start);
        let mut shadows = Vec::new();
        let mut first = 0;
        while first < made.len() {
            let mut end = made[first].start + made[first].len;
            let mut last = first + 1;
            while last < made.len() && made[last].start < end {
                end = end.max(made[last].start + made[last].len);
                last += 1;
            }
            if made[first..last].iter().any(|b| b.writable) {
                for buffer in &mut made[first..last] {
                    buffer.shadow = Some(shadows.len());
                }
                shadows.push(Shadow::new(made[first].start, end - made[first].start));
            }
            first = last;
        }
        Self {
            buffers: made,
            shadows,
            arena: Shadow::new(arena, ARENA_BYTES),
            written_by: vec![0; ARENA_BYTES],
        }
    }

    /// The buffer that an access lies in, preferring one that may be written.
    pub fn buffer(&self, address: usize, len: usize) -> Option<&BufferRange> {
        let mut inside = self.buffers.iter().filter(|b| b.covers(address, len));
        let first = inside.next()?;
        if first.writable {
            Some(first)
        } else {
            Some(inside.find(|b| b.writable).unwrap_or(first))
        }
    }

    /// The history of a buffer's memory.
    pub fn device_access(
        &mut self,
        address: usize,
        len: usize,
        writes: bool,
        now: Moment,
    ) -> Option<Conflict> {
        let shadow = self.shadows.iter_mut().find(|s| s.covers(address, len))?;
        shadow.access(address, len, writes, now, Class::Device)
    }

    /// Whether `group` has written every byte; a write counts from now on.
    pub fn initialised(&mut self, address: usize, len: usize, writes: bool, group: u32) -> bool {
        let offset = address - self.arena.start;
        let bytes = &mut self.written_by[offset..offset + len];
        let complete = bytes.iter().all(|g| *g == group);
        // Told once, a byte is not worth telling again.
        bytes.fill(group);
        complete || writes
    }

    /// Words for the buffer next to a stray address.
    pub fn nearest(&self, address: usize) -> String {
        let distance = |b: &BufferRange| {
            if address < b.start {
                b.start - address
            } else {
                address.saturating_sub(b.start + b.len)
            }
        };
        match self.buffers.iter().min_by_key(|b| distance(b)) {
            None => "no buffer is bound".to_owned(),
            Some(b) => {
                let offset = address as i128 - b.start as i128;
                format!("nearest is `{}`: offset {offset} of {} bytes", b.name, b.len)
            }
        }
    }
}
