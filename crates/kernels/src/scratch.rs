//! Working memory that each thread keeps, so that a kernel in its steady state allocates nothing.

use std::cell::Cell;
use std::thread::LocalKey;

/// A cache line of floats.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static SHARED: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static INDICES: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// Lends `len` floats, aligned to 64 bytes, with whatever the last user left in them.
pub(crate) fn floats<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    lend(&LINES, len, work)
}

/// As [`floats`], for what a kernel's caller prepares and all tasks read: a block of its own, because the caller lends itself
/// [`floats`] for its part of the tasks meanwhile.
pub(crate) fn shared_floats<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    lend(&SHARED, len, work)
}

fn lend<R>(cell: &'static LocalKey<Cell<Vec<Line>>>, len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut lines = cell.take();
    let count = len.div_ceil(16);
    if lines.len() < count {
        lines.resize(count, Line([0.0; 16]));
    }
    // SAFETY: `Line` is sixteen floats without padding, and `count` of them hold at least `len`.
    let result = work(unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) });
    // A nested user has its own block, and the last one back stays.
    cell.set(lines);
    result
}

/// Lends an empty list of indices.
pub(crate) fn indices<R>(work: impl FnOnce(&mut Vec<u32>) -> R) -> R {
    let mut list = INDICES.take();
    list.clear();
    let result = work(&mut list);
    INDICES.set(list);
    result
}
