//! The collector's thread: passes when it is time, when there is work, or when writers wait.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nexus_kernel::{Error, Result};

use super::{Need, Progress, Reclaimer};
use crate::store::{BARREN_MS, Call, Wake};

/// Longest rest between two passes of work.
const MAX_REST_MS: u64 = 1_000;

/// The collector's thread; ends when dropped.
pub struct ReclaimHandle {
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl Reclaimer {
    /// Runs passes on a thread of its own from now on.
    pub fn spawn(self) -> Result<ReclaimHandle> {
        let wake = Arc::clone(self.store.wake());
        let thread = std::thread::Builder::new()
            .name("nexus-reclaim".into())
            .spawn(move || self.run())
            .map_err(|error| Error::from_io("cannot start the collector's thread", &error))?;
        Ok(ReclaimHandle { wake, thread: Some(thread) })
    }

    fn run(self) {
        let wake = Arc::clone(self.store.wake());
        let mut complaint = None;
        loop {
            let patience = self.until_due(self.config.interval_ms);
            let need = match wake.next(Duration::from_millis(patience)) {
                Call::Stop => break,
                Call::Room => Need::Room,
                Call::Work | Call::Time => Need::Calm,
            };
            let started = self.now_ms();
            let result = self.pass(need);
            let took = self.now_ms().saturating_sub(started);
            if need == Need::Room {
                let freed = result.as_ref().is_ok_and(|progress| progress.freed_bytes > 0 || progress.sent > 0);
                wake.room_made(freed, self.now_ms() + BARREN_MS);
            }
            match result {
                Ok(progress) => {
                    complaint = None;
                    self.pace(&wake, &progress, took);
                }
                Err(error) => {
                    // The same failure again and again is told once.
                    if complaint.as_ref() != Some(&error) {
                        log::warn!("collecting content stopped early and will be tried again: {error}");
                    }
                    complaint = Some(error);
                }
            }
        }
        wake.gone();
    }

    /// Leaves the disk to others for a while after work.
    fn pace(&self, wake: &Wake, progress: &Progress, took_ms: u64) {
        if progress.copied_bytes > 0 || progress.sealed > progress.sent {
            let rest = took_ms.saturating_mul(self.config.rest_percent) / 100;
            wake.rest(Duration::from_millis(rest.min(MAX_REST_MS)));
        }
        if progress.more {
            wake.work();
        }
    }
}

impl ReclaimHandle {
    /// Ends the thread and waits for it; a pass that runs ends at its next step.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.wake.stop();
            if thread.join().is_err() {
                log::error!("the collector's thread had panicked");
            }
        }
    }
}

impl Drop for ReclaimHandle {
    fn drop(&mut self) {
        self.end();
    }
}
