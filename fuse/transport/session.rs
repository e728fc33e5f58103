//! A connection that is being served: the handshake, the choice of a transport, the end.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::abi;
use crate::crew::Life;
use crate::device::{DeviceQueue, read_first, write_reply};
use crate::handler::{Errno, Handler};
use crate::init::{Agreed, Offer, Settings};
use crate::notify::Notifier;
use crate::request::{ParseError, Request};
use crate::ring;

/// What carries requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// read and write on /dev/fuse.
    Device,
    /// io_uring, a queue for each processor.
    Ring,
}

impl Transport {
    /// What keeps it from being had here, in words that say what to do, as far as can be told
    /// before anything is mounted.
    pub fn hindrance(self) -> Option<String> {
        if self == Transport::Device {
            return None;
        }
        let state = fs::read_to_string(SWITCH).ok();
        match state.as_deref().map(str::trim) {
            Some("Y") => forbidden(),
            // The module may not be loaded yet.
            None if !Path::new(MODULE).exists() => None,
            state => Some(not_offered(state)),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Device => "device",
            Transport::Ring => "io_uring",
        })
    }
}

/// Which transport is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Choice {
    /// io_uring where the kernel offers it.
    #[default]
    Auto,
    /// This one, or none.
    Only(Transport),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Choice, String> {
        match text {
            "auto" => Ok(Choice::Auto),
            "device" => Ok(Choice::Only(Transport::Device)),
            "io_uring" => Ok(Choice::Only(Transport::Ring)),
            _ => Err("must be auto, device or io_uring".to_owned()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Auto => f.write_str("auto"),
            Choice::Only(transport) => transport.fmt(f),
        }
    }
}

/// Why a connection can't be served.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The mount was gone before it answered.
    #[error("the mount was taken away before the session began")]
    Gone,
    /// The device does not work.
    #[error("the FUSE device: {0}")]
    Device(#[from] io::Error),
    /// The kernel does not speak as it should.
    #[error("the kernel's first FUSE request is malformed: {0}")]
    Malformed(#[from] ParseError),
    /// The kernel is too old, or too new.
    #[error("the kernel speaks version {0}.{1} of the FUSE protocol; 7.31 (Linux 5.2) or a later 7 is needed")]
    Version(u32, u32),
    /// Wanted, and not to be had.
    #[error("this kernel offers no FUSE over io_uring: {0}")]
    NoRing(String),
}

/// Where the kernel shows its FUSE.
const MODULE: &str = "/sys/module/fuse";
/// Where it keeps the switch for FUSE over io_uring.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// What all threads of a session share.
pub struct Shared {
    pub handler: Arc<dyn Handler>,
    pub device: Arc<OwnedFd>,
    pub agreed: Agreed,
    pub life: Arc<Life>,
}

/// A connection that is being served, by threads of its own, until it is unmounted or aborted.
pub struct Session {
    shared: Arc<Shared>,
    transport: Transport,
    why_not_ring: Option<String>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("transport", &self.transport).finish_non_exhaustive()
    }
}

impl Session {
    /// Shakes hands over `device`, a descriptor of a connection that was just mounted, and starts
    /// serving it with `handler`. `threads` is how many begin to read from the device, where no
    /// rings are; there are more of them while all block, up to `most`.
    pub fn start(
        device: OwnedFd,
        handler: Arc<dyn Handler>,
        settings: &Settings,
        choice: Choice,
        threads: usize,
        most: usize,
    ) -> Result<Session, SessionError> {
        let (agreed, why_not_ring) = handshake(&device, settings, choice)?;
        let ring = why_not_ring.is_none();
        let device = Arc::new(device);
        let shared = Arc::new(Shared { handler, device, agreed, life: Arc::default() });
        let transport = if ring { Transport::Ring } else { Transport::Device };
        // With rings the device still brings FORGET and INTERRUPT, and everything should the
        // kernel turn the rings off again.
        if ring {
            DeviceQueue::start_beside_rings(&shared, most)?;
            ring::start(&shared)?;
        } else {
            DeviceQueue::start(&shared, threads, most)?;
        }
        Ok(Session { shared, transport, why_not_ring })
    }

    /// What carries the requests.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Why io_uring does not, in a sentence that says what to do; `None` if it does.
    pub fn why_not_ring(&self) -> Option<&str> {
        self.why_not_ring.as_deref()
    }

    /// What tells the kernel that something changed.
    pub fn notifier(&self) -> Notifier {
        Notifier::new(Arc::clone(&self.shared.device), &self.shared.agreed)
    }

    /// Whether any thread serves it.
    pub fn is_served(&self) -> bool {
        self.shared.life.is_alive()
    }

    /// Waits until the mount is gone and no thread is in the handler; tells what went wrong first.
    pub fn wait(&self) -> Result<(), String> {
        self.shared.life.wait()
    }
}

/// Answers INIT. Beside what was agreed on, why requests will not come over io_uring.
fn handshake(device: &OwnedFd, settings: &Settings, choice: Choice) -> Result<(Agreed, Option<String>), SessionError> {
    loop {
        let message = read_first(device)?.ok_or(SessionError::Gone)?;
        let request = Request::from_message(&message)?;
        let unique = request.header.unique;
        if request.header.opcode != abi::opcode::INIT {
            write_reply(device, unique, -Errno::EIO.number(), &[])?;
            continue;
        }
        let offer = Offer::parse(&request)?;
        if offer.major > abi::VERSION {
            // A newer kernel asks again in the version that it is told.
            write_reply(device, unique, 0, &[abi::VERSION.to_ne_bytes(), [0; 4]].concat())?;
            continue;
        }
        if offer.major < abi::VERSION || offer.minor < abi::MINOR_OLDEST {
            write_reply(device, unique, -Errno::EPROTO.number(), &[])?;
            return Err(SessionError::Version(offer.major, offer.minor));
        }
        let why_not_ring = why_no_ring(&offer, choice);
        if let (Choice::Only(Transport::Ring), Some(why)) = (choice, &why_not_ring) {
            write_reply(device, unique, -Errno::EPROTO.number(), &[])?;
            return Err(SessionError::NoRing(why.clone()));
        }
        let agreed = Agreed::on(settings, &offer, why_not_ring.is_none());
        let mut body = [0; 64];
        let len = agreed.encode(&mut body).unwrap_or(0);
        write_reply(device, unique, 0, body.get(..len).unwrap_or_default())?;
        return Ok((agreed, why_not_ring));
    }
}

fn why_no_ring(offer: &Offer, choice: Choice) -> Option<String> {
    if choice == Choice::Only(Transport::Device) {
        return Some("the device was asked for".to_owned());
    }
    if offer.flags & abi::init::OVER_IO_URING == 0 {
        return Some(not_offered(fs::read_to_string(SWITCH).ok().as_deref()));
    }
    forbidden()
}

/// Why the kernel does not offer it, by the state of its switch.
fn not_offered(state: Option<&str>) -> String {
    match state {
        Some(state) if state.trim() != "Y" => {
            format!("it is switched off; `echo Y | sudo tee {SWITCH}` switches it on for new mounts")
        }
        _ => "the kernel has none (Linux 6.14 is the first with it)".to_owned(),
    }
}

fn forbidden() -> Option<String> {
    let error = ring::available().err()?;
    Some(format!("io_uring is not allowed to this process ({error}); see the sysctl kernel.io_uring_disabled"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_read_as_they_are_written() {
        for text in ["auto", "device", "io_uring"] {
            assert_eq!(text.parse::<Choice>().map(|choice| choice.to_string()), Ok(text.to_owned()));
        }
        assert!("classic".parse::<Choice>().is_err());
    }

    #[test]
    fn a_kernel_that_offers_no_rings_is_told_apart_from_one_whose_switch_is_off() {
        let off = not_offered(Some("N\n"));
        assert!(off.contains("switched off") && off.contains("echo Y | sudo tee /sys/module/fuse/"), "{off}");
        assert!(not_offered(None).contains("Linux 6.14"));
        assert_eq!(Transport::Device.hindrance(), None);
    }
}
