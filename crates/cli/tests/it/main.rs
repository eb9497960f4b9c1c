//! Transcripts of the built program, as its users see it.

mod adapters;
mod bench;
mod common;
mod errors;
mod import;
mod many;
#[cfg(unix)]
mod pipes;
mod run;
#[cfg(unix)]
mod terminal;
