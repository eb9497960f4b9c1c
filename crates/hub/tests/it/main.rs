//! Transfers from a Hub that fails.

#![expect(clippy::print_stdout, reason = "a test that skips itself says so")]

mod faults;
mod hub;
mod keep;
mod server;
