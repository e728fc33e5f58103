//! An [`Attached`] bucket as a session serves it: requests unpacked, replies packed.

use bytes::Bytes;
use nexus::cloud::PAGE_KEYS;
use nexus_fuse_transport::abi::init;
use nexus_fuse_transport::{
    Answer, Bulk, Entry, Errno, Forget, FsStat, Handler, Header, Listing, ListingEntry, Opened, Operation, Settings,
};
use nexus_kernel::{Error, Result};

use super::attached::{Attached, join};
use super::listing::{FIRST, Row};
use super::tree::Found;

/// The extended attribute with an object's ETag.
const ETAG: &[u8] = b"user.nexus.etag";
const O_EXCL: u32 = 0o200;
const O_ACCMODE: u32 = 3;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const DIR: u32 = 0o040_000;
/// Blocks that statfs(2) tells of: a bucket has no end.
const BLOCKS: u64 = 1 << 40;

impl Attached {
    /// What to ask of the kernel.
    pub fn settings() -> Settings {
        let wanted = init::ASYNC_READ
            | init::PARALLEL_DIROPS
            | init::DO_READDIRPLUS
            | init::READDIRPLUS_AUTO
            | init::AUTO_INVAL_DATA;
        Settings { wanted, ..Settings::default() }
    }

    fn entry(&self, id: u64) -> Result<Entry> {
        Ok(Entry { node: id, attr: self.attr(id)?, ttl: self.view.refresh })
    }

    fn answer(&self, header: &Header, operation: Operation<'_>) -> Result<Answer> {
        let (node, ttl) = (header.node, self.view.refresh);
        let done = |()| Answer::Done;
        match operation {
            Operation::Lookup { name } => Ok(match self.lookup(node, name)? {
                Some((id, attr)) => Answer::Entry(Entry { node: id, attr, ttl }),
                None => Answer::Entry(Entry { ttl, ..Entry::default() }),
            }),
            Operation::Getattr { .. } => self.getattr(node).map(|attr| Answer::Attr(attr, ttl)),
            Operation::Statx { .. } => self.getattr(node).map(|attr| Answer::Statx(attr, ttl)),
            Operation::Setattr(set) => self.setattr(node, &set).map(|attr| Answer::Attr(attr, ttl)),
            Operation::Mknod { mode, .. } if mode & S_IFMT != S_IFREG => Err(Error::NotPermitted),
            Operation::Mknod { name, .. } => {
                let id = self.create(node, name, true)?;
                if let Some(node) = self.tree.lock().get_mut(id) {
                    node.staged = None;
                }
                self.entry(id).map(Answer::Entry)
            }
            Operation::Mkdir { name, .. } => self.entry(self.mkdir(node, name)?).map(Answer::Entry),
            Operation::Create { name, flags, .. } => {
                let id = self.create(node, name, flags & O_EXCL != 0)?;
                let handle = self.open(id, true)?;
                Ok(Answer::Created(self.entry(id)?, Opened { handle, flags: 0 }))
            }
            Operation::Unlink { name } => self.unlink(node, name).map(done),
            Operation::Rmdir { name } => self.rmdir(node, name).map(done),
            Operation::Rename { name, new_parent, new_name, flags } => {
                self.rename(node, name, new_parent, new_name, flags).map(done)
            }
            Operation::Open { flags, .. } => {
                let handle = self.open(node, flags & O_ACCMODE != 0)?;
                Ok(Answer::Opened(Opened { handle, flags: 0 }))
            }
            Operation::Write { offset, data, .. } => self.write(node, offset, data).map(Answer::Written),
            Operation::Flush { .. } | Operation::Fsync { .. } => self.commit(node).map(done),
            Operation::Release { handle, .. } => {
                self.release(node, handle);
                Ok(Answer::Done)
            }
            Operation::Opendir { .. } => Ok(Answer::Opened(Opened { handle: self.opendir(node)?, flags: 0 })),
            Operation::Releasedir { handle } => {
                self.listings.lock().remove(&handle);
                Ok(Answer::Done)
            }
            Operation::Fsyncdir { .. } | Operation::Syncfs | Operation::Destroy => Ok(Answer::Done),
            Operation::Statfs => Ok(Answer::Statfs(FsStat {
                blocks: BLOCKS,
                bfree: BLOCKS,
                bavail: BLOCKS,
                files: BLOCKS,
                ffree: BLOCKS,
                bsize: 4096,
                namelen: 255,
            })),
            Operation::Getxattr { name, size } => match self.etag(node)? {
                Some(etag) if name == ETAG => fit(etag.into(), size),
                _ => Err(Error::NoAttribute),
            },
            Operation::Listxattr { size } => {
                let list = self.etag(node)?.map(|_| [ETAG, b"\0"].concat()).unwrap_or_default();
                fit(list.into(), size)
            }
            Operation::Symlink { .. } | Operation::Link { .. } => Err(Error::NotPermitted),
            Operation::Readlink => Err(Error::Invalid),
            Operation::Tmpfile { .. }
            | Operation::Setxattr(_)
            | Operation::Removexattr { .. }
            | Operation::Fallocate(_)
            | Operation::CopyFileRange(_) => Err(Error::NotSupported),
            Operation::Ioctl { .. } => Ok(Answer::Error(Errno::ENOTTY)),
            // What the kernel does itself once it is told that nobody here does.
            Operation::Lseek { .. }
            | Operation::Access { .. }
            | Operation::Getlk(_)
            | Operation::Setlk { .. }
            | Operation::Unknown => Ok(Answer::Error(Errno::ENOSYS)),
        }
    }

    fn etag(&self, id: u64) -> Result<Option<String>> {
        self.getattr(id)?;
        let tree = self.tree.lock();
        let node = tree.get(id).filter(|node| node.staged.is_none());
        Ok(node.and_then(|node| match &node.found {
            Found::File(info) => info.etag.clone(),
            Found::Dir => None,
        }))
    }

    fn list(&self, node: u64, handle: u64, offset: u64, plus: bool, out: &mut [u8]) -> Result<usize> {
        let listing = self.listings.lock().get(&handle).cloned().ok_or(Error::Stale)?;
        let mut listing = listing.lock();
        let mut reply = Listing::new(out);
        let mut position = offset;
        for (at, name) in [(0, ".".as_bytes()), (1, b"..")] {
            if position == at {
                position = at + 1;
                let line = ListingEntry { name, ino: node, next: position, mode: DIR };
                let dot = Entry::unknown(node, DIR);
                let added = if plus { reply.add_plus(&line, &dot) } else { reply.add(&line) };
                if !added {
                    return Ok(reply.len());
                }
            }
        }
        let prefix = if listing.key.is_empty() { String::new() } else { format!("{}/", listing.key) };
        loop {
            let fetch = |token| self.ask(|bucket| bucket.page(&prefix, true, token, PAGE_KEYS));
            // What is there already is told before an error is.
            let (row, next) = match listing.at(position.max(FIRST), fetch) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(_) if !reply.is_empty() && position > 2 => break,
                Err(error) => return Err(error),
            };
            if !self.add(&listing.key, row, next, plus, &mut reply)? {
                break;
            }
            position = next;
        }
        Ok(reply.len())
    }

    fn add(&self, dir: &str, row: Row, next: u64, plus: bool, reply: &mut Listing<'_>) -> Result<bool> {
        let mode = if row.found == Found::Dir { DIR } else { S_IFREG };
        let key = join(dir, &row.name);
        let line = |ino| ListingEntry { name: row.name.as_bytes(), ino, next, mode };
        if !plus {
            let known = self.tree.lock().id_of(&key);
            return Ok(reply.add(&line(known.unwrap_or(u64::MAX))));
        }
        let id = {
            let mut tree = self.tree.lock();
            let staged = tree.id_of(&key).and_then(|id| tree.get(id)).filter(|node| node.staged.is_some());
            let found = staged.map_or(row.found.clone(), |node| node.found.clone());
            tree.enter(&key, found)
        };
        let added = reply.add_plus(&line(id), &self.entry(id)?);
        if !added {
            self.tree.lock().forget(id, 1);
        }
        Ok(added)
    }
}

impl Handler for Attached {
    fn call(&self, header: &Header, operation: Operation<'_>) -> Answer {
        let _at = self.requests.enter(header.unique, header.pid);
        self.answer(header, operation).unwrap_or_else(|error| Answer::Error(failed(header, &error)))
    }

    fn fill(&self, header: &Header, bulk: Bulk, out: &mut [u8]) -> std::result::Result<usize, Errno> {
        let _at = self.requests.enter(header.unique, header.pid);
        let filled = match bulk {
            Bulk::Read { handle, offset, .. } => self.read(header.node, handle, offset, out),
            Bulk::Readdir { handle, offset, .. } => self.list(header.node, handle, offset, false, out),
            Bulk::Readdirplus { handle, offset, .. } => self.list(header.node, handle, offset, true, out),
        };
        filled.map_err(|error| failed(header, &error))
    }

    fn forget(&self, forgotten: &[Forget]) {
        let mut tree = self.tree.lock();
        for forget in forgotten {
            tree.forget(forget.node, forget.lookups);
        }
    }

    fn interrupt(&self, unique: u64) {
        self.requests.interrupt(unique);
    }
}

fn failed(header: &Header, error: &Error) -> Errno {
    if matches!(error, Error::Io(_) | Error::Unavailable(_) | Error::Corrupt(_)) {
        log::warn!("{} in an attached bucket failed: {error}", header.name());
    }
    Errno::new(error.errno() as i32)
}

/// Fits an attribute's value to the caller's buffer.
fn fit(value: Bytes, size: u32) -> Result<Answer> {
    match size as usize {
        0 => Ok(Answer::XattrSize(value.len() as u32)),
        size if value.len() <= size => Ok(Answer::Data(value)),
        _ => Err(Error::Range),
    }
}
