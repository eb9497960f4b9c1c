//! The commands about models: finding, fetching, keeping.

mod bundle;
mod copy;
mod gguf;
mod list;
mod models;
mod prune;
mod pull;
mod recommend;
mod remove;
mod search;
mod sign_in;
mod verify;

use crate::App;
use crate::failure::Result;
use crate::hub_arguments::HubCommand;

/// Runs one of them.
pub fn run(command: &HubCommand, app: &App) -> Result<()> {
    match command {
        HubCommand::Pull(arguments) => pull::run(arguments, app),
        HubCommand::Search(arguments) => search::run(arguments, app),
        HubCommand::Models(arguments) => models::run(arguments, app),
        HubCommand::Recommend(arguments) => recommend::run(arguments, app),
        HubCommand::List(arguments) => list::run(arguments, app),
        HubCommand::Rm(arguments) => remove::run(arguments, app),
        HubCommand::Verify(arguments) => verify::run(arguments, app),
        HubCommand::Prune(arguments) => prune::run(arguments, app),
        HubCommand::Cp(arguments) => copy::run(arguments, app),
        HubCommand::Export(arguments) => bundle::export(arguments, app),
        HubCommand::Import(arguments) => bundle::import(arguments, app),
        HubCommand::Login(arguments) => sign_in::login(arguments, app),
        HubCommand::Logout => sign_in::logout(app),
        HubCommand::Whoami => sign_in::whoami(app),
    }
}

/// The lines of a table whose columns are aligned; the first is bold.
fn table(rows: &[Vec<String>], app: &App) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let line = line.trim_end();
        // Names come from elsewhere, and must not steer the terminal.
        if number == 0 { app.printer.line(&app.printer.bold(line))? } else { app.printer.answer_line(line)? }
    }
    Ok(())
}
