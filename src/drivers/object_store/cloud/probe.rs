//! Trying a bucket: all that a volume asks of its store, on objects of its own that are gone
//! afterwards, with how fast it was.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nexus_kernel::error::{Error, Result};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::{CloudStore, Remote};

/// Bytes of the small object.
const SMALL_BYTES: usize = 4096;
/// Bytes of a part; no service takes smaller ones, but for the last.
const PART_BYTES: usize = 8 << 20;
/// Parts of the large object.
const PARTS: usize = 2;
/// Times that the small object is read.
const READS: usize = 8;

/// One thing that was tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeStep {
    /// What.
    pub what: &'static str,
    /// How well it went, or why it did not.
    pub outcome: std::result::Result<String, String>,
}

impl CloudStore {
    /// Tries, with one small object named after `word`, what a new volume can't do without: storing,
    /// storing only what is not there, deleting.
    pub fn try_changes(&self, word: &str) -> Result<()> {
        let probe = Probe::new(self.opening(), word);
        self.run(async move {
            probe.put().await?;
            let conditional = probe.conditional().await;
            probe.remove(&[&probe.small]).await.and(conditional).map(drop)
        })
    }

    /// Tries listing, storing, conditional storing, reading of ranges, uploads in parts and deleting, in
    /// this order, and ends with the first that does not work, since the others build on it. What it
    /// stores is named after `word`, which nobody else uses, and deleted in the end.
    pub fn probe(&self, word: &str) -> Vec<ProbeStep> {
        let probe = Arc::new(Probe::new(self.remote.clone(), word));
        let mut steps = Vec::new();
        let mut go_on = true;
        let mut step = |what, result: Result<String>| {
            let outcome = result.map_err(|error| match error {
                Error::Unavailable(text) | Error::Io(text) | Error::Corrupt(text) => text,
                other => other.to_string(),
            });
            go_on = outcome.is_ok();
            steps.push(ProbeStep { what, outcome });
            go_on
        };
        let list = probe.clone();
        let put = probe.clone();
        let conditional = probe.clone();
        let ranged = probe.clone();
        let parts = probe.clone();
        let whole = probe.clone();
        let _ = step("list", self.run(async move { list.list().await }))
            && step("store", self.run(async move { put.put().await }))
            && step("store only what is not there", self.run(async move { conditional.conditional().await }))
            && step("read a range", self.run(async move { ranged.ranges().await }))
            && step("store in parts", self.run(async move { parts.parts().await }))
            && step("read a large object", self.run(async move { whole.whole().await }));
        let deleted = self.run(async move { probe.delete().await });
        if steps.get(1).is_some_and(|stored| stored.outcome.is_ok()) {
            steps.push(ProbeStep { what: "delete", outcome: deleted.map_err(|error| error.to_string()) });
        }
        steps
    }
}

struct Probe {
    remote: Arc<Remote>,
    small: Key,
    large: Key,
}

impl Probe {
    fn new(remote: Arc<Remote>, word: &str) -> Probe {
        // Without a slash: of a store that is a folder, one would stay.
        Probe {
            small: remote.key(&format!("nexus-test-{word}-small")),
            large: remote.key(&format!("nexus-test-{word}-large")),
            remote,
        }
    }

    async fn list(&self) -> Result<String> {
        use futures_util::StreamExt;
        let prefix = Some(Key::from(self.remote.prefix.as_str())).filter(|_| !self.remote.prefix.is_empty());
        let (first, took) = timed(async { Ok(self.remote.objects.list(prefix.as_ref()).next().await) }).await?;
        match first {
            Some(Err(error)) => Err(self.failed(&error)),
            Some(Ok(_)) => Ok(format!("{}, and there is something", text(took))),
            None => Ok(format!("{}, and nothing is there", text(took))),
        }
    }

    async fn put(&self) -> Result<String> {
        let put = self.remote.objects.put(&self.small, pattern(SMALL_BYTES).into());
        let ((), took) = timed(async { put.await.map(drop).map_err(|error| self.failed(&error)) }).await?;
        Ok(text(took))
    }

    async fn conditional(&self) -> Result<String> {
        let options = PutOptions::from(PutMode::Create);
        let started = Instant::now();
        match self.remote.objects.put_opts(&self.small, pattern(1).into(), options).await {
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(text(started.elapsed()))
            }
            Ok(_) => Err(Error::Unavailable(format!(
                "{} overwrites what is there although it was told not to: two daemons could destroy each other's data",
                self.remote.name
            ))),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn ranges(&self) -> Result<String> {
        let expected = pattern(SMALL_BYTES);
        let mut took = Vec::new();
        for at in 0..READS as u64 {
            let range = at * 256..at * 256 + 512;
            let get = self.remote.objects.get_range(&self.small, range.clone());
            let (bytes, time) = timed(async { get.await.map_err(|error| self.failed(&error)) }).await?;
            if expected.get(range.start as usize..range.end as usize) != Some(&*bytes) {
                return Err(self.wrong());
            }
            took.push(time);
        }
        took.sort_unstable();
        Ok(format!("{} (median of {READS})", took.get(READS / 2).copied().map(text).unwrap_or_default()))
    }

    async fn parts(&self) -> Result<String> {
        let started = Instant::now();
        let mut upload = self.remote.objects.put_multipart(&self.large).await.map_err(|error| self.failed(&error))?;
        let stored = async {
            for _ in 0..PARTS {
                upload.put_part(pattern(PART_BYTES).into()).await?;
            }
            upload.complete().await
        };
        match stored.await {
            Ok(_) => Ok(rate(PARTS * PART_BYTES, started.elapsed())),
            Err(error) => {
                // Unfinished parts cost money; a service that forgets them by itself is as good.
                let _ = upload.abort().await;
                Err(self.failed(&error))
            }
        }
    }

    async fn whole(&self) -> Result<String> {
        let get = async {
            let got = self.remote.objects.get(&self.large).await?;
            got.bytes().await
        };
        let (bytes, took) = timed(async { get.await.map_err(|error| self.failed(&error)) }).await?;
        let part = pattern(PART_BYTES);
        if bytes.len() != PARTS * PART_BYTES || bytes.chunks(PART_BYTES).any(|piece| piece != part) {
            return Err(self.wrong());
        }
        Ok(rate(bytes.len(), took))
    }

    async fn delete(&self) -> Result<String> {
        let started = Instant::now();
        self.remove(&[&self.small, &self.large]).await.map(|()| text(started.elapsed()))
    }

    async fn remove(&self, keys: &[&Key]) -> Result<()> {
        let mut result = Ok(());
        for key in keys {
            match self.remote.objects.delete(key).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => result = Err(self.failed(&error)),
            }
        }
        result
    }

    fn failed(&self, error: &object_store::Error) -> Error {
        match self.remote.failed(error) {
            Error::NotFound => Error::Unavailable(format!("{} does not have what was just stored", self.remote.name)),
            other => other,
        }
    }

    fn wrong(&self) -> Error {
        Error::Corrupt(format!("{} answers other bytes than were stored", self.remote.name))
    }
}

async fn timed<T>(request: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
    let started = Instant::now();
    request.await.map(|value| (value, started.elapsed()))
}

/// Bytes that are not all the same.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn text(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}

fn rate(bytes: usize, took: Duration) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e6 / took.as_secs_f64().max(1e-6))
}
