//! An answer as it comes, with its speed: `cargo run --release --example streaming`

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::io::Write;

use mlxengine::{GenerateParams, InferenceEngine, LlmEngine, Prompt};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = InferenceEngine::load("demo")?;
    let params = GenerateParams::default().with_max_tokens(200);
    let mut stream = engine.stream(Prompt::chat("Tell me a story about a fox."), &params)?;
    for step in &mut stream {
        print!("{}", step?.text);
        std::io::stdout().flush()?;
    }
    let stats = stream.stats();
    println!("\n\n{} tokens, {:.0} tokens/s", stats.generated_tokens, stats.decode_speed());
    Ok(())
}
