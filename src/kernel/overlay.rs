//! Laying changes over a state: scans that merge the two, in either direction.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::error::Result;
use crate::metastore::Visitor;

/// Which way a scan goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Backward,
}

impl Direction {
    fn is_before(self, a: &[u8], b: &[u8]) -> bool {
        match self {
            Direction::Forward => a < b,
            Direction::Backward => a > b,
        }
    }
}

/// Visits `own` changes (puts and deletes) merged with what `base` scans; both must go in
/// `direction` over the same range. An own change hides the base's value.
pub fn merge<'a>(
    own: impl Iterator<Item = (&'a [u8], &'a Option<Bytes>)>,
    direction: Direction,
    base: impl FnOnce(&mut Visitor<'_>) -> Result<()>,
    visit: &mut Visitor<'_>,
) -> Result<()> {
    let mut own = own.peekable();
    if own.peek().is_none() {
        return base(visit);
    }
    let mut flow = ControlFlow::Continue(());
    base(&mut |key, value| {
        while let Some((own_key, own_value)) = own.next_if(|(k, _)| direction.is_before(k, key)) {
            flow = show(own_key, own_value, visit);
            if flow.is_break() {
                return flow;
            }
        }
        flow = match own.next_if(|(k, _)| *k == key) {
            Some((_, own_value)) => show(key, own_value, visit),
            None => visit(key, value),
        };
        flow
    })?;
    while flow.is_continue()
        && let Some((key, value)) = own.next()
    {
        flow = show(key, value, visit);
    }
    Ok(())
}

fn show(key: &[u8], value: &Option<Bytes>, visit: &mut Visitor<'_>) -> ControlFlow<()> {
    value.as_ref().map_or(ControlFlow::Continue(()), |value| visit(key, value))
}
