//! What the groups of a process allow it: memory and processors, on Linux.
//!
//! A container, a service or a batch job is a group of a hierarchy (cgroup v1 or v2), and every group above it limits it too.
//! The files' places are given, so that tests can lay out such a hierarchy themselves.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that the groups allow, where they are fewer than the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLimit {
    /// The lowest limit of all groups.
    pub(crate) limit: u64,
    /// What is left under every limit, pages of files counted as free: the system drops them when it needs them.
    pub(crate) available: u64,
}

/// A group, and those that contain it.
struct Hierarchy {
    /// The folder of the group of the process.
    group: PathBuf,
    /// The folder of the outermost group that can be seen.
    top: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Hierarchy {
    /// The one that a controller, as `memory`, belongs to; `root` is the folder that has `proc`.
    fn of(root: &Path, controller: &str) -> Option<Self> {
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
        let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
        let find = |version: Version| {
            // `4:memory:/a/b` in the first version, `0::/a/b` in the second.
            let group = groups.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                let fits = match version {
                    Version::One => controllers.split(',').any(|name| name == controller),
                    Version::Two => controllers.is_empty(),
                };
                fits.then_some(path)
            })?;
            mounts.lines().find_map(|line| Self::mounted(root, line, group, controller, version))
        };
        find(Version::One).or_else(|| find(Version::Two))
    }

    /// The hierarchy that a line of `mountinfo` mounts, if it is the one.
    fn mounted(root: &Path, line: &str, group: &str, controller: &str, version: Version) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let [kind, _, options] = system.splitn(3, ' ').collect::<Vec<_>>()[..] else { return None };
        let fits = match version {
            Version::One => kind == "cgroup" && options.split(',').any(|name| name == controller),
            Version::Two => kind == "cgroup2",
        };
        let [_, _, _, mounted, point, ..] = mount.split(' ').collect::<Vec<_>>()[..] else { return None };
        let top = root.join(point.trim_start_matches('/'));
        // A mount may begin below the hierarchy's root, as in a container. A group above it cannot be seen.
        let below = Path::new(group).strip_prefix(mounted).unwrap_or(Path::new(""));
        fits.then(|| Self { group: top.join(below), top, version })
    }

    /// The folders of the group and of all above it.
    fn groups(&self) -> impl Iterator<Item = &Path> {
        self.group.ancestors().take_while(|path| path.starts_with(&self.top))
    }
}

fn number(path: PathBuf) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What is left of `total` bytes by the groups' limits; `None` where no group has a limit.
pub(crate) fn memory(root: &Path, total: u64) -> Option<MemoryLimit> {
    let hierarchy = Hierarchy::of(root, "memory")?;
    let (limit, usage, prefix) = match hierarchy.version {
        Version::One => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        Version::Two => ("memory.max", "memory.current", ""),
    };
    let limits = hierarchy.groups().filter_map(|group| {
        let limit = number(group.join(limit)).filter(|limit| *limit < total)?;
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let value = |name: &str| {
            let line = stat.lines().find_map(|line| line.strip_prefix(prefix)?.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let files = value("active_file") + value("inactive_file");
        let used = number(group.join(usage)).unwrap_or(0).saturating_sub(files);
        Some(MemoryLimit { limit, available: limit.saturating_sub(used) })
    });
    limits.reduce(|a, b| MemoryLimit { limit: a.limit.min(b.limit), available: a.available.min(b.available) })
}

/// Processors whose whole time the groups allow, as 1.5; `None` where no group has a limit.
pub(crate) fn processors(root: &Path) -> Option<f64> {
    let hierarchy = Hierarchy::of(root, "cpu")?;
    let quota = |group: &Path| match hierarchy.version {
        Version::One => {
            let quota = number(group.join("cpu.cfs_quota_us"))?;
            Some(quota as f64 / number(group.join("cpu.cfs_period_us")).filter(|period| *period > 0)? as f64)
        }
        Version::Two => {
            let text = fs::read_to_string(group.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            // Without a limit the quota is the word `max`.
            Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok().filter(|period| *period > 0.0)?)
        }
    };
    hierarchy.groups().filter_map(quota).reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tree::Tree;

    const GB: u64 = 1 << 30;
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n";
    const V1: &str = "34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 /docker/7 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_lowest_limit_of_all_groups_counts() {
        let tree = Tree::new(&[
            ("proc/self/cgroup", "0::/user.slice/job.service\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/user.slice/memory.max", "4294967296\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "3221225472\n"),
            (
                "sys/fs/cgroup/user.slice/memory.stat",
                "anon 1073741824\ninactive_file 1073741824\nactive_file 536870912\n",
            ),
            ("sys/fs/cgroup/user.slice/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/user.slice/job.service/memory.max", "8589934592\n"),
            ("sys/fs/cgroup/user.slice/job.service/memory.current", "1073741824\n"),
            ("sys/fs/cgroup/user.slice/job.service/memory.stat", "anon 1073741824\n"),
            ("sys/fs/cgroup/user.slice/job.service/cpu.max", "max 100000\n"),
        ]);
        let limit = memory(tree.root(), 64 * GB).unwrap();
        assert_eq!(limit, MemoryLimit { limit: 4 * GB, available: 4 * GB - 3 * GB / 2 });
        assert_eq!(processors(tree.root()), Some(1.5));
        assert_eq!(memory(tree.root(), 2 * GB), None, "the machine has less than any group allows");
    }

    #[test]
    fn the_first_version_has_a_hierarchy_for_each_controller() {
        let tree = Tree::new(&[
            ("proc/self/cgroup", "4:memory:/docker/7/inner\n1:cpu,cpuacct:/a\n0::/\n"),
            ("proc/self/mountinfo", V1),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1073741824\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "inactive_file 5\ntotal_inactive_file 536870912\ntotal_active_file 0\n",
            ),
            ("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        let limit = memory(tree.root(), 64 * GB).unwrap();
        assert_eq!(limit, MemoryLimit { limit: 2 * GB, available: 2 * GB - GB / 2 });
        assert_eq!(processors(tree.root()), Some(0.5));
    }

    #[test]
    fn without_groups_there_are_no_limits() {
        let tree = Tree::new(&[("proc/self/cgroup", "0::/\n"), ("proc/self/mountinfo", V2)]);
        assert_eq!((memory(tree.root(), GB), processors(tree.root())), (None, None));
        let tree = Tree::new(&[("proc/self/cgroup", "nonsense\n"), ("proc/self/mountinfo", "nor this - \n")]);
        assert_eq!((memory(tree.root(), GB), processors(tree.root())), (None, None));
        assert_eq!(memory(Path::new("no-such-root"), GB), None);
    }
}
