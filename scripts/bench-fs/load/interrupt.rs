//! Ctrl-C and SIGTERM: the programs under way are ended, and every wait reports the interruption,
//! so that mounts and folders are taken down on the way out.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nexus_bench::{Context, Failure};
use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[derive(Default)]
struct State {
    stop: AtomicBool,
    next: AtomicU64,
    under_way: Mutex<HashMap<u64, OwnedFd>>,
}

/// Knows whether the user wants to stop, and what to end then.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<State>);

/// A program that is ended on interruption while this lives.
pub struct Watched(u64, Interrupt);

impl Interrupt {
    /// Starts listening.
    pub fn listen() -> Result<Self, Failure> {
        let interrupt = Interrupt::default();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).during(|| "listening for signals".to_owned())?;
        let state = interrupt.0.clone();
        std::thread::spawn(move || {
            for _ in signals.forever() {
                state.stop.store(true, Ordering::SeqCst);
                for pidfd in state.under_way.lock().values() {
                    // One that has just ended needs no signal.
                    let _ = pidfd_send_signal(pidfd, Signal::KILL);
                }
            }
        });
        Ok(interrupt)
    }

    /// Fails once the user asked to stop.
    pub fn check(&self) -> Result<(), Failure> {
        if self.0.stop.load(Ordering::SeqCst) {
            return Err(Failure::new("interrupted"));
        }
        Ok(())
    }

    /// Ends `child` on interruption, until the answer is dropped.
    pub fn watch(&self, child: &Child) -> Result<Watched, Failure> {
        let pid = Pid::from_child(child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).during(|| format!("holding on to process {}", child.id()))?;
        let key = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.under_way.lock().insert(key, pidfd);
        Ok(Watched(key, self.clone()))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.0.under_way.lock().remove(&self.0);
    }
}
