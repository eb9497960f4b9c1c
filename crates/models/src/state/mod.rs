//! What a sequence has seen: keys and values, and what recurrent layers carry on.
//!
//! A model's mixers say at loading what they keep, each as a slot; a state has these slots. What attention keeps can be cut at
//! any position. What a recurrence carries cannot be undone: a state goes back to where it was marked.

mod kv;
mod saved;

use std::collections::VecDeque;

use mlxengine_tensor::{Dtype, QuantFormat, QuantMode, Shape, Tensor};
use smallvec::SmallVec;

use crate::{Error, ErrorKind, Result};
pub(crate) use kv::{KvCache, View};
pub use saved::CacheFile;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Key and value heads.
    pub heads: usize,
    /// Numbers in a key.
    pub key_dim: usize,
    /// Numbers in a value; none where the keys serve as the values.
    pub value_dim: Option<usize>,
}

/// What one mixer keeps of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum SlotSpec {
    /// Keys and values of the positions that are still seen.
    Kv {
        /// Sizes.
        shape: KvShape,
        /// Floats that are kept where the options do not ask for fewer bits: `F32` or `F16`.
        dtype: Dtype,
        /// Positions that are seen, the own one among them; all if none.
        window: Option<usize>,
    },
    /// Arrays of a fixed size, which each position changes: zeros at first.
    Recurrent(SmallVec<[Shape; 2]>),
}

impl SlotSpec {
    /// Bytes that this takes for a sequence of `length` positions.
    pub fn bytes(&self, length: usize, options: &CacheOptions) -> usize {
        match self {
            SlotSpec::Kv { shape, dtype, window } => {
                let bits =
                    options.quantize.map_or(8.0 * dtype.size() as f64, |q| q.bits as f64 + 64.0 / q.group as f64);
                let numbers = shape.heads * (shape.key_dim + shape.value_dim.unwrap_or(0));
                let most = window.unwrap_or(usize::MAX).min(options.max_tokens.unwrap_or(usize::MAX));
                ((numbers as f64 * bits / 8.0) as usize).saturating_mul(length.min(most))
            }
            SlotSpec::Recurrent(shapes) => 4 * shapes.iter().map(Shape::elements).sum::<usize>(),
        }
    }

    fn slot(&self, options: &CacheOptions) -> Result<Slot> {
        Ok(match self {
            SlotSpec::Kv { shape, dtype, window } => {
                if let Some(q) = options.quantize {
                    check(q, *shape)?;
                }
                let bound = kv::Bound::of(*window, options);
                Slot::Kv(Box::new(KvCache::new(*shape, *dtype, bound, initial_format(options.quantize))))
            }
            SlotSpec::Recurrent(shapes) => Slot::Recurrent(zeros(shapes)),
        })
    }
}

fn zeros(shapes: &[Shape]) -> Recurrent {
    shapes.iter().map(|shape| Tensor::zeros(Dtype::F32, *shape)).collect()
}

/// The layout of caches before the first position.
fn initial_format(quantize: Option<KvQuantization>) -> Option<QuantFormat> {
    quantize.filter(|q| q.start.is_none()).map(KvQuantization::format)
}

/// What a recurrence carries from one position to the next.
pub(crate) type Recurrent = Vec<Tensor>;

#[derive(Clone, Debug)]
enum Slot {
    Kv(Box<KvCache>),
    Recurrent(Recurrent),
}

/// What recurrent layers carried at some position: shares their memory until they move on.
#[derive(Clone, Debug)]
struct Mark {
    offset: usize,
    /// One entry a recurrent slot, in their order.
    carried: Vec<Recurrent>,
}

/// What one sequence has seen.
#[derive(Clone, Debug)]
pub struct State {
    slots: Vec<Slot>,
    offset: usize,
    quantize: Option<KvQuantization>,
    /// Most positions that a layer remembers.
    max_tokens: Option<usize>,
    /// Oldest first; of a state without recurrent slots always empty.
    marks: VecDeque<Mark>,
}

impl State {
    /// Marks that a state holds on to: each can be as large as a few hundred positions of a cache.
    pub const MARKS: usize = 4;

    pub(crate) fn new(slots: &[SlotSpec], options: &CacheOptions) -> Result<Self> {
        if let Some(max) = options.max_tokens
            && max <= CacheOptions::KEEP
        {
            return Err(invalid(format!(
                "a cache of {max} tokens is too small: give more than {}",
                CacheOptions::KEEP
            )));
        }
        let slots = slots.iter().map(|spec| spec.slot(options)).collect::<Result<_>>()?;
        let CacheOptions { max_tokens, quantize } = *options;
        Ok(Self { slots, offset: 0, quantize, max_tokens, marks: VecDeque::new() })
    }

    /// Whether these slots can be kept so.
    pub fn fits(slots: &[SlotSpec], options: &CacheOptions) -> bool {
        let fits = |q, slot: &SlotSpec| match slot {
            SlotSpec::Kv { shape, .. } => check(q, *shape).is_ok(),
            SlotSpec::Recurrent(_) => true,
        };
        options.max_tokens.is_none_or(|max| max > CacheOptions::KEEP)
            && options.quantize.is_none_or(|q| slots.iter().all(|slot| fits(q, slot)))
    }

    /// Positions seen so far.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes that the caches hold, without marks.
    pub fn bytes(&self) -> usize {
        let bytes = |slot: &Slot| match slot {
            Slot::Kv(cache) => cache.bytes(),
            Slot::Recurrent(carried) => carried.iter().map(|t| t.spec().bytes()).sum(),
        };
        self.slots.iter().map(bytes).sum()
    }

    /// The keys and values in a slot that was asked for as [`SlotSpec::Kv`].
    pub(crate) fn kv(&mut self, slot: usize) -> &mut KvCache {
        match &mut self.slots[slot] {
            Slot::Kv(cache) => cache,
            Slot::Recurrent(_) => panic!("slot {slot} is recurrent"),
        }
    }

    /// What is carried in a slot that was asked for as [`SlotSpec::Recurrent`], to be replaced.
    pub(crate) fn recurrent(&mut self, slot: usize) -> &mut Recurrent {
        match &mut self.slots[slot] {
            Slot::Recurrent(carried) => carried,
            Slot::Kv(_) => panic!("slot {slot} holds keys and values"),
        }
    }

    /// Counts positions that every slot has been extended by.
    pub(crate) fn advance(&mut self, count: usize) {
        self.offset += count;
        if let Some(q) = self.quantize
            && q.start.is_some_and(|start| self.offset >= start)
        {
            self.caches().for_each(|cache| cache.quantize(q.format()));
        }
    }

    fn caches(&mut self) -> impl Iterator<Item = &mut KvCache> {
        self.slots.iter_mut().filter_map(|slot| match slot {
            Slot::Kv(cache) => Some(&mut **cache),
            Slot::Recurrent(_) => None,
        })
    }

    fn carried(&mut self) -> impl Iterator<Item = &mut Recurrent> {
        self.slots.iter_mut().filter_map(|slot| match slot {
            Slot::Recurrent(carried) => Some(carried),
            Slot::Kv(_) => None,
        })
    }

    fn is_recurrent(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Recurrent(_)))
    }

    /// Makes this position one to which [`State::truncate`] can go back even with recurrent layers. Cheap; only the last
    /// [`State::MARKS`] count.
    pub fn mark(&mut self) {
        if !self.is_recurrent() || self.is_marked() {
            return;
        }
        if self.marks.len() == Self::MARKS {
            self.marks.pop_front();
        }
        let mark = Mark { offset: self.offset, carried: self.carried().map(|carried| carried.clone()).collect() };
        self.marks.push_back(mark);
    }

    /// Forgets the mark of a position, if there is one.
    pub fn unmark(&mut self, offset: usize) {
        self.marks.retain(|mark| mark.offset != offset);
    }

    /// Whether this position is marked.
    pub fn is_marked(&self) -> bool {
        self.marks.back().is_some_and(|mark| mark.offset == self.offset)
    }

    /// Most positions that one pass may add so that each sees what it sees if each has a pass of its own; at least 1.
    pub fn rows_as_alone(&self) -> usize {
        let bound = self.max_tokens.map(|max| max.saturating_sub(self.offset));
        // From the position on at which caches are quantized everything sees fewer bits.
        let start = self.quantize.and_then(|q| q.start).filter(|start| *start > self.offset);
        let start = start.map(|start| start - self.offset - 1);
        bound.into_iter().chain(start).min().unwrap_or(usize::MAX).max(1)
    }

    /// Forgets everything after the first `length` positions. `false`, and nothing changes, if a layer has forgotten
    /// positions that it would need again, or if a layer is recurrent and this is neither a marked position nor the start.
    pub fn truncate(&mut self, length: usize) -> bool {
        if !self.can_truncate(length) {
            return false;
        }
        if length == 0 {
            self.clear();
            return true;
        }
        let (count, offset) = (self.offset - length, self.offset);
        self.caches().for_each(|cache| cache.drop_last(count, offset));
        if count > 0 {
            self.marks.retain(|mark| mark.offset <= length);
            if let Some(mark) = self.marks.back().cloned() {
                self.carried().zip(mark.carried).for_each(|(carried, then)| *carried = then);
            }
        }
        self.offset = length;
        true
    }

    /// Goes back to `length` positions, or else to the latest position before from which reading can go on; returns it.
    pub fn rewind(&mut self, length: usize) -> usize {
        let marked = self.marks.iter().rev().map(|mark| mark.offset).filter(|offset| *offset < length);
        let candidates: SmallVec<[usize; 8]> = [length].into_iter().chain(marked).collect();
        candidates.into_iter().find(|length| self.truncate(*length)).unwrap_or_else(|| {
            self.clear();
            0
        })
    }

    fn can_truncate(&self, length: usize) -> bool {
        let Some(count) = self.offset.checked_sub(length) else { return false };
        let carried = count == 0 || !self.is_recurrent() || self.marks.iter().any(|mark| mark.offset == length);
        let cut = |slot: &Slot| match slot {
            Slot::Kv(cache) => cache.can_drop(count, self.offset),
            Slot::Recurrent(_) => carried,
        };
        length == 0 || self.slots.iter().all(cut)
    }

    /// Forgets everything.
    fn clear(&mut self) {
        let format = initial_format(self.quantize);
        self.caches().for_each(|cache| cache.clear(format));
        self.carried().flatten().for_each(|t| *t = Tensor::zeros(Dtype::F32, *t.shape()));
        self.marks.clear();
        self.offset = 0;
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
    for dim in [Some(shape.key_dim), shape.value_dim].into_iter().flatten() {
        if !dim.is_multiple_of(q.group) {
            return Err(invalid(format!(
                "the cache of this model cannot be quantized in groups of {}: its heads have {dim} numbers; give a group that divides that",
                q.group
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(window: Option<usize>) -> [SlotSpec; 1] {
        [SlotSpec::Kv { shape: KvShape { heads: 1, key_dim: 32, value_dim: Some(32) }, dtype: Dtype::F32, window }]
    }

    /// Rows that carry their position.
    fn rows(positions: std::ops::Range<usize>) -> Tensor {
        let numbers: Vec<f32> = positions.clone().flat_map(|p| [p as f32; 32]).collect();
        Tensor::from_f32(&numbers, [positions.len(), 1, 32])
    }

    fn seen(view: &View) -> Vec<usize> {
        view.keys[0].f32s().chunks(32).map(|row| row[0] as usize).collect()
    }

    fn state(max_tokens: Option<usize>, window: Option<usize>) -> State {
        State::new(&slots(window), &CacheOptions { max_tokens, quantize: None }).unwrap()
    }

    fn extend(state: &mut State, count: usize) -> View {
        let rows = rows(state.offset..state.offset + count);
        let view = state.kv(0).extend(&rows, &rows);
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
            let mut state = State::new(&slots(None), &options).unwrap();
            for position in 1..6 {
                let view = extend(&mut state, 1);
                assert_eq!(view.format.is_some(), position >= format_at, "start {start:?} at {position}");
            }
        }
    }

    /// A cache, and a number that each position adds itself to.
    fn hybrid(window: Option<usize>) -> State {
        let [kv] = slots(window);
        let sum = SlotSpec::Recurrent(smallvec::smallvec![[1].into()]);
        State::new(&[kv, sum], &CacheOptions::default()).unwrap()
    }

    fn step(state: &mut State) {
        let position = state.offset as f32;
        let sum = state.recurrent(1);
        sum[0] = sum[0].clone().add(&Tensor::from_f32(&[position], [1]));
        extend(state, 1);
    }

    fn sum(state: &mut State) -> f32 {
        state.recurrent(1)[0].f32s()[0]
    }

    #[test]
    fn recurrent_layers_go_back_to_marks_alone() {
        let mut state = hybrid(None);
        for _ in 0..12 {
            if [3, 7].contains(&state.offset) {
                state.mark();
                state.mark();
            }
            step(&mut state);
        }
        assert!(state.truncate(12), "nothing is to be undone");
        assert!(!state.truncate(9), "no mark");
        assert_eq!((state.offset, sum(&mut state)), (12, 66.0), "a refusal changes nothing");
        assert_eq!(state.clone().rewind(9), 7);
        assert!(state.truncate(7));
        assert_eq!((state.offset, sum(&mut state)), (7, 21.0));
        step(&mut state);
        assert_eq!(sum(&mut state), 28.0);
        assert_eq!((state.rewind(7), sum(&mut state)), (7, 21.0), "a mark serves again");
        assert_eq!((state.rewind(6), sum(&mut state)), (3, 3.0));
        assert_eq!((state.rewind(2), sum(&mut state)), (0, 0.0), "before all marks is the start");
        step(&mut state);
        assert_eq!(seen(&extend(&mut state, 1)), [0, 1]);
        assert!(state.truncate(0), "the start needs no mark");
    }

    #[test]
    fn rewinding_minds_caches_that_forget() {
        let (mut state, mut fresh) = (hybrid(Some(16)), state(None, Some(16)));
        for _ in 0..700 {
            if state.offset % 100 == 0 {
                state.mark();
            }
            step(&mut state);
        }
        assert_eq!(state.marks.len(), State::MARKS);
        let went = state.rewind(650);
        assert!(went == 600 || went == 0, "{went}");
        assert_eq!(sum(&mut state), (0..went).sum::<usize>() as f32);
        assert_eq!(State::new(&slots(None), &CacheOptions::default()).unwrap().rewind(0), 0);
        assert_eq!(fresh.rewind(3), 0, "what was not read cannot be kept");
    }

    #[test]
    fn impossible_options_are_refused_by_name() {
        let refuse = |options: CacheOptions| State::new(&slots(None), &options).unwrap_err().to_string();
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
