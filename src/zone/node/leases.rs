//! Sessions by which nodes hold locks of a zone. A node tells whoever leads that it is there, as
//! long as it has locks; who was not heard of for too long loses them by a command. Nothing of this
//! goes on while no node has locks.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nexus_kernel::locks::{LockSessions, LockSignal};
use nexus_kernel::machine::{lock_sessions, locks_ended};
use nexus_kernel::model::LockSession;
use nexus_kernel::{Command, Error, Result, Zone};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::joined::JoinedZone;
use super::links::ClientLinks;
use crate::net::{self, CallError};
use crate::raft::{Consensus, MemberId, Refusal, Replica, Role};

/// From when a node has told that it is there, its locks hold for so long.
const LEASE: Duration = Duration::from_secs(10);
/// Whoever leads ends the locks of who was not heard of for so long. Longer than [`LEASE`], so that
/// who loses its locks knows before others have them, even where clocks don't run alike.
pub const SILENCE: Duration = Duration::from_secs(15);
/// How often a node tells that it is there.
const RENEWAL: Duration = Duration::from_secs(3);
/// How long a node without locks still tells that it is there.
const UNUSED: Duration = Duration::from_secs(20);
/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(500);
/// How long the leader may take to answer.
const QUESTION: Duration = Duration::from_secs(2);
/// How long who asks for a first lock waits for the leader.
const BEGIN: Duration = Duration::from_secs(10);
/// How long to wait for word of another leader before the last one is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// What leases work with.
pub struct LeaseParts {
    /// The zone's state here.
    pub replica: Arc<Replica>,
    /// Its group.
    pub group: Arc<dyn Consensus>,
    /// Ways to its members.
    pub links: Arc<ClientLinks>,
    /// Where calls run.
    pub runtime: Handle,
}

/// This node's sessions in a zone, and, where it leads, what it has heard of others'.
pub struct Leases {
    parts: LeaseParts,
    own: Mutex<Own>,
    watch: Mutex<Watch>,
    ended: AtomicBool,
    /// Ends of sessions are being proposed.
    ending: AtomicBool,
}

/// This node's newest session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Own {
    number: u64,
    /// Until when it holds; `None` before it was ever used.
    until: Option<Instant>,
    /// When it was last asked for.
    used: Instant,
}

/// What is to be done about this node's session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Due {
    Nothing,
    Renew(u64),
}

impl Own {
    fn holds(&self, number: u64, now: Instant) -> bool {
        number == self.number && self.until.is_some_and(|until| now < until)
    }

    /// Goes on to the next number, if this one was used.
    fn begin_anew(&mut self) {
        if self.until.take().is_some() {
            self.number += 1;
        }
    }

    /// The leader has heard of a session at a time after `sent`. Too late, it is over.
    fn renewed(&mut self, number: u64, sent: Instant, now: Instant) -> bool {
        if number != self.number {
            return false;
        }
        if self.until.is_some_and(|until| now >= until) || now >= sent + LEASE {
            self.until = Some(now);
            self.begin_anew();
            return false;
        }
        self.until = Some(sent + LEASE);
        true
    }

    /// What is due; `has_locks` of a session tells whether the state has any.
    fn due(&mut self, now: Instant, has_locks: impl FnOnce(u64) -> bool) -> Due {
        let Some(until) = self.until else { return Due::Nothing };
        if now >= until {
            self.begin_anew();
            return Due::Nothing;
        }
        if now + LEASE < until + RENEWAL {
            return Due::Nothing;
        }
        if now >= self.used + UNUSED && !has_locks(self.number) {
            self.begin_anew();
            return Due::Nothing;
        }
        Due::Renew(self.number)
    }
}

/// When sessions were last heard of, by whoever leads.
#[derive(Default, Debug)]
struct Watch {
    heard: HashMap<u64, (u64, Instant)>,
}

impl Watch {
    fn hear(&mut self, session: LockSession, now: Instant) {
        self.heard.insert(session.member, (session.number, now));
    }

    /// Of these sessions, which have locks, those whose locks are to end. One that was not known
    /// before has all its time from now on: another may have led when it was last heard of.
    fn overdue(
        &mut self,
        sessions: &BTreeSet<LockSession>,
        is_member: impl Fn(u64) -> bool,
        now: Instant,
    ) -> Vec<LockSession> {
        self.heard.retain(|member, _| sessions.iter().any(|session| session.member == *member));
        let mut over = Vec::new();
        for &session in sessions {
            if !is_member(session.member) {
                over.push(LockSession { number: u64::MAX, ..session });
                continue;
            }
            match self.heard.get(&session.member) {
                Some((number, _)) if *number > session.number => over.push(session),
                Some((number, at)) if *number == session.number && now >= *at + SILENCE => over.push(session),
                Some((number, _)) if *number == session.number => {}
                _ => self.hear(session, now),
            }
        }
        over
    }
}

impl Leases {
    /// Those of a node that has just opened the zone.
    pub fn new(parts: LeaseParts) -> Leases {
        // Above all numbers of an earlier start.
        let number = (parts.replica.session() << 32) | 1;
        let own = Own { number, until: None, used: Instant::now() };
        Leases {
            parts,
            own: Mutex::new(own),
            watch: Mutex::default(),
            ended: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        }
    }

    /// No lock holds any more: this node ends.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.parts.replica.locks.ring();
    }

    fn me(&self) -> u64 {
        self.parts.replica.me().0
    }

    /// Where this node leads: hears of a session. `false` if that is over.
    pub async fn hear(&self, session: LockSession) -> std::result::Result<bool, Refusal> {
        let came = Instant::now();
        // Whoever is not the leader any more must not say that locks hold.
        self.parts.group.read_index().await?;
        let mut over = false;
        let read = self.parts.replica.state().read(&mut |state| {
            over = locks_ended(state, session)?;
            Ok(())
        });
        read.map_err(|error| Refusal::Unclear(error.to_string()))?;
        if !over {
            self.watch.lock().hear(session, came);
        }
        Ok(!over)
    }

    /// Tells the leader that a session is in use; `false` if it is over.
    async fn renew(&self, number: u64, at_most: Duration) -> Result<bool> {
        let until = Instant::now() + at_most;
        let mut leader = self.parts.group.status().leader;
        loop {
            let sent = Instant::now();
            let left = until.saturating_duration_since(sent);
            if left.is_zero() {
                return Err(Error::Unavailable("no leader of the zone has answered in time".into()));
            }
            let refusal = match tokio::time::timeout(left.min(QUESTION), self.tell(leader, number)).await {
                Ok(Ok(true)) => return Ok(self.own.lock().renewed(number, sent, Instant::now())),
                Ok(Ok(false)) => {
                    self.lose(number);
                    return Ok(false);
                }
                Ok(Err(refusal)) => refusal,
                Err(_) => Refusal::Unclear("no answer in time".into()),
            };
            leader = match refusal {
                Refusal::NotLeader(Some(hint)) if Some(hint) != leader => Some(hint),
                _ => {
                    let other = self.parts.group.other_leader(leader, PAUSE.min(left)).await;
                    other.or(self.parts.group.status().leader)
                }
            };
        }
    }

    async fn tell(&self, leader: Option<MemberId>, number: u64) -> std::result::Result<bool, Refusal> {
        let LeaseParts { replica, group, links, .. } = &self.parts;
        match leader {
            Some(leader) if leader == replica.me() => self.hear(LockSession { member: self.me(), number }).await,
            Some(leader) => {
                let membership = group.status().membership;
                let about = membership.members.get(&leader).ok_or(Refusal::NotLeader(None))?;
                let client = links.client(leader, about).map_err(|error| Refusal::Unclear(error.to_string()))?;
                match client.renew_locks(number, QUESTION).await {
                    Ok(()) => Ok(true),
                    Err(CallError::Refused(net::Refusal::Denied(_))) => Ok(false),
                    Err(CallError::Refused(net::Refusal::NotLeader { leader, .. })) => Err(Refusal::NotLeader(leader)),
                    Err(error) => Err(Refusal::Unclear(error.to_string())),
                }
            }
            None => Err(Refusal::NotLeader(None)),
        }
    }

    fn lose(&self, number: u64) {
        let mut own = self.own.lock();
        if own.number == number {
            own.until.get_or_insert_with(Instant::now);
            own.begin_anew();
        }
    }

    fn sessions(&self) -> Result<BTreeSet<LockSession>> {
        let mut sessions = BTreeSet::new();
        self.parts.replica.state().read(&mut |state| {
            sessions = lock_sessions(state)?;
            Ok(())
        })?;
        Ok(sessions)
    }

    /// Sessions whose locks this node is to end now.
    fn over(&self, sessions: &BTreeSet<LockSession>) -> Vec<LockSession> {
        let (me, number) = (self.me(), self.own.lock().number);
        let mut over: Vec<LockSession> =
            sessions.iter().filter(|session| session.member == me && session.number < number).copied().collect();
        let status = self.parts.group.status();
        let mut watch = self.watch.lock();
        if status.role == Role::Leader {
            let is_member = |member| status.membership.members.contains_key(&MemberId(member));
            over.extend(watch.overdue(sessions, is_member, Instant::now()));
        } else {
            *watch = Watch::default();
        }
        over
    }
}

impl LockSessions for Leases {
    fn begin(&self) -> Result<LockSession> {
        if self.ended.load(Ordering::Acquire) {
            return Err(Error::Unavailable("this node is about to end".into()));
        }
        let until = Instant::now() + BEGIN;
        loop {
            let number = {
                let mut own = self.own.lock();
                let now = Instant::now();
                own.used = now;
                if own.holds(own.number, now) {
                    return Ok(LockSession { member: self.me(), number: own.number });
                }
                own.begin_anew();
                own.number
            };
            let left = until.saturating_duration_since(Instant::now());
            self.parts.runtime.block_on(self.renew(number, left))?;
        }
    }

    fn holds(&self, session: LockSession) -> bool {
        let own = self.own.lock();
        let is_own = session.member == self.me() && own.holds(session.number, Instant::now());
        is_own && !self.ended.load(Ordering::Acquire)
    }

    fn give_up(&self, session: LockSession) {
        if session.member == self.me() {
            self.lose(session.number);
        }
    }

    fn signal(&self) -> Arc<LockSignal> {
        self.parts.replica.locks.clone()
    }
}

/// Looks after a zone's sessions until it is gone.
pub async fn run(zone: Weak<JoinedZone>) {
    let (mut seen, mut sessions) = (None, BTreeSet::new());
    loop {
        tokio::time::sleep(TICK).await;
        let Some(joined) = zone.upgrade() else { return };
        let leases = joined.leases().clone();
        let count = leases.parts.replica.locks.count();
        if seen != Some(count) {
            match leases.sessions() {
                Ok(found) => (seen, sessions) = (Some(count), found),
                Err(error) => log::warn!("the locks of zone {} can't be read: {error}", joined.name()),
            }
        }
        let me = leases.me();
        let has_locks = |number| sessions.contains(&LockSession { member: me, number });
        let due = leases.own.lock().due(Instant::now(), has_locks);
        if let Due::Renew(number) = due
            && let Err(error) = leases.renew(number, QUESTION).await
        {
            log::warn!("zone {}: locks of this node are soon lost: {error}", joined.name());
        }
        let over = leases.over(&sessions);
        if !over.is_empty() && !leases.ending.swap(true, Ordering::AcqRel) {
            tokio::task::spawn_blocking(move || end_sessions(&joined, &over));
        }
    }
}

fn end_sessions(joined: &JoinedZone, over: &[LockSession]) {
    for &session in over {
        match joined.zone().propose(&Command::EndLocks { session }) {
            Ok(_) => log::info!("zone {}: locks of member {} have ended", joined.name(), MemberId(session.member)),
            Err(error) => log::warn!("locks in zone {} can't be ended yet: {error}", joined.name()),
        }
    }
    joined.leases().ending.store(false, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(member: u64, number: u64) -> LockSession {
        LockSession { member, number }
    }

    fn after(began: Instant, seconds: u64) -> Instant {
        began + Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_is_renewed_while_it_is_used_and_over_once_it_has_run_out() {
        let began = Instant::now();
        let mut own = Own { number: 5, until: None, used: began };
        assert_eq!(own.due(began, |_| true), Due::Nothing);
        assert!(own.renewed(5, began, began) && own.holds(5, after(began, 9)) && !own.holds(5, after(began, 10)));
        assert_eq!(own.due(after(began, 2), |_| true), Due::Nothing);
        assert_eq!(own.due(after(began, 3), |_| true), Due::Renew(5));
        assert!(own.renewed(5, after(began, 3), after(began, 5)));
        assert!(own.holds(5, after(began, 12)), "from when it was sent");
        assert!(!own.renewed(4, after(began, 5), after(began, 5)), "an earlier one");
        // An answer that comes too late does not bring it back.
        assert!(!own.renewed(5, after(began, 12), after(began, 14)));
        assert_eq!((own.number, own.until), (6, None));
        assert!(!own.renewed(6, began, after(began, 10)) && own.number == 7);
        assert!(own.renewed(7, began, began));
        assert_eq!(own.due(after(began, 10), |_| true), Due::Nothing);
        assert_eq!((own.number, own.until), (8, None));
    }

    #[test]
    fn without_locks_nobody_is_told_after_a_while() {
        let began = Instant::now();
        let mut own = Own { number: 5, until: None, used: began };
        assert!(own.renewed(5, after(began, 15), after(began, 15)));
        assert_eq!(own.due(after(began, 19), |_| false), Due::Renew(5));
        assert_eq!(own.due(after(began, 20), |_| true), Due::Renew(5));
        assert_eq!(own.due(after(began, 20), |_| false), Due::Nothing);
        assert_eq!((own.number, own.until), (6, None));
    }

    #[test]
    fn who_leads_ends_what_it_has_not_heard_of_for_long() {
        let (began, mut watch) = (Instant::now(), Watch::default());
        let sessions = BTreeSet::from([session(1, 5), session(2, 6)]);
        let all = |_| true;
        watch.hear(session(1, 5), began);
        assert_eq!(watch.overdue(&sessions, all, after(began, 14)), []);
        watch.hear(session(1, 5), after(began, 14));
        assert_eq!(watch.overdue(&sessions, all, after(began, 28)), []);
        assert_eq!(watch.overdue(&sessions, all, after(began, 29)), [session(1, 5), session(2, 6)]);
        // One that is back under a later number has given the earlier up.
        watch.hear(session(2, 7), after(began, 29));
        watch.hear(session(1, 5), after(began, 29));
        assert_eq!(watch.overdue(&sessions, all, after(began, 29)), [session(2, 6)]);
        // Who is no member any more has none.
        assert_eq!(
            watch.overdue(&sessions, |member| member == 2, after(began, 29)),
            [session(1, u64::MAX), session(2, 6)]
        );
        // Without locks it is forgotten, and then has all its time.
        watch.overdue(&BTreeSet::new(), all, after(began, 30));
        assert_eq!(watch.overdue(&sessions, all, after(began, 60)), []);
    }
}
