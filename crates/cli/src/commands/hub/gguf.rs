//! `mlxengine import` of GGUF files: models that other programs left on this machine.

use std::path::Path;

use mlxengine::gguf::{self, Inexact, Report};
use mlxengine::memory::human;
use serde_json::json;

use crate::App;
use crate::failure::Result;
use crate::hub_arguments::ImportArguments;
use crate::load::watched;

/// Writes the model into a directory of its own, and says what it lost.
pub fn run(arguments: &ImportArguments, app: &App) -> Result<()> {
    let file = &arguments.file;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let place = app.settings.new_model(arguments.name.as_deref().unwrap_or(&stem))?;
    let report = watched(app, |progress| gguf::import(file, &place.directory, progress))?;
    if arguments.json {
        return app.printer.line(&format!("{:#}", object(&report, &place.directory, &place.address)));
    }
    for line in lines(&report) {
        app.printer.line(&line)?;
    }
    app.printer.line(&format!("written to {}", place.directory.display()))?;
    app.printer.hint(&format!("mlxengine chat {}", place.address));
    Ok(())
}

/// What was imported, and what that cost.
fn lines(report: &Report) -> Vec<String> {
    let mut lines = vec![format!("{}: {} tensors, {}", report.architecture, report.tensors, human(report.bytes))];
    if report.inexact.is_empty() {
        lines.push("every weight is exactly what the file says".to_owned());
    } else {
        lines.extend(report.inexact.iter().map(loss));
        lines.push(format!("together {}", percent(report.deviation.relative())));
    }
    lines
}

/// One encoding's part of the loss.
fn loss(entry: &Inexact) -> String {
    let how = if entry.requantized { "quantized anew as" } else { "the same codes, scales rounded, in" };
    format!(
        "{} ({} tensors): {how} {}; {}, at most {} in {}",
        entry.encoding.name(),
        entry.tensors,
        entry.format,
        percent(entry.deviation.relative()),
        percent(entry.worst.1),
        entry.worst.0
    )
}

fn percent(relative: f64) -> String {
    format!("RMS error {:.3} %", 100.0 * relative)
}

fn object(report: &Report, directory: &Path, address: &str) -> serde_json::Value {
    let inexact = report.inexact.iter().map(|entry| {
        json!({
            "encoding": entry.encoding.name(), "stored_as": entry.format.to_string(), "requantized": entry.requantized,
            "tensors": entry.tensors, "relative_rms_error": entry.deviation.relative(),
            "worst": {"tensor": entry.worst.0, "relative_rms_error": entry.worst.1},
        })
    });
    json!({
        "model": address, "directory": directory, "architecture": report.architecture, "tensors": report.tensors,
        "bytes": report.bytes, "relative_rms_error": report.deviation.relative(),
        "inexact": inexact.collect::<Vec<_>>(),
    })
}
