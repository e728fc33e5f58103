//! Supplementary groups of a calling process, which FUSE requests do not carry.

use std::fs;

/// Whether the process belongs to `gid`. A process that can't be looked at (gone, or in
/// another pid namespace) does not.
pub fn process_in_group(pid: u32, gid: u32) -> bool {
    pid != 0 && fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| listed(&status, gid))
}

/// Whether the `Groups:` line of a status file names `gid`.
fn listed(status: &str, gid: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .is_some_and(|groups| groups.split_whitespace().any(|group| group.parse() == Ok(gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_line_is_found_and_parsed() {
        let status = "Name:\tcat\nUid:\t0\t0\t0\t0\nGid:\t4\t4\t4\t4\nGroups:\t4 24 1000 \nVmPeak:\t1 kB\n";
        assert!(listed(status, 24));
        assert!(listed(status, 1000));
        assert!(!listed(status, 100));
        assert!(!listed("Name:\tGroups\nGroups:\t\n", 0));
        assert!(!listed("", 0));
    }

    #[test]
    fn unknown_processes_belong_nowhere() {
        assert!(!process_in_group(0, 0));
        assert!(!process_in_group(u32::MAX, 0));
    }
}
