//! Appends to a member over as many streams as it takes: one is opened with the first of them,
//! and closed when nothing is to be sent for a while, so that the connections of zones in which
//! nothing happens are idle.
//!
//! An append that only tells how far entries are committed waits a little for one with entries, which tells that,
//! too. Whoever proposed an entry hears of its commit by the answer to that.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use nexus_kernel::{Error, Result};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use crate::raft::Position;
use crate::raft::messages::{Append, AppendReply, Link};

/// How long a stream stays open with nothing to send, as a rule.
pub const IDLE: Duration = Duration::from_secs(2);
/// How long an append waits that has no entries.
const COMMIT: Duration = Duration::from_millis(1);

/// Why no more replies come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The stream could not be opened in time.
    TimedOut,
    /// It could not be opened, or broke.
    Failed(Error),
}

/// What is yet to be sent. Only one at a time asks for it: the stream that is open, or who is to
/// open the next.
struct Source {
    appends: BoxStream<'static, Append>,
    /// Handed out and not answered.
    unanswered: usize,
    /// Whether the last stream was closed as there was nothing to send.
    was_idle: bool,
    /// Ends of the log by appends that were not sent, each with how many that were sent come before it.
    unsent: VecDeque<(u64, Option<Position>)>,
    /// Handed out to streams, and answered, since the beginning.
    sent: u64,
    answered: u64,
    /// What the member answered last.
    heard: Option<AppendReply>,
    /// Replies that are to be told, in the order of their appends.
    ready: VecDeque<AppendReply>,
}

impl Source {
    /// The member has answered the next append that it was sent.
    fn hear(&mut self, reply: AppendReply) {
        self.answer_unsent();
        (self.unanswered, self.answered) = (self.unanswered.saturating_sub(1), self.answered + 1);
        self.heard = Some(reply);
        self.ready.push_back(reply);
    }

    /// The reply that comes next, if there is one by now.
    fn next_reply(&mut self) -> Option<AppendReply> {
        self.answer_unsent();
        self.ready.pop_front()
    }

    /// What was not sent is answered as the member has answered what it follows: it has that, or refuses.
    fn answer_unsent(&mut self) {
        while let Some((_, end)) = self.unsent.front().filter(|(before, _)| *before <= self.answered) {
            self.ready.push_back(match self.heard {
                Some(AppendReply::Matched(at)) if at < *end => AppendReply::Matched(at),
                Some(AppendReply::Matched(_)) | None => AppendReply::Matched(*end),
                Some(refusal) => refusal,
            });
            self.unsent.pop_front();
        }
    }
}

type Shared = Arc<Mutex<Source>>;

/// One stream's part of the appends.
struct Course {
    first: Option<Append>,
    source: Shared,
    idle: Duration,
    used: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
    /// What the member's log ends with once it has all that was sent.
    end: Option<Position>,
    /// One without entries, and until when it waits.
    held: Option<(Append, Pin<Box<Sleep>>)>,
}

impl Course {
    /// Takes an append; gives what is to be sent now.
    fn take(&mut self, append: Append) -> Option<Append> {
        // Another one tells the same and more.
        if let Some((held, _)) = self.held.take() {
            let mut source = self.source.lock();
            let before = source.sent;
            source.unsent.push_back((before, held.previous));
        }
        if append.entries.is_empty() && append.previous.is_some() && append.previous == self.end {
            self.held = Some((append, Box::pin(tokio::time::sleep(COMMIT))));
            return None;
        }
        Some(append)
    }

    fn send(&mut self, append: Append) -> Poll<Option<Append>> {
        self.end = append.entries.last().map(|entry| entry.position).or(append.previous);
        let mut source = self.source.lock();
        (source.unanswered, source.sent) = (source.unanswered + 1, source.sent + 1);
        drop(source);
        self.used = Instant::now();
        Poll::Ready(Some(append))
    }
}

impl Stream for Course {
    type Item = Append;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Append>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return this.send(first);
        }
        loop {
            let next = this.source.lock().appends.as_mut().poll_next(context);
            match next {
                Poll::Ready(Some(next)) => {
                    if let Some(next) = this.take(next) {
                        return this.send(next);
                    }
                }
                Poll::Ready(None) => {
                    return match this.held.take() {
                        Some((held, _)) => this.send(held),
                        None => Poll::Ready(None),
                    };
                }
                Poll::Pending => break,
            }
        }
        if let Some((_, until)) = &mut this.held {
            std::task::ready!(until.as_mut().poll(context));
            if let Some((held, _)) = this.held.take() {
                return this.send(held);
            }
        }
        let sleep = this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(this.idle)));
        while sleep.as_mut().poll(context).is_ready() {
            let end = this.used + this.idle;
            if Instant::now() >= end {
                this.source.lock().was_idle = true;
                return Poll::Ready(None);
            }
            sleep.as_mut().reset(end);
        }
        Poll::Pending
    }
}

type Replies = BoxStream<'static, Result<AppendReply>>;

/// Sends appends over `link`; replies come in their order, and end with the first error, or when
/// all appends are answered. A stream may take `limit` to be opened, and is closed after `idle`
/// without use.
pub fn replies(
    link: Arc<dyn Link>,
    appends: BoxStream<'static, Append>,
    limit: Duration,
    idle: Duration,
) -> impl Stream<Item = std::result::Result<AppendReply, Broken>> + Send {
    let source: Shared = Arc::new(Mutex::new(Source {
        // A stream asks once more after the last.
        appends: appends.fuse().boxed(),
        unanswered: 0,
        was_idle: false,
        unsent: VecDeque::new(),
        sent: 0,
        answered: 0,
        heard: None,
        ready: VecDeque::new(),
    }));
    let state: Option<Option<Replies>> = Some(None);
    stream::unfold((link, source, state), move |(link, source, state)| async move {
        let mut open = state?;
        loop {
            let mut replies = match open {
                Some(replies) => replies,
                None => match next_course(&link, &source, limit, idle).await? {
                    Ok(replies) => replies,
                    Err(broken) => return Some((Err(broken), (link, source, None))),
                },
            };
            let reply = source.lock().next_reply();
            if let Some(reply) = reply {
                return Some((Ok(reply), (link, source, Some(Some(replies)))));
            }
            match replies.next().await {
                Some(Ok(reply)) => {
                    source.lock().hear(reply);
                    open = Some(replies);
                }
                Some(Err(error)) => return Some((Err(Broken::Failed(error)), (link, source, None))),
                None => {
                    let mut ended = source.lock();
                    // What the member did not answer is begun anew by whoever wants it answered.
                    if !std::mem::take(&mut ended.was_idle) || ended.unanswered > 0 {
                        return None;
                    }
                    drop(ended);
                    open = None;
                }
            }
        }
    })
}

/// Opens a stream with the next append; `None` if there will be none.
async fn next_course(
    link: &Arc<dyn Link>,
    source: &Shared,
    limit: Duration,
    idle: Duration,
) -> Option<std::result::Result<Replies, Broken>> {
    let first = std::future::poll_fn(|context| source.lock().appends.as_mut().poll_next(context)).await?;
    let course = Course {
        first: Some(first),
        source: source.clone(),
        idle,
        used: Instant::now(),
        sleep: None,
        end: None,
        held: None,
    };
    Some(match tokio::time::timeout(limit, link.replicate(course.boxed())).await {
        Ok(opened) => opened.map_err(Broken::Failed),
        Err(_) => Err(Broken::TimedOut),
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use nexus_kernel::metastore::MetaSnapshot;

    use super::*;
    use crate::raft::{Entry, Mark, Refusal, TransferLeader, Vote, VoteReply, VoteRequest};

    /// A member, and what it is asked.
    #[derive(Default)]
    struct Asked {
        streams: usize,
        appends: Vec<Append>,
    }

    struct Answering {
        asked: Arc<Mutex<Asked>>,
        /// Appends of a stream that it answers.
        most: usize,
        /// It refuses what follows this place.
        refuses: Option<Position>,
    }

    impl Answering {
        fn new(most: usize) -> Answering {
            Answering { asked: Arc::default(), most, refuses: None }
        }
    }

    impl Link for Answering {
        fn replicate(&self, appends: BoxStream<'static, Append>) -> BoxFuture<'static, Result<Replies>> {
            let (asked, refuses) = (self.asked.clone(), self.refuses);
            asked.lock().streams += 1;
            let replies = appends.take(self.most).map(move |append| {
                let (previous, last) = (append.previous, append.entries.last().map(|entry| entry.position));
                asked.lock().appends.push(append);
                Ok(match previous {
                    Some(previous) if Some(previous) == refuses => AppendReply::Conflict(previous),
                    _ => AppendReply::Matched(last.or(previous)),
                })
            });
            async move { Ok(replies.boxed()) }.boxed()
        }
        fn vote(&self, _: VoteRequest) -> BoxFuture<'static, Result<VoteReply>> {
            std::future::pending().boxed()
        }
        fn transfer_leader(&self, _: TransferLeader) -> BoxFuture<'static, Result<bool>> {
            std::future::pending().boxed()
        }
        fn snapshot(&self, _: Vote, _: Mark, _: Arc<dyn MetaSnapshot>) -> BoxFuture<'static, Result<Vote>> {
            std::future::pending().boxed()
        }
        fn propose(&self, _: bytes::Bytes) -> BoxFuture<'static, std::result::Result<Position, Refusal>> {
            std::future::pending().boxed()
        }
        fn pledge(&self) -> BoxFuture<'static, std::result::Result<(u64, bool), Refusal>> {
            std::future::pending().boxed()
        }
        fn read_index(&self) -> BoxFuture<'static, std::result::Result<u64, Refusal>> {
            std::future::pending().boxed()
        }
    }

    fn append(index: u64) -> Append {
        Append { vote: Vote::default(), previous: Some(at(index)), committed: None, entries: Vec::new() }
    }

    fn at(index: u64) -> Position {
        Position { term: 1, index }
    }

    /// With the entry that follows.
    fn with(index: u64) -> Append {
        let entry = Entry { position: at(index + 1), payload: crate::raft::Payload::Blank };
        Append { entries: vec![entry], ..append(index) }
    }

    fn matched(index: u64) -> Option<std::result::Result<AppendReply, Broken>> {
        Some(Ok(AppendReply::Matched(Some(at(index)))))
    }

    const SHORT: Duration = Duration::from_millis(100);

    fn channel() -> (tokio::sync::mpsc::UnboundedSender<Append>, BoxStream<'static, Append>) {
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        let next = |mut receive: tokio::sync::mpsc::UnboundedReceiver<Append>| async move {
            receive.recv().await.map(|append| (append, receive))
        };
        (send, stream::unfold(receive, next).boxed())
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn a_stream_without_use_is_closed_and_the_next_append_opens_another() {
        runtime().block_on(async {
            let (link, (send, appends)) = (Arc::new(Answering::new(usize::MAX)), channel());
            let asked = link.asked.clone();
            let mut replies = std::pin::pin!(replies(link, appends, SHORT, SHORT));
            assert!(tokio::time::timeout(SHORT * 2, replies.next()).await.is_err());
            assert_eq!(asked.lock().streams, 0, "nothing is opened for nothing");
            for index in 0..20 {
                send.send(append(index)).unwrap();
                assert_eq!(replies.next().await, matched(index));
            }
            assert_eq!(asked.lock().streams, 1);
            assert!(tokio::time::timeout(SHORT * 3, replies.next()).await.is_err());
            send.send(append(20)).unwrap();
            assert_eq!(replies.next().await, matched(20));
            assert_eq!(asked.lock().streams, 2);
            drop(send);
            assert_eq!(replies.next().await, None);
        });
    }

    #[test]
    fn what_only_tells_of_a_commit_goes_with_the_next_entry_or_a_little_later() {
        let commit = |index, committed| Append { committed: Some(at(committed)), ..append(index) };
        runtime().block_on(async {
            let (link, (send, appends)) = (Arc::new(Answering::new(usize::MAX)), channel());
            let asked = link.asked.clone();
            let mut replies = std::pin::pin!(replies(link, appends, SHORT, SHORT));
            for append in [with(1), commit(2, 2), commit(2, 2), with(2), commit(3, 3)] {
                send.send(append).unwrap();
            }
            for index in [2, 2, 2, 3, 3] {
                assert_eq!(replies.next().await, matched(index), "all are answered, in order");
            }
            let sent = |append: &Append| (append.previous, append.entries.len());
            let sent: Vec<_> = asked.lock().appends.iter().map(sent).collect();
            assert_eq!(sent, [(Some(at(1)), 1), (Some(at(2)), 1), (Some(at(3)), 0)]);
            // All are answered: one that is not sent, as there is an entry, that, and one with which it ends.
            for append in [commit(3, 3), with(3), commit(4, 4)] {
                send.send(append).unwrap();
            }
            drop(send);
            for index in [3, 4, 4] {
                assert_eq!(replies.next().await, matched(index), "in order also where nothing is under way");
            }
            assert_eq!(replies.next().await, None);
        });
    }

    #[test]
    fn what_is_not_sent_is_refused_with_what_it_follows() {
        runtime().block_on(async {
            let (send, appends) = channel();
            let link = Arc::new(Answering { refuses: Some(at(1)), ..Answering::new(usize::MAX) });
            let mut replies = std::pin::pin!(replies(link, appends, SHORT, SHORT));
            for append in [with(1), append(2), with(2)] {
                send.send(append).unwrap();
            }
            for _ in 0..2 {
                assert_eq!(replies.next().await, Some(Ok(AppendReply::Conflict(at(1)))));
            }
            assert_eq!(replies.next().await, matched(3));
        });
    }

    #[test]
    fn a_member_that_hangs_up_ends_it() {
        runtime().block_on(async {
            let appends = stream::iter([1, 2, 3].map(append)).chain(stream::pending());
            let link = Arc::new(Answering::new(2));
            let mut replies = std::pin::pin!(replies(link, appends.boxed(), SHORT, SHORT));
            assert_eq!((replies.next().await, replies.next().await), (matched(1), matched(2)));
            assert_eq!(replies.next().await, None, "the third is not sent as if it followed");
        });
    }
}
