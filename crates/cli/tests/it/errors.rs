//! What goes wrong, told in one sentence: never a panic, never a partial answer on standard output.

use std::fs;

use crate::common::{Folder, mlxengine, run, transcript};

/// The transcript of a question to a damaged copy of the demo model, its folder written as `M`.
fn ask(folder: &Folder) -> String {
    let said = run(&["run", folder.name(), "hi"]);
    assert_eq!(said, run(&["run", folder.name(), "hi", "--json"]), "the same in JSON");
    said.replace(folder.name(), "M")
}

#[test]
fn a_model_that_is_not_there() {
    assert_eq!(
        run(&["run", "nowhere", "hi"]),
        "! error: there is no model at nowhere: give the directory of a checkpoint\n[exit 1]\n"
    );
    let want = "! error: the model no/where is not on this machine (looked in no-such-cache); \
        fetch it with `mlxengine pull no/where`, or give its directory\n[exit 1]\n";
    assert_eq!(run(&["run", "no/where", "hi"]), want);
    assert_eq!(run(&["run", "mlx://no/where", "hi"]), want);
    let folder = Folder::new();
    fs::write(folder.path("file"), "").unwrap();
    let file = folder.path("file");
    let said = run(&["show", file.to_str().unwrap()]);
    assert!(said.contains("file is a file: give the directory of a checkpoint\n[exit 1]"), "{said}");
    assert!(ask(&folder).starts_with("! error: M has no config.json"), "{}", ask(&folder));
}

#[test]
fn models_are_found_by_name() {
    let folder = Folder::with_demo();
    let (models, own) = (Folder::new(), folder.path(""));
    fs::create_dir_all(models.path("org")).unwrap();
    fs::rename(own, models.path("org/name")).unwrap();
    let mut command = mlxengine(&["run", "mlx://org/name", "What is the capital of France?"]);
    assert!(transcript(command.env("MLXENGINE_MODELS", models.name()), None).contains("Paris"));
}

#[test]
fn damaged_weights() {
    let folder = Folder::with_demo();
    folder.change("model.safetensors", |bytes| bytes.truncate(1_000_000));
    let want = "! error: cannot read M/model.safetensors: the header's tensors do not fill the file of 1000000 bytes: \
        it is cut short or damaged; download it again\n[exit 1]\n";
    assert_eq!(ask(&folder), want);
    folder.change("model.safetensors", |bytes| bytes.truncate(3));
    assert!(ask(&folder).contains("too few for a safetensors header"));

    let lying = Folder::with_demo();
    lying.change("model.safetensors", |bytes| bytes[..8].copy_from_slice(&i64::MAX.to_le_bytes()));
    assert!(ask(&lying).contains("no whole safetensors file; download it again\n[exit 1]"), "{}", ask(&lying));
    fs::remove_file(lying.path("model.safetensors")).unwrap();
    assert!(ask(&lying).starts_with("! error: M has no *.safetensors"), "{}", ask(&lying));
}

#[test]
fn a_configuration_that_does_not_fit() {
    let folder = Folder::with_demo();
    folder.replace("config.json", "\"hidden_size\": 256", "\"hidden_size\": 512");
    let said = ask(&folder);
    let want = "! error: M: tensor `model.norm.weight` is BF16[256], but config.json asks for floats [512]: they do not belong together\n[exit 1]\n";
    assert_eq!(said, want);
    folder.replace("config.json", "\"model_type\": \"qwen3\"", "\"model_type\": \"qwen9\"");
    assert!(
        ask(&folder)
            .starts_with("! error: model type `qwen9` is not supported; the nearest that is supported is `qwen")
    );
    fs::write(folder.path("config.json"), "{").unwrap();
    assert!(ask(&folder).starts_with("! error: M: config.json is not valid JSON"));
}

#[test]
fn a_context_that_does_not_fit() {
    let asked = ["run", "demo", "hi", "--context", "999999999999"];
    let want = "! error: a context of 999999999999 tokens was asked for, and the model was made for 1024; ask for at most 1024\n[exit 1]\n";
    assert_eq!(run(&asked), want);
    let folder = Folder::with_demo();
    folder.replace(
        "config.json",
        "\"max_position_embeddings\": 1024",
        "\"max_position_embeddings\": 9223372036854775807",
    );
    let said = run(&["run", folder.name(), "hi", "--context", "1000000000000"]);
    assert!(said.contains("! error: a context of 1000000000000 tokens needs 3072 TB"), "{said}");
    assert!(said.contains("overcommit loads it anyway"), "{said}");
    // A limit that nobody asked for is no reason to refuse.
    assert_eq!(
        run(&["run", folder.name(), "What is the capital of France?"]),
        "The capital of France is Paris.\n[exit 0]\n"
    );
}

#[test]
fn text_files() {
    let folder = Folder::with_demo();
    fs::write(folder.path("chat_template.jinja"), "{{ raise_exception('turns must alternate') }}").unwrap();
    assert_eq!(ask(&folder), "! error: the chat template refuses the conversation: turns must alternate\n[exit 1]\n");
    fs::write(folder.path("chat_template.jinja"), "{% for x in %}").unwrap();
    assert!(ask(&folder).contains("the chat template does not compile in line 1"));
    fs::remove_file(folder.path("chat_template.jinja")).unwrap();
    let want =
        "! error: the model M has no chat template: it continues text; use `mlxengine run --raw M PROMPT`\n[exit 1]\n";
    assert_eq!(ask(&folder), want);
    fs::remove_file(folder.path("tokenizer.json")).unwrap();
    assert!(ask(&folder).starts_with("! error: M: the checkpoint has no tokenizer.json; "));
}

#[test]
fn prompts_that_cannot_be_used() {
    let long = "word ".repeat(3000);
    let said = transcript(&mut mlxengine(&["run", "demo"]), Some(&long));
    assert!(said.starts_with("! error: the prompt has 30") && said.ends_with("[exit 1]\n"), "{said}");
    assert_eq!(said, transcript(&mut mlxengine(&["run", "demo", "--json"]), Some(&long)));
    let want = "! error: no prompt was given; write it after the model's name, or pipe it in\n[exit 1]\n";
    assert_eq!(run(&["run", "demo"]), want);
    assert_eq!(run(&["run", "demo", " "]), want);
}

#[test]
fn bad_arguments_are_named() {
    for (arguments, named) in [
        (["--max-tokens", "0"], "'--max-tokens <N>': must be a whole number of 1 or more"),
        (["--temp", "nan"], "'--temp <T>': must be a number of 0 or more"),
        (["--temp", "-1"], "'--temp <T>': must be a number of 0 or more"),
        (["--top-p", "1.5"], "'--top-p <P>': must be a number from 0 to 1"),
        (["--threads", "0"], "'--threads <N>': must be a whole number from 1 to 1024"),
        (["--isa", "sse9"], "'--isa <NAME>'"),
        (["--kv-bits", "7"], "'--kv-bits <N>'"),
        (["--kv-group-size", "32"], "--kv-bits"),
        (["--max-kv-size", "4"], "'--max-kv-size <N>': must be a whole number of 5 or more"),
        (["--logit-bias", "x"], "'--logit-bias <ID=BIAS>'"),
        (["--chat-template-arg", "name=Ada"], "`Ada` is not JSON"),
        (["--logprobs", "2"], "--json"),
        (["--stop", ""], "'--stop <TEXT>': must not be empty"),
    ] {
        let said = run(&[&["run", "demo", "hi"], &arguments[..]].concat());
        assert!(
            said.starts_with("! error: ") && said.contains(named) && said.ends_with("[exit 2]\n"),
            "{arguments:?}: {said}"
        );
    }
    let said = run(&["run", "demo", "hi", "--logit-bias", "4096=1"]);
    assert_eq!(said, "! error: logit_bias names token 4096, and the model has 4096 tokens\n[exit 1]\n");
}

#[test]
fn bad_variables_are_named() {
    for (name, value, want) in [
        ("MLXENGINE_THREADS", "many", "a number from 1 to 1024"),
        ("MLXENGINE_ISA", "sse9", "one of portable"),
        ("LLM_CHAT_API_URL", "https://example.org", "the address of a model here"),
    ] {
        let said = transcript(mlxengine(&["chat"]).env(name, value), Some("hi"));
        assert!(said.starts_with(&format!("! error: the variable {name} is `{value}`, and must be {want}")), "{said}");
        assert!(said.ends_with("change or unset it\n[exit 1]\n"), "{said}");
    }
}

#[test]
fn without_a_terminal_nothing_is_guessed() {
    assert!(run(&[]).contains("no command is given") && run(&[]).ends_with("[exit 2]\n"));
    assert!(run(&["chat", "demo"]).starts_with("! error: no prompt was given: standard input is empty"));
}
