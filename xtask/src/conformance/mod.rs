//! `cargo xtask conformance`: the engine against recorded outputs of the reference implementation.

mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{anyhow, ensure};
use clap::Args;
use mlxengine_kernels::{Cpu, Isa};
use mlxengine_testkit::{Outcome, Row, Selection, Set, quiet_panics, run as run_case};
use serde_json::json;

/// Which recordings, and how they are compared.
#[derive(Args)]
pub struct Arguments {
    /// Folder of recordings [default: ../shared/conformance/llm beside the repository, else the repository's own]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Only cases whose kind/name contains this; may be given several times
    #[arg(long, value_name = "NAME")]
    filter: Vec<String>,
    /// Only cases of this kind, such as llm or quant_model; may be given several times
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// Only models of this family; may be given several times
    #[arg(long, value_name = "FAMILY")]
    family: Vec<String>,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Succeed although something could not be compared yet
    #[arg(long)]
    allow_not_run: bool,
    /// Instruction set: portable, avx2, avx512 or neon [default: the best]
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// Compares, prints, and succeeds if all that was selected was compared and agrees.
pub fn run(repository: &Path, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let isa = arguments.isa.as_deref().map(Isa::from_name).transpose().map_err(|e| anyhow!(e))?;
    ensure!(arguments.threads != Some(0), "--threads must be at least 1");
    Cpu::configure(isa, arguments.threads);
    let dir = arguments.dir.clone().unwrap_or_else(|| default_dir(repository));
    let set = Set::open(&dir).map_err(|e| anyhow!(e))?;
    let selection = Selection {
        names: arguments.filter.clone(),
        kinds: arguments.kind.clone(),
        families: arguments.family.clone(),
    };
    let cases: Vec<_> = set.select(&selection).collect();
    ensure!(!cases.is_empty(), "no recording in {} is selected", dir.display());
    quiet_panics();
    let rows: Vec<Row> = cases.into_iter().flat_map(run_case).collect();
    if arguments.json {
        rows.iter().for_each(|row| println!("{}", object(row)));
    } else {
        print!("{}", table::table(&rows));
        print!("{}", table::summary(&rows));
    }
    let fine = |row: &Row| match row.outcome {
        Outcome::Pass => true,
        Outcome::Fail(_) => false,
        Outcome::NotRun(_) => arguments.allow_not_run,
    };
    Ok(if rows.iter().all(fine) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn default_dir(repository: &Path) -> PathBuf {
    let beside = repository.join("../shared/conformance/llm");
    if beside.is_dir() { beside } else { repository.join("crates/testkit/cases") }
}

fn object(row: &Row) -> serde_json::Value {
    let (outcome, reason) = match &row.outcome {
        Outcome::Pass => ("pass", None),
        Outcome::Fail(why) => ("fail", Some(why)),
        Outcome::NotRun(why) => ("not run", Some(why)),
    };
    json!({
        "kind": row.kind.name(),
        "case": row.case,
        "family": row.family,
        "check": row.check,
        "max_error": row.max_error,
        "tolerance": row.tolerance,
        "outcome": outcome,
        "reason": reason,
    })
}
