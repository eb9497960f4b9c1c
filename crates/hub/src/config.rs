//! Where the Hub is, who asks, and how hard files are fetched.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The Hub that everybody means.
pub const ENDPOINT: &str = "https://huggingface.co";

/// What proves who asks. It is never printed: not by `Debug`, not in an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token as it stands in a variable or a file; white space around it does not count, and nothing is no token.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text: String = text.trim().chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        // A header cannot carry anything else, and no token has it.
        let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        plain.then_some(Self(text))
    }

    /// The secret itself, for the header that carries it and the file that keeps it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Everything that this crate is told; it does not read the environment itself.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// The Hub's address.
    pub endpoint: String,
    /// Who asks, if anybody.
    pub token: Option<Token>,
    /// The cache, in the layout that the Hub's own tools share.
    pub cache: PathBuf,
    /// Whether the network is not to be used.
    pub offline: bool,
    /// How files are fetched.
    pub transfer: Transfer,
}

impl HubConfig {
    /// The usual Hub, nobody in particular, and this cache.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: ENDPOINT.to_owned(),
            token: None,
            cache: cache.into(),
            offline: false,
            transfer: Transfer::default(),
        }
    }
}

/// How files are fetched.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Files at once.
    pub files: usize,
    /// Ranges of one file at once.
    pub ranges: usize,
    /// Bytes of a range, the fewest. A file of at most this is fetched in one; those of very large files are longer.
    pub range: u64,
    /// How long nothing may come before the connection counts as dead.
    pub stall: Duration,
    /// How long a connection may take.
    pub connect: Duration,
    /// Failures in a row, without a byte between them, before giving up.
    pub attempts: u32,
    /// Pause after the first failure; it doubles with each further one.
    pub pause: Duration,
    /// The longest pause that a host may ask for.
    pub patience: Duration,
    /// Bytes a second, all connections together.
    pub rate: Option<u64>,
}

impl Transfer {
    /// Bytes of a range of a file of `size`. Each range is a request, and hosts count those; so large files have long ones.
    pub(crate) fn range_of(&self, size: u64) -> u64 {
        let whole = size / 64 / (1 << 20) * (1 << 20);
        self.range.max(whole.min(64 << 20)).max(1)
    }
}

impl Default for Transfer {
    fn default() -> Self {
        Self {
            files: 4,
            ranges: 4,
            range: 8 << 20,
            stall: Duration::from_secs(30),
            connect: Duration::from_secs(15),
            attempts: 6,
            pause: Duration::from_millis(500),
            patience: Duration::from_secs(330),
            rate: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_with_the_file() {
        let range = |size: u64| Transfer::default().range_of(size) >> 20;
        assert_eq!([1 << 20, 1 << 30, 1 << 40].map(range), [8, 16, 64]);
    }

    #[test]
    fn a_token_is_never_shown() {
        let token = Token::new(" hf_secret\n").unwrap();
        assert_eq!(token.reveal(), "hf_secret");
        let config = HubConfig { token: Some(token), ..HubConfig::new("c") };
        assert!(!format!("{config:?}").contains("secret"));
        assert!([" ", "", "a b", "ü"].iter().all(|text| Token::new(text).is_none()));
    }
}
