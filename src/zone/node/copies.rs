//! Has other members keep what this node writes, before they are told of it: the zone's
//! setting says how many nodes are to have each byte. Who writes at the same time shares messages.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nexus_kernel::model;
use nexus_kernel::{BlobId, ContentStore, Error, Result};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::links::ClientLinks;
use super::records::{DEFAULT_REPLICAS, REPLICAS_KEY, read};
use crate::mirror::Part;
use crate::net::{CallError, PeerClient};
use crate::raft::{Consensus, Copies, Copying, Member, MemberId, Patience, Replica, Span};

/// Bytes that one message carries.
const MESSAGE: usize = 4 << 20;
/// Bytes of one part.
const PART: u64 = 1 << 20;
/// Messages on their way at once.
const IN_FLIGHT: usize = 4;
/// What waits to be sent; who comes then waits for room.
const QUEUE: usize = 1024;
/// How long a member may take to keep a message, before others are asked: at first, and once all were asked.
const FIRST: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(10);
/// How long a member that failed is asked after all others.
const AWAY: Duration = Duration::from_secs(10);
/// Where a majority may be there without any other member that keeps content: how long one may take at first, and
/// how long it then has to show that it lives.
const FIRST_BESIDE_WITNESS: Duration = Duration::from_millis(1500);
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// How often it is tried to reach one within that time.
const LOOK: Duration = Duration::from_millis(100);
/// How often those are asked for it that are taken to be lost.
const PROBE: Duration = Duration::from_secs(1);

struct Request {
    spans: Vec<Span>,
    done: oneshot::Sender<Result<()>>,
}

/// Copies of one zone's content, as its writer sees them.
pub struct ZoneCopies {
    sender: mpsc::Sender<Request>,
    runtime: Handle,
    shared: Arc<Shared>,
}

/// What a zone's copies work with.
pub struct CopyParts {
    /// The zone's state here.
    pub replica: Arc<Replica>,
    /// Its group.
    pub group: Arc<dyn Consensus>,
    /// Ways to its members.
    pub links: Arc<ClientLinks>,
    /// What is copied.
    pub content: Arc<dyn ContentStore>,
    /// How long a writer waits for somebody to keep a copy.
    pub patience: Arc<Patience>,
}

struct Shared {
    parts: CopyParts,
    places: Arc<Semaphore>,
    away: Mutex<HashMap<MemberId, Instant>>,
    /// Nobody else keeps content now: what is written is on this node alone, until one is there again.
    alone: AtomicBool,
    /// Less was copied than the zone asks for, since this was looked at.
    behind: AtomicBool,
    /// Bytes of which there are too few copies, as far as is known.
    lacking: AtomicU64,
}

impl ZoneCopies {
    /// Copies for a zone.
    pub fn start(parts: CopyParts, runtime: Handle) -> ZoneCopies {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            parts,
            places: Arc::new(Semaphore::new(IN_FLIGHT)),
            away: Mutex::default(),
            alone: AtomicBool::new(false),
            behind: AtomicBool::new(true),
            lacking: AtomicU64::new(0),
        });
        // Ends with the last sender.
        runtime.spawn(run(shared.clone(), receiver));
        ZoneCopies { sender, runtime, shared }
    }

    /// On how many nodes each byte is to be, the writer among them.
    pub fn wanted(&self) -> usize {
        self.shared.wanted()
    }

    /// The members that can keep copies, those to be asked first in front.
    pub fn keepers(&self) -> Vec<(MemberId, Member)> {
        self.shared.keepers()
    }

    /// Whether less was copied than is asked for, since the last call.
    pub fn take_behind(&self) -> bool {
        self.shared.behind.swap(false, Ordering::AcqRel)
    }

    /// Bytes of which too few copies were found when that was looked at last.
    pub fn lacking(&self) -> u64 {
        self.shared.lacking.load(Ordering::Relaxed)
    }

    /// Notes how many bytes have too few copies.
    pub fn set_lacking(&self, bytes: u64) {
        self.shared.lacking.store(bytes, Ordering::Relaxed);
    }

    /// A way to a member.
    pub fn client(&self, id: MemberId, member: &Member) -> Result<PeerClient> {
        self.shared.parts.links.client(id, member)
    }

    /// Has one member keep these bytes durably.
    pub async fn send(&self, client: &PeerClient, spans: &[Span]) -> Result<()> {
        for (parts, durable) in self.shared.messages(spans)? {
            client.keep_content(parts, &durable, AGAIN).await.map_err(|error| Error::Unavailable(error.to_string()))?;
        }
        Ok(())
    }
}

impl Copies for ZoneCopies {
    fn begin(&self, spans: Vec<Span>) -> Copying {
        if self.shared.wanted() < 2 || self.shared.keepers().is_empty() {
            return Box::new(|| Ok(()));
        }
        let (done, copied) = oneshot::channel();
        let gone = || Error::Unavailable("the zone is closed".into());
        let sent = self.sender.blocking_send(Request { spans, done });
        let runtime = self.runtime.clone();
        Box::new(move || {
            sent.map_err(|_| gone())?;
            runtime.block_on(copied).unwrap_or_else(|_| Err(gone()))
        })
    }
}

async fn run(shared: Arc<Shared>, mut queue: mpsc::Receiver<Request>) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(first) => first,
            None => match queue.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        // While it waits for its turn, others join it.
        let Ok(place) = shared.places.clone().acquire_owned().await else { return };
        let (mut spans, mut waiting) = (first.spans, vec![first.done]);
        while let Ok(more) = queue.try_recv() {
            if bytes(&spans) + bytes(&more.spans) > MESSAGE as u64 {
                next = Some(more);
                break;
            }
            spans.extend(more.spans);
            waiting.push(more.done);
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            let copied = shared.copy(&spans).await;
            drop(place);
            for done in waiting {
                // Who waited may have given up.
                let _ = done.send(copied.clone());
            }
        });
    }
}

fn bytes(spans: &[Span]) -> u64 {
    spans.iter().map(|span| span.len).sum()
}

impl Shared {
    fn wanted(&self) -> usize {
        let mut wanted = None;
        let looked = self.parts.replica.state().read(&mut |state| {
            wanted = read::<u32>(state, REPLICAS_KEY)?;
            Ok(())
        });
        if let Err(error) = looked {
            log::warn!("how many copies the zone asks for can't be read: {error}");
        }
        wanted.unwrap_or(DEFAULT_REPLICAS) as usize
    }

    fn keepers(&self) -> Vec<(MemberId, Member)> {
        let (me, membership) = (self.parts.replica.me(), self.parts.group.status().membership);
        let votes: BTreeSet<MemberId> = membership.voters.iter().flatten().copied().collect();
        let others =
            membership.members.into_iter().filter(|(id, about)| *id != me && votes.contains(id) && !about.witness);
        let mut others: Vec<(MemberId, Member)> = others.collect();
        let away = self.away.lock();
        // The same ones each time, so that a blob's copies are not strewn about.
        others
            .sort_by_key(|(id, _)| (away.get(id).is_some_and(|since| since.elapsed() < AWAY), id.0.wrapping_sub(me.0)));
        others
    }

    /// Messages that carry these bytes; the last makes all durable.
    fn messages(&self, spans: &[Span]) -> Result<Vec<(Vec<Part>, Vec<BlobId>)>> {
        let (mut messages, mut parts, mut size) = (Vec::new(), Vec::new(), 0);
        for span in spans {
            let mut done = 0;
            while done < span.len {
                let len = PART.min(span.len - done);
                if size + len as usize > MESSAGE {
                    messages.push((std::mem::take(&mut parts), Vec::new()));
                    size = 0;
                }
                let mut buf = vec![0; len as usize];
                tokio::task::block_in_place(|| self.parts.content.read(span.blob, span.offset + done, &mut buf))?;
                parts.push(Part { blob: span.blob, offset: span.offset + done, bytes: buf.into() });
                size += len as usize;
                done += len;
            }
        }
        let blobs: BTreeSet<BlobId> = spans.iter().map(|span| span.blob).collect();
        messages.push((parts, blobs.into_iter().collect()));
        Ok(messages)
    }

    /// Has as many others keep these bytes as the zone asks for. Where not so many answer, one
    /// must, and the rest is made up for later. Only where the others could go on without all that keep content, as
    /// witnesses are among them, none has to if none lives.
    async fn copy(self: &Arc<Self>, spans: &[Span]) -> Result<()> {
        let until = Instant::now() + self.parts.patience.get();
        let may_be_alone = self.may_be_alone();
        if may_be_alone && self.alone.load(Ordering::Acquire) {
            self.behind.store(true, Ordering::Release);
            return Ok(());
        }
        let mut limit =
            if may_be_alone { FIRST_BESIDE_WITNESS } else { FIRST } + Duration::from_millis(bytes(spans) / 5_000);
        let mut messages = None;
        loop {
            let (keepers, wanted) = (self.keepers(), self.wanted());
            let needed = wanted.saturating_sub(1).min(keepers.len());
            if needed == 0 {
                return Ok(());
            }
            let messages = match &mut messages {
                Some(messages) => messages,
                none => none.insert(self.messages(spans)?),
            };
            let (kept, failure) = self.round(&keepers, needed, messages, limit).await;
            if kept > 0 {
                if kept < needed {
                    self.behind.store(true, Ordering::Release);
                }
                return Ok(());
            }
            if may_be_alone && !self.any_lives(&keepers).await {
                self.go_on_alone();
                return Ok(());
            }
            if Instant::now() >= until {
                let why = failure.unwrap_or_default();
                return Err(Error::NoMajority(format!(
                    "no other member of the zone keeps a copy of what was written ({why})"
                )));
            }
            limit = AGAIN;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whether a majority can be there without any other member that keeps content.
    fn may_be_alone(&self) -> bool {
        let (me, membership) = (self.parts.replica.me(), self.parts.group.status().membership);
        let stays = |id: &MemberId| *id == me || membership.members.get(id).is_some_and(|about| about.witness);
        let is_majority = |voters: &BTreeSet<MemberId>| 2 * voters.iter().filter(|id| stays(id)).count() > voters.len();
        membership.has_witness() && membership.voters.iter().all(is_majority)
    }

    /// Whether any of these members answers at all.
    async fn any_lives(&self, keepers: &[(MemberId, Member)]) -> bool {
        let until = Instant::now() + SIGN_OF_LIFE;
        let asked: FuturesUnordered<_> =
            keepers.iter().map(|(id, member)| async move { self.lives(*id, member, until).await }).collect();
        asked.any(|lives| async move { lives }).await
    }

    async fn lives(&self, id: MemberId, member: &Member, until: Instant) -> bool {
        let Ok(client) = self.parts.links.client(id, member) else { return false };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match client.kept_content(&[], left).await {
                // A connection may have broken that can be made anew.
                Err(CallError::Unreachable(_)) if Instant::now() + LOOK < until => tokio::time::sleep(LOOK).await,
                answer => return !matches!(answer, Err(CallError::Unreachable(_) | CallError::TimedOut)),
            }
        }
    }

    /// From now on nobody is waited for, until one of the others is there again.
    fn go_on_alone(self: &Arc<Self>) {
        self.behind.store(true, Ordering::Release);
        if self.alone.swap(true, Ordering::AcqRel) {
            return;
        }
        log::warn!("no other member that keeps content answers: what is written now has no copies until one does");
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PROBE).await;
                let Some(shared) = shared.upgrade() else { return };
                let keepers = shared.keepers();
                if shared.any_lives(&keepers).await || !shared.may_be_alone() {
                    shared.away.lock().clear();
                    shared.alone.store(false, Ordering::Release);
                    // What was written meanwhile is made up for.
                    shared.behind.store(true, Ordering::Release);
                    return;
                }
            }
        });
    }

    /// How many members keep the messages, and why another does not.
    async fn round(
        &self,
        keepers: &[(MemberId, Member)],
        needed: usize,
        messages: &[(Vec<Part>, Vec<BlobId>)],
        limit: Duration,
    ) -> (usize, Option<String>) {
        let mut left = keepers.iter();
        let mut running: FuturesUnordered<_> =
            left.by_ref().take(needed).map(|(id, member)| self.keep(*id, member, messages, limit)).collect();
        let (mut kept, mut failure) = (0, None);
        while kept < needed {
            match running.next().await {
                Some((id, Ok(()))) => {
                    self.away.lock().remove(&id);
                    kept += 1;
                }
                Some((id, Err(text))) => {
                    if self.away.lock().insert(id, Instant::now()).is_none_or(|since| since.elapsed() > AWAY) {
                        log::warn!("member {id} keeps no copies now: {text}");
                    }
                    failure = Some(text);
                    if let Some((id, member)) = left.next() {
                        running.push(self.keep(*id, member, messages, limit));
                    }
                }
                None => break,
            }
        }
        (kept, failure)
    }

    async fn keep(
        &self,
        id: MemberId,
        member: &Member,
        messages: &[(Vec<Part>, Vec<BlobId>)],
        limit: Duration,
    ) -> (MemberId, std::result::Result<(), String>) {
        let client = match self.parts.links.client(id, member) {
            Ok(client) => client,
            Err(error) => return (id, Err(error.to_string())),
        };
        for (parts, durable) in messages {
            if let Err(error) = client.keep_content(parts.clone(), durable, limit).await {
                return (id, Err(format!("{}: {error}", member.name)));
            }
        }
        (id, Ok(()))
    }
}

/// The setting's value, as it stands in the zone's state.
pub fn encode_replicas(replicas: u32) -> Result<Vec<u8>> {
    Ok(model::encode(&replicas)?.to_vec())
}
