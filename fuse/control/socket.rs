//! Unix sockets at paths of any length. A socket address holds 107 bytes; going through a
//! descriptor of the folder keeps it short without touching the process's own folder.

use std::fs::{File, Permissions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Runs `call` with a short name of `path`.
fn with_short_name<T>(path: &Path, call: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket needs a folder and a name"));
    };
    let folder = File::open(folder)?;
    let mut short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    short.push(name);
    call(&short)
}

/// Listens at `path`, for the owner only, replacing what stands there.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Until the mode is set, the folder's own mode keeps others away.
    let listener = with_short_name(path, |short| UnixListener::bind(short))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the listener at `path`.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    with_short_name(path, |short| UnixStream::connect(short))
}

/// Reads one line of at most `max` bytes; `None` if the other side said nothing.
pub(super) fn read_line(stream: &UnixStream, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    BufReader::new(stream).take(max).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() as u64 == max => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message is longer than {max} bytes")))
        }
        Some(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a message ends before its line does")),
    }
}
