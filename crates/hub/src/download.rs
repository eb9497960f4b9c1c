//! From a model's name to a folder that is known to be whole.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::header;

use crate::api::{HuggingFaceApi, ModelInfo, RemoteFile};
use crate::cache::Cache;
use crate::config::HubConfig;
use crate::error::{During, HubError, Result};
use crate::fetch::{Fetch, Session, whole};
use crate::files::{foreign_weights, need};
use crate::hash::hash_text;
use crate::http::{Asked, AskedKind, Question, block_on};
use crate::layout::{Folder, make_cache};
use crate::name::{BlobId, RepoId, check_file, check_revision, is_attack};
use crate::partial::here;
use crate::progress::{Cancel, Event, Listener};
use crate::throttle::Throttle;

/// Which files of a repository are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those that the engine needs, as [`need`] says.
    Needed,
    /// These: names, in which `*` stands for any characters.
    Named(Vec<String>),
    /// All.
    All,
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its folder.
    pub path: PathBuf,
    /// Its commit.
    pub commit: String,
}

/// Fetches models into the cache.
#[derive(Clone)]
pub struct ModelDownloader {
    api: HuggingFaceApi,
    cache: Cache,
}

/// A file that is wanted, with all that is known of it.
struct Item {
    name: String,
    blob: BlobId,
    size: Option<u64>,
}

impl ModelDownloader {
    /// A downloader; nothing is asked yet.
    ///
    /// # Errors
    /// If the endpoint is no address.
    pub fn new(config: &HubConfig) -> Result<Self> {
        Ok(Self { api: HuggingFaceApi::new(config)?, cache: Cache::new(&config.cache) })
    }

    /// Sees to it that the wanted files of a revision are in the cache, each of them verified, and says where.
    ///
    /// What has come stays, whatever happens, and the next call goes on from there. Another process that fetches the same
    /// file is waited for. Offline, a whole model in the cache will do.
    ///
    /// # Errors
    /// If there is no such model, it cannot be fetched, its bytes are not those that were promised, or it does not fit.
    pub fn ensure(
        &self,
        repo: &RepoId,
        revision: &str,
        wanted: &Wanted,
        listener: Listener<'_>,
        cancel: &Cancel,
    ) -> Result<Snapshot> {
        check_revision(revision)?;
        if self.is_offline() {
            return self.cached(repo, revision);
        }
        block_on(|| async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(HubError::Cancelled),
                done = self.fetch_all(repo, revision, wanted, listener, cancel) => done,
            }
        })
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(crate) fn is_offline(&self) -> bool {
        self.api.http().is_offline()
    }

    fn cached(&self, repo: &RepoId, revision: &str) -> Result<Snapshot> {
        match self.cache.find(repo, revision) {
            Ok(snapshot) => Ok(snapshot),
            Err(HubError::NotCached { missing, .. }) if missing.is_empty() => {
                Err(HubError::Offline { what: format!("the model {repo}, which is not in the cache,") })
            }
            Err(error) => Err(error),
        }
    }

    async fn fetch_all(
        &self,
        repo: &RepoId,
        revision: &str,
        wanted: &Wanted,
        listener: Listener<'_>,
        cancel: &Cancel,
    ) -> Result<Snapshot> {
        let fetched = self.fetch_once(repo, revision, wanted, listener, cancel).await;
        match fetched {
            // The branch moved on while its files came; what is now in it is wanted.
            Err(HubError::Changed { .. }) => self.fetch_once(repo, revision, wanted, listener, cancel).await,
            other => other,
        }
    }

    async fn fetch_once(
        &self,
        repo: &RepoId,
        revision: &str,
        wanted: &Wanted,
        listener: Listener<'_>,
        cancel: &Cancel,
    ) -> Result<Snapshot> {
        let info = self.api.info(repo, revision, listener, cancel).await?;
        let chosen = choose(repo, &info, wanted)?;
        let throttle = Throttle::new(self.api.http().transfer.rate);
        let folder = Folder::new(self.cache.root(), repo);
        let at = info.commit.as_deref().unwrap_or(revision);
        let session = Session { api: &self.api, folder: &folder, at, listener, cancel, throttle: &throttle };
        let (items, commit) = self.describe(&session, chosen).await?;
        let commit = info.commit.clone().or(commit).unwrap_or_else(|| made_up_commit(&items));
        make_cache(self.cache.root())?;
        let by_blob: BTreeMap<&str, &Item> = items.iter().map(|item| (item.blob.as_str(), item)).collect();
        self.announce(&session, &commit, &by_blob)?;
        // Small files first: what a model is stands there before its weights do.
        let mut queue: Vec<&Item> = by_blob.into_values().collect();
        queue.sort_by_key(|item| (item.size, &item.name));
        let files = self.api.http().transfer.files.max(1);
        stream::iter(queue)
            .map(|item| async { Fetch::new(&session, &item.name, &item.blob, item.size).run().await })
            .buffer_unordered(files)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        for item in &items {
            folder.link(&commit, &item.name, &item.blob)?;
        }
        folder.set_ref(revision, &commit)?;
        Ok(Snapshot { path: folder.snapshot(&commit), commit })
    }

    /// Asks for what the lists did not say of the files, and of the commit.
    async fn describe(&self, session: &Session<'_>, files: Vec<RemoteFile>) -> Result<(Vec<Item>, Option<String>)> {
        let asked = stream::iter(files).map(|file| async move {
            let known = file.blob.clone().filter(|_| file.size.is_some());
            match known {
                Some(blob) => Ok((Item { name: file.name, blob, size: file.size }, None)),
                None => self.head(session, file).await,
            }
        });
        let described: Vec<(Item, Option<String>)> = asked.buffered(8).try_collect().await?;
        let commit = described.iter().find_map(|(_, commit)| commit.clone());
        Ok((described.into_iter().map(|(item, _)| item).collect(), commit))
    }

    async fn head(&self, session: &Session<'_>, file: RemoteFile) -> Result<(Item, Option<String>)> {
        let repo = &session.folder.id;
        let question = Question::head(self.api.file_url(repo, session.at, &file.name));
        let question = question.header(header::ACCEPT_ENCODING, "identity");
        let kind = AskedKind::File { repo: repo.as_str(), revision: session.at, file: &file.name };
        let asked = Asked { name: &file.name, kind, listener: session.listener, cancel: session.cancel };
        let answer = self.api.http().insist(&question, &asked).await?;
        let linked = answer.said("x-linked-etag").or_else(|| answer.said("etag")).and_then(BlobId::parse);
        let length = || crate::http::text(answer.response.headers(), "content-length");
        let size = answer.said("x-linked-size").or_else(length).and_then(|size| size.parse().ok());
        let commit = answer.said("x-repo-commit").filter(|commit| crate::name::is_commit(commit)).map(str::to_owned);
        // A file without any word for its bytes has the name of its place.
        let unnamed =
            || BlobId::Opaque(format!("unnamed-{}", &hash_text(&format!("{}/{}", session.at, file.name))[..40]));
        let blob = file.blob.or(linked).unwrap_or_else(unnamed);
        Ok((Item { name: file.name, blob, size: file.size.or(size) }, commit))
    }

    /// Says what will be fetched, after looking whether there is room for it.
    fn announce(&self, session: &Session<'_>, commit: &str, files: &BTreeMap<&str, &Item>) -> Result<()> {
        let limits = &self.api.http().transfer;
        let (mut bytes, mut arrived, mut needed) = (0, 0, 0);
        for item in files.values() {
            let path = session.folder.blob(&item.blob);
            let size = item.size.unwrap_or(0);
            let there = whole(&path, item.size).unwrap_or_else(|| here(&path)).min(size);
            bytes += size;
            arrived += there;
            needed += size - there;
            let range = limits.range_of(size);
            if size > range && there < size {
                // While a range is appended it is there twice.
                needed += range;
            }
        }
        (session.listener)(&Event::Listed { commit, files: files.len(), bytes, here: arrived });
        let free = fs4::available_space(self.cache.root()).during("look at the disk of", self.cache.root())?;
        if needed > free {
            let path = self.cache.root().to_owned();
            return Err(HubError::DiskFull { path, room: Some((needed, free)) });
        }
        Ok(())
    }
}

/// The files that are wanted, their names checked.
fn choose(repo: &RepoId, info: &ModelInfo, wanted: &Wanted) -> Result<Vec<RemoteFile>> {
    // Nothing is taken from a repository that tries to write elsewhere.
    for file in info.files.iter().filter(|file| is_attack(&file.name)) {
        check_file(&file.name)?;
    }
    let names: Vec<&str> = info.files.iter().map(|file| file.name.as_str()).collect();
    let fits = |name: &str| match wanted {
        Wanted::Needed => need(name, &names).is_needed(),
        Wanted::Named(patterns) => patterns.iter().any(|pattern| matches(pattern, name)),
        Wanted::All => true,
    };
    if let Wanted::Named(patterns) = wanted
        && let Some(idle) = patterns.iter().find(|pattern| !names.iter().any(|name| matches(pattern, name)))
    {
        return Err(HubError::FileMissing { repo: repo.to_string(), file: idle.clone() });
    }
    if let (Wanted::Needed, Some(formats)) = (wanted, foreign_weights(&names)) {
        return Err(HubError::NoWeights { repo: repo.to_string(), formats });
    }
    for file in info.files.iter().filter(|file| fits(&file.name)) {
        check_file(&file.name)?;
    }
    let mut seen = HashSet::new();
    Ok(info.files.iter().filter(|file| fits(&file.name) && seen.insert(file.name.as_str())).cloned().collect())
}

/// Whether a name fits a pattern in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(start) else { return false };
    (0..=name.len()).any(|at| name.is_char_boundary(at) && matches(rest, &name[at..]))
}

/// A name for the state of a repository whose Hub says none.
fn made_up_commit(items: &[Item]) -> String {
    let text: String = items.iter().map(|item| format!("{} {}\n", item.name, item.blob)).collect();
    hash_text(&text)[..40].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("config.json", "config.json", true),
            ("*.json", "a/config.json", true),
            ("*.json", "config.jsonl", false),
            ("model*of*", "model-1-of-2", true),
            ("*", "ü", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
