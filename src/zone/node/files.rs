//! What a node keeps of each zone that it takes part in, beside the zone's state: who it is
//! there. One folder a zone, `zones/<index>`, made whole before it gets its name.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nexus_kernel::model;
use nexus_kernel::{Error, Result, ZoneIndex};
use serde::{Deserialize, Serialize};

use crate::net::{MAX_OPENINGS, PeerCertificate, ZoneId};
use crate::raft::{Member, MemberId};

const RECORD: &str = "zone";
const CA: &str = "ca.der";
const CERTIFICATE: &str = "node.der";
const KEY: &str = "node.key";
/// There while a directory is being made this zone; holds the id of the zone that it stands in.
const MAKING: &str = "making";
/// There while a zone is in the trash; since when, in seconds since 1970.
const TRASHED: &str = "trashed";
/// A number for each time that the zone was opened, 8 bytes big-endian, the newest last.
const OPENINGS: &str = "openings";
/// The highest index that was ever given, beside the folders.
const LAST: &str = "last";

/// A zone that this node takes part in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ZoneRecord {
    /// The zone.
    pub id: [u8; 16],
    /// What people call it.
    pub name: String,
    /// This node as a member.
    pub member: MemberId,
    /// What the others know of it.
    pub about: Member,
}

/// What a zone's folder holds.
#[derive(Clone)]
pub struct ZoneFiles {
    /// Who this node is.
    pub record: ZoneRecord,
    /// The CA's certificate, DER.
    pub ca: Vec<u8>,
    /// This node's certificate, DER.
    pub certificate: Vec<u8>,
    /// This node's key, PEM.
    pub key: String,
}

impl ZoneRecord {
    /// The zone.
    pub fn zone(&self) -> ZoneId {
        ZoneId(self.id)
    }
}

/// The folder with a folder for each zone.
#[derive(Clone)]
pub struct ZoneFolder(PathBuf);

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::from_io(format_args!("{what} {}", path.display()), &error)
}

impl ZoneFolder {
    /// At `path`, made if it is not there once it is needed.
    pub fn new(path: PathBuf) -> ZoneFolder {
        ZoneFolder(path)
    }

    /// All zones, in order of their indexes. One whose files can't be read is among them, with why.
    pub fn list(&self) -> Result<Vec<(ZoneIndex, Result<ZoneFiles>)>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed("read", &self.0))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("read", &self.0))?;
            if let Some(index) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                found.push((ZoneIndex(index), self.read(&entry.path())));
            }
        }
        found.sort_by_key(|(index, _)| *index);
        Ok(found)
    }

    /// What can be told of a zone whose files can't all be read: its id and its name.
    pub fn hints(&self, index: ZoneIndex) -> (Option<ZoneId>, Option<String>) {
        let dir = self.0.join(index.to_string());
        let record = fs::read(dir.join(RECORD)).ok();
        let record = record.and_then(|bytes| model::decode::<ZoneRecord>("record of a zone", &bytes).ok());
        if let Some(record) = record {
            return (Some(record.zone()), Some(record.name));
        }
        let certificate = fs::read(dir.join(CERTIFICATE)).ok();
        (certificate.and_then(|der| PeerCertificate::zone_of(&der)), None)
    }

    /// What a zone's folder holds.
    pub fn read_one(&self, index: ZoneIndex) -> Result<ZoneFiles> {
        self.read(&self.0.join(index.to_string()))
    }

    fn read(&self, dir: &Path) -> Result<ZoneFiles> {
        let read = |name: &str| match fs::read(dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::Corrupt(format!("{} is missing", dir.join(name).display())))
            }
            other => other.map_err(failed("read", &dir.join(name))),
        };
        let key = String::from_utf8(read(KEY)?).map_err(|_| Error::Corrupt("a zone's key is no text".into()))?;
        Ok(ZoneFiles {
            record: model::decode("record of a zone", &read(RECORD)?)?,
            ca: read(CA)?,
            certificate: read(CERTIFICATE)?,
            key,
        })
    }

    /// An index that no zone of this node ever had.
    pub fn next_index(&self) -> Result<ZoneIndex> {
        fs::create_dir_all(&self.0).map_err(failed("make", &self.0))?;
        let path = self.0.join(LAST);
        let last = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| Error::Corrupt(format!("{} is no number", path.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let next: u16 = last + 1;
        if next == u16::MAX {
            return Err(Error::NoSpace);
        }
        write(&self.0.join("last.new"), format!("{next}\n").as_bytes())?;
        fs::rename(self.0.join("last.new"), &path).map_err(failed("write", &path))?;
        sync_dir(&self.0)?;
        Ok(ZoneIndex(next))
    }

    /// Keeps a zone; one that a directory of the zone `making` is to become, until [`ZoneFolder::made`].
    pub fn add(&self, index: ZoneIndex, files: &ZoneFiles, making: Option<[u8; 16]>) -> Result<()> {
        let (dir, new) = (self.0.join(index.to_string()), self.0.join(format!("{index}.new")));
        let _ = fs::remove_dir_all(&new);
        fs::create_dir_all(&new).map_err(failed("make", &new))?;
        write(&new.join(RECORD), &model::encode(&files.record)?)?;
        write(&new.join(CA), &files.ca)?;
        write(&new.join(CERTIFICATE), &files.certificate)?;
        write(&new.join(KEY), files.key.as_bytes())?;
        if let Some(outer) = making {
            write(&new.join(MAKING), &outer)?;
        }
        sync_dir(&new)?;
        fs::rename(&new, &dir).map_err(failed("make", &dir))?;
        sync_dir(&self.0)
    }

    /// Keeps a new certificate in place of the one that is there.
    pub fn renew(&self, index: ZoneIndex, certificate: &[u8]) -> Result<()> {
        let dir = self.0.join(index.to_string());
        let (path, new) = (dir.join(CERTIFICATE), dir.join("node.der.new"));
        write(&new, certificate)?;
        fs::rename(&new, &path).map_err(failed("write", &path))?;
        sync_dir(&dir)
    }

    /// Notes by a random number that a zone is opened once more; all of them, as far as they are kept.
    pub fn open_anew(&self, index: ZoneIndex, number: u64) -> Result<Vec<u64>> {
        let dir = self.0.join(index.to_string());
        let path = dir.join(OPENINGS);
        let kept = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(failed("read", &path))?,
        };
        let numbers = kept.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        let mut numbers: Vec<u64> = numbers.chain([number]).collect();
        numbers.drain(..numbers.len().saturating_sub(MAX_OPENINGS));
        let new = dir.join("openings.new");
        write(&new, &numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>())?;
        fs::rename(&new, &path).map_err(failed("write", &path))?;
        sync_dir(&dir)?;
        Ok(numbers)
    }

    /// The zone that this one is being made in, if that was not finished.
    pub fn making(&self, index: ZoneIndex) -> Option<[u8; 16]> {
        fs::read(self.0.join(index.to_string()).join(MAKING)).ok().and_then(|bytes| bytes.try_into().ok())
    }

    /// A zone stands where it was made for.
    pub fn made(&self, index: ZoneIndex) -> Result<()> {
        let path = self.0.join(index.to_string()).join(MAKING);
        fs::remove_file(&path).map_err(failed("remove", &path))
    }

    /// Notes since when a zone is in the trash, or that it is not.
    pub fn set_trashed(&self, index: ZoneIndex, since: Option<i64>) -> Result<()> {
        let dir = self.0.join(index.to_string());
        let path = dir.join(TRASHED);
        match since {
            Some(since) => {
                let new = dir.join("trashed.new");
                write(&new, format!("{since}\n").as_bytes())?;
                fs::rename(&new, &path).map_err(failed("write", &path))?;
            }
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
                _ => {}
            },
        }
        sync_dir(&dir)
    }

    /// Since when a zone is in the trash, if it is.
    pub fn trashed(&self, index: ZoneIndex) -> Option<i64> {
        let text = fs::read_to_string(self.0.join(index.to_string()).join(TRASHED)).ok()?;
        text.trim().parse().ok()
    }

    /// Forgets a zone.
    pub fn remove(&self, index: ZoneIndex) -> Result<()> {
        let (dir, gone) = (self.0.join(index.to_string()), self.0.join(format!("{index}.gone")));
        fs::rename(&dir, &gone).map_err(failed("remove", &dir))?;
        sync_dir(&self.0)?;
        fs::remove_dir_all(&gone).map_err(failed("remove", &gone))
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(failed("write", path))
}

fn sync_dir(path: &Path) -> Result<()> {
    fs::File::open(path).and_then(|dir| dir.sync_all()).map_err(failed("sync", path))
}
