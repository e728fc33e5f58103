//! What the metadata of a zone says of blobs, orphans and zones within it, read in bounded steps.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::error::Result;
use crate::ids::{BlobId, Ino};
use crate::machine::MOUNT_PREFIX;
use crate::metastore::{MetaRead, Table};
use crate::model::{self, Blob, Extent, MountTarget, keys};
use crate::zone::Zone;

/// Records read in one go, so that a read is short.
const PAGE: usize = 2048;

/// An extent in a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobExtent {
    /// The file.
    pub ino: Ino,
    /// Where in the file.
    pub offset: u64,
    /// Where in the blob.
    pub blob_offset: u64,
    /// Bytes.
    pub len: u64,
}

/// One zone's record of a blob.
pub fn find_blob(zone: &dyn Zone, id: BlobId) -> Result<Option<Blob>> {
    let mut found = None;
    zone.read(&mut |state| {
        found = match state.get(Table::Blob, &keys::blob(id))? {
            Some(bytes) => Some(model::decode("blob", &bytes)?),
            None => None,
        };
        Ok(())
    })?;
    Ok(found)
}

/// Inodes without a name from `from` on, `limit` of them at the most.
pub fn orphans(zone: &dyn Zone, from: Ino, limit: usize) -> Result<Vec<Ino>> {
    let mut page = Vec::new();
    let start = keys::ino(from).to_vec();
    pages_between(zone, Table::Orphan, start, &keys::ino(Ino(u64::MAX)), &mut |key, _| {
        page.push(Ino(keys::parse_one(key)?));
        Ok(if page.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(page)
}

/// Whether the zone with the id `child` stands somewhere in `zone`.
pub fn stands_in(zone: &dyn Zone, child: &[u8; 16]) -> Result<bool> {
    let mut places = Vec::new();
    let end = MOUNT_PREFIX.replace('/', "0");
    pages_between(zone, Table::Sys, MOUNT_PREFIX.into(), end.as_bytes(), &mut |key, _| {
        let number = key.get(MOUNT_PREFIX.len()..).and_then(|text| std::str::from_utf8(text).ok());
        places.extend(number.and_then(|text| text.parse().ok()).map(Ino));
        Ok(ControlFlow::Continue(()))
    })?;
    let mut stands = false;
    for ino in places {
        zone.read(&mut |state| {
            if let Some(target) = state.get(Table::Symlink, &keys::ino(ino))? {
                stands |= model::decode::<MountTarget>("mount target", &target)?.zone == *child;
            }
            Ok(())
        })?;
    }
    Ok(stands)
}

/// All blobs that `zone` knows.
pub fn zone_blobs(zone: &dyn Zone) -> Result<BTreeMap<BlobId, Blob>> {
    let mut found = BTreeMap::new();
    pages(zone, Table::Blob, 0, u64::MAX, &mut |key, value| {
        let blob: Blob = model::decode("blob", value)?;
        found.insert(BlobId(keys::parse_one(key)?), blob);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// The extents of a zone that lie in `blob`; about `limit` at most, and whether these are all.
pub fn blob_extents(zone: &dyn Zone, blob: BlobId, limit: usize) -> Result<(Vec<BlobExtent>, bool)> {
    let mut inos = Vec::new();
    let (start, end) = (keys::blob_ref(blob, Ino(0)), keys::blob_ref(blob, Ino(u64::MAX)));
    pages_between(zone, Table::BlobRef, start.to_vec(), &end, &mut |key, _| {
        inos.push(Ino(keys::parse_pair(key)?.1));
        Ok(if inos.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let mut complete = inos.len() < limit;
    let mut found = Vec::new();
    for ino in inos {
        let (start, end) = (keys::extent(ino, 0), keys::extent(ino, u64::MAX));
        pages_between(zone, Table::Extent, start.to_vec(), &end, &mut |key, value| {
            let extent: Extent = model::decode("extent", value)?;
            if extent.blob == blob {
                let offset = keys::parse_pair(key)?.1;
                found.push(BlobExtent { ino, offset, blob_offset: extent.blob_offset, len: extent.len });
            }
            Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        if found.len() >= limit {
            complete = false;
            break;
        }
    }
    Ok((found, complete))
}

/// Visits one record; an error ends the visit.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>> + 'a;

/// Visits the records of a table whose keys start with numbers in `from..to`.
pub fn pages(zone: &dyn Zone, table: Table, from: u64, to: u64, visit: &mut Visit<'_>) -> Result<()> {
    pages_between(zone, table, from.to_be_bytes().to_vec(), &to.to_be_bytes(), visit)
}

/// Visits `start <= key < end`, some records with each read. A record that changes
/// meanwhile is seen as it was or as it is; none is left out that is there all the time.
pub fn pages_between(
    zone: &dyn Zone,
    table: Table,
    mut start: Vec<u8>,
    end: &[u8],
    visit: &mut Visit<'_>,
) -> Result<()> {
    loop {
        let mut seen = 0;
        let mut done = Ok(true);
        let mut next = Vec::new();
        zone.read(&mut |state: &dyn MetaRead| {
            state.scan(table, &start, end, &mut |key, value| {
                match visit(key, value) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => return ControlFlow::Break(()),
                    Err(error) => {
                        done = Err(error);
                        return ControlFlow::Break(());
                    }
                }
                seen += 1;
                if seen == PAGE {
                    next.extend_from_slice(key);
                    next.push(0);
                    done = Ok(false);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })
        })?;
        if done? {
            return Ok(());
        }
        start = next;
    }
}
