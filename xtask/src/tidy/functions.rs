//! Lines and parameters of a function.

use super::Violation;
use super::tokens::{Token, closing};
use super::tree::Tree;

const LINES: usize = 80;
const PARAMETERS: usize = 6;
/// Kernels pass what a tensor would hold: slices, strides and sizes.
const KERNEL_PARAMETERS: usize = 7;

struct Function<'a> {
    name: &'a str,
    line: usize,
    /// From `fn` to the closing brace.
    lines: usize,
    /// Without `self`.
    parameters: usize,
}

/// Functions that are too long or take too much.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in tree.rust() {
        let most = if file.path.starts_with("crates/kernels/") { KERNEL_PARAMETERS } else { PARAMETERS };
        for Function { name, line, lines, parameters } in functions(&file.tokens) {
            if lines > LINES {
                let message = format!("`{name}` has {lines} lines, at most {LINES}");
                violations.push(Violation::new(&file.path, line, "function-length", message));
            }
            if parameters > most {
                let message = format!("`{name}` has {parameters} parameters, at most {most}");
                violations.push(Violation::new(&file.path, line, "parameters", message));
            }
        }
    }
    violations
}

fn functions(tokens: &[Token]) -> impl Iterator<Item = Function<'_>> {
    (0..tokens.len()).filter(|&i| tokens[i].text == "fn").filter_map(|i| function(tokens, i))
}

/// The function whose `fn` stands at `at`; `None` for the type of a function pointer.
fn function(tokens: &[Token], at: usize) -> Option<Function<'_>> {
    // In a macro, the name may be `$name`.
    let name =
        tokens[at + 1..].iter().map(|t| t.text.as_str()).find(|text| *text != "$").filter(|text| *text != "(")?;
    let open = outside_angles(tokens, at + 1, &["("])?;
    let close = closing(tokens, open);
    let end = match outside_angles(tokens, close + 1, &["{", ";"]) {
        Some(body) => closing(tokens, body),
        None => close,
    };
    let parameters = parameters(&tokens[open + 1..close]);
    Some(Function { name, line: tokens[at].line, lines: tokens[end].line - tokens[at].line + 1, parameters })
}

/// The first of `wanted` from `from` on that stands in no generics and no brackets.
fn outside_angles(tokens: &[Token], from: usize, wanted: &[&str]) -> Option<usize> {
    let (mut i, mut angles) = (from, 0);
    while let Some(token) = tokens.get(i) {
        let text = token.text.as_str();
        if angles == 0 && wanted.contains(&text) {
            return Some(i);
        }
        match text {
            "(" | "[" | "{" => i = closing(tokens, i),
            ")" | "]" | "}" => return None,
            _ => angles += angle(tokens, i),
        }
        i += 1;
    }
    None
}

/// What the token at `i` does to the depth of generics: the `>` of `->` and `=>` closes none.
fn angle(tokens: &[Token], i: usize) -> i32 {
    match tokens[i].text.as_str() {
        "<" => 1,
        ">" if i == 0 || !["-", "="].contains(&tokens[i - 1].text.as_str()) => -1,
        _ => 0,
    }
}

/// Counts the parameters between the parentheses, `self` aside.
fn parameters(tokens: &[Token]) -> usize {
    let mut count = 0;
    let mut start = 0;
    while start < tokens.len() {
        let end = outside_angles(tokens, start, &[","]).unwrap_or(tokens.len());
        let pattern = tokens[start..end].iter().take_while(|token| token.text != ":");
        count += usize::from(!pattern.into_iter().any(|token| token.text == "self"));
        start = end + 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::super::tokens::read;
    use super::*;

    fn counts(text: &str) -> Vec<(String, usize, usize)> {
        let tokens = read(text).unwrap();
        functions(&tokens).map(|f| (f.name.to_owned(), f.lines, f.parameters)).collect()
    }

    #[test]
    fn parameters_are_counted_as_a_reader_does() {
        for (text, parameters) in [
            ("fn f() {}", 0),
            ("fn f(a: u8) {}", 1),
            ("fn f(&self, a: u8) {}", 1),
            ("fn f(&'a mut self) {}", 0),
            ("fn f(self: Box<Self>, a: (u8, u8),) {}", 1),
            ("fn f(a: HashMap<K, Vec<V>>, b: [u8; 4]) {}", 2),
            ("fn f(a: impl Fn(u8, u8) -> Option<u8>, b: u8) {}", 2),
            ("fn f<F: Fn(u8, u8) -> u8, const N: usize>(a: F, (b, c): (u8, u8)) -> [u8; N] where F: Copy {}", 2),
            ("trait T { fn f(a: u8, b: fn(u8, u8) -> u8); }", 2),
            ("macro_rules! m { ($name:ident) => { fn $name(a: u8, b: u8) {} }; }", 2),
        ] {
            let counts = counts(text);
            assert_eq!((counts.len(), counts[0].2), (1, parameters), "{text}: {counts:?}");
        }
    }

    #[test]
    fn lines_run_from_the_signature_to_the_brace() {
        let text = "/// Docs.\n#[inline]\npub fn f(\n    a: u8,\n) -> u8 {\n    // fn g() {\n    a\n}\n";
        assert_eq!(counts(text), [("f".to_owned(), 6, 1)]);
    }

    #[test]
    fn inner_functions_count_for_both() {
        let text = "fn f() {\n  fn g() {\n  }\n}\n";
        assert_eq!(counts(text), [("f".to_owned(), 4, 0), ("g".to_owned(), 2, 0)]);
    }

    #[test]
    fn kernels_may_take_one_more() {
        let seven = "fn f(a: u8, b: u8, c: u8, d: u8, e: u8, g: u8, h: u8) {}";
        assert_eq!(said(check, &[("crates/kernels/src/a.rs", seven)]), [""; 0]);
        let expected = "crates/tensor/src/a.rs:1: parameters: `f` has 7 parameters, at most 6";
        assert_eq!(said(check, &[("crates/tensor/src/a.rs", seven)]), [expected]);
    }

    #[test]
    fn a_long_function_is_named_once() {
        let text = format!("fn f() {{\n{}}}\n", "\n".repeat(79));
        assert_eq!(said(check, &[("a.rs", &text)]), ["a.rs:1: function-length: `f` has 81 lines, at most 80"]);
    }
}
