//! Transfers from a Hub that fails.

mod faults;
mod hub;
mod keep;
mod server;
