//! `mlxengine fuse`: a model and an adapter as one checkpoint.

use mlxengine::{FuseOptions, Loss, fuse};

use crate::App;
use crate::arguments::FuseArguments;
use crate::failure::Result;

/// Merges, and prints what storing the result has lost.
pub fn run(arguments: &FuseArguments, app: &App) -> Result<()> {
    let options =
        FuseOptions { paths: app.settings.paths().clone(), dequantize: arguments.dequantize, force: arguments.force };
    let mut bar = app.printer.bar("merging", "tensors");
    let report = fuse(&arguments.model, &arguments.adapter, &arguments.output, &options, |progress| {
        bar.update(progress.done, progress.total);
    });
    drop(bar);
    let report = report?;
    let total = report.total();
    let changed = report.losses.iter().filter(|loss| loss.change > 0.0).count();
    app.printer.line(&format!("{changed} modules merged into {}", arguments.output.display()))?;
    app.printer.line(&format!("lost by storing: {} of the weights{}", percent(total.relative()), of_change(&total)))?;
    if let Some(worst) = report.worst() {
        let (module, lost) = (&worst.module, percent(worst.relative()));
        app.printer.line(&format!("at worst: {lost} in {module}{}", of_change(worst)))?;
    }
    if let Some(agreement) = report.agreement {
        let (same, divergence) = (agreement.same * 100.0, agreement.divergence);
        let text = format!(
            "on a short text: {same:.0}% of the likeliest tokens are the same, divergence {divergence:.1e} nats"
        );
        app.printer.line(&text)?;
    }
    if total.of_change().is_some_and(|ratio| ratio > 0.5) {
        let note = "storing loses much of what the adapter brings: use --dequantize, or --adapter without merging";
        app.printer.note(note);
    }
    Ok(())
}

fn percent(ratio: f64) -> String {
    format!("{:.3}%", ratio * 100.0)
}

fn of_change(loss: &Loss) -> String {
    loss.of_change().map_or_else(String::new, |ratio| format!(", {:.1}% of the change", ratio * 100.0))
}
