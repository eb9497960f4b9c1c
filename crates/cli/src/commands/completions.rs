//! `mlxengine completions`: what a shell needs to complete the command line.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::arguments::Arguments;
use crate::failure::{Result, invalid};
use crate::printer::Printer;

/// Prints the completions.
pub fn run(shell: Shell, printer: &Printer) -> Result<()> {
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "mlxengine", &mut script);
    let script = String::from_utf8(script).map_err(|_| invalid("the completions are not UTF-8"))?;
    printer.text(&script)
}
