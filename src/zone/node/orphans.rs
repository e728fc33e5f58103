//! Frees orphans of a zone: files without a name that no program uses any more, on whichever node.
//!
//! Whoever leads asks all members. That a member does not use an orphan stays true, as without a name no
//! use begins anew: so what all have said no to can be freed at any later time, whoever leads by then. A
//! member that does not answer is taken to use all of them, until it has been silent for [`SILENCE`].

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nexus_kernel::scan;
use nexus_kernel::{Command, Error, Ino, Result, Zone};

use super::joined::JoinedZone;
use super::leases::SILENCE;
use super::pulse;
use crate::raft::{MemberId, Role};

/// How often it is looked for new ones.
const TICK: Duration = Duration::from_millis(100);
/// How often it is asked for those that are in use; from the first to the last, each time twice as long.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// How long a member may take to answer, and how much of that it may wait for what it has not applied yet
/// and for its own calls that are under way.
const ANSWER: Duration = Duration::from_secs(3);
const BEHIND: Duration = Duration::from_secs(1);
const SETTLE: Duration = Duration::from_secs(1);
/// Orphans that are asked for at once.
const MOST_ASKED: usize = 65_536;
/// Inodes and extents that one command frees at most.
const BATCH: usize = 64;
const EXTENT_BUDGET: u32 = 4096;

/// Which of these inodes programs on this node use, once `applied` entries are applied here. Waits; not to
/// be called by a task.
pub fn in_use(joined: &JoinedZone, inodes: Vec<Ino>, applied: u64) -> Result<Vec<Ino>> {
    if applied > 0 && !joined.zone().replica().wait_applied(applied - 1, BEHIND) {
        return Err(Error::Unavailable("this member is behind".into()));
    }
    // Who can't tell is there, and may use any of them.
    Ok(joined.listeners().in_use(joined.index(), &inodes, SETTLE).unwrap_or(inodes))
}

/// What whoever leads knows of a zone's orphans.
#[derive(Default)]
struct Watch {
    /// In which term.
    term: u64,
    /// What was applied when it was last looked.
    seen: Option<u64>,
    /// Those that were in use when it was last asked.
    used: BTreeSet<Ino>,
    /// When and after which pause those are asked for again.
    next: Option<(Instant, Duration)>,
    /// Members that have not answered since they were asked then, and again and again since.
    silent: HashMap<MemberId, Instant>,
}

impl Watch {
    /// Which of all orphans are to be asked for now.
    fn due(&mut self, all: &[Ino], now: Instant) -> Vec<Ino> {
        self.used.retain(|ino| all.binary_search(ino).is_ok());
        if self.used.is_empty() {
            // Nobody was asked for a while.
            self.silent.clear();
        }
        let again = self.next.is_some_and(|(at, _)| now >= at);
        let mut due: Vec<Ino> = all.iter().filter(|ino| again || !self.used.contains(ino)).copied().collect();
        due.truncate(MOST_ASKED);
        due
    }

    /// Takes note of who answered what, `None` for no answer; which are free, and whether by silence alone.
    fn heard(
        &mut self,
        asked: &[Ino],
        answers: Vec<(MemberId, Option<Vec<Ino>>)>,
        sent: Instant,
        now: Instant,
    ) -> (Vec<Ino>, bool) {
        let (mut used, mut by_silence) = (BTreeSet::new(), false);
        self.silent.retain(|member, _| answers.iter().any(|(id, _)| id == member));
        for (member, answer) in answers {
            match answer {
                Some(found) => {
                    self.silent.remove(&member);
                    used.extend(found);
                }
                None if now >= *self.silent.entry(member).or_insert(sent) + SILENCE => by_silence = true,
                None => used.extend(asked),
            }
        }
        let free: Vec<Ino> = asked.iter().filter(|ino| !used.contains(ino)).copied().collect();
        self.used.retain(|ino| free.binary_search(ino).is_err());
        let known = self.used.len();
        self.used.extend(asked.iter().filter(|ino| used.contains(ino)));
        let is_new = self.used.len() > known;
        self.next = match self.next {
            _ if self.used.is_empty() => None,
            Some((at, _)) if !is_new && now < at => self.next,
            Some((_, pause)) if !is_new => {
                let pause = (2 * pause).min(ASK_AGAIN.1);
                Some((now + pause, pause))
            }
            _ => Some((now + ASK_AGAIN.0, ASK_AGAIN.0)),
        };
        (free, by_silence)
    }
}

/// Frees a zone's orphans until it is gone.
pub async fn run(zone: Weak<JoinedZone>) {
    let mut watch = Watch::default();
    loop {
        tokio::time::sleep(TICK).await;
        if watch.used.is_empty() {
            pulse::rested(&zone).await;
        }
        let Some(joined) = zone.upgrade() else { return };
        let status = joined.zone().group().status();
        if status.role != Role::Leader || status.term != watch.term {
            watch = Watch { term: status.term, ..Watch::default() };
        }
        let applied = joined.zone().replica().applied();
        let is_due = watch.next.is_some_and(|(at, _)| Instant::now() >= at);
        if status.role != Role::Leader || watch.seen == Some(applied) && !is_due {
            continue;
        }
        match free(&joined, &mut watch, applied).await {
            Ok(()) => watch.seen = Some(applied),
            Err(error) => {
                log::warn!("files without a name in zone {} can't be freed yet: {error}", joined.name());
                tokio::time::sleep(ASK_AGAIN.1).await;
            }
        }
    }
}

/// Asks for what is due, and frees what nobody uses.
async fn free(joined: &Arc<JoinedZone>, watch: &mut Watch, applied: u64) -> Result<()> {
    let zone = joined.zone().clone();
    let all = blocking(move || scan::orphans(&*zone, Ino(1), usize::MAX)).await?;
    let sent = Instant::now();
    let asked = watch.due(&all, sent);
    if asked.is_empty() {
        return Ok(());
    }
    let answers = ask(joined, &asked, applied).await;
    let (free, by_silence) = watch.heard(&asked, answers, sent, Instant::now());
    if free.is_empty() {
        return Ok(());
    }
    if by_silence {
        // The others may have heard of who is silent to this node, if it does not lead them any more.
        joined.zone().group().read_index().await.map_err(|_| Error::Unavailable("another member leads".into()))?;
        log::info!(
            "zone {}: {} files without a name are freed that a silent member may use",
            joined.name(),
            free.len()
        );
    }
    let zone = joined.zone().clone();
    blocking(move || {
        for inos in free.chunks(BATCH) {
            let command = Command::Reap { inos: inos.to_vec(), budget: EXTENT_BUDGET };
            while zone.propose(&command)?.count > 0 {}
        }
        Ok(())
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Io(error.to_string()))?
}

/// What each member says that has files, this one too.
async fn ask(joined: &Arc<JoinedZone>, inodes: &[Ino], applied: u64) -> Vec<(MemberId, Option<Vec<Ino>>)> {
    let members = joined.zone().group().status().membership.members;
    let users = members.iter().filter(|(_, about)| !about.witness);
    let asked = users.map(|(id, about)| async move {
        if *id == joined.member() {
            let (joined, inodes) = (joined.clone(), inodes.to_vec());
            return (*id, blocking(move || in_use(&joined, inodes, applied)).await.ok());
        }
        let answer = match joined.links().client(*id, about) {
            Ok(client) => client.held(inodes, Some(applied), ANSWER).await.ok(),
            Err(_) => None,
        };
        (*id, answer)
    });
    join_all(asked).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MemberId = MemberId(1);
    const B: MemberId = MemberId(2);

    fn inos(numbers: &[u64]) -> Vec<Ino> {
        numbers.iter().copied().map(Ino).collect()
    }

    fn after(began: Instant, ms: u64) -> Instant {
        began + Duration::from_millis(ms)
    }

    #[test]
    fn what_nobody_uses_is_free_and_the_rest_is_asked_for_ever_less_often() {
        let (began, mut watch) = (Instant::now(), Watch::default());
        let all = inos(&[5, 6, 7]);
        assert_eq!(watch.due(&all, began), all);
        let says = |a: &[u64], b: &[u64]| vec![(A, Some(inos(a))), (B, Some(inos(b)))];
        assert_eq!(watch.heard(&all, says(&[5], &[7]), began, began), (inos(&[6]), false));
        let left = inos(&[5, 7]);
        assert_eq!(watch.due(&left, after(began, 100)), []);
        // A new one alone is asked for at once, and those that wait are not put off by it.
        assert_eq!(watch.due(&inos(&[5, 7, 8]), after(began, 100)), inos(&[8]));
        assert_eq!(watch.heard(&inos(&[8]), says(&[], &[]), began, after(began, 100)), (inos(&[8]), false));
        assert_eq!(watch.due(&left, after(began, 200)), left);
        assert_eq!(watch.heard(&left, says(&[5], &[7]), began, after(began, 200)), (vec![], false));
        assert_eq!(watch.due(&left, after(began, 500)), []);
        let mut at = after(began, 600);
        for _ in 0..10 {
            assert_eq!(watch.due(&left, at), left);
            assert_eq!(watch.heard(&left, says(&[5], &[7]), at, at), (vec![], false));
            at += ASK_AGAIN.1;
        }
        assert_eq!(watch.due(&left, at), left);
        assert_eq!(watch.heard(&left, says(&[], &[]), at, at), (left, false));
        assert!(watch.used.is_empty() && watch.next.is_none());
    }

    #[test]
    fn who_does_not_answer_uses_all_until_it_was_silent_for_long() {
        let (began, mut watch) = (Instant::now(), Watch::default());
        let all = inos(&[5, 6]);
        let silent = |a: &[u64]| vec![(A, Some(inos(a))), (B, None)];
        assert_eq!(watch.heard(&all, silent(&[]), began, after(began, 3000)), (vec![], false));
        assert_eq!(watch.heard(&all, silent(&[]), after(began, 14_000), after(began, 14_999)), (vec![], false));
        // One word of it, and all begins anew.
        let word = vec![(A, Some(vec![])), (B, Some(inos(&[5])))];
        assert_eq!(watch.heard(&all, word, began, after(began, 14_999)), (inos(&[6]), false));
        let all = inos(&[5]);
        assert_eq!(watch.heard(&all, silent(&[]), after(began, 15_000), after(began, 16_000)), (vec![], false));
        assert_eq!(watch.heard(&all, silent(&[5]), after(began, 30_000), after(began, 30_000)), (vec![], true));
        assert_eq!(watch.heard(&all, silent(&[]), after(began, 30_000), after(began, 30_000)), (all, true));
        // Who is no member any more is not waited for.
        assert_eq!(watch.heard(&inos(&[9]), vec![(A, Some(vec![]))], began, began), (inos(&[9]), false));
        assert!(watch.silent.is_empty());
        // Nor does an earlier silence count, after which nobody was asked.
        let all = inos(&[10]);
        assert_eq!(watch.heard(&all, silent(&[]), began, began), (vec![], false));
        assert_eq!(watch.heard(&all, silent(&[]), began, after(began, 15_000)), (all.clone(), true));
        assert_eq!(watch.due(&all, after(began, 60_000)), all);
        assert_eq!(watch.heard(&all, silent(&[]), after(began, 60_000), after(began, 61_000)), (vec![], false));
    }
}
