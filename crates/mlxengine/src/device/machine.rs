//! What this machine has. What the system does not tell is left out, never guessed.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, System};

use super::{cgroup, instruction_sets};
use crate::memory::{human, memory};

/// What this machine has, and what of it this process may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Machine {
    /// The operating system and its version.
    pub system: Option<String>,
    /// What computes.
    pub processor: Processor,
    /// Memory.
    pub memory: MemoryFacts,
    /// What could compute beside the processor.
    pub accelerators: Vec<Accelerator>,
    /// The disk that models are kept on.
    pub disk: Option<Disk>,
}

/// What computes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Processor {
    /// What its maker calls it.
    pub name: Option<String>,
    /// As in `x86_64` or `aarch64`.
    pub architecture: String,
    /// Cores, each counted once.
    pub cores: Option<usize>,
    /// Threads that they run at once.
    pub threads: Option<usize>,
    /// Threads that this process may run at once, by its affinity and [`Processor::quota`]: the default of how many compute.
    pub usable: usize,
    /// Processors whose whole time the groups of this process allow it, where they limit it.
    pub quota: Option<f64>,
    /// Kinds of cores, where there are several, the fastest first.
    pub kinds: Vec<Kind>,
    /// Instruction sets that the kernels know, the slowest first.
    pub instruction_sets: Vec<String>,
    /// Caches, the smallest level first.
    pub caches: Vec<CacheFacts>,
}

/// Cores that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// `performance`, `efficiency`, or what the system calls it.
    pub name: String,
    /// Threads that these cores run at once.
    pub threads: usize,
}

/// Caches that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheFacts {
    /// 1 is next to the core.
    pub level: u8,
    /// `data`, `instruction` or `unified`.
    pub kind: String,
    /// Bytes of one.
    pub bytes: u64,
    /// How many there are, where the system says.
    pub count: Option<usize>,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFacts {
    /// What the machine has, or a container's limit where that is lower.
    pub total: u64,
    /// What a new use can have without pushing others out.
    pub available: u64,
    /// The lowest limit of the groups of this process.
    pub limit: Option<u64>,
}

/// Something that could compute beside the processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accelerator {
    /// Its name, or its driver's where the system does not say one.
    pub name: String,
    /// By which it is known to be there, as `/dev/nvidia0`.
    pub path: Option<String>,
    /// Whether this build computes on it.
    pub used: bool,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The folder that was asked about.
    pub path: PathBuf,
    /// Bytes that this user may still write.
    pub available: u64,
}

/// What the system tells in ways of its own.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) cores: Option<usize>,
    pub(super) threads: Option<usize>,
    pub(super) kinds: Vec<Kind>,
    pub(super) caches: Vec<CacheFacts>,
    pub(super) accelerators: Vec<Accelerator>,
}

impl Machine {
    /// Looks around; `models` is the folder that models are kept in, whose disk is looked at.
    pub fn here(models: Option<&Path>) -> Self {
        let told = told();
        let (memory, root) = (memory(), Path::new("/"));
        let limit = cgroup::memory(root, System::new().map_or(u64::MAX, total));
        Self {
            system: System::long_os_version().ok().map(|name| name.trim().to_owned()),
            processor: Processor {
                name: processor_name(),
                architecture: std::env::consts::ARCH.to_owned(),
                cores: told.cores.or_else(|| System::physical_core_count().ok()),
                threads: told.threads,
                usable: std::thread::available_parallelism().map_or(1, |n| n.get()),
                quota: cgroup::processors(root),
                kinds: told.kinds,
                instruction_sets: instruction_sets().into_iter().map(str::to_owned).collect(),
                caches: told.caches,
            },
            memory: MemoryFacts {
                total: memory.total,
                available: memory.available,
                limit: limit.map(|limit| limit.limit),
            },
            accelerators: told.accelerators,
            disk: models.and_then(|path| {
                Some(Disk { path: path.to_owned(), available: mlxengine_hub::Cache::new(path).free_space().ok()? })
            }),
        }
    }
}

fn total(mut system: System) -> u64 {
    system.refresh_memory();
    system.total_memory()
}

/// What the processor's maker calls it.
pub(super) fn processor_name() -> Option<String> {
    let mut system = System::new().ok()?;
    system.refresh_cpu_list(CpuRefreshKind::nothing());
    let name = system.cpus().first()?.brand().trim().to_owned();
    Some(name).filter(|name| !name.is_empty())
}

#[cfg(target_os = "linux")]
fn told() -> Told {
    super::linux::told(Path::new("/"))
}

#[cfg(target_os = "macos")]
fn told() -> Told {
    super::macos::told()
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn told() -> Told {
    Told::default()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = || "unknown".to_owned();
        let processor = &self.processor;
        let mut rows = vec![
            ("system", self.system.clone().unwrap_or_else(unknown)),
            ("processor", processor.to_string()),
            ("cores", processor.cores_line()),
            ("instruction sets", processor.instruction_sets.join(", ")),
        ];
        let caches: Vec<String> = processor.caches.iter().map(ToString::to_string).collect();
        rows.push(("caches", if caches.is_empty() { unknown() } else { caches.join(", ") }));
        rows.push(("memory", self.memory.to_string()));
        let accelerators: Vec<String> = self.accelerators.iter().map(ToString::to_string).collect();
        rows.push(("accelerators", if accelerators.is_empty() { "none seen".into() } else { accelerators.join(", ") }));
        if let Some(Disk { path, available }) = &self.disk {
            rows.push(("disk", format!("{} free for {}", human(*available), path.display())));
        }
        let lines: Vec<String> = rows.into_iter().map(|(name, value)| format!("{name:<17} {value}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Processor {
    fn cores_line(&self) -> String {
        let count = |n: Option<usize>| n.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
        let mut line = format!("{} cores, {} threads", count(self.cores), count(self.threads));
        let kinds: Vec<String> = self.kinds.iter().map(|kind| format!("{} {}", kind.threads, kind.name)).collect();
        if !kinds.is_empty() {
            line.push_str(&format!(" ({})", kinds.join(", ")));
        }
        if Some(self.usable) != self.threads {
            line.push_str(&format!(", {} usable here", self.usable));
        }
        if let Some(quota) = self.quota {
            line.push_str(&format!(", limited to the time of {quota:.2} processors"));
        }
        line
    }
}

impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.name.as_deref().unwrap_or("unknown"), self.architecture)
    }
}

impl fmt::Display for CacheFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match self.kind.as_str() {
            "data" => "d",
            "instruction" => "i",
            _ => "",
        };
        let (size, unit) = if self.bytes >= 1 << 20 { (self.bytes >> 20, "MiB") } else { (self.bytes >> 10, "KiB") };
        write!(f, "L{}{of} {size} {unit}", self.level)?;
        self.count.filter(|count| *count > 1).map_or(Ok(()), |count| write!(f, " × {count}"))
    }
}

impl fmt::Display for MemoryFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} available", human(self.total), human(self.available))?;
        self.limit.map_or(Ok(()), |limit| write!(f, ", limited to {} by its group", human(limit)))
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(path) = &self.path {
            write!(f, " ({path})")?;
        }
        f.write_str(if self.used { "" } else { ", which this build does not use" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_described() {
        let here = std::env::temp_dir();
        let machine = Machine::here(Some(&here));
        assert!(machine.processor.usable >= 1 && machine.memory.total > 0);
        assert!(machine.disk.as_ref().is_some_and(|disk| disk.available > 0));
        assert_eq!(machine.processor.instruction_sets, instruction_sets());
        let json = serde_json::to_string(&machine).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&json).unwrap(), machine);
        if cfg!(target_os = "linux") {
            assert!(machine.processor.threads >= Some(1), "{machine}");
        }
    }

    #[test]
    fn a_machine_reads_well() {
        let mut machine = Machine {
            processor: Processor {
                architecture: "aarch64".into(),
                cores: Some(6),
                threads: Some(6),
                usable: 3,
                quota: Some(3.5),
                kinds: vec![
                    Kind { name: "performance".into(), threads: 2 },
                    Kind { name: "efficiency".into(), threads: 4 },
                ],
                instruction_sets: vec!["portable".into(), "neon".into()],
                caches: vec![CacheFacts { level: 1, kind: "data".into(), bytes: 48 << 10, count: Some(6) }],
                ..Processor::default()
            },
            memory: MemoryFacts { total: 8_000_000_000, available: 1_000_000_000, limit: Some(8_000_000_000) },
            ..Machine::default()
        };
        machine.accelerators.push(Accelerator { name: "amdgpu".into(), path: None, used: false });
        let want = "system            unknown
processor         unknown, aarch64
cores             6 cores, 6 threads (2 performance, 4 efficiency), 3 usable here, limited to the time of 3.50 processors
instruction sets  portable, neon
caches            L1d 48 KiB × 6
memory            8.00 GB, 1.00 GB available, limited to 8.00 GB by its group
accelerators      amdgpu, which this build does not use";
        assert_eq!(machine.to_string(), want);
    }
}
