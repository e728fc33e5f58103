//! The kernel's suite of zones, on a local zone.

use nexus_kernel::conformance::zone::{Harness, run};
use parking_lot::Mutex;

use super::*;

/// Zones with their disks; the latest is the one that the suite works on.
struct OnDisk {
    config: ZoneConfig,
    disk: SimDisk,
    zone: Mutex<Option<Arc<LocalZone>>>,
}

impl OnDisk {
    fn open(&self) -> Arc<dyn Zone> {
        let zone = Arc::new(on_disk(&self.disk, self.config.clone()).unwrap().0);
        *self.zone.lock() = Some(zone.clone());
        zone
    }
}

impl Harness for OnDisk {
    fn fresh(&mut self) -> Arc<dyn Zone> {
        self.disk = SimDisk::new();
        self.open()
    }

    fn reopen(&mut self, zone: Arc<dyn Zone>) -> Arc<dyn Zone> {
        drop(zone);
        let zone = self.zone.lock().take().unwrap();
        let log = zone.inner.log.clone();
        zone.close().unwrap();
        drop(zone);
        log.close().unwrap();
        drop(log);
        self.open()
    }
}

#[test]
fn conforms() {
    for background in [Background::Inline, Background::Thread] {
        let config = ZoneConfig { background, memtable_bytes: 20_000, ..ZoneConfig::default() };
        run(&mut OnDisk { config, disk: SimDisk::new(), zone: Mutex::new(None) });
    }
}
