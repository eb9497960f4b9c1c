//! Reading a GGUF header: every length is checked against the bytes that are there before anything is allocated.

use std::collections::HashSet;

use crate::shape::MAX_RANK;
use crate::{FileError, Shape};

use super::{Encoding, Layout, MAGIC, TensorInfo, Value};

type Result<T> = std::result::Result<T, FileError>;

fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(FileError::new(message))
}

pub(super) fn layout(bytes: &[u8]) -> Result<Layout> {
    let mut reader = Reader { rest: bytes };
    if bytes.get(..4) != Some(&MAGIC) {
        return fail("this is no GGUF file: it does not begin with `GGUF`");
    }
    reader.take(4)?;
    match reader.u32()? {
        2 | 3 => {}
        1 => return fail("the file has version 1 of the format, which is not read: convert it again"),
        swapped if matches!(swapped.swap_bytes(), 1..=3) => {
            return fail("the file is big-endian, which is not read: convert it for a little-endian machine");
        }
        other => return fail(format!("the file has version {other} of the format, and versions 2 and 3 are read")),
    }
    let (tensors, keys) = (reader.u64()?, reader.u64()?);
    let metadata = reader.metadata(keys)?;
    let alignment = match metadata.iter().find(|(key, _)| key == "general.alignment") {
        None => 32,
        Some((_, Value::Unsigned(n))) if n.is_power_of_two() && *n <= 1 << 20 => *n as usize,
        Some((_, other)) => return fail(format!("general.alignment is {other:?}, and must be a power of two")),
    };
    let infos = reader.infos(tensors)?;
    let header = (bytes.len() - reader.rest.len()).next_multiple_of(alignment);
    if header > bytes.len() && !infos.is_empty() {
        return fail("the file is cut short before its tensors: download it again");
    }
    let header = header.min(bytes.len());
    let mut tensors = Vec::with_capacity(infos.len());
    for info in infos {
        tensors.push(info.placed(header, alignment, bytes.len())?);
    }
    no_overlap(&tensors)?;
    Ok(Layout { metadata, tensors, header })
}

fn no_overlap(tensors: &[TensorInfo]) -> Result<()> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    match order.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        Some(pair) => fail(format!("tensors `{}` and `{}` overlap: the file is damaged", pair[0].name, pair[1].name)),
        None => Ok(()),
    }
}

/// A tensor before its place in the file is known to be there.
struct Info {
    name: String,
    encoding: Encoding,
    shape: Shape,
    numbers: usize,
    offset: u64,
}

impl Info {
    fn placed(self, header: usize, alignment: usize, length: usize) -> Result<TensorInfo> {
        let Info { name, encoding, shape, numbers, offset } = self;
        let bytes = (numbers / encoding.block_len()).checked_mul(encoding.block_bytes());
        let start = usize::try_from(offset).ok().and_then(|offset| header.checked_add(offset));
        let place = start.zip(bytes).and_then(|(start, bytes)| Some(start..start.checked_add(bytes)?));
        match place {
            Some(range) if range.end <= length && offset.is_multiple_of(alignment as u64) => {
                Ok(TensorInfo { name, encoding, shape, range })
            }
            Some(range) if range.end <= length => {
                fail(format!("tensor `{name}` begins at byte {offset}, which is not aligned: the file is damaged"))
            }
            _ => fail(format!(
                "tensor `{name}` ends after the file's {length} bytes: it is cut short, download it again"
            )),
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return fail("the file is cut short in its header: download it again");
        };
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things that take `least` bytes each at least, so that no more is allocated than the file can hold.
    fn count(&self, count: u64, least: usize, what: &str) -> Result<usize> {
        match usize::try_from(count) {
            Ok(n) if n.checked_mul(least).is_some_and(|bytes| bytes <= self.rest.len()) => Ok(n),
            _ => fail(format!(
                "the header claims {count} {what}, more than the file can hold: it is cut short or damaged, download it again"
            )),
        }
    }

    fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        let length = self.count(length, 1, "bytes of text")?;
        match std::str::from_utf8(self.take(length)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => fail("a text in the header is not UTF-8: the file is damaged"),
        }
    }

    fn metadata(&mut self, count: u64) -> Result<Vec<(String, Value)>> {
        let count = self.count(count, 13, "keys")?;
        let (mut entries, mut seen) = (Vec::with_capacity(count), HashSet::new());
        for _ in 0..count {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = self.value(kind).map_err(|e| FileError::new(format!("key `{key}`: {e}")))?;
            if !seen.insert(key.clone()) {
                return fail(format!("key `{key}` occurs twice: the file is damaged"));
            }
            entries.push((key, value));
        }
        Ok(entries)
    }

    fn value(&mut self, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 | 2 | 4 | 10 => Value::Unsigned(self.unsigned(kind)?),
            1 | 3 | 5 | 11 => Value::Signed(self.signed(kind)?),
            6 | 12 => Value::Float(self.float(kind)?),
            7 => Value::Bool(self.bool()?),
            8 => Value::Text(self.text()?),
            9 => self.list()?,
            other => return fail(format!("there is no type {other} of values: the file is damaged")),
        })
    }

    fn list(&mut self) -> Result<Value> {
        let kind = self.u32()?;
        let count = self.u64()?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return fail("lists of lists are not read"),
            other => return fail(format!("there is no type {other} of values: the file is damaged")),
        };
        let count = self.count(count, least, "entries of a list")?;
        Ok(match kind {
            0 | 2 | 4 | 10 => Value::Unsigneds((0..count).map(|_| self.unsigned(kind)).collect::<Result<_>>()?),
            1 | 3 | 5 | 11 => Value::Signeds((0..count).map(|_| self.signed(kind)).collect::<Result<_>>()?),
            6 | 12 => Value::Floats((0..count).map(|_| self.float(kind)).collect::<Result<_>>()?),
            7 => Value::Bools((0..count).map(|_| self.bool()).collect::<Result<_>>()?),
            _ => Value::Texts((0..count).map(|_| self.text()).collect::<Result<_>>()?),
        })
    }

    fn unsigned(&mut self, kind: u32) -> Result<u64> {
        Ok(match kind {
            0 => u64::from(self.array::<1>()?[0]),
            2 => u64::from(u16::from_le_bytes(self.array()?)),
            4 => u64::from(self.u32()?),
            _ => self.u64()?,
        })
    }

    fn signed(&mut self, kind: u32) -> Result<i64> {
        Ok(match kind {
            1 => i64::from(i8::from_le_bytes(self.array()?)),
            3 => i64::from(i16::from_le_bytes(self.array()?)),
            5 => i64::from(i32::from_le_bytes(self.array()?)),
            _ => i64::from_le_bytes(self.array()?),
        })
    }

    fn float(&mut self, kind: u32) -> Result<f64> {
        Ok(if kind == 6 { f64::from(f32::from_le_bytes(self.array()?)) } else { f64::from_le_bytes(self.array()?) })
    }

    fn bool(&mut self) -> Result<bool> {
        match self.array::<1>()?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => fail(format!("a truth value is {other}: the file is damaged")),
        }
    }

    fn infos(&mut self, count: u64) -> Result<Vec<Info>> {
        let count = self.count(count, 24, "tensors")?;
        let (mut infos, mut seen) = (Vec::with_capacity(count), HashSet::new());
        for _ in 0..count {
            let info = self.info()?;
            if !seen.insert(info.name.clone()) {
                return fail(format!("tensor `{}` occurs twice: the file is damaged", info.name));
            }
            infos.push(info);
        }
        Ok(infos)
    }

    fn info(&mut self) -> Result<Info> {
        let name = self.text()?;
        let rank = self.u32()? as usize;
        if rank > MAX_RANK.min(4) {
            return fail(format!("tensor `{name}` has {rank} axes, and GGUF allows 4"));
        }
        let mut axes = Vec::with_capacity(rank);
        for _ in 0..rank {
            axes.push(usize::try_from(self.u64()?).unwrap_or(usize::MAX));
        }
        let encoding = Encoding::from_number(self.u32()?, &name)?;
        let offset = self.u64()?;
        let Some(numbers) = axes.iter().try_fold(1usize, |product, axis| product.checked_mul(*axis)) else {
            return fail(format!("tensor `{name}` of shape {axes:?} is larger than any memory: the file is damaged"));
        };
        let row = axes.first().copied().unwrap_or(1);
        if numbers == 0 || !row.is_multiple_of(encoding.block_len()) {
            let (block, encoding) = (encoding.block_len(), encoding.name());
            return fail(format!("tensor `{name}` has rows of {row} numbers, and {encoding} has blocks of {block}"));
        }
        // GGUF writes the axis that is contiguous first.
        axes.reverse();
        Ok(Info { name, encoding, shape: Shape::new(&axes), numbers, offset })
    }
}
