//! Transcripts of answers that are held to something: schemas, patterns, grammars, tools, and thoughts with an end.

use std::fs;

use serde_json::{Value, json};

use crate::common::{Folder, mlxengine, run};

const PARIS: &str = "What is the capital of France?";

/// The transcript of a question under options.
fn ask(options: &[&str]) -> String {
    run(&[&["run", "demo", PARIS][..], options].concat())
}

/// The answer under options, and nothing else.
#[track_caller]
fn answer(options: &[&str]) -> String {
    let said = ask(options);
    said.strip_suffix("\n[exit 0]\n").unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn answers_are_held_to_what_was_asked_for() {
    let schema = r#"{"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}, "size": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "size"], "additionalProperties": false}"#;
    let value: Value = serde_json::from_str(&answer(&["--json-schema", schema])).unwrap();
    assert!(value["city"] == "Paris" || value["city"] == "Rome", "{value}");
    assert!((1..=9).contains(&value["size"].as_i64().unwrap()), "{value}");
    let folder = Folder::new();
    fs::write(folder.path("schema.json"), schema).unwrap();
    let file = folder.path("schema.json");
    assert_eq!(answer(&["--json-schema", file.to_str().unwrap()]), answer(&["--json-schema", schema]));
    assert!(["Rome!", "Paris!"].contains(&answer(&["--regex", "(Rome|Paris)!"]).as_str()));
    fs::write(folder.path("grammar.lark"), "start: \"It is \" CITY \".\"\nCITY: /Rome|Paris/\n").unwrap();
    let grammar = folder.path("grammar.lark");
    let said = answer(&["--grammar", grammar.to_str().unwrap()]);
    assert!(said == "It is Paris." || said == "It is Rome.", "{said}");
    assert!(answer(&["--json-object", "-m", "5"]).starts_with('{'));
}

#[test]
fn what_cannot_be_enforced_is_said() {
    for (options, want) in [
        (
            &["--json-schema", r#"{"type": "string", "format": "no"}"#][..],
            "! error: the JSON schema cannot be enforced: ",
        ),
        (&["--regex", "("], "! error: the regular expression cannot be enforced: "),
        (&["--json-schema", "{"], "! error: invalid value '{' for '--json-schema"),
        (&["--grammar", "nowhere.lark"], "! error: invalid value 'nowhere.lark' for '--grammar"),
        (&["--regex", "a", "--json-object"], "! error: the argument '--regex"),
        (&["--tool-choice", "auto"], "! error: the following required arguments were not provided"),
    ] {
        let said = ask(options);
        assert!(said.contains(want) && !said.contains("[exit 0]"), "{options:?}: {said}");
        // Nothing of an answer.
        assert!(said.starts_with("! "), "{options:?}: {said}");
    }
    let folder = Folder::new();
    fs::write(folder.path("grammar.lark"), "start: nothing").unwrap();
    let grammar = folder.path("grammar.lark");
    assert!(ask(&["--grammar", grammar.to_str().unwrap()]).contains("! error: the grammar cannot be enforced: "));
}

fn tools(schema: Value) -> String {
    json!([{"type": "function", "function": {"name": "capital", "description": "Looks it up.", "parameters": schema}}])
        .to_string()
}

#[test]
fn calls_are_held_to_their_tools() {
    let tools = tools(json!({"type": "object", "required": ["country"], "additionalProperties": false,
        "properties": {"country": {"enum": ["France", "Italy"]}}}));
    for choice in ["required", "capital"] {
        let said = answer(&["--tools", &tools, "--tool-choice", choice, "-m", "60"]);
        for line in said.lines() {
            let call: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {said}"));
            assert_eq!(call["name"], "capital");
            let country = &call["arguments"]["country"];
            assert!(country == "France" || country == "Italy", "{call}");
            if choice == "required" {
                break;
            }
        }
    }
    let error = "! error: there is no tool called city to call\n[exit 1]\n";
    assert_eq!(ask(&["--tools", &tools, "--tool-choice", "city"]), error);
    let said = ask(&["--tools", "[]", "--tool-choice", "required"]);
    assert!(said.starts_with("! error: there is no tool to call"), "{said}");
}

/// A copy of the demo model whose template shows calls in tags.
fn in_tags() -> Folder {
    let folder = Folder::with_demo();
    folder.change("chat_template.jinja", |bytes| {
        let text = "{# <tool_call> <function=NAME> <parameter=KEY> #}";
        bytes.splice(0..0, text.bytes());
    });
    folder.replace("tokenizer_config.json", "\"tool_parser_type\": \"json_tools\"", "\"tool_parser_type\": null");
    folder
}

#[test]
fn formats_that_cannot_carry_a_schema_say_so() {
    let folder = in_tags();
    let ask = |schema: Value| {
        run(&["run", folder.name(), PARIS, "--tools", &tools(schema), "--tool-choice", "capital", "-m", "80"])
    };
    let said = ask(json!({"type": "object", "properties": {"a": {"not": {}}}}));
    let want = "! error: calls of capital in the format qwen3_coder cannot be constrained: `not` of `a` has no grammar in this format; \
        change the tool's parameters, or let the model call without constraint\n[exit 1]\n";
    assert_eq!(said, want);
    let said = ask(json!({"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"]}));
    assert!(said.contains(r#""name":"capital","arguments":{"a":"x"}"#), "{said}");
}

#[test]
fn a_checkpoint_says_how_it_writes_calls() {
    let folder = in_tags();
    let explained = |what: &str| {
        let said = run(&["explain", folder.name(), "Hi"]);
        said.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    assert!(explained("calls written as").ends_with("qwen3_coder; their arguments can be constrained"));
    folder.replace("tokenizer_config.json", "\"tool_parser_type\": null", "\"tool_parser_type\": \"pythonic\"");
    let told = "pythonic, as tokenizer_config.json says; their arguments can be constrained";
    assert!(explained("calls written as").ends_with(told), "{}", explained("calls written as"));
    folder.replace("tokenizer_config.json", "\"pythonic\"", "\"nobody\"");
    let told = "qwen3_coder, from the template, for tokenizer_config.json says \"nobody\", which is not known; \
        their arguments can be constrained";
    assert!(explained("calls written as").ends_with(told), "{}", explained("calls written as"));
    let tools = tools(json!({"type": "object", "properties": {}}));
    let said = run(&["run", folder.name(), PARIS, "--tools", &tools, "-m", "1"]);
    let note = "! --tools: tool_parser_type \"nobody\" of tokenizer_config.json is not known; going by the template, calls \
        are read as qwen3_coder\n";
    assert!(said.contains(note), "{said}");
}

#[test]
fn thoughts_may_have_an_end() {
    let think = |options: &[&str]| -> Value {
        let arguments = [&["run", "demo", PARIS, "--think", "on", "--json", "-m", "40"][..], options].concat();
        let output = mlxengine(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let free = think(&[]);
    for budget in ["0", "3"] {
        let bounded = think(&["--thinking-budget", budget]);
        let thoughts = bounded["reasoning"].as_str().unwrap_or_default();
        assert!(free["reasoning"].as_str().unwrap_or_default().starts_with(thoughts), "{free} {bounded}");
        assert!(thoughts.split_whitespace().count() <= 3, "{bounded}");
    }
    let grammar = think(&["--thinking-budget", "2", "--regex", "(yes|no)"]);
    assert!(grammar["text"] == "yes" || grammar["text"] == "no", "{grammar}");
    let drafted = think(&["--thinking-budget", "2", "--prompt-lookup"]);
    assert_eq!(drafted["text"], think(&["--thinking-budget", "2"])["text"]);
    let folder = Folder::with_demo();
    let plain = "{% for m in messages %}{{ m.content }}{% endfor %}";
    fs::write(folder.path("chat_template.jinja"), plain).unwrap();
    folder.change("tokenizer.json", |bytes| {
        let text = String::from_utf8(std::mem::take(bytes)).unwrap();
        *bytes = text.replace("think>", "thonk>").into_bytes();
    });
    let said = run(&["run", folder.name(), PARIS, "--thinking-budget", "2"]);
    let want = "! error: thoughts cannot be bounded: the model's chat template and vocabulary have no markers of thoughts; \
        leave the thinking budget out\n[exit 1]\n";
    assert_eq!(said, want);
    let said = run(&["run", folder.name(), PARIS, "--think", "on", "-m", "1"]);
    assert!(
        said.contains("! --think: no effect, for the model's chat template has no switch for thinking\n"),
        "{said}"
    );
}
