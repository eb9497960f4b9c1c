//! What a sequence has seen, in a file: mlx-lm's prompt caches, read in both of its layouts and written in the current one.
//!
//! [`read`] turns a stranger's file into a list of caches, one a slot; here they become a state, or are refused. A list holds
//! the same rows as a state, so that nothing is computed again.

mod read;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use mlxengine_tensor::{Bytes, Dtype, QuantFormat, QuantMode, Tensor, Tensors};

use super::kv::{Bound, KvCache};
use super::{CacheOptions, KvQuantization, KvShape, Slot, SlotSpec, State, check};
use crate::decoder::LanguageModel;
use crate::{Error, Result};

/// Caches as a file lists them.
#[derive(Clone, Debug)]
pub struct CacheFile {
    /// What the file says beside its caches: in mlx-lm's own, `model` and `tokenizer_config`.
    pub metadata: BTreeMap<String, String>,
    /// One for each slot of a state.
    caches: Vec<Cache>,
}

#[derive(Clone, Debug)]
enum Cache {
    Kv(Kv),
    Arrays(Vec<Option<Tensor>>),
}

/// Keys and values `[1, heads, rows, size]`, each in one part or in codes, scales and biases.
#[derive(Clone, Debug)]
struct Kv {
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    /// Positions that were seen.
    offset: usize,
    quantized: Option<KvQuantization>,
    rows: Rows,
}

/// Which rows of the buffers count, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// One for each position seen.
    All,
    /// The first `keep`, then a ring of which row `index` is written next.
    Ring { keep: usize, size: usize, index: usize },
    /// Those of the positions from `start` on.
    From { start: usize },
}

impl CacheFile {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is not there, damaged, or holds no caches of a kind that is known.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(Bytes::map(path)?, &path.display().to_string())
    }

    /// Reads the contents of a file, which errors call `name`.
    ///
    /// # Errors
    /// If they are damaged, or hold no caches of a kind that is known.
    pub fn parse(bytes: Bytes, name: &str) -> Result<Self> {
        read::parse(bytes, name).map_err(|e| Error::new(e.kind(), format!("the prompt cache {name}: {e}")))
    }

    /// Positions that its sequence has seen; none where no cache counts them.
    pub fn offset(&self) -> Option<usize> {
        self.caches.iter().find_map(|cache| match cache {
            Cache::Kv(kv) => Some(kv.offset),
            Cache::Arrays(_) => None,
        })
    }

    /// The options under which its caches were kept, as far as they differ from `asked`.
    fn options(&self, slots: &[SlotSpec], asked: &CacheOptions) -> Result<CacheOptions> {
        let mut options = asked.clone();
        for (slot, cache) in slots.iter().zip(&self.caches) {
            let (SlotSpec::Kv { window, .. }, Cache::Kv(kv)) = (slot, cache) else { continue };
            if let Rows::Ring { keep, size, .. } = kv.rows
                && window.is_none_or(|window| size < window)
                && keep == CacheOptions::KEEP
            {
                if asked.max_tokens.is_some_and(|max| max != size) {
                    return Err(other("remembers", size, "most tokens to keep"));
                }
                options.max_tokens = Some(size);
            }
            if let Some(kept) = kv.quantized {
                if asked.quantize.is_some_and(|q| (q.bits, q.group) != (kept.bits, kept.group)) {
                    return Err(other("is quantized to", kept.bits as usize, "bits and group of the cache"));
                }
                options.quantize = Some(KvQuantization { start: None, ..kept });
            }
        }
        Ok(options)
    }
}

fn other(does: &str, what: usize, option: &str) -> Error {
    super::invalid(format!("the prompt cache {does} {what}: leave the {option} away, or give the same"))
}

impl State {
    /// The state that a file holds, for this model; `length` is the number of positions where the file does not say it.
    ///
    /// # Errors
    /// If the caches are not those of this model, or `options` ask for others.
    pub fn restore(
        network: &dyn LanguageModel,
        file: &CacheFile,
        length: Option<usize>,
        options: &CacheOptions,
    ) -> Result<Self> {
        let slots = network.slots();
        if slots.len() != file.caches.len() {
            let (found, needed) = (file.caches.len(), slots.len());
            return Err(unfit(format!("it holds {found} caches, and this model needs {needed}")));
        }
        let options = file.options(slots, options)?;
        let mut state = State::new(slots, &options)?;
        let offset = file.offset().or(length);
        state.offset = offset.ok_or_else(|| unfit("it does not say how many tokens were read".to_owned()))?;
        for (index, (spec, cache)) in slots.iter().zip(&file.caches).enumerate() {
            let error = |e: Error| unfit(format!("cache {index} {e}"));
            state.slots[index] = match (spec, cache) {
                (SlotSpec::Kv { shape, dtype, window }, Cache::Kv(kv)) => {
                    let bound = Bound::of(*window, &options);
                    Slot::Kv(Box::new(kv.slot((*shape, *dtype), bound, state.offset).map_err(error)?))
                }
                (SlotSpec::Recurrent(shapes), Cache::Arrays(arrays)) => {
                    Slot::Recurrent(carried(shapes, arrays).map_err(error)?)
                }
                _ => return Err(error(Error::invalid("is of another kind"))),
            };
        }
        if let Some(q) = options.quantize
            && q.start.is_none_or(|start| state.offset >= start)
        {
            state.caches().for_each(|cache| cache.quantize(q.format()));
        }
        state.mark();
        Ok(state)
    }
}

fn unfit(why: String) -> Error {
    Error::invalid(format!("the prompt cache is of another model: {why}"))
}

impl Kv {
    fn slot(&self, (shape, dtype): (KvShape, Dtype), bound: Option<Bound>, offset: usize) -> Result<KvCache> {
        if self.offset != offset {
            return Err(Error::invalid(format!("has seen {} positions, another {offset}", self.offset)));
        }
        if let Some(q) = self.quantized {
            check(q, shape)?;
        }
        if let Rows::Ring { keep, size, .. } = self.rows
            && offset > size
            && bound.is_none_or(|bound| !bound.is(size, keep))
        {
            return Err(Error::invalid(format!("remembers the first {keep} of {size} positions, which does not fit")));
        }
        let keys = self.parts(&self.keys, shape.heads)?;
        let format = self.quantized.map(|q| QuantFormat { mode: QuantMode::Affine, bits: q.bits, group: q.group });
        let (keys, values) = match shape.value_dim {
            Some(dim) => (keys, fitting(self.parts(&self.values, shape.heads)?, dim, format)?),
            // Where the keys serve as the values, mlx-lm has them twice, once, or in two pieces.
            None if fits(&keys, shape.key_dim, format) => (keys, Tensors::new()),
            None => {
                let pieces = keys.into_iter().zip(self.parts(&self.values, shape.heads)?);
                (pieces.map(|(a, b)| Tensor::concat([a, b], 2)).collect(), Tensors::new())
            }
        };
        let parts = [fitting(keys, shape.key_dim, format)?, values];
        Ok(KvCache::new(shape, dtype, bound, format).holding(parts, offset))
    }

    /// The rows that count, `[rows, heads, size]` of each part.
    fn parts(&self, parts: &[Tensor], heads: usize) -> Result<Tensors> {
        let wrong = |t: &Tensor| Error::invalid(format!("is {}, which does not fit {heads} heads", t.spec()));
        let one = |t: &Tensor| match t.shape()[..] {
            [1, found, rows, size] if found == heads && size > 0 => {
                let t = read::owned(t).ok_or_else(|| wrong(t))?.reshape([heads, rows, size]);
                let ranges = self.ranges(rows).ok_or_else(|| Error::invalid("counts rows that it does not have"))?;
                let pieces = ranges.into_iter().filter(|(_, count)| *count > 0);
                let pieces: Tensors = pieces.map(|(start, count)| t.clone().slice(1, start, count)).collect();
                if pieces.is_empty() {
                    return Err(Error::invalid("holds nothing"));
                }
                Ok(Tensor::concat(pieces, 1).permute(&[1, 0, 2]))
            }
            _ => Err(wrong(t)),
        };
        parts.iter().map(one).collect()
    }

    /// Starts and counts of the rows in the order of their positions, of buffers of `held` rows.
    fn ranges(&self, held: usize) -> Option<Vec<(usize, usize)>> {
        let count = match self.rows {
            Rows::All => self.offset,
            Rows::From { start } => self.offset.checked_sub(start)?,
            Rows::Ring { index, keep, size } => {
                if index > held || keep > size {
                    return None;
                }
                if index < held && index < self.offset {
                    return (keep <= index).then(|| vec![(0, keep), (index, held - index), (keep, index - keep)]);
                }
                index
            }
        };
        (count <= held).then(|| vec![(0, count)])
    }
}

/// Whether parts have the sizes that numbers of `dim` take.
fn fits(parts: &Tensors, dim: usize, format: Option<QuantFormat>) -> bool {
    let sizes = |parts: &Tensors| parts.iter().map(|t| t.shape().last()).collect::<Vec<_>>();
    match format {
        None => sizes(parts) == [dim],
        Some(f) => sizes(parts) == [dim * f.bits as usize / 32, dim / f.group, dim / f.group],
    }
}

fn fitting(parts: Tensors, dim: usize, format: Option<QuantFormat>) -> Result<Tensors> {
    if fits(&parts, dim, format) {
        return Ok(parts);
    }
    Err(Error::invalid(format!("does not hold numbers of {dim}")))
}

/// What a recurrence carries, from the arrays of a file: the inputs of convolutions may be in several, the state comes last.
fn carried(shapes: &[mlxengine_tensor::Shape], arrays: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    if arrays.iter().all(Option::is_none) {
        return Ok(super::zeros(shapes));
    }
    let wrong = || Error::invalid("does not hold what this model carries on");
    let arrays: Vec<Tensor> =
        arrays.iter().map(|a| a.as_ref().and_then(read::owned).ok_or_else(wrong)).collect::<Result<_>>()?;
    let split = arrays.len().checked_sub(shapes.len() - 1).filter(|first| *first > 0).ok_or_else(wrong)?;
    let flat = |t: &Tensor, shape: &[usize]| {
        let plain = |sizes: &[usize]| sizes.iter().copied().filter(|size| *size != 1).collect::<Vec<_>>();
        (plain(t.shape()) == plain(shape)).then(|| t.clone().reshape(shape))
    };
    let first = match &arrays[..split] {
        [one] => flat(one, &shapes[0]),
        several if several.iter().all(|t| t.shape().len() == 3 && t.shape()[..2] == several[0].shape()[..2]) => {
            flat(&Tensor::concat(several.iter().cloned(), 2), &shapes[0])
        }
        _ => None,
    };
    let rest = arrays[split..].iter().zip(&shapes[1..]).map(|(t, shape)| flat(t, shape));
    std::iter::once(first).chain(rest).map(|t| t.filter(|t| t.dtype().is_float()).ok_or_else(wrong)).collect()
}
