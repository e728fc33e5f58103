//! The checker: metadata against itself, and against the content that is there.

mod finding;

use nexus_kernel::{Error, Result, Zone};

use crate::store::SegmentStore;

pub use finding::{CheckSummary, Finding, Severity};

/// Checks a zone and its content; `deep` also holds sealed blobs against their checksums.
/// Each thing found is reported as it is found.
#[allow(unused_variables, reason = "signatures that others build on")]
pub fn check(zone: &dyn Zone, store: &SegmentStore, deep: bool, report: &mut dyn FnMut(Finding)) -> Result<CheckSummary> {
    Err(Error::NotSupported)
}
