//! Lets groups rest in which nothing happens, and tells other nodes, for all groups that rest
//! under this one together, that it lives.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::ZoneNode;
use super::joined::JoinedZone;
use crate::net::{Alive, CallError, MAX_RESTING, ZoneId};
use crate::raft::{MemberId, ProcessId, RestOffer, Vote};

/// How often groups are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// The same where there are none.
const NONE: Duration = Duration::from_secs(1);
/// How often others are told that this node lives.
const PULSE: Duration = Duration::from_millis(500);
/// How long one way to tell it may take, and how many are tried, one after the other.
const TELL: Duration = Duration::from_millis(400);
const WAYS: usize = 3;
/// How long a follower may take to say whether it rests.
const ASK: Duration = Duration::from_secs(1);
/// Groups that are asked to rest at once.
const ASKING: usize = 16;
/// How often tasks that look after a zone look at it while it rests.
const CALM: Duration = Duration::from_secs(10);

/// A group that rests under this node: its zone, the follower, and this node's vote.
type Led = (Arc<JoinedZone>, MemberId, Vote);

/// Looks after a node's groups until it is gone.
pub async fn run(node: Weak<ZoneNode>) {
    let (mut told, mut pause) = (Instant::now(), NONE);
    loop {
        tokio::time::sleep(pause).await;
        let Some(node) = node.upgrade() else { return };
        let (zones, now) = (node.zones(), Instant::now());
        pause = if zones.is_empty() { NONE } else { LOOK };
        zones.iter().for_each(|joined| joined.zone().group().rest().check(now));
        let due = |joined: &&Arc<JoinedZone>| joined.zone().group().rest().is_due(now);
        let may = |joined: &&Arc<JoinedZone>| joined.zone().group().may_rest().is_some();
        for joined in zones.iter().filter(due).filter(may).take(ASKING) {
            tokio::spawn(settle(joined.clone(), node.process));
        }
        if now.saturating_duration_since(told) >= PULSE {
            told = now;
            for (peer, led) in by_process(&zones) {
                tokio::spawn(tell(node.process, peer, led));
            }
        }
    }
}

/// Done once a zone's group is awake, and at the latest after some time.
pub async fn rested(zone: &Weak<JoinedZone>) {
    let Some(rest) = zone.upgrade().map(|joined| joined.zone().group().rest().clone()) else { return };
    // Late is what it waits for, too.
    let _ = tokio::time::timeout(CALM, rest.awake()).await;
}

/// Has a group rest, if all of its members that can be reached agree.
async fn settle(joined: Arc<JoinedZone>, process: ProcessId) {
    let group = joined.zone().group();
    let Some((vote, last)) = group.may_rest() else { return };
    if !group.rest().agree(Instant::now()) {
        return;
    }
    let (me, membership) = (joined.member(), group.status().membership);
    let offer = RestOffer { vote, last, process };
    let others = membership.members.iter().filter(|(id, _)| **id != me);
    let asked = others.map(|(id, about)| {
        let client = joined.links().client(*id, about);
        async move {
            match client {
                Ok(client) => (*id, client.rest(&offer, ASK).await),
                Err(error) => (*id, Err(CallError::Unreachable(error.to_string()))),
            }
        }
    });
    // Who can't be reached asks for votes when it can be, which wakes the others.
    let answers = join_all(asked).await.into_iter().filter_map(|(id, answer)| match answer {
        Ok(process) => Some(process.map(|process| (id, process))),
        Err(CallError::Unreachable(_) | CallError::TimedOut) => None,
        Err(CallError::Refused(_) | CallError::Protocol(_)) => Some(None),
    });
    let answers: Option<Vec<_>> = answers.collect();
    if group.rest().agreed((me, vote), membership, answers, Instant::now()) {
        log::debug!("zone {} rests", joined.name());
    }
}

/// The groups that rest under this node, by whom is to be told.
fn by_process(zones: &[Arc<JoinedZone>]) -> HashMap<ProcessId, Vec<Led>> {
    let mut led: HashMap<ProcessId, Vec<Led>> = HashMap::new();
    for joined in zones {
        if let Some((vote, followers)) = joined.zone().group().vouches() {
            for (member, process) in followers {
                led.entry(process).or_default().push((joined.clone(), member, vote));
            }
        }
    }
    led
}

/// Tells one other node that this one lives.
async fn tell(process: ProcessId, peer: ProcessId, led: Vec<Led>) {
    for some in led.chunks(MAX_RESTING) {
        let zones = some.iter().map(|(joined, _, vote)| (joined.id(), vote.term)).collect();
        let Some(awake) = tell_some(&Alive { process, zones }, some).await else {
            log::debug!("the node {peer:?} can't be told that this one lives");
            return;
        };
        let now = Instant::now();
        for (joined, member, vote) in some {
            let rest = joined.zone().group().rest();
            match awake.contains(&joined.id()) {
                true => rest.stir(now),
                false => rest.acked(*member, *vote, now),
            }
        }
    }
}

/// Tells it over the connection of any of the zones.
async fn tell_some(alive: &Alive, led: &[Led]) -> Option<Vec<ZoneId>> {
    for (joined, member, _) in led.iter().take(WAYS) {
        let membership = joined.zone().group().status().membership;
        let client = membership.members.get(member).map(|about| joined.links().client(*member, about));
        if let Some(Ok(client)) = client
            && let Ok(awake) = client.alive(alive, TELL).await
        {
            return Some(awake);
        }
    }
    None
}

impl ZoneNode {
    /// Notes that another node's process lives; which of its zones do not rest here under it.
    pub(super) fn heard(&self, alive: &Alive) -> Vec<ZoneId> {
        let now = Instant::now();
        let known: HashMap<ZoneId, Arc<JoinedZone>> =
            self.zones().into_iter().map(|joined| (joined.id(), joined)).collect();
        let rests = |(zone, term): &&(ZoneId, u64)| {
            known.get(zone).is_some_and(|joined| joined.zone().group().rest().heard(alive.process, *term, now))
        };
        alive.zones.iter().filter(|told| !rests(told)).map(|(zone, _)| *zone).collect()
    }
}
