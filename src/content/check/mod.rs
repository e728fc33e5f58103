//! The checker: metadata against itself (`names`, `files`), and against the content that is
//! there (`blobs`). It changes nothing. It holds a few bytes for each inode, and nothing else
//! that grows with the volume but the list of blobs.

mod blobs;
mod files;
mod finding;
mod marks;
mod names;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use nexus_kernel::metastore::MetaRead;
use nexus_kernel::model::Blob;
use nexus_kernel::{BlobId, Error, Result, Table, Zone};

use crate::store::SegmentStore;
use marks::Marks;

pub use blobs::NO_FILE;
pub use finding::{CheckSummary, Finding, Severity};

/// Checks a zone and its content; `deep` also holds sealed blobs against their checksums.
/// Each thing found is reported as it is found. The zone is read in one go, so that nobody
/// should be changing it. An error means that the check could not be carried through.
pub fn check(
    zone: &dyn Zone,
    store: &SegmentStore,
    deep: bool,
    report: &mut dyn FnMut(Finding),
) -> Result<CheckSummary> {
    check_state(&mut |read| zone.read(read), store, Scope { deep, writer: None }, report)
}

/// How much is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope {
    /// Sealed blobs are held against their checksums, too.
    pub deep: bool,
    /// Only blobs of this writer must be here: others have theirs.
    pub writer: Option<u32>,
}

/// Runs what it is given on one state of a zone.
pub type Reading<'a> = dyn FnMut(&mut dyn FnMut(&dyn MetaRead) -> Result<()>) -> Result<()> + 'a;

/// As [`check`], on the state that `reading` gives.
pub fn check_state(
    reading: &mut Reading<'_>,
    store: &SegmentStore,
    scope: Scope,
    report: &mut dyn FnMut(Finding),
) -> Result<CheckSummary> {
    let mut checker =
        Checker { report, scope, summary: CheckSummary::default(), marks: Marks::default(), blobs: BTreeMap::new() };
    reading(&mut |state| {
        checker.list_blobs(state)?;
        checker.list_inodes(state)?;
        checker.check_extents(state)?;
        checker.check_dentries(state)?;
        checker.check_inodes(state)?;
        checker.check_attributes(state)?;
        checker.check_live(state)?;
        checker.check_settings(state)
    })?;
    checker.check_content(store)?;
    Ok(checker.summary)
}

/// A check at work.
struct Checker<'a> {
    report: &'a mut dyn FnMut(Finding),
    scope: Scope,
    summary: CheckSummary,
    marks: Marks,
    /// Blobs as recorded, with the live bytes that the extents have.
    blobs: BTreeMap<BlobId, (Blob, u64)>,
}

impl Checker<'_> {
    fn damage(&mut self, text: impl fmt::Display) {
        self.summary.damage += 1;
        (self.report)(Finding { severity: Severity::Damage, text: text.to_string() });
    }

    fn note(&mut self, text: impl fmt::Display) {
        self.summary.notes += 1;
        (self.report)(Finding { severity: Severity::Note, text: text.to_string() });
    }

    /// Visits all of a table. A record that can't be read is damage, and the visit goes on.
    fn each(
        &mut self,
        state: &dyn MetaRead,
        table: Table,
        mut visit: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut failed = Ok(());
        let mut one = |key: &[u8], value: &[u8]| match visit(self, key, value) {
            Ok(()) => ControlFlow::Continue(()),
            Err(Error::Corrupt(text) | Error::UnknownVersion(text)) => {
                self.damage(format_args!("table {}: {text}", table.name()));
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Err(error);
                ControlFlow::Break(())
            }
        };
        // Keys are at most 8 bytes and a name of 255.
        state.scan(table, &[], &[0xff; 300], &mut one)?;
        failed
    }
}
