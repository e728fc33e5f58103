//! The transport over io_uring: one queue for each processor, its threads pinned there, so that
//! a request is answered on the processor where it was asked and nobody wakes another one.
//!
//! A queue has several threads, each with a ring of its own and one entry in it. The kernel
//! gives a request to the entry that became free last, so one thread does the work of a caller
//! that waits for each answer, and its caches stay warm; a thread that blocks in the handler
//! has no free entry, so it holds nobody up. FORGET, INTERRUPT and notifications stay on
//! /dev/fuse, which the kernel keeps serving beside the rings.

mod entry;
pub mod sys;

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue};
use rustix::thread::CpuSet;

use self::entry::RingEntry;
use crate::abi::opcode;
use crate::answer::Encoded;
use crate::crew::Crew;
use crate::dispatch::{finish, take};
use crate::request::ParseError;
use crate::session::Shared;

/// Memory that payload buffers of all queues may fill, in bytes.
const PAYLOAD_BUDGET: usize = 64 << 20;
/// Most threads of a queue; beyond, requests wait in the kernel.
const MOST_THREADS: usize = 64;
/// Threads of a queue that wait for work while others are at it.
const SPARE: usize = 2;
/// Bytes of a transfer after which a thread that finds no more work gives its buffer's memory back.
const LARGE: usize = 64 << 10;

/// The threads of one processor.
struct RingQueue {
    shared: Arc<Shared>,
    cpu: u16,
    crew: Crew,
    /// The last regular file that a request was about; 0 for none yet.
    regular: AtomicU64,
}

/// Whether this process may make rings as they are needed here. Sandboxes and the sysctl
/// `kernel.io_uring_disabled` may forbid it.
pub fn available() -> io::Result<()> {
    let ring: io::Result<IoUring<Entry128, cqueue::Entry>> =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(2);
    ring.map(drop)
}

/// Starts a queue for each processor there can be. They are of use once all have a thread;
/// the kernel holds requests back until then.
pub fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let cpus = possible_cpus()?;
    let most = (PAYLOAD_BUDGET / shared.agreed.payload() / usize::from(cpus)).clamp(4, MOST_THREADS);
    for cpu in 0..cpus {
        let queue = Arc::new(RingQueue {
            shared: Arc::clone(shared),
            cpu,
            crew: Crew::new(most, SPARE),
            regular: AtomicU64::new(0),
        });
        queue.grow()?;
    }
    Ok(())
}

impl RingQueue {
    fn grow(self: &Arc<Self>) -> io::Result<()> {
        let Some(others) = self.crew.join() else { return Ok(()) };
        let queue = Arc::clone(self);
        let started = self.shared.life.spawn(format!("fuse-ring-{}", self.cpu), move || {
            let served = queue.serve(others > 0);
            queue.crew.leave();
            served
        });
        if started.is_err() {
            self.crew.leave();
        }
        started
    }

    /// Serves until the connection is over. An entry can't be taken back from the kernel before,
    /// so a queue only grows.
    fn serve(self: &Arc<Self>, late: bool) -> io::Result<()> {
        pin(self.cpu);
        let mut entry = RingEntry::new(self.cpu, self.shared.agreed.payload())?;
        let device = &*self.shared.device;
        let node = self.regular.load(Ordering::Relaxed);
        let mut arrived = entry.register(device, (late && node != 0).then_some(node));
        loop {
            match arrived {
                Ok(()) => {}
                Err(error) if is_over(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            self.note(&mut entry)?;
            if self.crew.begin() && self.grow().is_err() {
                log::warn!("no further thread could be started for requests; they may wait for one another");
            }
            let (unique, encoded, moved) = self.answer(&mut entry)?;
            self.crew.end();
            arrived = entry.reply(device, unique, encoded, moved > LARGE);
        }
    }

    /// Remembers a regular file that the kernel is busy with.
    fn note(&self, entry: &mut RingEntry) -> io::Result<()> {
        let (header, _) = entry.request().map_err(malformed)?;
        if matches!(header.opcode, opcode::READ | opcode::WRITE) {
            self.regular.store(header.node, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Answers the request that has come: its number, the reply, and how many bytes of the
    /// buffer it used.
    fn answer(&self, entry: &mut RingEntry) -> io::Result<(u64, Encoded, usize)> {
        let handler = &*self.shared.handler;
        let (header, request) = entry.request().map_err(malformed)?;
        let came = request.as_ref().map_or(0, |request| request.payload.len());
        let turn = take(handler, request, header);
        // A request that wants no reply still has to give its entry back.
        let encoded = finish(handler, turn, entry.answer_room()).unwrap_or(Encoded { error: 0, len: 0 });
        Ok((header.unique, encoded, came.max(encoded.len)))
    }
}

fn malformed(error: ParseError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Whether an error only says that the mount is gone.
fn is_over(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::ENODEV))
}

/// Keeps this thread on `cpu`. A processor that is off or not for us has a queue without
/// requests, so it does not matter where its thread sleeps.
fn pin(cpu: u16) {
    let mut set = CpuSet::new();
    if usize::from(cpu) < CpuSet::MAX_CPU {
        set.set(usize::from(cpu));
        if let Err(errno) = rustix::thread::sched_setaffinity(None, &set) {
            log::debug!("a queue's thread is not pinned to processor {cpu}: {errno}");
        }
    }
}

/// Processors there can be, by the kernel's reckoning.
fn possible_cpus() -> io::Result<u16> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    parse_cpus(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("processors: {text}")))
}

/// One more than the last number of a list such as `0-3,8-11`.
fn parse_cpus(list: &str) -> Option<u16> {
    let last = list.trim().rsplit(['-', ',']).next()?;
    last.parse::<u16>().ok()?.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(parse_cpus("0-1\n"), Some(2));
        assert_eq!(parse_cpus("0"), Some(1));
        assert_eq!(parse_cpus("0-3,8-11\n"), Some(12));
        assert_eq!(parse_cpus(""), None);
    }
}
