//! `mlxengine doctor`: whether everything is in order here, and what a report of a fault needs.

use mlxengine::doctor::{Check, Found, Options, State, examine};
use mlxengine::hub::HubConfig;
use mlxengine::{EngineError, ErrorKind};

use crate::App;
use crate::device_arguments::DoctorArguments;
use crate::failure::{Result, invalid};
use crate::printer::Printer;

/// Looks at everything, prints it as it comes, and fails if something is wrong.
pub fn run(arguments: &DoctorArguments, app: &App) -> Result<()> {
    let known = app.settings.hub()?;
    let options = Options {
        hub: HubConfig { offline: known.offline || arguments.offline, ..known },
        paths: app.settings.paths().clone(),
        calibration: app.settings.calibration().map(ToOwned::to_owned),
        calibrate: arguments.calibrate,
        model: arguments.model.clone(),
        revision: Some(env!("MLXENGINE_REVISION").to_owned()).filter(|revision| !revision.is_empty()),
    };
    let mut printed = Ok(());
    let diagnosis = examine(&options, &mut |found| {
        if !arguments.json && printed.is_ok() {
            printed = show(found, &app.printer);
        }
    });
    printed?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&diagnosis);
        app.printer.line(&text.map_err(|e| invalid(format!("this cannot be written as JSON: {e}")))?)?;
    }
    let wrong: Vec<&str> = diagnosis.wrong().map(|check| check.name).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let error = EngineError::new(ErrorKind::Unsupported, format!("something is wrong with: {}", wrong.join(", ")));
    Err(error.with_remedy("see the lines marked failed").into())
}

fn show(found: Found<'_>, printer: &Printer) -> Result<()> {
    match found {
        Found::Here(_, machine) => printer.line(&format!("{}\n{machine}", printer.bold("this machine"))),
        Found::Speed(speed) => {
            let head = printer.bold("its speed");
            printer.line(&format!("\n{head}\n{speed}\n\n{}", printer.bold("checks")))
        }
        Found::Check(check) => show_check(check, printer),
    }
}

fn show_check(check: &Check, printer: &Printer) -> Result<()> {
    let state = match check.state {
        State::Ok => "ok",
        State::Warning => "warning",
        State::Failed => "failed",
        State::Skipped => "skipped",
    };
    let marked = format!("{state:<8}");
    printer.text(&match check.state {
        State::Ok => marked,
        State::Skipped => printer.dim(&marked),
        State::Warning | State::Failed => printer.bold(&marked),
    })?;
    // What a checkpoint or a server says is shown as text.
    printer.answer_line(&format!(" {:<14} {}", check.name, check.said))?;
    match &check.remedy {
        Some(remedy) => printer.answer_line(&format!("{:<8} {:<14} {remedy}", "", "")),
        None => Ok(()),
    }
}
