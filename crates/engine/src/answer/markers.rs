//! Fixed texts in text that arrives in pieces.

/// What can be said about the first marker in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is here: where it begins, and which it is.
    At(usize, usize),
    /// There is none before this place, and what follows may be the beginning of one.
    Clear(usize),
}

/// Looks for the first of `markers` in `text`; of those that begin together the longest. `last` says that no more text comes.
pub(super) fn first(text: &str, markers: &[&str], last: bool) -> Seen {
    let known = markers.iter().enumerate().filter(|(_, marker)| !marker.is_empty());
    let found = known.filter_map(|(index, marker)| text.find(marker).map(|at| (at, usize::MAX - marker.len(), index)));
    let found = found.min().map(|(at, _, index)| (at, index));
    let begun = if last { text.len() } else { unfinished(text, markers) };
    match found {
        // A marker that may begin earlier, or at the same place and be longer, has to be waited for.
        Some((at, index)) if at < begun => Seen::At(at, index),
        Some((_, _)) if begun < text.len() => Seen::Clear(begun),
        Some((at, index)) => Seen::At(at, index),
        None => Seen::Clear(begun),
    }
}

/// Where the longest tail of `text` begins that is a part of a marker, but not all of it.
pub(super) fn unfinished(text: &str, markers: &[&str]) -> usize {
    let longest = markers.iter().map(|marker| marker.len()).max().unwrap_or(0);
    let from = text.len().saturating_sub(longest.saturating_sub(1));
    let starts = text.char_indices().map(|(at, _)| at).skip_while(|at| *at < from);
    let is_part = |tail: &str| markers.iter().any(|marker| marker.len() > tail.len() && marker.starts_with(tail));
    starts.into_iter().find(|at| is_part(&text[*at..])).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_only_where_more_text_could_change_the_answer() {
        let markers = ["<a>", "<a>b", "x<a>c"];
        assert_eq!(first("..<a>.", &markers, false), Seen::At(2, 0));
        assert_eq!(first("..<a>", &markers, false), Seen::Clear(2));
        assert_eq!(first("..<a>", &markers, true), Seen::At(2, 0));
        assert_eq!(first("..<a>b", &markers, false), Seen::At(2, 1));
        assert_eq!(first("..x<a>", &markers, false), Seen::Clear(2));
        assert_eq!(first("..x<a>d", &markers, false), Seen::At(3, 0));
        assert_eq!(first("..x", &markers, false), Seen::Clear(2));
        assert_eq!(first("..x", &markers, true), Seen::Clear(3));
        assert_eq!(first("", &markers, true), Seen::Clear(0));
    }
}
