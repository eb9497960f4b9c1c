//! The two layouts of mlx-lm. Since 0.32.1 numbers are arrays beside the keys and values; before, they were metadata.

use std::collections::{BTreeMap, HashMap};

use mlxengine_tensor::{Bytes, Dtype, Tensor, safetensors};

use super::{Cache, CacheFile, Kv, Rows};
use crate::state::KvQuantization;
use crate::{Error, Result};

/// More caches than any model has.
const MOST: usize = 10_000;

pub(super) fn parse(bytes: Bytes, name: &str) -> Result<CacheFile> {
    let file = safetensors::File::from_bytes(bytes, name)?;
    let tensors = file.tensors().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
    let metadata = file.layout().metadata.clone();
    // What comes first: today what the user said, then the classes, then an empty text; once numbers, then the user's, then
    // the classes.
    let today = metadata.get("2.0").is_some_and(String::is_empty);
    let said = if today { "0." } else { "1." };
    let kept = |(key, value): (&String, &String)| Some((key.strip_prefix(said)?.to_owned(), value.clone()));
    let user: BTreeMap<String, String> = metadata.iter().filter_map(kept).collect();
    let reader = Reader { tensors, metadata, today };
    let mut caches = Vec::new();
    let classes = if today { "1" } else { "2" };
    for layer in 0..MOST {
        let Some(class) = reader.metadata.get(&format!("{classes}.{layer}")) else { break };
        reader.cache(class, &layer.to_string(), &format!("0.{layer}"), &mut caches)?;
    }
    if caches.is_empty() {
        return Err(Error::invalid("holds no caches: it was not written by mlx-lm or MLXEngine"));
    }
    Ok(CacheFile { metadata: user, caches })
}

/// The elements in memory of this process: floats as `F32`, codes as `U32`.
pub(super) fn owned(tensor: &Tensor) -> Option<Tensor> {
    match tensor.dtype() {
        Dtype::U32 => {
            let words: Vec<u32> =
                tensor.bytes().as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
            Some(Tensor::from_u32(&words, *tensor.shape()))
        }
        dtype if dtype.is_float() => tensor.to_f32(),
        _ => None,
    }
}

struct Reader {
    tensors: HashMap<String, Tensor>,
    metadata: HashMap<String, String>,
    today: bool,
}

impl Reader {
    /// Adds the cache of a class whose tensors are under `path`, and its numbers, once, under `info`.
    fn cache(&self, class: &str, path: &str, info: &str, caches: &mut Vec<Cache>) -> Result<()> {
        let numbers = |places: [usize; 4]| self.numbers(path, info, places);
        caches.push(match class {
            "KVCache" | "ConcatenateKVCache" => {
                let offset = if self.today { self.number(path, 2)? } else { self.length(path)? };
                Cache::Kv(self.kv(path, offset, None, Rows::All)?)
            }
            "QuantizedKVCache" => {
                let [offset, group, bits, _] = numbers([2, 3, 4, 4])?;
                let quantized = quantization(bits, group)?;
                Cache::Kv(self.kv(path, offset, Some(quantized), Rows::All)?)
            }
            "RotatingKVCache" => {
                let [offset, keep, size, index] = match self.today {
                    true => numbers([2, 3, 4, 5])?,
                    false => {
                        let [keep, size, offset, index] = numbers([0, 1, 2, 3])?;
                        [offset, keep, size, index]
                    }
                };
                Cache::Kv(self.kv(path, offset, None, Rows::Ring { keep, size, index })?)
            }
            // MLXEngine's own.
            "QuantizedRotatingKVCache" => {
                let [offset, keep, size, index] = numbers([2, 3, 4, 5])?;
                let quantized = quantization(self.number(path, 7)?, self.number(path, 6)?)?;
                Cache::Kv(self.kv(path, offset, Some(quantized), Rows::Ring { keep, size, index })?)
            }
            "ChunkedKVCache" if self.today => {
                let [offset, _, start, _] = numbers([2, 3, 4, 4])?;
                Cache::Kv(self.kv(path, offset, None, Rows::From { start })?)
            }
            "ChunkedKVCache" => {
                let [_, start, ..] = numbers([0, 1, 1, 1])?;
                if start > 0 {
                    return Err(Error::invalid(
                        "was written by an mlx-lm that lost where its chunks begin: make it again",
                    ));
                }
                Cache::Kv(self.kv(path, self.length(path)?, None, Rows::From { start })?)
            }
            "ArraysCache" => Cache::Arrays(self.arrays(path)),
            "CacheList" => return self.list(path, info, caches),
            other => return Err(Error::unsupported(format!("holds a cache of the class {other}, which is not known"))),
        });
        Ok(())
    }

    fn list(&self, path: &str, info: &str, caches: &mut Vec<Cache>) -> Result<()> {
        for part in 0..MOST {
            let (class, at) = if self.today {
                (self.text(&format!("{path}.{part}.1")), format!("{path}.{part}.0"))
            } else {
                (self.metadata.get(&format!("{info}.0.{part}")).cloned(), format!("{path}.{part}"))
            };
            let Some(class) = class else { break };
            if class == "CacheList" {
                return Err(Error::invalid("holds lists of lists of caches"));
            }
            self.cache(&class, &at, &format!("{info}.1.{part}"), caches)?;
        }
        Ok(())
    }

    fn kv(&self, path: &str, offset: usize, quantized: Option<KvQuantization>, rows: Rows) -> Result<Kv> {
        let parts = |which: usize| -> Result<Vec<Tensor>> {
            let names = match quantized {
                Some(_) => (0..3).map(|part| format!("{path}.{which}.{part}")).collect(),
                None => vec![format!("{path}.{which}")],
            };
            let one = |name: &String| self.tensors.get(name).cloned().ok_or_else(|| missing(name));
            names.iter().map(one).collect()
        };
        Ok(Kv { keys: parts(0)?, values: parts(1)?, offset, quantized, rows })
    }

    fn arrays(&self, path: &str) -> Vec<Option<Tensor>> {
        let prefix = if self.today { format!("{path}.0") } else { path.to_owned() };
        let all = (0..MOST).map_while(|i| self.tensors.get(&format!("{prefix}.{i}")));
        all.map(|t| Some(t.clone()).filter(|t| t.shape().elements() > 0)).collect()
    }

    /// Rows of the keys, where they are what was seen.
    fn length(&self, path: &str) -> Result<usize> {
        let name = format!("{path}.0");
        let keys = self.tensors.get(&name).ok_or_else(|| missing(&name))?;
        match keys.shape()[..] {
            [_, _, rows, _] => Ok(rows),
            _ => Err(Error::invalid(format!("holds keys {}, four axes are expected", keys.spec()))),
        }
    }

    /// Numbers at these places of a cache's state, or of old its metadata, in the order of which they are.
    fn numbers(&self, path: &str, info: &str, places: [usize; 4]) -> Result<[usize; 4]> {
        let first = *places.iter().min().expect("there are four");
        let mut numbers = [0; 4];
        for (number, place) in numbers.iter_mut().zip(places) {
            *number = if self.today {
                self.number(path, place)?
            } else {
                let name = format!("{info}.{}", place - first);
                let text = self.metadata.get(&name).ok_or_else(|| missing(&name))?;
                let parsed = text.parse().ok().filter(|number| *number <= u32::MAX as usize);
                parsed.ok_or_else(|| Error::invalid(format!("says `{text}` for `{name}`, a number is expected")))?
            };
        }
        Ok(numbers)
    }

    /// A number that is kept as an array.
    fn number(&self, path: &str, place: usize) -> Result<usize> {
        let name = format!("{path}.{place}");
        let tensor = self.tensors.get(&name).ok_or_else(|| missing(&name))?;
        let bytes = tensor.bytes();
        let number = match (tensor.dtype(), tensor.shape().elements()) {
            (Dtype::I32 | Dtype::U32, 1) => bytes.first_chunk().map(|b| i64::from(i32::from_le_bytes(*b))),
            (Dtype::I64 | Dtype::U64, 1) => bytes.first_chunk().map(|b| i64::from_le_bytes(*b)),
            _ => None,
        };
        let number = number.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= u32::MAX as usize);
        number.ok_or_else(|| Error::invalid(format!("holds {} as `{name}`, a number is expected", tensor.spec())))
    }

    /// A text that is kept as the numbers of its characters.
    fn text(&self, name: &str) -> Option<String> {
        let tensor = self.tensors.get(name).filter(|t| t.dtype() == Dtype::I32 && t.shape().elements() < 64)?;
        let words = tensor.bytes().as_chunks::<4>().0.iter();
        words.map(|word| char::from_u32(u32::from_le_bytes(*word))).collect()
    }
}

fn missing(name: &str) -> Error {
    Error::invalid(format!("lacks `{name}`: it is cut or damaged"))
}

fn quantization(bits: usize, group: usize) -> Result<KvQuantization> {
    if !matches!(bits, 2 | 3 | 4 | 5 | 6 | 8) || !matches!(group, 32 | 64 | 128) {
        return Err(Error::invalid(format!("is quantized to {bits} bits in groups of {group}, which is not known")));
    }
    Ok(KvQuantization { bits: bits as u32, group, start: None })
}
