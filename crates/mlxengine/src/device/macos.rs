//! What macOS tells about its machine, through `sysctl` and `ioreg`: programs, because the calls need unsafe code.

#[cfg(target_os = "macos")]
use std::process::Command;

use super::machine::{Accelerator, CacheFacts, Kind, Told};

/// Asks the system.
#[cfg(target_os = "macos")]
pub(super) fn told() -> Told {
    let ask = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    };
    of(&ask("/usr/sbin/sysctl", &["hw"]), &ask("/usr/sbin/ioreg", &["-r", "-d1", "-w0", "-c", "IOAccelerator"]))
}

/// Reads lines as `hw.physicalcpu: 8` and `"model" = "Apple M2"`.
fn of(sysctl: &str, ioreg: &str) -> Told {
    let value = |name: &str| sysctl.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim);
    let number = |name: &str| value(name)?.parse::<u64>().ok().filter(|number| *number > 0);
    let count = |name: &str| number(name).and_then(|number| usize::try_from(number).ok());
    let level = |level: usize| {
        let of = |what: &str| format!("hw.perflevel{level}.{what}");
        Some(Kind { name: value(&of("name"))?.to_lowercase(), threads: count(&of("logicalcpu"))? })
    };
    let kinds: Vec<Kind> = (0..).map_while(level).collect();
    let cache = |name: &str, level: u8, kind: &str| {
        Some(CacheFacts { level, kind: kind.to_owned(), bytes: number(name)?, count: None })
    };
    let caches = [
        cache("hw.l1dcachesize", 1, "data"),
        cache("hw.l1icachesize", 1, "instruction"),
        cache("hw.l2cachesize", 2, "unified"),
        cache("hw.l3cachesize", 3, "unified"),
    ];
    let model = |line: &str| {
        let quoted = line.split_once("\"model\" = \"")?.1;
        Some(Accelerator { name: format!("{} GPU", quoted.split_once('"')?.0), path: None, used: false })
    };
    Told {
        cores: count("hw.physicalcpu"),
        threads: count("hw.logicalcpu"),
        kinds: if kinds.len() > 1 { kinds } else { Vec::new() },
        caches: caches.into_iter().flatten().collect(),
        accelerators: ioreg.lines().filter_map(model).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_levels_of_performance() {
        let sysctl = "hw.physicalcpu: 8\nhw.logicalcpu: 8\nhw.l1dcachesize: 65536\nhw.l2cachesize: 4194304\n\
                      hw.perflevel0.logicalcpu: 4\nhw.perflevel0.name: Performance\n\
                      hw.perflevel1.logicalcpu: 4\nhw.perflevel1.name: Efficiency\n";
        let told = of(sysctl, "    | \"model\" = \"Apple M2\"\n    | \"gpu-core-count\" = 8\n");
        assert_eq!((told.cores, told.threads), (Some(8), Some(8)));
        assert_eq!(told.kinds.iter().map(|kind| kind.name.as_str()).collect::<Vec<_>>(), ["performance", "efficiency"]);
        assert_eq!(told.caches.iter().map(ToString::to_string).collect::<Vec<_>>(), ["L1d 64 KiB", "L2 4 MiB"]);
        assert_eq!(told.accelerators[0].name, "Apple M2 GPU");
        let silent = of("", "");
        assert!(silent.cores.is_none() && silent.kinds.is_empty() && silent.accelerators.is_empty());
    }
}
