//! The commands, one file each.

pub mod bench;
pub mod cache_prompt;
pub mod chat;
pub mod completions;
pub mod device;
pub mod evaluate;
pub mod explain;
pub mod families;
pub mod fuse;
pub mod generate;
pub mod hub;
pub mod run;
pub mod show;
pub mod version;
