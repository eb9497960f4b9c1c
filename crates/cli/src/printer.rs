//! Standard output and standard error: the only file that prints.
//!
//! Data goes to standard output, everything else to standard error. Whatever is said is complete without colours.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::{Result, Stop, io};
use crate::settings::Abilities;

/// Where a command's words go.
#[derive(Clone, Copy)]
pub struct Printer {
    /// Whether a person sees standard output, or standard error.
    seen: [bool; 2],
    can: Abilities,
}

const OUT: usize = 0;
const ERR: usize = 1;

impl Printer {
    /// A printer for this process; `can` is what terminals understand.
    pub fn new(can: Abilities) -> Self {
        Self { seen: [stdout().is_terminal(), stderr().is_terminal()], can }
    }

    /// Whether a person sees standard output.
    pub fn is_terminal(&self) -> bool {
        self.seen[OUT]
    }

    /// Whether what a person sees has colours.
    pub fn has_colours(&self) -> bool {
        self.can.colours && self.seen[OUT]
    }

    /// Prints data to standard output at once.
    pub fn text(&self, text: &str) -> Result<()> {
        let mut out = stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Stop::Closed),
            Err(e) => Err(io("cannot write to standard output", e).into()),
        }
    }

    /// Prints a line of data.
    pub fn line(&self, text: &str) -> Result<()> {
        self.text(&format!("{text}\n"))
    }

    /// Prints a piece of what a model said. On a terminal it cannot move the cursor or change a setting.
    pub fn answer(&self, piece: &str) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        if self.seen[OUT] { self.text(&harmless(piece)) } else { self.text(piece) }
    }

    /// Prints a piece of what a model thought.
    pub fn thought(&self, piece: &str) -> Result<()> {
        if piece.is_empty() { Ok(()) } else { self.text(&self.dim(&harmless(piece))) }
    }

    /// The same for a whole text, with its line end.
    pub fn answer_line(&self, text: &str) -> Result<()> {
        self.answer(text)?;
        self.text("\n")
    }

    /// Text that stands out on standard output.
    pub fn bold(&self, text: &str) -> String {
        self.styled(OUT, "1", text)
    }

    /// Text that stands back on standard output.
    pub fn dim(&self, text: &str) -> String {
        self.styled(OUT, "2", text)
    }

    fn styled(&self, stream: usize, style: &str, text: &str) -> String {
        if self.can.colours && self.seen[stream] { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Says something beside the data.
    pub fn note(&self, text: &str) {
        self.aside(&self.styled(ERR, "2", text));
    }

    /// Says what went wrong.
    pub fn error(&self, error: &dyn Display) {
        self.aside(&format!("{} {error}", self.styled(ERR, "1;31", "error:")));
    }

    /// Says what else may help.
    pub fn hint(&self, text: &str) {
        self.aside(&format!("{} {text}", self.styled(ERR, "1;36", "hint:")));
    }

    /// If nobody listens on standard error, nothing can be done about it.
    fn aside(&self, line: &str) {
        let _ = writeln!(stderr(), "{line}");
    }

    /// Whether bars may be drawn on standard error.
    pub fn has_bars(&self) -> bool {
        self.seen[ERR] && self.can.bars
    }

    /// A bar on standard error, for something that may take a while.
    pub fn bar(&self, what: impl Into<String>, unit: &'static str) -> Bar {
        Bar { what: what.into(), unit, visible: self.has_bars(), started: None, bar: None }
    }
}

/// Without characters that a terminal obeys.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A bar that appears only if the work takes long enough to wonder, and only where a person sees it.
pub struct Bar {
    what: String,
    unit: &'static str,
    visible: bool,
    /// When the first count came, and which.
    started: Option<(Instant, usize)>,
    bar: Option<ProgressBar>,
}

/// Nobody wonders before this.
const PATIENCE: Duration = Duration::from_millis(300);

impl Bar {
    /// Whether a person would see it.
    pub fn is_visible(&self) -> bool {
        self.visible
    }

    /// Shows that `done` of `total` are done.
    pub fn update(&mut self, done: usize, total: usize) {
        if !self.visible {
            return;
        }
        if done >= total {
            return self.clear();
        }
        let (since, first) = *self.started.get_or_insert((Instant::now(), done));
        let elapsed = since.elapsed();
        if elapsed < PATIENCE && self.bar.is_none() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix} [{bar:24}] {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.with_style(style.progress_chars("=> ")).with_prefix(self.what.clone())
        });
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        bar.set_message(rate(done, total, self.unit, (done - first.min(done)) as f64 / elapsed.as_secs_f64()));
        bar.tick();
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

/// `1024/4096 tokens, 410/s, 7 s left`.
pub fn rate(done: usize, total: usize, unit: &str, speed: f64) -> String {
    let digits = if speed < 9.95 { 1 } else { 0 };
    if speed > 0.0 {
        format!("{done}/{total} {unit}, {speed:.digits$}/s, {:.0} s left", ((total - done) as f64 / speed).ceil())
    } else {
        format!("{done}/{total} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\x1b[2J\tß\n\u{9b}1m\r"), "a\u{fffd}[2J\tß\n\u{fffd}1m\u{fffd}");
    }

    #[test]
    fn rates_read_well() {
        assert_eq!(rate(1024, 4096, "tokens", 410.0), "1024/4096 tokens, 410/s, 8 s left");
        assert_eq!(rate(2, 10, "prompts", 0.4), "2/10 prompts, 0.4/s, 20 s left");
        assert_eq!(rate(0, 10, "layers", 0.0), "0/10 layers");
    }
}
