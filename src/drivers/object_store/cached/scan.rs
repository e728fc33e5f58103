//! What an earlier run left in the cache folder: files with holes where nothing was fetched.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::SystemTime;

use nexus_kernel::error::{Error, Result};
use nexus_kernel::ids::BlobId;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::frames::Frames;

/// The blobs whose files lie in `dir`, with what is there of each and its length; the one that
/// was written to last comes last. Files that are none of a cache are left alone.
pub fn scan(dir: &Path, unit: u64) -> Result<Vec<(BlobId, Frames, u64)>> {
    let failed = |error: std::io::Error| Error::from_io(format!("read the cache {}", dir.display()), &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(id) =
            name.to_str().filter(|name| name.len() == 16).and_then(|name| u64::from_str_radix(name, 16).ok())
        else {
            continue;
        };
        let file = OpenOptions::new().read(true).write(true).open(entry.path()).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let frames = present(&file, meta.len(), unit).map_err(|errno| failed(errno.into()))?;
        found.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), (BlobId(id), frames, meta.len())));
    }
    found.sort_by_key(|(modified, (id, ..))| (*modified, *id));
    Ok(found.into_iter().map(|(_, blob)| blob).collect())
}

/// The units of which there is no hole.
fn present(file: &File, len: u64, unit: u64) -> rustix::io::Result<Frames> {
    let mut frames = Frames::none(len, unit);
    let mut at = 0;
    while at < len {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(len);
        let last = if end == len { len.div_ceil(unit) } else { end / unit };
        frames.set(start.div_ceil(unit)..last, true);
        at = end;
    }
    Ok(frames)
}
