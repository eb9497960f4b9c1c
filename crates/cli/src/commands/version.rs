//! `mlxengine --version`: the version, and what computes.

use mlxengine::device;

use crate::failure::Result;
use crate::printer::Printer;

/// Prints the facts.
pub fn run(printer: &Printer) -> Result<()> {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let device = device::current();
    printer.line(&format!("mlxengine {}", env!("CARGO_PKG_VERSION")))?;
    printer.line(&format!("build: {build}, {}, {}", std::env::consts::ARCH, std::env::consts::OS))?;
    let all = device::instruction_sets().join(", ");
    printer.line(&format!("instruction set: {} (this processor has {all})", device.instruction_set))?;
    printer.line(&format!("threads: {}", device.threads))
}
