//! The Hub's own interface: search, facts about models, lists of files, who asks.

use std::collections::HashSet;

use reqwest::Url;
use serde_json::Value;

use crate::card::ModelCard;
use crate::config::HubConfig;
use crate::error::{HubError, Result};
use crate::http::{Answer, Asked, AskedKind, Http, Question, block_on, text};
use crate::name::{BlobId, RepoId, check_revision, is_commit};
use crate::progress::{Cancel, Event, Listener};

/// Pages of one list; more is no list but a circle.
const PAGES: usize = 10_000;

/// The Hub: what models there are, and what is in them.
#[derive(Clone)]
pub struct HuggingFaceApi {
    http: Http,
}

/// What is searched for.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Words of the name.
    pub text: Option<String>,
    /// The owner.
    pub author: Option<String>,
    /// Tags that it has, all of them; languages and licences are tags too, as in `license:mit`.
    pub tags: Vec<String>,
    /// The library that it was made for, as `mlx`.
    pub library: Option<String>,
    /// What it is for, as `text-generation`.
    pub pipeline: Option<String>,
    /// What comes first.
    pub sort: Sort,
    /// The most models.
    pub limit: usize,
}

/// What comes first, most of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// What is asked for most now.
    #[default]
    Trending,
    /// What is fetched most.
    Downloads,
    /// What is liked most.
    Likes,
    /// What was changed last.
    Modified,
    /// What was made last.
    Created,
}

impl Sort {
    fn parameter(self) -> &'static str {
        match self {
            Sort::Trending => "trendingScore",
            Sort::Downloads => "downloads",
            Sort::Likes => "likes",
            Sort::Modified => "lastModified",
            Sort::Created => "createdAt",
        }
    }
}

/// Who may fetch a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// Whom its owners have accepted.
    Gated,
    /// Its owners.
    Private,
}

/// What the Hub says about a model. It may leave out anything but the name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInfo {
    /// `org/name`.
    pub id: String,
    /// The commit of the revision that was asked for.
    pub commit: Option<String>,
    /// Who may fetch it.
    pub access: Access,
    /// Downloads of the last month.
    pub downloads: Option<u64>,
    /// People who like it.
    pub likes: Option<u64>,
    /// When it was last changed, as in `2025-04-27T08:49:37.000Z`.
    pub modified: Option<String>,
    /// What it is for, as `text-generation`.
    pub pipeline: Option<String>,
    /// The library that it was made for.
    pub library: Option<String>,
    /// The licence's short name.
    pub licence: Option<String>,
    /// Models that it was made from.
    pub base_models: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Files.
    pub files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path, as the Hub writes it: not yet checked.
    pub name: String,
    /// Its size.
    pub size: Option<u64>,
    /// What its bytes are.
    pub blob: Option<BlobId>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name by which the Hub knows the user.
    pub name: String,
    /// The name in full.
    pub full_name: Option<String>,
    /// The user's organizations.
    pub organizations: Vec<String>,
    /// What the token may do, as `read`.
    pub role: Option<String>,
}

impl HuggingFaceApi {
    /// A client of the Hub; nothing is asked yet.
    ///
    /// # Errors
    /// If the endpoint is no address.
    pub fn new(config: &HubConfig) -> Result<Self> {
        Ok(Self { http: Http::new(config)? })
    }

    pub(crate) fn http(&self) -> &Http {
        &self.http
    }

    /// Models that fit, the first `limit` of them, however many pages that takes.
    ///
    /// # Errors
    /// If the Hub cannot be asked, or does not answer sensibly.
    pub fn search(&self, search: &Search) -> Result<Vec<ModelInfo>> {
        let limit = search.limit.to_string();
        let mut query =
            vec![("sort", search.sort.parameter()), ("direction", "-1"), ("limit", &limit), ("full", "true")];
        let named = [("search", &search.text), ("author", &search.author), ("pipeline_tag", &search.pipeline)];
        query.extend(named.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))));
        query.extend(search.library.iter().chain(&search.tags).map(|tag| ("filter", tag.as_str())));
        let url = self.http.url(&["api", "models"], &query);
        let asked = quiet("the search", AskedKind::Hub);
        let models = block_on(|| self.pages(url, &asked, search.limit))?;
        Ok(models.iter().filter_map(model).take(search.limit).collect())
    }

    /// What the Hub says about a model, with the sizes and hashes of its files.
    ///
    /// # Errors
    /// If there is no such model or revision, or the Hub cannot be asked.
    pub fn model_info(&self, repo: &RepoId, revision: &str) -> Result<ModelInfo> {
        check_revision(revision)?;
        block_on(|| async { self.info(repo, revision, &|_| {}, &Cancel::default()).await })
    }

    /// Every file of a revision, in all its folders.
    ///
    /// # Errors
    /// If there is no such model or revision, or the Hub cannot be asked.
    pub fn tree(&self, repo: &RepoId, revision: &str) -> Result<Vec<RemoteFile>> {
        check_revision(revision)?;
        let asked = quiet(repo.as_str(), AskedKind::Revision { repo: repo.as_str(), revision });
        block_on(|| self.list(repo, revision, &asked))
    }

    /// The model card of a revision; an empty one if the model has none.
    ///
    /// # Errors
    /// If there is no such model or revision, or the Hub cannot be asked.
    pub fn card(&self, repo: &RepoId, revision: &str) -> Result<ModelCard> {
        check_revision(revision)?;
        let file = AskedKind::File { repo: repo.as_str(), revision, file: "README.md" };
        let question = Question::get(self.file_url(repo, revision, "README.md"));
        let body = block_on(|| async {
            let answer = self.http.insist(&question, &quiet("README.md", file)).await?;
            self.http.body(answer).await
        });
        match body {
            Ok(bytes) => Ok(ModelCard::parse(&String::from_utf8_lossy(&bytes))),
            Err(HubError::FileMissing { .. }) => Ok(ModelCard::default()),
            Err(error) => Err(error),
        }
    }

    /// Who the token belongs to; `None` without a token.
    ///
    /// # Errors
    /// If the Hub does not accept the token, or cannot be asked.
    pub fn whoami(&self) -> Result<Option<User>> {
        if !self.http.has_token() {
            return Ok(None);
        }
        if self.http.withholds_token() {
            let host = crate::http::host(self.http.endpoint());
            return Err(HubError::Unauthorised { host, withheld: true });
        }
        let asked = quiet("who you are", AskedKind::Hub);
        let (value, _) = block_on(|| self.json(self.http.url(&["api", "whoami-v2"], &[]), &asked))?;
        let name = string(&value, "name").ok_or_else(|| HubError::bad("who you are", "it has no name"))?;
        let organizations = array(&value, "orgs").iter().filter_map(|org| string(org, "name")).collect();
        let role = value.pointer("/auth/accessToken/role").and_then(Value::as_str).map(str::to_owned);
        Ok(Some(User { name, full_name: string(&value, "fullname"), organizations, role }))
    }

    pub(crate) async fn info(
        &self,
        repo: &RepoId,
        revision: &str,
        listener: Listener<'_>,
        cancel: &Cancel,
    ) -> Result<ModelInfo> {
        let kind = AskedKind::Revision { repo: repo.as_str(), revision };
        let asked = Asked { name: repo.as_str(), kind, listener, cancel };
        let url = self.http.url(&self.parts(repo, &["revision", revision]), &[("blobs", "true")]);
        let (value, answered) = self.json(url, &asked).await?;
        let mut info = model(&value).unwrap_or_default();
        if info.id.is_empty() {
            info.id = repo.as_str().to_owned();
        }
        info.commit = info.commit.or(answered).filter(|commit| is_commit(commit));
        let at = info.commit.clone().unwrap_or_else(|| revision.to_owned());
        if info.files.is_empty() || info.files.iter().any(|file| file.size.is_none() || file.blob.is_none()) {
            // An older Hub, or a mirror, does not say sizes and hashes there; it may here.
            match self.list(repo, &at, &asked).await {
                Ok(files) if !files.is_empty() => info.files = files,
                Ok(_) => {}
                Err(HubError::NotFound { .. } | HubError::RevisionMissing { .. } | HubError::BadAnswer { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if info.files.is_empty() {
            return Err(HubError::bad(asked.name, "it lists no files"));
        }
        Ok(info)
    }

    async fn list(&self, repo: &RepoId, revision: &str, asked: &Asked<'_>) -> Result<Vec<RemoteFile>> {
        let url = self.http.url(&self.parts(repo, &["tree", revision]), &[("recursive", "true")]);
        let entries = self.pages(url, asked, usize::MAX).await?;
        let files = entries.iter().filter(|entry| entry["type"].as_str().is_none_or(|kind| kind == "file"));
        Ok(files.filter_map(|entry| file(entry, "path", "oid")).collect())
    }

    fn parts<'a>(&self, repo: &'a RepoId, rest: &[&'a str]) -> Vec<&'a str> {
        ["api", "models"].into_iter().chain(repo.as_str().split('/')).chain(rest.iter().copied()).collect()
    }

    /// Where a file's bytes are.
    pub(crate) fn file_url(&self, repo: &RepoId, revision: &str, file: &str) -> Url {
        let start = repo.as_str().split('/').chain(["resolve", revision]);
        self.http.url(&start.chain(file.split('/')).collect::<Vec<_>>(), &[])
    }

    /// All pages of a list, or as many as have `limit` entries.
    async fn pages(&self, first: Url, asked: &Asked<'_>, limit: usize) -> Result<Vec<Value>> {
        let (mut entries, mut seen) = (Vec::new(), HashSet::new());
        let mut next = Some(first);
        while let Some(url) = next.take().filter(|_| entries.len() < limit) {
            if seen.len() >= PAGES || !seen.insert(url.clone()) {
                return Err(HubError::bad(asked.name, "its pages go round in a circle"));
            }
            let answer = self.http.insist(&Question::get(url.clone()), asked).await?;
            next = text(answer.response.headers(), "link").and_then(|link| next_page(link, &url));
            match self.parse(answer, asked).await? {
                Value::Array(page) => entries.extend(page),
                _ => return Err(HubError::bad(asked.name, "it is no list")),
            }
        }
        Ok(entries)
    }

    /// An object, and the commit that the Hub says beside it.
    async fn json(&self, url: Url, asked: &Asked<'_>) -> Result<(Value, Option<String>)> {
        let answer = self.http.insist(&Question::get(url), asked).await?;
        let commit = answer.said("x-repo-commit").map(str::to_owned);
        let value = self.parse(answer, asked).await?;
        if !value.is_object() {
            return Err(HubError::bad(asked.name, "it is no JSON object"));
        }
        Ok((value, commit))
    }

    async fn parse(&self, answer: Answer, asked: &Asked<'_>) -> Result<Value> {
        let bytes = self.http.body(answer).await?;
        serde_json::from_slice(&bytes).map_err(|error| HubError::bad(asked.name, format!("it is no JSON: {error}")))
    }
}

/// A question whose retries nobody hears of, and that nobody stops.
fn quiet<'a>(name: &'a str, kind: AskedKind<'a>) -> Asked<'a> {
    static NEVER: std::sync::LazyLock<Cancel> = std::sync::LazyLock::new(Cancel::default);
    fn nobody(_: &Event<'_>) {}
    Asked { name, kind, listener: &nobody, cancel: &NEVER }
}

/// The address of the next page, from `<https://…>; rel="next", <…>; rel="first"`.
fn next_page(link: &str, page: &Url) -> Option<Url> {
    let next = link.split(',').find(|part| {
        part.split(';').skip(1).any(|parameter| {
            let parameter = parameter.replace(['"', ' '], "");
            parameter.eq_ignore_ascii_case("rel=next")
        })
    })?;
    let (_, rest) = next.split_once('<')?;
    page.join(rest.split_once('>')?.0).ok()
}

fn string(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A text or a list of texts.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => list.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

fn model(value: &Value) -> Option<ModelInfo> {
    let tags = texts(&value["tags"]);
    let tagged = |prefix| tags.iter().filter_map(move |tag| tag.strip_prefix::<&str>(prefix)).map(str::to_owned);
    let card = &value["cardData"];
    let base = texts(&card["base_model"]);
    let gated = &value["gated"];
    Some(ModelInfo {
        id: string(value, "id").or_else(|| string(value, "modelId"))?,
        commit: string(value, "sha"),
        access: match value["private"].as_bool() {
            Some(true) => Access::Private,
            _ if gated.is_string() || gated.as_bool() == Some(true) => Access::Gated,
            _ => Access::Open,
        },
        downloads: value["downloads"].as_u64(),
        likes: value["likes"].as_u64(),
        modified: string(value, "lastModified"),
        pipeline: string(value, "pipeline_tag"),
        library: string(value, "library_name"),
        licence: texts(&card["license"]).into_iter().next().or_else(|| tagged("license:").next()),
        base_models: if base.is_empty() {
            tagged("base_model:").filter(|model| !model.contains(':')).collect()
        } else {
            base
        },
        files: array(value, "siblings").iter().filter_map(|entry| file(entry, "rfilename", "blobId")).collect(),
        tags,
    })
}

/// A file of a list. What it says of large files stands under `lfs`, in one of two words.
fn file(entry: &Value, name: &str, id: &str) -> Option<RemoteFile> {
    let lfs = &entry["lfs"];
    let large = ["sha256", "oid"].iter().find_map(|key| lfs[*key].as_str()).and_then(BlobId::parse);
    // Without `lfs`, the id is that of the file itself; with it, that of a pointer to it.
    let small = || entry[id].as_str().filter(|_| !lfs.is_object()).and_then(BlobId::parse);
    Some(RemoteFile {
        name: string(entry, name)?,
        size: lfs["size"].as_u64().or_else(|| entry["size"].as_u64()),
        blob: large.or_else(small),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_follow_their_links() {
        let page = Url::parse("https://h/api/models?limit=2").unwrap();
        let next = |link: &str| next_page(link, &page).map(String::from);
        assert_eq!(next("<https://h/api?c=1>; rel=\"next\"").as_deref(), Some("https://h/api?c=1"));
        assert_eq!(next("</a>; rel=\"first\", </b?x=1>; title=\"t\"; rel=next").as_deref(), Some("https://h/b?x=1"));
        assert_eq!(next("</a>; rel=\"prev\""), None);
        assert_eq!(next("nonsense"), None);
    }

    #[test]
    fn models_may_leave_out_nearly_everything() {
        let info =
            model(&json!({"modelId": "a/b", "gated": "manual", "tags": ["license:mit", "base_model:c/d", 3]})).unwrap();
        assert_eq!(
            (info.access, info.licence.as_deref(), info.base_models),
            (Access::Gated, Some("mit"), vec!["c/d".into()])
        );
        assert_eq!(model(&json!({"id": "a/b"})).unwrap().files, []);
        assert_eq!(model(&json!({"tags": 1})), None);
    }

    #[test]
    fn files_say_what_their_bytes_are() {
        let (sha, oid) = ("a".repeat(64), "b".repeat(40));
        let large =
            json!({"rfilename": "w", "size": 9, "blobId": oid, "lfs": {"sha256": sha, "size": 9, "pointerSize": 134}});
        let large = file(&large, "rfilename", "blobId").unwrap();
        assert_eq!((large.size, large.blob), (Some(9), Some(BlobId::Sha256(sha.clone()))));
        let tree = json!({"type": "file", "path": "w", "oid": oid, "size": 9, "lfs": {"oid": sha, "size": 9}});
        assert_eq!(file(&tree, "path", "oid").unwrap().blob, Some(BlobId::Sha256(sha)));
        let small = file(&json!({"path": "c", "oid": oid, "size": 2}), "path", "oid").unwrap();
        assert_eq!(small.blob, Some(BlobId::Git(oid)));
        assert_eq!(
            file(&json!({"path": "c"}), "path", "oid").unwrap(),
            RemoteFile { name: "c".into(), size: None, blob: None }
        );
    }
}
