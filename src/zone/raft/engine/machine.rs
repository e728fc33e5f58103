//! A [`Replica`] as the library's state machine.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use nexus_kernel::Metastore;
use nexus_kernel::metastore::MetaSnapshot;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::types::{RaftLogId, StoredMembershipOf, TypeConfig, entry, io_error, log_id, position, stored_membership};
use crate::raft::entry::Payload;
use crate::raft::replica::{Mark, Replica};
use crate::raft::snapshot::{Incoming, Outgoing};

/// Bytes of an entry that is applied in no time.
const QUICK: usize = 32 << 10;

/// A zone's state on its way.
pub enum SnapshotBody {
    /// From here.
    Out(Mark, Arc<dyn MetaSnapshot>),
    /// To here, all of it there.
    In(Arc<dyn Metastore>),
}

/// The state machine.
#[derive(Clone)]
pub struct Machine(pub Arc<Replica>);

impl Machine {
    fn snapshot(&self, newest: bool) -> Result<SnapshotOf<TypeConfig, SnapshotBody>, io::Error> {
        let taken = in_place(|| self.0.snapshot(newest));
        let (mark, state) = taken.map_err(|error| io_error(&error))?;
        Ok(Snapshot { meta: snapshot_meta(&mark)?, snapshot: SnapshotBody::Out(mark, state) })
    }
}

/// What the library wants to know of a snapshot.
pub fn snapshot_meta(mark: &Mark) -> Result<SnapshotMetaOf<TypeConfig>, io::Error> {
    let last_membership = stored_membership(mark.membership_at, &mark.membership).map_err(|error| io_error(&error))?;
    Ok(SnapshotMeta { last_log_id: mark.applied.map(log_id), last_membership })
}

/// Does work that takes time, where this thread's tasks can be done by others meanwhile.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A state of this process in a metastore of its own.
fn copy(state: Arc<dyn MetaSnapshot>, mut into: Incoming) -> nexus_kernel::Result<Arc<dyn Metastore>> {
    let mut from = Outgoing::new(state);
    while let Some(piece) = from.piece()? {
        into.take(&piece)?;
    }
    into.finish()
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = SnapshotBody;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotBody>, io::Error> {
        self.snapshot(true)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotBody;
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembershipOf), io::Error> {
        let mark = self.0.mark();
        let members = stored_membership(mark.membership_at, &mark.membership).map_err(|error| io_error(&error))?;
        Ok((mark.applied.map(log_id), members))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (theirs, responder) = next?;
            let entry = entry(&theirs);
            // Handing this thread's tasks to another one costs more than what most entries do.
            let is_quick = !matches!(&entry.payload, Payload::Proposals(bytes) if bytes.len() > QUICK);
            let applied = match is_quick && self.0.has_room() {
                true => self.0.apply(&entry),
                false => in_place(|| self.0.apply(&entry)),
            };
            applied.map_err(|error| io_error(&error))?;
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: SnapshotBody,
    ) -> Result<(), io::Error> {
        let expect = meta.last_log_id.as_ref().map(position);
        let installed = in_place(|| {
            let staged = match snapshot {
                SnapshotBody::In(staged) => staged,
                SnapshotBody::Out(_, state) => copy(state, self.0.stage()?)?,
            };
            self.0.install(&staged, expect)
        });
        installed.map_err(|error| io_error(&error))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, SnapshotBody>>, io::Error> {
        let snapshot = self.snapshot(false)?;
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}
