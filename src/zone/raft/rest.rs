//! [`Rest`]: whether a group's timers run. A group in which nothing happens rests: its leader
//! sends no heartbeats and its followers await none, as long as they hear that the leader's
//! process lives, which is told for all groups of a node at once. Whatever happens wakes it.
//!
//! Nothing here is needed for safety: a member that rests votes, appends and steps down by the
//! same rules, and a leader that rested asks a majority before it takes a change.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::entry::{MemberId, Membership, Position, Vote};

/// How much later each follower, in the order of ids, takes the leader for lost: so that they do
/// not all stand at once.
const STAGGER: Duration = Duration::from_millis(150);
/// Longest that a leader may take to agree with its followers to rest.
const AGREEING: Duration = Duration::from_secs(5);

/// When a group rests.
#[derive(Clone, Debug)]
pub struct RestConfig {
    /// How long nothing must have happened.
    pub after: Duration,
    /// How long after the last sign of life a leader is taken for lost, and a majority by a leader.
    pub lost: Duration,
}

impl Default for RestConfig {
    fn default() -> Self {
        RestConfig { after: Duration::from_secs(3), lost: Duration::from_millis(1250) }
    }
}

/// A node's process: a random number that only the members of its groups are told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProcessId(pub [u8; 16]);

/// A leader asks a follower to rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestOffer {
    /// The leader's vote.
    pub vote: Vote,
    /// The last entry, which is committed, and which all have.
    pub last: Position,
    /// Whose signs of life speak for the leader.
    pub process: ProcessId,
}

/// What switches a group's timers.
pub trait Timers: Send + Sync {
    /// No heartbeats, no elections.
    fn stop(&self);
    /// This member leads: heartbeats, the first at once.
    fn lead(&self);
    /// The leader is lost: elections, the first at once.
    fn stand(&self);
    /// The leader is about to be heard: elections only if it is not.
    fn listen(&self);
}

/// A follower that rests.
#[derive(Clone, Copy, Debug)]
struct Follower {
    id: MemberId,
    process: ProcessId,
    /// When it last answered that it rests.
    acked: Instant,
}

enum Phase {
    Awake,
    /// The leader is asking its followers.
    Agreeing {
        since: Instant,
    },
    Leading {
        vote: Vote,
        me: MemberId,
        membership: Membership,
        followers: Vec<Follower>,
    },
    Following {
        vote: Vote,
        process: ProcessId,
        heard: Instant,
        lost: Duration,
    },
}

struct State {
    phase: Phase,
    /// When something last happened.
    active: Instant,
}

/// Whether a group rests, at one of its members.
pub struct Rest {
    config: RestConfig,
    timers: Box<dyn Timers>,
    /// Whether the phase is another than awake: looked at on every message.
    resting: AtomicBool,
    born: Instant,
    /// When the leader was last heard, in milliseconds since then.
    heard_ms: AtomicU64,
    state: Mutex<State>,
    awake: watch::Sender<bool>,
}

impl Rest {
    /// A group that is awake, and whose timers run.
    pub fn new(config: RestConfig, timers: Box<dyn Timers>, now: Instant) -> Rest {
        let state = Mutex::new(State { phase: Phase::Awake, active: now });
        Rest {
            config,
            timers,
            resting: AtomicBool::new(false),
            born: now,
            heard_ms: AtomicU64::new(0),
            state,
            awake: watch::Sender::new(true),
        }
    }

    fn enter(&self, state: &mut State, phase: Phase) {
        let resting = !matches!(phase, Phase::Awake);
        state.phase = phase;
        self.resting.store(resting, Ordering::Release);
        self.awake.send_if_modified(|awake| std::mem::replace(awake, !resting) == resting);
    }

    /// Whether its timers stand.
    pub fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Acquire)
    }

    /// Done once the group is awake.
    pub async fn awake(&self) {
        let mut awake = self.awake.subscribe();
        // Fails only once this is gone, which holds the sender.
        let _ = awake.wait_for(|awake| *awake).await;
    }

    /// Something happens that others are to be asked about: wakes the group.
    pub fn stir(&self, now: Instant) {
        let mut state = self.state.lock();
        state.active = now;
        self.wake(&mut state);
    }

    /// The leader was heard: wakes this member, if it rests.
    pub fn hear(&self, now: Instant) {
        let since = now.saturating_duration_since(self.born).as_millis();
        self.heard_ms.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
        if self.is_resting() {
            self.stir(now);
        }
    }

    fn wake(&self, state: &mut State) {
        match state.phase {
            Phase::Awake => return,
            Phase::Agreeing { .. } | Phase::Leading { .. } => self.timers.lead(),
            Phase::Following { .. } => self.timers.listen(),
        }
        self.enter(state, Phase::Awake);
    }

    /// Whether nothing has happened for long enough.
    pub fn is_due(&self, now: Instant) -> bool {
        let state = self.state.lock();
        matches!(state.phase, Phase::Awake) && now.saturating_duration_since(state.active) >= self.config.after
    }

    /// The leader stops its timers, to ask its followers; `false` if something happens.
    pub fn agree(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        let due = now.saturating_duration_since(state.active) >= self.config.after;
        if !due || !matches!(state.phase, Phase::Awake) {
            return false;
        }
        self.timers.stop();
        self.enter(&mut state, Phase::Agreeing { since: now });
        true
    }

    /// What the leader's followers answered, `None` if one refused: it rests if nothing happened
    /// meanwhile, and a majority rests with it.
    pub fn agreed(
        &self,
        (me, vote): (MemberId, Vote),
        membership: Membership,
        answers: Option<Vec<(MemberId, ProcessId)>>,
        now: Instant,
    ) -> bool {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Agreeing { .. }) {
            return false;
        }
        let followers = answers.into_iter().flatten();
        let followers: Vec<_> = followers.map(|(id, process)| Follower { id, process, acked: now }).collect();
        if majority_silent(me, &membership, &followers, now).is_none_or(|silent| silent > Duration::ZERO) {
            state.active = now;
            self.wake(&mut state);
            return false;
        }
        self.enter(&mut state, Phase::Leading { vote, me, membership, followers });
        true
    }

    /// The leader asks this follower, which is the `rank`th of them.
    pub fn follow(&self, offer: &RestOffer, rank: u32, now: Instant) -> bool {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Agreeing { .. } | Phase::Leading { .. }) {
            return false;
        }
        self.timers.stop();
        let lost = self.config.lost + STAGGER * rank.min(4);
        self.enter(&mut state, Phase::Following { vote: offer.vote, process: offer.process, heard: now, lost });
        true
    }

    /// A process says that it leads at that term, and rests; whether this member takes it for its
    /// leader and rests, too.
    pub fn heard(&self, from: ProcessId, term: u64, now: Instant) -> bool {
        match &mut self.state.lock().phase {
            Phase::Following { vote, process, heard, .. } if *process == from && vote.term == term => {
                *heard = now;
                true
            }
            _ => false,
        }
    }

    /// Of a leader that rests: with which vote, and which of its followers are to be told.
    pub fn vouches(&self) -> Option<(Vote, Vec<(MemberId, ProcessId)>)> {
        match &self.state.lock().phase {
            Phase::Leading { vote, followers, .. } => {
                Some((*vote, followers.iter().map(|follower| (follower.id, follower.process)).collect()))
            }
            _ => None,
        }
    }

    /// A follower has answered that it rests.
    pub fn acked(&self, member: MemberId, at: Vote, now: Instant) {
        if let Phase::Leading { vote, followers, .. } = &mut self.state.lock().phase
            && *vote == at
        {
            followers.iter_mut().filter(|follower| follower.id == member).for_each(|follower| follower.acked = now);
        }
    }

    /// How long a majority has said nothing to this leader, if it rests.
    pub fn majority_silent(&self, now: Instant) -> Option<Duration> {
        match &self.state.lock().phase {
            Phase::Leading { me, membership, followers, .. } => majority_silent(*me, membership, followers, now),
            _ => None,
        }
    }

    /// How long nothing was heard of a leader, at a member that does not lead.
    pub fn leader_silent(&self, now: Instant) -> Duration {
        let heard = self.born + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        let pulse = match &self.state.lock().phase {
            Phase::Following { heard, .. } => *heard,
            _ => heard,
        };
        now.saturating_duration_since(heard.max(pulse))
    }

    /// Whether this member knows a leader that lives, by other signs than heartbeats.
    pub fn knows_leader(&self, now: Instant) -> bool {
        match &self.state.lock().phase {
            Phase::Leading { .. } | Phase::Agreeing { .. } => true,
            Phase::Following { heard, lost, .. } => now.saturating_duration_since(*heard) < *lost * 3 / 4,
            Phase::Awake => false,
        }
    }

    /// Wakes this member if it has lost its leader, or as a leader a majority. To be called often.
    pub fn check(&self, now: Instant) {
        if !self.is_resting() {
            return;
        }
        let mut state = self.state.lock();
        let lost = match &state.phase {
            Phase::Awake => false,
            Phase::Agreeing { since } => now.saturating_duration_since(*since) > AGREEING,
            Phase::Leading { me, membership, followers, .. } => {
                majority_silent(*me, membership, followers, now).is_none_or(|silent| silent > self.config.lost)
            }
            Phase::Following { heard, lost, .. } => {
                let lost = now.saturating_duration_since(*heard) > *lost;
                if lost {
                    state.active = now;
                    self.timers.stand();
                    self.enter(&mut state, Phase::Awake);
                }
                return;
            }
        };
        if lost {
            state.active = now;
            self.wake(&mut state);
        }
    }
}

/// For how long some majority was not heard of whole; `None` if not even all that are listed make one.
fn majority_silent(me: MemberId, membership: &Membership, followers: &[Follower], now: Instant) -> Option<Duration> {
    let silent = |id: &MemberId| match followers.iter().find(|follower| follower.id == *id) {
        _ if *id == me => Some(Duration::ZERO),
        Some(follower) => Some(now.saturating_duration_since(follower.acked)),
        None => None,
    };
    let mut longest = Duration::ZERO;
    for voters in &membership.voters {
        let mut heard: Vec<Duration> = voters.iter().filter_map(silent).collect();
        heard.sort_unstable();
        longest = longest.max(*heard.get(voters.len() / 2)?);
    }
    Some(longest)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;

    #[derive(Default, Clone)]
    struct Noted(Arc<Mutex<Vec<&'static str>>>);

    impl Noted {
        fn take(&self) -> Vec<&'static str> {
            std::mem::take(&mut self.0.lock())
        }
    }

    impl Timers for Noted {
        fn stop(&self) {
            self.0.lock().push("stop");
        }
        fn lead(&self) {
            self.0.lock().push("lead");
        }
        fn stand(&self) {
            self.0.lock().push("stand");
        }
        fn listen(&self) {
            self.0.lock().push("listen");
        }
    }

    const VOTE: Vote = Vote { term: 4, candidate: MemberId(1), committed: true };
    const PROCESS: ProcessId = ProcessId([1; 16]);
    const OTHER: ProcessId = ProcessId([2; 16]);

    fn three() -> Membership {
        Membership { voters: vec![BTreeSet::from([1, 2, 3].map(MemberId))], ..Membership::default() }
    }

    fn rest() -> (Rest, Noted, Instant) {
        let (timers, now) = (Noted::default(), Instant::now());
        (Rest::new(RestConfig::default(), Box::new(timers.clone()), now), timers, now)
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_leader_rests_with_a_majority_and_wakes_at_a_change_or_without_one() {
        let (rest, timers, t) = rest();
        assert!(!rest.agree(t + 2 * S), "too early");
        rest.stir(t + 2 * S);
        assert!(!rest.agree(t + 4 * S) && rest.agree(t + 5 * S));
        assert!(!rest.agreed((MemberId(1), VOTE), three(), Some(Vec::new()), t + 5 * S), "nobody rests with it");
        assert_eq!(timers.take(), ["stop", "lead"]);
        assert!(!rest.agree(t + 7 * S), "not again at once");
        assert!(rest.agree(t + 8 * S));
        assert!(!rest.agreed((MemberId(1), VOTE), three(), None, t + 8 * S), "one refused");
        assert!(rest.agree(t + 11 * S));
        rest.stir(t + 11 * S);
        let two = Some(vec![(MemberId(2), OTHER)]);
        assert!(!rest.agreed((MemberId(1), VOTE), three(), two.clone(), t + 11 * S), "something happened meanwhile");
        assert!(rest.agree(t + 14 * S));
        assert!(rest.agreed((MemberId(1), VOTE), three(), two.clone(), t + 14 * S));
        assert!(rest.is_resting() && rest.knows_leader(t + 14 * S));
        assert_eq!(rest.vouches(), Some((VOTE, vec![(MemberId(2), OTHER)])));
        timers.take();
        rest.acked(MemberId(2), VOTE, t + 15 * S);
        rest.acked(MemberId(2), Vote { term: 3, ..VOTE }, t + 20 * S);
        rest.check(t + 16 * S);
        assert_eq!((rest.is_resting(), rest.majority_silent(t + 16 * S)), (true, Some(S)));
        rest.check(t + 17 * S);
        assert_eq!((rest.is_resting(), timers.take()), (false, vec!["lead"]));
        assert!(rest.agree(t + 20 * S) && rest.agreed((MemberId(1), VOTE), three(), two, t + 20 * S));
        rest.stir(t + 20 * S);
        assert_eq!((rest.is_resting(), timers.take()), (false, vec!["stop", "lead"]));
        // What takes too long to agree on is given up.
        assert!(rest.agree(t + 30 * S));
        rest.check(t + 36 * S);
        assert!(!rest.is_resting());
    }

    #[test]
    fn a_follower_rests_while_it_hears_that_very_leader_and_stands_when_it_does_not() {
        let (rest, timers, t) = rest();
        let offer = RestOffer { vote: VOTE, last: Position { term: 4, index: 7 }, process: PROCESS };
        assert!(rest.follow(&offer, 0, t) && rest.is_resting());
        assert_eq!(timers.take(), ["stop"]);
        assert!(!rest.heard(OTHER, 4, t + S) && !rest.heard(PROCESS, 5, t + S));
        assert!(rest.heard(PROCESS, 4, t + S) && rest.knows_leader(t + S));
        assert_eq!(rest.leader_silent(t + 2 * S), S);
        rest.check(t + 2 * S);
        assert!(rest.is_resting() && !rest.knows_leader(t + 2 * S));
        rest.check(t + S * 9 / 4 + STAGGER);
        assert_eq!((rest.is_resting(), timers.take()), (false, vec!["stand"]));
        // The one after it leaves it time to be elected.
        assert!(rest.follow(&offer, 1, t + 3 * S));
        rest.check(t + 3 * S + RestConfig::default().lost + STAGGER);
        assert!(rest.is_resting());
        rest.hear(t + 5 * S);
        assert_eq!((rest.is_resting(), timers.take()), (false, vec!["stop", "listen"]));
        assert!(!rest.heard(PROCESS, 4, t + 5 * S), "the leader is told that it does not rest");
    }

    #[test]
    fn a_leader_alone_is_its_own_majority() {
        let (rest, _, t) = rest();
        let alone = Membership { voters: vec![BTreeSet::from([MemberId(1)])], ..Membership::default() };
        assert!(rest.agree(t + 3 * S));
        assert!(rest.agreed((MemberId(1), VOTE), alone, Some(Vec::new()), t + 3 * S));
        rest.check(t + 3600 * S);
        assert!(rest.is_resting());
    }
}
