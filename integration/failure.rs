//! Why a test case did not pass, with the trail of what was being done.

use std::fmt;

/// A case that ends without passing.
#[derive(Clone, PartialEq, Eq)]
pub enum Stop {
    /// It failed, for this reason.
    Failed(String),
    /// It cannot run here, for this reason.
    Skipped(String),
}

/// What checks answer.
pub type Check<T = ()> = Result<T, Stop>;

impl Stop {
    /// The reason.
    pub fn reason(&self) -> &str {
        match self {
            Stop::Failed(reason) | Stop::Skipped(reason) => reason,
        }
    }

    /// The same, with what was being done in front.
    pub fn during(self, what: impl fmt::Display) -> Stop {
        match self {
            Stop::Failed(reason) => Stop::Failed(format!("{what}: {reason}")),
            Stop::Skipped(reason) => Stop::Skipped(reason),
        }
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl<E: std::error::Error> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Failed(error.to_string())
    }
}

/// Adds what was being done to an error.
pub trait During<T> {
    /// Says `what` was being done.
    fn during(self, what: impl fmt::Display) -> Check<T>;
}

impl<T, E: Into<Stop>> During<T> for Result<T, E> {
    fn during(self, what: impl fmt::Display) -> Check<T> {
        self.map_err(|error| error.into().during(what))
    }
}

/// Fails the case, with a formatted reason.
macro_rules! fail {
    ($($reason:tt)*) => { return Err($crate::failure::Stop::Failed(format!($($reason)*))) };
}

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($reason:tt)*) => {
        if !$condition { return Err($crate::failure::Stop::Failed(format!($($reason)*))); }
    };
}

pub(crate) use {ensure, fail};
