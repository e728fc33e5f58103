//! [`Admissions`]: certificates that were found to be members', until the zone's records change. Each message
//! of another member asks for it.

use nexus_kernel::Result;
use parking_lot::Mutex;

use crate::net::Caller;
use crate::raft::Replica;

/// Most that are remembered.
const MOST: usize = 64;

#[derive(Default)]
struct Known {
    /// The count of changes of records that it is as of.
    records: u64,
    members: Vec<Caller>,
}

/// Who was found to be a member.
#[derive(Default)]
pub struct Admissions(Mutex<Known>);

impl Admissions {
    /// Whether `caller` is a member, as `look` finds out in the state of `replica`.
    pub fn admits(&self, replica: &Replica, caller: &Caller, look: impl FnOnce() -> Result<bool>) -> bool {
        // Counted after the change, so that what is looked for from here on is at least as new.
        let records = replica.records();
        {
            let mut known = self.0.lock();
            if known.records != records {
                *known = Known { records, members: Vec::new() };
            }
            if known.members.contains(caller) {
                return true;
            }
        }
        let admitted = look().unwrap_or(false);
        let mut known = self.0.lock();
        if admitted && known.records == records && known.members.len() < MOST {
            known.members.push(*caller);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nexus_drivers::metastore::MemoryMetastore;
    use nexus_kernel::{Command, Metastore, Timestamp};

    use super::*;
    use crate::net::{Fingerprint, ZoneId};
    use crate::raft::{Batch, Deaf, Entry, MemberId, Metastores, Payload, Position, ReplicaConfig};

    struct Nowhere;

    impl Metastores for Nowhere {
        fn stage(&self) -> Result<Arc<dyn Metastore>> {
            Ok(Arc::new(MemoryMetastore::new()))
        }

        fn promote(&self, _: &Arc<dyn Metastore>) -> Result<()> {
            Ok(())
        }
    }

    fn apply(replica: &Replica, index: u64, command: &Command) {
        let commands = vec![(index, command.encode().unwrap().into())];
        let batch = Batch { member: MemberId(1), session: 1, floor: 0, commands };
        let payload = Payload::Proposals(batch.encode().unwrap());
        replica.apply(&Entry { position: Position { term: 1, index }, payload }).unwrap();
    }

    #[test]
    fn a_member_is_looked_for_again_once_records_have_changed() {
        let config = ReplicaConfig { memtable_bytes: 1 << 20, cache_bytes: 1 << 16 };
        let (store, places) = (Arc::new(MemoryMetastore::new()), Arc::new(Nowhere));
        let replica = Replica::open(MemberId(1), 1, store, places, Arc::new(Deaf), config).unwrap();
        let now = Timestamp { sec: 1, nsec: 0 };
        apply(&replica, 0, &Command::Format { id: [1; 16], hash_seed: 1, mode: 0o755, uid: 0, gid: 0, now });
        let caller = Caller {
            zone: ZoneId([1; 16]),
            member: MemberId(2),
            certificate: Fingerprint([3; 32]),
            key: Fingerprint([4; 32]),
        };
        let admissions = Admissions::default();
        assert!(!admissions.admits(&replica, &caller, || Ok(false)));
        assert!(admissions.admits(&replica, &caller, || Ok(true)), "who is none is always looked for");
        assert!(admissions.admits(&replica, &caller, || Ok(false)), "not looked for again");
        let other = Caller { key: Fingerprint([5; 32]), ..caller };
        assert!(!admissions.admits(&replica, &other, || Ok(false)), "it is of one certificate and key");
        apply(&replica, 1, &Command::ReserveInos { count: 1 });
        assert!(admissions.admits(&replica, &caller, || Ok(false)));
        apply(&replica, 2, &Command::SetSys { key: "member/2".into(), value: None });
        assert!(!admissions.admits(&replica, &caller, || Ok(false)), "it may be none any more");
    }
}
