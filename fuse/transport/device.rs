//! The classic transport: requests are read from /dev/fuse, replies written to it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno as Os;

use crate::abi::{IN_HEADER, OUT_HEADER, opcode};
use crate::crew::Crew;
use crate::dispatch::{finish, take};
use crate::request::{Header, Request};
use crate::ring::sys::Pages;
use crate::session::Shared;
use crate::write::Writer;

/// Threads that stay though all of them wait: one to read while another works.
const KEPT: usize = 2;
/// Transfers above this are given back to the system at once by threads that may leave, in bytes.
const LARGE: usize = 64 << 10;

/// Pause after FORGETs where requests go by rings. The kernel gathers more of them meanwhile,
/// and wakes nobody for each: unlinking many files would otherwise wake this thread, on another
/// processor, for every one of them.
const GATHERING: Duration = Duration::from_millis(2);

/// Serves the connection from /dev/fuse with a crew of threads that grows while all block.
pub struct DeviceQueue {
    shared: Arc<Shared>,
    crew: Crew,
    beside_rings: bool,
}

/// What `read` on the device tells.
enum Message {
    /// A request of so many bytes.
    Request(usize),
    /// Nothing this time.
    Again,
    /// The connection is over.
    Gone,
}

impl DeviceQueue {
    /// Starts serving with `threads` threads, at most `most`.
    pub fn start(shared: &Arc<Shared>, threads: usize, most: usize) -> io::Result<()> {
        DeviceQueue::launch(shared, threads, most, false)
    }

    /// Starts serving what does not go by rings.
    pub fn start_beside_rings(shared: &Arc<Shared>, most: usize) -> io::Result<()> {
        DeviceQueue::launch(shared, 1, most, true)
    }

    fn launch(shared: &Arc<Shared>, threads: usize, most: usize, beside_rings: bool) -> io::Result<()> {
        let crew = Crew::new(most.max(threads), 1);
        let queue = Arc::new(DeviceQueue { shared: Arc::clone(shared), crew, beside_rings });
        for _ in 0..threads.max(1) {
            queue.grow(false)?;
        }
        Ok(())
    }

    /// Adds a thread, if there may be one more. One that is `spare` leaves when it is not needed.
    fn grow(self: &Arc<Self>, spare: bool) -> io::Result<()> {
        if self.crew.join().is_none() {
            return Ok(());
        }
        let queue = Arc::clone(self);
        let started = self.shared.life.spawn("fuse-device".to_owned(), move || {
            let served = queue.serve(spare);
            if served.is_err() || !spare {
                queue.crew.leave();
            }
            served
        });
        if started.is_err() {
            self.crew.leave();
        }
        started
    }

    /// Serves until the connection is over. A spare thread has given its place back when it
    /// returns without an error.
    fn serve(self: &Arc<Self>, spare: bool) -> io::Result<()> {
        let own = clone_device(&self.shared.device);
        let device: &OwnedFd = own.as_ref().unwrap_or(&self.shared.device);
        // The request's, then its reply's; takes up memory only as far as it is used.
        let mut buffer = Pages::new(self.shared.agreed.payload() + 4096)?;
        loop {
            let len = match read_message(device, buffer.bytes_mut())? {
                Message::Request(len) => len,
                Message::Again => continue,
                Message::Gone => {
                    if spare {
                        self.crew.leave();
                    }
                    return Ok(());
                }
            };
            if self.crew.begin() && self.grow(true).is_err() {
                log::warn!("no further thread could be started for requests; they may wait for one another");
            }
            let answered = self.answer(device, len, buffer.bytes_mut());
            self.crew.end();
            let (used, forgot) = answered?;
            if spare && used.max(len) > LARGE {
                buffer.release();
            }
            if forgot && self.beside_rings {
                std::thread::sleep(GATHERING);
            }
            if spare && self.crew.leave_if_idle(KEPT) {
                return Ok(());
            }
        }
    }

    /// Answers the message in the first `len` bytes of `buffer`; tells how many bytes the reply
    /// used, and whether it was a FORGET.
    fn answer(&self, device: &OwnedFd, len: usize, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        let message = buffer.get(..len).unwrap_or_default();
        let header = Header::parse(message).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let handler = &*self.shared.handler;
        let turn = take(handler, Request::from_message(message), header);
        let room = buffer.get_mut(..self.shared.agreed.payload()).unwrap_or_default();
        let Some(encoded) = finish(handler, turn, room) else {
            return Ok((0, matches!(header.opcode, opcode::FORGET | opcode::BATCH_FORGET)));
        };
        let body = room.get(..encoded.len).unwrap_or_default();
        match write_reply(device, header.unique, encoded.error, body) {
            Ok(()) => {}
            // Whoever asked was killed meanwhile, or the connection is over: the next read tells.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
            // The kernel refuses the reply itself and has answered the caller with an error.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                log::error!("the kernel refused a reply to {header:?}: {error}");
            }
            Err(error) => return Err(error),
        }
        Ok((encoded.len, false))
    }
}

/// Reads one message.
fn read_message(device: impl AsFd, input: &mut [u8]) -> io::Result<Message> {
    match rustix::io::read(device, input) {
        Ok(len) if len >= IN_HEADER => Ok(Message::Request(len)),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        // ENOENT: the request was taken back.
        Err(Os::INTR | Os::AGAIN | Os::NOENT) => Ok(Message::Again),
        Err(Os::NODEV | Os::CONNABORTED) => Ok(Message::Gone),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads the message with which a connection begins; `None` if it is over before.
pub fn read_first(device: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    let mut input = vec![0; crate::abi::MIN_READ_BUFFER];
    loop {
        match read_message(&device, &mut input)? {
            Message::Request(len) => {
                input.truncate(len);
                return Ok(Some(input));
            }
            Message::Again => {}
            Message::Gone => return Ok(None),
        }
    }
}

/// Writes a reply, or with number 0 a notification, whose code goes where the error would.
pub fn write_reply(device: impl AsFd, unique: u64, error: i32, body: &[u8]) -> io::Result<()> {
    let mut head = [0; OUT_HEADER];
    Writer::new(&mut head).u32((OUT_HEADER + body.len()) as u32).u32(error as u32).u64(unique);
    loop {
        match rustix::io::writev(&device, &[IoSlice::new(&head), IoSlice::new(body)]) {
            Ok(_) => return Ok(()),
            Err(Os::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A further descriptor of the same connection, which spares threads a shared lock. `None` where
/// it can't be had, as for an ordinary user who may not open the device: the one there is serves, too.
fn clone_device(device: &OwnedFd) -> Option<OwnedFd> {
    let own = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()?;
    crate::ring::sys::clone_device(&own, device).ok()?;
    Some(own)
}
