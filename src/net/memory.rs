use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::limits;

/// Bytes that an engine's connections may hold where nobody says: a part of what this process may use.
pub fn default_memory_max() -> usize {
    let [space, data] = [Resource::As, Resource::Data].map(|resource| getrlimit(resource).current);
    let known = [physical_memory(), control_group(), space, data];
    let bytes = match known.into_iter().flatten().min() {
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX) / limits::MEMORY_PART,
        None => limits::MEMORY_MAX_UNKNOWN,
    };
    bytes.max(limits::MEMORY_MAX_FLOOR)
}

fn physical_memory() -> Option<u64> {
    total_of(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// `MemTotal` of `/proc/meminfo`, which is in KiB.
fn total_of(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

fn control_group() -> Option<u64> {
    let membership = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    least_of(Path::new("/sys/fs/cgroup"), &membership)
}

/// The least limit on the memory of the groups that `membership` (`/proc/self/cgroup`) names, and of those above them.
fn least_of(mount: &Path, membership: &str) -> Option<u64> {
    membership.lines().flat_map(|line| files_of(mount, line)).filter_map(|file| limit_in(&file)).min()
}

/// Where the limits of a line's groups are: version 2 has one tree, version 1 one for each controller.
fn files_of(mount: &Path, line: &str) -> Vec<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { return Vec::new() };
    let (tree, file) = match controllers {
        "" => (mount.to_owned(), "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => (mount.join("memory"), "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    let group = Path::new(group.trim_start_matches('/'));
    group.ancestors().map(|group| tree.join(group).join(file)).collect()
}

/// The number in the file; none where it says `max` or is not there.
fn limit_in(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found_in_what_the_kernel_tells() {
        assert_eq!(total_of("MemTotal:       16384256 kB\nMemFree:  1 kB\n"), Some(16_384_256 * 1024));
        assert_eq!(total_of("MemFree:  1 kB\n"), None);
        assert_eq!(total_of("MemTotal: much kB\n"), None);
    }

    #[test]
    fn the_least_limit_of_a_group_and_those_above_it_counts() {
        let mount = std::env::temp_dir().join(format!("trunkline-cgroup-{}", std::process::id()));
        let put = |file: &str, text: &str| {
            let file = mount.join(file);
            std::fs::create_dir_all(file.parent().expect("it has one"))
                .expect("the temporary directory can be written");
            std::fs::write(file, text).expect("the temporary directory can be written");
        };
        put("memory.max", "900\n");
        put("games/memory.max", "500\n");
        put("games/as1/memory.max", "max\n");
        put("memory/games/memory.limit_in_bytes", "400\n");
        put("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let cases = [
            ("0::/games/as1\n", Some(500)),
            ("0::/\n", Some(900)),
            ("12:cpu,cpuacct:/games\n4:memory:/games\n", Some(400)),
            ("4:memory:/other\n", Some(9_223_372_036_854_771_712)),
            ("12:cpu:/games\n", None),
            ("nonsense\n", None),
        ];
        let found = cases.map(|(membership, _)| least_of(&mount, membership));
        std::fs::remove_dir_all(&mount).expect("the test's own directory can be removed");
        assert_eq!(found, cases.map(|(_, limit)| limit));
    }
}
