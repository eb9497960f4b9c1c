//! Stop strings that may lie across token borders.

/// Finds the first stop string in text that arrives in pieces.
///
/// Text is given out as soon as it cannot be the beginning of a stop string any more. The match that is complete first
/// ends the text, because a stream cannot wait for a longer one; of matches complete together the longest wins.
#[derive(Debug, Clone)]
pub struct StopScanner {
    stops: Vec<String>,
    longest: usize,
    held: String,
    stopped: Option<usize>,
}

impl StopScanner {
    /// A scanner for `stops`; empty strings are ignored.
    pub fn new(stops: &[String]) -> Self {
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        StopScanner { stops: stops.to_vec(), longest, held: String::new(), stopped: None }
    }

    /// Takes the next piece; gives the text that is safe to show and, once a stop string is complete, its index.
    ///
    /// After a stop nothing more is given out.
    pub fn push(&mut self, piece: &str) -> (String, Option<usize>) {
        if self.stopped.is_some() {
            return (String::new(), self.stopped);
        }
        if self.longest == 0 {
            return (piece.to_owned(), None);
        }
        self.held.push_str(piece);
        if let Some((at, index)) = self.first_match() {
            self.stopped = Some(index);
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), self.stopped);
        }
        let keep_from = self.first_possible_start();
        let tail = self.held.split_off(keep_from);
        (std::mem::replace(&mut self.held, tail), None)
    }

    /// Ends the text: gives what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The index of the stop string that was found.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    /// The match that is complete first in the stream; of those ending together the one that starts first.
    fn first_match(&self) -> Option<(usize, usize)> {
        let matches = self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        matches
            .filter_map(|(index, stop)| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at, index)))
            .min()
            .map(|(_, at, index)| (at, index))
    }

    /// Where the longest suffix begins that is also the beginning of a stop string.
    fn first_possible_start(&self) -> usize {
        let from = self.held.len().saturating_sub(self.longest - 1);
        let starts = self.held.char_indices().map(|(at, _)| at).skip_while(|at| *at < from);
        let mut starts = starts.filter(|at| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..])));
        starts.next().unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    /// The definition, on the whole text: cut before the stop string whose last byte comes first.
    fn reference(text: &str, stops: &[String]) -> (String, Option<usize>) {
        for end in 1..=text.len() {
            let Some(head) = text.get(..end) else { continue };
            let ending = stops.iter().enumerate().filter(|(_, s)| !s.is_empty() && head.ends_with(s.as_str()));
            if let Some((index, stop)) = ending.max_by_key(|(i, s)| (s.len(), usize::MAX - i)) {
                return (head[..end - stop.len()].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    fn scan<'a>(pieces: impl IntoIterator<Item = &'a str>, stops: &[String]) -> (String, Option<usize>) {
        let mut scanner = StopScanner::new(stops);
        let mut text = String::new();
        for piece in pieces {
            let (emitted, stopped) = scanner.push(piece);
            text += &emitted;
            if stopped.is_some() {
                return (text, stopped);
            }
        }
        (text + &scanner.finish(), None)
    }

    #[test]
    fn holds_back_only_what_may_become_a_stop() {
        let mut scanner = StopScanner::new(&strings(&["</s>", "\n\nUser:"]));
        assert_eq!(scanner.push("a < b <"), ("a < b ".to_owned(), None));
        assert_eq!(scanner.push("/"), (String::new(), None));
        assert_eq!(scanner.push("x\n"), ("</x".to_owned(), None));
        assert_eq!(scanner.push("\nUser: hi"), (String::new(), Some(1)));
        assert_eq!(scanner.push("more"), (String::new(), Some(1)));
        assert_eq!(scanner.finish(), "");
    }

    #[test]
    fn without_stops_everything_passes() {
        assert_eq!(scan(["a", "", "b"], &[]), ("ab".to_owned(), None));
        assert_eq!(scan(["a", "b"], &strings(&[""])), ("ab".to_owned(), None));
    }

    proptest! {
        #[test]
        fn any_split_equals_the_whole_text(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{0,4}", 0..4),
            cuts in prop::collection::vec(0usize..30, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| text.is_char_boundary(*c)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|w| &text[w[0]..w[1]]);
            prop_assert_eq!(scan(pieces, &stops), reference(&text, &stops));
        }
    }
}
