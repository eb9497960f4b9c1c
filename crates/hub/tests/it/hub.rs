//! Asking, and fetching from a Hub that behaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mlxengine_hub::{
    Cancel, Event, HubConfig, HubError, HuggingFaceApi, ModelDownloader, RepoId, Result, Search, Snapshot, Token,
    Transfer, Wanted,
};

use crate::server::{Fault, Hub, Repository, TOKEN, blob, commit, noise};

/// A folder that is removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hub-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Small ranges, and no pauses worth mentioning.
pub fn config(hub: &Hub, cache: &Folder) -> HubConfig {
    let transfer = Transfer {
        range: 4096,
        stall: Duration::from_millis(400),
        pause: Duration::from_millis(1),
        ..Transfer::default()
    };
    HubConfig { endpoint: hub.address.clone(), transfer, ..HubConfig::new(&cache.0) }
}

pub fn id() -> RepoId {
    RepoId::parse("org/name").unwrap()
}

/// A small model: a large file of several ranges, and two small ones.
pub fn model() -> Repository {
    let files = [
        ("config.json", noise(300, 1)),
        ("model.safetensors", noise(30_001, 2)),
        ("1_Pooling/config.json", noise(40, 3)),
    ];
    Repository { files: files.map(|(name, bytes)| (name.to_owned(), bytes)).into(), ..Repository::default() }
}

pub fn fetch(config: &HubConfig) -> Result<Snapshot> {
    ModelDownloader::new(config)?.ensure(&id(), "main", &Wanted::Needed, &|_| {}, &Cancel::default())
}

/// The snapshot has these files with their right bytes, and nothing is left beside them.
pub fn assert_whole(cache: &Folder, repository: &Repository) {
    let folder = cache.0.join("models--org--name");
    let now = commit(repository);
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), now);
    for (name, bytes) in &repository.files {
        let path = folder.join("snapshots").join(&now).join(name);
        assert!(fs::read(&path).unwrap() == *bytes, "{name} has other bytes");
        #[cfg(unix)]
        assert_eq!(fs::read_link(&path).unwrap().file_name().unwrap().to_str().unwrap(), blob(bytes));
    }
    let mut blobs: Vec<String> = fs::read_dir(folder.join("blobs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut want: Vec<String> = repository.files.values().map(|bytes| blob(bytes)).collect();
    blobs.sort();
    want.sort();
    assert_eq!(blobs, want);
}

#[test]
fn a_model_is_fetched_once_and_found_again() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", model());
    let config = config(&hub, &cache);
    let snapshot = fetch(&config).unwrap();
    assert_eq!(snapshot.commit, commit(&model()));
    assert_whole(&cache, &model());
    let bodies = |hub: &Hub| hub.requests().iter().filter(|r| r.elsewhere || r.path.contains("/resolve/")).count();
    // Two small files, and the large one in eight ranges, each of which is asked of the Hub first.
    assert_eq!(bodies(&hub), 2 + 2 * 8);
    fetch(&config).unwrap();
    assert_eq!(bodies(&hub), 0, "nothing is fetched twice");
    let offline = HubConfig { offline: true, ..config };
    assert_eq!(fetch(&offline).unwrap(), snapshot);
    assert_eq!(hub.requests().len(), 0, "offline means no request");
}

#[test]
fn progress_tells_all_bytes() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", model());
    let told = Mutex::new((0, 0, 0));
    let listener = |event: &Event<'_>| {
        let mut told = told.lock().unwrap();
        match event {
            Event::Listed { files, bytes, here, .. } => {
                assert_eq!((*files, *here), (3, 0));
                told.0 = *bytes;
            }
            Event::Came { file: "model.safetensors", here } => told.1 = *here,
            Event::Finished { size, .. } => told.2 += size,
            _ => {}
        }
    };
    let downloader = ModelDownloader::new(&config(&hub, &cache)).unwrap();
    downloader.ensure(&id(), "main", &Wanted::Needed, &listener, &Cancel::default()).unwrap();
    assert_eq!(*told.lock().unwrap(), (30_341, 30_001, 30_341));
}

#[test]
fn a_hub_that_says_neither_sizes_nor_hashes() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", Repository { bare: true, ..model() });
    fetch(&config(&hub, &cache)).unwrap();
    assert_whole(&cache, &model());
}

#[test]
fn names_and_revisions_that_are_not_there() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", model());
    let config = config(&hub, &cache);
    let downloader = ModelDownloader::new(&config).unwrap();
    let ensure = |repo: &str, revision: &str, wanted: &Wanted| {
        downloader.ensure(&RepoId::parse(repo).unwrap(), revision, wanted, &|_| {}, &Cancel::default()).unwrap_err()
    };
    assert!(matches!(ensure("org/other", "main", &Wanted::Needed), HubError::NotFound { signed_in: false, .. }));
    assert!(matches!(ensure("org/name", "v9", &Wanted::Needed), HubError::RevisionMissing { .. }));
    let named = Wanted::Named(vec!["nothing*".into()]);
    assert!(matches!(ensure("org/name", "main", &named), HubError::FileMissing { .. }));
    // A Hub that says no more than 404.
    hub.fail(|request, _| request.path.contains("other").then(|| Fault::Status(404, Vec::new())));
    assert!(matches!(ensure("org/other", "main", &Wanted::Needed), HubError::NotFound { .. }));
    hub.fail(|request, _| request.path.contains("/revision/").then(|| Fault::Status(404, Vec::new())));
    assert!(matches!(ensure("org/name", "v9", &Wanted::Needed), HubError::RevisionMissing { .. }));
    let gguf = Repository { files: [("m.Q4.gguf".to_owned(), noise(9, 9))].into(), ..Repository::default() };
    hub.put("org/gguf", gguf);
    hub.fail(|_, _| None);
    let error = ensure("org/gguf", "main", &Wanted::Needed);
    assert!(error.to_string().contains("no weights in safetensors, only .gguf"), "{error}");
    let dead = HubConfig { endpoint: "http://127.0.0.1:9".into(), ..config.clone() };
    assert!(matches!(fetch(&dead), Err(HubError::Unreachable { .. })), "{:?}", fetch(&dead));
    let offline = HubConfig { offline: true, ..config };
    assert!(matches!(fetch(&offline), Err(HubError::Offline { .. })));
}

#[test]
fn gated_and_private_models_need_a_token_that_goes_nowhere_else() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", Repository { private: true, ..model() });
    let config = config(&hub, &cache);
    assert!(matches!(fetch(&config), Err(HubError::NotFound { signed_in: false, .. })));
    let wrong = HubConfig { token: Token::new("hf_wrong"), ..config.clone() };
    assert!(matches!(fetch(&wrong), Err(HubError::Unauthorised { withheld: false, .. })));
    hub.put("org/name", Repository { gated: true, ..model() });
    let error = fetch(&config).unwrap_err().to_string();
    assert!(error.contains(&format!("ask for access at {}/org/name", hub.address)), "{error}");
    // A server of its own: a request that was given up above may still be on its way to the other.
    let hub = Hub::start();
    hub.put("org/name", Repository { gated: true, private: true, ..model() });
    let right = HubConfig { token: Token::new(TOKEN), endpoint: hub.address.clone(), ..config };
    fetch(&right).unwrap();
    assert_whole(&cache, &model());
    let requests = hub.requests();
    assert!(requests.iter().any(|r| r.elsewhere));
    for request in requests {
        assert_eq!(request.headers.contains_key("authorization"), !request.elsewhere, "{request:?}");
    }
}

#[test]
fn hostile_names_are_refused() {
    let names = [
        "../../evil",
        "/etc/evil",
        "a/../../evil",
        "..\\evil.json",
        "C:evil.json",
        "nul.json",
        "a\0b",
        "1_a//b.json",
        "e\nvil.json",
    ];
    for name in names {
        let (hub, cache) = (Hub::start(), Folder::new());
        hub.put("org/name", model());
        let entry = |key: &str| format!(r#"[{{"type":"file","{key}":{}}}]"#, serde_json::to_string(name).unwrap());
        let listed = [
            format!(r#"{{"id":"org/name","sha":"{}","siblings":{}}}"#, commit(&model()), entry("rfilename")),
            entry("path"),
        ];
        hub.fail(move |request, _| {
            let list = ["/revision/", "/tree/"].iter().position(|part| request.path.contains(part));
            list.map(|list| Fault::Body(listed[list].clone()))
        });
        let error = fetch(&config(&hub, &cache)).unwrap_err();
        assert!(matches!(error, HubError::HostileName { .. }), "{name}: {error}");
        assert!(!cache.0.join("models--org--name").exists());
    }
}

#[test]
fn a_commit_that_is_a_path_is_none() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", model());
    let body = r#"{"id":"org/name","sha":"../../../evil","siblings":[]}"#;
    hub.fail(move |request, _| request.path.contains("/revision/").then(|| Fault::Body(body.into())));
    let snapshot = fetch(&config(&hub, &cache)).unwrap();
    assert_eq!(snapshot.commit.len(), 40);
    assert!(snapshot.path.starts_with(cache.0.join("models--org--name/snapshots")));
}

#[test]
fn search_goes_on_over_pages_and_says_who_asks() {
    let (hub, cache) = (Hub::start(), Folder::new());
    for name in ["a/one", "a/two", "a/three", "b/four"] {
        hub.put(name, model());
    }
    let api = HuggingFaceApi::new(&config(&hub, &cache)).unwrap();
    let found = api.search(&Search { limit: 10, library: Some("mlx".into()), ..Search::default() }).unwrap();
    assert_eq!(found.len(), 4);
    assert_eq!(
        (found[0].id.as_str(), found[0].licence.as_deref(), found[0].downloads),
        ("a/one", Some("mit"), Some(1200))
    );
    assert!(hub.requests()[0].query.contains("filter=mlx"));
    assert_eq!(api.search(&Search { limit: 3, ..Search::default() }).unwrap().len(), 3);
    assert_eq!(api.tree(&RepoId::parse("a/one").unwrap(), "main").unwrap().len(), 3, "two pages");
    assert_eq!(api.whoami().unwrap(), None);
    let api = HuggingFaceApi::new(&HubConfig { token: Token::new(TOKEN), ..config(&hub, &cache) }).unwrap();
    let user = api.whoami().unwrap().unwrap();
    assert_eq!(
        (user.name.as_str(), user.organizations[0].as_str(), user.role.as_deref()),
        ("ada", "engines", Some("read"))
    );
}

#[test]
fn cards_are_read() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put_files("org/name", &[("README.md", b"---\nlicense: mit\nbase_model: a/b\n---\n")]);
    hub.put_files("org/bare", &[("config.json", b"{}")]);
    let api = HuggingFaceApi::new(&config(&hub, &cache)).unwrap();
    let card = api.card(&id(), "main").unwrap();
    assert_eq!((card.licence.as_deref(), card.base_models), (Some("mit"), vec!["a/b".to_owned()]));
    assert_eq!(api.card(&RepoId::parse("org/bare").unwrap(), "main").unwrap(), Default::default());
}
