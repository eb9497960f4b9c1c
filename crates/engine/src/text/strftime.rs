//! A date and a time of day, written as Python's `strftime` writes them.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A date and a time of day without a time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CivilTime {
    /// The year, such as 2026.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl CivilTime {
    /// The present in UTC. Local time needs the system's time-zone files; a caller that wants it injects a clock.
    pub fn now_utc() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        CivilTime::from_unix(i64::try_from(since.as_secs()).unwrap_or(0))
    }

    /// The UTC time `seconds` after 1970.
    pub fn from_unix(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Years that begin in March put the leap day last, so that day counts are linear in the month.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let small = |n: i64| u8::try_from(n).unwrap_or(0);
        CivilTime {
            year: i32::try_from(year).unwrap_or(i32::MAX),
            month: small(month),
            day: small(day_of_year - (153 * shifted_month + 2) / 5 + 1),
            hour: small(rest / 3_600),
            minute: small(rest / 60 % 60),
            second: small(rest % 60),
        }
    }

    /// Days since 1970.
    fn days(&self) -> i64 {
        let year = i64::from(self.year) - i64::from(self.month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let shifted_month = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(self.day) - 1;
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
    }

    /// 0 is Sunday.
    fn weekday(&self) -> usize {
        usize::try_from((self.days() + 4).rem_euclid(7)).unwrap_or(0)
    }

    fn day_of_year(&self) -> i64 {
        self.days() - CivilTime { month: 1, day: 1, ..*self }.days() + 1
    }

    fn month_name(&self) -> &'static str {
        MONTHS[usize::from(self.month.clamp(1, 12)) - 1]
    }

    fn hour12(&self) -> u8 {
        (self.hour + 11) % 12 + 1
    }

    /// This time in `format`, in the C locale. Unknown directives stay as they are.
    pub fn format(&self, format: &str) -> String {
        let mut out = String::with_capacity(format.len() + 16);
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('-') => match chars.next() {
                    Some(directive) => {
                        let mut padded = String::new();
                        self.directive(directive, &mut padded);
                        let bare = padded.trim_start_matches(['0', ' ']);
                        out.push_str(if bare.is_empty() { "0" } else { bare });
                    }
                    None => out.push_str("%-"),
                },
                Some(directive) => self.directive(directive, &mut out),
                None => out.push('%'),
            }
        }
        out
    }

    fn directive(&self, directive: char, out: &mut String) {
        let nested = |format: &str| self.format(format);
        // Writing to a string cannot fail.
        let _ = match directive {
            'Y' => write!(out, "{:04}", self.year),
            'y' => write!(out, "{:02}", self.year.rem_euclid(100)),
            'C' => write!(out, "{:02}", self.year.div_euclid(100)),
            'm' => write!(out, "{:02}", self.month),
            'd' => write!(out, "{:02}", self.day),
            'e' => write!(out, "{:2}", self.day),
            'H' => write!(out, "{:02}", self.hour),
            'I' => write!(out, "{:02}", self.hour12()),
            'M' => write!(out, "{:02}", self.minute),
            'S' => write!(out, "{:02}", self.second),
            'f' => write!(out, "000000"),
            'p' => write!(out, "{}", if self.hour < 12 { "AM" } else { "PM" }),
            'j' => write!(out, "{:03}", self.day_of_year()),
            'w' => write!(out, "{}", self.weekday()),
            'u' => write!(out, "{}", (self.weekday() + 6) % 7 + 1),
            'B' => write!(out, "{}", self.month_name()),
            'b' | 'h' => write!(out, "{}", &self.month_name()[..3]),
            'A' => write!(out, "{}", DAYS[self.weekday()]),
            'a' => write!(out, "{}", &DAYS[self.weekday()][..3]),
            's' => write!(
                out,
                "{}",
                self.days() * 86_400
                    + i64::from(self.hour) * 3_600
                    + i64::from(self.minute) * 60
                    + i64::from(self.second)
            ),
            'F' => write!(out, "{}", nested("%Y-%m-%d")),
            'T' | 'X' => write!(out, "{}", nested("%H:%M:%S")),
            'R' => write!(out, "{}", nested("%H:%M")),
            'D' | 'x' => write!(out, "{}", nested("%m/%d/%y")),
            'c' => write!(out, "{}", nested("%a %b %e %H:%M:%S %Y")),
            'n' => out.write_char('\n'),
            't' => out.write_char('\t'),
            '%' => out.write_char('%'),
            // A time without a zone has neither offset nor name, in Python too.
            'z' | 'Z' => Ok(()),
            other => write!(out, "%{other}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_days() {
        for (seconds, want) in [
            (0, "Thu 1970-01-01 00:00:00 001"),
            (951_782_399, "Mon 2000-02-28 23:59:59 059"),
            (951_868_800, "Wed 2000-03-01 00:00:00 061"),
            (1_709_164_800, "Thu 2024-02-29 00:00:00 060"),
            (4_107_542_399, "Sun 2100-02-28 23:59:59 059"),
            (-1, "Wed 1969-12-31 23:59:59 365"),
        ] {
            let time = CivilTime::from_unix(seconds);
            assert_eq!(time.format("%a %F %T %j"), want);
            assert_eq!(time.format("%s"), seconds.to_string());
        }
    }

    #[test]
    fn formats() {
        let time = CivilTime { year: 2025, month: 3, day: 9, hour: 14, minute: 5, second: 6 };
        assert_eq!(
            time.format("%d %b %Y, %B %-d, %-I:%M %p%Z %e|%Q|100%%|%"),
            "09 Mar 2025, March 9, 2:05 PM  9|%Q|100%|%"
        );
        assert_eq!(CivilTime { hour: 0, ..time }.format("%I %-H %p"), "12 0 AM");
    }
}
