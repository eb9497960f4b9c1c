//! Lines of a file.

use super::Violation;
use super::tokens::matches;
use super::tree::{File, Tree};

const FILE: usize = 600;
/// Hand-written kernels repeat one shape for several formats, and splitting them would part what is read together.
const ARCH_FILE: usize = 1000;
const FAMILY: usize = 80;
/// A family that implements the trait of models or of layers itself.
const BESPOKE_FAMILY: usize = 300;

/// Files that are too long.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let files = tree.rust().map(|file| (file, file.text.lines().count(), budget(file)));
    let long = files.filter(|(_, lines, (limit, _))| lines > limit);
    long.map(|(file, lines, (limit, what))| {
        Violation::new(&file.path, limit + 1, "file-length", format!("{lines} lines, {what} has at most {limit}"))
    })
    .collect()
}

fn budget(file: &File) -> (usize, &'static str) {
    let by_hand = |part: &str| part == "arch" || part.starts_with("matmul") || part.starts_with("attention");
    let kernel = file.path.starts_with("crates/kernels/") && file.path.split('/').any(by_hand);
    if kernel {
        return (ARCH_FILE, "a file of hand-written kernels");
    }
    if !file.path.starts_with("crates/models/src/families/") || file.name() == "mod.rs" {
        return (FILE, "a file");
    }
    let traits = [["LanguageModel", "for"], ["Layer", "for"]];
    let bespoke = (0..file.tokens.len()).any(|i| traits.iter().any(|words| matches(&file.tokens, i, words)));
    if bespoke { (BESPOKE_FAMILY, "a family with a model of its own") } else { (FAMILY, "a family") }
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    #[test]
    fn each_kind_of_file_has_its_budget() {
        let lines = |n: usize| "\n".repeat(n);
        for (path, limit) in [
            ("crates/tensor/src/op.rs", 600),
            ("crates/tensor/src/matmul.rs", 600),
            ("crates/kernels/src/arch/avx2.rs", 1000),
            ("crates/kernels/src/matmul_quant.rs", 1000),
            ("crates/kernels/src/matmul/dot.rs", 1000),
            ("crates/models/src/families/llama.rs", 80),
            ("crates/models/src/families/mod.rs", 600),
        ] {
            assert_eq!(said(check, &[(path, &lines(limit))]), [""; 0], "{path}");
            let said = said(check, &[(path, &lines(limit + 1))]);
            assert!(
                said[0].contains(&format!("{} lines", limit + 1)) && said[0].contains(&limit.to_string()),
                "{said:?}"
            );
        }
    }

    #[test]
    fn a_bespoke_family_may_be_longer() {
        for of in ["LanguageModel", "Layer"] {
            let text = format!("impl {of} for Odd {{}}\n{}", "\n".repeat(298));
            assert_eq!(said(check, &[("crates/models/src/families/odd.rs", &text)]), [""; 0]);
        }
    }
}
