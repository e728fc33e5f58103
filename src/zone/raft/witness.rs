//! What a witness keeps: it votes and holds the log, so that a zone goes on without one of two other members,
//! and has none of the zone's files. Of the state it keeps who the members are, a few records of the `sys` table,
//! as it has to know whom to answer, and whose certificate to take.

use nexus_kernel::metastore::Key;
use nexus_kernel::zone::APPLIED_KEY;
use nexus_kernel::{Command, Table};

/// The version of commands from which on all members know what a witness is.
pub const WITNESS_VERSION: u8 = 8;
/// Name of the index (u64) up to which every member that is no witness has the log. A witness keeps what is
/// behind it: it may be the only one that can hand it on.
pub const EVERYWHERE_KEY: &str = "zone/everywhere";

/// What names of records begin with that a witness keeps.
const KEPT: [&str; 9] =
    ["zone/", "member/", "pin/", "version/", "opening/", "invite/", "session/", "joining/", "leaving/"];

/// Whether a witness keeps a record.
pub fn keeps(table: Table, key: &[u8]) -> bool {
    let kept = |prefix: &&str| key.starts_with(prefix.as_bytes());
    table == Table::Sys && (key == APPLIED_KEY.as_bytes() || KEPT.iter().any(kept))
}

/// Whether a command changes nothing but such records, on whichever member.
pub fn takes(command: &Command) -> bool {
    match command {
        Command::SetSys { key, .. } | Command::CompareSys { key, .. } => {
            keeps(Table::Sys, &nexus_kernel::model::keys::sys(key))
        }
        _ => false,
    }
}

/// Leaves of a batch's pairs those that a witness keeps.
pub fn cut_down(writes: &mut Vec<(Table, Key, Option<bytes::Bytes>)>) {
    writes.retain(|(table, key, _)| keeps(*table, key));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_of_members_are_kept() {
        for key in ["zone/ca", "member/0a", "session/0b", "applied"] {
            assert!(keeps(Table::Sys, key.as_bytes()), "{key}");
        }
        for key in ["usage", "lock/1", "mount/7", "pause", ""] {
            assert!(!keeps(Table::Sys, key.as_bytes()), "{key}");
        }
        assert!(!keeps(Table::Inode, b"zone/ca"));
        let set = |key: &str| Command::SetSys { key: key.into(), value: None };
        assert!(takes(&set("version/0a")) && !takes(&set("mount/7")));
        assert!(!takes(&Command::ReserveInos { count: 1 }));
    }
}
