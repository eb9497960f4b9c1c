//! Models that are known by name, and what is known of them without asking anybody.

mod entry;
mod read;
mod recommend;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use mlxengine_engine::{EngineError, ErrorKind, Result};

pub use entry::{Ability, Bytes, LayerCache, Purpose, RegistryEntry, RegistryMemory, Storage};
pub use recommend::{Recommendation, Verdict, Wish};

/// The tokens for which memory is reckoned if nobody says how many.
const USUAL_CONTEXT: u64 = 4096;

/// What [`ModelRegistry::make_current`] was given.
static CURRENT: RwLock<Option<Arc<ModelRegistry>>> = RwLock::new(None);

/// Models that are known by name: those that the library brings, and the user's own.
///
/// ```
/// use mlxengine::{ModelRegistry, Purpose, Query};
///
/// let registry = ModelRegistry::builtin();
/// assert_eq!(registry.get("qwen3-0.6b").unwrap().name, "mlx-community/Qwen3-0.6B-4bit");
/// let small = Query { kind: Some(Purpose::Language), max_memory: Some(2_000_000_000), ..Query::default() };
/// assert!(registry.search(&small).count() > 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelRegistry {
    entries: Vec<RegistryEntry>,
}

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A model of the registry.
    Known(&'a RegistryEntry),
    /// No model of the registry, but perhaps one of the Hub: `org/name`.
    Hub(String),
}

/// Which models; what is not given does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Words that are in a name or the family.
    pub text: Option<String>,
    /// What it is for.
    pub kind: Option<Purpose>,
    /// Its `model_type`.
    pub family: Option<String>,
    /// The most bytes of weights.
    pub max_bytes: Option<u64>,
    /// The most memory, in bytes, at this context.
    pub max_memory: Option<u64>,
    /// The tokens that it must be made for, and that its memory is reckoned with.
    pub context: Option<u64>,
    /// How the weights are stored: `4bit`, `mxfp4`, `float16`.
    pub quantization: Option<String>,
    /// What it can do.
    pub capability: Option<Ability>,
}

impl Query {
    /// The tokens that memory is reckoned with: those that are asked for, or 4096 if the model takes as many.
    #[must_use]
    pub fn context_of(&self, entry: &RegistryEntry) -> u64 {
        self.context.unwrap_or_else(|| entry.context.map_or(USUAL_CONTEXT, |most| most.min(USUAL_CONTEXT)))
    }

    fn matches(&self, entry: &RegistryEntry) -> bool {
        let texts: Vec<String> = entry.names().chain(entry.family.as_deref()).map(str::to_ascii_lowercase).collect();
        let said = |word: &str| texts.iter().any(|text| text.contains(&word.to_ascii_lowercase()));
        let same = |own: Option<&str>, asked: &Option<String>| {
            asked.as_ref().is_none_or(|asked| own.is_some_and(|own| own.eq_ignore_ascii_case(asked)))
        };
        // Of what is not known, nothing can be promised.
        let within = |own: Option<u64>, most: Option<u64>| most.is_none_or(|most| own.is_some_and(|own| own <= most));
        let memory = self.max_memory.and_then(|_| Some(entry.memory(self.context_of(entry))?.total()));
        let quantization = entry.quantization.as_ref().map(Storage::name);
        self.text.as_ref().is_none_or(|text| text.split_whitespace().all(said))
            && self.kind.is_none_or(|kind| entry.kind == kind)
            && same(entry.family.as_deref(), &self.family)
            && same(quantization.as_deref(), &self.quantization)
            && within(entry.weights().map(|weights| weights.bytes), self.max_bytes)
            && within(memory, self.max_memory)
            && self.context.is_none_or(|context| entry.context.is_some_and(|most| context <= most))
            && self.capability.is_none_or(|ability| entry.capabilities.contains(&ability))
    }
}

impl ModelRegistry {
    /// The models that the library brings.
    ///
    /// # Panics
    /// Never: a test reads the file that is inside the library.
    #[must_use]
    pub fn builtin() -> ModelRegistry {
        Self::shared().clone()
    }

    /// The models by whose short names this process calls them: those that the library brings, unless others were made current.
    #[must_use]
    pub fn current() -> Arc<ModelRegistry> {
        let current = CURRENT.read().unwrap_or_else(PoisonError::into_inner);
        current.clone().unwrap_or_else(|| Arc::new(Self::builtin()))
    }

    /// Lets this process call models by the short names of this registry from now on.
    pub fn make_current(self) {
        *CURRENT.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(self));
    }

    fn shared() -> &'static ModelRegistry {
        static BUILTIN: OnceLock<ModelRegistry> = OnceLock::new();
        BUILTIN.get_or_init(|| {
            let mut registry = ModelRegistry::default();
            registry.read(include_str!("models.json")).expect("the registry inside the library is sound");
            registry
        })
    }

    /// All models.
    #[must_use]
    pub fn entries(&self) -> &[RegistryEntry] {
        &self.entries
    }

    /// The model of a name or a short name, in small or capital letters.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&RegistryEntry> {
        self.entries.iter().find(|entry| entry.is_called(name))
    }

    /// What a name means: a model of the registry, or, if it looks like `org/name`, of the Hub.
    ///
    /// # Errors
    /// If it is neither, with the nearest names.
    pub fn find(&self, name: &str) -> Result<Found<'_>> {
        if let Some(entry) = self.get(name) {
            return Ok(Found::Known(entry));
        }
        if RegistryEntry::new(name, Purpose::Language).flaw().is_none() {
            return Ok(Found::Hub(name.to_owned()));
        }
        let near = self.nearest(name);
        let remedy = match &near[..] {
            [] => "write org/name for a model of the Hub".to_owned(),
            names => format!("did you mean {}?", names.join(" or ")),
        };
        Err(EngineError::new(ErrorKind::NotFound, format!("no model is known as `{name}`")).with_remedy(remedy))
    }

    /// The models that a query asks for, in the order of the registry.
    pub fn search<'a>(&'a self, query: &'a Query) -> impl Iterator<Item = &'a RegistryEntry> {
        self.entries.iter().filter(|entry| query.matches(entry))
    }

    /// Adds a model; one of the same name is replaced.
    ///
    /// # Errors
    /// If the entry contradicts itself or takes a name of another one.
    pub fn add(&mut self, entry: RegistryEntry) -> Result<()> {
        if let Some((field, why)) = entry.flaw() {
            return Err(read::refused(&entry.name, field, &why));
        }
        let others = || self.entries.iter().filter(|other| !other.name.eq_ignore_ascii_case(&entry.name));
        if let Some(other) = others().find(|other| other.is_called(&entry.name)) {
            return Err(read::refused(&entry.name, "name", &format!("is an alias of {}", other.name)));
        }
        for (number, alias) in entry.aliases.iter().enumerate() {
            if let Some(other) = others().find(|other| other.is_called(alias)) {
                return Err(read::refused(&entry.name, "aliases", &format!("`{alias}` is taken by {}", other.name)));
            }
            if entry.aliases[..number].iter().any(|earlier| earlier.eq_ignore_ascii_case(alias)) {
                return Err(read::refused(&entry.name, "aliases", &format!("`{alias}` is there twice")));
            }
        }
        match self.entries.iter_mut().find(|old| old.name.eq_ignore_ascii_case(&entry.name)) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
        Ok(())
    }

    /// Adds the models of a file: a JSON list of entries, as in the library's own file. Either all are added or none.
    ///
    /// # Errors
    /// If the file cannot be read, or an entry is not sound: with its name and the field.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let kind = if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
            EngineError::new(kind, format!("the models of {} cannot be read: {error}", path.display()))
        })?;
        let mut with = self.clone();
        with.read(&text).map_err(|error| {
            EngineError::new(error.kind(), format!("{}: {}", path.display(), error.message())).with_source(error)
        })?;
        *self = with;
        Ok(())
    }

    fn read(&mut self, text: &str) -> Result<()> {
        read::entries(text)?.into_iter().try_for_each(|entry| self.add(entry))
    }

    /// The three names that share most with this one.
    fn nearest(&self, typed: &str) -> Vec<&str> {
        let mut names: Vec<(f64, &str)> =
            self.entries.iter().flat_map(RegistryEntry::names).map(|name| (likeness(typed, name), name)).collect();
        names.retain(|(likeness, _)| *likeness >= 0.5);
        names.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        names.into_iter().take(3).map(|(_, name)| name).collect()
    }
}

/// Pairs of neighbouring letters that two names share, of all that they have: the Sørensen-Dice coefficient, which bears
/// parts that are missing or in another order, as they are in names of models.
fn likeness(a: &str, b: &str) -> f64 {
    let pairs = |text: &str| -> Vec<[u8; 2]> {
        let letters: Vec<u8> = text.bytes().filter(u8::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        letters.windows(2).map(|pair| [pair[0], pair[1]]).collect()
    };
    let (a, mut b) = (pairs(a), pairs(b));
    let all = (a.len() + b.len()).max(1) as f64;
    let shared =
        a.iter().filter(|pair| b.iter().position(|other| other == *pair).map(|at| b.swap_remove(at)).is_some());
    2.0 * shared.count() as f64 / all
}
