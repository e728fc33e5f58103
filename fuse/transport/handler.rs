//! What a file system is to a session.

use std::fmt;

use crate::answer::Answer;
use crate::operation::{Bulk, Operation};
use crate::request::{Forget, Header};

/// An error number of Linux, positive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

#[allow(missing_docs, reason = "the names are those of errno(3)")]
impl Errno {
    pub const EIO: Errno = Errno(libc::EIO);
    pub const EINVAL: Errno = Errno(libc::EINVAL);
    pub const ENOENT: Errno = Errno(libc::ENOENT);
    pub const ENOSYS: Errno = Errno(libc::ENOSYS);
    pub const ENOTTY: Errno = Errno(libc::ENOTTY);
    pub const EPROTO: Errno = Errno(libc::EPROTO);
    pub const EOVERFLOW: Errno = Errno(libc::EOVERFLOW);
    pub const ERANGE: Errno = Errno(libc::ERANGE);
}

impl Errno {
    /// Of a number from errno(3); what the kernel would not take from a file system (zero,
    /// negative, 512 and above) is EIO.
    pub const fn new(number: i32) -> Errno {
        if number > 0 && number < 512 { Errno(number) } else { Errno(libc::EIO) }
    }

    /// The number.
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

/// A file system, as a session calls it. Calls come from several threads at once and may block:
/// a session adds threads while all are busy.
pub trait Handler: Send + Sync + 'static {
    /// Answers any request but those of [`Bulk`].
    fn call(&self, header: &Header, operation: Operation<'_>) -> Answer;

    /// Answers a request for bulk data: fills `out` from its start, says how far. What `out`
    /// holds before is rubbish of earlier requests, and must not be counted in.
    fn fill(&self, header: &Header, bulk: Bulk, out: &mut [u8]) -> Result<usize, Errno>;

    /// The kernel let go of nodes.
    fn forget(&self, forgotten: &[Forget]);

    /// Whoever waits for the request `unique` got a signal. The request is to be answered soon,
    /// with EINTR if it has not been done; it may have been answered already.
    fn interrupt(&self, unique: u64) {
        let _ = unique;
    }
}
