//! What a server refused: counted for each reason, logged at most once in ten seconds each.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often a reason is logged at most.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Declares the reasons, each with its text.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why something was refused.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Reason] = &[$(Reason::$name),*];

            /// What a log and a table of figures call it.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// More connections than the server takes, or than it takes of strangers.
    TooManyConnections = "too many connections",
    /// No TLS of ours, or none that was done in time.
    Handshake = "no TLS handshake",
    /// A handshake for a zone or member that is not here.
    WrongName = "wrong server name",
    /// A certificate that is not of the zone's CA.
    BadCertificate = "bad certificate",
    /// A certificate that is not valid any more, at the handshake or since.
    Expired = "expired certificate",
    /// A request that needs a certificate, on a connection without.
    NoCertificate = "no certificate",
    /// A certificate that is a member's no more.
    Revoked = "revoked certificate",
    /// A request for another zone than the connection's.
    OtherZone = "request for another zone",
    /// A zone that is no longer here.
    ZoneGone = "zone gone",
    /// A request of a version that this build does not know.
    Version = "unknown protocol version",
    /// A message with a field that cannot be.
    Malformed = "malformed message",
    /// A message beyond its limit.
    TooLarge = "message too large",
    /// More requests at once than the node takes.
    Busy = "too many requests",
    /// An answer or a message of a stream that took too long.
    Timeout = "timed out",
}

#[derive(Default)]
struct Logged {
    at: Option<Instant>,
    since: u64,
}

/// Counters, one for each [`Reason`].
pub struct Refusals {
    slots: Vec<(AtomicU64, Mutex<Logged>)>,
}

impl Default for Refusals {
    fn default() -> Self {
        Refusals { slots: Reason::ALL.iter().map(|_| Default::default()).collect() }
    }
}

impl Refusals {
    /// How often it was the reason so far.
    pub fn count(&self, reason: Reason) -> u64 {
        self.slots.get(reason as usize).map_or(0, |slot| slot.0.load(Ordering::Relaxed))
    }

    /// Counts one, and logs it if none of its kind was logged of late.
    pub(super) fn note(&self, reason: Reason, who: impl fmt::Display, text: impl fmt::Display) {
        let Some((count, logged)) = self.slots.get(reason as usize) else { return };
        count.fetch_add(1, Ordering::Relaxed);
        let mut logged = logged.lock();
        if logged.at.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            logged.since += 1;
            return;
        }
        let more = std::mem::take(&mut logged.since);
        logged.at = Some(Instant::now());
        drop(logged);
        log::warn!("refused {who}: {}: {text} ({more} more since the last)", reason.as_str());
    }
}
