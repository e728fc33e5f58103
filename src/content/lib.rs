//! File content on local disk: segments that take writes, sealed blobs in an object store,
//! the read path over both, garbage collection and the checker. It knows nothing of FUSE or
//! of names; what maps content to files is metadata, reached through [`nexus_kernel::Zone`].
//!
//! A write goes `SegmentStore::write` → a lane (`lanes`) reserves a range of an open segment
//! → pwrite. Later the segment is closed, sealed into the object store, and, when too little
//! of it is live, emptied and dropped by the [`Reclaimer`].

mod check;
mod config;
mod metadata;
mod reclaim;
mod repair;
mod store;
#[cfg(test)]
mod testing;
mod time;
#[cfg(test)]
mod volume_tests;
mod zones;

pub use check::{CheckSummary, Finding, NO_FILE, Reading, Scope, Severity, check, check_state};
pub use config::{ContentConfig, ReclaimConfig};
pub use reclaim::{Garbage, Migrated, Progress, ReclaimHandle, Reclaimer, Scrubbed};
pub use repair::{RepairPlan, plan_repair};
pub use store::{Cursor, Residency, RoomPolicy, SegmentStore, StoreShape, WhenFull};
pub use zones::{Held, ZoneSet, is_own};
