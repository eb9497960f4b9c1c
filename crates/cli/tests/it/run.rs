//! Transcripts of `mlxengine run`, and of `chat` where nobody types.

use crate::common::{mlxengine, run, transcript};
use serde_json::Value;

const FRANCE: &str = "What is the capital of France?";
const PARIS: &str = "The capital of France is Paris.\n[exit 0]\n";

#[test]
fn it_answers() {
    assert_eq!(run(&["run", "demo", FRANCE]), PARIS);
    // The same by other names, words unquoted.
    assert_eq!(run(&["generate", "mlx://demo", "What", "is", "the", "capital", "of", "France?"]), PARIS);
}

#[test]
fn the_prompt_may_be_piped() {
    assert_eq!(transcript(&mut mlxengine(&["run", "demo"]), Some(&format!("{FRANCE}\n"))), PARIS);
    assert_eq!(transcript(&mut mlxengine(&["run", "demo", "What is the capital of"]), Some("France?\n")), PARIS);
    assert_eq!(transcript(&mut mlxengine(&["chat", "demo", "--defaults", "greedy"]), Some(FRANCE)), PARIS);
    let mut from_environment = mlxengine(&["chat", "--temp", "0"]);
    assert_eq!(transcript(from_environment.env("LLM_CHAT_API_URL", "mlx://demo"), Some(FRANCE)), PARIS);
}

#[test]
fn verbose_says_how_it_went() {
    let want = "The capital of France is Paris.\n\
        ! 15 prompt tokens (0 cached + 15 read) · first token after … ms · 8 tokens at … tokens/s\n[exit 0]\n";
    assert_eq!(run(&["run", "demo", FRANCE, "--verbose"]), want);
}

#[test]
fn json_is_one_object() {
    let output = mlxengine(&["run", "demo", FRANCE, "--json", "--logprobs", "2"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["text"], "The capital of France is Paris.");
    assert_eq!(object["model"], "demo");
    assert_eq!(object["finish_reason"], "stop");
    assert_eq!([&object["prompt_tokens"], &object["cached_tokens"], &object["completion_tokens"]], [15, 0, 8]);
    assert!(object["time_to_first_token_ms"].as_f64().unwrap() > 0.0);
    assert!(object["tokens_per_second"].as_f64().unwrap() > 0.0);
    let tokens = object["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 8);
    for token in tokens {
        assert_eq!(token["id"], token["top_logprobs"][0]["id"], "greedy takes the likeliest");
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
    }
}

#[test]
fn parameters_are_obeyed() {
    assert_eq!(run(&["run", "demo", FRANCE, "-m", "3"]), "The capital of\n[exit 0]\n");
    assert_eq!(run(&["run", "demo", FRANCE, "--stop", " is"]), "The capital of France\n[exit 0]\n");
    assert_eq!(run(&["run", "demo", FRANCE, "--isa", "portable", "--threads", "1"]), PARIS);
    assert_eq!(run(&["run", "demo", FRANCE, "--kv-bits", "8", "--quantized-kv-start", "0"]), PARIS);
    assert_eq!(run(&["run", "demo", FRANCE, "--prefill-step-size", "4", "--context", "64"]), PARIS);
    let drawn = ["run", "demo", "Tell me a story.", "--temp", "1.5", "-m", "20", "--seed"];
    let seeded = |seed: &str| run(&[&drawn[..], &[seed]].concat());
    assert_eq!(seeded("7"), seeded("7"));
    assert_ne!(seeded("7"), seeded("8"));
}

#[test]
fn nothing_is_silently_ignored() {
    let want = "The capital\n! --top-p, --top-k: no effect, for at temperature 0 the likeliest token is taken; add --temp\n[exit 0]\n";
    assert_eq!(run(&["run", "demo", FRANCE, "-m", "2", "--top-p", "0.5", "--top-k", "3"]), want);
    let said = run(&["run", "demo", FRANCE, "--ignore-eos", "--context", "40"]);
    assert!(
        said.ends_with("! the answer was cut: prompt and answer together reached the context of 40 tokens\n[exit 0]\n"),
        "{said}"
    );
}

#[test]
fn raw_text_is_continued() {
    let said = run(&[
        "run",
        "demo",
        "--raw",
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    ]);
    assert_eq!(said, PARIS);
}

#[test]
fn it_says_what_it_is() {
    let said = run(&["--version", "--isa", "portable", "--threads", "1"]);
    assert!(said.starts_with(&format!("mlxengine {}\n", env!("CARGO_PKG_VERSION"))), "{said}");
    assert!(said.contains("instruction set: portable") && said.contains("threads: 1\n"), "{said}");
    let families = run(&["families"]);
    assert!(families.contains("qwen3_moe") && families.contains("llama, mistral"), "{families}");
    let output = mlxengine(&["families", "--json"]).output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(list.as_array().unwrap().iter().any(|f| f["model_types"].as_array().unwrap().contains(&"mistral".into())));
    assert!(list.as_array().unwrap().iter().all(|f| f["cases"].as_u64().unwrap() > 0), "{list}");
    assert!(run(&["completions", "bash"]).contains("--max-tokens"));
    assert!(run(&["--help"]).contains("MLXENGINE_THREADS"));
}

#[test]
fn show_tells_what_a_checkpoint_is() {
    let said = run(&["show", "demo"]);
    for fact in [
        "  family           qwen3 (model_type qwen3), a language model\n",
        "  parameters       5.77 million\n",
        "4-bit affine group 32\n",
        "  context          1024 tokens\n",
        "  vocabulary       4096 tokens\n",
        "  layers           6 of size 256\n",
        "weights 3.61 MB, cache 3.15 MB",
        "  chat template    chat_template.jinja\n",
        "  end tokens       4089 <|im_end|> (generation_config.json eos_token_id",
        "  sampling         temperature 0.5, top_p 0.9, top_k 20\n",
        "  licence          cc0-1.0\n",
        "  ignored tensors  none\n[exit 0]\n",
    ] {
        assert!(said.contains(fact), "{fact}\nis not in\n{said}");
    }
    let output = mlxengine(&["show", "demo", "--json"]).output().unwrap();
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["default_params"]["temperature"].to_string(), "0.5");
    assert_eq!((&object["family"], &object["layers"]), (&"qwen3".into(), &6.into()));
    assert!(object["memory_available"].is_u64() && object["features"].as_array().unwrap().contains(&"chat".into()));
}
