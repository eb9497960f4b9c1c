//! From what a user calls a model to its files.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlxengine_engine::{EngineError, ErrorKind, Result};
use mlxengine_hub::{Cache, HubError, RepoId};
use mlxengine_models::Source;

use crate::gguf;
use crate::registry::ModelRegistry;

/// The places where models are looked for by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelPaths {
    /// Caches in the Hub's layout: `models--org--name/snapshots/…`.
    pub hub_caches: Vec<PathBuf>,
    /// Directories with models as `org/name`.
    pub directories: Vec<PathBuf>,
    /// Where the checkpoints are kept that are made of GGUF files when they are first used.
    pub imports: Option<PathBuf>,
}

/// What a user calls a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The demo model inside the library.
    Demo,
    /// A directory, or a GGUF file.
    Directory(PathBuf),
    /// `org/name` on the Hub, perhaps `@revision`.
    Named {
        /// `org/name`.
        id: String,
        /// Branch, tag or commit; `main` if not given.
        revision: Option<String>,
    },
}

impl ModelSource {
    /// Reads `demo`, a directory or GGUF file, a short name of the registry, `mlx://demo`, `mlx://org/name[@revision]` or
    /// `mlx:///absolute/directory`. A short name is one only if there is no such file.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn parse(model: &str) -> Result<ModelSource> {
        if let Some(rest) = model.strip_prefix("mlx://") {
            return Self::parse_url(rest).ok_or_else(|| {
                EngineError::new(ErrorKind::InvalidInput, format!("`{model}` is not the address of a model"))
                    .with_remedy("write mlx://org/name, mlx:///directory or mlx://demo")
            });
        }
        match model {
            "" => Err(EngineError::new(ErrorKind::InvalidInput, "no model is named")
                .with_remedy("give a directory, mlx://org/name, or demo")),
            "demo" => Ok(ModelSource::Demo),
            path if Path::new(path).exists() => Ok(ModelSource::Directory(PathBuf::from(path))),
            name => Ok(Self::parse_alias(name).unwrap_or_else(|| ModelSource::Directory(PathBuf::from(name)))),
        }
    }

    /// A short name of the registry, perhaps with `@revision`.
    fn parse_alias(name: &str) -> Option<ModelSource> {
        let (alias, revision) = name.split_once('@').map_or((name, None), |(alias, revision)| (alias, Some(revision)));
        let registry = ModelRegistry::current();
        let id = registry.get(alias)?.name.as_str();
        Self::parse_url(&revision.map_or_else(|| id.to_owned(), |revision| format!("{id}@{revision}")))
    }

    fn parse_url(rest: &str) -> Option<ModelSource> {
        if rest == "demo" {
            return Some(ModelSource::Demo);
        }
        if rest.starts_with('/') {
            return Some(ModelSource::Directory(PathBuf::from(rest)));
        }
        let (id, revision) =
            rest.split_once('@').map_or((rest, None), |(id, revision)| (id, Some(revision.to_owned())));
        let plain = |part: &str| {
            !part.is_empty() && !part.starts_with('.') && part.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
        };
        let (org, name) = id.split_once('/')?;
        let clean_revision = revision.as_deref().is_none_or(|r| !r.is_empty() && r.split('/').all(plain));
        (plain(org) && plain(name) && clean_revision).then(|| ModelSource::Named { id: id.to_owned(), revision })
    }

    /// The model of the Hub that this may be: `org/name` and the revision. A path that looks like a name is one unless there
    /// is such a directory.
    #[must_use]
    pub fn on_hub(&self) -> Option<(String, String)> {
        match self {
            ModelSource::Demo => None,
            ModelSource::Directory(path) => {
                let name = path.to_str().filter(|_| !path.exists())?;
                Self::parse_url(name).filter(|source| matches!(source, ModelSource::Named { .. }))?.on_hub()
            }
            ModelSource::Named { id, revision } => {
                Some((id.clone(), revision.clone().unwrap_or_else(|| "main".into())))
            }
        }
    }

    /// The files that this names, looked for in `paths`.
    ///
    /// # Errors
    /// If nothing is there, with the places that were looked at.
    pub fn resolve(&self, paths: &ModelPaths) -> Result<Source> {
        match (self, self.on_hub()) {
            (ModelSource::Demo, _) => demo(),
            (_, Some((id, revision))) => find(&id, &revision, paths).map(Source::Directory),
            (ModelSource::Directory(path), None) if gguf::is_gguf(path) => {
                let imports = paths.imports.as_ref().ok_or_else(|| {
                    let message = format!("{} is a GGUF file, and no place is set up to import it to", path.display());
                    EngineError::new(ErrorKind::InvalidInput, message).with_remedy("import it to a directory first")
                })?;
                Ok(Source::Directory(gguf::imported(path, imports, |_| ControlFlow::Continue(()))?.0))
            }
            (ModelSource::Directory(path), None) => Ok(Source::Directory(path.clone())),
            (ModelSource::Named { id, .. }, None) => Err(not_here(id, paths)),
        }
    }
}

/// The files of a model of the Hub, in a cache or a directory.
fn find(id: &str, revision: &str, paths: &ModelPaths) -> Result<PathBuf> {
    let unusable = |error: HubError| {
        let remedy = error.remedy().unwrap_or_default();
        EngineError::new(ErrorKind::NotFound, error.message()).with_remedy(remedy)
    };
    let repo = RepoId::parse(id).map_err(unusable)?;
    let mut partly = None;
    for cache in &paths.hub_caches {
        match Cache::new(cache).find(&repo, revision) {
            Ok(snapshot) => return Ok(snapshot.path),
            Err(HubError::NotCached { missing, .. }) if missing.is_empty() => {}
            Err(error) => partly = Some(error),
        }
    }
    let mut local = paths.directories.iter().map(|directory| directory.join(id));
    let found = local.find(|directory| directory.join("config.json").is_file());
    found.ok_or_else(|| partly.map_or_else(|| not_here(id, paths), unusable))
}

fn not_here(id: &str, paths: &ModelPaths) -> EngineError {
    let looked: Vec<String> =
        paths.hub_caches.iter().chain(&paths.directories).map(|p| p.display().to_string()).collect();
    let places = if looked.is_empty() {
        "no model directory is set up".to_owned()
    } else {
        format!("looked in {}", looked.join(", "))
    };
    EngineError::new(ErrorKind::NotFound, format!("the model {id} is not on this machine ({places})"))
        .with_remedy(format!("fetch it with `mlxengine pull {id}`, or give its directory"))
}

#[cfg(feature = "demo")]
fn demo() -> Result<Source> {
    Ok(crate::demo::SOURCE)
}

#[cfg(not(feature = "demo"))]
fn demo() -> Result<Source> {
    Err(EngineError::new(ErrorKind::Unsupported, "this build has no demo model")
        .with_remedy("build with the feature `demo`, or give a directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let parse = |s: &str| ModelSource::parse(s).unwrap();
        let named =
            |id: &str, revision: Option<&str>| ModelSource::Named { id: id.into(), revision: revision.map(Into::into) };
        assert_eq!(parse("demo"), ModelSource::Demo);
        assert_eq!(parse("mlx://demo"), ModelSource::Demo);
        assert_eq!(parse("./x"), ModelSource::Directory("./x".into()));
        assert_eq!(parse("mlx:///m/x"), ModelSource::Directory("/m/x".into()));
        assert_eq!(parse("mlx://mlx-community/Qwen3-0.6B-4bit"), named("mlx-community/Qwen3-0.6B-4bit", None));
        assert_eq!(parse("mlx://a/b@refs/pr/1"), named("a/b", Some("refs/pr/1")));
        assert_eq!(parse("qwen3-0.6b"), named("mlx-community/Qwen3-0.6B-4bit", None));
        assert_eq!(parse("Qwen3-0.6B@v1"), named("mlx-community/Qwen3-0.6B-4bit", Some("v1")));
        assert_eq!(parse("qwen3-0.6"), ModelSource::Directory("qwen3-0.6".into()));
        for bad in
            ["", "mlx://", "mlx://x", "mlx://a/../b", "mlx://a/b/c", "mlx://a/b@", "mlx://a/b@../x", "mlx://../b"]
        {
            assert!(ModelSource::parse(bad).is_err(), "{bad}");
        }
    }
}
