//! Dividing a slice among threads.

use crate::Cpu;

/// Elements that a task should have at least: below, handing work to another thread costs more than it saves.
pub(crate) const GRAIN: usize = 16 * 1024;

/// A mutable slice that tasks of one parallel loop share, each taking ranges of its own.
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer stands for an exclusive borrow of plain floats; `range` asks its callers to keep ranges apart.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(x: &'a mut [f32]) -> Self {
        Self { start: x.as_mut_ptr(), len: x.len(), slice: std::marker::PhantomData }
    }

    /// The elements `start..end`.
    ///
    /// # Safety
    /// No two ranges that live at the same time overlap.
    pub(crate) unsafe fn range(&self, start: usize, end: usize) -> &'a mut [f32] {
        assert!(start <= end && end <= self.len, "range {start}..{end} of {}", self.len);
        // SAFETY: inside the borrowed slice, as asserted; not aliased, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), end - start) }
    }
}

/// Runs `f(start, part)` on consecutive parts of `x` that have `chunk` elements (the last may have fewer).
pub(crate) fn chunks(cpu: &Cpu, x: &mut [f32], chunk: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let len = x.len();
    if len <= chunk || cpu.pool.threads() == 1 {
        if len > 0 {
            f(0, x);
        }
        return;
    }
    let shared = Shared::new(x);
    cpu.pool.run(len.div_ceil(chunk), &|i| {
        let (start, end) = (i * chunk, ((i + 1) * chunk).min(len));
        // SAFETY: tasks have different numbers, so their ranges are disjoint.
        f(start, unsafe { shared.range(start, end) });
    });
}

/// Elements in a task of whole rows of `dim`: the least number of rows that is worth a task.
pub(crate) fn row_chunk(dim: usize) -> usize {
    GRAIN.div_ceil(dim.max(1)) * dim.max(1)
}
