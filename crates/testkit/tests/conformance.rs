//! The engine against recordings of the reference implementation: those in this package always, and those in
//! `shared/conformance` beside the repository where they are.
#![allow(clippy::print_stderr, reason = "with --nocapture a test says how much it compared")]

use std::io::Write;
use std::path::Path;

use mlxengine_testkit::{Kind, Outcome, Row, Selection, Set, failures, run};

/// The recordings beside the repository, or a line that says that the test was skipped.
fn shared() -> Option<Set> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/llm");
    if dir.is_dir() {
        return Some(Set::open(&dir).unwrap());
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{} must be there in CI", dir.display());
    // Not by `eprintln!`, which the harness keeps to itself where a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: no recordings at {}", dir.display());
    None
}

/// Everything that is selected has to agree; what is not compared has to be among `excused`.
#[track_caller]
fn agree(set: &Set, selection: &Selection, excused: &[&str]) {
    let rows: Vec<Row> = set.select(selection).flat_map(run).collect();
    assert!(!rows.is_empty(), "nothing is selected by {selection:?}");
    if let Some(text) = failures(&rows) {
        panic!("{text}");
    }
    for row in &rows {
        if let Outcome::NotRun(why) = &row.outcome {
            assert!(
                excused.iter().any(|e| why.contains(e)),
                "{}/{} {} was not run: {why}",
                row.kind,
                row.case,
                row.check
            );
        }
    }
    let compared = rows.iter().filter(|r| r.outcome == Outcome::Pass).count();
    eprintln!("{compared} checks agree, {} were not run", rows.len() - compared);
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[track_caller]
fn kinds(kinds: &[Kind], excused: &[&str]) {
    let Some(set) = shared() else { return };
    let kinds = kinds.iter().map(|kind| kind.name().to_owned()).collect();
    agree(&set, &Selection { kinds, ..Default::default() }, excused);
}

#[track_caller]
fn families(kind: Kind, list: &[&str]) {
    let Some(set) = shared() else { return };
    agree(&set, &Selection { kinds: names(&[kind.name()]), families: names(list), ..Default::default() }, &[]);
}

#[test]
fn the_recordings_of_this_package() {
    let set = Set::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")).unwrap();
    agree(&set, &Selection::default(), &[]);
}

#[test]
fn llama() {
    families(Kind::Llm, &["llama", "llama-bias", "llama-swa", "mistral"]);
}

#[test]
fn qwen() {
    families(Kind::Llm, &["qwen2", "qwen2-yarn", "qwen3", "qwen3-untied"]);
}

#[test]
fn gemma() {
    families(Kind::Llm, &["gemma", "gemma2", "gemma3_text", "gemma3n", "gemma4"]);
}

#[test]
fn phi_and_smollm3() {
    families(Kind::Llm, &["phi", "phi3", "smollm3"]);
}

#[test]
fn other_attention() {
    families(Kind::Llm, &["cohere", "cohere2", "ernie4_5", "glm4", "gpt2", "hunyuan_v1_dense", "internlm3"]);
    families(Kind::Llm, &["ministral3", "nemotron", "olmo2", "starcoder2"]);
}

#[test]
fn text_models_of_wrappers() {
    families(Kind::Llm, &["llama4", "mistral3", "qwen3_vl"]);
}

#[test]
fn mixtures_of_experts() {
    families(Kind::Llm, &["gpt_oss", "mimo_v2_flash", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "step3p5"]);
}

#[test]
fn latents() {
    families(Kind::Llm, &["deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "kimi_k25", "minicpm3"]);
    families(Kind::QuantModel, &["deepseek_v3"]);
}

#[test]
fn recurrences() {
    families(Kind::Llm, &["falcon_h1", "lfm2", "mamba", "mamba2", "nemotron_h", "qwen3_5", "qwen3_next"]);
    families(Kind::QuantModel, &["qwen3_next"]);
}

#[test]
fn attention_over_blocks_and_over_depth() {
    families(Kind::Llm, &["kimi_k3", "minimax_m3_vl"]);
}

#[test]
fn quantized_llama() {
    families(Kind::QuantModel, &["llama", "llama-bias"]);
}

#[test]
fn other_quantized_models() {
    families(Kind::QuantModel, &["gemma3_text", "gpt_oss", "mixtral", "phi3", "qwen2", "qwen3", "qwen3_moe"]);
}

#[test]
fn quantized_operations() {
    kinds(&[Kind::QuantOps, Kind::GatherQmm], &[]);
}

#[test]
fn caches() {
    kinds(&[Kind::KvCache, Kind::KvCacheDirect, Kind::PromptCacheFile], &[]);
}

#[test]
fn adapters() {
    kinds(&[Kind::Adapter, Kind::AdapterPeft], &[]);
}

#[test]
fn perplexity() {
    kinds(&[Kind::Perplexity], &[]);
}

#[test]
fn samplers() {
    kinds(&[Kind::Samplers], &[]);
}

#[test]
fn speculative() {
    kinds(&[Kind::Speculative], &[]);
}

#[test]
fn tokenizers_and_templates() {
    kinds(&[Kind::Tokenizer, Kind::ChatTemplate, Kind::ChatTemplateWrapper], &[]);
}

#[test]
fn what_cannot_be_done_yet_says_so() {
    let Some(set) = shared() else { return };
    let case = set.cases.iter().find(|case| case.kind == Kind::Training).unwrap();
    assert!(matches!(&run(case)[..], [Row { outcome: Outcome::NotRun(_), .. }]));
}

#[test]
fn a_folder_without_an_index_is_searched() {
    let set = Set::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/models")).unwrap();
    assert!(set.cases.len() >= 2 && set.cases.iter().all(|case| case.kind == Kind::Llm));
    let one = Selection { names: names(&["/gemma"]), ..Default::default() };
    assert_eq!(set.select(&one).map(|case| case.id.as_str()).collect::<Vec<_>>(), ["gemma2"]);
}
