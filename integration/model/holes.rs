//! Where a file says it has data and holes. Two file systems may rightly differ, so each is
//! held against its own content: a hole reads as zeros, and the walk covers the file.

use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::{Errno, pread};

use crate::model::side::Reply;

/// Most steps of one walk: more would be a loop.
const MAX_STEPS: u64 = 100_000;
/// Longest hole that is read through whole.
const MAX_READ: u64 = 8 << 20;

/// Walks an open regular file. Leaves the descriptor's offset where it was.
pub fn check(fd: impl AsFd) -> Result<Reply, Errno> {
    let fd = fd.as_fd();
    let old = seek(fd, SeekFrom::Current(0))?;
    let reply = walk(fd);
    seek(fd, SeekFrom::Start(old))?;
    reply
}

fn walk(fd: impl AsFd) -> Result<Reply, Errno> {
    let fd = fd.as_fd();
    let size = fstat(fd)?.st_size as u64;
    let mut at = 0;
    for _ in 0..MAX_STEPS {
        if at >= size {
            return Ok(at_end(seek(fd, SeekFrom::Data(size)), seek(fd, SeekFrom::Hole(size))));
        }
        let data = match seek(fd, SeekFrom::Data(at)) {
            Ok(data) if data < at || data >= size => {
                return Ok(Reply::Absurd(format!("data after {at} is at {data}, size {size}")));
            }
            Ok(data) => data,
            Err(Errno::NXIO) => size,
            Err(errno) => return Err(errno),
        };
        if let Some(wrong) = first_nonzero(fd, at, data)? {
            return Ok(Reply::Absurd(format!("there is data at {wrong}, in the hole from {at} to {data}")));
        }
        if data == size {
            return Ok(Reply::Done);
        }
        let hole = seek(fd, SeekFrom::Hole(data))?;
        if hole <= data || hole > size {
            return Ok(Reply::Absurd(format!("the hole after data at {data} is at {hole}, size {size}")));
        }
        at = hole;
    }
    Ok(Reply::Absurd(format!("more than {MAX_STEPS} pieces")))
}

fn at_end(data: Result<u64, Errno>, hole: Result<u64, Errno>) -> Reply {
    match (data, hole) {
        (Err(Errno::NXIO), Err(Errno::NXIO)) => Reply::Done,
        other => Reply::Absurd(format!("seeking from the end answers {other:?}")),
    }
}

fn first_nonzero(fd: impl AsFd, from: u64, to: u64) -> Result<Option<u64>, Errno> {
    let end = to.min(from + MAX_READ);
    let mut at = from;
    let mut buffer = Vec::with_capacity(256 << 10);
    while at < end {
        buffer.clear();
        let count = pread(fd.as_fd(), rustix::buffer::spare_capacity(&mut buffer), at)? as u64;
        let found = buffer.iter().position(|byte| *byte != 0).map(|position| at + position as u64);
        if let Some(position) = found.filter(|position| *position < end) {
            return Ok(Some(position));
        }
        if count == 0 {
            break;
        }
        at += count;
    }
    Ok(None)
}
