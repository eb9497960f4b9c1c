//! One question, one answer: `cargo run --release --example oneshot -- "What is the capital of Peru?"`

#![allow(clippy::print_stdout, reason = "an example prints")]

use mlxengine::{GenerateParams, InferenceEngine, LlmEngine, Prompt};

fn main() -> mlxengine::Result<()> {
    let question = std::env::args().nth(1).unwrap_or_else(|| "What is the capital of France?".to_owned());
    let engine = InferenceEngine::load("demo")?;
    let answer = engine.generate(Prompt::chat(question), &GenerateParams::default())?;
    println!("{}", answer.text);
    Ok(())
}
