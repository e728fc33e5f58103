//! Content in an S3 server behind a network that is slow, changes bytes, cuts answers or is not there,
//! and that counts what passes. What must hold: nothing is lost and nothing wrong is read, whatever the
//! network does, and what `status` tells of requests is what was paid for.

mod away;
mod bench;
mod bill;
mod crash;
mod proxy;
mod requests;
mod wrong;

use crate::report::Case;

/// All cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("the bill is what passed", bill::bill),
        Case::new("store away at mount", away::away_at_mount),
        Case::new("unmounting while the store is away", away::unmounted_away),
        Case::new("killed during slow uploads", crash::killed_during_uploads),
        Case::new("killed during gc", crash::killed_during_gc),
        Case::new("wrong bytes", wrong::wrong_bytes),
        Case::new("answers that are cut short", wrong::cut_short),
    ]
}
