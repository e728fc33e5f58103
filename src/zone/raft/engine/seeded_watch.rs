//! The library's watched values in this crate's tests: tokio's, but whoever waits is woken in the order in which
//! they came, where tokio leaves that to chance.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};

use openraft::rt::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};
use parking_lot::Mutex;
use tokio::sync::watch;

/// See the head of this file.
pub struct SeededWatch;

#[derive(Default)]
struct Bell {
    rung: AtomicU64,
    is_closed: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Bell {
    fn changed(&self) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        std::mem::take(&mut *self.waiting.lock()).into_iter().for_each(Waker::wake);
    }
}

/// Wakes all when the last sender is gone.
struct Ringer(Arc<Bell>);

impl Drop for Ringer {
    fn drop(&mut self) {
        self.0.is_closed.store(true, Ordering::SeqCst);
        self.0.wake();
    }
}

/// Sends.
pub struct Sender<T> {
    value: watch::Sender<T>,
    ringer: Arc<Ringer>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { value: self.value.clone(), ringer: self.ringer.clone() }
    }
}

/// Receives.
pub struct Receiver<T> {
    value: watch::Receiver<T>,
    bell: Arc<Bell>,
    seen: u64,
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver { value: self.value.clone(), bell: self.bell.clone(), seen: self.seen }
    }
}

impl Watch for SeededWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = watch::channel(init);
        let bell = Arc::new(Bell::default());
        let ringer = Arc::new(Ringer(bell.clone()));
        (Sender { value: sender, ringer }, Receiver { value: receiver, bell, seen: 0 })
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<SeededWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.value.send(value).map_err(|refused| SendError(refused.0))?;
        self.ringer.0.changed();
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = self.value.send_if_modified(modify);
        if modified {
            self.ringer.0.changed();
        }
        modified
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.value.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        let bell = self.ringer.0.clone();
        Receiver { value: self.value.subscribe(), seen: bell.rung.load(Ordering::SeqCst), bell }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<SeededWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        poll_fn(|context| {
            let mut waiting = self.bell.waiting.lock();
            let rung = self.bell.rung.load(Ordering::SeqCst);
            if rung != self.seen {
                self.seen = rung;
                return Poll::Ready(Ok(()));
            }
            if self.bell.is_closed.load(Ordering::SeqCst) {
                return Poll::Ready(Err(RecvError(())));
            }
            waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.value.borrow()
    }

    fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
        self.seen = self.bell.rung.load(Ordering::SeqCst);
        self.value.borrow_and_update()
    }
}
