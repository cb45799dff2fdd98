//! The memory that the cgroups of this process may still use. Instead of reporting an error, the kernel kills a process
//! of a cgroup that exceeds its limit.

use std::fs;
use std::path::Path;

/// Returns how many bytes this process may still allocate: the smallest difference of limit and use among its memory
/// cgroups and their ancestors. `None` if there is no limit.
pub fn headroom() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    headroom_in(Path::new("/sys/fs/cgroup"), &groups)
}

/// The same as [`headroom`], for a cgroup hierarchy mounted at `root` and the text of `/proc/self/cgroup`.
fn headroom_in(root: &Path, groups: &str) -> Option<u64> {
    groups.lines().filter_map(|line| tightest(root, line)).min()
}

fn tightest(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (mount, limit, usage, prefix) = if controllers.is_empty() {
        (root.to_path_buf(), "memory.max", "memory.current", "")
    } else if controllers.split(',').any(|c| c == "memory") {
        (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    } else {
        return None;
    };
    // The limits of all ancestors count, up to the mount point. In a container, some paths may not exist below the
    // mount point; they have no limit here.
    let leaf = mount.join(path.trim_start_matches('/'));
    leaf.ancestors().take_while(|dir| dir.starts_with(&mount)).filter_map(|dir| left(dir, limit, usage, prefix)).min()
}

fn left(dir: &Path, limit: &str, usage: &str, prefix: &str) -> Option<u64> {
    let number = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
    // "max" (no limit) is not a number, so it gives `None`.
    let limit = number(limit)?;
    let used = number(usage)?;
    // Cached file pages do not count as used: the kernel frees them when memory is needed.
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let cached: u64 = stat
        .lines()
        .filter_map(|l| l.strip_prefix(prefix)?.split_once(' '))
        .filter(|(name, _)| matches!(*name, "active_file" | "inactive_file"))
        .filter_map(|(_, n)| n.parse::<u64>().ok())
        .sum();
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_smallest_headroom_of_all_cgroups_counts() {
        let root = std::env::temp_dir().join(format!("c10d-cgroup-{}", std::process::id()));
        group(&root.join("a"), &[("memory.max", "1000\n"), ("memory.current", "900\n")]);
        group(&root.join("a"), &[("memory.stat", "anon 1\nactive_file 150\ninactive_file 50\n")]);
        group(&root.join("a/b"), &[("memory.max", "max\n"), ("memory.current", "10\n")]);
        group(&root.join("memory/j"), &[("memory.limit_in_bytes", "500\n"), ("memory.usage_in_bytes", "50\n")]);
        assert_eq!(headroom_in(&root, "0::/a/b\n"), Some(300));
        assert_eq!(headroom_in(&root, "5:cpu,memory:/j\n1:name=systemd:/a\n"), Some(450));
        assert_eq!(headroom_in(&root, "0::/a/b\n5:memory:/j/not-here\n"), Some(300));
        assert_eq!(headroom_in(&root, "0::/\n"), None);
        fs::remove_dir_all(&root).unwrap();
    }
}
