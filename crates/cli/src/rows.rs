//! Files with a JSON object a line: prompts that are read, answers that are written, and which of these are there already.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use mlxengine::{GenerateParams, Message, Prompt, RenderOptions};
use serde_json::{Map, Value, json};

use crate::failure::{Result, invalid, io};

/// A line of a file of prompts.
pub struct Row {
    /// Its number in the file, from 1.
    pub line: usize,
    /// What the user calls it.
    pub id: Option<Value>,
    /// A number that another prompt or other parameters would change.
    pub hash: String,
    /// What is asked, and how it is sampled; or why it cannot be.
    pub request: mlxengine::Result<(Prompt, GenerateParams)>,
}

/// What all rows share, unless they say otherwise.
pub struct Shared {
    /// How answers are sampled.
    pub params: GenerateParams,
    /// Instructions.
    pub system: Option<String>,
    /// What the chat template is told; none if prompts are plain text.
    pub template: Option<RenderOptions>,
}

/// The lines of a text file that are not empty, with their numbers from 1.
pub fn lines(path: &Path) -> Result<Vec<(usize, String)>> {
    let text = std::fs::read_to_string(path).map_err(|e| io(format!("cannot read {}", path.display()), e))?;
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    Ok(lines.map(|(index, line)| (index + 1, line.to_owned())).collect())
}

impl Shared {
    /// Reads a line.
    pub fn row(&self, line: usize, text: &str) -> Row {
        let hash = format!("{:016x}", fnv(text.as_bytes()));
        match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(mut object) => {
                let id = object.remove("id").filter(|id| !id.is_null());
                Row { line, hash, request: self.request(object), id }
            }
            Err(e) => Row { line, id: None, hash, request: Err(invalid(format!("not a JSON object: {e}"))) },
        }
    }

    fn request(&self, mut object: Map<String, Value>) -> mlxengine::Result<(Prompt, GenerateParams)> {
        let prompt = self.prompt(object.remove("prompt"), object.remove("messages"))?;
        let plain = |e: serde_json::Error| invalid(e.to_string());
        let mut params = serde_json::to_value(&self.params).map_err(plain)?;
        for (key, value) in object {
            let known = params.get_mut(&key).ok_or_else(|| invalid(format!("the key `{key}` is not known")))?;
            *known = value;
        }
        Ok((prompt, serde_json::from_value(params).map_err(plain)?))
    }

    fn prompt(&self, prompt: Option<Value>, messages: Option<Value>) -> mlxengine::Result<Prompt> {
        let mut turns = match (prompt, messages) {
            (Some(Value::String(text)), None) if self.template.is_none() => return Ok(Prompt::Text(text)),
            (Some(Value::String(text)), None) => vec![Message::user(text)],
            (None, Some(messages)) if self.template.is_some() => Message::list_from_json(&messages)?,
            (None, Some(_)) => return Err(invalid("`messages` need the chat template, which --raw leaves out")),
            (Some(_), None) => return Err(invalid("`prompt` must be a text")),
            _ => return Err(invalid("a row has either `prompt` or `messages`")),
        };
        if let Some(system) = &self.system
            && turns.first().is_none_or(|turn| turn.role != mlxengine::Role::System)
        {
            turns.insert(0, Message::system(system.as_str()));
        }
        Ok(Prompt::Chat { messages: turns, options: self.template.clone().unwrap_or_default() })
    }
}

impl Row {
    /// What the row is known by: its id, else its line.
    pub fn name(&self) -> Value {
        self.id.clone().unwrap_or_else(|| json!(self.line))
    }

    /// What a row of answers begins with.
    pub fn head(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("line".into(), json!(self.line));
        if let Some(id) = &self.id {
            object.insert("id".into(), id.clone());
        }
        object.insert("row_hash".into(), json!(self.hash));
        object
    }
}

/// Fowler, Noll and Vo's hash, FNV-1a: the same in every version of the program.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A file of answers, to which lines are added.
pub struct Output {
    path: PathBuf,
    file: File,
    /// The hash of each row that is there, by the row's name.
    done: HashMap<String, String>,
}

impl Output {
    /// Opens or makes a file. A last line without an end was being written when somebody stopped the program, and is
    /// dropped.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = |what: &'static str| move |e| io(format!("cannot {what} {}", path.display()), e);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
            Err(e) => return Err(cannot("read")(e).into()),
        };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut done = HashMap::new();
        for (index, line) in text[..whole].lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (name, hash) = answered(line).ok_or_else(|| {
                invalid(format!("line {} of {} is no answer of this program", index + 1, path.display()))
                    .with_remedy("give another file for the answers")
            })?;
            done.insert(name, hash);
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(cannot("write"))?;
        file.set_len(whole as u64).map_err(cannot("write"))?;
        Ok(Self { path: path.to_owned(), file, done })
    }

    /// Whether a row has been answered.
    ///
    /// # Errors
    /// If the answer that is there belongs to another prompt.
    pub fn has(&self, row: &Row) -> Result<bool> {
        match self.done.get(&row.name().to_string()) {
            None => Ok(false),
            Some(hash) if *hash == row.hash => Ok(true),
            Some(_) => {
                let message = format!(
                    "{} has an answer for row {}, and to something else than line {} asks now",
                    self.path.display(),
                    row.name(),
                    row.line
                );
                Err(invalid(message).with_remedy("give another file for the answers, or remove that line").into())
            }
        }
    }

    /// Adds a line at once, so that it is there whatever happens next.
    pub fn add(&mut self, object: Map<String, Value>) -> Result<()> {
        let line = format!("{}\n", Value::from(object));
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.flush());
        Ok(written.map_err(|e| io(format!("cannot write {}", self.path.display()), e))?)
    }
}

/// The name and the hash of the row that a line answers.
fn answered(line: &str) -> Option<(String, String)> {
    let object: Map<String, Value> = serde_json::from_str(line).ok()?;
    let name = object.get("id").or_else(|| object.get("line"))?;
    Some((name.to_string(), object.get("row_hash")?.as_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Shared {
        Shared {
            params: GenerateParams::default().with_max_tokens(5),
            system: Some("Be brief.".into()),
            template: Some(RenderOptions::default()),
        }
    }

    #[test]
    fn rows_say_what_differs() {
        let row = shared().row(3, r#"{"id": "a", "prompt": "Hi", "temperature": 0.5, "stop": ["x"]}"#);
        assert_eq!((row.line, row.name()), (3, json!("a")));
        let (prompt, params) = row.request.unwrap();
        assert_eq!((params.temperature, params.max_tokens, params.stop.len()), (0.5, Some(5), 1));
        let Prompt::Chat { messages, .. } = prompt else { panic!("a chat") };
        assert_eq!(messages.iter().map(|m| m.content.text()).collect::<Vec<_>>(), ["Be brief.", "Hi"]);
        assert_eq!(shared().row(2, r#"{"prompt": "Hi"}"#).name(), json!(2));
    }

    #[test]
    fn what_a_row_cannot_say_is_named() {
        for (text, said) in [
            (r#"{"prompt": "Hi", "temprature": 1}"#, "the key `temprature` is not known"),
            (r#"{"prompt": "Hi", "max_tokens": "x"}"#, "invalid type: string \"x\", expected usize"),
            (r#"{"text": "Hi"}"#, "a row has either `prompt` or `messages`"),
            (r#"{"prompt": "Hi", "messages": []}"#, "a row has either `prompt` or `messages`"),
            (r#"{"prompt": 1}"#, "`prompt` must be a text"),
            ("[1]", "not a JSON object: invalid type: sequence, expected a map at line 1 column 0"),
        ] {
            assert_eq!(shared().row(1, text).request.unwrap_err().to_string(), said);
        }
        let raw = Shared { template: None, ..shared() };
        assert!(raw.row(1, r#"{"messages": []}"#).request.is_err());
        assert!(matches!(raw.row(1, r#"{"prompt": "Hi"}"#).request.unwrap().0, Prompt::Text(_)));
    }

    #[test]
    fn hashes_are_those_of_the_papers() {
        assert_eq!((fnv(b""), fnv(b"a")), (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c));
    }
}
