//! [`Replica`]: a replicated zone's state on this node. Entries that are committed are applied
//! here, in order; what is newer than the metastore is in memory, and drained behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use nexus_kernel::locks::LockSignal;
use nexus_kernel::machine::{self, Applied};
use nexus_kernel::metastore::{Durability, Key, MetaSnapshot, WriteBatch};
use nexus_kernel::model::{self, keys};
use nexus_kernel::zone::APPLIED_KEY;
use nexus_kernel::{Command, Error, Ino, Lsn, MetaRead, Metastore, Outcome, Result, Table};
use parking_lot::{Condvar, Mutex, RwLock};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::entry::{Entry, MemberId, Membership, Payload, Position, decode, encode};
use super::pending::Pending;
use super::proposal::{Batch, Session, Turn, is_answer};
use super::snapshot::Incoming;
use super::versions::{VERSION_PREFIX, agreed};
use super::witness;
use crate::replica::{Base, MemTable, Reader, State};

/// How often an apply that waits for a drain looks again.
const LOOK: Duration = Duration::from_millis(20);

/// How far a replica's metastore has come; at [`APPLIED_KEY`] of its `sys` table.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Mark {
    /// The last entry that the state includes.
    pub applied: Option<Position>,
    /// The entry that the members are from.
    pub membership_at: Option<Position>,
    /// The members by then.
    pub membership: Membership,
}

impl Mark {
    /// Bytes for the network.
    pub fn encode(&self) -> Result<bytes::Bytes> {
        encode("mark", self).map(bytes::Bytes::from)
    }

    /// A mark from the network.
    pub fn decode(bytes: &[u8]) -> Result<Mark> {
        decode("mark", bytes)
    }
}

/// Makes and replaces a replica's metastore.
pub trait Metastores: Send + Sync {
    /// An empty metastore for a snapshot that comes in; one that was left there is removed.
    fn stage(&self) -> Result<Arc<dyn Metastore>>;

    /// Puts the staged metastore in place of the one in use, durably. Whoever still reads the
    /// old one may go on.
    fn promote(&self, staged: &Arc<dyn Metastore>) -> Result<()>;
}

/// A command that was applied.
pub struct Change<'a> {
    /// The command.
    pub command: &'a Command,
    /// What came of it.
    pub outcome: &'a Outcome,
    /// The inodes that it changed.
    pub inodes: &'a [Ino],
    /// Whether this node has proposed it.
    pub ours: bool,
}

/// Is told what entries change on this node, while no other entry is applied.
pub trait Listener: Send + Sync {
    /// A command was applied.
    fn applied(&self, change: &Change<'_>);

    /// Everything may have changed.
    fn replaced(&self);

    /// Writes to this file were lost that this node had taken note of.
    fn lost(&self, _ino: Ino) {}

    /// All entries before `next` are applied, or in the state that has come.
    fn reached(&self, _next: u64) {}
}

/// A listener that hears nothing.
pub struct Deaf;

impl Listener for Deaf {
    fn applied(&self, _change: &Change<'_>) {}
    fn replaced(&self) {}
}

/// Settings of a replica.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// Bytes of changes in memory at which they are drained into the metastore; up to three
    /// times as much can be there while that goes on.
    pub memtable_bytes: u64,
    /// Bytes of the caches of inodes and directory entries.
    pub cache_bytes: u64,
}

/// The state of a zone that others have too.
pub struct Replica {
    me: MemberId,
    /// Whether it keeps no more than who the members are.
    is_witness: bool,
    session: u64,
    config: ReplicaConfig,
    metastores: Arc<dyn Metastores>,
    listener: Arc<dyn Listener>,
    /// Proposals of this node.
    pub pending: Pending,
    /// Tells of changes of locks.
    pub locks: Arc<LockSignal>,
    state: RwLock<Arc<State>>,
    applying: Mutex<Applying>,
    /// Held while the metastore is written. Taken before `applying`.
    drain: Mutex<()>,
    /// What the table that is being drained comes up to.
    frozen: Mutex<Option<Mark>>,
    /// One more than the index of the last entry applied.
    applied: AtomicU64,
    changed: Condvar,
    waiting: Mutex<()>,
    closed: AtomicBool,
    /// Whether the state has a mark at [`machine::PAUSED_KEY`].
    paused: AtomicBool,
    /// How often a command has changed records of the zone (members, settings).
    records: AtomicU64,
    /// The newest version of commands that all members know.
    commands: AtomicU8,
    /// Whether the entry that is being applied announces what a member knows.
    announced: AtomicBool,
}

/// What applying goes on from.
#[derive(Default)]
struct Applying {
    mark: Mark,
    /// What the metastore has.
    drained: Mark,
    sessions: HashMap<MemberId, Session>,
    failed: Option<Error>,
}

impl Replica {
    /// The replica in `metastore`, which may be empty.
    pub fn open(
        me: MemberId,
        session: u64,
        metastore: Arc<dyn Metastore>,
        metastores: Arc<dyn Metastores>,
        listener: Arc<dyn Listener>,
        config: ReplicaConfig,
    ) -> Result<Replica> {
        let mark = read_mark(&*metastore.snapshot()?)?;
        let state = State::over(metastore, config.cache_bytes)?;
        let applied = AtomicU64::new(mark.applied.map_or(0, |at| at.index + 1));
        let paused = AtomicBool::new(pause_mark(&state)?.is_some());
        let commands = AtomicU8::new(agreed_version(&state, &mark.membership)?);
        let applying = Applying { drained: mark.clone(), mark, ..Applying::default() };
        Ok(Replica {
            me,
            is_witness: false,
            session,
            config,
            metastores,
            listener,
            pending: Pending::default(),
            locks: Arc::default(),
            state: RwLock::new(Arc::new(state)),
            applying: Mutex::new(applying),
            drain: Mutex::new(()),
            frozen: Mutex::new(None),
            applied,
            changed: Condvar::new(),
            waiting: Mutex::new(()),
            closed: AtomicBool::new(false),
            paused,
            records: AtomicU64::new(0),
            commands,
            announced: AtomicBool::new(false),
        })
    }

    /// The same of a witness.
    pub fn of_witness(self) -> Replica {
        Replica { is_witness: true, ..self }
    }

    /// Whether it keeps no more than who the members are.
    pub fn is_witness(&self) -> bool {
        self.is_witness
    }

    /// The mark that the zone is paused by, if it is.
    pub fn paused(&self) -> Result<Option<bytes::Bytes>> {
        if self.paused.load(Ordering::Acquire) { pause_mark(&self.state()) } else { Ok(None) }
    }

    /// How often records of the zone (members, settings) were changed here. Counted after each change.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Acquire)
    }

    /// The newest version of commands that all members know.
    pub fn commands(&self) -> u8 {
        self.commands.load(Ordering::Acquire)
    }

    /// The newest state.
    pub fn state(&self) -> Arc<State> {
        self.state.read().clone()
    }

    /// Who this node is in the zone.
    pub fn me(&self) -> MemberId {
        self.me
    }

    /// This node's session.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// How far entries are applied.
    pub fn mark(&self) -> Mark {
        self.applying.lock().mark.clone()
    }

    /// How far the metastore has come.
    pub fn drained(&self) -> Mark {
        self.applying.lock().drained.clone()
    }

    /// One more than the index of the last entry applied.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Waits until the entry at `index` is applied; `false` if it is not in that time.
    pub fn wait_applied(&self, index: u64, at_most: Duration) -> bool {
        let until = std::time::Instant::now() + at_most;
        let mut waiting = self.waiting.lock();
        while self.applied() <= index {
            if self.changed.wait_until(&mut waiting, until).timed_out() {
                return self.applied() > index;
            }
        }
        true
    }

    /// Waits until more is applied than `seen` says, or the zone is closed, at most that long.
    pub fn wait_change(&self, seen: u64, at_most: Duration) {
        let until = std::time::Instant::now() + at_most;
        let mut waiting = self.waiting.lock();
        while self.applied() <= seen && !self.closed.load(Ordering::Acquire) {
            if self.changed.wait_until(&mut waiting, until).timed_out() {
                return;
            }
        }
    }

    /// Whether the metastore has all that is applied.
    pub fn is_drained(&self) -> bool {
        let applying = self.applying.lock();
        applying.mark == applying.drained
    }

    /// Has whoever waits for room give up.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.tell();
    }

    fn tell(&self) {
        drop(self.waiting.lock());
        self.changed.notify_all();
    }

    /// Applies a committed entry. An error is a failure of this node: it must apply nothing
    /// more.
    pub fn apply(&self, entry: &Entry) -> Result<()> {
        self.make_room()?;
        let mut applying = self.applying.lock();
        if let Some(error) = &applying.failed {
            return Err(error.clone());
        }
        let applied = self.apply_in_turn(&mut applying, entry);
        if let Err(error) = &applied {
            log::error!(
                "entry {} of a zone can't be applied here: {error}; this node takes no more part",
                entry.position
            );
            applying.failed = Some(error.clone());
            drop(applying);
            self.pending.fail_all(&Error::Unavailable(format!("this replica of the zone has failed: {error}")));
            return applied;
        }
        applying.mark.applied = Some(entry.position);
        self.applied.store(entry.position.index + 1, Ordering::Release);
        self.listener.reached(entry.position.index + 1);
        drop(applying);
        self.tell();
        Ok(())
    }

    fn apply_in_turn(&self, applying: &mut Applying, entry: &Entry) -> Result<()> {
        match &entry.payload {
            Payload::Blank => Ok(()),
            Payload::Membership(membership) => {
                applying.mark.membership_at = Some(entry.position);
                applying.mark.membership = membership.clone();
                self.commands.store(agreed_version(&self.state(), membership)?, Ordering::Release);
                Ok(())
            }
            Payload::Proposals(bytes) => {
                let batch = Batch::decode(bytes)?;
                self.apply_batch(applying, entry.position, &batch)?;
                if self.announced.swap(false, Ordering::AcqRel) {
                    let agreed = agreed_version(&self.state(), &applying.mark.membership)?;
                    self.commands.store(agreed, Ordering::Release);
                }
                Ok(())
            }
        }
    }

    fn apply_batch(&self, applying: &mut Applying, at: Position, batch: &Batch) -> Result<()> {
        let state = self.state();
        let mut session = match applying.sessions.remove(&batch.member) {
            Some(session) => session,
            None => match state.fetch(Table::Sys, &keys::sys(&Session::key(batch.member)))? {
                Some(bytes) => Session::decode(&bytes)?,
                None => Session::default(),
            },
        };
        let current = session.begin(batch);
        let ours = batch.member == self.me && batch.session == self.session;
        let mut answers = Vec::new();
        for (seq, command) in batch.commands.iter().filter(|_| current) {
            if session.turn(*seq) == Turn::Skip {
                continue;
            }
            let answer = self.apply_command(&state, at, command, ours);
            if let Err(error) = &answer
                && !is_answer(error)
            {
                return Err(error.clone());
            }
            session.applied(*seq, answer.as_ref().map(|_| ()));
            answers.push((*seq, answer));
        }
        if current {
            let note = (Table::Sys, keys::sys(&Session::key(batch.member)), Some(session.encode()?));
            let applied = Applied { outcome: Outcome::default(), writes: vec![note], inodes: Default::default() };
            state.view.write().apply(applied, lsn(at), &state.caches)?;
        }
        applying.sessions.insert(batch.member, session);
        // Not before all of it is there: an answer may be followed by a read.
        if ours {
            answers.into_iter().for_each(|(seq, answer)| self.pending.answer(seq, answer));
        }
        Ok(())
    }

    fn apply_command(&self, state: &State, at: Position, command: &[u8], ours: bool) -> Result<Outcome> {
        let command = Command::decode(command)?;
        if self.is_witness && !witness::takes(&command) {
            return Ok(Outcome::default());
        }
        if self.paused.load(Ordering::Acquire) && !command.passes_pause() {
            return Err(Error::Paused);
        }
        let applied = {
            let view = state.view.read_recursive();
            machine::apply(&Reader { view: &view, caches: &state.caches }, &command)?
        };
        debug_assert!(!self.is_witness || applied.writes.iter().all(|(table, key, _)| witness::keeps(*table, key)));
        let outcome = applied.outcome.clone();
        let inodes: SmallVec<[Ino; 4]> = applied.inodes.iter().map(|(ino, _)| *ino).collect();
        let info = {
            let mut view = state.view.write();
            view.apply(applied, lsn(at), &state.caches)?;
            view.info()
        };
        if matches!(command, Command::SetSys { .. } | Command::CompareSys { .. } | Command::Import { .. }) {
            self.records.fetch_add(1, Ordering::AcqRel);
        }
        if matches!(command, Command::Pause { .. } | Command::MountFilled { .. }) {
            self.paused.store(pause_mark(state)?.is_some(), Ordering::Release);
        }
        if let Some(info) = info
            && state.info.get().is_none()
        {
            let _ = state.info.set(info);
        }
        if matches!(&command, Command::SetSys { key, .. } if key.starts_with(VERSION_PREFIX)) {
            self.announced.store(true, Ordering::Release);
        }
        if matches!(command, Command::SetLock { .. } | Command::EndLocks { .. }) {
            self.locks.ring();
        }
        self.listener.applied(&Change { command: &command, outcome: &outcome, inodes: &inodes, ours });
        Ok(outcome)
    }

    /// Who is told of what changes.
    pub fn listener(&self) -> &dyn Listener {
        &*self.listener
    }

    /// Whether what is applied next waits for no drain.
    pub fn has_room(&self) -> bool {
        let state = self.state();
        let (active, frozen) = {
            let view = state.view.read_recursive();
            (view.active.bytes(), view.frozen.as_ref().map_or(0, |frozen| frozen.bytes()))
        };
        active < self.config.memtable_bytes || (frozen > 0 && active < 2 * self.config.memtable_bytes)
    }

    /// Waits while too much is in memory, and has a drain begin when it is time.
    fn make_room(&self) -> Result<()> {
        loop {
            if self.has_room() {
                return Ok(());
            }
            match self.drain.try_lock() {
                Some(turn) => {
                    self.freeze(&turn)?;
                    return Ok(());
                }
                None if self.closed.load(Ordering::Acquire) => {
                    return Err(Error::Unavailable("the zone is closed".into()));
                }
                None => {
                    let mut waiting = self.waiting.lock();
                    self.changed.wait_for(&mut waiting, LOOK);
                }
            }
        }
    }

    /// Whether changes wait to be drained.
    pub fn wants_drain(&self) -> bool {
        self.frozen.lock().is_some()
    }

    /// Drains what was put aside, if anything.
    pub fn drain(&self) -> Result<()> {
        let _turn = self.drain.lock();
        self.drain_frozen()
    }

    /// Brings everything applied so far into the metastore, durably.
    pub fn checkpoint(&self) -> Result<()> {
        let turn = self.drain.lock();
        self.drain_frozen()?;
        self.freeze(&turn)?;
        self.drain_frozen()
    }

    /// Puts changes aside. Waits for an earlier drain, if that had to leave something.
    fn freeze(&self, _turn: &parking_lot::MutexGuard<'_, ()>) -> Result<()> {
        self.drain_frozen()?;
        let applying = self.applying.lock();
        if applying.mark == applying.drained {
            return Ok(());
        }
        let state = self.state();
        state.view.write().freeze();
        *self.frozen.lock() = Some(applying.mark.clone());
        Ok(())
    }

    fn drain_frozen(&self) -> Result<()> {
        let Some(mark) = self.frozen.lock().clone() else { return Ok(()) };
        let state = self.state();
        let Some(frozen) = state.view.read_recursive().frozen.clone() else { return Ok(()) };
        commit(&*state.metastore, &frozen, &mark)?;
        let base = Base::newest(state.metastore.clone())?;
        let usage = base.usage()?;
        let old = state.view.write().rebase(base, usage);
        *self.frozen.lock() = None;
        self.applying.lock().drained = mark;
        drop((old, frozen));
        self.tell();
        Ok(())
    }

    /// The newest state that is in the metastore, and how far it goes. Brings it up to date
    /// first, if that is wanted.
    pub fn snapshot(&self, newest: bool) -> Result<(Mark, Arc<dyn MetaSnapshot>)> {
        if newest {
            self.checkpoint()?;
        }
        let snapshot = self.state().metastore.snapshot()?;
        Ok((read_mark(&*snapshot)?, snapshot))
    }

    /// Takes a state in that comes, beside the one in use.
    pub fn stage(&self) -> Result<Incoming> {
        let staged = self.metastores.stage()?;
        Ok(if self.is_witness { Incoming::at_witness(staged) } else { Incoming::new(staged) })
    }

    /// Goes on with the state in `staged`, which must go as far as `expect`.
    pub fn install(&self, staged: &Arc<dyn Metastore>, expect: Option<Position>) -> Result<()> {
        let mark = read_mark(&*staged.snapshot()?)?;
        if mark.applied != expect {
            return Err(Error::Corrupt("a zone's snapshot does not go as far as it says".into()));
        }
        let _turn = self.drain.lock();
        let mut applying = self.applying.lock();
        self.metastores.promote(staged)?;
        let state = Arc::new(State::over(staged.clone(), self.config.cache_bytes)?);
        *self.state.write() = state.clone();
        *self.frozen.lock() = None;
        let failed = applying.failed.take();
        *applying = Applying { drained: mark.clone(), mark, sessions: HashMap::new(), failed };
        // Before anybody relies on how far it is.
        self.listener.replaced();
        self.applied.store(expect.map_or(0, |at| at.index + 1), Ordering::Release);
        self.records.fetch_add(1, Ordering::AcqRel);
        self.paused.store(pause_mark(&state)?.is_some(), Ordering::Release);
        self.commands.store(agreed_version(&state, &applying.mark.membership)?, Ordering::Release);
        self.answer_from(&state)?;
        self.listener.reached(self.applied());
        self.locks.ring();
        drop(applying);
        self.tell();
        Ok(())
    }

    /// Answers proposals of this node that a snapshot brought: of those only the errno is left.
    fn answer_from(&self, state: &State) -> Result<()> {
        let Some(bytes) = state.fetch(Table::Sys, &keys::sys(&Session::key(self.me)))? else { return Ok(()) };
        let session = Session::decode(&bytes)?;
        for seq in self.pending.numbers() {
            match session.answer(self.session, seq) {
                Some(0) => self.pending.answer(seq, Ok(Outcome::default())),
                Some(errno) if i32::from(errno) == Error::Paused.errno() as i32 => {
                    self.pending.answer(seq, Err(Error::Paused));
                }
                Some(errno) => {
                    let error =
                        Error::Io(format!("the change was refused with errno {errno} while this node was behind"));
                    self.pending.answer(seq, Err(error));
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// Commits a table of changes that brings the state up to `mark`.
fn commit(metastore: &dyn Metastore, changes: &MemTable, mark: &Mark) -> Result<()> {
    let mut batch = WriteBatch::default();
    batch.writes.reserve_exact(changes.len() + 1);
    batch.writes.extend(changes.iter().map(|(table, key, change)| (table, Key::from_slice(key), change.clone())));
    batch.writes.push((Table::Sys, keys::sys(APPLIED_KEY), Some(model::encode(mark)?)));
    metastore.commit(&batch, Durability::Durable)
}

fn pause_mark(state: &State) -> Result<Option<bytes::Bytes>> {
    state.fetch(Table::Sys, &keys::sys(machine::PAUSED_KEY))
}

fn agreed_version(state: &State, membership: &Membership) -> Result<u8> {
    let mut version = 0;
    state.read(&mut |state| {
        version = agreed(state, membership)?;
        Ok(())
    })?;
    Ok(version)
}

/// How far a replica's metastore has come.
pub fn read_mark(state: &dyn MetaRead) -> Result<Mark> {
    match state.get(Table::Sys, &keys::sys(APPLIED_KEY))? {
        Some(bytes) => model::decode("applied", &bytes),
        None => Ok(Mark::default()),
    }
}

/// A number for the memory table, which wants them to rise.
fn lsn(at: Position) -> Lsn {
    Lsn(at.index + 1)
}
