//! Models on this machine, by what the user calls them.

use std::path::Path;

use mlxengine::hub::{Cache, PlainFolder, RepoId};

use crate::App;
use crate::failure::Result;
use crate::fetch::parse;

/// Where a model is.
pub enum Place {
    /// In the Hub's cache.
    Cached {
        /// Its name.
        repo: RepoId,
        /// The revision that was named.
        revision: Option<String>,
    },
    /// In a folder of plain files.
    Folder {
        /// Its name.
        repo: RepoId,
        /// Its files.
        folder: PlainFolder,
    },
}

impl Place {
    /// The place of a model: a folder if there is one of that name, else the cache, else a folder of models that has it.
    pub fn of(model: &str, app: &App) -> Result<Self> {
        let path = Path::new(model.strip_prefix("mlx://").filter(|rest| rest.starts_with('/')).unwrap_or(model));
        if path.is_dir() {
            let name = path.canonicalize().ok().and_then(|path| path.file_name()?.to_str().map(str::to_owned));
            let repo = RepoId::parse(&format!("local/{}", name.unwrap_or_default()))
                .or_else(|_| RepoId::parse("local/model"))?;
            return Ok(Place::Folder { repo, folder: PlainFolder::open(path)? });
        }
        let (repo, revision) = parse(model)?;
        if revision.is_none() && Cache::new(app.settings.hub()?.cache).model(&repo).is_none() {
            let directories = &app.settings.paths().directories;
            let mut folders = directories.iter().map(|directory| directory.join(repo.as_str()));
            if let Some(folder) = folders.find_map(|path| PlainFolder::open(path).ok()) {
                return Ok(Place::Folder { repo, folder });
            }
        }
        Ok(Place::Cached { repo, revision })
    }

    /// What it is called where it is told about: a name, or a folder's path.
    pub fn name(&self) -> String {
        match self {
            Place::Cached { repo, .. } => repo.to_string(),
            Place::Folder { repo, folder } if folder.path().ends_with(repo.as_str()) => repo.to_string(),
            Place::Folder { folder, .. } => folder.path().display().to_string(),
        }
    }
}
