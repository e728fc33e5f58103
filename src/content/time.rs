//! Milliseconds from the kernel's clock, for ages and pauses. The clock may be set back; all
//! that hangs on it here are delays.

use nexus_kernel::Clock;

/// Milliseconds since 1970.
pub fn now_ms(clock: &dyn Clock) -> u64 {
    let now = clock.now();
    u64::try_from(now.sec).unwrap_or(0).saturating_mul(1_000).saturating_add(u64::from(now.nsec / 1_000_000))
}
