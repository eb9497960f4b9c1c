//! `unsafe` stands where it may, and says why it is sound.
//!
//! Clippy's `undocumented_unsafe_blocks` judges blocks and impls more strictly, but not in the bodies of macros.

use super::Violation;
use super::tokens::Token;
use super::tree::{File, Tree};

/// Where `unsafe` may stand, and why there.
const ALLOWED: [(&str, &str); 2] = [
    ("crates/kernels/", "vector instructions, and threads that share a slice"),
    ("crates/tensor/src/mapped.rs", "a mapped file is sound only while nobody truncates it"),
];

/// `unsafe` in the wrong place or without a reason.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in tree.rust() {
        let allowed = ALLOWED.iter().any(|(place, _)| file.path.starts_with(place));
        for at in (0..file.tokens.len()).filter(|&at| file.tokens[at].text == "unsafe") {
            let line = file.tokens[at].line;
            if !allowed {
                let places = ALLOWED.map(|(place, _)| place).join(" and ");
                violations.push(Violation::new(&file.path, line, "unsafe-place", format!("only in {places}")));
            } else if needs_reason(&file.tokens, at) && !has_reason(file, at) {
                let message = "no `// SAFETY:` comment before it";
                violations.push(Violation::new(&file.path, line, "unsafe-reason", message));
            }
        }
    }
    violations
}

/// Blocks and impls do; functions and traits state a contract (`# Safety`) instead, which rustdoc and clippy look for.
fn needs_reason(tokens: &[Token], at: usize) -> bool {
    tokens.get(at + 1).is_some_and(|next| ["{", "impl"].contains(&next.text.as_str()))
}

/// Whether a comment with the reason stands between the start of the statement and the `unsafe`, or right above.
fn has_reason(file: &File, at: usize) -> bool {
    let start = file.tokens[..at].iter().rposition(|token| ["{", "}", ";"].contains(&token.text.as_str()));
    let first = file.tokens[start.map_or(0, |i| i + 1)].line;
    let lines: Vec<_> = file.text.lines().collect();
    let is_above = |line: &&str| ["//", "#[", "#!["].iter().any(|start| line.trim_start().starts_with(start));
    let above = lines[..first - 1].iter().rev().copied().take_while(is_above);
    let within = lines[first - 1..file.tokens[at].line].iter().copied();
    above.chain(within).any(|line| line.contains("// SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    fn kernel(text: &str) -> Vec<String> {
        said(check, &[("crates/kernels/src/a.rs", text)])
    }

    #[test]
    fn the_place_is_checked() {
        let said = said(check, &[("crates/models/src/a.rs", "// SAFETY: none.\nunsafe impl Send for A {}")]);
        assert!(said.len() == 1 && said[0].starts_with("crates/models/src/a.rs:2: unsafe-place: "), "{said:?}");
    }

    #[test]
    fn a_reason_may_stand_above_the_statement_or_the_block() {
        for text in [
            "// SAFETY: no pointers.\nunsafe impl Send for A {}",
            "// SAFETY: no pointers.\n#[cfg(unix)]\nunsafe impl Send for A {}",
            "fn f() {\n    // SAFETY: checked above.\n    // At length.\n    let x =\n        g(1, unsafe { h() });\n}",
            "fn f() {\n    let x = match y {\n        // SAFETY: y is 1.\n        1 => unsafe { h() },\n    };\n}",
            "macro_rules! m { () => {\n    // SAFETY: the token proves it.\n    unsafe { h() }\n}; }",
            "/// # Safety\n/// `p` is readable.\npub unsafe fn f(p: *const f32) {}",
        ] {
            assert_eq!(kernel(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_missing_reason_is_named() {
        let expected = "crates/kernels/src/a.rs:3: unsafe-reason: no `// SAFETY:` comment before it";
        assert_eq!(kernel("fn f() {\n    // Fast.\n    let x = unsafe { h() };\n}"), [expected]);
        assert_eq!(kernel("// SAFETY: of g alone.\nfn g() {}\nunsafe impl Send for A {}"), [expected]);
        assert_eq!(kernel("macro_rules! m { () => {\n\n    unsafe { h() }\n}; }"), [expected]);
    }
}
