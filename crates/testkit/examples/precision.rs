//! What `Precision::Fast` does to a model's predictions, on the first tokens of a text:
//! `cargo run --release -p mlxengine-testkit --example precision -- DIR TEXT_FILE`

#![allow(clippy::print_stdout, reason = "a program that prints figures")]

use mlxengine_engine::LoadedModel;
use mlxengine_models::{CacheOptions, Checkpoint, Precision};
use mlxengine_testkit::{Sequence, log_sum_exp};

const TOKENS: usize = 256;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [directory, file] = [1, 2].map(|n| std::env::args().nth(n));
    let (directory, file) = directory.zip(file).ok_or("give the directory of a model and a file of text")?;
    let checkpoint = Checkpoint::open_directory(&directory)?;
    let load = |precision| LoadedModel::load(&checkpoint, precision, |_, _| {});
    let exact = load(Precision::Exact)?;
    let mut ids = exact.tokenizer.encode(&std::fs::read_to_string(&file)?, true)?;
    ids.truncate(TOKENS);
    let logits = |model: &LoadedModel| -> mlxengine_models::Result<_> {
        Ok(Sequence::new(&*model.network, &CacheOptions::default())?.feed(&ids))
    };
    let (exact, fast) = (logits(&exact)?, logits(&load(Precision::Fast)?)?);
    let columns = exact.shape().last();
    let likeliest = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i);
    let (mut divergence, mut agree) = (0.0, 0);
    for (p, q) in exact.f32s().chunks_exact(columns).zip(fast.f32s().chunks_exact(columns)) {
        let (total_p, total_q) = (log_sum_exp(p), log_sum_exp(q));
        let term = |(p, q): (&f32, &f32)| {
            let p = f64::from(*p) - total_p;
            p.exp() * (p - (f64::from(*q) - total_q))
        };
        divergence += p.iter().zip(q).map(term).sum::<f64>();
        agree += usize::from(likeliest(p) == likeliest(q));
    }
    println!("{} tokens: mean KL divergence {:.5}", ids.len(), divergence / ids.len() as f64);
    println!("the likeliest token is the same at {:.1} % of them", 100.0 * agree as f64 / ids.len() as f64);
    Ok(())
}
