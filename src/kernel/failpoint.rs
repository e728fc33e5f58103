//! Steps at which a test can have the process killed: what is on disk and in stores then is
//! what a crash right there would leave.
//!
//! `NEXUS_FAILPOINT=NAME` ends the process on the spot, with nothing written or closed, when it comes to the step of that
//! name for the first time, `NAME:3` for the third time; only in builds with debug assertions.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The steps: first in the order in which a blob meets them.
pub const STEPS: [&str; 14] = [
    // A segment's object is in a store that is far away, and its checksums are nowhere.
    "seal.sent",
    // Its checksums are written.
    "seal.summed",
    // Both are, and a cache has its local file.
    "seal.stored",
    // Its local file is gone from where it was written; the metadata is not told.
    "seal.moved",
    // The metadata is told.
    "seal.told",
    // Live parts of a sparse or small blob, or of one that is migrated, are copied into a segment for a store
    // that is far away, which was not sent yet.
    "relocate.loaded",
    // They are copied, and where they are to be; the metadata is not told.
    "relocate.copied",
    // It is.
    "relocate.told",
    // The metadata has forgotten a dead blob.
    "drop.told",
    // A dead blob's local file is gone, its object is not.
    "delete.began",
    // Its object is gone, its checksums are not.
    "delete.stored",
    // A blob was thrown out of the cache.
    "cache.evicted",
    // A directory that is shared is in its zone as a copy; it is not in place.
    "share.filled",
    // It is.
    "share.mounted",
];

struct Armed {
    name: String,
    left: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Comes to a step.
pub fn reach(name: &str) {
    if !cfg!(debug_assertions) {
        return;
    }
    debug_assert!(STEPS.contains(&name), "{name} is not among the steps");
    let armed = ARMED.get_or_init(|| parse(&std::env::var("NEXUS_FAILPOINT").ok()?));
    if let Some(armed) = armed
        && armed.name == name
        && armed.left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        log::error!("failpoint {name}: the process ends here");
        std::process::abort();
    }
}

fn parse(text: &str) -> Option<Armed> {
    let (name, times) = text.split_once(':').unwrap_or((text, "1"));
    let times: u64 = times.parse().ok().filter(|times| *times > 0)?;
    (!name.is_empty()).then(|| Armed { name: name.to_owned(), left: AtomicU64::new(times) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_may_be_met_some_times_first() {
        let armed = |text: &str| parse(text).map(|armed| (armed.name, armed.left.into_inner()));
        assert_eq!(armed("seal.stored"), Some(("seal.stored".to_owned(), 1)));
        assert_eq!(armed("seal.stored:3"), Some(("seal.stored".to_owned(), 3)));
        for bad in ["", "a:0", "a:x", ":1"] {
            assert_eq!(armed(bad), None, "{bad}");
        }
    }
}
