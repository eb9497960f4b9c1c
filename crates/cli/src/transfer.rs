//! How a download shows itself: bars where a person watches, lines elsewhere.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mlxengine::hub::{Event, human};

use crate::printer::Printer;

/// Between two lines about one file, where there are no bars.
const LINES: Duration = Duration::from_secs(10);

/// What is shown of a download.
pub struct Transfer<'a> {
    printer: &'a Printer,
    state: Mutex<State>,
}

struct State {
    /// The bars, the last of them that of all files; none where lines are written.
    bars: Option<MultiProgress>,
    total: Option<ProgressBar>,
    files: HashMap<String, File>,
    started: Instant,
    /// Bytes of the whole, those that were here before, and those here now.
    bytes: u64,
    before: u64,
    here: u64,
}

/// A file under way.
struct File {
    bar: Option<ProgressBar>,
    size: Option<u64>,
    here: u64,
    said: Instant,
}

impl<'a> Transfer<'a> {
    pub fn new(printer: &'a Printer) -> Self {
        let bars = printer.has_bars().then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        let state =
            State { bars, total: None, files: HashMap::new(), started: Instant::now(), bytes: 0, before: 0, here: 0 };
        Self { printer, state: Mutex::new(state) }
    }

    /// Hears of an event.
    pub fn hear(&self, event: &Event<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Listed { files, bytes, here, .. } => {
                (state.bytes, state.here, state.before) = (*bytes, *here, *here);
                state.started = Instant::now();
                if here < bytes {
                    let known =
                        if *here > 0 { format!(", {} of it here already", human(*here)) } else { String::new() };
                    self.say(&state, &format!("fetching {files} files, {}{known}", human(*bytes)));
                    state.total = state.bars.as_ref().map(|bars| bars.add(bar(*bytes, "all files")));
                }
            }
            Event::Started { file, size, here } => {
                let bar = state.new_bar(*size, file);
                let file = File { bar, size: *size, here: *here, said: Instant::now() }.known(file);
                state.files.insert(file.0, file.1);
            }
            Event::Came { file, here } => self.came(&mut state, file, *here),
            Event::Waiting { file } => {
                self.say(&state, &format!("{file}: waiting for another process that fetches it"))
            }
            Event::Retrying { file, why, pause } => {
                self.say(&state, &format!("{file}: {why}; trying again in {:.1} s", pause.as_secs_f64()));
            }
            Event::Finished { file, size } => {
                let known = state.files.remove(*file);
                if let Some(bar) = known.as_ref().and_then(|known| known.bar.as_ref()) {
                    bar.finish_and_clear();
                }
                // What was here before is no news.
                if known.is_some() {
                    self.say(&state, &format!("{file}: {}, verified", human(*size)));
                }
            }
            _ => {}
        }
    }

    fn came(&self, state: &mut State, name: &str, here: u64) {
        let State { files, started, before, here: all, bytes, total, .. } = state;
        let Some(file) = files.get_mut(name) else { return };
        *all = (*all + here).saturating_sub(file.here);
        file.here = here;
        let speed = all.saturating_sub(*before) as f64 / started.elapsed().as_secs_f64().max(0.001);
        if let Some(bar) = &file.bar {
            bar.set_position(here);
        }
        if let Some(total) = total {
            total.set_position(*all);
            total.set_message(rate(speed, bytes.saturating_sub(*all)));
        }
        if file.bar.is_none() && file.said.elapsed() >= LINES {
            file.said = Instant::now();
            let of = file.size.map_or_else(String::new, |size| format!(" of {}", human(size)));
            let line = format!("{name}: {}{of}; all: {}", human(here), rate(speed, bytes.saturating_sub(*all)));
            self.say(state, &line);
        }
    }

    fn say(&self, state: &State, line: &str) {
        match &state.bars {
            Some(bars) => bars.suspend(|| self.printer.note(line)),
            None => self.printer.note(line),
        }
    }
}

impl File {
    fn known(self, name: &str) -> (String, Self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.here);
        }
        (name.to_owned(), self)
    }
}

impl State {
    fn new_bar(&self, size: Option<u64>, name: &str) -> Option<ProgressBar> {
        let bars = self.bars.as_ref()?;
        let new = bar(size.unwrap_or(0), name);
        Some(match &self.total {
            Some(total) => bars.insert_before(total, new),
            None => bars.add(new),
        })
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for bar in state.files.values().filter_map(|file| file.bar.as_ref()).chain(&state.total) {
            bar.finish_and_clear();
        }
    }
}

fn bar(size: u64, name: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix:32!} [{bar:24}] {decimal_bytes:>9}/{decimal_total_bytes:9} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(size).with_style(style.progress_chars("=> ")).with_prefix(name.to_owned())
}

/// `12 MB/s, 30 s left`.
fn rate(speed: f64, left: u64) -> String {
    let seconds = if speed > 0.0 { (left as f64 / speed).ceil() } else { f64::INFINITY };
    let left = match seconds {
        s if s >= 360_000.0 => "days left".to_owned(),
        s if s >= 3600.0 => format!("{} h {} min left", (s / 3600.0) as u64, (s % 3600.0 / 60.0) as u64),
        s if s >= 120.0 => format!("{} min left", (s / 60.0) as u64),
        s => format!("{s} s left"),
    };
    format!("{}/s, {left}", human(speed as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_well() {
        assert_eq!(rate(12e6, 360_000_000), "12 MB/s, 30 s left");
        assert_eq!(rate(1e6, 7_260_000_000), "1.0 MB/s, 2 h 1 min left");
        assert_eq!(rate(0.0, 1), "0 B/s, days left");
    }
}
