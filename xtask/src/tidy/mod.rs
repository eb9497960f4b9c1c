//! `cargo xtask tidy`: the rules of the house that neither the compiler nor clippy holds.
//!
//! A rule is a function from the [`Tree`] to [`Violation`]s. Rules read tokens where they judge code, so that strings and
//! comments cannot trip them, and plain text where they judge words. Every limit stands in the module of its rule; where a
//! rule has an exception, the exception is an entry of a table with its reason.

mod bans;
mod direction;
mod families;
mod functions;
mod links;
mod size;
mod tokens;
mod tree;
mod unsafety;
mod words;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use tree::Tree;

/// One place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    path: String,
    line: usize,
    rule: &'static str,
    message: String,
}

impl Violation {
    fn new(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.message)
    }
}

type Rule = fn(&Tree) -> Vec<Violation>;

const RULES: [Rule; 9] = [
    tree::check,
    size::check,
    functions::check,
    unsafety::check,
    bans::check,
    families::check,
    direction::check,
    words::check,
    links::check,
];

/// Checks the repository at `root`, prints every violation, and fails if there is any.
pub fn run(root: &Path) -> anyhow::Result<ExitCode> {
    let tree = Tree::read(root)?;
    let mut violations: Vec<_> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    violations.sort();
    for violation in &violations {
        println!("{violation}");
    }
    if violations.is_empty() {
        println!("tidy: {} files are in order", tree.files.len());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("tidy: {} violation(s) in {} files", violations.len(), tree.files.len());
    Ok(ExitCode::FAILURE)
}

/// What a rule says about a tree of the given files, one line each.
#[cfg(test)]
fn said(rule: Rule, files: &[(&str, &str)]) -> Vec<String> {
    rule(&Tree::of(files)).iter().map(ToString::to_string).collect()
}
