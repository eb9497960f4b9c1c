//! What a sequence has seen: keys and values of every layer.
//!
//! Attention sees `KvCache::extend` and nothing else, so that full, sliding and quantized layouts stay in this file. Keys
//! and values lie in one buffer each, in the order of their positions; what is still seen is always one run of rows, so a
//! kernel streams over it.

use mlxengine_tensor::{Dtype, QuantFormat, QuantMode, Spec, Tensor, Tensors};
use smallvec::smallvec;

use crate::{Error, ErrorKind, Result};

/// How the caches of a sequence are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CacheOptions {
    /// Most positions that a layer remembers: older ones are forgotten, but for the first [`CacheOptions::KEEP`].
    pub max_tokens: Option<usize>,
    /// Keys and values in fewer bits.
    pub quantize: Option<KvQuantization>,
}

impl CacheOptions {
    /// First positions that a bounded cache never forgets: attention leans on them (Xiao et al. 2023).
    pub const KEEP: usize = 4;
}

/// Keys and values in fewer bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvQuantization {
    /// 2, 3, 4, 5, 6 or 8.
    pub bits: u32,
    /// Numbers that share a scale: 32, 64 or 128.
    pub group: usize,
    /// Quantized once a sequence has this many positions; `None`: from the first one on.
    pub start: Option<usize>,
}

impl KvQuantization {
    fn format(self) -> QuantFormat {
        QuantFormat { mode: QuantMode::Affine, bits: self.bits, group: self.group }
    }
}

/// Sizes of a layer's keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvShape {
    pub(crate) heads: usize,
    pub(crate) key_dim: usize,
    pub(crate) value_dim: usize,
}

/// What one sequence has seen.
#[derive(Clone, Debug)]
pub struct State {
    layers: Vec<KvCache>,
    offset: usize,
    quantize: Option<KvQuantization>,
}

impl State {
    pub(crate) fn new(layers: impl Iterator<Item = (KvShape, Option<usize>)>, options: &CacheOptions) -> Result<Self> {
        if let Some(max) = options.max_tokens
            && max <= CacheOptions::KEEP
        {
            return Err(invalid(format!(
                "a cache of {max} tokens is too small: give more than {}",
                CacheOptions::KEEP
            )));
        }
        let mut caches = Vec::new();
        for (shape, window) in layers {
            if let Some(q) = options.quantize {
                check(q, shape)?;
            }
            let bound = |size, keep| Bound { size, keep };
            let bound = match (window, options.max_tokens) {
                (Some(window), Some(max)) if max < window => Some(bound(max, CacheOptions::KEEP)),
                (Some(window), _) => Some(bound(window, 0)),
                (None, Some(max)) => Some(bound(max, CacheOptions::KEEP)),
                (None, None) => None,
            };
            let format = options.quantize.filter(|q| q.start.is_none()).map(KvQuantization::format);
            caches.push(KvCache::new(shape, bound, format));
        }
        Ok(Self { layers: caches, offset: 0, quantize: options.quantize })
    }

    /// Positions seen so far.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes that the caches hold.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(KvCache::bytes).sum()
    }

    pub(crate) fn layer(&mut self, index: usize) -> &mut KvCache {
        &mut self.layers[index]
    }

    /// Counts positions that every layer has been extended by.
    pub(crate) fn advance(&mut self, count: usize) {
        self.offset += count;
        if let Some(q) = self.quantize
            && q.start.is_some_and(|start| self.offset >= start)
        {
            self.layers.iter_mut().for_each(|layer| layer.quantize(q.format()));
        }
    }

    /// Forgets everything after the first `length` positions. `false`, and nothing changes, if a layer has forgotten
    /// positions that it would need again.
    pub fn truncate(&mut self, length: usize) -> bool {
        let Some(count) = self.offset.checked_sub(length) else { return false };
        if !self.layers.iter().all(|layer| layer.can_drop(count, self.offset)) {
            return false;
        }
        for layer in &mut self.layers {
            layer.drop_last(count, self.offset);
        }
        self.offset = length;
        true
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOption, message)
}

fn check(q: KvQuantization, shape: KvShape) -> Result<()> {
    if !matches!(q.bits, 2 | 3 | 4 | 5 | 6 | 8) {
        return Err(invalid(format!("a cache cannot be quantized to {} bits: give 2, 3, 4, 5, 6 or 8", q.bits)));
    }
    if !matches!(q.group, 32 | 64 | 128) {
        return Err(invalid(format!("a cache cannot be quantized in groups of {}: give 32, 64 or 128", q.group)));
    }
    for dim in [shape.key_dim, shape.value_dim] {
        if !dim.is_multiple_of(q.group) {
            return Err(invalid(format!(
                "the cache of this model cannot be quantized in groups of {}: its heads have {dim} numbers; give a group that divides that",
                q.group
            )));
        }
    }
    Ok(())
}

/// A cache that forgets.
#[derive(Clone, Copy, Debug)]
struct Bound {
    /// Most positions that a query sees.
    size: usize,
    /// First positions that are never forgotten.
    keep: usize,
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
}

/// Keys and values of one layer.
///
/// Rows `start..end` of the buffers are live. A bounded cache moves `start` on; the rows that it keeps for ever are moved
/// along with it, over rows that are forgotten, and now and then everything moves to the front.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    shape: KvShape,
    bound: Option<Bound>,
    format: Option<QuantFormat>,
    keys: Tensors,
    values: Tensors,
    start: usize,
    end: usize,
}

/// Rows by which a cache grows at least.
const STEP: usize = 256;

impl KvCache {
    fn new(shape: KvShape, bound: Option<Bound>, format: Option<QuantFormat>) -> Self {
        Self { shape, bound, format, keys: Tensors::new(), values: Tensors::new(), start: 0, end: 0 }
    }

    fn bytes(&self) -> usize {
        self.keys.iter().chain(&self.values).map(|t| t.spec().bytes()).sum()
    }

    fn capacity(&self) -> usize {
        self.keys.first().map_or(0, |t| t.shape()[0])
    }

    /// Appends `k`, `v` `[T, heads, dim]` and returns what the new queries see.
    pub(crate) fn extend(&mut self, k: &Tensor, v: &Tensor) -> View {
        let count = k.shape()[0];
        if let Some(bound) = self.bound {
            self.forget(bound);
        }
        if self.end + count > self.capacity() {
            self.make_room(count);
        }
        for (buffers, rows) in [(&mut self.keys, k), (&mut self.values, v)] {
            write(buffers, self.end, parts(rows, self.format));
        }
        self.end += count;
        let live =
            |buffers: &Tensors| buffers.iter().map(|b| b.clone().slice(0, self.start, self.end - self.start)).collect();
        View {
            keys: live(&self.keys),
            values: live(&self.values),
            format: self.format,
            window: self.bound.map(|b| b.size),
        }
    }

    /// Lets go of positions that no later query sees.
    fn forget(&mut self, bound: Bound) {
        let live = self.end - self.start;
        let Some(gone) = live.checked_sub(bound.size - 1).filter(|gone| *gone > 0) else { return };
        if bound.keep > 0 {
            for buffers in [&mut self.keys, &mut self.values] {
                let kept = copy(buffers, self.start, bound.keep);
                write(buffers, self.start + gone, kept);
            }
        }
        self.start += gone;
    }

    /// Moves the live rows to the front of buffers that hold `count` more.
    fn make_room(&mut self, count: usize) {
        let live = self.end - self.start;
        let slack = (live / 4).max(STEP);
        let capacity =
            (live + count + slack).next_multiple_of(STEP).max(if self.start > 0 { self.capacity() } else { 0 });
        let (shape, format) = (self.shape, self.format);
        for (buffers, dim) in [(&mut self.keys, shape.key_dim), (&mut self.values, shape.value_dim)] {
            let old = std::mem::replace(buffers, empty([capacity, shape.heads, dim], format));
            if live > 0 {
                let rows = old.into_iter().map(|b| b.slice(0, self.start, live)).collect();
                write(buffers, 0, rows);
            }
        }
        (self.start, self.end) = (0, live);
    }

    /// Converts what is held, once.
    fn quantize(&mut self, format: QuantFormat) {
        if self.format.is_some() {
            return;
        }
        self.format = Some(format);
        let (shape, capacity) = (self.shape, self.capacity());
        for (buffers, dim) in [(&mut self.keys, shape.key_dim), (&mut self.values, shape.value_dim)] {
            let old = std::mem::replace(buffers, empty([capacity, shape.heads, dim], Some(format)));
            if self.end > 0 {
                // From row 0, not from the first live one: rows that were let go may come back.
                let rows = parts(&old[0].clone().slice(0, 0, self.end), Some(format));
                write(buffers, 0, rows);
            }
        }
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

    fn can_drop(&self, count: usize, offset: usize) -> bool {
        let reserve = if self.bound.is_some_and(|b| b.keep == 0) { self.start } else { 0 };
        self.deficit(count, offset).is_some_and(|deficit| deficit <= reserve)
    }

    fn drop_last(&mut self, count: usize, offset: usize) {
        self.start -= self.deficit(count, offset).unwrap_or(0);
        self.end -= count;
    }
}

/// The tensors that hold `rows` in a layout.
fn parts(rows: &Tensor, format: Option<QuantFormat>) -> Tensors {
    match format {
        Some(format) => rows.clone().quantize(format),
        None => smallvec![rows.clone()],
    }
}

/// Buffers for rows of a layout.
fn empty(shape: [usize; 3], format: Option<QuantFormat>) -> Tensors {
    let [rows, heads, dim] = shape;
    match format {
        None => smallvec![Tensor::empty(Spec::new(Dtype::F32, shape))],
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

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { heads: 1, key_dim: 32, value_dim: 32 };

    /// Rows that carry their position.
    fn rows(positions: std::ops::Range<usize>) -> Tensor {
        let numbers: Vec<f32> = positions.clone().flat_map(|p| [p as f32; 32]).collect();
        Tensor::from_f32(&numbers, [positions.len(), 1, 32])
    }

    fn seen(view: &View) -> Vec<usize> {
        view.keys[0].f32s().chunks(32).map(|row| row[0] as usize).collect()
    }

    fn state(max_tokens: Option<usize>, window: Option<usize>) -> State {
        State::new([(SHAPE, window)].into_iter(), &CacheOptions { max_tokens, quantize: None }).unwrap()
    }

    fn extend(state: &mut State, count: usize) -> View {
        let rows = rows(state.offset..state.offset + count);
        let view = state.layer(0).extend(&rows, &rows);
        state.advance(count);
        view
    }

    /// What a pass of `count` positions after `before` must see, by the rule of the reference: before each pass a bounded
    /// cache keeps its first `keep` and its last rows, `size - 1` in all.
    fn expected(held: &mut Vec<usize>, before: usize, count: usize, bound: Option<(usize, usize)>) -> Vec<usize> {
        if let Some((size, keep)) = bound
            && held.len() > size - 1
        {
            let gone = held.len() - (size - 1);
            held.drain(keep..keep + gone);
        }
        held.extend(before..before + count);
        held.clone()
    }

    #[test]
    fn every_layout_sees_what_the_rule_says() {
        let cases = [
            (None, None, None),
            (Some(16), None, Some((16, 4))),
            (None, Some(16), Some((16, 0))),
            (Some(600), None, Some((600, 4))),
        ];
        for (max_tokens, window, bound) in cases {
            let (mut state, mut held) = (state(max_tokens, window), Vec::new());
            let steps = [1, 6, 1, 1, 20, 1, 1, 3, 40, 300, 1, 1].into_iter().chain(std::iter::repeat_n(1, 700));
            for count in steps {
                let wanted = expected(&mut held, state.offset, count, bound);
                let view = extend(&mut state, count);
                assert_eq!(seen(&view), wanted, "{bound:?} at {}", state.offset);
                assert_eq!(view.window, bound.map(|(size, _)| size));
            }
        }
    }

    #[test]
    fn truncation_is_exact_or_refused() {
        for (max_tokens, window) in [(None, None), (Some(16), None), (None, Some(16))] {
            for (read, length) in [(10, 4), (10, 0), (40, 38), (40, 30), (40, 10), (300, 299), (300, 290), (700, 650)] {
                let mut cut = state(max_tokens, window);
                (0..read).for_each(|_| drop(extend(&mut cut, 1)));
                let before = cut.clone();
                if !cut.truncate(length) {
                    assert!(window.or(max_tokens).is_some_and(|w| read > w), "{read} to {length} could be undone");
                    assert_eq!(
                        seen(&extend(&mut cut, 1)),
                        seen(&extend(&mut before.clone(), 1)),
                        "a refusal changes nothing"
                    );
                    continue;
                }
                assert_eq!(cut.offset(), length);
                let mut fresh = state(max_tokens, window);
                (0..length).for_each(|_| drop(extend(&mut fresh, 1)));
                assert_eq!(
                    seen(&extend(&mut cut, 1)),
                    seen(&extend(&mut fresh, 1)),
                    "{max_tokens:?} {window:?}: {read} to {length}"
                );
            }
        }
        assert!(!state(None, None).truncate(1), "nothing comes from nothing");
    }

    #[test]
    fn a_copy_goes_its_own_way() {
        let mut a = state(None, None);
        extend(&mut a, 5);
        let mut b = a.clone();
        assert!(b.truncate(3));
        extend(&mut b, 1);
        assert_eq!(seen(&extend(&mut a, 1)), [0, 1, 2, 3, 4, 5]);
        assert_eq!(seen(&extend(&mut b, 1)), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn caches_quantize_when_they_should() {
        let q = |start| Some(KvQuantization { bits: 8, group: 32, start });
        for (start, format_at) in [(None, 1), (Some(0), 2), (Some(3), 4)] {
            let options = CacheOptions { max_tokens: None, quantize: q(start) };
            let mut state = State::new([(SHAPE, None)].into_iter(), &options).unwrap();
            for position in 1..6 {
                let view = extend(&mut state, 1);
                assert_eq!(view.format.is_some(), position >= format_at, "start {start:?} at {position}");
            }
        }
    }

    #[test]
    fn impossible_options_are_refused_by_name() {
        let refuse = |options: CacheOptions| State::new([(SHAPE, None)].into_iter(), &options).unwrap_err().to_string();
        let quantize = |bits, group| CacheOptions {
            max_tokens: None,
            quantize: Some(KvQuantization { bits, group, start: None }),
        };
        assert_eq!(
            refuse(CacheOptions { max_tokens: Some(4), quantize: None }),
            "a cache of 4 tokens is too small: give more than 4"
        );
        assert!(refuse(quantize(7, 32)).contains("7 bits"));
        assert!(refuse(quantize(8, 48)).contains("groups of 48"));
        assert!(refuse(quantize(8, 64)).contains("its heads have 32 numbers"));
    }
}
