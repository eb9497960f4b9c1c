//! Whether everything is in order, and what is said where it is not.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

use crate::common::{Folder, mlxengine, transcript};
use crate::server::{Fault, Hub, TOKEN};

/// The program, with a folder of the test's own for what it keeps.
fn doctor(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = mlxengine(&[&["doctor"], arguments].concat());
    command.env("XDG_CACHE_HOME", folder.path("xdg")).env("HF_HUB_CACHE", folder.path("hub"));
    command
}

/// The same, asking a Hub.
fn with(hub: &Hub, folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = doctor(folder, arguments);
    command.env("HF_ENDPOINT", &hub.address).env_remove("HF_HUB_OFFLINE");
    command
}

/// The line of a check, with the remedy below it.
fn check(transcript: &str, name: &str) -> String {
    let mut lines = transcript.lines().skip_while(|line| !line.get(9..).is_some_and(|rest| rest.starts_with(name)));
    let first = lines.next().unwrap_or_else(|| panic!("no check of {name} in {transcript}"));
    let remedy = lines.next().filter(|line| line.starts_with("         ")).map(str::trim);
    let words = first.split_whitespace().collect::<Vec<_>>().join(" ");
    remedy.map_or(words.clone(), |remedy| format!("{words}; {remedy}"))
}

#[test]
fn a_machine_in_order() {
    let folder = Folder::new();
    let said = transcript(&mut doctor(&folder, &["demo"]), None);
    assert!(said.starts_with("this machine\nsystem            ") && said.ends_with("[exit 0]\n"), "{said}");
    for line in ["\nits speed\nmemory            ", "\nproducts          ", "\nchecks\n"] {
        assert!(said.contains(line), "{said}");
    }
    let kept = folder.path("xdg/mlxengine/calibration.json");
    assert_eq!(check(&said, "calibration"), format!("ok calibration measured, and kept in {}", kept.display()));
    assert_eq!(check(&said, "replay"), "ok replay 2 answers of the demo model are right, exact and fast");
    assert_eq!(check(&said, "hub"), "skipped hub the network is switched off");
    assert_eq!(
        check(&said, "token"),
        "skipped token there is none; open models need none; the network is switched off"
    );
    for (name, words) in [
        ("build", "mlxengine 0."),
        ("model  ", "ok model demo loads in"),
        ("template", "ok template chat_template.jinja makes"),
        ("tokenizer", "4 texts come back as they were"),
        ("end tokens", "<|im_end|>"),
    ] {
        assert!(check(&said, name).contains(words), "{name}: {said}");
    }
}

#[test]
fn one_document_for_a_report() {
    let folder = Folder::new();
    let json = |more: &[&str]| -> Value {
        let output = doctor(&folder, &[&["--json"], more].concat()).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let first = json(&[]);
    for key in ["ok", "build", "machine", "device", "calibration", "checks"] {
        assert!(first.get(key).is_some(), "{key}: {first}");
    }
    assert!(first["calibration"]["memory"].as_f64().unwrap() > 0.0 && first["ok"] == true);
    assert!(first["machine"]["memory"]["total"].as_u64().unwrap() > 0);
    assert_eq!(json(&[])["calibration"], first["calibration"], "it is measured once");
    assert_ne!(json(&["--calibrate"])["calibration"], first["calibration"], "and again when it is asked for");
    let kept = folder.path("xdg/mlxengine/calibration.json");
    fs::write(&kept, "broken").unwrap();
    let again = json(&[]);
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(kept).unwrap()).unwrap()[0], again["calibration"]);
}

#[test]
fn the_hub_and_who_asks() {
    let (hub, folder) = (Hub::start(), Folder::new());
    let said = transcript(&mut with(&hub, &folder, &[]), None);
    assert_eq!(check(&said, "hub"), format!("ok hub {} answers", hub.address));
    assert_eq!(check(&said, "token"), "skipped token there is none; open models need none");
    let said = transcript(with(&hub, &folder, &[]).env("HF_TOKEN", TOKEN), None);
    assert_eq!(check(&said, "token"), "ok token it belongs to ada");
    assert!(said.ends_with("[exit 0]\n") && !said.contains(TOKEN), "{said}");
    let said = transcript(with(&hub, &folder, &[]).env("HF_TOKEN", "hf_wrong"), None);
    assert!(check(&said, "hub").starts_with("ok "), "{said}");
    let token = check(&said, "token");
    assert!(token.starts_with("failed token") && token.contains("does not accept the token"), "{token}");
    assert!(token.contains("then `mlxengine login`"), "{token}");
    assert!(
        said.ends_with("! error: something is wrong with: token; see the lines marked failed\n[exit 1]\n"),
        "{said}"
    );
    assert!(!said.contains("hf_wrong"), "{said}");
    // Asked to stay offline, it asks nobody.
    hub.requests();
    let said = transcript(with(&hub, &folder, &["--offline"]).env("HF_TOKEN", "hf_wrong"), None);
    assert_eq!(check(&said, "token"), "skipped token one is set up; the network is switched off");
    assert!(said.ends_with("[exit 0]\n") && hub.requests().is_empty(), "{said}");
}

#[test]
fn a_hub_that_is_ill() {
    let (hub, folder) = (Hub::start(), Folder::new());
    let refused = |fault: Fault| {
        hub.fail(move |_, _| Some(fault.clone()));
        let said = transcript(&mut with(&hub, &folder, &[]), None);
        (check(&said, "hub"), said.ends_with("[exit 1]\n"))
    };
    let (said, wrong) = refused(Fault::Status(503, Vec::new()));
    assert!(wrong && said.contains("answered with status 503; check the network, the proxy and HF_ENDPOINT"), "{said}");
    assert!(said.ends_with("; work without it with --offline or HF_HUB_OFFLINE=1"), "{said}");
    let (said, wrong) = refused(Fault::Body("<html>".into()));
    assert!(wrong && said.contains("it is no JSON") && said.contains("is it a Hub?"), "{said}");
    let (said, wrong) = refused(Fault::Stall(0));
    assert!(wrong && said.contains("nothing came from") && said.contains("for 5 s"), "{said}");
    let (said, wrong) = refused(Fault::Status(429, Vec::new()));
    assert!(!wrong && said.starts_with("warning hub too many requests"), "{said}");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = with(&hub, &folder, &[]);
    let said = transcript(command.env("HF_ENDPOINT", format!("http://{nobody}")), None);
    assert!(check(&said, "hub").contains("cannot be reached") && said.ends_with("[exit 1]\n"), "{said}");
    assert!(check(&said, "token").starts_with("skipped"), "{said}");
}

#[test]
fn a_model_that_cannot_be_used() {
    let folder = Folder::with_demo();
    let model = |name: &str| transcript(&mut doctor(&folder, &[name]), None);
    let said = model(folder.name());
    assert!(said.ends_with("[exit 0]\n"), "{said}");
    folder.replace("chat_template.jinja", "message", "massage");
    let said = model(folder.name());
    assert!(check(&said, "template").starts_with("failed") && said.ends_with("[exit 1]\n"), "{said}");
    fs::remove_file(folder.path("chat_template.jinja")).unwrap();
    let said = model(folder.name());
    assert!(check(&said, "template").starts_with("warning template the checkpoint has none"), "{said}");
    assert!(said.ends_with("[exit 0]\n"), "{said}");
    folder.change("model.safetensors", |bytes| bytes.truncate(1000));
    let said = model(folder.name());
    assert!(check(&said, "model  ").contains("model.safetensors") && said.ends_with("[exit 1]\n"), "{said}");
    let said = model("mlx://no/where");
    assert!(check(&said, "model  ").contains("fetch it with `mlxengine pull no/where`"), "{said}");
}
