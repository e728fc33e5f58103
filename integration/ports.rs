//! Ports for what is started, ended and started again where it was: nobody else takes them meanwhile, neither
//! another process of these suites nor, as they lie below those, the kernel for a connection of its own.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

use crate::failure::{Check, fail};

const RANGE: Range<u16> = 20_000..30_000;

/// What says to other processes that a port is taken, until this one ends.
static TAKEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A port of this host that is this process's from now on.
pub fn own() -> Check<u16> {
    for port in RANGE {
        let name = SocketAddr::from_abstract_name(format!("nexus-suite-port-{port}"))?;
        let Ok(claim) = UnixListener::bind_addr(&name) else { continue };
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    fail!("no port is free between {} and {}", RANGE.start, RANGE.end)
}

/// Such a port, behind this host's address.
pub fn address() -> Check<String> {
    Ok(format!("{}:{}", Ipv4Addr::LOCALHOST, own()?))
}
