//! What the user may type about this machine.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use mlxengine::device;

use crate::parsers;

/// What computes.
#[derive(Args, Clone, Default)]
pub struct DeviceArguments {
    /// Instruction set of the kernels [default: the best of this processor]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Device")]
    #[arg(value_parser = PossibleValuesParser::new(device::instruction_sets()))]
    pub isa: Option<String>,

    /// Threads that compute [default: one a core]
    #[arg(long, global = true, value_name = "N", help_heading = "Device")]
    #[arg(value_parser = parsers::threads)]
    pub threads: Option<usize>,
}

/// The commands about this machine.
#[derive(Subcommand)]
pub enum DeviceCommand {
    /// Check that everything is in order here, and say what a report of a fault needs
    Doctor(DoctorArguments),
}

/// `mlxengine doctor`.
#[derive(Args)]
pub struct DoctorArguments {
    /// A model whose files, template and tokenizer are checked too
    pub model: Option<String>,

    /// Measure the speed of this machine again
    #[arg(long)]
    pub calibrate: bool,

    /// Do not ask the Hub
    #[arg(long)]
    pub offline: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
