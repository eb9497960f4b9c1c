//! A sampler of one's own: a closure that sees the tokens so far and may change every logit. This one never says the same
//! token twice in a row. `cargo run --release --example sampler`

#![allow(clippy::print_stdout, reason = "an example prints")]

use mlxengine::{GenerateParams, InferenceEngine, LlmEngine, Prompt};

fn main() -> mlxengine::Result<()> {
    let engine = InferenceEngine::load("demo")?;
    let params = GenerateParams::default().with_temperature(0.8).with_top_p(0.9).with_seed(1).with_max_tokens(60);
    let stream = engine.stream(Prompt::chat("Tell me a story about a fox."), &params)?;
    let no_repeats = |history: &[u32], logits: &mut [f32]| {
        if let Some(&last) = history.last() {
            logits[last as usize] = f32::NEG_INFINITY;
        }
    };
    println!("{}", stream.with_processor(no_repeats).finish()?.text);
    Ok(())
}
