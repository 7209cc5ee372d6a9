//! How much main memory there is to use: what is installed, or what a container or batch system leaves of it.

use std::path::{Path, PathBuf};

/// Bytes: the least of what is installed and the limits of the control groups this process is in. Nothing where the
/// system does not tell in Linux's way. `root` is `/`.
pub(super) fn limit(root: &Path) -> Option<u64> {
    let installed = installed(&std::fs::read_to_string(root.join("proc/meminfo")).ok()?);
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|file| {
        // "max" where there is none.
        std::fs::read_to_string(root.join(file)).ok()?.trim().parse().ok()
    });
    installed.into_iter().chain(limits).min()
}

/// `MemTotal:  24611628 kB`
fn installed(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The files that may limit this process, below the root: those of its groups and of all groups around them.
///
/// In a container the path is often that of the host, of which only the end is mounted: then the files of the outermost
/// folder, which is always among them, are the container's.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = vec![];
    for line in groups.lines() {
        // `0::/user.slice` (version 2), `9:memory:/docker/..` (version 1).
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (folder, name) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|c| c == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let around = Path::new(path.trim_start_matches('/')).ancestors();
        files.extend(around.map(|group| Path::new(folder).join(group).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       1024 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_least_limit_counts() {
        assert_eq!(limit(root(&[MEMINFO]).path()), Some(1 << 20));
        let group = ("proc/self/cgroup", "0::/a/b\n");
        let outer = root(&[
            MEMINFO,
            group,
            ("sys/fs/cgroup/a/memory.max", "4096\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
        ]);
        assert_eq!(limit(outer.path()), Some(4096));
        let wide = root(&[MEMINFO, group, ("sys/fs/cgroup/a/memory.max", "9999999\n")]);
        assert_eq!(limit(wide.path()), Some(1 << 20));
    }

    #[test]
    fn the_older_control_groups_are_read_too() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "12:cpu,cpuacct:/x\n9:memory:/docker/1f\n"),
            // A container sees its own group as the outermost one.
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "8192\n"),
        ];
        assert_eq!(limit(root(&files).path()), Some(8192));
        let unlimited = [MEMINFO, files[1], ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(limit(root(&unlimited).path()), Some(1 << 20));
    }

    #[test]
    fn a_system_that_does_not_tell_has_no_limit() {
        assert_eq!(limit(root(&[]).path()), None);
    }
}
