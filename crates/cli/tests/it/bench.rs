//! Transcripts of `mlxengine bench`: what is measured, never how fast it was.

use crate::common::{mlxengine, run};
use serde_json::Value;

/// The objects that a benchmark of the demo model prints.
fn objects(arguments: &[&str]) -> Vec<Value> {
    let output = mlxengine(&[&["bench", "--model", "demo", "--json", "-r", "2"], arguments].concat()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_combination_is_a_line() {
    let objects = objects(&["-p", "8,16", "-n", "4,0", "-pg", "8,4", "-d", "0,32", "-t", "1,2", "-b", "1,3"]);
    let metric = |o: &Value| format!("{} {}", o["metric"].as_str().unwrap(), o["threads"]);
    let metrics: Vec<String> = objects.iter().map(metric).collect();
    let want = |threads: usize| {
        let names = ["pp8", "pp16", "tg4", "tg4b3", "pp8+tg4", "pp8@32", "pp16@32", "tg4@32", "tg4b3@32", "pp8+tg4@32"];
        names.map(|name| format!("{name} {threads}"))
    };
    assert_eq!(metrics, [want(1), want(2)].concat());
    for object in &objects {
        assert!(object["tok_s"].as_f64().unwrap() > 0.0 && object["memory_gb_s"].as_f64().unwrap() > 0.0, "{object}");
        assert_eq!(object["samples"].as_array().unwrap().len(), 2);
        assert_eq!(object["read_gb_s"].is_f64(), object["prompt"] == 0, "{object}");
        assert!(object["int8_gop_s"].is_null() || object["int8_gop_s"].as_f64().unwrap() > 0.0, "{object}");
        assert!(object["load_ms"].is_f64() && object["first_token_ms"].is_f64());
        assert_eq!((&object["precision"], &object["weight_bytes"]), (&"fast".into(), &3_612_672.into()));
    }
}

#[test]
fn single_numbers_as_another_script_gives_them() {
    let objects = objects(&["-t", "2", "-p", "0", "-n", "3", "-d", "5", "--precision", "exact", "--kv-bits", "8"]);
    assert_eq!(objects.len(), 1);
    assert_eq!((&objects[0]["metric"], &objects[0]["precision"]), (&"tg3@5".into(), &"exact".into()));
}

#[test]
fn the_table_has_a_row_for_each_test() {
    let said = run(&["bench", "-m", "demo", "-p", "8", "-n", "2", "-r", "1", "--threads", "1"]);
    let lines: Vec<&str> = said.lines().collect();
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(cells(lines[0])[1..=6], ["model", "size", "params", "precision", "threads", "test"]);
    assert_eq!(cells(lines[2])[1..=6], ["demo", "3.61 MB", "5.8 M", "fast", "1", "pp8"]);
    assert_eq!(cells(lines[3])[6], "tg2");
    assert!(cells(lines[2])[8] == "–" && cells(lines[3])[8].ends_with("B/s"), "{said}");
    let widths: Vec<usize> = lines[..4].iter().map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "{said}");
    for fact in ["weights: 4-bit affine group 32", "/s on 1 thread\n", "ms after the program's start\n"] {
        assert!(said.contains(fact), "{said}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let bench = |arguments: &[&str]| run(&[&["bench", "-m", "demo"], arguments].concat());
    let want = "! error: there is nothing to measure: -p and -n are 0; give one of them a number\n[exit 1]\n";
    assert_eq!(bench(&["-p", "0", "-n", "0"]), want);
    let want = "! error: pp512@1000 needs a context of 1512 tokens, and there are 1024; \
        take a shorter prompt or answer, or less depth\n[exit 1]\n";
    assert_eq!(bench(&["-d", "1000"]), want);
    let want = "! error: tg128@20 needs a context of 148 tokens, and there are 100; \
        take a shorter prompt or answer, or less depth\n[exit 1]\n";
    assert_eq!(bench(&["-p", "0", "-d", "20", "--context", "100"]), want);
    for (arguments, named) in [
        (["-p", "many"], "must be whole numbers, as in 512 or 0,4096"),
        (["-pg", "512"], "'--pg <P,N>': must be two whole numbers"),
        (["-r", "0"], "must be a whole number of 1 or more"),
        (["-t", "0"], "must be a whole number from 1 to 1024"),
        (["-b", "0"], "must be a whole number of 1 or more"),
    ] {
        let said = bench(&arguments);
        assert!(said.contains(named) && said.ends_with("[exit 2]\n"), "{arguments:?}: {said}");
    }
    assert!(bench(&["-t", "1", "--threads", "2"]).contains("cannot be used with"));
    assert!(run(&["bench"]).contains("--model <MODEL>"));
}
