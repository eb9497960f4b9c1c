//! Several turns: each reads only what is new. `cargo run --release --example chat`

#![allow(clippy::print_stdout, reason = "an example prints")]

use mlxengine::{ChatSession, Format, InferenceEngine};

fn main() -> mlxengine::Result<()> {
    let engine = InferenceEngine::load("demo")?;
    let chat = ChatSession::new(&engine).with_system("You are a helpful assistant.");
    for turn in ["My name is Ada.", "What is the capital of Italy?", "What is my name?"] {
        let reply = chat.send(turn)?;
        let new = reply.stats.prompt_tokens - reply.stats.cached_tokens;
        println!(
            "> {turn}\n{}\n  ({} tokens in the prompt, {new} of them read now)\n",
            reply.text, reply.stats.prompt_tokens
        );
    }
    println!("{}", chat.export(Format::Markdown)?);
    Ok(())
}
