//! [`StoredZone`]: a zone as this node has it on disk, for whoever only looks: its metastore, with
//! the entries of the log on top that are known to be agreed on.

use std::path::Path;
use std::sync::Arc;

use nexus_kernel::{Error, MetaRead, Metastore, Result, ZoneIndex};

use super::files::{ZoneFiles, ZoneFolder};
use crate::log::NodeLog;
use crate::raft::{Deaf, Flusher, GroupLog, Metastores, Replica, ReplicaConfig};

/// A zone that is not open.
pub struct StoredZone {
    replica: Replica,
}

/// There is nothing to be replaced.
struct Fixed;

impl Metastores for Fixed {
    fn stage(&self) -> Result<Arc<dyn Metastore>> {
        Err(Error::ReadOnly)
    }

    fn promote(&self, _staged: &Arc<dyn Metastore>) -> Result<()> {
        Err(Error::ReadOnly)
    }
}

/// The zones in a folder: their places, what to call them, and whether their files can be read.
pub fn stored_zones(folder: &Path) -> Result<Vec<(ZoneIndex, String, Result<ZoneFiles>)>> {
    let folder = ZoneFolder::new(folder.to_owned());
    let titled = |(index, files): (ZoneIndex, Result<ZoneFiles>)| {
        let (id, name) = folder.hints(index);
        let title = name.or_else(|| id.map(|id| id.to_string())).unwrap_or_else(|| format!("number {index}"));
        (index, title, files)
    };
    Ok(folder.list()?.into_iter().map(titled).collect())
}

impl StoredZone {
    /// The zone whose files these are, in `metastore` and in `log`, of which nothing is changed.
    pub fn open(
        index: ZoneIndex,
        files: &ZoneFiles,
        log: Arc<NodeLog>,
        metastore: Arc<dyn Metastore>,
    ) -> Result<StoredZone> {
        // All of it stays in memory: nothing can be drained.
        let config = ReplicaConfig { memtable_bytes: u64::MAX / 4, cache_bytes: 1 << 20 };
        let replica = Replica::open(files.record.member, 0, metastore, Arc::new(Fixed), Arc::new(Deaf), config)?;
        let replica = if files.record.about.witness { replica.of_witness() } else { replica };
        let flusher = Flusher::start(log)?;
        let group = GroupLog::open(flusher.clone(), index);
        flusher.stop();
        let group = group?;
        let (state, applied) = (group.state(), replica.mark().applied);
        if applied < state.purged {
            return Err(Error::Corrupt("the metastore is missing, or older than the log".into()));
        }
        let from = applied.map_or(0, |at| at.index + 1);
        let to = state.committed.map_or(0, |at| at.index + 1);
        for entry in group.entries(from..to) {
            replica.apply(&entry)?;
        }
        Ok(StoredZone { replica })
    }

    /// Runs `read` on its state.
    pub fn read(&self, read: &mut dyn FnMut(&dyn MetaRead) -> Result<()>) -> Result<()> {
        self.replica.state().read(read)
    }
}
