//! What Linux tells about its machine, in files below `/sys` and `/proc`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::machine::{Accelerator, CacheFacts, Kind, Told};

/// Reads it; `root` is where `sys`, `proc` and `dev` lie.
pub(super) fn told(root: &Path) -> Told {
    let processors = processors(root);
    // Cores are known by the threads that they run.
    let core = |cpu: &PathBuf| line(&cpu.join("topology/thread_siblings_list"));
    let cores: Option<BTreeSet<String>> = processors.iter().map(core).collect();
    Told {
        cores: cores.map(|cores| cores.len()).filter(|count| *count > 0),
        threads: Some(processors.len()).filter(|count| *count > 0),
        kinds: kinds(root, &processors),
        caches: caches(&processors),
        accelerators: accelerators(root),
    }
}

fn line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The names in a folder, in order, that begin so.
fn names(folder: &Path, start: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(start)).collect();
    names.sort();
    names
}

fn is_numbered(name: &str, start: &str) -> bool {
    name.strip_prefix(start).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// Folders of the processors that are switched on.
fn processors(root: &Path) -> Vec<PathBuf> {
    let folder = root.join("sys/devices/system/cpu");
    let online = line(&folder.join("online")).map(|list| numbers(&list));
    let all = names(&folder, "cpu").into_iter().filter(|name| is_numbered(name, "cpu"));
    let on = |name: &String| online.as_ref().is_none_or(|on| name[3..].parse().is_ok_and(|n| on.contains(&n)));
    all.filter(on).map(|name| folder.join(name)).collect()
}

/// The numbers of a list as `0-3,8`.
fn numbers(list: &str) -> BTreeSet<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// Kinds of cores: Intel's by their counters, Arm's by their capacity.
fn kinds(root: &Path, processors: &[PathBuf]) -> Vec<Kind> {
    let counted = |unit: &str| Some(numbers(&line(&root.join("sys/devices").join(unit).join("cpus"))?).len());
    if let (Some(core), Some(atom)) = (counted("cpu_core"), counted("cpu_atom")) {
        let kind = |name: &str, threads| Kind { name: name.to_owned(), threads };
        return vec![kind("performance", core), kind("efficiency", atom)];
    }
    let capacity = |cpu: &PathBuf| line(&cpu.join("cpu_capacity"))?.parse::<u32>().ok();
    let Some(all) = processors.iter().map(capacity).collect::<Option<Vec<u32>>>() else { return Vec::new() };
    let distinct: BTreeSet<u32> = all.iter().copied().collect();
    if distinct.len() < 2 {
        return Vec::new();
    }
    let name = |capacity: u32| match capacity {
        _ if Some(&capacity) == distinct.last() => "performance".to_owned(),
        _ if Some(&capacity) == distinct.first() => "efficiency".to_owned(),
        _ => format!("of capacity {capacity}"),
    };
    let kind =
        |capacity: &u32| Kind { name: name(*capacity), threads: all.iter().filter(|other| *other == capacity).count() };
    distinct.iter().rev().map(kind).collect()
}

fn caches(processors: &[PathBuf]) -> Vec<CacheFacts> {
    // A cache is told once by each processor that shares it.
    let mut each = BTreeSet::new();
    for cpu in processors {
        for index in names(&cpu.join("cache"), "index") {
            let of = |name: &str| line(&cpu.join("cache").join(&index).join(name));
            let facts = || Some((of("level")?.parse::<u8>().ok()?, of("type")?.to_lowercase(), size(&of("size")?)?));
            if let (Some(facts), Some(shared)) = (facts(), of("shared_cpu_list")) {
                each.insert((facts, shared));
            }
        }
    }
    let mut caches: Vec<CacheFacts> = Vec::new();
    for ((level, kind, bytes), _) in each {
        match caches.last_mut() {
            Some(last) if (last.level, &last.kind, last.bytes) == (level, &kind, bytes) => {
                last.count = last.count.map(|count| count + 1);
            }
            _ => caches.push(CacheFacts { level, kind, bytes, count: Some(1) }),
        }
    }
    caches
}

/// `48K` in bytes.
fn size(text: &str) -> Option<u64> {
    let shift = match text.chars().last()? {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        _ => return text.parse().ok(),
    };
    text[..text.len() - 1].parse::<u64>().ok().map(|number| number << shift)
}

fn accelerators(root: &Path) -> Vec<Accelerator> {
    let found = |name: String, path: String| Accelerator { name, path: Some(path), used: false };
    let mut all = Vec::new();
    let nvidia = names(&root.join("dev"), "nvidia").into_iter().filter(|name| is_numbered(name, "nvidia"));
    let mut models = nvidia_models(root).into_iter();
    all.extend(nvidia.map(|name| found(models.next().unwrap_or_else(|| "NVIDIA GPU".into()), format!("/dev/{name}"))));
    // What computes has a node without a screen; the driver names its maker.
    for node in names(&root.join("dev/dri"), "renderD") {
        let uevent = fs::read_to_string(root.join("sys/class/drm").join(&node).join("device/uevent"));
        let uevent = uevent.unwrap_or_default();
        match uevent.lines().find_map(|line| line.strip_prefix("DRIVER=")) {
            Some("nvidia") if !all.is_empty() => {}
            driver => all.push(found(format!("{} GPU", driver.unwrap_or("unknown")), format!("/dev/dri/{node}"))),
        }
    }
    let others = names(&root.join("dev/accel"), "accel");
    all.extend(others.into_iter().map(|name| found("accelerator".to_owned(), format!("/dev/accel/{name}"))));
    all
}

/// The names that NVIDIA's driver gives its devices.
fn nvidia_models(root: &Path) -> Vec<String> {
    let folder = root.join("proc/driver/nvidia/gpus");
    let information = names(&folder, "").into_iter().filter_map(|gpu| {
        let text = fs::read_to_string(folder.join(gpu).join("information")).ok()?;
        Some(text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_owned())
    });
    information.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tree::Tree;

    /// Files of one processor, with the threads of its core and its caches.
    fn cpu(number: usize, siblings: &str, more: &[(&str, String)]) -> Vec<(String, String)> {
        let folder = format!("sys/devices/system/cpu/cpu{number}");
        let mut files = vec![(format!("{folder}/topology/thread_siblings_list"), siblings.to_owned())];
        files.extend(more.iter().map(|(name, text)| (format!("{folder}/{name}"), text.clone())));
        files
    }

    fn cache(index: usize, facts: [&str; 4]) -> Vec<(String, String)> {
        let names = ["level", "type", "size", "shared_cpu_list"];
        names
            .into_iter()
            .zip(facts)
            .map(|(name, text)| (format!("cache/index{index}/{name}"), format!("{text}\n")))
            .collect()
    }

    fn tree(files: Vec<(String, String)>) -> Tree {
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        Tree::new(&files)
    }

    #[test]
    fn two_threads_a_core_share_its_caches() {
        let mut files = vec![("sys/devices/system/cpu/online".to_owned(), "0-3\n".to_owned())];
        for number in 0..5 {
            let core = if number % 2 == 0 { "0,2" } else { "1,3" };
            let caches = [cache(0, ["1", "Data", "48K", core]), cache(3, ["3", "Unified", "266240K", "0-3"])].concat();
            let caches: Vec<(&str, String)> = caches.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
            files.extend(cpu(number, core, &caches));
        }
        let tree = tree(files);
        let told = told(tree.root());
        assert_eq!((told.cores, told.threads), (Some(2), Some(4)), "the fifth is switched off");
        let facts =
            |level, kind: &str, bytes, count| CacheFacts { level, kind: kind.into(), bytes, count: Some(count) };
        assert_eq!(told.caches, [facts(1, "data", 48 << 10, 2), facts(3, "unified", 260 << 20, 1)]);
        assert!(told.kinds.is_empty() && told.accelerators.is_empty());
    }

    #[test]
    fn kinds_of_cores() {
        let kinds = |tree: &Tree| -> Vec<(String, usize)> {
            told(tree.root()).kinds.into_iter().map(|kind| (kind.name, kind.threads)).collect()
        };
        let capacities = [446, 446, 871, 1024];
        let arm = capacities.iter().enumerate();
        let arm = tree(arm.flat_map(|(n, c)| cpu(n, &n.to_string(), &[("cpu_capacity", c.to_string())])).collect());
        let want = [("performance".into(), 1), ("of capacity 871".into(), 1), ("efficiency".into(), 2)];
        assert_eq!(kinds(&arm), want);
        let intel = [("cpu_core", "0-11"), ("cpu_atom", "12-19,21")];
        let intel = intel.map(|(unit, list)| (format!("sys/devices/{unit}/cpus"), format!("{list}\n")));
        assert_eq!(kinds(&tree(intel.into())), [("performance".into(), 12), ("efficiency".into(), 9)]);
    }

    #[test]
    fn accelerators_are_named_where_the_system_does() {
        let files = [
            ("dev/nvidia0", ""),
            ("dev/nvidiactl", ""),
            ("dev/dri/renderD128", ""),
            ("dev/dri/renderD129", ""),
            ("dev/accel/accel0", ""),
            ("sys/class/drm/renderD128/device/uevent", "DRIVER=nvidia\n"),
            ("sys/class/drm/renderD129/device/uevent", "DRIVER=amdgpu\nPCI_ID=1\n"),
            ("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 5\n"),
        ];
        let said: Vec<String> = accelerators(Tree::new(&files).root()).iter().map(ToString::to_string).collect();
        let unused = |name: &str| format!("{name}, which this build does not use");
        assert_eq!(
            said,
            [
                "NVIDIA H100 80GB HBM3 (/dev/nvidia0)",
                "amdgpu GPU (/dev/dri/renderD129)",
                "accelerator (/dev/accel/accel0)"
            ]
            .map(unused)
        );
    }

    #[test]
    fn silence_is_no_fact() {
        let told = told(Path::new("no-such-root"));
        assert_eq!((told.cores, told.threads), (None, None));
        assert!(told.caches.is_empty() && told.kinds.is_empty() && told.accelerators.is_empty());
    }
}
