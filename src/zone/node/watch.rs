//! What clients of a zone are told that hold no replica of it: reads of metadata, and changes as they come.
//!
//! The newest changes are kept, a fixed amount of them, whoever watches. Each watcher takes them at its own pace, and
//! where it left off if its connection broke. Nobody waits for it: what is there no more when it comes for it
//! is left out, and that it is told.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use nexus_kernel::command::RenameMode;
use nexus_kernel::machine;
use nexus_kernel::model::{self, keys};
use nexus_kernel::{Command, Error, Ino, Interest, MetaRead, Name, Outcome, Result, Table, Zone};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::JOIN;
use super::joined::JoinedZone;
use super::serve::refused;
use crate::net::{self, BoxStream, NamedChange, Query, QueryAnswer, WatchEvent};
use crate::raft::{Change, Listener, MemberId};

/// Bytes of changes that are kept, about.
const KEPT_BYTES: usize = 512 << 10;
/// Inodes and names of one entry that are told; beyond, only that there were changes.
const MOST_CHANGES: usize = 4096;
/// Watchers of a zone at once.
const MOST_WATCHERS: usize = 64;
/// How long a reader waits for a state that others have told it of.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Changes that come within this time are answered together.
const TOGETHER: Duration = Duration::from_millis(20);
/// Events that are answered together at the most.
const MOST_EVENTS: usize = 512;

/// The newest changes of a zone, and who waits for the next.
pub struct Hub {
    ring: Mutex<Ring>,
    /// One more than the index of the last entry that is in the ring, or was; `None` once the zone is closed.
    next: watch::Sender<Option<u64>>,
    watchers: AtomicUsize,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<WatchEvent>,
    bytes: usize,
    /// All changes from this index on are there.
    floor: u64,
    /// Of the entry that is being applied.
    building: WatchEvent,
    is_replaced: bool,
}

fn bytes(event: &WatchEvent) -> usize {
    64 + 8 * event.inodes.len() + event.names.iter().map(|change| 64 + change.name.len()).sum::<usize>()
}

impl Ring {
    fn take(&mut self, change: &Change<'_>) {
        let building = &mut self.building;
        for ino in change.inodes {
            if building.inodes.last() != Some(ino) {
                building.inodes.push(*ino);
            }
        }
        building.names.extend(names(change.command, change.outcome));
        if building.inodes.len() > MOST_CHANGES || building.names.len() > MOST_CHANGES {
            *building = WatchEvent { fell_behind: true, ..WatchEvent::default() };
        }
    }

    fn done(&mut self, next: u64) {
        let built = std::mem::take(&mut self.building);
        if std::mem::take(&mut self.is_replaced) {
            (self.events, self.bytes, self.floor) = (VecDeque::new(), 0, next);
            return;
        }
        if built == WatchEvent::default() {
            return;
        }
        self.bytes += bytes(&built);
        self.events.push_back(WatchEvent { next, ..built });
        while self.bytes > KEPT_BYTES
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= bytes(&oldest);
            self.floor = oldest.next;
        }
    }

    /// What there is from `from` on, if anything.
    fn from(&self, from: u64) -> Option<WatchEvent> {
        if from < self.floor {
            return Some(WatchEvent { next: self.floor, fell_behind: true, ..WatchEvent::default() });
        }
        let place = self.events.partition_point(|event| event.next <= from);
        self.events.get(place).cloned()
    }
}

/// Names that came and went by a command.
fn names(command: &Command, outcome: &Outcome) -> Vec<NamedChange> {
    let changed = outcome.inode.map(|(ino, _)| ino);
    let named = |parent: &Ino, name: &[u8], inode, removed| NamedChange {
        parent: *parent,
        name: Bytes::copy_from_slice(name),
        inode,
        removed,
    };
    match command.unfenced() {
        Command::Create { parent, name, ino, .. } | Command::Link { parent, name, ino, .. } => {
            vec![named(parent, name, Some(*ino), false)]
        }
        Command::Unlink { parent, name, .. } | Command::RemoveDir { parent, name, .. } => {
            vec![named(parent, name, outcome.removed.map(|removed| removed.ino), true)]
        }
        Command::Rename { parent, name, new_parent, new_name, mode, .. } => {
            let stays = *mode == RenameMode::Exchange;
            let source = if stays { None } else { changed };
            vec![named(parent, name, source, !stays), named(new_parent, new_name, changed, false)]
        }
        _ => Vec::new(),
    }
}

/// Counts a watcher for as long as it is there.
struct Watcher(Arc<Hub>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Hub {
    /// One that nothing has come to.
    pub fn new() -> Arc<Hub> {
        Arc::new(Hub { ring: Mutex::default(), next: watch::Sender::new(Some(0)), watchers: AtomicUsize::new(0) })
    }

    /// Changes from this index on will come.
    pub fn begin(&self, next: u64) {
        self.ring.lock().floor = next;
        self.next.send_replace(Some(next));
    }

    /// Ends all watches.
    pub fn close(&self) {
        self.next.send_replace(None);
    }

    /// Changes from `from` on, or from now on; `None` where too many watch.
    pub fn watch(self: &Arc<Hub>, from: Option<u64>) -> Option<BoxStream<WatchEvent>> {
        if self.watchers.fetch_add(1, Ordering::AcqRel) >= MOST_WATCHERS {
            self.watchers.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        let (watcher, mut news) = (Watcher(self.clone()), self.next.subscribe());
        let start = from.or(*news.borrow_and_update());
        let first = WatchEvent { next: start?, ..WatchEvent::default() };
        let events = stream::unfold((watcher, news, first.next), |(watcher, mut news, at)| async move {
            loop {
                let next = *news.borrow_and_update();
                next?;
                let found = watcher.0.ring.lock().from(at);
                if let Some(event) = found {
                    let at = event.next;
                    return Some((event, (watcher, news, at)));
                }
                news.changed().await.ok()?;
            }
        });
        Some(Box::pin(stream::once(std::future::ready(first)).chain(events)))
    }
}

/// Tells a hub of changes, and whoever else is to hear of them.
pub struct Overheard {
    /// Who else.
    pub listener: Arc<dyn Listener>,
    /// The hub.
    pub hub: Arc<Hub>,
}

impl Listener for Overheard {
    fn applied(&self, change: &Change<'_>) {
        self.hub.ring.lock().take(change);
        self.listener.applied(change);
    }

    fn replaced(&self) {
        self.hub.ring.lock().is_replaced = true;
        self.listener.replaced();
    }

    fn lost(&self, ino: Ino) {
        self.listener.lost(ino);
    }

    fn reached(&self, next: u64) {
        self.hub.ring.lock().done(next);
        self.hub.next.send_if_modified(|told| match told {
            Some(told) => {
                *told = next;
                true
            }
            None => false,
        });
        self.listener.reached(next);
    }
}

impl JoinedZone {
    /// Answers a query, as of now. Waits; not to be called by a task.
    pub(super) fn query(&self, at_least: u64, query: &Query) -> std::result::Result<QueryAnswer, net::Refusal> {
        if self.is_witness() {
            return Err(net::Refusal::Denied("a witness has none of the zone's files".into()));
        }
        let replica = self.zone().replica();
        self.zone().be_current(Interest::Anything).map_err(|error| refused(&error))?;
        if at_least > 0 && !replica.wait_applied(at_least - 1, CATCH_UP) {
            return Err(net::Refusal::Unavailable("this member is behind".into()));
        }
        let (index, mut records) = (replica.applied(), Vec::new());
        let read = self.zone().read(&mut |state| {
            records = read(state, query)?;
            Ok(())
        });
        match read {
            Ok(()) => Ok(QueryAnswer { index, records }),
            Err(Error::NotDirectory | Error::NotFound) => Ok(QueryAnswer { index, records: Vec::new() }),
            Err(error) => Err(refused(&error)),
        }
    }

    /// Watches the zone here.
    pub(super) fn watch(&self, from: Option<u64>) -> std::result::Result<BoxStream<WatchEvent>, net::Refusal> {
        if self.is_witness() {
            return Err(net::Refusal::Denied("a witness has none of the zone's files".into()));
        }
        self.hub().watch(from).ok_or_else(|| net::Refusal::Unavailable("too many watch this zone here".into()))
    }

    /// The next changes from `from` on, or from now on, as this member or another tells them. Waits so long for
    /// one; the first event says where the zone is. Not to be called by a task.
    pub fn changes(&self, from: Option<u64>, by: Option<MemberId>, at_most: Duration) -> Result<Vec<WatchEvent>> {
        let failed = |error: &dyn std::fmt::Display| Error::Unavailable(error.to_string());
        self.block_on(async {
            let mut events: BoxStream<Result<WatchEvent>> = match by.filter(|id| *id != self.member()) {
                None => Box::pin(self.watch(from).map_err(|error| failed(&error))?.map(Ok)),
                Some(id) => {
                    let members = self.zone().group().status().membership.members;
                    let client = self.links().client(id, members.get(&id).ok_or(Error::NotFound)?)?;
                    let events = client.watch(from, JOIN).await.map_err(|error| failed(&error))?;
                    Box::pin(events.map(move |event| event.map_err(|error| failed(&error))))
                }
            };
            let (mut found, mut limit) = (Vec::new(), at_most.max(JOIN));
            while found.len() < MOST_EVENTS
                && let Ok(Some(event)) = tokio::time::timeout(limit, events.next()).await
            {
                found.push(event?);
                limit = if found.len() == 1 { at_most } else { TOGETHER };
            }
            Ok(found)
        })
    }
}

/// A number in front of a record.
fn numbered(number: u64, record: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(8 + record.len());
    bytes.put_u64(number);
    bytes.put_slice(record);
    bytes.freeze()
}

fn read(state: &dyn MetaRead, query: &Query) -> Result<Vec<Bytes>> {
    let inode = |ino: Ino| state.get(Table::Inode, &keys::ino(ino));
    match query {
        Query::Inode(ino) => Ok(inode(*ino)?.into_iter().collect()),
        Query::Lookup(parent, name) => {
            let Some(info) = state.zone_info()? else { return Ok(Vec::new()) };
            let name = Name::new(name)?;
            let found = machine::find_dentry(state, info.hash_seed, *parent, name.as_bytes())?;
            let Some((_, dentry)) = found else { return Ok(Vec::new()) };
            let attributes = inode(dentry.ino)?;
            Ok(std::iter::once(numbered(dentry.ino.0, &[])).chain(attributes).collect())
        }
        Query::ReadDir(dir, after, limit) => {
            let (start, end) = keys::prefix(dir.0);
            let start = match after {
                0 => start,
                after => keys::dentry(*dir, after.saturating_add(1)),
            };
            let mut found = Vec::new();
            state.scan(Table::Dentry, &start, &end, &mut |key, value| {
                if let Ok((_, position)) = keys::parse_pair(key) {
                    found.push(numbered(position, value));
                }
                if found.len() < *limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            Ok(found)
        }
        Query::Extents(ino, offset, limit) => {
            let found = machine::extents(state, *ino, *offset, u64::MAX, *limit)?;
            found.into_iter().map(|(at, extent)| Ok(numbered(at, &model::encode(&extent)?))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(hub: &Arc<Hub>, inodes: &[Ino], next: u64) {
        let (command, outcome) = (Command::ReserveInos { count: 1 }, Outcome::default());
        let change = Change { command: &command, outcome: &outcome, inodes, ours: false };
        let heard = Overheard { listener: Arc::new(crate::raft::Deaf), hub: hub.clone() };
        heard.applied(&change);
        heard.reached(next);
    }

    #[tokio::test]
    async fn a_watcher_takes_changes_at_its_own_pace_and_is_told_of_those_it_missed() {
        let hub = Hub::new();
        hub.begin(10);
        let mut slow = hub.watch(None).unwrap();
        assert_eq!(slow.next().await.unwrap(), WatchEvent { next: 10, ..WatchEvent::default() });
        setting(&hub, &[Ino(5)], 11);
        // An entry that changes nothing is not told.
        setting(&hub, &[], 12);
        setting(&hub, &[Ino(6)], 13);
        let event = slow.next().await.unwrap();
        assert_eq!((event.next, event.inodes), (11, vec![Ino(5)]));
        // Another goes on from there, as often as it likes.
        for _ in 0..2 {
            let mut again = hub.watch(Some(11)).unwrap();
            again.next().await.unwrap();
            assert_eq!(again.next().await.unwrap().next, 13);
        }
        let many: Vec<Ino> = (1..=MOST_CHANGES as u64).map(Ino).collect();
        for index in 14..60 {
            setting(&hub, &many, index);
        }
        assert!(hub.ring.lock().bytes <= KEPT_BYTES);
        let told = slow.next().await.unwrap();
        assert!(told.fell_behind && told.inodes.is_empty() && told.next > 13 && told.next < 59, "{told:?}");
        assert_eq!(slow.next().await.unwrap().next, told.next + 1);
        // One entry with too much of it.
        setting(&hub, &[many.as_slice(), &[Ino(9)]].concat(), 60);
        let mut last = hub.watch(Some(59)).unwrap();
        last.next().await.unwrap();
        assert_eq!(last.next().await.unwrap(), WatchEvent { next: 60, fell_behind: true, ..WatchEvent::default() });
        // A state that came from another member.
        hub.ring.lock().is_replaced = true;
        setting(&hub, &[], 90);
        assert_eq!(last.next().await.unwrap(), WatchEvent { next: 90, fell_behind: true, ..WatchEvent::default() });
        hub.close();
        assert_eq!(last.next().await, None);
        assert!(hub.watch(None).is_none());
    }

    #[test]
    fn so_many_watch_and_no_more() {
        let hub = Hub::new();
        let mut watches: Vec<_> = (0..MOST_WATCHERS).map(|_| hub.watch(None).unwrap()).collect();
        assert!(hub.watch(None).is_none());
        watches.pop();
        assert!(hub.watch(None).is_some());
    }
}
