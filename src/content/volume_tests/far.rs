//! Segments on their way to a store that is far away, which takes its time or does not answer.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexus_drivers::disk::SimDisk;
use nexus_drivers::object_store::MemoryStore;
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed};
use nexus_kernel::{BlobId, Error, Ino, ObjectStore, Result};
use parking_lot::{Condvar, Mutex};

use super::rig::{Rig, memory, small};
use crate::testing::Random;

/// Longest that an upload waits for another one, so that the test ends if none comes.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Far {
    blobs: MemoryStore,
    uploads: Mutex<Uploads>,
    begun: Condvar,
}

#[derive(Default)]
struct Uploads {
    away: bool,
    tries: usize,
    under_way: usize,
    most: usize,
}

impl ObjectStore for Far {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        let mut uploads = self.uploads.lock();
        uploads.tries += 1;
        if uploads.away {
            return Box::pin(std::future::ready(Err(Error::Unavailable("away".into()))));
        }
        uploads.under_way += 1;
        uploads.most = uploads.most.max(uploads.under_way);
        self.begun.notify_all();
        self.begun.wait_while_for(&mut uploads, |uploads| uploads.most < 2, PATIENCE);
        drop(uploads);
        let put = nexus_kernel::block_on(self.blobs.put(id, source));
        self.uploads.lock().under_way -= 1;
        Box::pin(std::future::ready(put))
    }

    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.blobs.get(id, range)
    }

    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        self.blobs.head(id)
    }

    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        self.blobs.delete(id)
    }

    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        self.blobs.list(after, limit)
    }

    fn is_local(&self) -> bool {
        false
    }
}

/// A volume with several segments to seal, and its files with their content.
fn volume(far: &Arc<Far>) -> (Rig, Vec<(Ino, Vec<u8>)>) {
    let rig = Rig::over(SimDisk::new(), memory(), far.clone(), small()).unwrap();
    let write = |seed| {
        let (ino, data) = (rig.create().unwrap(), Random::new(seed).bytes(30_000));
        rig.write(ino, 0, &data).unwrap();
        (ino, data)
    };
    let files = (0..12).map(write).collect();
    (rig, files)
}

#[test]
fn two_segments_are_sent_side_by_side() {
    let far = Arc::new(Far::default());
    let (rig, files) = volume(&far);
    rig.clock.advance_ms(1_000_000);
    let pass = rig.reclaimer.run_once().unwrap();
    let uploads = far.uploads.lock();
    assert_eq!((uploads.most, uploads.under_way), (2, 0));
    assert!(pass.sealed >= 4 && pass.sent == pass.sealed && uploads.tries as u64 == pass.sealed, "{pass:?}");
    drop(uploads);
    for (ino, data) in files {
        assert_eq!(rig.read(ino).unwrap(), data);
    }
    rig.assert_sound("sent");
}

#[test]
fn a_store_that_is_away_ends_the_pass_and_loses_nothing() {
    let far = Arc::new(Far::default());
    let (rig, files) = volume(&far);
    far.uploads.lock().away = true;
    rig.clock.advance_ms(1_000_000);
    assert!(matches!(rig.reclaimer.run_once(), Err(Error::Unavailable(_))));
    // Each of the two who send may have begun one.
    assert!((1..=2).contains(&far.uploads.lock().tries));
    far.uploads.lock().away = false;
    assert!(rig.collect().unwrap().sealed >= 4);
    for (ino, data) in files {
        assert_eq!(rig.read(ino).unwrap(), data);
    }
    rig.assert_sound("sent later");
}
