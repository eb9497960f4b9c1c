//! No family's name occurs in the models crate outside the folder of families: what layers share is named for what it does.

use super::Violation;
use super::tree::{File, Tree};

const MODELS: &str = "crates/models/src/";
const FAMILIES: &str = "crates/models/src/families/";
/// Where the word is the name of something else: a method of quantization, which files of other families name too.
const OTHERWISE: &[(&str, &str)] = &[("crates/models/src/weights/quantizers/", "bitnet")];

/// Families named in shared code, its comments included.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let families: Vec<_> = tree.rust().filter_map(family).collect();
    let shared = tree.rust().filter(|file| file.path.starts_with(MODELS) && !file.path.starts_with(FAMILIES));
    let lines = shared.flat_map(|file| file.lines().map(move |(number, line)| (file, number, words(line))));
    lines
        .flat_map(|(file, number, found)| {
            let otherwise = |name: &[String]| {
                OTHERWISE.iter().any(|(place, word)| file.path.starts_with(place) && name.iter().eq([word]))
            };
            let named = families.iter().filter(move |name| {
                !otherwise(name) && found.windows(name.len()).any(|words| words == name.as_slice())
            });
            named.map(move |name| {
                let message = format!("`{}` is a family; name what it does", name.join("_"));
                Violation::new(&file.path, number, "family-name", message)
            })
        })
        .collect()
}

/// The words of the family's name, which is the file's.
fn family(file: &File) -> Option<Vec<String>> {
    let name = file.path.strip_prefix(FAMILIES)?.strip_suffix(".rs")?;
    (name != "mod" && !name.contains('/')).then(|| words(name))
}

/// Lower-case words of a line: `QuantizedLinear`, `quantized_linear` and `quantized linear` have the same.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut previous = ' ';
    for c in line.chars() {
        let starts = !c.is_alphanumeric() || (c.is_uppercase() && !previous.is_uppercase());
        if starts && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
        previous = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    const TWO: [(&str, &str); 3] = [
        ("crates/models/src/families/mod.rs", "mod llama; mod qwen2_moe;"),
        ("crates/models/src/families/llama.rs", "//! Llama."),
        ("crates/models/src/families/qwen2_moe.rs", "//! As llama.rs."),
    ];

    fn named(path: &str, text: &str) -> Vec<String> {
        let files: Vec<_> = TWO.into_iter().chain([(path, text)]).collect();
        said(check, &files)
    }

    #[test]
    fn shared_code_names_no_family() {
        for line in ["fn llama_norm() {}", "struct LlamaMlp;", "// as Llama does", "if kind == \"llama\" {"] {
            let expected = "crates/models/src/norm.rs:2: family-name: `llama` is a family; name what it does";
            assert_eq!(named("crates/models/src/norm.rs", &format!("\n{line}")), [expected], "{line}");
        }
        assert_eq!(named("crates/models/src/mlp.rs", "fn of_qwen2_moe() {}").len(), 1);
    }

    #[test]
    fn longer_words_and_other_crates_may() {
        assert_eq!(named("crates/models/src/rope.rs", "match kind { \"llama3\" => 1, }\nfn moe() {}"), [""; 0]);
        assert_eq!(named("crates/models/tests/llama.rs", "// Llama"), [""; 0]);
        assert_eq!(named("crates/mlxengine/src/registry.rs", "// Llama"), [""; 0]);
    }
}
