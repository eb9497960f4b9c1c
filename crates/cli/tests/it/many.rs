//! Transcripts of `mlxengine generate --prompts`, of drafts, and of evaluations.

use crate::common::{Folder, mlxengine, run};
use serde_json::Value;

const ROWS: &str = r#"{"prompt": "What is the capital of France?"}
{"id": "japan", "messages": [{"role": "user", "content": "What is the capital of Japan?"}], "logprobs": 1}

{"prompt": "Hi!", "temprature": 0.5}
{"id": 7, "prompt": "Count from one to five.", "max_tokens": 3, "temperature": 0.5, "seed": 1}
"#;

fn answers(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A run without its last words, which are times.
fn said(arguments: &[&str]) -> String {
    let said = run(arguments);
    match said.split_once(" tokens at ") {
        Some((before, _)) => before.rsplit_once(" · ").map_or(before, |(before, _)| before).to_owned(),
        None => said,
    }
}

#[test]
fn rows_are_answered_once() {
    let folder = Folder::new();
    let [prompts, output] = ["in.jsonl", "out.jsonl"].map(|name| folder.path(name).to_str().unwrap().to_owned());
    std::fs::write(&prompts, ROWS).unwrap();
    let arguments =
        ["generate", "demo", "--prompts", &prompts, "--output", &output, "--batch-size", "2", "--max-tokens", "20"];
    assert_eq!(said(&arguments), "! 3 of 4 rows answered · 1 failed, as their rows say");
    let text = std::fs::read_to_string(&output).unwrap();
    let mut rows = answers(&text);
    rows.sort_by_key(|row| row["line"].as_u64());
    assert_eq!(rows.iter().map(|row| row["line"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 4, 5]);
    assert_eq!(rows[0]["text"], "The capital of France is Paris.");
    assert_eq!((&rows[0]["finish_reason"], &rows[0]["completion_tokens"]), (&"stop".into(), &8.into()));
    assert_eq!(rows[1]["id"], "japan");
    assert_eq!(rows[1]["tokens"].as_array().unwrap().len() as u64, rows[1]["completion_tokens"].as_u64().unwrap());
    assert_eq!(rows[2]["error"]["message"], "the key `temprature` is not known");
    assert_eq!((&rows[3]["finish_reason"], &rows[3]["seed"]), (&"length".into(), &1.into()));

    // Nothing is left to do; then the last answer was cut while it was written.
    assert_eq!(run(&arguments), "! 4 of 4 rows answered, 4 of them before\n[exit 0]\n");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), text);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let cut = format!("{}{}", lines[..3].concat(), &lines[3][..20]);
    std::fs::write(&output, &cut).unwrap();
    run(&arguments);
    let again = std::fs::read_to_string(&output).unwrap();
    let texts = |text: &str| answers(text).iter().map(|row| row["text"].clone()).collect::<Vec<_>>();
    assert_eq!(texts(&again), texts(&text));
}

#[test]
fn answers_of_other_prompts_are_not_taken() {
    let folder = Folder::new();
    let [prompts, output] = ["in.jsonl", "out.jsonl"].map(|name| folder.path(name).to_str().unwrap().to_owned());
    let arguments = ["generate", "demo", "--prompts", &prompts, "--output", &output, "-m", "2"];
    std::fs::write(&prompts, "{\"prompt\": \"Hi!\"}\n").unwrap();
    run(&arguments);
    std::fs::write(&prompts, "{\"prompt\": \"Hello!\"}\n").unwrap();
    assert!(run(&arguments).contains("has an answer for row 1, and to something else than line 1 asks now"));
    std::fs::write(&output, "{\"a\": 1}\n").unwrap();
    assert!(run(&arguments).contains("is no answer of this program; give another file for the answers"));
    let same = ["generate", "demo", "--prompts", &prompts, "--output", &prompts];
    assert!(run(&same).contains("the answers would be written into the file of the prompts"));
    assert!(run(&["generate", "demo", "--prompts", "no-such-file", "--output", &output]).contains("cannot read"));
    assert!(run(&["generate", "demo", "--prompts", &prompts]).contains("--output <FILE>"));
}

#[test]
fn drafts_say_what_they_were_worth() {
    let plain = run(&["run", "demo", "Tell me a story about a fox."]);
    for draft in
        [&["--draft-model", "demo"][..], &["--prompt-lookup"], &["--prompt-lookup=2", "--num-draft-tokens", "2"]]
    {
        let arguments = [&["run", "demo", "Tell me a story about a fox.", "--verbose"], draft].concat();
        let said = run(&arguments);
        assert_eq!(said.lines().next(), plain.lines().next(), "{draft:?}");
        assert!(said.contains("drafted tokens accepted (") && said.contains(" tokens a pass"), "{said}");
    }
    let output = mlxengine(&["run", "demo", "Count from one to five.", "--json", "--draft-model", "demo"]).output();
    let object: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    assert_eq!(object["draft"]["drafted_tokens"], object["draft"]["accepted_tokens"]);
    assert!(object["draft"]["tokens_per_pass"].as_f64().unwrap() > 1.5);
    assert!(run(&["run", "demo", "Hi!", "--num-draft-tokens", "2"]).contains("nothing drafts; add --draft-model"));
    let many = run(&["run", "demo", "Hi!", "--draft-model", "demo", "--num-draft-tokens", "9"]);
    assert!(many.contains("! --num-draft-tokens: 3 at a time"), "{many}");
}

#[test]
fn texts_are_measured() {
    let folder = Folder::new();
    let [text, data, questions] =
        ["a.txt", "a.jsonl", "q.jsonl"].map(|name| folder.path(name).to_str().unwrap().to_owned());
    std::fs::write(&text, "The capital of France is Paris. ".repeat(9)).unwrap();
    let short = ["--sequence-length", "16", "--precision", "exact"];
    let said = run(&[&["perplexity", "demo", "--text", &text], &short[..]].concat());
    assert!(said.starts_with("perplexity ") && said.contains(" tokens in 4 samples of 16\n[exit 0]"), "{said}");
    std::fs::write(&data, "{\"prompt\": \"Hi!\", \"completion\": \"Hello! How can I help you?\"}\n".repeat(3)).unwrap();
    let output =
        mlxengine(&[&["perplexity", "demo", "--data", &data, "--json"], &short[..]].concat()).output().unwrap();
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(object["perplexity"].as_f64().unwrap() > 1.0 && object["standard_error"].as_f64().unwrap() > 0.0);
    assert!(run(&["perplexity", "demo", "--text", &text]).contains("give a longer text, or take shorter samples"));

    let row = r#"{"context": "What is the capital of France?", "choices": ["The capital of France is Rome.", "The capital of France is Paris."], "answer": 1}"#;
    std::fs::write(&questions, format!("{row}\n")).unwrap();
    let said = run(&["evaluate", "demo", "--data", &questions]);
    assert_eq!(said, "acc 1.0000 ± 0.0000 · acc_norm 1.0000 ± 0.0000 · 1 questions\n[exit 0]\n");
    let output = mlxengine(&["evaluate", "demo", "--data", &questions, "--json"]).output().unwrap();
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["questions"][0]["likelihoods"][1]["greedy"], true);
    std::fs::write(&questions, "{\"context\": \"a\", \"choises\": []}\n").unwrap();
    assert!(run(&["evaluate", "demo", "--data", &questions]).contains("line 1 of "));
}
