//! From what a user calls a model to its files.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlxengine_engine::{EngineError, ErrorKind, Result};
use mlxengine_models::Source;

use crate::gguf;

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
    /// Reads `demo`, a directory or GGUF file, `mlx://demo`, `mlx://org/name[@revision]` or `mlx:///absolute/directory`.
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
            path => Ok(ModelSource::Directory(PathBuf::from(path))),
        }
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

    /// The files that this names, looked for in `paths`.
    ///
    /// # Errors
    /// If nothing is there, with the places that were looked at.
    pub fn resolve(&self, paths: &ModelPaths) -> Result<Source> {
        match self {
            ModelSource::Demo => demo(),
            ModelSource::Directory(path) if gguf::is_gguf(path) => {
                let imports = paths.imports.as_ref().ok_or_else(|| {
                    let message = format!("{} is a GGUF file, and no place is set up to import it to", path.display());
                    EngineError::new(ErrorKind::InvalidInput, message).with_remedy("import it to a directory first")
                })?;
                Ok(Source::Directory(gguf::imported(path, imports, |_| ControlFlow::Continue(()))?.0))
            }
            ModelSource::Directory(path) => {
                match path.to_str().filter(|_| !path.exists()).map(|name| (name, Self::parse_url(name))) {
                    Some((name, Some(ModelSource::Named { .. }))) => {
                        Err(EngineError::new(ErrorKind::NotFound, format!("there is no directory {name}"))
                            .with_remedy(format!("for the model of that name write mlx://{name}")))
                    }
                    _ => Ok(Source::Directory(path.clone())),
                }
            }
            ModelSource::Named { id, revision } => {
                let revision = revision.as_deref().unwrap_or("main");
                let cached = paths.hub_caches.iter().filter_map(|cache| snapshot(cache, id, revision));
                let local = paths.directories.iter().map(|directory| directory.join(id));
                let found = cached.chain(local).find(|directory| directory.join("config.json").is_file());
                found.map(Source::Directory).ok_or_else(|| not_here(id, paths))
            }
        }
    }
}

/// The snapshot of a revision in a cache of the Hub's layout.
fn snapshot(cache: &Path, id: &str, revision: &str) -> Option<PathBuf> {
    let repository = cache.join(format!("models--{}", id.replace('/', "--")));
    let commit = std::fs::read_to_string(repository.join("refs").join(revision)).ok();
    let commit = commit.as_deref().map_or(revision, str::trim);
    let directory = repository.join("snapshots").join(commit);
    directory.is_dir().then_some(directory)
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
        .with_remedy("download it there with another tool, or give its directory")
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
        for bad in
            ["", "mlx://", "mlx://x", "mlx://a/../b", "mlx://a/b/c", "mlx://a/b@", "mlx://a/b@../x", "mlx://../b"]
        {
            assert!(ModelSource::parse(bad).is_err(), "{bad}");
        }
    }
}
