//! Whether there is room: part of the medium is kept free, so that the log and the metastore
//! can go on, and space can be given back, when content has filled the rest.

use std::path::PathBuf;
use std::sync::Arc;

use nexus_kernel::disk::{Disk, DiskSpace};
use nexus_kernel::{Clock, Error, Result};
use parking_lot::Mutex;

use crate::time::now_ms;

const MIB: u64 = 1 << 20;
/// Age at which a measurement is taken anew.
const FRESH_MS: u64 = 1_000;

/// Who asks for room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A writer.
    Writer,
    /// The collector, which gives more back than it takes. It may use most of the reserve: where
    /// a restart has let the log grow on a full disk, there would else be no way out.
    Collector,
}

/// Measures the medium below, not at every write.
pub struct SpaceGauge {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    reserve: Option<u64>,
    last: Mutex<Option<Measured>>,
}

#[derive(Clone, Copy)]
struct Measured {
    space: DiskSpace,
    at_ms: u64,
    /// Bytes written since.
    charged: u64,
}

impl SpaceGauge {
    /// A gauge for the medium that holds `dir`.
    pub fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, dir: PathBuf, reserve: Option<u64>) -> SpaceGauge {
        SpaceGauge { disk, clock, dir, reserve, last: Mutex::new(None) }
    }

    /// Refuses with [`Error::NoSpace`] if `len` more bytes would eat into the reserve.
    pub fn check(&self, len: u64, asker: Asker) -> Result<()> {
        self.take(len, asker, false)
    }

    /// As [`SpaceGauge::check`], and counts the bytes as written.
    pub fn charge(&self, len: u64, asker: Asker) -> Result<()> {
        self.take(len, asker, true)
    }

    fn take(&self, len: u64, asker: Asker, charge: bool) -> Result<()> {
        let mut last = self.last.lock();
        let now = now_ms(&*self.clock);
        let stale = match *last {
            Some(measured) => {
                let headroom = measured.space.available.saturating_sub(self.reserve(&measured.space));
                // What is written takes more than its bytes, so the closer the end, the oftener.
                let drifted = measured.charged > headroom / 8;
                drifted || now.abs_diff(measured.at_ms) > FRESH_MS || !self.fits(&measured, len, asker)
            }
            None => true,
        };
        if stale {
            *last = Some(Measured { space: self.disk.space(&self.dir)?, at_ms: now, charged: 0 });
        }
        match last.as_mut() {
            Some(measured) if self.fits(measured, len, asker) => {
                measured.charged += if charge { len } else { 0 };
                Ok(())
            }
            _ => Err(Error::NoSpace),
        }
    }

    fn fits(&self, measured: &Measured, len: u64, asker: Asker) -> bool {
        let reserve = self.reserve(&measured.space);
        let floor = match asker {
            Asker::Writer => reserve,
            Asker::Collector => reserve / 8,
        };
        measured.space.available.saturating_sub(measured.charged) >= floor.saturating_add(len)
    }

    /// What a medium keeps free.
    fn reserve(&self, space: &DiskSpace) -> u64 {
        self.reserve.unwrap_or_else(|| (space.total / 100).clamp(64 * MIB, 512 * MIB).min(space.total / 20))
    }

    /// Space for content: what the medium has, less the reserve.
    pub fn space(&self) -> Result<DiskSpace> {
        let space = self.disk.space(&self.dir)?;
        let reserve = self.reserve(&space);
        Ok(DiskSpace {
            free: space.free.saturating_sub(reserve),
            available: space.available.saturating_sub(reserve),
            ..space
        })
    }
}
