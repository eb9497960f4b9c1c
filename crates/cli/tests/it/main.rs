//! Transcripts of the built program, as its users see it.

mod adapters;
mod bench;
mod common;
mod doctor;
mod errors;
mod import;
mod many;
mod models;
#[cfg(unix)]
mod pipes;
mod registry;
mod run;
#[path = "../../../hub/tests/it/server.rs"]
#[expect(dead_code, reason = "the library's tests use all of it")]
mod server;
mod structure;
#[cfg(unix)]
mod terminal;
