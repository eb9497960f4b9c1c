//! The commands about this machine.

mod doctor;

use crate::App;
use crate::device_arguments::DeviceCommand;
use crate::failure::Result;

/// Runs one of them.
pub fn run(command: &DeviceCommand, app: &App) -> Result<()> {
    match command {
        DeviceCommand::Doctor(arguments) => doctor::run(arguments, app),
    }
}
