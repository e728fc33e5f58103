//! The deterministic state machine of a zone: a command and a state in, the changes and the
//! answer out. It reads nothing else, so every order of the same commands gives the same
//! bytes, on one machine or many.

mod attributes;
mod content;
#[cfg(test)]
mod lock_tests;
mod locks;
mod mounts;
mod namespace;
#[cfg(test)]
mod tests;
mod txn;
mod writes;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::command::{Command, Outcome};
use crate::error::Result;
use crate::ids::Ino;
use crate::metastore::{Key, MetaRead, Table};
use crate::model::Inode;

pub use attributes::{MAX_XATTR_BYTES, MAX_XATTR_NAME_BYTES};
pub use content::extents;
pub use locks::{lock_sessions, locks_ended, locks_of};
pub use mounts::{DETACHED_PREFIX, FILLING_KEY, MOUNT_PREFIX, PAUSED_KEY};
use txn::Txn;
pub use txn::{find_dentry, find_dentry_in};

/// What a command changes.
#[derive(Debug)]
pub struct Applied {
    /// The answer.
    pub outcome: Outcome,
    /// Puts and deletes, each key once, in order of table and key.
    pub writes: Vec<(Table, Key, Option<Bytes>)>,
    /// The inodes among them, decoded, for a cache of inodes.
    pub inodes: SmallVec<[(Ino, Option<Inode>); 4]>,
}

/// Applies `command` to `state`. An error means that the command changes nothing.
pub fn apply(state: &dyn MetaRead, command: &Command) -> Result<Applied> {
    let mut txn = Txn::new(state);
    let outcome = txn.run(command)?;
    txn.finish(outcome)
}
