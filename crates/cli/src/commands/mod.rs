//! The commands, one file each.

pub mod bench;
pub mod chat;
pub mod completions;
pub mod families;
pub mod hub;
pub mod run;
pub mod show;
pub mod version;
