//! How much memory there is.

use std::path::Path;

use sysinfo::System;

use crate::device::cgroup;

/// Memory of this machine, in bytes; a container's limit counts where it is lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What a new use can have without pushing others out.
    pub available: u64,
}

/// Asks the operating system; where it gives no answer, nothing is known to be short.
pub fn memory() -> Memory {
    let Ok(mut system) = System::new() else { return Memory { total: u64::MAX, available: u64::MAX } };
    system.refresh_memory();
    let host = Memory { total: system.total_memory(), available: system.available_memory() };
    match cgroup::memory(Path::new("/"), host.total) {
        Some(group) => Memory { total: group.limit, available: group.available.min(host.available) },
        None => host,
    }
}

/// Most memory that this process had at once since its start or [`reset_peak`], in bytes, pages of mapped files among it; `None`
/// where the system does not say.
pub fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// Lets [`peak`] count from now on; `false` where the system cannot.
pub fn reset_peak() -> bool {
    // What the kernel's documentation gives for it.
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// A number of bytes as people write it: `3.6 MB`, in powers of 1000.
pub fn human(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 9.995 => format!("{value:.2} {}", units[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", units[unit]),
        _ => format!("{value:.0} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (3_628_810, "3.63 MB"),
            (98_000_000, "98.0 MB"),
            (999_999, "1.00 MB"),
            (278_400_000_000, "278 GB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn this_machine_has_memory() {
        let memory = memory();
        assert!(memory.total > 0 && memory.available <= memory.total);
    }
}
