//! The metadata of a GGUF file, with the types that its keys must have.

use std::cell::RefCell;
use std::collections::HashSet;

use mlxengine_tensor::gguf::{Encoding, File, Value};

use crate::{Error, Result};

/// Keys and values; those of the architecture are asked for without its name, and it is known which were.
pub(crate) struct Metadata<'a> {
    pub(crate) file: &'a File,
    /// GGUF's name of the architecture.
    pub(crate) architecture: &'a str,
    asked: RefCell<HashSet<String>>,
}

/// Keys of an architecture that change nothing: what they say follows from tensors.
const NEEDLESS: [&str; 3] = ["vocab_size", "rope.scaling.finetuned", "attention.value_length"];

impl<'a> Metadata<'a> {
    pub(crate) fn new(file: &'a File) -> Result<Self> {
        let Some(Value::Text(architecture)) = file.layout().get("general.architecture") else {
            return Err(Error::invalid("the file has no general.architecture: it is damaged"));
        };
        if let Some(Value::Text(kind)) =
            file.layout().get("general.type").filter(|kind| **kind != Value::Text("model".into()))
        {
            return Err(Error::unsupported(format!("the file holds no language model but something of type `{kind}`")));
        }
        if let Some(Value::Unsigned(count @ 2..)) = file.layout().get("split.count") {
            let message = format!(
                "the model is split over {count} files: join them first, with --merge of the tool that split it"
            );
            return Err(Error::unsupported(message));
        }
        Ok(Self { file, architecture, asked: RefCell::default() })
    }

    /// A key of the architecture.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        let key = format!("{}.{key}", self.architecture);
        let value = self.file.layout().get(&key);
        self.asked.borrow_mut().insert(key);
        value
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> Error {
        let value = match value {
            Value::Texts(list) => format!("a list of {} texts", list.len()),
            value => format!("{value:?}").chars().take(80).collect(),
        };
        Error::invalid(format!("key `{key}` is {value}, and must be {expected}"))
    }

    /// A number that counts something. Where the file has one for each layer, all must be the same.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = match value {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            Value::Unsigneds(_) | Value::Signeds(_) => {
                let all = self.counts(key)?.unwrap_or_default();
                let first = all.first().copied();
                first.filter(|first| all.iter().all(|n| n == first)).map(|n| n as u64)
            }
            _ => None,
        };
        let number = number.and_then(|n| usize::try_from(n).ok());
        number.map(Some).ok_or_else(|| self.wrong(key, value, "one whole number, the same for all layers"))
    }

    /// The same, of a key that has to be there.
    pub(crate) fn need(&self, key: &str) -> Result<usize> {
        let number = self.count(key)?;
        number.ok_or_else(|| Error::invalid(format!("the file has no key `{}.{key}`", self.architecture)))
    }

    /// A number for each layer.
    pub(crate) fn counts(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list: Option<Vec<usize>> = match value {
            Value::Unsigneds(list) => list.iter().map(|n| usize::try_from(*n).ok()).collect(),
            Value::Signeds(list) => list.iter().map(|n| usize::try_from(*n).ok()).collect(),
            _ => None,
        };
        list.map(Some).ok_or_else(|| self.wrong(key, value, "a list of whole numbers"))
    }

    /// A number with a fraction, as the shortest decimal that means it where it was stored in single precision.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) => Ok(Some(shortest(*number))),
            Some(other) => Err(self.wrong(key, other, "a number with a fraction")),
        }
    }

    /// A truth value.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    /// A text.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "a text")),
        }
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, tensor: &str) -> bool {
        self.file.layout().tensor(tensor).is_some()
    }

    /// The numbers of a small tensor that is part of the configuration.
    pub(crate) fn small_tensor(&self, name: &str) -> Result<Option<Vec<f64>>> {
        let Some(tensor) = self.file.layout().tensor(name) else { return Ok(None) };
        if tensor.encoding != Encoding::F32 {
            return Err(Error::invalid(format!("tensor `{name}` is {}, and must be F32", tensor.encoding.name())));
        }
        let bytes = self.file.blocks(tensor).as_chunks::<4>().0;
        Ok(Some(bytes.iter().map(|bytes| shortest(f64::from(f32::from_le_bytes(*bytes)))).collect()))
    }

    /// Holds that every key of the architecture was asked for: what is not understood may change what the model computes.
    pub(crate) fn all_understood(&self) -> Result<()> {
        let prefix = format!("{}.", self.architecture);
        let asked = self.asked.borrow();
        let own = self.file.layout().metadata.iter().map(|(key, _)| key).filter(|key| key.starts_with(&prefix));
        let mut unknown = own.filter(|key| !asked.contains(*key) && !NEEDLESS.contains(&&key[prefix.len()..]));
        match unknown.next() {
            Some(key) => Err(Error::unsupported(format!("key `{key}` is not supported by the import of GGUF files"))),
            None => Ok(()),
        }
    }
}

/// The double that is nearest to the shortest decimal of a single.
fn shortest(number: f64) -> f64 {
    let single = number as f32;
    if f64::from(single) == number { single.to_string().parse().unwrap_or(number) } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singles_become_what_was_meant() {
        assert_eq!([f64::from(1e-5f32), f64::from(0.25f32), 0.1].map(shortest), [1e-5, 0.25, 0.1]);
    }
}
