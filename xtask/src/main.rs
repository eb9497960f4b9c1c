//! Chores of the repository, as `cargo xtask <chore>`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a chore reports to the terminal")]

mod conformance;
mod kernels;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the repository")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Checks the budgets and bans that the compiler does not know
    Tidy,
    /// Compares the engine with recorded outputs of the reference implementation
    Conformance(conformance::Arguments),
    /// Measures what each kernel reaches of what the machine can do
    Kernels(kernels::Arguments),
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().chore {
        Chore::Tidy => tidy::run(&repository()),
        Chore::Conformance(arguments) => conformance::run(&repository(), &arguments),
        Chore::Kernels(arguments) => kernels::run(&arguments),
    }
}

/// The folder that holds the workspace: the parent of this crate's.
fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}
