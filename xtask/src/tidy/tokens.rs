//! Rust source as a flat list of tokens.
//!
//! Flat, because the rules look for short sequences wherever they stand, also inside macros, which a syntax tree leaves
//! unparsed. A string literal keeps its quotes, so it never equals a word.

use std::str::FromStr;

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};

/// A word, a literal, a punctuation character or a bracket.
#[derive(Clone, Debug)]
pub struct Token {
    pub text: String,
    /// Line where it starts, from 1.
    pub line: usize,
    /// Whether it stands under `#[test]` or `#[cfg(test)]`.
    pub test: bool,
}

/// Reads a file, or returns the line and the reason why it cannot be read.
pub fn read(text: &str) -> Result<Vec<Token>, (usize, String)> {
    let stream = TokenStream::from_str(text).map_err(|error| (error.span().start().line, error.to_string()))?;
    let mut tokens = Vec::new();
    flatten(stream, false, &mut tokens);
    Ok(tokens)
}

fn flatten(stream: TokenStream, test: bool, tokens: &mut Vec<Token>) {
    // The item after a test attribute ends with its braces or, if it has none, with a semicolon.
    let mut pending = false;
    let mut after_hash = false;
    for tree in stream {
        let hash = matches!(&tree, TokenTree::Punct(p) if p.as_char() == '#');
        match tree {
            TokenTree::Group(group) => {
                pending |= after_hash && is_test_attribute(&group);
                let braces = group.delimiter() == Delimiter::Brace;
                bracketed(group, test || (pending && braces), tokens);
                pending &= !braces;
            }
            other => {
                let (text, line) = (other.to_string(), line_of(other.span()));
                pending &= text != ";";
                tokens.push(Token { text, line, test: test || pending });
            }
        }
        after_hash = hash;
    }
}

fn bracketed(group: Group, test: bool, tokens: &mut Vec<Token>) {
    let (open, close) = match group.delimiter() {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    };
    tokens.push(Token { text: open.to_owned(), line: line_of(group.span_open()), test });
    flatten(group.stream(), test, tokens);
    tokens.push(Token { text: close.to_owned(), line: line_of(group.span_close()), test });
}

/// `[test]`, `[cfg(test)]`, `[cfg(all(test, …))]`; not `[cfg(not(test))]`.
fn is_test_attribute(group: &Group) -> bool {
    let text = group.stream().to_string();
    let words: Vec<_> =
        text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
    match words.as_slice() {
        ["test"] => true,
        ["cfg", rest @ ..] => rest.contains(&"test") && !rest.contains(&"not"),
        _ => false,
    }
}

fn line_of(span: Span) -> usize {
    span.start().line
}

/// Whether `tokens` has this sequence at `at`.
pub fn matches(tokens: &[Token], at: usize, sequence: &[&str]) -> bool {
    let found = tokens.get(at..).unwrap_or_default();
    found.len() >= sequence.len() && found.iter().zip(sequence).all(|(token, text)| token.text == *text)
}

/// Index of the bracket that closes the one at `open`.
pub fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    tokens.len().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_words(text: &str) -> Vec<String> {
        let tokens = read(text).unwrap();
        tokens.into_iter().filter(|t| t.test && t.text.starts_with("in_")).map(|t| t.text).collect()
    }

    #[test]
    fn test_code_ends_with_its_item() {
        let text = "#[cfg(test)] mod m { in_a!(); } fn f() { in_b!(); } #[test] fn g() -> bool { in_c!() }";
        assert_eq!(test_words(text), ["in_a", "in_c"]);
        assert_eq!(test_words("#[cfg(test)] use in_a; use in_b; #[cfg(not(test))] mod m { in_c!(); }"), ["in_a"]);
    }

    #[test]
    fn strings_and_comments_are_no_words() {
        let tokens = read("// fn a()\nlet s = \"fn b()\"; /* fn c() */").unwrap();
        assert!(!tokens.iter().any(|t| t.text == "fn"));
        assert_eq!(tokens[0].line, 2);
    }

    #[test]
    fn brackets_close() {
        let tokens = read("f(a, [b, {c}], d) + e").unwrap();
        let end = closing(&tokens, 1);
        assert!(matches(&tokens, end, &[")", "+", "e"]));
    }
}
