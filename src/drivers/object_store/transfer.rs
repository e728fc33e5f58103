//! [`TransferMemory`]: the memory that content has on its way to and from stores, one limit for all stores
//! of a process, of which each has a [`StoreMemory`]. What goes up waits for its part; what is fetched ahead
//! has it at once, or is not fetched.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// The limit of a store that shares none.
pub const TRANSFER_BYTES: u64 = 64 << 20;

/// A limit, and what is held of it.
///
/// Each store may always hold one upload, however little the limit is and whatever others hold, so uploads
/// come to an end; who holds something for an upload waits for nobody but the network. Of several stores
/// none may hold more than half, so one that does not answer leaves the others theirs. Uploads leave a
/// quarter to readers; while uploads wait, readers leave them half.
#[derive(Debug)]
pub struct TransferMemory {
    limit: u64,
    book: Mutex<Book>,
}

/// A store's part of a [`TransferMemory`]; it need not be given back before this is dropped.
#[derive(Debug)]
pub struct StoreMemory {
    all: Arc<TransferMemory>,
    store: u64,
}

/// Memory of an upload, until this is dropped.
#[derive(Debug)]
pub struct PartMemory {
    memory: Arc<StoreMemory>,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Book {
    total: Held,
    stores: HashMap<u64, Held>,
    next_store: u64,
    /// Uploads that wait, in the order in which they came: their store, and whom to wake.
    waiting: BTreeMap<u64, (u64, Waker)>,
    next_ticket: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// By uploads.
    up: u64,
    /// By what was fetched ahead, and by what is to be.
    ahead: u64,
}

/// The place of an upload that waits.
struct Ticket<'a> {
    all: &'a TransferMemory,
    number: u64,
}

impl TransferMemory {
    /// As many bytes.
    pub fn new(limit: u64) -> Arc<TransferMemory> {
        Arc::new(TransferMemory { limit, book: Mutex::default() })
    }

    /// For one more store.
    pub fn share(self: &Arc<Self>) -> Arc<StoreMemory> {
        let mut book = self.book.lock();
        let store = book.next_store;
        book.next_store += 1;
        book.stores.insert(store, Held::default());
        Arc::new(StoreMemory { all: Arc::clone(self), store })
    }

    /// Bytes that are held now.
    pub fn held(&self) -> u64 {
        self.book.lock().total.sum()
    }

    /// Changes what is held, and has uploads that wait look again, who came first first.
    fn give(&self, change: impl FnOnce(&mut Book)) {
        let wakers: Vec<Waker> = {
            let mut book = self.book.lock();
            change(&mut book);
            book.waiting.values().map(|(_, waker)| waker.clone()).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Held {
    fn sum(self) -> u64 {
        self.up + self.ahead
    }
}

impl Book {
    fn of(&self, store: u64) -> Held {
        self.stores.get(&store).copied().unwrap_or_default()
    }

    /// Whether so many more bytes of a store are within what all may hold, and what one may.
    fn fits(&self, store: u64, bytes: u64, limit: u64) -> bool {
        let most = if self.stores.len() > 1 { limit / 2 } else { limit };
        self.total.sum() + bytes <= limit && self.of(store).sum() + bytes <= most
    }

    fn may_go_up(&self, store: u64, bytes: u64, limit: u64) -> bool {
        let is_in_turn = self.of(store).up == 0;
        is_in_turn || self.fits(store, bytes, limit) && self.total.up + bytes <= limit - limit / 4
    }

    fn may_come_ahead(&self, store: u64, bytes: u64, limit: u64) -> bool {
        let most = if self.waiting.is_empty() { limit } else { limit / 2 };
        self.fits(store, bytes, limit) && self.total.ahead + bytes <= most
    }

    fn change(&mut self, store: u64, change: impl Fn(&mut Held)) {
        change(&mut self.total);
        // A store that has gone holds nothing, but what it held may be given back later.
        if let Some(held) = self.stores.get_mut(&store) {
            change(held);
        }
    }
}

impl StoreMemory {
    /// The only part of a limit of its own.
    pub fn alone() -> Arc<StoreMemory> {
        TransferMemory::new(TRANSFER_BYTES).share()
    }

    /// Bytes that all stores hold together.
    pub fn held(&self) -> u64 {
        self.all.held()
    }

    /// Memory for an upload, once there is some. Uploads to one store have it in the order in which they ask.
    pub async fn take_part(self: &Arc<Self>, bytes: u64) -> PartMemory {
        let mut ticket = None;
        poll_fn(|context| self.poll_part(bytes, &mut ticket, context)).await
    }

    fn poll_part<'a>(
        self: &'a Arc<Self>,
        bytes: u64,
        ticket: &mut Option<Ticket<'a>>,
        context: &Context<'_>,
    ) -> Poll<PartMemory> {
        let all = &*self.all;
        let mut book = all.book.lock();
        let number = ticket.as_ref().map_or(book.next_ticket, |ticket| ticket.number);
        let is_next = !book.waiting.range(..number).any(|(_, (store, _))| *store == self.store);
        if is_next && book.may_go_up(self.store, bytes, all.limit) {
            book.change(self.store, |held| held.up += bytes);
            drop(book);
            // Whoever comes after it may fit too.
            drop(ticket.take());
            return Poll::Ready(PartMemory { memory: Arc::clone(self), bytes });
        }
        book.waiting.insert(number, (self.store, context.waker().clone()));
        if ticket.is_none() {
            book.next_ticket += 1;
            *ticket = Some(Ticket { all, number });
        }
        Poll::Pending
    }

    /// Takes memory for what is fetched ahead; `false` if there is none.
    pub fn take_ahead(&self, bytes: u64) -> bool {
        let mut book = self.all.book.lock();
        let fits = book.may_come_ahead(self.store, bytes, self.all.limit);
        if fits {
            book.change(self.store, |held| held.ahead += bytes);
        }
        fits
    }

    /// Gives back what [`StoreMemory::take_ahead`] has taken.
    pub fn give_ahead(&self, bytes: u64) {
        self.all.give(|book| book.change(self.store, |held| held.ahead = held.ahead.saturating_sub(bytes)));
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.all.give(|book| _ = book.waiting.remove(&self.number));
    }
}

impl Drop for PartMemory {
    fn drop(&mut self) {
        let StoreMemory { all, store } = &*self.memory;
        all.give(|book| book.change(*store, |held| held.up = held.up.saturating_sub(self.bytes)));
    }
}

impl Drop for StoreMemory {
    fn drop(&mut self) {
        self.all.give(|book| _ = book.stores.remove(&self.store));
    }
}

#[cfg(all(test, feature = "cloud"))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use futures_util::FutureExt;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn uploads_share_a_limit_and_one_always_goes_on() {
        let memory = TransferMemory::new(32 * MIB).share();
        let take = |bytes| memory.take_part(bytes).now_or_never();
        let (one, two) = (take(8 * MIB).unwrap(), take(8 * MIB).unwrap());
        assert!(take(16 * MIB).is_none());
        let small = take(8 * MIB).unwrap();
        assert!(take(1).is_none(), "readers have a quarter");
        assert!(memory.take_ahead(8 * MIB) && !memory.take_ahead(1));
        assert_eq!(memory.held(), 32 * MIB);
        memory.give_ahead(8 * MIB);
        drop((one, two, small));
        // More than there is, but alone.
        let large = take(64 * MIB).unwrap();
        assert!(take(1).is_none());
        drop(large);
        assert_eq!(memory.held(), 0);
        // All of it is fetched ahead.
        assert!(memory.take_ahead(32 * MIB) && !memory.take_ahead(1));
        let part = take(8 * MIB).unwrap();
        assert!(take(8 * MIB).is_none());
        drop(part);
        memory.give_ahead(32 * MIB);
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn who_waits_is_next_and_what_is_fetched_ahead_leaves_room() {
        let memory = TransferMemory::new(16 * MIB).share();
        assert!(memory.take_ahead(8 * MIB));
        let first = memory.take_part(8 * MIB).now_or_never().unwrap();
        let mut second = Box::pin(memory.take_part(4 * MIB));
        assert!(second.as_mut().now_or_never().is_none());
        memory.give_ahead(2 * MIB);
        assert!(memory.take_ahead(2 * MIB), "half of it");
        memory.give_ahead(2 * MIB);
        assert!(memory.take_part(1).now_or_never().is_none(), "somebody waits");
        drop(first);
        assert!(!memory.take_ahead(4 * MIB), "an upload waits");
        let second = second.as_mut().now_or_never().unwrap();
        assert!(memory.take_ahead(4 * MIB), "nobody waits");
        drop(second);
        assert_eq!(memory.held(), 10 * MIB);
    }

    /// An upload that is given up while it waits stands in nobody's way.
    #[test]
    fn who_gives_up_lets_the_next_one_go() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let memory = TransferMemory::new(16 * MIB).share();
        let _first = memory.take_part(4 * MIB).now_or_never().unwrap();
        let mut second = Box::pin(memory.take_part(16 * MIB));
        assert!(second.as_mut().now_or_never().is_none());
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(woken.clone());
        let mut third = Box::pin(memory.take_part(4 * MIB));
        let mut poll = || third.as_mut().poll_unpin(&mut Context::from_waker(&waker));
        assert!(poll().is_pending() && woken.0.load(Ordering::Relaxed) == 0);
        drop(second);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(poll().is_ready());
        assert!(memory.all.book.lock().waiting.is_empty());
    }

    /// A store that does not answer keeps what it has; others go on, up and ahead.
    #[test]
    fn a_store_that_hangs_leaves_the_others_their_half() {
        let all = TransferMemory::new(32 * MIB);
        let (hung, other) = (all.share(), all.share());
        let _parts: Vec<_> = std::iter::from_fn(|| hung.take_part(8 * MIB).now_or_never()).collect();
        assert_eq!(all.held(), 16 * MIB);
        let mut waits = Box::pin(hung.take_part(8 * MIB));
        assert!(waits.as_mut().now_or_never().is_none() && !hung.take_ahead(1));
        assert!(other.take_ahead(8 * MIB));
        let up = other.take_part(8 * MIB).now_or_never().unwrap();
        assert!(!other.take_ahead(1) && other.take_part(1).now_or_never().is_none());
        drop(up);
        other.give_ahead(8 * MIB);
        // With all that can be held by others, one goes up.
        let third = all.share();
        assert!(other.take_ahead(16 * MIB));
        drop(third.take_part(8 * MIB).now_or_never().unwrap());
        // What one leaves behind is given back too.
        let late = third.take_part(8 * MIB).now_or_never().unwrap();
        drop(third);
        drop(late);
        assert_eq!(all.held(), 32 * MIB);
    }

    #[test]
    fn many_uploads_all_end() {
        let all = TransferMemory::new(10 * MIB);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            let stores = [all.share(), all.share()];
            for number in 0..200u64 {
                let memory = stores[(number % 2) as usize].clone();
                tasks.spawn(async move {
                    let part = memory.take_part((1 + number % 8) * MIB).await;
                    // One of each beyond the limit at the most.
                    assert!(memory.held() <= 16 * MIB);
                    tokio::task::yield_now().await;
                    drop(part);
                });
            }
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
        });
        assert_eq!(all.held(), 0);
    }
}
