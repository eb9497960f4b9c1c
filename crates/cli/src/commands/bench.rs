//! `mlxengine bench`: how fast a model reads and writes on this machine.

use std::time::{Duration, Instant};

use mlxengine::bench::{Benchmark, Measured, Test};
use mlxengine::memory::human;
use mlxengine::{CancelToken, device};
use serde_json::json;

use crate::App;
use crate::arguments::{BenchArguments, Exactness};
use crate::failure::{Result, Stop, invalid};
use crate::fetch;

/// Measures every test with every number of threads, and prints each as it is done.
pub fn run(arguments: &BenchArguments, app: &App) -> Result<()> {
    let tests = tests(arguments)?;
    let begun = Instant::now();
    fetch::ensure(&arguments.model, app)?;
    let mut bar = app.printer.bar("loading", "layers");
    let options = app.settings.load_options(&arguments.load);
    let model = Benchmark::load(&arguments.model, &options, |progress| bar.update(progress.done, progress.total))?;
    drop(bar);
    tests.iter().try_for_each(|test| model.check(test))?;
    let load = begun.elapsed();
    model.first_token()?;
    let report = Report { arguments, app, model: &model, load, first_token: app.started.elapsed() };
    let cancel = CancelToken::new();
    let _guard = app.interrupts.guard(cancel.clone());
    report.head()?;
    let most = [device::current().threads];
    let counts = if arguments.thread_counts.is_empty() { &most[..] } else { &arguments.thread_counts };
    let (mut limits, mut largest) = (Vec::new(), None::<Measured>);
    for &threads in counts {
        device::limit_threads(threads)?;
        let limit = Limit { threads, speed: device::memory_speed(), integers: device::integer_speed() };
        for test in &tests {
            let mut bar = app.printer.bar(test.to_string(), "tokens");
            let mut progress = |done, all| bar.update(done, all);
            let measured = model.run(test, arguments.repetitions, &cancel, &mut progress)?;
            drop(bar);
            if !measured.rates.is_empty() {
                report.row(test, &measured, &limit)?;
            }
            if cancel.is_cancelled() {
                return Err(Stop::Interrupted);
            }
            if largest.as_ref().is_none_or(|l| measured.peak_memory > l.peak_memory) {
                largest = Some(measured);
            }
        }
        limits.push(limit);
    }
    report.foot(&limits, largest.as_ref())
}

/// Every combination that was asked for.
fn tests(arguments: &BenchArguments) -> Result<Vec<Test>> {
    let one = |prompt, generated| Test { prompt, generated, depth: 0, sequences: 1 };
    let mut tests = Vec::new();
    for &depth in &arguments.n_depth {
        tests.extend(arguments.n_prompt.iter().map(|&n| Test { depth, ..one(n, 0) }));
        for &sequences in &arguments.batch {
            tests.extend(arguments.n_gen.iter().map(|&n| Test { depth, sequences, ..one(0, n) }));
        }
        tests.extend(arguments.pg.iter().map(|&(p, n)| Test { depth, ..one(p, n) }));
    }
    tests.retain(|test| test.tokens() > 0);
    if tests.is_empty() {
        return Err(invalid("there is nothing to measure: -p and -n are 0")
            .with_remedy("give one of them a number")
            .into());
    }
    Ok(tests)
}

/// What so many threads can do.
struct Limit {
    threads: usize,
    /// Bytes of memory that they read in a second.
    speed: f64,
    /// See [`device::integer_speed`].
    integers: Option<f64>,
}

/// Where results go.
struct Report<'a> {
    arguments: &'a BenchArguments,
    app: &'a App,
    model: &'a Benchmark,
    load: Duration,
    /// Since the program's start.
    first_token: Duration,
}

/// Headings of the columns after the model's, with their widths.
const COLUMNS: [(&str, usize); 8] = [
    ("size", 8),
    ("params", 8),
    ("precision", 9),
    ("threads", 7),
    ("test", 14),
    ("tok/s", 17),
    ("read", 10),
    ("of memory's speed", 17),
];

impl Report<'_> {
    fn head(&self) -> Result<()> {
        if self.arguments.json {
            return Ok(());
        }
        self.columns("model", COLUMNS.map(|(heading, _)| heading.to_owned()))?;
        let name = "-".repeat(self.name().chars().count().max(5) + 2);
        let rules = COLUMNS.map(|(_, width)| format!("|{}:", "-".repeat(width + 1)));
        self.app.printer.line(&format!("|{name}{}|", rules.concat()))
    }

    /// The last part of what the user calls the model.
    fn name(&self) -> &str {
        let model = self.arguments.model.as_str();
        model.rsplit('/').find(|part| !part.is_empty()).unwrap_or(model)
    }

    fn columns(&self, name: &str, cells: [String; 8]) -> Result<()> {
        let cells: Vec<String> =
            cells.iter().zip(COLUMNS).map(|(cell, (_, width))| format!(" | {cell:>width$}")).collect();
        let width = self.name().chars().count().max(5);
        self.app.printer.answer_line(&format!("| {name:width$}{} |", cells.concat()))
    }

    /// One result.
    fn row(&self, test: &Test, measured: &Measured, limit: &Limit) -> Result<()> {
        let (mean, deviation) = (measured.mean(), measured.deviation());
        // Passes over the weights a second, and so bytes.
        let read = measured.pass_bytes.map(|bytes| bytes as f64 * mean / test.sequences as f64);
        if self.arguments.json {
            return self.object(test, measured, limit, read);
        }
        self.columns(
            self.name(),
            [
                human(self.model.bytes()),
                count(self.model.parameters()),
                precision(self.arguments).to_owned(),
                limit.threads.to_string(),
                test.to_string(),
                format!("{mean:.2} ± {deviation:.2}"),
                read.map_or("–".to_owned(), |read| format!("{}/s", human(read as u64))),
                read.map_or("–".to_owned(), |read| format!("{:.0} %", 100.0 * read / limit.speed)),
            ],
        )
    }

    fn object(&self, test: &Test, measured: &Measured, limit: &Limit, read: Option<f64>) -> Result<()> {
        let mean = measured.mean();
        let object = json!({
            "metric": test.to_string(),
            "tok_s": rounded(mean),
            "deviation": rounded(measured.deviation()),
            "samples": measured.rates.iter().copied().map(rounded).collect::<Vec<_>>(),
            "threads": limit.threads,
            "precision": precision(self.arguments),
            "instruction_set": device::current().instruction_set,
            "model": self.arguments.model,
            "weights": self.model.storage().first().map(|share| share.format.clone()),
            "parameters": self.model.parameters(),
            "prompt": test.prompt,
            "generated": test.generated,
            "depth": test.depth,
            "sequences": test.sequences,
            "read_gb_s": read.map(|read| rounded(read / 1e9)),
            "memory_gb_s": rounded(limit.speed / 1e9),
            "int8_gop_s": limit.integers.map(|speed| rounded(speed / 1e9)),
            "memory_fraction": read.map(|read| rounded(read / limit.speed)),
            "load_ms": milliseconds(self.load),
            "first_token_ms": milliseconds(self.first_token),
            "weight_bytes": self.model.bytes(),
            "cache_bytes": measured.cache_bytes,
            "peak_memory_bytes": measured.peak_memory,
        });
        self.app.printer.line(&object.to_string())
    }

    /// What is true of all results.
    fn foot(&self, limits: &[Limit], largest: Option<&Measured>) -> Result<()> {
        if self.arguments.json {
            return Ok(());
        }
        let print = |line: String| self.app.printer.line(&line);
        let formats: Vec<String> = self.model.storage().into_iter().map(|share| share.format).collect();
        let of = |speed: &dyn Fn(&Limit) -> Option<String>| -> Vec<String> {
            limits.iter().filter_map(|l| Some(format!("{} on {}", speed(l)?, threads(l.threads)))).collect()
        };
        let memory = of(&|limit| Some(format!("{}/s", human(limit.speed as u64))));
        let integers = of(&|limit| Some(format!("{:.0} GOP/s", limit.integers? / 1e9)));
        print(String::new())?;
        print(format!("weights: {}; instruction set: {}", formats.join(", "), device::current().instruction_set))?;
        print(format!("memory reads at {}", memory.join(", ")))?;
        if !integers.is_empty() {
            print(format!("8-bit integers are multiplied at {}", integers.join(", ")))?;
        }
        let (load, first) = (milliseconds(self.load), milliseconds(self.first_token));
        print(format!("loaded in {load} ms; first token {first} ms after the program's start"))?;
        let Some((measured, peak)) = largest.and_then(|m| Some((m, m.peak_memory?))) else { return Ok(()) };
        let (weights, cache) = (human(self.model.bytes()), human(measured.cache_bytes));
        print(format!("peak memory {}, of it weights {weights} and cache {cache}", human(peak)))
    }
}

fn precision(arguments: &BenchArguments) -> &'static str {
    match arguments.load.precision {
        Exactness::Exact => "exact",
        Exactness::Fast => "fast",
    }
}

fn threads(count: usize) -> String {
    if count == 1 { "1 thread".to_owned() } else { format!("{count} threads") }
}

/// A large number in a few letters: `494 M`.
fn count(number: u64) -> String {
    match number as f64 {
        n if n >= 999.5e6 => format!("{:.2} B", n / 1e9),
        n if n >= 99.5e6 => format!("{:.0} M", n / 1e6),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        _ => number.to_string(),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}

fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        assert_eq!(
            [count(999), count(5_770_000), count(494_032_768), count(1_235_814_400)],
            ["999", "5.8 M", "494 M", "1.24 B"]
        );
        assert_eq!(milliseconds(Duration::from_micros(12_345)), 12.3);
    }
}
