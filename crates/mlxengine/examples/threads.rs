//! One engine, many threads: the weights are there once. `cargo run --release --example threads`

#![allow(clippy::print_stdout, reason = "an example prints")]

use mlxengine::{GenerateParams, InferenceEngine, LlmEngine, Prompt};

fn main() -> mlxengine::Result<()> {
    let engine = InferenceEngine::load("demo")?;
    let countries = ["France", "Italy", "Japan", "Peru", "Kenya", "Norway"];
    std::thread::scope(|scope| {
        let ask = |country: &'static str| {
            let engine = engine.clone();
            scope.spawn(move || {
                engine.generate(Prompt::chat(format!("What is the capital of {country}?")), &GenerateParams::default())
            })
        };
        let answers: Vec<_> = countries.map(ask).into_iter().collect();
        for answer in answers {
            println!("{}", answer.join().expect("no thread panics")?.text);
        }
        Ok(())
    })
}
