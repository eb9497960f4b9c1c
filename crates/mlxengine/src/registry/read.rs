//! Entries of the registry from JSON, with an error that names the entry and the field.

use mlxengine_engine::{EngineError, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::entry::RegistryEntry;

/// The entries of a JSON list.
pub(super) fn entries(text: &str) -> Result<Vec<RegistryEntry>> {
    let list: Vec<Value> = serde_json::from_str(text)
        .map_err(|error| EngineError::new(ErrorKind::InvalidInput, format!("not a JSON list of models: {error}")))?;
    list.into_iter().enumerate().map(|(number, value)| entry(number, value)).collect()
}

fn entry(number: usize, value: Value) -> Result<RegistryEntry> {
    let nameless = format!("number {}", number + 1);
    let Value::Object(map) = value else { return Err(refused(&nameless, "name", "is missing: this is no object")) };
    let name = map.get("name").and_then(Value::as_str).unwrap_or(&nameless).to_owned();
    let mut fields = Fields { entry: name, map };
    let entry = RegistryEntry {
        name: fields.needed("name")?,
        aliases: fields.maybe("aliases")?.unwrap_or_default(),
        kind: fields.needed("kind")?,
        family: fields.maybe("family")?,
        parameters: fields.maybe("parameters")?,
        quantization: fields.maybe("quantization")?,
        bytes: fields.maybe("bytes")?,
        context: fields.maybe("context")?,
        cache: fields.maybe("cache")?,
        config: fields.maybe("config")?,
        license: fields.maybe("license")?,
        capabilities: fields.maybe("capabilities")?.unwrap_or_default(),
        languages: fields.maybe("languages")?.unwrap_or_default(),
        source: fields.maybe("source")?.unwrap_or_default(),
    };
    match fields.map.keys().next() {
        Some(other) => Err(refused(&fields.entry, other, "is no field of an entry")),
        None => Ok(entry),
    }
}

/// What was not read yet of an entry.
struct Fields {
    entry: String,
    map: Map<String, Value>,
}

impl Fields {
    fn maybe<T: DeserializeOwned>(&mut self, field: &str) -> Result<Option<T>> {
        let value = self.map.remove(field).map(serde_json::from_value).transpose();
        value.map_err(|error| refused(&self.entry, field, &error.to_string()))
    }

    fn needed<T: DeserializeOwned>(&mut self, field: &str) -> Result<T> {
        self.maybe(field)?.ok_or_else(|| refused(&self.entry, field, "is missing"))
    }
}

/// An entry that cannot be used.
pub(super) fn refused(entry: &str, field: &str, why: &str) -> EngineError {
    EngineError::new(ErrorKind::InvalidInput, format!("the model {entry}: `{field}`: {why}"))
}
