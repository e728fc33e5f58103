//! What a write does where there is no room: it waits while room is being made, and then is refused,
//! or goes on waiting.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nexus_kernel::interrupt::is_given_up;
use nexus_kernel::{Error, Result, StoreId};

use super::SegmentStore;

/// How often a write asks for room that other writers take before it; content that goes to a store
/// meanwhile does not count.
const TRIES: u32 = 3;
/// How often a write that waits looks whether its caller has given up.
const LOOK: Duration = Duration::from_millis(100);

/// How long an object on its way counts as making room though none of its bytes is taken.
const STILL_MS: u64 = 30_000;

/// How much of the disk content may take on its way to stores, and what a write does beyond that, or
/// where the disk is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RoomPolicy {
    /// Most bytes that may wait for stores that are far away, all of them together; `None` for as many
    /// as the disk takes.
    pub backlog_bytes: Option<u64>,
    /// What a write does when nothing makes room for it.
    pub when_full: WhenFull,
}

/// What a write does when nothing makes room for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenFull {
    /// It fails with [`Error::NoSpace`].
    #[default]
    Refuse,
    /// It waits until there is room, or its caller is killed.
    Wait,
}

/// The policy in force, and what is known of how room is made.
pub struct Room {
    backlog: AtomicU64,
    waits: AtomicBool,
    /// Bytes that were handed to stores.
    moved: AtomicU64,
    /// Objects on their way to stores that are far away.
    sending: AtomicUsize,
}

/// An object on its way, until this is dropped.
pub struct Sending<'a>(&'a AtomicUsize);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Room {
    fn default() -> Room {
        Room {
            backlog: AtomicU64::new(u64::MAX),
            waits: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            sending: AtomicUsize::new(0),
        }
    }
}

impl Room {
    /// Counts bytes that are handed to a store.
    pub fn moved(&self) -> &AtomicU64 {
        &self.moved
    }

    /// An object is on its way.
    pub fn send(&self) -> Sending<'_> {
        self.sending.fetch_add(1, Ordering::Relaxed);
        Sending(&self.sending)
    }
}

/// One write's search for room.
#[derive(Default)]
pub struct Search {
    tries: u32,
    /// Bytes that had moved when they were last seen to, and when that was.
    moved: Option<(u64, u64)>,
}

impl SegmentStore {
    /// Changes what writes do where there is no room, for those that wait as well.
    pub fn set_room_policy(&self, policy: RoomPolicy) {
        self.room.backlog.store(policy.backlog_bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.room.waits.store(policy.when_full == WhenFull::Wait, Ordering::Relaxed);
    }

    /// What writes do where there is no room.
    pub fn room_policy(&self) -> RoomPolicy {
        let backlog = self.room.backlog.load(Ordering::Relaxed);
        let waits = self.room.waits.load(Ordering::Relaxed);
        RoomPolicy {
            backlog_bytes: (backlog != u64::MAX).then_some(backlog),
            when_full: if waits { WhenFull::Wait } else { WhenFull::Refuse },
        }
    }

    /// Refuses `len` more bytes for a store that is far away where too many wait for such stores. One
    /// write finds room however small the limit is.
    pub(super) fn check_backlog(&self, store: StoreId, len: u64) -> Result<()> {
        let most = self.room.backlog.load(Ordering::Relaxed);
        if most == u64::MAX || !self.is_far_store(store) {
            return Ok(());
        }
        let waiting = self.unsealed(|id| self.is_far(id));
        if waiting == 0 || waiting.saturating_add(len) <= most { Ok(()) } else { Err(Error::NoSpace) }
    }

    /// Waits for room after a write was refused with `full`; returns when it is worth another try.
    pub(super) fn await_room(&self, search: &mut Search, full: Error) -> Result<()> {
        search.moved.get_or_insert((self.room.moved.load(Ordering::Relaxed), self.now_ms()));
        if self.wake.wait_for_room(Duration::from_millis(self.config.full_wait_ms), self.now_ms()) {
            search.tries += 1;
            if search.tries <= TRIES {
                return Ok(());
            }
        }
        if is_given_up() {
            return Err(Error::Interrupted);
        }
        let waits = self.room.waits.load(Ordering::Relaxed) || self.is_moving(search);
        if waits && self.wake.pause(LOOK) { Ok(()) } else { Err(full) }
    }

    /// Whether content is on its way to a store, which makes room as soon as it is there.
    fn is_moving(&self, search: &mut Search) -> bool {
        let (moved, now) = (self.room.moved.load(Ordering::Relaxed), self.now_ms());
        match search.moved {
            Some((before, since)) if before == moved => {
                self.room.sending.load(Ordering::Relaxed) > 0 && now.saturating_sub(since) < STILL_MS
            }
            // Whether or not another one is on its way just now.
            _ => {
                search.moved = Some((moved, now));
                true
            }
        }
    }
}
