//! A subtree as the state of a zone of its own: its records, with the directory at its top as
//! the root. Content stays where it is; the new zone counts for itself what refers to it.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use nexus_kernel::machine::MOUNT_PREFIX;
use nexus_kernel::metastore::{Key, MetaRead};
use nexus_kernel::model::{self, Blob, Dentry, Extent, FileKind, Inode, Usage, keys};
use nexus_kernel::{BlobId, Error, Ino, Result, Table};

/// Bytes of pairs that are handed out at once, about.
const BATCH_BYTES: usize = 256 << 10;

/// A table's number, a key and a value, as [`nexus_kernel::Command::Import`] takes them.
pub type Pair = (u8, Vec<u8>, Vec<u8>);

/// Why a subtree can't be a zone of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExportError {
    /// A file in it has a name outside of it, too.
    Linked {
        /// The file.
        ino: Ino,
        /// Its name in the subtree, without the way there.
        name: Vec<u8>,
    },
    /// The state can't be read.
    Failed(Error),
}

impl From<Error> for ExportError {
    fn from(error: Error) -> ExportError {
        ExportError::Failed(error)
    }
}

struct Export<'a> {
    state: &'a dyn MetaRead,
    emit: &'a mut dyn FnMut(Vec<Pair>) -> Result<()>,
    batch: Vec<Pair>,
    bytes: usize,
    usage: Usage,
    /// Directories that are still to be listed, with what they are called in the new zone.
    ahead: Vec<(Ino, Ino)>,
    /// Files with several names, of which some were not met yet.
    linked: HashMap<Ino, (u32, Vec<u8>)>,
    /// Bytes that the subtree has in each blob.
    live: BTreeMap<BlobId, u64>,
}

/// Hands out the subtree at `top` in pairs, in parts; answers what it holds. `top` is a
/// directory of `state`, which stays the same meanwhile.
pub fn export(
    state: &dyn MetaRead,
    top: Ino,
    emit: &mut dyn FnMut(Vec<Pair>) -> Result<()>,
) -> std::result::Result<Usage, ExportError> {
    let mut export = Export {
        state,
        emit,
        batch: Vec::new(),
        bytes: 0,
        usage: Usage { next_ino: state.usage()?.next_ino, ..Usage::default() },
        ahead: vec![(top, Ino::ROOT)],
        linked: HashMap::new(),
        live: BTreeMap::new(),
    };
    let mut root = state.inode(top)?.ok_or(Error::Stale)?;
    root.parent = Ino::ROOT;
    export.inode(top, Ino::ROOT, root)?;
    while let Some((dir, renamed)) = export.ahead.pop() {
        export.directory(dir, renamed)?;
    }
    if let Some((ino, (_, name))) = export.linked.iter().next() {
        return Err(ExportError::Linked { ino: *ino, name: name.clone() });
    }
    export.blobs()?;
    let usage = export.usage;
    export.put(Table::Sys, keys::sys(Usage::KEY), &model::encode(&usage)?)?;
    export.hand_out()?;
    Ok(usage)
}

impl Export<'_> {
    fn put(&mut self, table: Table, key: Key, value: &[u8]) -> Result<()> {
        self.bytes += key.len() + value.len() + 8;
        self.batch.push((table as u8, key.to_vec(), value.to_vec()));
        if self.bytes >= BATCH_BYTES { self.hand_out() } else { Ok(()) }
    }

    fn hand_out(&mut self) -> Result<()> {
        self.bytes = 0;
        (self.emit)(std::mem::take(&mut self.batch))
    }

    /// The records of a table that belong to one inode, under its new number.
    fn records(&mut self, table: Table, ino: Ino, renamed: Ino) -> Result<Vec<(Key, bytes::Bytes)>> {
        let mut found = Vec::new();
        let (start, end) = keys::prefix(ino.0);
        self.state.scan(table, &start, &end, &mut |key, value| {
            let mut new = Key::from_slice(&renamed.0.to_be_bytes());
            new.extend_from_slice(key.get(8..).unwrap_or_default());
            found.push((new, bytes::Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    fn inode(&mut self, ino: Ino, renamed: Ino, inode: Inode) -> Result<()> {
        self.usage.inodes += 1;
        self.usage.allocated += inode.allocated;
        self.put(Table::Inode, keys::ino(renamed), &model::encode(&inode)?)?;
        for table in [Table::Symlink, Table::Xattr] {
            for (key, value) in self.records(table, ino, renamed)? {
                self.put(table, key, &value)?;
            }
        }
        if inode.kind != FileKind::Regular {
            return Ok(());
        }
        let mut blobs = BTreeMap::<BlobId, u64>::new();
        for (key, value) in self.records(Table::Extent, ino, renamed)? {
            let extent: Extent = model::decode("extent", &value)?;
            if extent.blob.is_some() {
                *blobs.entry(extent.blob).or_default() += extent.len;
            }
            self.put(Table::Extent, key, &value)?;
        }
        for (blob, bytes) in blobs {
            *self.live.entry(blob).or_default() += bytes;
            self.put(Table::BlobRef, keys::blob_ref(blob, renamed), &[])?;
        }
        Ok(())
    }

    fn directory(&mut self, dir: Ino, renamed: Ino) -> Result<()> {
        for (key, value) in self.records(Table::Dentry, dir, renamed)? {
            self.put(Table::Dentry, key, &value)?;
            let dentry = Dentry::decode(&value)?;
            let lost = || {
                Error::Corrupt(format!("an entry of directory {dir} names inode {}, which is not there", dentry.ino))
            };
            let mut inode = self.state.inode(dentry.ino)?.ok_or_else(lost)?;
            match dentry.kind {
                FileKind::Directory => {
                    inode.parent = renamed;
                    self.ahead.push((dentry.ino, dentry.ino));
                }
                FileKind::Mount => {
                    inode.parent = renamed;
                    // What may be left below the zone that is mounted there is not copied.
                    inode.size = 0;
                    inode.nlink = 2;
                    let place = keys::sys(&format!("{MOUNT_PREFIX}{}", dentry.ino));
                    self.put(Table::Sys, place, &renamed.0.to_be_bytes())?;
                }
                _ if inode.nlink > 1 => {
                    let left = self.linked.get(&dentry.ino).map_or(inode.nlink, |(left, _)| *left) - 1;
                    let met = self.linked.insert(dentry.ino, (left, dentry.name.to_vec())).is_some();
                    if left == 0 {
                        self.linked.remove(&dentry.ino);
                    }
                    if met {
                        continue;
                    }
                }
                _ => {}
            }
            self.inode(dentry.ino, dentry.ino, inode)?;
        }
        Ok(())
    }

    fn blobs(&mut self) -> Result<()> {
        for (id, live) in std::mem::take(&mut self.live) {
            let value = self.state.get(Table::Blob, &keys::blob(id))?;
            let value = value.ok_or_else(|| Error::Corrupt(format!("blob {id} is in use, but not known")))?;
            let blob: Blob = model::decode("blob", &value)?;
            self.put(Table::Blob, keys::blob(id), &model::encode(&Blob { live, ..blob })?)?;
        }
        Ok(())
    }
}
