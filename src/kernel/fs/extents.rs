//! Reading extents a bounded number at a time.

use std::ops::ControlFlow;

use smallvec::SmallVec;

use crate::error::{Error, Result};
use crate::ids::Ino;
use crate::metastore::{MetaRead, Table};
use crate::model::{self, Extent, keys};

/// Extents of a part of a file.
pub(super) struct Plan {
    /// File offset and extent, cut to the part that was asked for, in order.
    pub(super) runs: SmallVec<[(u64, Extent); 8]>,
    /// Up to where the plan tells everything; what no run covers before it is a hole.
    pub(super) until: u64,
}

/// The extents of `[from, to)`, at most `limit`. Runs that follow each other in their blob
/// are joined.
pub(super) fn plan(state: &dyn MetaRead, ino: Ino, from: u64, to: u64, limit: usize) -> Result<Plan> {
    let mut plan = Plan { runs: SmallVec::new(), until: to };
    if from >= to {
        return Ok(plan);
    }
    let mut taken = 0;
    let mut bad = None;
    let mut take = |key: &[u8], value: &[u8]| match parse(key, value) {
        Ok((offset, extent)) => {
            if taken >= limit {
                plan.until = offset.clamp(from, to);
                return ControlFlow::Break(());
            }
            taken += 1;
            let (start, end) = (offset.max(from), offset.saturating_add(extent.len).min(to));
            if start < end {
                push(&mut plan.runs, start, extent.part(start - offset, end - start));
            }
            if end >= to { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
        Err(error) => {
            bad = Some(error);
            ControlFlow::Break(())
        }
    };
    // The one that starts at or before `from`, then those that start after it.
    let after = from.saturating_add(1);
    let mut covered = false;
    state.scan_back(Table::Extent, &keys::extent(ino, 0), &keys::extent(ino, after), &mut |key, value| {
        covered = take(key, value).is_break();
        ControlFlow::Break(())
    })?;
    if !covered && after < to {
        state.scan(Table::Extent, &keys::extent(ino, after), &keys::extent(ino, to), &mut take)?;
    }
    match bad {
        Some(error) => Err(error),
        None => Ok(plan),
    }
}

/// The end of the longest part of `[from, to)`, from its start on, that touches at most
/// `limit` extents.
pub(super) fn step_end(state: &dyn MetaRead, ino: Ino, from: u64, to: u64, limit: usize) -> Result<u64> {
    let (mut seen, mut end, mut bad) = (0, to, None);
    let after = from.saturating_add(1);
    if after >= to {
        return Ok(to);
    }
    state.scan(Table::Extent, &keys::extent(ino, after), &keys::extent(ino, to), &mut |key, _| {
        seen += 1;
        if seen < limit {
            return ControlFlow::Continue(());
        }
        match keys::parse_pair(key) {
            Ok((_, offset)) => end = offset,
            Err(error) => bad = Some(error),
        }
        ControlFlow::Break(())
    })?;
    match bad {
        Some(error) => Err(error),
        None => Ok(end),
    }
}

fn parse(key: &[u8], value: &[u8]) -> Result<(u64, Extent)> {
    let (_, offset) = keys::parse_pair(key)?;
    let extent: Extent = model::decode("extent", value)?;
    if extent.len == 0 || offset.checked_add(extent.len).is_none() {
        return Err(Error::Corrupt(format!("extent at {offset} has an impossible length of {}", extent.len)));
    }
    Ok((offset, extent))
}

fn push(runs: &mut SmallVec<[(u64, Extent); 8]>, offset: u64, extent: Extent) {
    if let Some((last_offset, last)) = runs.last_mut()
        && *last_offset + last.len == offset
        && last.continues_with(&extent)
    {
        last.len += extent.len;
        return;
    }
    runs.push((offset, extent));
}
