//! The network of the simulation: messages take time, get lost, and are cut off in one direction or
//! both. It also sees to it that no member votes twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use nexus_kernel::metastore::MetaSnapshot;
use nexus_kernel::{Error, Result};
use parking_lot::Mutex;

use crate::raft::messages::{Append, AppendReply, Link, Links, Refusal, TransferLeader, VoteReply, VoteRequest};
use crate::raft::{Consensus, Mark, Member, MemberId, Outgoing, Position, Replica, Vote};
use crate::testing::Random;

type Peer = (Arc<dyn Consensus>, Arc<Replica>);

/// The network.
pub struct Net {
    members: Mutex<BTreeMap<MemberId, Peer>>,
    /// From whom to whom nothing comes through.
    cuts: Mutex<BTreeSet<(MemberId, MemberId)>>,
    random: Mutex<Random>,
    /// One in so many messages is lost.
    loss: u64,
    /// Whom each member voted for in each term.
    votes: Mutex<BTreeMap<(u64, MemberId), MemberId>>,
    /// What must never be.
    pub wrong: Mutex<Vec<String>>,
}

impl Net {
    pub fn new(seed: u64) -> Net {
        let mut random = Random(seed ^ 0x6e65_7477);
        let loss = [1_000_000, 200, 40][random.below(3) as usize];
        Net {
            members: Mutex::default(),
            cuts: Mutex::default(),
            random: Mutex::new(random),
            loss,
            votes: Mutex::default(),
            wrong: Mutex::default(),
        }
    }

    pub fn joined(&self, id: MemberId, group: Arc<dyn Consensus>, replica: Arc<Replica>) {
        self.members.lock().insert(id, (group, replica));
    }

    pub fn left(&self, id: MemberId) {
        self.members.lock().remove(&id);
    }

    pub fn cut(&self, from: MemberId, to: MemberId) {
        self.cuts.lock().insert((from, to));
    }

    pub fn heal(&self) {
        self.cuts.lock().clear();
    }

    /// A message's way; how it ends.
    async fn pass(&self, from: MemberId, to: MemberId) -> Result<()> {
        let (delay, lost) = {
            let mut random = self.random.lock();
            let delay = if random.below(30) == 0 { random.below(120) } else { 1 + random.below(6) };
            (delay, random.below(self.loss) == 0)
        };
        tokio::time::sleep(Duration::from_millis(delay)).await;
        if lost || self.cuts.lock().contains(&(from, to)) {
            // Nobody tells the sender.
            tokio::time::sleep(Duration::from_millis(300)).await;
            return Err(Error::Unavailable("lost".into()));
        }
        Ok(())
    }

    fn peer(&self, id: MemberId) -> Result<Peer> {
        self.members.lock().get(&id).cloned().ok_or_else(|| Error::Unavailable("not there".into()))
    }

    fn voted(&self, term: u64, by: MemberId, candidate: MemberId) {
        let before = self.votes.lock().insert((term, by), candidate);
        if before.is_some_and(|before| before != candidate) {
            self.wrong.lock().push(format!("member {by} voted for {before:?} and {candidate} in term {term}"));
        }
    }
}

/// A member's ways to the others.
pub struct SimLinks {
    pub net: Arc<Net>,
    pub from: MemberId,
    pub alive: Arc<AtomicBool>,
}

impl Links for SimLinks {
    fn link(&self, id: MemberId, _member: &Member) -> Arc<dyn Link> {
        Arc::new(self.to(id))
    }
}

impl SimLinks {
    /// The way to one.
    pub fn to(&self, id: MemberId) -> SimLink {
        SimLink { net: self.net.clone(), from: self.from, to: id, alive: self.alive.clone() }
    }
}

/// The way to a member.
#[derive(Clone)]
pub struct SimLink {
    net: Arc<Net>,
    from: MemberId,
    to: MemberId,
    alive: Arc<AtomicBool>,
}

impl SimLink {
    /// There; who it is.
    async fn there(&self) -> Result<Peer> {
        self.check()?;
        self.net.pass(self.from, self.to).await?;
        self.check()?;
        self.net.peer(self.to)
    }

    /// And back.
    async fn back(&self) -> Result<()> {
        self.net.pass(self.to, self.from).await?;
        self.check()
    }

    fn check(&self) -> Result<()> {
        let alive = self.alive.load(Ordering::SeqCst);
        if alive { Ok(()) } else { Err(Error::Unavailable("this member is dead".into())) }
    }
}

fn unclear(error: Error) -> Refusal {
    Refusal::Unclear(error.to_string())
}

impl Link for SimLink {
    fn vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteReply>> {
        let this = self.clone();
        async move {
            let reply = this.there().await?.0.on_vote(request).await?;
            if reply.granted && !request.pre {
                this.net.voted(request.vote.term, this.to, request.vote.candidate);
            }
            this.back().await?;
            Ok(reply)
        }
        .boxed()
    }

    fn transfer_leader(&self, request: TransferLeader) -> BoxFuture<'static, Result<bool>> {
        let this = self.clone();
        async move {
            let done = this.there().await?.0.on_transfer_leader(request).await?;
            this.back().await?;
            Ok(done)
        }
        .boxed()
    }

    fn replicate(
        &self,
        appends: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendReply>>>> {
        let this = self.clone();
        async move {
            let (group, _) = this.there().await?;
            // One after the other, as a connection has it; the first that is lost breaks it.
            let there = this.clone();
            let arriving = appends.then(move |append| {
                let there = there.clone();
                async move { there.there().await.map(|_| append) }
            });
            let arrived = arriving.scan((), |(), one| futures_util::future::ready(one.ok()));
            let replies = group.on_replicate(arrived.boxed());
            let returning = replies.then(move |reply| {
                let this = this.clone();
                async move {
                    this.back().await?;
                    reply
                }
            });
            let ended = futures_util::stream::once(async { Err(Error::Io("the connection broke".into())) });
            Ok(returning.chain(ended).boxed())
        }
        .boxed()
    }

    fn snapshot(&self, vote: Vote, mark: Mark, state: Arc<dyn MetaSnapshot>) -> BoxFuture<'static, Result<Vote>> {
        let this = self.clone();
        async move {
            let (group, replica) = this.there().await?;
            let (mut out, mut into) = (Outgoing::new(state), replica.stage()?);
            while let Some(piece) = out.piece()? {
                this.there().await?;
                into.take(&piece)?;
            }
            let vote = group.on_snapshot(vote, mark, into.finish()?).await?;
            this.back().await?;
            Ok(vote)
        }
        .boxed()
    }

    fn propose(&self, batch: Bytes) -> BoxFuture<'static, std::result::Result<Position, Refusal>> {
        let this = self.clone();
        async move {
            let (group, _) = this.there().await.map_err(unclear)?;
            let done = group.propose(batch).await;
            this.back().await.map_err(unclear)?;
            done
        }
        .boxed()
    }

    fn pledge(&self) -> BoxFuture<'static, std::result::Result<(u64, bool), Refusal>> {
        let this = self.clone();
        async move {
            let (group, _) = this.there().await.map_err(unclear)?;
            let pledge = group.pledge(this.from).await;
            this.back().await.map_err(unclear)?;
            pledge
        }
        .boxed()
    }

    fn read_index(&self) -> BoxFuture<'static, std::result::Result<u64, Refusal>> {
        let this = self.clone();
        async move {
            let (group, _) = this.there().await.map_err(unclear)?;
            let index = group.read_index().await;
            this.back().await.map_err(unclear)?;
            index
        }
        .boxed()
    }
}
