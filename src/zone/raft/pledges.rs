//! [`Pledges`]: what the leader has promised to members that read their own state without asking it.
//!
//! A pledge says: for [`PLEDGE`] from when you asked, nothing is committed that your log does not have. Who
//! holds one and has applied its own log sees all that was acknowledged to anybody, and needs to ask nobody.
//!
//! - The leader keeps its word by taking another member's "I have it" into account only once all who hold a
//!   pledge have said so, too, or theirs has run out ([`Pledges::pass`]). A commit needs a majority, and so,
//!   where there are others, at least one of those answers.
//! - It gives its word, and only then has a majority confirm that it leads still. Its successor is elected
//!   after that, so later than the member asked, and takes each member to hold a pledge for [`HELD`] from
//!   when it began to lead. So nothing depends on how leaders' times in office lie to one another.
//! - Times are differences on one machine's clock that also counts while the machine sleeps. Where clocks
//!   run alike to a quarter, a pledge has run out for who holds it before it has for who gave it. Who holds one
//!   looks at the clock within each call, after it looked how far its log is: a process that was stopped
//!   before finds it run out, and what is told after a stop is what was true when it looked.
//! - Members of older builds know of no pledges and would, elected, not wait for them: none is asked for before
//!   all members announced [`SINCE`].

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::entry::{MemberId, Vote};

/// The version of commands from which on members know of pledges.
pub const SINCE: u8 = 9;
/// How long a pledge is of use to who asked for it, from when it did. All builds must agree on this.
pub const PLEDGE: Duration = Duration::from_millis(300);
/// How long it is kept, from when it was given.
pub const HELD: Duration = Duration::from_millis(375);
/// A member that all others had to wait for so long is given none...
const LATE: Duration = Duration::from_millis(100);
/// ...for this time: it may ask, as one without pledges does.
const UNFIT: Duration = Duration::from_secs(10);

/// Time since some point in the past, also while the machine sleeps.
#[cfg(not(test))]
pub fn steady_now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// The same in tests: of the simulation, where there is one.
#[cfg(test)]
pub fn steady_now() -> Duration {
    static BEGAN: OnceLock<std::time::Instant> = OnceLock::new();
    let began = *BEGAN.get_or_init(std::time::Instant::now);
    // A simulation that began before this was first asked is behind it.
    let now = tokio::time::Instant::now().into_std() + Duration::from_secs(3600);
    now.saturating_duration_since(began)
}

/// What is known of another member.
#[derive(Clone, Copy, Default, Debug)]
struct Held {
    /// It may hold a pledge until then.
    until: Duration,
    /// One more than the index up to which its log is like this one's.
    matched: u64,
    /// It is given none until then.
    unfit: Duration,
}

#[derive(Default)]
struct State {
    /// The vote by which this member leads, or led last.
    vote: Vote,
    /// Until then, also members that are not known may hold one.
    strangers: Duration,
    members: BTreeMap<MemberId, Held>,
    /// One more than the last index that may be committed by now.
    passed: u64,
}

type Others = Box<dyn Fn() -> Vec<MemberId> + Send + Sync>;

/// Pledges of one group, at one of its members.
#[derive(Default)]
pub struct Pledges {
    state: Mutex<State>,
    moved: Notify,
    others: OnceLock<Others>,
}

impl State {
    /// Until when the entry at `index` has to wait for members' pledges; `None`: not at all.
    fn waits(&self, index: u64, now: Duration) -> Option<Duration> {
        let lacking = self.members.values().filter(|held| held.matched <= index && held.until > now);
        let strangers = (self.strangers > now).then_some(self.strangers);
        lacking.map(|held| held.until).chain(strangers).max()
    }
}

impl Pledges {
    /// How to find out who the other members are, by the newest entry about them that there is.
    pub fn know(&self, others: Others) {
        let _ = self.others.set(others);
    }

    /// This member leads by `vote`, as replies to it tell.
    fn lead(&self, state: &mut State, vote: Vote, now: Duration) {
        if (vote.term, vote.candidate) <= (state.vote.term, state.vote.candidate) {
            return;
        }
        let others = self.others.get().map(|others| others());
        *state = State {
            vote,
            strangers: if others.is_some() { Duration::ZERO } else { now + HELD },
            members: BTreeMap::new(),
            passed: 0,
        };
        for other in others.into_iter().flatten() {
            state.members.insert(other, Held { until: now + HELD, ..Held::default() });
        }
    }

    /// Promises a member, which votes, to commit nothing without it; answers the index, plus one, of the last
    /// entry that may be committed without it already.
    pub fn grant(&self, member: MemberId) -> Option<u64> {
        let now = steady_now();
        let mut state = self.state.lock();
        let held = state.members.entry(member).or_default();
        if held.unfit > now {
            return None;
        }
        held.until = held.until.max(now + HELD);
        Some(state.passed)
    }

    /// A member has answered by `vote` that its log is like this one's up to `index`.
    pub fn acked(&self, vote: Vote, member: MemberId, index: u64) {
        let mut state = self.state.lock();
        self.lead(&mut state, vote, steady_now());
        if state.vote != vote {
            return;
        }
        let held = state.members.entry(member).or_default();
        held.matched = held.matched.max(index + 1);
        drop(state);
        self.moved.notify_waiters();
    }

    /// Waits until the entry at `index` may be committed.
    pub async fn pass(&self, index: u64) {
        let began = steady_now();
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            let wait = {
                let now = steady_now();
                let mut state = self.state.lock();
                if index < state.passed {
                    return;
                }
                let Some(until) = state.waits(index, now) else {
                    state.passed = index + 1;
                    return;
                };
                if now.saturating_sub(began) >= LATE {
                    let lacking = state.members.values_mut().filter(|held| held.matched <= index && held.until > now);
                    lacking.for_each(|held| held.unfit = now + UNFIT);
                }
                (until - now).min(LATE)
            };
            let _ = tokio::time::timeout(wait, moved).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MemberId = MemberId(2);
    const B: MemberId = MemberId(3);

    fn vote(term: u64) -> Vote {
        Vote { term, candidate: MemberId(1), committed: true }
    }

    /// Runs with the simulation's time.
    fn timed(work: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(work);
    }

    async fn takes(pledges: &Pledges, index: u64) -> Duration {
        let began = steady_now();
        pledges.pass(index).await;
        steady_now() - began
    }

    fn near(took: Duration, about: Duration) -> bool {
        took >= about && took < about + Duration::from_millis(10)
    }

    #[test]
    fn a_new_leader_waits_for_what_others_may_have_promised_or_until_all_have_it() {
        timed(async {
            for known in [true, false] {
                let pledges = Pledges::default();
                if known {
                    pledges.know(Box::new(|| vec![A, B]));
                }
                pledges.acked(vote(1), A, 5);
                let took = takes(&pledges, 5).await;
                assert!(near(took, HELD), "{took:?}");
                pledges.acked(vote(2), A, 7);
                pledges.acked(vote(2), B, 7);
                let took = takes(&pledges, 7).await;
                assert!(near(took, if known { Duration::ZERO } else { HELD }), "{took:?}");
                assert!(takes(&pledges, 6).await.is_zero());
            }
        });
    }

    #[test]
    fn nothing_passes_without_who_holds_a_pledge() {
        timed(async {
            let pledges = Pledges::default();
            pledges.know(Box::new(|| vec![A, B]));
            pledges.acked(vote(1), A, 5);
            pledges.acked(vote(1), B, 5);
            pledges.pass(5).await;
            tokio::time::sleep(2 * HELD).await;
            pledges.acked(vote(1), A, 9);
            assert!(takes(&pledges, 9).await.is_zero(), "nobody holds one");
            assert_eq!(pledges.grant(B), Some(10), "what has passed before is to be seen by who gets one now");
            pledges.acked(vote(1), A, 12);
            assert!(near(takes(&pledges, 12).await, HELD), "it has run out");
            assert_eq!(pledges.grant(B), None, "who is late gets none");
            tokio::time::sleep(UNFIT).await;
            assert_eq!(pledges.grant(B), Some(13));
            pledges.acked(vote(1), A, 13);
            let late = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                pledges.acked(vote(1), B, 13);
            };
            let (took, ()) = tokio::join!(takes(&pledges, 13), late);
            assert!(near(took, Duration::from_millis(50)), "{took:?}");
            assert_eq!(pledges.grant(B), Some(14));
            pledges.acked(vote(0), B, 99);
            pledges.acked(vote(1), A, 14);
            assert!(near(takes(&pledges, 14).await, HELD), "an earlier time in office says nothing");
        });
    }
}
