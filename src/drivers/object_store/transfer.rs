//! [`TransferMemory`]: the memory that content has on its way to and from stores, one limit for all stores
//! of a process. What goes up waits for its part; what is fetched ahead has it at once, or is not fetched.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::Mutex;

/// The limit of a store that shares none.
pub const TRANSFER_BYTES: u64 = 64 << 20;

/// A limit, and what is held of it.
///
/// One upload may always hold something, however little the limit is, so uploads come to an end whatever
/// else is held. Who holds something for an upload waits for nobody but the network.
#[derive(Debug)]
pub struct TransferMemory {
    limit: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// By uploads.
    up: u64,
    /// By what was fetched ahead, and by what is to be.
    ahead: u64,
    /// Uploads that wait.
    waiting: usize,
    /// Whom to wake of them.
    wakers: Vec<Waker>,
}

/// Memory of an upload, until this is dropped.
#[derive(Debug)]
pub struct PartMemory {
    memory: Arc<TransferMemory>,
    bytes: u64,
}

/// An upload that waits.
struct Waiting<'a>(&'a TransferMemory);

impl TransferMemory {
    /// As many bytes.
    pub fn new(limit: u64) -> Arc<TransferMemory> {
        Arc::new(TransferMemory { limit, held: Mutex::default() })
    }

    /// Bytes that are held now.
    pub fn held(&self) -> u64 {
        let held = self.held.lock();
        held.up + held.ahead
    }

    /// Memory for an upload, once there is some.
    pub async fn take_part(self: &Arc<Self>, bytes: u64) -> PartMemory {
        let mut waiting = None;
        poll_fn(|context| {
            let mut held = self.held.lock();
            if held.up == 0 || held.up + held.ahead + bytes <= self.limit {
                held.up += bytes;
                return Poll::Ready(PartMemory { memory: Arc::clone(self), bytes });
            }
            if waiting.is_none() {
                held.waiting += 1;
                waiting = Some(Waiting(self));
            }
            if !held.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                held.wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Changes what is held, and has uploads that wait look again.
    fn give(&self, change: impl FnOnce(&mut Held)) {
        let wakers = {
            let mut held = self.held.lock();
            change(&mut held);
            std::mem::take(&mut held.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Takes memory for what is fetched ahead; `false` if there is none. While uploads wait, it may have
    /// half of the limit.
    pub fn take_ahead(&self, bytes: u64) -> bool {
        let mut held = self.held.lock();
        let most = if held.waiting > 0 { self.limit / 2 } else { self.limit };
        let fits = held.up + held.ahead + bytes <= self.limit && held.ahead + bytes <= most;
        if fits {
            held.ahead += bytes;
        }
        fits
    }

    /// Gives back what [`TransferMemory::take_ahead`] has taken.
    pub fn give_ahead(&self, bytes: u64) {
        self.give(|held| held.ahead = held.ahead.saturating_sub(bytes));
    }
}

impl Drop for PartMemory {
    fn drop(&mut self) {
        self.memory.give(|held| held.up = held.up.saturating_sub(self.bytes));
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.held.lock().waiting -= 1;
    }
}

#[cfg(all(test, feature = "cloud"))]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn uploads_share_a_limit_and_one_always_goes_on() {
        let memory = TransferMemory::new(20 * MIB);
        let take = |bytes| memory.take_part(bytes).now_or_never();
        let (one, two) = (take(8 * MIB).unwrap(), take(8 * MIB).unwrap());
        assert!(take(8 * MIB).is_none());
        let small = take(4 * MIB).unwrap();
        assert_eq!(memory.held(), 20 * MIB);
        drop(one);
        let three = take(8 * MIB).unwrap();
        drop((two, three, small));
        // More than there is, but alone.
        let large = take(64 * MIB).unwrap();
        assert!(take(1).is_none());
        drop(large);
        assert_eq!(memory.held(), 0);
        // All of it is fetched ahead.
        assert!(memory.take_ahead(20 * MIB) && !memory.take_ahead(1));
        let part = take(8 * MIB).unwrap();
        assert!(take(8 * MIB).is_none());
        drop(part);
        memory.give_ahead(20 * MIB);
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn who_waits_is_woken_and_what_is_fetched_ahead_leaves_room() {
        let memory = TransferMemory::new(16 * MIB);
        assert!(memory.take_ahead(8 * MIB));
        let first = memory.take_part(8 * MIB).now_or_never().unwrap();
        let mut second = Box::pin(memory.take_part(8 * MIB));
        assert!(second.as_mut().now_or_never().is_none());
        memory.give_ahead(2 * MIB);
        assert!(memory.take_ahead(2 * MIB), "half of it");
        memory.give_ahead(2 * MIB);
        drop(first);
        assert!(!memory.take_ahead(4 * MIB), "an upload waits");
        assert!(second.as_mut().now_or_never().is_some());
        assert!(memory.take_ahead(4 * MIB), "nobody waits");
        assert_eq!(memory.held(), 10 * MIB, "what nobody has is given back");
    }

    #[test]
    fn many_uploads_all_end() {
        let memory = TransferMemory::new(10 * MIB);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..200u64 {
                let memory = memory.clone();
                tasks.spawn(async move {
                    let part = memory.take_part((1 + number % 8) * MIB).await;
                    assert!(memory.held() <= 10 * MIB);
                    tokio::task::yield_now().await;
                    drop(part);
                });
            }
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
        });
        assert_eq!(memory.held(), 0);
    }
}
