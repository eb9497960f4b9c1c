//! What is kept: verified, repaired, removed, carried elsewhere, shared with Python.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mlxengine_hub::{
    Cache, Cancel, Condition, HubError, ModelDownloader, Prune, PrunedPart, RepoId, export, is_bundle,
};

use crate::hub::{Folder, assert_whole, config, fetch, id, model};
use crate::server::{Hub, blob, commit, noise};

fn fetched() -> (Hub, Folder, Cache) {
    let (hub, folder) = (Hub::start(), Folder::new());
    hub.put("org/name", model());
    fetch(&config(&hub, &folder)).unwrap();
    let cache = Cache::new(&folder.0);
    (hub, folder, cache)
}

#[test]
fn damage_is_found_and_repaired_alone() {
    let (hub, folder, cache) = fetched();
    let verify = || cache.verify(&id(), None, &mut |_| {}, &Cancel::default()).unwrap();
    assert!(verify().iter().all(|file| file.condition == Condition::Good));
    let weights = folder.0.join("models--org--name/blobs").join(blob(&model().files["model.safetensors"]));
    let mut bytes = fs::read(&weights).unwrap();
    bytes[20_000] ^= 1;
    fs::write(&weights, bytes).unwrap();
    fs::remove_file(folder.0.join("models--org--name/blobs").join(blob(&model().files["config.json"]))).unwrap();
    let found = verify();
    let bad: Vec<&str> = found.iter().filter(|file| file.is_bad()).map(|file| file.file.as_str()).collect();
    assert_eq!(bad, ["config.json", "model.safetensors"]);
    assert!(
        matches!(cache.find(&id(), "main"), Err(HubError::NotCached { missing, .. }) if missing == ["config.json"])
    );
    hub.requests();
    let downloader = ModelDownloader::new(&config(&hub, &folder)).unwrap();
    downloader.repair(&id(), &found, &|_| {}, &Cancel::default()).unwrap();
    assert!(hub.requests().iter().all(|request| !request.path.contains("1_Pooling")));
    assert!(verify().iter().all(|file| file.condition == Condition::Good));
    assert_whole(&folder, &model());
}

#[test]
fn lists_removal_and_pruning() {
    let (hub, folder, cache) = fetched();
    let old = commit(&model());
    let mut changed = model();
    changed.files.insert("config.json".into(), noise(200, 99));
    hub.put("org/name", changed.clone());
    fetch(&config(&hub, &folder)).unwrap();
    let list = cache.list().unwrap();
    assert_eq!((list.len(), list[0].name.as_str(), list[0].bytes), (1, "org/name", 30_001 + 300 + 40 + 200));
    let now = list[0].revisions.iter().find(|revision| revision.refs == ["main"]).unwrap();
    assert_eq!((now.commit.clone(), now.bytes), (Some(commit(&changed)), 30_241));
    let plan = cache.plan_prune(&Prune { unused: true, ..Prune::default() }).unwrap();
    assert_eq!((plan.len(), plan[0].bytes, &plan[0].what), (1, 300, &PrunedPart::Revision(old.clone())));
    assert_eq!(cache.prune(&plan).unwrap(), 300);
    assert_whole(&folder, &changed);
    assert!(matches!(cache.remove(&id(), Some(&old)), Err(HubError::RevisionMissing { .. })));
    let none = Prune { older_than: Some(Duration::from_secs(3600)), max_size: Some(1 << 30), unused: true };
    assert_eq!(cache.plan_prune(&none).unwrap(), []);
    let all = cache.plan_prune(&Prune { max_size: Some(10), ..Prune::default() }).unwrap();
    assert_eq!(all[0].what, PrunedPart::Model);
    assert_eq!(cache.prune(&all).unwrap(), 30_241);
    assert_eq!(cache.list().unwrap().len(), 0);
    assert!(matches!(cache.remove(&id(), None), Err(HubError::NotCached { .. })));
}

#[test]
fn a_second_name_shares_the_bytes() {
    let (_, folder, cache) = fetched();
    let other = RepoId::parse("my/copy").unwrap();
    cache.copy(&id(), "main", &other).unwrap();
    cache.remove(&id(), None).unwrap();
    let copy = cache.find(&other, "main").unwrap();
    assert!(fs::read(copy.path.join("model.safetensors")).unwrap() == model().files["model.safetensors"]);
    assert!(cache.copy(&other, "main", &other).is_err());
    assert!(folder.0.join("models--my--copy").is_dir());
}

#[test]
fn bundles_carry_models_and_refuse_damage() {
    let (_, folder, cache) = fetched();
    let file = folder.0.join("model.bundle");
    let snapshot = cache.find(&id(), "main").unwrap();
    let mut told = 0;
    export(&id(), "main", &snapshot, &file, &mut |done, _| told = done, &Cancel::default()).unwrap();
    assert!(is_bundle(&file) && told == 30_341);
    let other = Folder::new();
    let import = |bytes: &[u8], folder: &Folder| {
        let path = folder.0.join("in.bundle");
        fs::write(&path, bytes).unwrap();
        Cache::new(folder.0.join("cache")).import(&path, &mut |_, _| {}, &Cancel::default())
    };
    let good = fs::read(&file).unwrap();
    let (repo, arrived) = import(&good, &other).unwrap();
    assert_eq!((repo, arrived.commit), (id(), snapshot.commit.clone()));
    assert_whole(&Folder(other.0.join("cache")), &model());
    // Cut anywhere, or with a byte that is another: refused, and no snapshot is there.
    for cut in [0, 100, 600, 3000, good.len() / 2] {
        let other = Folder::new();
        assert!(import(&good[..cut], &other).is_err(), "{cut}");
        assert!(!other.0.join("cache/models--org--name/snapshots").exists());
    }
    let mut bad = good.clone();
    let at = good.len() - 20_000;
    bad[at] ^= 1;
    let refused = import(&bad, &Folder::new()).unwrap_err().to_string();
    assert!(refused.contains("the bundle is damaged at model.safetensors"), "{refused}");
    // A name that leaves the folder, as long as the one that was there.
    let text = String::from_utf8_lossy(&good).into_owned();
    let hostile = text.find("1_Pooling/config.json").unwrap();
    let mut bad = good;
    bad[hostile..hostile + 21].copy_from_slice(b"../../../../evil.json");
    assert!(matches!(import(&bad, &Folder::new()), Err(HubError::HostileName { .. })));
    // What is damaged here is not sent on its way.
    fs::write(folder.0.join("models--org--name/blobs").join(blob(&model().files["config.json"])), noise(300, 5))
        .unwrap();
    let error = export(&id(), "main", &snapshot, &file, &mut |_, _| {}, &Cancel::default()).unwrap_err().to_string();
    assert!(error.contains("config.json in the cache is damaged"), "{error}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_loses_nothing() {
    let (hub, folder) = (Hub::start(), Folder::new());
    let disk = folder.0.join("disk");
    fs::create_dir_all(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&disk).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: a small disk cannot be mounted here");
        return;
    }
    let small = Folder(disk.join("cache"));
    hub.put("org/name", model());
    let result = std::panic::catch_unwind(|| {
        let config = config(&hub, &small);
        // The room goes while the file comes: another program takes it once the check is passed.
        let filler = disk.join("filler");
        fs::write(&filler, noise(44 << 10, 3)).unwrap();
        assert!(matches!(fetch(&config), Err(HubError::DiskFull { room: Some(_), .. })));
        fs::remove_file(&filler).unwrap();
        let taken = std::sync::Once::new();
        let listener = |event: &mlxengine_hub::Event<'_>| {
            if matches!(event, mlxengine_hub::Event::Came { file: "model.safetensors", here } if *here >= 8192) {
                taken.call_once(|| drop(fs::write(&filler, noise(64 << 10, 3))));
            }
        };
        let downloader = ModelDownloader::new(&config).unwrap();
        let wanted = mlxengine_hub::Wanted::Needed;
        let error = downloader.ensure(&id(), "main", &wanted, &listener, &Cancel::default()).unwrap_err();
        assert!(matches!(error, HubError::DiskFull { .. }), "{error}");
        fs::remove_file(&filler).unwrap();
        hub.requests();
        fetch(&config).unwrap();
        assert_whole(&small, &model());
        let ranges = hub.requests().into_iter().filter(|request| request.elsewhere).count();
        assert!(ranges < 8, "{ranges} ranges were fetched again");
    });
    let _ = Command::new("umount").arg(&disk).status();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// A Python that has the real package: the one of this test's environment, or the tools' of the project.
fn python() -> Option<String> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/ci-tools/bin/python");
    let named =
        [std::env::var("MLXENGINE_TEST_PYTHON").ok(), tools.to_str().map(str::to_owned), Some("python3".into())];
    named.into_iter().flatten().find(|python| {
        Command::new(python).args(["-c", "import huggingface_hub"]).output().is_ok_and(|output| output.status.success())
    })
}

#[test]
fn python_reads_our_cache_and_we_read_its() {
    let Some(python) = python() else {
        println!("SKIPPED: there is no Python with huggingface_hub");
        assert!(std::env::var_os("CI").is_none(), "the real package has to be there");
        return;
    };
    let run = |hub: &Hub, cache: &Folder, code: &str, offline: bool| {
        let mut command = Command::new(&python);
        command.args(["-c", code]).env("HF_ENDPOINT", &hub.address).env("HF_HUB_CACHE", &cache.0);
        command.env("HF_HUB_DISABLE_TELEMETRY", "1").env("HF_HUB_DISABLE_XET", "1").env_remove("HF_TOKEN");
        command.env("HF_HOME", cache.0.join("home")).env("HF_HUB_OFFLINE", if offline { "1" } else { "0" });
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let code = "import huggingface_hub as h; print(h.snapshot_download('org/name'))";
    let (hub, folder, cache) = fetched();
    assert_eq!(run(&hub, &folder, code, true), cache.find(&id(), "main").unwrap().path.to_str().unwrap());
    let scan = "import huggingface_hub as h; r = list(h.scan_cache_dir().repos)[0]; print(r.repo_id, r.size_on_disk)";
    assert_eq!(run(&hub, &folder, scan, true), "org/name 30341");
    hub.requests();
    run(&hub, &folder, code, false);
    assert!(hub.requests().iter().all(|request| !request.elsewhere), "it fetches nothing again");
    let (hub, folder) = (Hub::start(), Folder::new());
    hub.put("org/name", model());
    run(&hub, &folder, code, false);
    let mut offline = config(&hub, &folder);
    offline.offline = true;
    assert_eq!(fetch(&offline).unwrap().commit, commit(&model()));
    hub.requests();
    fetch(&config(&hub, &folder)).unwrap();
    assert!(hub.requests().iter().all(|request| !request.path.contains("/resolve/")), "we fetch nothing again");
    let checked = Cache::new(&folder.0).verify(&id(), None, &mut |_| {}, &Cancel::default()).unwrap();
    assert!(checked.len() == 3 && checked.iter().all(|file| file.condition == Condition::Good));
}
