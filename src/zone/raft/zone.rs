//! [`RaftZone`]: a zone that several nodes have, as the kernel sees it.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nexus_kernel::behind::WriteBehind;
use nexus_kernel::content::ContentSync;
use nexus_kernel::locks::LockSessions;
use nexus_kernel::model::{Dentry, Inode, Usage, ZoneInfo};
use nexus_kernel::zone::ZoneStats;
use nexus_kernel::{Clock, Command, Error, Ino, Interest, Lsn, MetaRead, Name, Outcome, Result, Timestamp, Zone};
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;

use super::behind::{Behind, DELAY, PARTING};
use super::consensus::Consensus;
use super::copies::Copies;
use super::desk::{Desk, unclear};
use super::messages::{Links, Refusal};
use super::patience::Patience;
use super::pledges::PLEDGE;
use super::proposer::Proposer;
use super::replica::Replica;
use super::vantage::Standing;

/// Inode numbers that a member takes at once.
const INO_BLOCK: u64 = 4096;
/// How often a drain that failed is tried again, and an idle zone looked at.
const DRAIN_PAUSE: Duration = Duration::from_millis(500);
/// How often a zone is looked at of which everything is in its metastore, and that does not change.
const CALM: Duration = Duration::from_secs(60);
/// How long nobody is asked whether what is here is current, after nobody answered.
const ALONE: Duration = Duration::from_secs(1);

/// Settings of a replicated zone.
#[derive(Clone, Debug)]
pub struct RaftZoneConfig {
    /// How long a change waits for a majority before it is given up.
    pub patience: Arc<Patience>,
    /// How long a question to the leader waits before what is here has to do.
    pub read_patience: Duration,
    /// How long after the last change an idle zone is checkpointed.
    pub checkpoint_idle: Duration,
}

impl Default for RaftZoneConfig {
    fn default() -> Self {
        RaftZoneConfig {
            patience: Arc::default(),
            read_patience: Duration::from_secs(3),
            checkpoint_idle: Duration::from_secs(10),
        }
    }
}

/// What a replicated zone works with.
pub struct RaftParts {
    /// Its state here.
    pub replica: Arc<Replica>,
    /// Its group.
    pub group: Arc<dyn Consensus>,
    /// Ways to its members.
    pub links: Arc<dyn Links>,
    /// The content that its files are in.
    pub content: Arc<dyn ContentSync>,
    /// Who keeps copies of it.
    pub copies: Arc<dyn Copies>,
    /// Time for commands.
    pub clock: Arc<dyn Clock>,
    /// Where its tasks run.
    pub runtime: Handle,
}

/// A replicated zone.
pub struct RaftZone {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    behind: Behind,
    clock: Arc<dyn Clock>,
    newest_time: Mutex<Timestamp>,
    /// Until then, the others are taken to be out of reach.
    alone_until: Mutex<Option<Instant>>,
    /// Inode numbers that are this member's to give.
    inos: Mutex<Range<u64>>,
    config: RaftZoneConfig,
    locks: OnceLock<Arc<dyn LockSessions>>,
    drain: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    replica: Arc<Replica>,
    group: Arc<dyn Consensus>,
    closed: AtomicBool,
    stop: Mutex<bool>,
    changed: Condvar,
}

impl RaftZone {
    /// The zone that these parts are.
    pub fn new(parts: RaftParts, config: RaftZoneConfig) -> Result<RaftZone> {
        let RaftParts { replica, group, links, content, copies, clock, runtime } = parts;
        let proposer = Proposer::start(replica.clone(), group.clone(), links, runtime);
        let shared = Arc::new(Shared {
            replica,
            group,
            closed: AtomicBool::new(false),
            stop: Mutex::new(false),
            changed: Condvar::new(),
        });
        let desk = Arc::new(Desk::new(shared.replica.clone(), proposer, content, copies, config.patience.clone()));
        let behind = Behind::start(desk.clone(), DELAY)?;
        let thread = {
            let (shared, idle) = (shared.clone(), config.checkpoint_idle);
            std::thread::Builder::new().name("nexus-drain".into()).spawn(move || shared.run_drain(idle))
        };
        let thread = thread.map_err(|error| Error::from_io("start the drain of a zone", &error))?;
        Ok(RaftZone {
            shared,
            desk,
            behind,
            clock,
            newest_time: Mutex::new(Timestamp { sec: i64::MIN, nsec: 0 }),
            alone_until: Mutex::new(None),
            inos: Mutex::new(0..0),
            config,
            locks: OnceLock::new(),
            drain: Mutex::new(Some(thread)),
        })
    }

    /// Has locks held by these sessions from now on.
    pub fn hold_locks_by(&self, sessions: Arc<dyn LockSessions>) {
        let _ = self.locks.set(sessions);
    }

    /// Its group.
    pub fn group(&self) -> &Arc<dyn Consensus> {
        &self.shared.group
    }

    /// Its state here.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.shared.replica
    }

    /// [`crate::digest`] of the state here, and the index of the entry that it goes up to.
    pub fn digest(&self) -> Result<(u64, u128)> {
        loop {
            let before = self.replica().applied();
            let mut digest = 0;
            self.replica().state().read(&mut |state| {
                digest = crate::digest(state)?;
                Ok(())
            })?;
            if self.replica().applied() == before {
                return Ok((before, digest));
            }
        }
    }

    /// Refuses changes from now on, and has those who wait for theirs give up.
    pub fn stop_waiting(&self) {
        self.behind.hurry(PARTING);
        self.desk.close();
        self.replica().pending.fail_all(&Error::Unavailable("this node is about to end".into()));
    }

    /// Ends the zone on this node in good order. Others go on.
    pub fn close(&self) -> Result<()> {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.behind.hurry(PARTING);
        self.desk.close();
        self.desk.proposer().stop();
        self.replica().pending.fail_all(&Error::Unavailable("the zone is closed".into()));
        self.behind.stop();
        self.desk.proposer().runtime().block_on(self.shared.group.shut_down());
        self.replica().close();
        *self.shared.stop.lock() = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.drain.lock().take()
            && thread.join().is_err()
        {
            log::error!("the drain of a zone has panicked");
        }
        self.replica().pending.fail_all(&Error::Unavailable("the zone is closed".into()));
        self.replica().checkpoint()
    }
}

impl Drop for RaftZone {
    fn drop(&mut self) {
        self.desk.close();
        self.desk.proposer().stop();
        self.replica().pending.fail_all(&Error::Unavailable("the zone is closed".into()));
        self.replica().close();
        *self.shared.stop.lock() = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.drain.lock().take() {
            let _ = thread.join();
        }
    }
}

fn is_behind() -> Error {
    Error::Unavailable("this member of the zone can't catch up with the others now".into())
}

impl Shared {
    fn run_drain(&self, idle: Duration) {
        let mut seen = (self.replica.applied(), Instant::now());
        loop {
            {
                if self.replica.is_drained() {
                    self.replica.wait_change(self.replica.applied(), CALM);
                }
                let mut stop = self.stop.lock();
                if !*stop {
                    self.changed.wait_for(&mut stop, DRAIN_PAUSE);
                }
                if *stop {
                    return;
                }
            }
            let applied = self.replica.applied();
            if applied != seen.0 {
                seen = (applied, Instant::now());
            }
            let is_idle = seen.1.elapsed() >= idle && self.replica.drained() != self.replica.mark();
            let drained = if is_idle { self.replica.checkpoint() } else { self.replica.drain() };
            if let Err(error) = drained {
                log::warn!("a zone's changes can't be brought into its metastore; they wait in memory: {error}");
            }
        }
    }
}

impl Zone for RaftZone {
    fn propose(&self, command: &Command) -> Result<Outcome> {
        // Writes of a file come before whatever is done to it then. If they are lost, their writers are told.
        let together = match command {
            Command::SetAttr { ino, change, .. } if change.size.is_none() => self.behind.settle_with(*ino, command),
            _ => None,
        };
        let mut outcome = match together {
            Some(answer) => answer?,
            None => {
                if !command.is_upkeep() {
                    command.inodes().into_iter().for_each(|ino| drop(self.behind.settle(ino)));
                }
                self.desk.keep_content(std::iter::once(command))?;
                self.desk.propose(command)?
            }
        };
        if let Some((ino, inode)) = outcome.inode {
            outcome.inode = self.behind.inode(ino, || Ok(Some(inode)))?.map(|inode| (ino, inode));
        }
        Ok(outcome)
    }

    fn read(&self, read: &mut dyn FnMut(&dyn MetaRead) -> Result<()>) -> Result<()> {
        self.replica().state().read(read)
    }

    fn read_written(&self, read: &mut dyn FnMut(&dyn MetaRead) -> Result<()>) -> Result<()> {
        self.behind.read(|read| self.replica().state().read(read), read)
    }

    fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        self.behind.inode(ino, || self.replica().state().inode(ino))
    }

    fn lookup(&self, parent: Ino, name: Name<'_>) -> Result<Option<(u64, Dentry)>> {
        self.replica().state().lookup(parent, name)
    }

    fn sync(&self) -> Result<()> {
        // What was proposed is with a majority, and its content was synced before.
        self.behind.flush_all()
    }

    fn sync_file(&self, ino: Ino) -> Result<()> {
        self.behind.settle(ino)
    }

    fn behind(&self) -> Option<&dyn WriteBehind> {
        Some(&self.behind)
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn catch_up(&self, interest: Interest<'_>) -> Result<bool> {
        // Where nobody leads, what is here has to do: files can be read whatever becomes of the
        // others. It is not asked for each time then.
        if self.alone_until.lock().is_some_and(|until| Instant::now() < until) {
            return Ok(true);
        }
        if let Err(error) = self.be_current(interest) {
            log::warn!("zone {:02x?}: {error}; what is here is read", self.info().id);
            *self.alone_until.lock() = Some(Instant::now() + ALONE);
        }
        Ok(true)
    }

    fn be_current(&self, interest: Interest<'_>) -> Result<()> {
        match self.desk.proposer().vantage().standing(interest) {
            Standing::Current => return Ok(()),
            // What is on its way may never arrive, though nothing is committed without it meanwhile.
            Standing::Behind(index) if self.replica().wait_applied(index - 1, PLEDGE) => return Ok(()),
            Standing::Behind(_) | Standing::Blind => {}
        }
        let until = Instant::now() + self.config.read_patience;
        let index = self.desk.proposer().read_index(until)?;
        let left = until.saturating_duration_since(Instant::now());
        if index == 0 || self.replica().wait_applied(index - 1, left) { Ok(()) } else { Err(is_behind()) }
    }

    fn is_replicated(&self) -> bool {
        true
    }

    fn locks(&self) -> Option<&dyn LockSessions> {
        self.locks.get().map(|sessions| &**sessions)
    }

    fn checkpoint(&self) -> Result<()> {
        self.replica().checkpoint()
    }

    fn allocate_ino(&self) -> Result<Ino> {
        let mut inos = self.inos.lock();
        if inos.is_empty() {
            let first = self.desk.propose(&Command::ReserveInos { count: INO_BLOCK })?.count;
            if first == 0 {
                return Err(unclear("the answer was lost"));
            }
            *inos = first..first + INO_BLOCK;
        }
        let ino = inos.start;
        inos.start += 1;
        if ino > Ino::MAX.0 { Err(Error::NoSpace) } else { Ok(Ino(ino)) }
    }

    fn now(&self) -> Timestamp {
        let now = self.clock.now();
        let mut newest = self.newest_time.lock();
        *newest = now.max(*newest);
        *newest
    }

    fn info(&self) -> ZoneInfo {
        self.replica().state().info()
    }

    fn usage(&self) -> Result<Usage> {
        Ok(self.replica().state().view.read_recursive().usage())
    }

    fn stats(&self) -> Result<ZoneStats> {
        let (state, status) = (self.replica().state(), self.group().status());
        let pending_bytes = {
            let view = state.view.read_recursive();
            view.active.bytes() + view.frozen.as_ref().map_or(0, |frozen| frozen.bytes())
        };
        let applied = self.replica().applied();
        Ok(ZoneStats {
            last: Lsn(status.last.map_or(0, |index| index + 1).max(applied)),
            durable: Lsn(applied),
            checkpoint: Lsn(self.replica().drained().applied.map_or(0, |at| at.index + 1)),
            pending_bytes,
            log_bytes: 0,
            metastore_bytes: state.metastore.stats()?.stored_bytes,
        })
    }
}

/// What a refusal tells to do.
pub(super) fn next_leader(refusal: &Refusal) -> Option<super::entry::MemberId> {
    match refusal {
        Refusal::NotLeader(leader) => *leader,
        Refusal::Unclear(_) => None,
    }
}
