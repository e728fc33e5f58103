//! Limits of stores as people write them, and what a volume does with them.

use std::fmt;
use std::str::FromStr;

use nexus_drivers::object_store::Limiter;
pub use nexus_drivers::object_store::StoreLimits;
use nexus_kernel::StoreId;

use crate::boot::Volume;
use crate::config::ByteSize;
use crate::error::{Error, Result};

/// Slowest rate that is taken: below it, requests would wait for hours.
const MIN_RATE: u64 = 1 << 10;
/// How no limit is written.
const NONE: &str = "none";

/// Bytes a second, as people write it: `10M`, `512K/s`, or `none` for no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate(pub Option<u64>);

/// Requests at once, or `none` for no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count(pub Option<u32>);

/// Limits of which some are said anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LimitsChange {
    /// Requests at once.
    pub max_requests: Option<Count>,
    /// Bytes sent a second.
    pub upload: Option<Rate>,
    /// Bytes fetched a second.
    pub download: Option<Rate>,
}

impl LimitsChange {
    /// What holds after the change.
    pub fn over(self, before: StoreLimits) -> StoreLimits {
        StoreLimits {
            max_requests: self.max_requests.map_or(before.max_requests, |count| count.0),
            upload: self.upload.map_or(before.upload, |rate| rate.0),
            download: self.download.map_or(before.download, |rate| rate.0),
        }
    }

    /// Whether nothing is said.
    pub fn is_empty(self) -> bool {
        self == LimitsChange::default()
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Rate, String> {
        if text == NONE {
            return Ok(Rate(None));
        }
        let bytes: ByteSize = text.strip_suffix("/s").unwrap_or(text).parse()?;
        if bytes.0 < MIN_RATE {
            return Err(format!("{text:?} a second is too slow: give 1K or more, or none for no limit"));
        }
        Ok(Rate(Some(bytes.0)))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // Exactly, so that it can be read back.
            Some(rate) => write!(f, "{rate}"),
            None => f.write_str(NONE),
        }
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Count, String> {
        match text.parse() {
            _ if text == NONE => Ok(Count(None)),
            Ok(count @ 1..=10_000) => Ok(Count(Some(count))),
            _ => Err(format!("{text:?} is no number of requests: give 1 to 10000, or none for no limit")),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(count) => count.fmt(f),
            None => f.write_str(NONE),
        }
    }
}

impl Volume {
    /// The limits of a store; none for one that has no requests.
    pub fn limits(&self, id: StoreId) -> StoreLimits {
        self.limiters.lock().get(&id).map(|limiter| limiter.limits()).unwrap_or_default()
    }

    /// Changes limits of a store, from now on and for all later mounts; answers what holds now.
    pub fn set_limits(&self, name: &str, change: LimitsChange) -> Result<StoreLimits> {
        let mut stores = self.stores.lock();
        let id = self.store_id(&stores, name)?;
        let limiter = self.limiters.lock().get(&id).cloned().ok_or_else(|| Error::Setting {
            place: format!("store {name}"),
            problem: "its content is in the data folder, where no requests are made: there is nothing to limit"
                .to_owned(),
        })?;
        let limits = change.over(limiter.limits());
        stores.set_limits(id, limits)?;
        limiter.set(limits);
        Ok(limits)
    }
}

/// The part of a volume that lets requests begin, for one store.
pub(crate) type SharedLimiter = std::sync::Arc<Limiter>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_written() {
        for (text, rate) in [("none", None), ("1K", Some(1024)), ("10M/s", Some(10 << 20)), ("2000", Some(2000))] {
            assert_eq!(text.parse(), Ok(Rate(rate)), "{text}");
            assert_eq!(Rate(rate).to_string().parse(), Ok(Rate(rate)));
        }
        for text in ["", "0", "1023", "fast", "1M/h", "-1"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!(("none".parse(), "7".parse()), (Ok(Count(None)), Ok(Count(Some(7)))));
        for text in ["0", "10001", "", "many"] {
            assert!(text.parse::<Count>().unwrap_err().contains("1 to 10000"), "{text}");
        }
    }

    #[test]
    fn a_change_leaves_what_it_does_not_say() {
        let before = StoreLimits { max_requests: Some(4), upload: Some(5000), download: None };
        assert_eq!(LimitsChange::default().over(before), before);
        let change = LimitsChange { upload: Some(Rate(None)), download: Some(Rate(Some(9000))), max_requests: None };
        assert_eq!(change.over(before), StoreLimits { max_requests: Some(4), upload: None, download: Some(9000) });
        assert!(!change.is_empty() && LimitsChange::default().is_empty());
    }
}
