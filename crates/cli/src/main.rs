//! The command `mlxengine`: chat with a model, run it once, see what it is and how fast.
//!
//! [`arguments`] is what the user typed, [`settings`] that resolved with the environment, [`commands`] has one file a
//! command. Nothing but [`printer`] prints, and nothing but [`settings`] reads the environment.

mod answer;
mod arguments;
mod commands;
mod device_arguments;
mod failure;
mod fetch;
mod hub_arguments;
mod input;
mod interrupt;
mod load;
mod load_arguments;
mod local;
mod nearest;
mod parsers;
mod printer;
mod rows;
mod settings;
mod structure;
mod transfer;

use std::process::ExitCode;
use std::time::Instant;

use clap::{CommandFactory, Parser};

use arguments::{Arguments, ChatArguments, Command};
use failure::{Result, Stop};
use interrupt::Interrupts;
use printer::Printer;
use settings::Settings;

/// What every command works with.
struct App {
    printer: Printer,
    settings: Settings,
    interrupts: Interrupts,
    /// When the program started.
    started: Instant,
}

/// Exit code of a program that Ctrl-C ended: 128 and the number of the signal.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let started = Instant::now();
    let arguments = Arguments::parse_from(Arguments::typed());
    let printer = Printer::new(settings::abilities());
    match run(arguments, printer, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Failed(error)) => {
            printer.error(&error);
            ExitCode::FAILURE
        }
        Err(Stop::Interrupted) => {
            printer.note("interrupted");
            ExitCode::from(INTERRUPTED)
        }
        // Whoever read our output has seen enough, as in `mlxengine … | head -1`.
        Err(Stop::Closed) => ExitCode::SUCCESS,
    }
}

fn run(arguments: Arguments, printer: Printer, started: Instant) -> Result<()> {
    let settings = Settings::read(&arguments.device())?;
    settings.configure_device()?;
    settings::add_models(arguments.registry.as_deref())?;
    if arguments.version {
        return commands::version::run(&printer);
    }
    let app = App { printer, settings, interrupts: Interrupts::install()?, started };
    match arguments.command {
        Some(Command::Chat(arguments)) => commands::chat::run(&arguments, &app),
        Some(Command::Run(arguments)) => commands::run::run(&arguments, &app),
        Some(Command::CachePrompt(arguments)) => commands::cache_prompt::run(&arguments, &app),
        Some(Command::Fuse(arguments)) => commands::fuse::run(&arguments, &app),
        Some(Command::Show(arguments)) => commands::show::run(&arguments, &app),
        Some(Command::Explain(arguments)) => commands::explain::run(&arguments, &app),
        Some(Command::Families(arguments)) => commands::families::run(&arguments, &app),
        Some(Command::Bench(arguments)) => commands::bench::run(&arguments, &app),
        Some(Command::Perplexity(arguments)) => commands::evaluate::perplexity(&arguments, &app),
        Some(Command::Evaluate(arguments)) => commands::evaluate::evaluate(&arguments, &app),
        Some(Command::Device(command)) => commands::device::run(&command, &app),
        Some(Command::Hub(command)) => commands::hub::run(&command, &app),
        Some(Command::Completions { shell }) => commands::completions::run(shell, &app.printer),
        None if input::is_terminal() && app.printer.is_terminal() => {
            commands::chat::run(&ChatArguments::default(), &app)
        }
        None => Arguments::command()
            .error(
                clap::error::ErrorKind::MissingSubcommand,
                "no command is given, and there is no terminal to chat on",
            )
            .exit(),
    }
}
