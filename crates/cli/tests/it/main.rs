//! Transcripts of the built program, as its users see it.

mod bench;
mod common;
mod errors;
mod import;
#[cfg(unix)]
mod pipes;
mod run;
#[cfg(unix)]
mod terminal;
