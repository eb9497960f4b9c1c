//! Finding, fetching and keeping models, from a Hub on this machine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Folder, mlxengine, said, transcript};
use crate::server::{Fault, Hub, Repository, TOKEN, blob, commit, noise};

/// The program, with this Hub and a cache of the test's own.
fn with(hub: &Hub, cache: &Folder, arguments: &[&str]) -> Command {
    let mut command = mlxengine(arguments);
    command.env("HF_ENDPOINT", &hub.address).env("HF_HUB_CACHE", cache.name()).env_remove("HF_HUB_OFFLINE");
    command.env("HF_TOKEN_PATH", cache.path("token"));
    command
}

/// What it said, with the cache written as `C` and the Hub as `H`.
fn tell(hub: &Hub, cache: &Folder, arguments: &[&str]) -> String {
    let said = transcript(&mut with(hub, cache, arguments), None);
    said.replace(cache.name(), "C").replace(&hub.address, "H").replace(&hub.address["http://".len()..], "H")
}

/// A small repository that is no model, but has the files of one.
fn small() -> Repository {
    let files = [
        ("config.json", br#"{"model_type":"qwen3","quantization":{"bits":4,"group_size":64}}"#.to_vec()),
        ("model.safetensors", noise(5000, 2)),
    ];
    Repository { files: files.map(|(name, bytes)| (name.to_owned(), bytes)).into(), ..Repository::default() }
}

fn demo() -> Repository {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../mlxengine/demo");
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let files = entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()));
    Repository { files: files.collect(), ..Repository::default() }
}

fn snapshot(cache: &Folder, repository: &Repository) -> PathBuf {
    cache.path("models--org--name/snapshots").join(commit(repository))
}

fn assert_bytes(cache: &Folder, repository: &Repository) {
    for (name, bytes) in &repository.files {
        assert!(fs::read(snapshot(cache, repository).join(name)).unwrap() == *bytes, "{name}");
    }
}

#[test]
fn from_a_name_to_a_model_and_away_again() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", small());
    let now = commit(&small());
    let said = tell(&hub, &cache, &["pull", "org/name"]);
    assert!(said.starts_with(&format!("C/models--org--name/snapshots/{now}\n! fetching 2 files, 5.1 kB\n")), "{said}");
    // Two files at once: either may be whole first.
    for line in ["! config.json: 64 B, verified\n", "! model.safetensors: 5.0 kB, verified\n"] {
        assert!(said.contains(line) && said.ends_with("[exit 0]\n"), "{said}");
    }
    assert_bytes(&cache, &small());
    assert_eq!(
        tell(&hub, &cache, &["pull", "mlx://org/name@main"]),
        format!("C/models--org--name/snapshots/{now}\n[exit 0]\n")
    );
    let list = tell(&hub, &cache, &["ls"]);
    let row = format!("org/name  5.1 kB  just now  main ({})", &now[..8]);
    assert!(list.contains(&row) && list.contains("qwen3  4-bit, groups of 64"), "{list}");
    let json = tell(&hub, &cache, &["list", "--json"]);
    assert!(json.contains("\"bytes\": 5064") && json.contains("\"refs\": [\n"), "{json}");
    assert_eq!(tell(&hub, &cache, &["verify", "org/name"]), "org/name: 2 files, good\n[exit 0]\n");
    let weights = cache.path("models--org--name/blobs").join(blob(&small().files["model.safetensors"]));
    fs::write(&weights, noise(5000, 3)).unwrap();
    let said = tell(&hub, &cache, &["verify"]);
    assert!(
        said.contains("! org/name: model.safetensors is damaged: it should be SHA-256 ")
            && said.ends_with("[exit 1]\n"),
        "{said}"
    );
    let said = tell(&hub, &cache, &["verify", "org/name", "--repair"]);
    assert!(said.starts_with("org/name: 2 files, good\n") && said.ends_with("[exit 0]\n"), "{said}");
    assert_bytes(&cache, &small());
    assert_eq!(tell(&hub, &cache, &["cp", "org/name", "my/own"]), "! my/own is org/name now, too\n[exit 0]\n");
    let file = cache.path("x.bundle");
    let said = tell(&hub, &cache, &["export", "org/name", file.to_str().unwrap()]);
    assert_eq!(said, "! org/name: 5.1 kB written to C/x.bundle\n[exit 0]\n");
    assert_eq!(tell(&hub, &cache, &["rm", "org/name"]), "! removed org/name: 5.1 kB\n[exit 0]\n");
    let want = "! error: the model org/name is not in the cache; fetch it with `mlxengine pull org/name`\n[exit 1]\n";
    assert_eq!(tell(&hub, &cache, &["rm", "org/name"]), want);
    let said = tell(&hub, &cache, &["import", file.to_str().unwrap()]);
    assert_eq!(said, format!("C/models--org--name/snapshots/{now}\n! org/name is here, verified\n[exit 0]\n"));
    assert_bytes(&cache, &small());
    let want = "org/name  5.1 kB  to make room\nmy/own  5.1 kB  to make room\n! 10 kB would be freed; nothing was removed\n[exit 0]\n";
    let said = tell(&hub, &cache, &["prune", "--max-size", "10", "--dry-run"]);
    assert_eq!(said.len(), want.len(), "{said}");
    assert!(tell(&hub, &cache, &["prune", "--max-size", "10"]).ends_with("! 10 kB freed\n[exit 0]\n"));
    assert!(tell(&hub, &cache, &["prune"]).ends_with("[exit 2]\n"));
}

#[test]
fn a_model_is_fetched_when_it_is_run() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", demo());
    let question = ["run", "org/name", "What is the capital of France?"];
    let said = tell(&hub, &cache, &question);
    assert!(said.starts_with("The capital of France is Paris.\n! org/name is not here: fetching it"), "{said}");
    assert!(said.contains("! model.safetensors: ") && said.ends_with("[exit 0]\n"), "{said}");
    assert_bytes(&cache, &demo());
    hub.requests();
    assert_eq!(tell(&hub, &cache, &question), "The capital of France is Paris.\n[exit 0]\n");
    assert_eq!(hub.requests().len(), 0, "what is here needs no network");
    let mut offline = with(&hub, &cache, &["show", "mlx://org/name"]);
    assert!(transcript(offline.env("HF_HUB_OFFLINE", "1"), None).contains("qwen3"));
}

#[test]
fn folders_of_plain_files_are_models_too() {
    let (hub, cache, models) = (Hub::start(), Folder::new(), Folder::new());
    let tree = models.path("org/plain");
    fs::create_dir_all(&tree).unwrap();
    for (name, bytes) in &demo().files {
        fs::write(tree.join(name), bytes).unwrap();
    }
    fs::create_dir_all(tree.join(".git")).unwrap();
    fs::write(tree.join(".git/HEAD"), "no part of the model").unwrap();
    let tell = |arguments: &[&str]| {
        let mut command = with(&hub, &cache, arguments);
        let said = transcript(command.env("MLXENGINE_MODELS", models.name()), None);
        said.replace(models.name(), "M").replace(cache.name(), "C")
    };
    let good = "org/plain: 8 files, good, 8 without a hash to compare\n[exit 0]\n";
    assert_eq!([tell(&["verify", "org/plain"]), tell(&["verify"])], [good; 2]);
    let path = tree.to_str().unwrap();
    assert_eq!(tell(&["verify", path]), good.replace("org/plain", "M/org/plain"));
    // Copied to a name, to a folder, and into a bundle: the cache then has hashes.
    assert_eq!(tell(&["cp", "org/plain", "my/own"]), "! my/own is a copy of M/org/plain\n[exit 0]\n");
    assert_eq!(tell(&["verify", "my/own"]), "my/own: 8 files, good\n[exit 0]\n");
    assert!(tell(&["run", "my/own", "What is the capital of France?"]).starts_with("The capital of France is Paris."));
    let (copy, file) = (models.path("copy"), models.path("plain.bundle"));
    assert_eq!(tell(&["cp", path, copy.to_str().unwrap()]), "M/copy\n[exit 0]\n");
    assert_eq!(fs::read_dir(&copy).unwrap().count(), 8, "what is hidden stays where it is");
    assert!(tell(&["export", "org/plain", file.to_str().unwrap()]).starts_with("! org/plain: "));
    fs::rename(models.path("org"), models.path("away")).unwrap();
    assert!(tell(&["import", file.to_str().unwrap()]).contains("org/plain is here, verified"));
    assert_eq!(tell(&["verify", "org/plain"]), "org/plain: 8 files, good\n[exit 0]\n");
    // A cut file and a missing one are seen without hashes, and what Python noted is compared.
    let weights = fs::read(copy.join("model.safetensors")).unwrap();
    fs::write(copy.join("model.safetensors"), &weights[..weights.len() - 10]).unwrap();
    let notes = copy.join(".cache/huggingface/download");
    fs::create_dir_all(&notes).unwrap();
    fs::write(notes.join("config.json.metadata"), format!("{}\n{}\n1.5\n", "0".repeat(40), blob(b"other"))).unwrap();
    fs::write(
        notes.join("README.md.metadata"),
        format!("{}\n{}\n1.5\n", "0".repeat(40), blob(&demo().files["README.md"])),
    )
    .unwrap();
    let said = tell(&["verify", copy.to_str().unwrap()]);
    assert!(said.contains("config.json is damaged: it should be "), "{said}");
    let cut = format!(
        "model.safetensors is damaged: it should be {} bytes, and is {} bytes",
        weights.len(),
        weights.len() - 10
    );
    assert!(said.contains(&cut) && said.contains("M/copy: 8 files, 2 bad, 5 without a hash"), "{said}");
    assert!(said.contains("where its files came from is not known\n[exit 1]"), "{said}");
    assert!(tell(&["cp", copy.to_str().unwrap(), "my/other"]).contains("config.json of M/copy is damaged"));
    assert!(tell(&["verify", models.name()]).contains("M is no model: it has no config.json"));
}

#[test]
fn finding_and_refusals() {
    let (hub, cache) = (Hub::start(), Folder::new());
    for name in ["a/one", "a/two", "b/three"] {
        hub.put(name, small());
    }
    let said = tell(&hub, &cache, &["search", "--author", "a"]);
    let row = "a/one  1200       3      mit      text-generation\n";
    assert!(said.starts_with("model  downloads  likes  licence  for\n") && said.contains(row), "{said}");
    assert!(tell(&hub, &cache, &["search", "one", "--json"]).contains("\"id\": \"a/one\""));
    let want = "! error: the Hub has no model no/where; check its name, and if it is private, sign in with `mlxengine login`\n[exit 1]\n";
    assert_eq!(tell(&hub, &cache, &["pull", "no/where"]), want);
    hub.put("org/name", Repository { gated: true, ..small() });
    let said = tell(&hub, &cache, &["pull", "org/name"]);
    assert!(said.contains("ask for access at H/org/name, then sign in with `mlxengine login`\n[exit 1]"), "{said}");
    assert!(tell(&hub, &cache, &["pull", "a/one@v9"]).contains("the model a/one has no revision `v9`"));
    assert!(tell(&hub, &cache, &["pull", "../x"]).contains("`../x` is no model's name; write it as org/name"));
    let mut offline = with(&hub, &cache, &["pull", "a/one"]);
    let want = "! error: the model a/one, which is not in the cache, needs the network, which is switched off; unset HF_HUB_OFFLINE\n[exit 1]\n";
    assert_eq!(transcript(offline.env("HF_HUB_OFFLINE", "1"), None), want);
}

#[test]
fn signing_in_and_out() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", Repository { gated: true, private: true, ..small() });
    assert!(tell(&hub, &cache, &["whoami"]).contains("you are not signed in; do so with `mlxengine login`"));
    let refused = transcript(&mut with(&hub, &cache, &["login"]), Some("hf_wrong\n"));
    assert!(refused.contains("does not accept the token") && !refused.contains("hf_wrong"), "{refused}");
    let said = transcript(&mut with(&hub, &cache, &["login"]), Some(&format!("{TOKEN}\n")));
    assert!(said.starts_with("! the token belongs to ada\n") && !said.contains(TOKEN), "{said}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(cache.path("token")).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(tell(&hub, &cache, &["whoami"]), "ada\n! of engines\n[exit 0]\n");
    assert!(tell(&hub, &cache, &["pull", "org/name"]).ends_with("[exit 0]\n"));
    assert_eq!(tell(&hub, &cache, &["logout"]), "! the token is forgotten\n[exit 0]\n");
    assert!(!cache.path("token").exists());
}

#[test]
fn one_downloads_and_the_others_wait() {
    for count in [2, 5] {
        let (hub, cache) = (Hub::start(), Folder::new());
        hub.put("org/name", small());
        let here = AtomicUsize::new(0);
        hub.fail(move |request, _| {
            if request.path.contains("/revision/") {
                here.fetch_add(1, Ordering::SeqCst);
            }
            // Nothing comes before all of them have asked, and had a moment to find the file taken.
            let begun = Instant::now();
            while request.elsewhere && here.load(Ordering::SeqCst) < count && begun.elapsed() < Duration::from_secs(20)
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            if request.elsewhere {
                std::thread::sleep(Duration::from_millis(500));
            }
            None
        });
        let children: Vec<_> = (0..count).map(|_| with(&hub, &cache, &["pull", "org/name"]).spawn().unwrap()).collect();
        let all: Vec<String> = children.into_iter().map(said).collect();
        assert!(all.iter().all(|text| text.ends_with("[exit 0]\n")), "{all:?}");
        let waited = all.iter().filter(|text| text.contains("model.safetensors: waiting for another process")).count();
        assert!((1..count).contains(&waited), "{all:?}");
        let bodies = hub.requests().iter().filter(|request| request.elsewhere).count();
        assert_eq!(bodies, 1, "the bytes came once");
        assert_bytes(&cache, &small());
    }
}

/// Killed at any moment, again and again: the next one goes on, and the last one leaves exactly the right bytes.
#[test]
#[cfg(unix)]
fn killed_two_hundred_times() {
    let (hub, cache) = (Hub::start(), Folder::new());
    let mut model = small();
    model.files.insert("model.safetensors".into(), noise(40 << 20, 5));
    model.files.insert("model-2.safetensors".into(), noise(3 << 20, 6));
    hub.put("org/name", model.clone());
    // No connection brings much, so that no run comes to the end before its time.
    hub.fail(|request, _| request.elsewhere.then_some(Fault::Cut(150_000)));
    let moments = noise(200, 11);
    for moment in moments {
        let mut child = with(&hub, &cache, &["pull", "org/name"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + u64::from(moment) / 2));
        child.kill().unwrap();
        child.wait().unwrap();
        let blobs = fs::read_dir(cache.path("models--org--name/blobs")).into_iter().flatten().flatten();
        for entry in blobs.filter(|entry| !entry.file_name().to_str().unwrap().contains(".incomplete")) {
            assert!(
                model
                    .files
                    .values()
                    .any(|bytes| *blob(bytes) == *entry.file_name() && fs::read(entry.path()).unwrap() == *bytes)
            );
        }
    }
    hub.fail(|_, _| None);
    assert!(tell(&hub, &cache, &["pull", "org/name"]).ends_with("[exit 0]\n"));
    assert_bytes(&cache, &model);
    assert_eq!(fs::read_dir(cache.path("models--org--name/blobs")).unwrap().count(), 3, "nothing is left beside them");
}
