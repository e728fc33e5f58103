//! Whose a prefix is. The object `NEXUS` names the volume and the daemon that changed the
//! prefix last, under a number that each opening raises by a conditional put. So another
//! volume's prefix is refused before anything is written, and of two copies of a data folder
//! only the one that was opened last may store or delete: the other one finds out before it does.
//!
//! The data folder keeps what it last wrote, or was about to write, in a file of its own. An
//! opening that was cut short between the two is taken up again.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexus_kernel::error::{Error, Result};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};
use parking_lot::Mutex;

use super::Remote;

/// First line of the object and of the file.
const TITLE: &str = "nexus volume in an object store, format 1";
/// Longest object of that name that is looked at.
const MOST_BYTES: u64 = 4096;

/// Who claims a prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claimant {
    /// The volume's id, as text.
    pub volume: String,
    /// A word that no other daemon has: random.
    pub word: String,
    /// The file in the data folder that remembers claims.
    pub file: PathBuf,
}

/// A claim of one daemon.
#[derive(Clone)]
pub struct Fence {
    claimant: Claimant,
    claimed: Arc<Mutex<Option<Mark>>>,
    /// Held by the one change that claims what could not be claimed before.
    claiming: Arc<tokio::sync::Mutex<()>>,
}

/// What the object says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    volume: String,
    epoch: u64,
    word: String,
}

/// What the data folder remembers: what was written, and what was to follow.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Memory {
    before: Option<Mark>,
    now: Option<Mark>,
}

impl Fence {
    pub(super) fn new(claimant: Claimant) -> Fence {
        Fence { claimant, claimed: Arc::default(), claiming: Arc::default() }
    }

    /// Takes the prefix over from whoever had it, if it is this volume's.
    pub(super) async fn claim(self, remote: Arc<Remote>) -> Result<()> {
        let there = read_version(&remote).await?;
        let memory = Memory::read(&self.claimant.file)?;
        let next = decide(&remote.name, &self.claimant, there.as_ref().map(|(mark, _)| mark), &memory)?;
        Memory { before: there.as_ref().map(|(mark, _)| mark.clone()), now: Some(next.clone()) }
            .write(&self.claimant.file)?;
        let mode = match there {
            None => PutMode::Create,
            Some((_, version)) => PutMode::Update(version),
        };
        match put(&remote, &next, mode).await {
            Ok(()) => {}
            // It may be our own try that the client library made twice.
            Err(Error::Exists | Error::Conflict) if read(&remote).await?.as_ref() == Some(&next) => {}
            Err(Error::Exists | Error::Conflict) => return Err(taken(&remote.name)),
            Err(error) => return Err(error),
        }
        *self.claimed.lock() = Some(next);
        Ok(())
    }

    /// Refuses if somebody else has claimed the prefix since; claims it now if it could not be before.
    pub(super) async fn check(self, remote: Arc<Remote>) -> Result<()> {
        let claimed = self.claimed.lock().clone();
        let mark = match claimed {
            Some(mark) => mark,
            None => {
                let _alone = self.claiming.lock().await;
                let meanwhile = self.claimed.lock().clone();
                match meanwhile {
                    Some(mark) => mark,
                    None => return self.clone().claim(remote).await,
                }
            }
        };
        match read(&remote).await? {
            Some(there) if there == mark => Ok(()),
            Some(_) => Err(taken(&remote.name)),
            None => Err(Error::Unavailable(format!(
                "{} has lost what says whose it is (the object NEXUS): nothing more is stored or deleted there",
                remote.name
            ))),
        }
    }
}

/// What to write, if the prefix may be claimed at all.
fn decide(name: &str, claimant: &Claimant, there: Option<&Mark>, memory: &Memory) -> Result<Mark> {
    let mark = |epoch| Mark { volume: claimant.volume.clone(), epoch, word: claimant.word.clone() };
    let Some(there) = there else {
        // Never written: a new volume, or one whose making was cut short.
        return match &memory.now {
            None => Ok(mark(1)),
            Some(now) if memory.before.is_none() && now.epoch == 1 => Ok(mark(1)),
            Some(_) => Err(Error::Corrupt(format!(
                "{name} is empty, though this volume has its content there: it is another bucket, or somebody has \
                 emptied it"
            ))),
        };
    };
    if there.volume != claimant.volume {
        return Err(Error::Corrupt(format!(
            "{name} belongs to another volume ({}): choose a prefix of its own for this one",
            there.volume
        )));
    }
    if memory.now.as_ref() == Some(there) || memory.before.as_ref() == Some(there) {
        return Ok(mark(there.epoch.saturating_add(1)));
    }
    Err(Error::Corrupt(format!(
        "{name} was used by another copy of this data folder since: this one is a copy, or an old backup, and must \
         not change what is there"
    )))
}

fn taken(name: &str) -> Error {
    Error::Unavailable(format!(
        "{name} has been taken over by another copy of this data folder: nothing more is stored or deleted there"
    ))
}

/// What the object says; `None` if it is not there.
pub(super) async fn read(remote: &Remote) -> Result<Option<Mark>> {
    Ok(read_version(remote).await?.map(|(mark, _)| mark))
}

/// Removes the object: the prefix is nobody's any more.
pub(super) async fn remove(remote: &Remote) -> Result<()> {
    use std::sync::atomic::Ordering;
    remote.counters.deletes.fetch_add(1, Ordering::Relaxed);
    match remote.objects.delete(&remote.key("NEXUS")).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(remote.failed(&error)),
    }
}

async fn read_version(remote: &Remote) -> Result<Option<(Mark, UpdateVersion)>> {
    use std::sync::atomic::Ordering;
    remote.counters.gets.fetch_add(1, Ordering::Relaxed);
    let got = match remote.objects.get(&remote.key("NEXUS")).await {
        Ok(got) => got,
        Err(error) => {
            return match remote.failed(&error) {
                Error::NotFound => Ok(None),
                error => Err(error),
            };
        }
    };
    let foreign = || {
        Error::Corrupt(format!(
            "{} has an object NEXUS that no volume of this version made: choose another prefix",
            remote.name
        ))
    };
    if got.meta.size > MOST_BYTES {
        return Err(foreign());
    }
    let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
    let bytes = got.bytes().await.map_err(|error| remote.failed(&error))?;
    let mark = std::str::from_utf8(&bytes).ok().and_then(|text| Mark::parse(text.lines())).ok_or_else(foreign)?;
    Ok(Some((mark, version)))
}

async fn put(remote: &Remote, mark: &Mark, mode: PutMode) -> Result<()> {
    use std::sync::atomic::Ordering;
    remote.counters.puts.fetch_add(1, Ordering::Relaxed);
    let key = remote.key("NEXUS");
    let put = remote.objects.put_opts(&key, mark.text().into(), PutOptions::from(mode)).await;
    match put {
        Ok(_) => Ok(()),
        // A service without conditional puts: what was read just now has to do.
        Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
            let put = remote.objects.put(&key, mark.text().into()).await;
            put.map(drop).map_err(|error| remote.failed(&error))
        }
        Err(error) => Err(remote.failed(&error)),
    }
}

impl Mark {
    pub(super) fn volume(&self) -> &str {
        &self.volume
    }

    fn text(&self) -> String {
        format!("{TITLE}\nvolume {}\nepoch {}\nword {}\n", self.volume, self.epoch, self.word)
    }

    fn parse<'a>(mut lines: impl Iterator<Item = &'a str>) -> Option<Mark> {
        if lines.next()? != TITLE {
            return None;
        }
        let volume = lines.next()?.strip_prefix("volume ")?.to_owned();
        let epoch = lines.next()?.strip_prefix("epoch ")?.parse().ok()?;
        let word = lines.next()?.strip_prefix("word ")?.to_owned();
        Some(Mark { volume, epoch, word })
    }
}

impl Memory {
    fn read(path: &Path) -> Result<Memory> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Memory::default()),
            Err(error) => return Err(Error::from_io(format!("read {}", path.display()), &error)),
        };
        let lines: Vec<&str> = text.lines().collect();
        let mut marks = lines.chunks(4).map(|lines| Mark::parse(lines.iter().copied()));
        let damaged = || Error::Corrupt(format!("{} is damaged", path.display()));
        let now = marks.next().ok_or_else(damaged)?.ok_or_else(damaged)?;
        let before = marks.next().map(|mark| mark.ok_or_else(damaged)).transpose()?;
        Ok(Memory { before, now: Some(now) })
    }

    /// Durably, before the object says so.
    fn write(&self, path: &Path) -> Result<()> {
        let text: String = self.now.iter().chain(&self.before).map(Mark::text).collect();
        let temporary = path.with_extension("tmp");
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
        };
        write().map_err(|error| Error::from_io(format!("write {}", path.display()), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(volume: &str, epoch: u64, word: &str) -> Mark {
        Mark { volume: volume.into(), epoch, word: word.into() }
    }

    #[test]
    fn only_who_wrote_last_goes_on() {
        let claimant = Claimant { volume: "v".into(), word: "w".into(), file: PathBuf::new() };
        let decide = |there: Option<Mark>, memory: &Memory| decide("s3://b", &claimant, there.as_ref(), memory);
        let (one, two) = (mark("v", 1, "a"), mark("v", 2, "b"));
        let new = Memory::default();
        assert_eq!(decide(None, &new).unwrap().epoch, 1);
        assert!(decide(Some(one.clone()), &new).is_err(), "somebody else's folder made it");
        assert!(decide(Some(mark("other", 1, "a")), &new).is_err());
        let first = Memory { before: None, now: Some(one.clone()) };
        assert_eq!(decide(None, &first).unwrap().epoch, 1, "the first put did not arrive");
        assert_eq!(decide(Some(one.clone()), &first).unwrap().epoch, 2);
        assert!(decide(Some(two.clone()), &first).is_err(), "an old copy of the folder");
        let second = Memory { before: Some(one.clone()), now: Some(two.clone()) };
        assert_eq!(decide(Some(two), &second).unwrap().epoch, 3);
        assert_eq!(decide(Some(one), &second).unwrap().epoch, 2, "the second put did not arrive");
        assert!(decide(None, &second).is_err(), "an emptied bucket");
    }

    #[test]
    fn the_folder_remembers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        assert_eq!(Memory::read(&path).unwrap(), Memory::default());
        let memory = Memory { before: Some(mark("v", 1, "a")), now: Some(mark("v", 2, "b")) };
        memory.write(&path).unwrap();
        assert_eq!(Memory::read(&path).unwrap(), memory);
        fs::write(&path, "something else").unwrap();
        assert!(matches!(Memory::read(&path), Err(Error::Corrupt(_))));
    }
}
