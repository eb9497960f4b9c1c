//! Folders of recordings.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Stop;

/// What a case records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are those of the recordings")]
pub enum Kind {
    Llm,
    QuantModel,
    QuantOps,
    GatherQmm,
    Samplers,
    KvCache,
    KvCacheDirect,
    PromptCacheFile,
    Adapter,
    AdapterPeft,
    Training,
    Perplexity,
    Speculative,
    Tokenizer,
    ChatTemplate,
    ChatTemplateWrapper,
    #[serde(other)]
    Unknown,
}

impl Kind {
    /// The name in the recordings.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Llm => "llm",
            Kind::QuantModel => "quant_model",
            Kind::QuantOps => "quant_ops",
            Kind::GatherQmm => "gather_qmm",
            Kind::Samplers => "samplers",
            Kind::KvCache => "kv_cache",
            Kind::KvCacheDirect => "kv_cache_direct",
            Kind::PromptCacheFile => "prompt_cache_file",
            Kind::Adapter => "adapter",
            Kind::AdapterPeft => "adapter_peft",
            Kind::Training => "training",
            Kind::Perplexity => "perplexity",
            Kind::Speculative => "speculative",
            Kind::Tokenizer => "tokenizer",
            Kind::ChatTemplate => "chat_template",
            Kind::ChatTemplateWrapper => "chat_template_wrapper",
            Kind::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One recording.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it records.
    pub kind: Kind,
    /// Its name, unique among those of its kind.
    pub id: String,
    /// The family of its model; empty where there is none.
    pub family: String,
    /// Its directory.
    pub dir: PathBuf,
    /// The directory of the set, which some manifests' paths start from.
    pub root: PathBuf,
    /// `manifest.json`.
    pub manifest: Value,
}

impl Case {
    /// The manifest as a struct of one's own.
    ///
    /// # Errors
    /// If a key is missing or of another type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Stop> {
        T::deserialize(&self.manifest).map_err(|e| Stop::failed(format!("manifest.json: {e}")))
    }

    /// A JSON file of the case.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, Stop> {
        json(&self.dir.join(name)).map_err(Stop::failed)
    }
}

/// A folder of recordings.
#[derive(Clone, Debug)]
pub struct Set {
    /// The folder.
    pub root: PathBuf,
    /// Its cases.
    pub cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Index {
    cases: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    path: String,
}

/// What every manifest says.
#[derive(Deserialize)]
struct Head {
    id: String,
    kind: Kind,
    #[serde(default)]
    family: String,
}

impl Set {
    /// Reads `index.json` and every manifest that it names; a folder without an index is searched for manifests.
    ///
    /// # Errors
    /// If the folder or a file cannot be read, or there are no cases.
    pub fn open(root: impl AsRef<Path>) -> Result<Set, String> {
        let root = root.as_ref().to_owned();
        let index = root.join("index.json");
        let dirs = if index.is_file() {
            let index: Index = json(&index)?;
            index.cases.into_iter().map(|entry| root.join(entry.path)).collect()
        } else {
            let mut found = Vec::new();
            search(&root, &mut found)?;
            found.sort();
            found
        };
        let cases = dirs.into_iter().map(|dir| open_case(&root, dir)).collect::<Result<Vec<_>, _>>()?;
        if cases.is_empty() {
            return Err(format!("there are no recordings in {}", root.display()));
        }
        Ok(Set { root, cases })
    }

    /// The cases that a selection names.
    pub fn select<'a>(&'a self, selection: &'a Selection) -> impl Iterator<Item = &'a Case> {
        self.cases.iter().filter(|case| selection.takes(case))
    }
}

/// Which cases are wanted; an empty list takes all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Texts of which a case's `kind/id` has to contain one.
    pub names: Vec<String>,
    /// Kinds, by name.
    pub kinds: Vec<String>,
    /// Families; a family's variants, such as `llama-bias`, are families of their own.
    pub families: Vec<String>,
}

impl Selection {
    fn takes(&self, case: &Case) -> bool {
        let name = format!("{}/{}", case.kind, case.id);
        let any = |list: &[String], fits: &dyn Fn(&str) -> bool| list.is_empty() || list.iter().any(|item| fits(item));
        any(&self.names, &|part| name.contains(part))
            && any(&self.kinds, &|kind| kind == case.kind.name())
            && any(&self.families, &|family| family == case.family)
    }
}

fn open_case(root: &Path, dir: PathBuf) -> Result<Case, String> {
    let manifest: Value = json(&dir.join("manifest.json"))?;
    let head = Head::deserialize(&manifest).map_err(|e| format!("{}: {e}", dir.join("manifest.json").display()))?;
    Ok(Case { kind: head.kind, id: head.id, family: head.family, dir, root: root.to_owned(), manifest })
}

/// Finds the directories with a manifest.
fn search(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), String> {
    if dir.join("manifest.json").is_file() {
        found.push(dir.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(dir).map_err(|e| format!("cannot list {}: {e}", dir.display()))? {
        let path = entry.map_err(|e| format!("cannot list {}: {e}", dir.display()))?.path();
        if path.is_dir() {
            search(&path, found)?;
        }
    }
    Ok(())
}

/// A JSON file.
pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))
}
