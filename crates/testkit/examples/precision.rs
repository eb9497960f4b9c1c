//! What `Precision::Fast` does to a model's predictions, on the first tokens of a text, read at once and token by token:
//! `cargo run --release -p mlxengine-testkit --example precision -- DIR TEXT_FILE`

#![allow(clippy::print_stdout, reason = "a program that prints figures")]

use mlxengine_engine::LoadedModel;
use mlxengine_models::{CacheOptions, Checkpoint, Precision};
use mlxengine_testkit::{Agreement, Sequence};

const TOKENS: usize = 256;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [directory, file] = [1, 2].map(|n| std::env::args().nth(n));
    let (directory, file) = directory.zip(file).ok_or("give the directory of a model and a file of text")?;
    let checkpoint = Checkpoint::open_directory(&directory)?;
    let load = |precision| LoadedModel::load(&checkpoint, precision, |_, _| {});
    let (exact, fast) = (load(Precision::Exact)?, load(Precision::Fast)?);
    let mut ids = exact.tokenizer.encode(&std::fs::read_to_string(&file)?, true)?;
    ids.truncate(TOKENS);
    for (how, chunk) in [("at once", TOKENS), ("token by token", 1)] {
        let options = CacheOptions::default();
        let (mut exact, mut fast) =
            (Sequence::new(&*exact.network, &options)?, Sequence::new(&*fast.network, &options)?);
        let mut agreement = Agreement::default();
        for ids in ids.chunks(chunk) {
            let (exact, fast) = (exact.feed(ids), fast.feed(ids));
            let columns = exact.shape().last();
            for (p, q) in exact.f32s().chunks_exact(columns).zip(fast.f32s().chunks_exact(columns)) {
                agreement.add(p, q);
            }
        }
        println!(
            "{} tokens {how}: mean KL divergence {:.1e}; the likeliest token is the same at {:.1} % of them",
            agreement.count,
            agreement.divergence(),
            100.0 * agreement.same()
        );
    }
    Ok(())
}
