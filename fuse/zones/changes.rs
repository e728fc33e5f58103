//! What changes in a zone, as people read it: paths instead of numbers, as far as they are known.

use std::collections::BTreeSet;
use std::time::Duration;

use nexus::zones::{JoinedZone, NamedChange, WatchEvent, ZoneMemberId};
use nexus_kernel::{Ino, NodeId};

use super::ZoneMounts;
use crate::control::{Reply, ZoneChange};

/// Longest that one question waits.
const MOST: Duration = Duration::from_secs(60);

impl ZoneMounts {
    /// The next changes of a zone.
    pub(super) fn changes(
        &self,
        joined: &JoinedZone,
        from: Option<u64>,
        by: Option<ZoneMemberId>,
        wait: Duration,
    ) -> Result<Reply, String> {
        let events = joined.changes(from, by, wait.min(MOST)).map_err(|error| error.to_string())?;
        let Some(next) = events.last().map(|event| event.next) else {
            return Err("the zone has not said where it is; is it being closed?".to_owned());
        };
        let changes = events.iter().flat_map(|event| self.told(joined, event)).collect();
        Ok(Reply::Changes { next, changes })
    }

    fn told(&self, joined: &JoinedZone, event: &WatchEvent) -> Vec<ZoneChange> {
        let change = |change: &str, path: Option<String>, inode: Option<Ino>| ZoneChange {
            next: event.next,
            change: change.to_owned(),
            path,
            inode: inode.map(|ino| ino.0),
        };
        if event.fell_behind {
            return vec![change("missed", None, None)];
        }
        let named = |named: &NamedChange| {
            let folder = self.path_of(joined, named.parent);
            let name = String::from_utf8_lossy(&named.name);
            let path =
                folder.map(|folder| if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") });
            change(if named.removed { "removed" } else { "made" }, path, named.inode)
        };
        let mut told: Vec<ZoneChange> = event.names.iter().map(named).collect();
        // A directory changes with each of its names, and so does what is named.
        let known: BTreeSet<Ino> =
            event.names.iter().flat_map(|named| named.inode.into_iter().chain([named.parent])).collect();
        let others: BTreeSet<Ino> = event.inodes.iter().copied().filter(|ino| !known.contains(ino)).collect();
        told.extend(others.into_iter().map(|ino| change("changed", self.path_of(joined, ino), Some(ino))));
        told
    }

    /// Where a directory is in its zone, as far as that is known by now.
    fn path_of(&self, joined: &JoinedZone, ino: Ino) -> Option<String> {
        let path = self.volume.fs().path_in_zone(NodeId::new(joined.index(), ino)).ok()?;
        let names: Vec<_> = path.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        Some(names.join("/"))
    }
}
