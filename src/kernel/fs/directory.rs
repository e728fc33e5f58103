//! Listing directories.
//!
//! An entry's cookie is its position in the directory, which never changes while the entry
//! lives (see [`crate::model::name_hash`]). So a listing that goes on after a cookie misses
//! nothing that was there throughout, and repeats nothing, whatever was made or removed.

use std::ops::ControlFlow;

use super::namespace::child;
use super::{Attr, DirEntry, NexusFs, directory_inode};
use crate::error::Result;
use crate::ids::{Ino, NodeId};
use crate::metastore::Table;
use crate::model::{self, Dentry, FileKind, keys};
use crate::zone::Zone;

/// Cookie after ".".
const DOT: u64 = 1;
/// Cookie after "..".
const DOT_DOT: u64 = 2;
/// Entries read in one state: few at first, as the sink may take only a few, then more.
const FIRST_PAGE: usize = 64;
const LARGEST_PAGE: usize = 512;
/// Entries handed out by one call at most.
const CALL_ENTRIES: usize = 2048;

impl NexusFs {
    /// Hands out entries after `cookie` (0 for the start) until the sink breaks, or a bounded
    /// number was handed out. A call that hands out none means the end. An entry at which the
    /// sink breaks was not taken: it comes again. "." has cookie 1, ".." 2, neither has `attr`.
    pub fn readdir(
        &self,
        node: NodeId,
        cookie: u64,
        with_attr: bool,
        sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>,
    ) -> Result<()> {
        let (zone, dir) = self.router.resolve(node)?;
        let inode = directory_inode(&self.router, &*zone, dir)?;
        let broke = self.hand_out(node, &*zone, cookie, with_attr, sink);
        self.touch(&*zone, dir, &inode);
        broke
    }

    fn hand_out(
        &self,
        node: NodeId,
        zone: &dyn Zone,
        cookie: u64,
        with_attr: bool,
        sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>,
    ) -> Result<()> {
        if cookie < DOT && sink(dots(DOT, node, b".")).is_break() {
            return Ok(());
        }
        if cookie < DOT_DOT && sink(dots(DOT_DOT, self.parent_of(node)?, b"..")).is_break() {
            return Ok(());
        }
        let mut after = cookie.max(DOT_DOT);
        let (mut page_len, mut handed) = (FIRST_PAGE, 0);
        while handed < CALL_ENTRIES {
            let page = entries(zone, node.ino(), after, page_len)?;
            for (position, dentry) in &page {
                after = *position;
                let child = child(node.zone(), dentry);
                let inode = if with_attr { zone.inode(dentry.ino)? } else { None };
                let entry = DirEntry {
                    cookie: *position,
                    node: child,
                    kind: dentry.kind,
                    name: dentry.name.clone(),
                    attr: inode.map(|inode| Attr { node: child, inode }),
                };
                if sink(entry).is_break() {
                    return Ok(());
                }
            }
            if page.len() < page_len {
                return Ok(());
            }
            handed += page.len();
            page_len = (page_len * 2).min(LARGEST_PAGE);
        }
        Ok(())
    }
}

fn dots(cookie: u64, node: NodeId, name: &'static [u8]) -> DirEntry {
    DirEntry { cookie, node, kind: FileKind::Directory, name: bytes::Bytes::from_static(name), attr: None }
}

/// At most `limit` entries of a directory with positions above `after`.
pub(super) fn entries(zone: &dyn Zone, dir: Ino, after: u64, limit: usize) -> Result<Vec<(u64, Dentry)>> {
    let mut page = Vec::new();
    let (start, end) = (keys::dentry(dir, after.saturating_add(1)), keys::prefix(dir.0).1);
    zone.read(&mut |state| {
        page.clear();
        let mut bad = None;
        state.scan(Table::Dentry, &start, &end, &mut |key, value| {
            let entry = keys::parse_pair(key).and_then(|(_, at)| Ok((at, model::decode("dentry", value)?)));
            match entry {
                Ok(entry) => page.push(entry),
                Err(error) => bad = Some(error),
            }
            if bad.is_none() && page.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        bad.map_or(Ok(()), Err)
    })?;
    Ok(page)
}
