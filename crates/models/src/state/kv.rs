//! Keys and values of one layer.
//!
//! Attention sees `KvCache::extend` and nothing else, so that full, sliding and quantized layouts stay in this file. Keys
//! and values lie in one buffer each, in the order of their positions; what is still seen is always one run of rows, so a
//! kernel streams over it.

use mlxengine_tensor::{Dtype, Op, QuantFormat, Spec, Tensor, Tensors};
use smallvec::smallvec;

use super::{CacheOptions, KvShape};

/// A cache that forgets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// Most positions that a query sees.
    size: usize,
    /// First positions that are never forgotten.
    keep: usize,
}

impl Bound {
    /// Whether it is of these sizes.
    pub(super) fn is(self, size: usize, keep: usize) -> bool {
        (self.size, self.keep) == (size, keep)
    }

    /// The narrower of a layer's window and the most that the options allow.
    pub(super) fn of(window: Option<usize>, options: &CacheOptions) -> Option<Bound> {
        match (window, options.max_tokens) {
            (Some(window), Some(max)) if max < window => Some(Bound { size: max, keep: CacheOptions::KEEP }),
            (Some(window), _) => Some(Bound { size: window, keep: 0 }),
            (None, Some(max)) => Some(Bound { size: max, keep: CacheOptions::KEEP }),
            (None, None) => None,
        }
    }
}

/// What attention sees.
pub(crate) struct View {
    /// Keys `[S, heads, dim]`, or their codes, scales and biases.
    pub(crate) keys: Tensors,
    /// Values, likewise.
    pub(crate) values: Tensors,
    /// Layout, if they are quantized.
    pub(crate) format: Option<QuantFormat>,
    /// Rows of the view that a query sees, counted back from its own.
    pub(crate) window: Option<usize>,
    /// Position of the first row, if none before it is kept.
    pub(crate) first: usize,
}

impl View {
    /// The keys as plain numbers.
    pub(crate) fn dense_keys(&self) -> Tensor {
        self.dense(&self.keys)
    }

    /// The values as plain numbers.
    pub(crate) fn dense_values(&self) -> Tensor {
        self.dense(&self.values)
    }

    fn dense(&self, parts: &Tensors) -> Tensor {
        match self.format {
            None => parts[0].cast(Dtype::F32),
            Some(format) => {
                let op = Op::Dequantize { format, rounding: Dtype::F32, multiplier: 1.0 };
                Tensor::apply(&op, parts.clone())
            }
        }
    }
}

/// Keys and values of one layer.
///
/// Rows `start..end` of the buffers are live. A bounded cache moves `start` on; the rows that it keeps for ever are moved
/// along with it, over rows that are forgotten, and now and then everything moves to the front.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    shape: KvShape,
    bound: Option<Bound>,
    /// Floats that are kept, unless they are quantized.
    dtype: Dtype,
    format: Option<QuantFormat>,
    keys: Tensors,
    values: Tensors,
    start: usize,
    end: usize,
    /// Positions that are forgotten.
    gone: usize,
}

/// Rows by which a cache grows at least.
const STEP: usize = 256;

impl KvCache {
    pub(super) fn new(shape: KvShape, dtype: Dtype, bound: Option<Bound>, format: Option<QuantFormat>) -> Self {
        Self { shape, bound, dtype, format, keys: Tensors::new(), values: Tensors::new(), start: 0, end: 0, gone: 0 }
    }

    /// One that holds these rows, keys and values, the last of `offset` positions.
    pub(super) fn holding(mut self, [keys, values]: [Tensors; 2], offset: usize) -> Self {
        self.end = keys[0].shape()[0];
        self.gone = offset.saturating_sub(self.end);
        let (dtype, format) = (self.dtype, self.format);
        let kept = |rows: Tensors| match format {
            None => rows.into_iter().map(|rows| rows.cast(dtype)).collect(),
            Some(_) => rows,
        };
        (self.keys, self.values) = (kept(keys), kept(values));
        self
    }

    /// Most positions that a query sees, and how many of the first are never forgotten.
    pub(super) fn bound(&self) -> Option<(usize, usize)> {
        self.bound.map(|bound| (bound.size, bound.keep))
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.iter().chain(&self.values).map(|t| t.spec().bytes()).sum()
    }

    fn capacity(&self) -> usize {
        self.keys.first().map_or(0, |t| t.shape()[0])
    }

    /// Appends `k`, `v` `[T, heads, dim]` and returns what the new queries see.
    pub(crate) fn extend(&mut self, k: &Tensor, v: &Tensor) -> View {
        self.append(k, Some(v))
    }

    /// Appends `k` alone, where the keys serve as the values.
    pub(crate) fn extend_keys(&mut self, k: &Tensor) -> View {
        self.append(k, None)
    }

    /// Both buffers, or the keys' alone where they serve as the values, each with the size of its rows.
    fn buffers(&mut self) -> impl Iterator<Item = (&mut Tensors, usize)> {
        let values = self.shape.value_dim.map(|dim| (&mut self.values, dim));
        [(&mut self.keys, self.shape.key_dim)].into_iter().chain(values)
    }

    fn append(&mut self, k: &Tensor, v: Option<&Tensor>) -> View {
        let count = k.shape()[0];
        if let Some(bound) = self.bound {
            self.forget(bound);
        }
        if self.end + count > self.capacity() {
            self.make_room(count);
        }
        let (end, layout) = (self.end, (self.dtype, self.format));
        for ((buffers, _), rows) in self.buffers().zip([Some(k), v].into_iter().flatten()) {
            write(buffers, end, parts(rows, layout));
        }
        self.end += count;
        self.view()
    }

    /// What the queries of the pass that has just extended this see.
    pub(crate) fn view(&self) -> View {
        let live =
            |buffers: &Tensors| buffers.iter().map(|b| b.clone().slice(0, self.start, self.end - self.start)).collect();
        View {
            keys: live(&self.keys),
            values: live(if self.shape.value_dim.is_some() { &self.values } else { &self.keys }),
            format: self.format,
            window: self.bound.map(|b| b.size),
            first: self.gone,
        }
    }

    /// Lets go of positions that no later query sees.
    fn forget(&mut self, bound: Bound) {
        let live = self.end - self.start;
        let Some(gone) = live.checked_sub(bound.size - 1).filter(|gone| *gone > 0) else { return };
        if bound.keep > 0 {
            let start = self.start;
            for (buffers, _) in self.buffers() {
                let kept = copy(buffers, start, bound.keep);
                write(buffers, start + gone, kept);
            }
        }
        self.start += gone;
        self.gone += gone;
    }

    /// Moves the live rows to the front of buffers that hold `count` more.
    fn make_room(&mut self, count: usize) {
        let live = self.end - self.start;
        let slack = (live / 4).max(STEP);
        let capacity =
            (live + count + slack).next_multiple_of(STEP).max(if self.start > 0 { self.capacity() } else { 0 });
        let (start, heads, layout) = (self.start, self.shape.heads, (self.dtype, self.format));
        for (buffers, dim) in self.buffers() {
            let old = std::mem::replace(buffers, empty([capacity, heads, dim], layout));
            if live > 0 {
                let rows = old.into_iter().map(|b| b.slice(0, start, live)).collect();
                write(buffers, 0, rows);
            }
        }
        (self.start, self.end) = (0, live);
    }

    /// Converts what is held, once.
    pub(super) fn quantize(&mut self, format: QuantFormat) {
        if self.format.is_some() {
            return;
        }
        self.format = Some(format);
        let (end, heads, capacity, layout) = (self.end, self.shape.heads, self.capacity(), (self.dtype, self.format));
        for (buffers, dim) in self.buffers() {
            let old = std::mem::replace(buffers, empty([capacity, heads, dim], layout));
            if end > 0 {
                // From row 0, not from the first live one: rows that were let go may come back.
                let rows = parts(&old[0].clone().slice(0, 0, end).cast(Dtype::F32), layout);
                write(buffers, 0, rows);
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self, format: Option<QuantFormat>) {
        *self = Self::new(self.shape, self.dtype, self.bound, format);
    }

    /// Rows that must come back to life so that `count` positions of `offset` can be dropped.
    fn deficit(&self, count: usize, offset: usize) -> Option<usize> {
        let live = self.end - self.start;
        let needed = match self.bound {
            Some(bound) => (bound.size - 1).min(offset - count),
            None => offset - count,
        };
        let left = live.checked_sub(count);
        Some(match left {
            Some(left) => needed.saturating_sub(left),
            None => needed + (count - live),
        })
    }

    pub(super) fn can_drop(&self, count: usize, offset: usize) -> bool {
        let reserve = if self.bound.is_some_and(|b| b.keep == 0) { self.start } else { 0 };
        self.deficit(count, offset).is_some_and(|deficit| deficit <= reserve)
    }

    pub(super) fn drop_last(&mut self, count: usize, offset: usize) {
        let back = self.deficit(count, offset).unwrap_or(0);
        self.start -= back;
        self.gone -= back;
        self.end -= count;
    }
}

/// How rows are kept: floats of a type, unless they are quantized.
type Layout = (Dtype, Option<QuantFormat>);

/// The tensors that hold `rows` in a layout.
fn parts(rows: &Tensor, (dtype, format): Layout) -> Tensors {
    match format {
        Some(format) => rows.clone().quantize(format),
        None => smallvec![rows.cast(dtype)],
    }
}

/// Buffers for rows of a layout.
fn empty(shape: [usize; 3], (dtype, format): Layout) -> Tensors {
    let [rows, heads, dim] = shape;
    match format {
        None => smallvec![Tensor::empty(Spec::new(dtype, shape))],
        Some(format) => {
            let codes = Tensor::empty(Spec::new(Dtype::U32, [rows, heads, dim * format.bits as usize / 32]));
            let scales = || Tensor::empty(Spec::new(Dtype::F32, [rows, heads, dim / format.group]));
            smallvec![codes, scales(), scales()]
        }
    }
}

/// Writes rows into buffers that this cache alone holds: in place.
fn write(buffers: &mut Tensors, at: usize, rows: Tensors) {
    let owned = std::mem::take(buffers);
    *buffers = owned.into_iter().zip(&rows).map(|(buffer, rows)| buffer.update(at, rows)).collect();
}

/// A copy of rows, which leaves the buffers without a second holder.
fn copy(buffers: &Tensors, start: usize, count: usize) -> Tensors {
    let one = |buffer: &Tensor| {
        let rows = buffer.clone().slice(0, start, count);
        Tensor::empty(rows.spec()).update(0, &rows)
    };
    buffers.iter().map(one).collect()
}
