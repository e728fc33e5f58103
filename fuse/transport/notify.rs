//! What a file system tells the kernel unasked: that something it keeps is not true any more.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::abi::{self, notify};
use crate::device::write_reply;
use crate::init::Agreed;
use crate::write::Writer;

/// Sends notifications over a connection; cheap to clone, harmless once the connection is gone.
///
/// Never to be used from within a request: the kernel may wait for a lock that whoever made the
/// request holds.
#[derive(Clone, Debug)]
pub struct Notifier {
    device: Arc<OwnedFd>,
    expires: bool,
    prunes: bool,
}

/// Version of the protocol from which on the kernel can be asked to let go of nodes: that of Linux 6.18.
const PRUNES_FROM: u32 = 45;

impl Notifier {
    pub(crate) fn new(device: Arc<OwnedFd>, agreed: &Agreed) -> Notifier {
        let expires = agreed.flags & abi::init::HAS_EXPIRE_ONLY != 0;
        Notifier { device, expires, prunes: agreed.minor >= PRUNES_FROM }
    }

    /// Drops the attributes of `node`, and its cached content from `offset` on for `len` bytes
    /// (0: to the end); a negative `offset` leaves the content, and may be told from within a request, as
    /// the kernel waits for no lock then. Whether the kernel has the node.
    pub fn inode_changed(&self, node: u64, offset: i64, len: i64) -> io::Result<bool> {
        let mut body = [0; 24];
        let encoded = Writer::new(&mut body).u64(node).u64(offset as u64).u64(len as u64).finish();
        self.send(notify::INVAL_INODE, body.get(..encoded.unwrap_or(0)).unwrap_or_default())
    }

    /// Forgets what `name` in `parent` stands for.
    pub fn entry_changed(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        self.entry(parent, name, 0).map(drop)
    }

    /// Has what `name` in `parent` stands for asked again at its next use, without shutting open
    /// files below; where the kernel can't (before 6.2), forgets it.
    pub fn entry_expired(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        self.entry(parent, name, if self.expires { abi::EXPIRE_ONLY } else { 0 }).map(drop)
    }

    fn entry(&self, parent: u64, name: &[u8], flags: u32) -> io::Result<bool> {
        let mut body = [0; 16 + 256];
        let mut out = Writer::new(&mut body);
        out.u64(parent).u32(name.len() as u32).u32(flags).bytes(name).zeros(1);
        let len = out.finish().ok_or(io::ErrorKind::InvalidInput)?;
        self.send(notify::INVAL_ENTRY, body.get(..len).unwrap_or_default())
    }

    /// Tells that `child` was taken from `parent` where it was called `name`, so that watches end.
    pub fn deleted(&self, parent: u64, child: u64, name: &[u8]) -> io::Result<()> {
        let mut body = [0; 24 + 256];
        let mut out = Writer::new(&mut body);
        out.u64(parent).u64(child).u32(name.len() as u32).u32(0).bytes(name).zeros(1);
        let len = out.finish().ok_or(io::ErrorKind::InvalidInput)?;
        self.send(notify::DELETE, body.get(..len).unwrap_or_default()).map(drop)
    }

    /// Has the kernel let go of a node that no program uses. Other than for what is told of names, it needs
    /// no directory's lock for that, which whoever waits for an answer may hold: a thread that waits for
    /// one can't be killed, and keeps a daemon that is killed from ending. `false` before Linux 6.18, where
    /// the kernel can't be asked.
    pub fn unneeded(&self, node: u64) -> io::Result<bool> {
        if !self.prunes {
            return Ok(false);
        }
        let mut body = [0; 24];
        let encoded = Writer::new(&mut body).u32(1).u32(0).u64(0).u64(node).finish();
        self.send(notify::PRUNE, body.get(..encoded.unwrap_or(0)).unwrap_or_default()).map(|_| true)
    }

    /// Whether the kernel can be asked to let go of a node.
    pub fn prunes(&self) -> bool {
        self.prunes
    }

    /// That the kernel does not know the node, or does not have the entry, is no failure: `false`.
    fn send(&self, code: i32, body: &[u8]) -> io::Result<bool> {
        match write_reply(&self.device, 0, code, body) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            sent => sent.map(|()| true),
        }
    }
}
