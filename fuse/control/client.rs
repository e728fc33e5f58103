//! The command line's side: one request, one answer.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{MAX_REPLY_BYTES, Reply, ReplyLine, Request, RequestLine, VERSION, VersionOnly};
use super::socket;

/// Where a daemon listens.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no daemon answers at {}", .0.display())]
    NobodyThere(PathBuf),
    /// The socket belongs to somebody else.
    #[error("the daemon of {} belongs to another user", .0.display())]
    NotOurs(PathBuf),
    /// The conversation broke off.
    #[error("talking to the daemon at {}: {error}", socket.display())]
    Io {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
}

impl Client {
    /// The daemon that listens at `socket`.
    pub fn new(socket: &Path) -> Client {
        Client { socket: socket.to_owned() }
    }

    /// Asks, and waits at most `patience` for the answer.
    pub fn ask(&self, request: &Request, patience: Duration) -> Result<Reply, ControlError> {
        let failed = |error: io::Error| ControlError::Io { socket: self.socket.clone(), error };
        let mut stream = socket::connect(&self.socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
                ControlError::NobodyThere(self.socket.clone())
            }
            io::ErrorKind::PermissionDenied => ControlError::NotOurs(self.socket.clone()),
            _ => failed(error),
        })?;
        stream.set_read_timeout(Some(patience)).map_err(failed)?;
        stream.set_write_timeout(Some(patience)).map_err(failed)?;
        let mut line = serde_json::to_vec(&RequestLine { version: VERSION, request: request.clone() })
            .map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        stream.write_all(&line).map_err(failed)?;
        let line = match socket::read_line(&stream, MAX_REPLY_BYTES) {
            Ok(Some(line)) => line,
            Ok(None) => {
                return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up without an answer")));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(failed(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {} seconds", patience.as_secs()),
                )));
            }
            Err(error) => return Err(failed(error)),
        };
        let bad = |error: serde_json::Error| failed(error.into());
        let VersionOnly { version } = serde_json::from_slice(&line).map_err(bad)?;
        if version != VERSION {
            return Err(ControlError::Refused(format!(
                "the daemon speaks version {version} of the control protocol, this nexus-fuse version {VERSION}"
            )));
        }
        let line: ReplyLine = serde_json::from_slice(&line).map_err(bad)?;
        match (line.reply, line.error) {
            (Some(reply), None) => Ok(reply),
            (_, Some(error)) => Err(ControlError::Refused(error)),
            (None, None) => Err(failed(io::Error::new(io::ErrorKind::InvalidData, "the answer is empty"))),
        }
    }
}
