//! What somebody who mistyped a name may have meant.

/// The name that is fewest edits away, if that is few enough to be meant.
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, name) = names.into_iter().map(|name| (edits(typed, name), name)).min()?;
    (distance <= typed.chars().count().max(3) / 3 + 1).then_some(name)
}

/// Insertions, removals and replacements from one word to the other.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_names_are_found_and_others_are_not() {
        let names = ["help", "system", "save", "regenerate", "bye"];
        for (typed, meant) in [
            ("hlep", Some("help")),
            ("sysetm", Some("system")),
            ("regenrate", Some("regenerate")),
            ("by", Some("bye")),
            ("photograph", None),
        ] {
            assert_eq!(nearest(typed, names), meant, "{typed}");
        }
    }
}
