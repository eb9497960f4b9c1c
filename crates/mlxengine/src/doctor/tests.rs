use std::fs;

use super::*;
use crate::device::tree::Tree;

fn find<'a>(diagnosis: &'a Diagnosis, name: &str) -> &'a Check {
    diagnosis.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("{name} was not looked at"))
}

#[test]
fn a_machine_in_order() {
    let tree = Tree::new(&[]);
    let hub = HubConfig { offline: true, ..HubConfig::new(tree.root().join("cache")) };
    let calibration = Some(tree.root().join("calibration.json"));
    let options =
        Options { calibration, model: Some("demo".into()), revision: Some("0123abc".into()), ..Options::new(hub) };
    let mut heard = 0;
    let diagnosis = examine(&options, &mut |_| heard += 1);
    assert!(diagnosis.ok && diagnosis.wrong().count() == 0, "{:?}", diagnosis.checks);
    assert_eq!(heard, diagnosis.checks.len() + 2);
    let states = ["replay", "cache", "hub", "token", "model", "template", "tokenizer", "end tokens"];
    let states = states.map(|name| find(&diagnosis, name).state);
    let skipped = State::Skipped;
    assert_eq!(states, [State::Ok, State::Ok, skipped, skipped, State::Ok, State::Ok, State::Ok, State::Ok]);
    assert!(find(&diagnosis, "calibration").said.starts_with("measured, and kept in"));
    assert_eq!(find(&examine(&options, &mut |_| {}), "calibration").said, "measured before, and kept");
    let json = serde_json::to_value(&diagnosis).unwrap();
    assert_eq!((&json["ok"], &json["build"]["revision"]), (&true.into(), &"0123abc".into()));
}

#[test]
fn what_is_wrong_is_said_with_its_remedy() {
    let tree = Tree::new(&[
        ("cache/models--a--b/refs/main", "0123456789012345678901234567890123456789"),
        ("cache/models--a--b/snapshots/c0/config.json", "{}"),
        ("cache/models--a--b/blobs/0000.incomplete", "12345"),
        ("cache/.locks/models--x--gone/1.lock", ""),
        ("bad/config.json", "{"),
    ]);
    #[cfg(unix)]
    std::os::unix::fs::symlink("../../blobs/gone", tree.root().join("cache/models--a--b/snapshots/c0/tokenizer.json"))
        .unwrap();
    let hub = HubConfig { offline: true, ..HubConfig::new(tree.root().join("cache")) };
    let model = Some(tree.root().join("bad").display().to_string());
    let diagnosis = examine(&Options { model, ..Options::new(hub) }, &mut |_| {});
    assert!(!diagnosis.ok);
    let cache = find(&diagnosis, "cache");
    for said in ["`main` of a/b names a commit", "came in part", "locks are left of x/gone"] {
        assert!(cache.said.contains(said), "{said}: {cache:?}");
    }
    #[cfg(unix)]
    {
        assert_eq!(cache.state, State::Failed);
        assert!(cache.said.contains("a/b has links to bytes that are gone: tokenizer.json"), "{cache:?}");
        assert!(cache.remedy.as_ref().unwrap().starts_with("fetch them again with `mlxengine verify --repair a/b`"));
    }
    let model = find(&diagnosis, "model");
    assert_eq!(model.state, State::Failed);
    assert!(model.said.contains("config.json"), "{model:?}");
    fs::write(tree.root().join("file"), "").unwrap();
    let kept = Options {
        calibration: Some(tree.root().join("file/calibration.json")),
        ..Options::new(HubConfig { offline: true, ..HubConfig::new(tree.root().join("none")) })
    };
    let diagnosis = examine(&kept, &mut |_| {});
    assert!(diagnosis.ok, "a warning is no failure");
    assert_eq!(find(&diagnosis, "calibration").state, State::Warning);
}
