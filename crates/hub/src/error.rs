//! What can go wrong between a name and a model on disk: situations, each with a remedy.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The result of this crate's calls.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// Why a model could not be found, fetched or kept. `Display` prints the situation, then the remedy after `; `.
#[derive(Debug)]
#[non_exhaustive]
pub enum HubError {
    /// The Hub has no such repository, or shows it only to its members.
    NotFound {
        /// `org/name`.
        repo: String,
        /// Whether a token was sent.
        signed_in: bool,
    },
    /// The repository has no such branch, tag or commit.
    RevisionMissing {
        /// `org/name`.
        repo: String,
        /// What was asked for.
        revision: String,
    },
    /// The repository has no such file.
    FileMissing {
        /// `org/name`.
        repo: String,
        /// What was asked for.
        file: String,
    },
    /// The repository's owners let in whom they have accepted.
    Gated {
        /// `org/name`.
        repo: String,
        /// Where access is asked for.
        page: String,
        /// Whether a token was sent.
        signed_in: bool,
    },
    /// The Hub does not accept the token.
    Unauthorised {
        /// Who refused.
        host: String,
        /// Whether a token exists that was not sent, because the way is not encrypted.
        withheld: bool,
    },
    /// The Hub knows who asks, and refuses.
    Forbidden {
        /// What it said.
        why: String,
    },
    /// Too many requests.
    RateLimited {
        /// Who refused.
        host: String,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// The network was not to be used.
    Offline {
        /// What it was needed for.
        what: String,
    },
    /// No room for a file.
    DiskFull {
        /// Where.
        path: PathBuf,
        /// Bytes that are needed, and that are free, where it is known.
        room: Option<(u64, u64)>,
    },
    /// The host's name has no address.
    NameLookup {
        /// The host.
        host: String,
    },
    /// The host has an address and does not answer there.
    Unreachable {
        /// The host.
        host: String,
        /// What was tried.
        why: String,
    },
    /// The host could not prove that it is the one.
    Tls {
        /// The host.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// Nothing came for too long.
    TimedOut {
        /// The host.
        host: String,
        /// How long nothing came.
        after: Duration,
    },
    /// The host answered that it cannot answer.
    Server {
        /// The host.
        host: String,
        /// The status of HTTP.
        status: u16,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// A connection broke before all had come.
    Cut {
        /// The host.
        host: String,
        /// What happened.
        why: String,
    },
    /// An answer that makes no sense.
    BadAnswer {
        /// What was asked.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// A file changed on the Hub while it was fetched, each time it was tried.
    Changed {
        /// The file.
        file: String,
    },
    /// A file's bytes are not those that its hash promises, twice in a row.
    Corrupt {
        /// The file.
        file: String,
        /// The hash or size that was promised.
        expected: String,
        /// The hash or size of what came.
        found: String,
    },
    /// A name that would be written elsewhere than into the cache.
    HostileName {
        /// The name, with its control characters escaped.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The repository's weights are in formats that are not read.
    NoWeights {
        /// `org/name`.
        repo: String,
        /// Ends of the names of the weights that it has.
        formats: String,
    },
    /// The model is not in the cache, or not all of it.
    NotCached {
        /// `org/name`.
        repo: String,
        /// What is missing, if some is there.
        missing: Vec<String>,
    },
    /// Another process works on this model.
    Busy {
        /// `org/name`.
        repo: String,
    },
    /// What the user gave cannot be used.
    Invalid {
        /// What is wrong.
        what: String,
        /// What would be right.
        expected: String,
    },
    /// The operating system refused.
    Io {
        /// What was tried.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// The caller cancelled.
    Cancelled,
}

impl HubError {
    pub(crate) fn invalid(what: impl Into<String>, expected: impl Into<String>) -> Self {
        HubError::Invalid { what: what.into(), expected: expected.into() }
    }

    pub(crate) fn bad(what: impl Into<String>, why: impl Into<String>) -> Self {
        HubError::BadAnswer { what: what.into(), why: why.into() }
    }

    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(
            self,
            HubError::RateLimited { .. }
                | HubError::Unreachable { .. }
                | HubError::TimedOut { .. }
                | HubError::Server { .. }
                | HubError::Cut { .. }
                | HubError::NameLookup { .. }
        )
    }

    /// How long the host asks to wait.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        match self {
            HubError::RateLimited { wait, .. } | HubError::Server { wait, .. } => *wait,
            _ => None,
        }
    }

    /// What happened, without the remedy.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            HubError::NotFound { repo, .. } => format!("the Hub has no model {repo}"),
            HubError::RevisionMissing { repo, revision } => format!("the model {repo} has no revision `{revision}`"),
            HubError::FileMissing { repo, file } => format!("the model {repo} has no file {file}"),
            HubError::Gated { repo, .. } => format!("the model {repo} is gated: its owners let in whom they accept"),
            HubError::Unauthorised { host, withheld: false } => format!("{host} does not accept the token"),
            HubError::Unauthorised { host, withheld: true } => {
                format!("{host} asks for a token, which is not sent there over plain http")
            }
            HubError::Forbidden { why } => format!("the Hub refuses: {why}"),
            HubError::RateLimited { host, wait: Some(wait) } => {
                format!("too many requests: {host} asks to wait {} s", wait.as_secs())
            }
            HubError::RateLimited { host, wait: None } => format!("too many requests for {host}"),
            HubError::Offline { what } => format!("{what} needs the network, which is switched off"),
            HubError::DiskFull { path, room: Some((needed, free)) } => format!(
                "not enough space in {}: {} are needed, {} are free",
                path.display(),
                human(*needed),
                human(*free)
            ),
            HubError::DiskFull { path, room: None } => format!("the disk is full at {}", path.display()),
            HubError::NameLookup { host } => format!("the name {host} has no address"),
            HubError::Unreachable { host, why } => format!("{host} cannot be reached: {why}"),
            HubError::Tls { host, why } => format!("no trusted connection to {host}: {why}"),
            HubError::TimedOut { host, after } => format!("nothing came from {host} for {} s", after.as_secs_f32()),
            HubError::Server { host, status, .. } => format!("{host} answered with status {status}"),
            HubError::Cut { host, why } => format!("the connection to {host} broke: {why}"),
            HubError::BadAnswer { what, why } => format!("the answer about {what} makes no sense: {why}"),
            HubError::Changed { file } => format!("{file} changes on the Hub while it is fetched"),
            HubError::Corrupt { file, expected, found } => {
                format!("{file} came damaged twice and was thrown away: {expected} was promised, {found} came")
            }
            HubError::HostileName { name, why } => format!("the file name `{name}` is refused: {why}"),
            HubError::NoWeights { repo, formats } => {
                format!("the model {repo} has no weights in safetensors, only {formats}")
            }
            HubError::NotCached { repo, missing } if missing.is_empty() => {
                format!("the model {repo} is not in the cache")
            }
            HubError::NotCached { repo, missing } => {
                format!("the model {repo} is not whole in the cache: {} missing", listed(missing))
            }
            HubError::Busy { repo } => format!("another process is downloading {repo}"),
            HubError::Invalid { what, .. } => what.clone(),
            HubError::Io { what, source } => format!("{what}: {source}"),
            HubError::Cancelled => "cancelled".to_owned(),
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let remedy = match self {
            HubError::NotFound { signed_in: false, .. } => {
                "check its name, and if it is private, sign in with `mlxengine login`".into()
            }
            HubError::NotFound { .. } => "check its name, and whether your token may read it".into(),
            HubError::RevisionMissing { .. } => "give a branch, a tag or a commit of it, or none for main".into(),
            HubError::FileMissing { .. } => "check the name; `mlxengine pull --list` shows what there is".into(),
            HubError::Gated { page, signed_in: true, .. } => format!("ask for access at {page}"),
            HubError::Gated { page, .. } => {
                format!("ask for access at {page}, then sign in with `mlxengine login`")
            }
            HubError::Unauthorised { withheld: false, .. } => {
                "make a new one at https://huggingface.co/settings/tokens, then `mlxengine login`".into()
            }
            HubError::Unauthorised { .. } => "use an https address in HF_ENDPOINT".into(),
            HubError::RateLimited { .. } => "try again later; with a token more requests are allowed".into(),
            HubError::Offline { .. } => "unset HF_HUB_OFFLINE".into(),
            HubError::DiskFull { .. } => {
                "what has come is kept: make room, with `mlxengine prune` for one, and do the same again".into()
            }
            HubError::NameLookup { .. } => "check the network and HF_ENDPOINT".into(),
            HubError::Unreachable { .. } => "check the network, the proxy and HF_ENDPOINT".into(),
            HubError::Tls { .. } => {
                "check the clock, the proxy, and that the system's certificates are installed".into()
            }
            HubError::TimedOut { .. } | HubError::Server { .. } | HubError::Cut { .. } => {
                "do the same again: it goes on where it stopped".into()
            }
            HubError::BadAnswer { .. } => "check HF_ENDPOINT: is it a Hub?".into(),
            HubError::Changed { .. } => "do the same again in a while".into(),
            HubError::Corrupt { .. } => {
                "try again later; if it stays so, the network or the Hub changes what it sends".into()
            }
            HubError::HostileName { .. } => "do not use this repository".into(),
            HubError::NoWeights { .. } => "look for a conversion with `mlxengine search`".into(),
            HubError::NotCached { repo, .. } => format!("fetch it with `mlxengine pull {repo}`"),
            HubError::Busy { .. } => "wait until it has ended".into(),
            HubError::Invalid { expected, .. } => expected.clone(),
            HubError::Forbidden { .. } | HubError::Io { .. } | HubError::Cancelled => return None,
        };
        Some(remedy)
    }
}

/// The first names of a list, and how many more there are.
fn listed(names: &[String]) -> String {
    const MOST: usize = 3;
    let first = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    let verb = if names.len() == 1 { "is" } else { "are" };
    match names.len().saturating_sub(MOST) {
        0 => format!("{first} {verb}"),
        more => format!("{first} and {more} more are"),
    }
}

/// Bytes as people write them: `4.7 GB`.
#[must_use]
pub fn human(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut size, mut unit) = (bytes as f64 / 1000.0, 0);
    while size >= 999.5 && unit + 1 < units.len() {
        (size, unit) = (size / 1000.0, unit + 1);
    }
    if size < 9.95 { format!("{size:.1} {}", units[unit]) } else { format!("{size:.0} {}", units[unit]) }
}

impl fmt::Display for HubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())?;
        self.remedy().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl std::error::Error for HubError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            HubError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Puts words to the operating system's errors: `cannot write PATH`.
pub(crate) trait During<T> {
    fn during(self, what: &str, path: &Path) -> Result<T>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                HubError::DiskFull { path: path.to_owned(), room: None }
            }
            _ => HubError::Io { what: format!("cannot {what} {}", path.display()), source },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_sentence_with_a_remedy() {
        let gated = HubError::Gated { repo: "a/b".into(), page: "https://h/a/b".into(), signed_in: true };
        let want = "the model a/b is gated: its owners let in whom they accept; ask for access at https://h/a/b";
        assert_eq!(gated.to_string(), want);
        let missing = HubError::NotCached { repo: "a/b".into(), missing: vec!["config.json".into()] };
        assert!(missing.to_string().contains("config.json is missing; fetch it with `mlxengine pull a/b`"));
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(matches!(Err::<(), _>(full).during("write", Path::new("x")), Err(HubError::DiskFull { .. })));
    }

    #[test]
    fn sizes_as_people_write_them() {
        assert_eq!(
            [999, 1000, 4_650_000_000, 12_345_678, 999_999].map(human),
            ["999 B", "1.0 kB", "4.7 GB", "12 MB", "1.0 MB"]
        );
    }
}
