//! [`Written`]: a state, with what was written on this node and put off laid over it.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use nexus_kernel::metastore::Visitor;
use nexus_kernel::model::{self, Extent, Inode, Usage, ZoneInfo, keys};
use nexus_kernel::{Error, Ino, MetaRead, Result, Table};

use super::Layers;
use super::layer::Layer;

/// Tells of inodes, and of extents in scans within one file, as they are with the layers. All else is the
/// state's own.
pub struct Written<'a> {
    /// The state.
    pub state: &'a dyn MetaRead,
    /// The layers of a file.
    pub layers: &'a dyn Fn(Ino) -> Layers,
}

impl Written<'_> {
    /// Runs `read` on what the layers over a range's file make of it.
    fn within(&self, range: Range, read: &mut dyn FnMut(&dyn MetaRead) -> Result<()>) -> Result<()> {
        over(self.state, &(self.layers)(range.ino), range, read)
    }
}

/// Runs `read` on a state with layers over it, the lowest first.
fn over(
    below: &dyn MetaRead,
    layers: &[Arc<Layer>],
    range: Range,
    read: &mut dyn FnMut(&dyn MetaRead) -> Result<()>,
) -> Result<()> {
    match layers {
        [] => read(below),
        [layer, above @ ..] => over(&Over { below, layer, range }, above, range, read),
    }
}

impl MetaRead for Written<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.state.get(table, key)
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        match Range::of(table, start, end) {
            Some(range) => self.within(range, &mut |state| state.scan(table, start, end, visit)),
            None => self.state.scan(table, start, end, visit),
        }
    }

    fn scan_back(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        match Range::of(table, start, end) {
            Some(range) => self.within(range, &mut |state| state.scan_back(table, start, end, visit)),
            None => self.state.scan_back(table, start, end, visit),
        }
    }

    fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        let layers = (self.layers)(ino);
        Ok(self.state.inode(ino)?.map(|inode| layers.iter().fold(inode, |inode, layer| layer.over(inode))))
    }

    fn zone_info(&self) -> Result<Option<ZoneInfo>> {
        self.state.zone_info()
    }

    fn usage(&self) -> Result<Usage> {
        self.state.usage()
    }
}

/// Offsets of one file.
#[derive(Clone, Copy)]
struct Range {
    ino: Ino,
    from: u64,
    to: u64,
}

impl Range {
    /// What two keys delimit, if that are extents of one file.
    fn of(table: Table, start: &[u8], end: &[u8]) -> Option<Range> {
        let place = |key: &[u8]| match key.len() {
            8 => keys::parse_one(key).ok().map(|ino| (ino, 0)),
            _ => keys::parse_pair(key).ok(),
        };
        let ((ino, from), (end_ino, end)) = (place(start)?, place(end)?);
        let to = match end {
            _ if table != Table::Extent => return None,
            end if end_ino == ino => end,
            0 if end_ino == ino + 1 => u64::MAX,
            _ => return None,
        };
        Some(Range { ino: Ino(ino), from, to })
    }

    fn has(&self, at: u64) -> bool {
        (self.from..self.to).contains(&at)
    }
}

/// One file's extents, with a layer over them.
struct Over<'a> {
    below: &'a dyn MetaRead,
    layer: &'a Layer,
    range: Range,
}

fn parse(key: &[u8], value: &[u8]) -> Result<(u64, Extent)> {
    let (_, at) = keys::parse_pair(key)?;
    let extent: Extent = model::decode("extent", value)?;
    match at.checked_add(extent.len) {
        Some(_) => Ok((at, extent)),
        None => Err(Error::Corrupt(format!("extent at {at} has an impossible length of {}", extent.len))),
    }
}

/// Shows extents to a visitor, until that has seen enough or something is wrong.
struct Show<'a, 'v> {
    ino: Ino,
    visit: &'a mut Visitor<'v>,
    flow: ControlFlow<()>,
    failed: Result<()>,
}

impl Show<'_, '_> {
    fn one(&mut self, at: u64, extent: Extent) {
        if self.flow.is_break() {
            return;
        }
        match model::encode(&extent) {
            Ok(value) => self.flow = (self.visit)(&keys::extent(self.ino, at), &value),
            Err(error) => (self.flow, self.failed) = (ControlFlow::Break(()), Err(error)),
        }
    }

    /// Has `show` show what an extent below becomes.
    fn take(&mut self, key: &[u8], value: &[u8], show: impl FnOnce(&mut Self, u64, Extent)) -> ControlFlow<()> {
        match parse(key, value) {
            Ok((at, extent)) => show(self, at, extent),
            Err(error) => (self.flow, self.failed) = (ControlFlow::Break(()), Err(error)),
        }
        self.flow
    }
}

impl Over<'_> {
    /// The extent below that begins before the range, and may reach into it.
    fn before(&self, take: &mut Visitor<'_>) -> Result<()> {
        let (start, end) = (keys::extent(self.range.ino, 0), keys::extent(self.range.ino, self.range.from));
        self.below.scan_back(Table::Extent, &start, &end, &mut |key, value| {
            let _ = take(key, value);
            ControlFlow::Break(())
        })
    }

    fn show<'a, 'v>(&self, visit: &'a mut Visitor<'v>) -> Show<'a, 'v> {
        Show { ino: self.range.ino, visit, flow: ControlFlow::Continue(()), failed: Ok(()) }
    }
}

impl MetaRead for Over<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.below.get(table, key)
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let Some(range) = Range::of(table, start, end) else { return self.below.scan(table, start, end, visit) };
        let this = Over { range, ..*self };
        let mut own = this.layer.runs(range.from, range.to).peekable();
        let mut show = this.show(visit);
        let mut parts = |show: &mut Show<'_, '_>, at: u64, extent: Extent| {
            for (at, part) in this.layer.leaves(at, extent).into_iter().filter(|(at, _)| range.has(*at)) {
                while let Some((start, run)) = own.next_if(|(start, _)| *start < at) {
                    show.one(start, run);
                }
                show.one(at, part);
            }
        };
        this.before(&mut |key, value| show.take(key, value, &mut parts))?;
        if show.flow.is_continue() {
            this.below.scan(table, start, end, &mut |key, value| show.take(key, value, &mut parts))?;
        }
        own.for_each(|(start, run)| show.one(start, run));
        show.failed
    }

    fn scan_back(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let Some(range) = Range::of(table, start, end) else { return self.below.scan_back(table, start, end, visit) };
        let this = Over { range, ..*self };
        let mut own = this.layer.runs(range.from, range.to).rev().peekable();
        let mut show = this.show(visit);
        let mut parts = |show: &mut Show<'_, '_>, at: u64, extent: Extent| {
            for (at, part) in this.layer.leaves(at, extent).into_iter().rev().filter(|(at, _)| range.has(*at)) {
                while let Some((start, run)) = own.next_if(|(start, _)| *start > at) {
                    show.one(start, run);
                }
                show.one(at, part);
            }
        };
        this.below.scan_back(table, start, end, &mut |key, value| show.take(key, value, &mut parts))?;
        if show.flow.is_continue() {
            this.before(&mut |key, value| show.take(key, value, &mut parts))?;
        }
        own.for_each(|(start, run)| show.one(start, run));
        show.failed
    }
}
