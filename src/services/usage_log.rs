//! A service that tells now and then what the zones hold, when it has changed.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use nexus_kernel::model::Usage;
use nexus_kernel::{Error, Result, VfsRouter, ZoneIndex};
use parking_lot::Mutex;

use crate::registry::{Context, Service};

/// Takes a line of the report.
type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// See the file's head.
pub struct UsageLog {
    interval: Duration,
    sink: Sink,
    running: Mutex<Option<(SyncSender<()>, JoinHandle<()>)>>,
}

impl UsageLog {
    /// Looks every `interval`, and tells the log.
    pub fn new(interval: Duration) -> UsageLog {
        Self::with_sink(interval, Arc::new(|line| log::info!("{line}")))
    }

    /// Looks every `interval`, and tells `sink`.
    pub fn with_sink(interval: Duration, sink: Sink) -> UsageLog {
        UsageLog { interval, sink, running: Mutex::new(None) }
    }
}

impl Service for UsageLog {
    fn name(&self) -> &str {
        "usage-log"
    }

    fn start(&self, context: &Context) -> Result<()> {
        let mut running = self.running.lock();
        if running.is_some() {
            return Err(Error::Exists);
        }
        let (stop, stopped) = mpsc::sync_channel::<()>(1);
        let (router, sink, interval) = (context.router.clone(), self.sink.clone(), self.interval);
        let thread = std::thread::Builder::new()
            .name(self.name().to_owned())
            .spawn(move || {
                let mut told = Vec::new();
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    report(&router, &mut told, &sink);
                }
            })
            .map_err(|error| Error::from_io("start the usage log's thread", &error))?;
        *running = Some((stop, thread));
        Ok(())
    }

    fn stop(&self) {
        if let Some((stop, thread)) = self.running.lock().take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

/// Tells what differs from what was `told` before.
fn report(router: &VfsRouter, told: &mut Vec<(ZoneIndex, Usage)>, sink: &Sink) {
    let now: Vec<(ZoneIndex, Usage)> =
        router.zones().into_iter().filter_map(|(index, zone)| Some((index, zone.usage().ok()?))).collect();
    for (index, usage) in now.iter().filter(|entry| !told.contains(entry)) {
        sink(&format!("zone {index} holds {} inodes and {} bytes of content", usage.inodes, usage.allocated));
    }
    *told = now;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::ServiceRegistry;
    use crate::registry::tests::{CountingZone, context};

    #[test]
    fn it_tells_each_change_once_and_stops() {
        let zone = Arc::new(CountingZone::default());
        let (sender, lines) = mpsc::channel::<String>();
        let sender = Mutex::new(sender);
        let service = UsageLog::with_sink(
            Duration::from_millis(1),
            Arc::new(move |line| {
                let _ = sender.lock().send(line.to_owned());
            }),
        );
        let registry = ServiceRegistry::new(context(zone.clone()));
        registry.load(Arc::new(service)).unwrap();
        assert_eq!(lines.recv().unwrap(), "zone 0 holds 0 inodes and 0 bytes of content");
        zone.usage.lock().inodes = 3;
        assert_eq!(lines.recv().unwrap(), "zone 0 holds 3 inodes and 0 bytes of content");
        registry.unload("usage-log").unwrap();
        // The service, and with it the sender, is gone: the channel has ended.
        assert!(lines.recv().is_err());
    }
}
