//! A zone: the unit of isolation and of order. Every change of its metadata is a command
//! proposed here; every read sees a prefix of the commands.

use crate::behind::WriteBehind;
use crate::clock::Timestamp;
use crate::command::{Command, Interest, Outcome};
use crate::error::Result;
use crate::ids::{Ino, Lsn};
use crate::locks::LockSessions;
use crate::metastore::MetaRead;
use crate::model::{Dentry, Inode, Usage, ZoneInfo};
use crate::name::Name;

/// Name in the `sys` table of a node's own note of how far its metastore has come. Not part
/// of the zone's state: digests leave it out.
pub const APPLIED_KEY: &str = "applied";

/// Name in the `sys` table that is never there; see [`Zone::settle`].
pub const SETTLED_KEY: &str = "settled";

/// Facts for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneStats {
    /// Last command in the log.
    pub last: Lsn,
    /// Last command known to be durable.
    pub durable: Lsn,
    /// Last command that the metastore's checkpoint holds.
    pub checkpoint: Lsn,
    /// Bytes of changes in memory that the metastore does not have yet.
    pub pending_bytes: u64,
    /// Bytes of log files on disk.
    pub log_bytes: u64,
    /// Bytes of the metastore on disk.
    pub metastore_bytes: u64,
}

/// A subtree with a log of its own.
///
/// Implementors guarantee:
/// - commands are applied one after the other, by [`crate::machine::apply`] and nothing else;
/// - when `propose` answers `Ok`, the command survives SIGKILL of this process and every
///   later read sees it; when it answers `Err`, nothing changed;
/// - when `sync` answers `Ok`, everything proposed before it, with the content that it
///   points at, survives power loss. After a failed sync further changes are refused.
pub trait Zone: Send + Sync {
    /// Orders and applies a command.
    fn propose(&self, command: &Command) -> Result<Outcome>;

    /// Runs `read` on one consistent state. `read` must not propose, and should be short.
    fn read(&self, read: &mut dyn FnMut(&dyn MetaRead) -> Result<()>) -> Result<()>;

    /// As [`Zone::read`], on the state with what was written on this node and put off: only
    /// [`MetaRead::inode`] and scans within the extents of one file tell of that.
    fn read_written(&self, read: &mut dyn FnMut(&dyn MetaRead) -> Result<()>) -> Result<()> {
        self.read(read)
    }

    /// An inode, with what was written on this node and put off.
    fn inode(&self, ino: Ino) -> Result<Option<Inode>>;

    /// An entry of a directory, with its position.
    fn lookup(&self, parent: Ino, name: Name<'_>) -> Result<Option<(u64, Dentry)>>;

    /// Makes everything proposed so far durable, with its content.
    fn sync(&self) -> Result<()>;

    /// As [`Zone::sync`], where no more is wanted than what was proposed, or put off, of a file.
    fn sync_file(&self, ino: Ino) -> Result<()> {
        let _ = ino;
        self.sync()
    }

    /// As [`Zone::sync`]; and no recovery will ask any more for the content that what was
    /// proposed before this call points at. What of it is dropped may then be deleted.
    ///
    /// A log learns only from later records what was durable, and holds the content of all
    /// others against its checksums when it recovers. So it takes a record behind the sync.
    fn settle(&self) -> Result<()> {
        self.sync()?;
        // Changes nothing, and finds room where the log is nearly full.
        self.propose(&Command::SetSys { key: SETTLED_KEY.into(), value: None })?;
        self.sync()
    }

    /// Waits until reads of `interest` see everything that was acknowledged to anybody, on any machine,
    /// before this call, or until it is clear that this can't be waited for. `false` where it is
    /// always so.
    fn catch_up(&self, interest: Interest<'_>) -> Result<bool> {
        let _ = interest;
        Ok(false)
    }

    /// As [`Zone::catch_up`], but fails where it can't be known that nothing is missing.
    fn be_current(&self, interest: Interest<'_>) -> Result<()> {
        let _ = interest;
        Ok(())
    }

    /// Whether other nodes have the zone, too, and change it.
    fn is_replicated(&self) -> bool {
        false
    }

    /// This node's sessions for locks that hold on all nodes of the zone; `None` where there is but
    /// one node, whose own locks do.
    fn locks(&self) -> Option<&dyn LockSessions> {
        None
    }

    /// What is to be told of writes rather than to be proposed each; `None` where a command is cheap.
    fn behind(&self) -> Option<&dyn WriteBehind> {
        None
    }

    /// Writes the newest state into the metastore and gives log space back.
    fn checkpoint(&self) -> Result<()>;

    /// A number for a new inode; never handed out twice.
    fn allocate_ino(&self) -> Result<Ino>;

    /// Time for the next command.
    fn now(&self) -> Timestamp;

    /// What never changes.
    fn info(&self) -> ZoneInfo;

    /// Counters of what the zone holds.
    fn usage(&self) -> Result<Usage>;

    /// Facts for `status`.
    fn stats(&self) -> Result<ZoneStats>;
}
