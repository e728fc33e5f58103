//! One entry of a ring: the buffers that a request comes in and its reply goes out by, and the
//! two commands that the kernel takes about it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};

use super::sys::Pages;
use crate::abi;
use crate::answer::Encoded;
use crate::device::write_reply;
use crate::request::{Header, ParseError, Request};
use crate::write::Writer;

/// How long a thread keeps the memory of large transfers without work.
const PATIENCE: Duration = Duration::from_secs(1);
/// In the numbers of requests that entries ask for; the kernel's own do not come so far.
const NUDGE: u64 = 1 << 62;
/// How many were asked for.
static NUDGES: AtomicU32 = AtomicU32::new(0);

/// A ring with one entry, which belongs to the thread that made it. The ring goes first when it
/// is dropped: then the kernel knows the buffers no more.
pub struct RingEntry {
    ring: IoUring<Entry128, cqueue::Entry>,
    queue: u16,
    commit_id: u64,
    /// What the kernel is told of the buffers: two `struct iovec`.
    vectors: Box<[libc::iovec; 2]>,
    header: Pages,
    payload: Pages,
}

impl RingEntry {
    /// A ring of this thread's for `queue`, with room for `payload` bytes. Nothing else may use
    /// it, and only this thread.
    pub fn new(queue: u16, payload: usize) -> io::Result<RingEntry> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(2)?;
        let mut header = Pages::new(4096)?;
        let mut payload = Pages::new(payload)?;
        let vector = |base: &mut [u8]| libc::iovec { iov_base: base.as_mut_ptr().cast(), iov_len: base.len() };
        let head = header.bytes_mut().get_mut(..abi::RING_HEADER).unwrap_or_default();
        let vectors = Box::new([vector(head), vector(payload.bytes_mut())]);
        Ok(RingEntry { ring, queue, commit_id: 0, vectors, header, payload })
    }

    /// Makes the entry known to the connection and waits for its first request.
    ///
    /// Requests that found no free entry wait in the kernel's queue until one of the queue's
    /// entries is given back with a reply; a new entry does not fetch them. One that comes late
    /// therefore asks for a request of its own: a notification that the kernel answers by a
    /// request in the queue of the processor on which it is sent. It has to be about a regular
    /// file that the kernel knows, `nudge`.
    pub fn register(&mut self, device: &OwnedFd, nudge: Option<u64>) -> io::Result<()> {
        self.push(device, abi::RING_REGISTER)?;
        if let Some(node) = nudge {
            self.ring.submit()?;
            let unique = NUDGE | (u64::from(NUDGES.fetch_add(1, Ordering::Relaxed)) << 1);
            // fuse_notify_retrieve_out: no bytes of the file's content.
            let mut body = [0; 32];
            Writer::new(&mut body).u64(unique).u64(node);
            // If the connection is over, the wait below tells. If the file has gone, so has its
            // request, and with its reply it fetched the next one.
            let _ = write_reply(device, 0, abi::notify::RETRIEVE, &body);
        }
        self.wait(None)
    }

    /// Sends the reply and waits for the next request; after a `large` transfer gives the buffer's
    /// memory back when none comes for a while.
    pub fn reply(&mut self, device: &OwnedFd, unique: u64, encoded: Encoded, large: bool) -> io::Result<()> {
        let bytes = self.header.bytes_mut();
        let mut head = Writer::new(bytes);
        head.u32((abi::OUT_HEADER + encoded.len) as u32).u32(encoded.error as u32).u64(unique);
        if let Some(size) = bytes.get_mut(abi::RING_ENTRY_AT + 16..abi::RING_ENTRY_AT + 20) {
            size.copy_from_slice(&(encoded.len as u32).to_ne_bytes());
        }
        self.push(device, abi::RING_COMMIT_AND_FETCH)?;
        self.wait(large.then_some(PATIENCE))
    }

    /// The request that has come, and the header of it.
    pub fn request(&mut self) -> Result<(Header, Result<Request<'_>, ParseError>), ParseError> {
        let head = self.header.bytes();
        let mut tie = crate::read::Reader::new(head.get(abi::RING_ENTRY_AT..).unwrap_or_default());
        let (_flags, commit_id, len) = (tie.u64()?, tie.u64()?, tie.u32()?);
        self.commit_id = commit_id;
        let header = Header::parse(head)?;
        let payload = self.payload.bytes().get(..len as usize).ok_or(ParseError::Length);
        Ok((header, payload.and_then(|payload| Request::from_ring(head, payload))))
    }

    /// Where the answer's body goes.
    pub fn answer_room(&mut self) -> &mut [u8] {
        self.payload.bytes_mut()
    }

    #[allow(unsafe_code, reason = "a submission names memory by its address")]
    fn push(&mut self, device: &OwnedFd, command: u32) -> io::Result<()> {
        // struct fuse_uring_cmd_req: flags, commit_id, qid.
        let mut request = [0; 80];
        Writer::new(&mut request).u64(0).u64(self.commit_id).u16(self.queue);
        let vectors = self.vectors.as_ptr() as u64;
        let mut entry =
            opcode::UringCmd80::new(types::Fd(device.as_raw_fd()), command).cmd(request).addr(Some(vectors)).build();
        // SAFETY: `struct io_uring_sqe` has its `len` at byte 24 (linux/io_uring.h); the crate has
        // no setter for it. The entry is larger than that, and not shared.
        unsafe { (&raw mut entry).cast::<u32>().byte_add(24).write(self.vectors.len() as u32) };
        // SAFETY: the memory that the entry names, the vectors and through them both buffers,
        // lives as long as the ring.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::Error::other("the ring is full"))
    }

    /// Waits for the completion of the last command: a request has come, or it failed. Nothing
    /// for `patience`, and the buffer's memory is given back: the kernel fills it only while this
    /// thread waits.
    fn wait(&mut self, patience: Option<Duration>) -> io::Result<()> {
        let mut patience = patience.map(types::Timespec::from);
        loop {
            let waited = match &patience {
                None => self.ring.submit_and_wait(1),
                Some(limit) => self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(limit)),
            };
            if let Some(done) = self.ring.completion().next() {
                return match done.result() {
                    0.. => Ok(()),
                    error => Err(io::Error::from_raw_os_error(-error)),
                };
            }
            match waited {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ETIME) => {
                    self.payload.release();
                    patience = None;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
