//! The FUSE protocol of Linux, and the transports that carry it. Knows nothing of Nexus: a
//! file system is a [`Handler`], which gets parsed and checked [`Operation`]s and gives
//! [`Answer`]s; a [`Session`] serves one mounted connection with it.
//!
//! - [`abi`]: the numbers of `linux/fuse.h`.
//! - [`Operation`], [`Bulk`]: requests, every length checked; [`Answer`]: replies.
//! - [`Session`]: the handshake and the threads, over `/dev/fuse` ([`Transport::Device`]) or
//!   over io_uring ([`Transport::Ring`]).
//! - [`Notifier`]: what the file system tells the kernel unasked.
//!
//! Mounting is not here: a session starts with the descriptor of a connection.

pub mod abi;
mod answer;
mod attr;
mod crew;
mod device;
mod dispatch;
#[cfg(test)]
mod fuzz_tests;
mod handler;
mod init;
mod listing;
mod notify;
mod operation;
mod read;
mod request;
mod ring;
mod session;
#[cfg(test)]
mod testing;
mod write;

pub use answer::{Answer, Opened};
pub use attr::{Attr, Entry, FsStat, Time};
pub use handler::{Errno, Handler};
pub use init::Settings;
pub use listing::{Listing, ListingEntry};
pub use notify::Notifier;
pub use operation::{Bulk, CopyRange, Fallocate, FileLock, LockRequest, Operation, SetAttr, SetTime, XattrSet};
pub use request::{Forget, Header, ParseError};
pub use session::{Choice, Session, SessionError, Transport};
