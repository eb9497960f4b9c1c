//! When to try again, and how long to wait before.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;

use crate::config::Transfer;
use crate::error::HubError;
use crate::http::text;

/// Failures in a row, and the pauses after them.
pub(crate) struct Retry {
    left: u32,
    attempts: u32,
    next: Duration,
    first: Duration,
    patience: Duration,
}

impl Retry {
    pub(crate) fn new(transfer: &Transfer) -> Self {
        let attempts = transfer.attempts.max(1);
        Self { left: attempts, attempts, next: transfer.pause, first: transfer.pause, patience: transfer.patience }
    }

    /// Something came: the failures before it do not count any more.
    pub(crate) fn progressed(&mut self) {
        (self.left, self.next) = (self.attempts, self.first);
    }

    /// The pause after a failure, or nothing if it is time to give up.
    pub(crate) fn after(&mut self, error: &HubError) -> Option<Duration> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 || !error.passes() {
            return None;
        }
        // Half of the pause is chance, so that those who failed together do not come back together.
        let pause = self.next.mul_f64(0.5 + 0.5 * chance());
        self.next = (self.next * 2).min(Duration::from_secs(20));
        match error.wait() {
            Some(wait) if wait > self.patience => None,
            Some(wait) => Some(wait + pause),
            None => Some(pause),
        }
    }
}

/// A number from 0 to 1.
fn chance() -> f64 {
    RandomState::new().hash_one(0u8) as f64 / u64::MAX as f64
}

/// How long a host asks to wait: `Retry-After` in seconds or as a date, or `RateLimit: "api";r=0;t=55`.
pub(crate) fn asked_to_wait(headers: &HeaderMap) -> Option<Duration> {
    let after = text(headers, "retry-after").map(str::trim).and_then(|value| seconds(value).or_else(|| until(value)));
    after.or_else(|| {
        let limit = text(headers, "ratelimit")?;
        let field = |name: &str| limit.split(';').find_map(|part| part.trim().strip_prefix(name)?.trim().parse().ok());
        let seconds: u64 = field("t=").filter(|_| field("r=").is_none_or(|left| left == 0))?;
        // A second more, because theirs are rounded.
        Some(Duration::from_secs(seconds.saturating_add(1)))
    })
}

/// Seconds that may be fractions, none of them negative or endless.
fn seconds(value: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(value.parse().ok()?).ok()
}

/// The time until a date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn until(date: &str) -> Option<Duration> {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds_of(date)?);
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

fn seconds_of(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = date.split(' ').collect();
    let [_, day, month, year, time, "GMT"] = words[..] else { return None };
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let clock: Vec<u64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = clock[..] else { return None };
    if !(1970..=9999).contains(&year) || day == 0 || day > 31 || hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    // Days since 1970, counted in years that begin in March so that leap days come last.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn hosts_say_how_long() {
        let wait = |name, value: &str| asked_to_wait(&headers(name, value)).map(|wait| wait.as_secs_f32());
        assert_eq!(wait("retry-after", "7"), Some(7.0));
        assert_eq!(wait("retry-after", "0.5"), Some(0.5));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(0.0));
        assert_eq!(wait("ratelimit", "\"api\";r=0;t=55"), Some(56.0));
        assert_eq!(wait("ratelimit", "\"api\";r=3;t=55"), None);
        assert!(["soon", "-1", "inf", "1e999"].iter().all(|value| wait("retry-after", value).is_none()));
    }

    #[test]
    fn dates() {
        assert_eq!(seconds_of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds_of("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(seconds_of("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert!(
            ["", "x", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 06 Foo 1994 08:49:37 GMT"]
                .iter()
                .all(|d| seconds_of(d).is_none())
        );
    }

    #[test]
    fn pauses_grow_and_end() {
        let transfer = Transfer { attempts: 4, pause: Duration::from_secs(1), ..Transfer::default() };
        let cut = HubError::Cut { host: "h".into(), why: "w".into() };
        let mut retry = Retry::new(&transfer);
        let pauses: Vec<_> = std::iter::from_fn(|| retry.after(&cut)).collect();
        assert_eq!(pauses.len(), 3);
        for (pause, most) in pauses.iter().zip([1, 2, 4]) {
            assert!(*pause >= Duration::from_secs(most) / 2 && *pause <= Duration::from_secs(most), "{pauses:?}");
        }
        retry.progressed();
        assert!(retry.after(&cut).is_some() && retry.after(&HubError::Cancelled).is_none());
        let long = HubError::RateLimited { host: "h".into(), wait: Some(Duration::from_secs(9999)) };
        assert_eq!(Retry::new(&transfer).after(&long), None);
    }
}
