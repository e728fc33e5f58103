//! Mounting through the set-user-id program fusermount3, as an ordinary user.

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::device;
use super::error::MountError;
use super::options::MountOptions;

const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// Mounts a new connection on `target`; answers its device, which fusermount3 sends over a
/// socket. The socket goes in as its standard input, so no descriptor leaks into others.
pub fn mount(fs_type: &str, source: &str, target: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    device::check()?;
    if options.lets_others_in(false) && !others_allowed(&fs::read_to_string("/etc/fuse.conf").unwrap_or_default()) {
        return Err(MountError::AllowOtherForbidden);
    }
    let failed = |message: String| MountError::Fusermount { target: target.to_owned(), message };
    let (ours, theirs) = UnixStream::pair().map_err(|error| failed(error.to_string()))?;
    let child = Command::new(program()?)
        .arg("-o")
        .arg(words(fs_type, source, options))
        .arg("--")
        .arg(target)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let device = receive(&ours);
    drop(ours);
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    match device {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Ok(_) => Err(failed(said(&output))),
        Err(error) => Err(failed(format!("{error}; {}", said(&output)))),
    }
}

/// Takes the mount at `target` away.
pub fn unmount(target: &Path, lazy: bool) -> Result<(), MountError> {
    let failed = |message: String| MountError::FusermountUnmount { target: target.to_owned(), message };
    let output = Command::new(program()?)
        .arg(if lazy { "-uz" } else { "-u" })
        .arg("--")
        .arg(target)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    match said(&output) {
        _ if output.status.success() => Ok(()),
        message if message.contains("busy") => Err(MountError::Busy(target.to_owned())),
        message => Err(failed(message)),
    }
}

/// What the program wrote, for a message of ours.
fn said(output: &Output) -> String {
    match String::from_utf8_lossy(&output.stderr).trim() {
        "" => format!("it ended with {}", output.status),
        text => text.rsplit_once("fusermount3: ").map_or(text, |(_, message)| message).to_owned(),
    }
}

/// Where the program lies: in PATH, or where distributions put it.
pub fn program() -> Result<PathBuf, MountError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/bin".into(), "/bin".into()]).collect();
    PROGRAMS
        .iter()
        .flat_map(|program| folders.iter().map(move |folder| folder.join(program)))
        .find(|candidate| candidate.is_absolute() && candidate.is_file())
        .ok_or(MountError::NoFusermount)
}

/// Options for the program.
fn words(fs_type: &str, source: &str, options: &MountOptions) -> String {
    let mut words = vec![
        format!("fsname={}", source.replace('\\', "\\\\").replace(',', "\\,")),
        format!("subtype={}", fs_type.trim_start_matches("fuse.")),
        "default_permissions".to_owned(),
    ];
    words.extend(options.flag_words().into_iter().map(str::to_owned));
    if options.lets_others_in(false) {
        words.push("allow_other".to_owned());
    }
    if let Some(bytes) = options.max_read {
        words.push(format!("max_read={bytes}"));
    }
    words.join(",")
}

/// Whether fuse.conf lets ordinary users give `allow_other`.
fn others_allowed(conf: &str) -> bool {
    conf.lines().any(|line| line.split('#').next().is_some_and(|line| line.trim() == "user_allow_other"))
}

/// The descriptor that arrives on the socket; `None` if the other side closed it.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        let flags = RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_escape_the_name() {
        let options = MountOptions::parse("ro,allow_other,max_read=8192").unwrap();
        assert_eq!(
            words("fuse.nexus", "a,b\\c", &options),
            "fsname=a\\,b\\\\c,subtype=nexus,default_permissions,ro,allow_other,max_read=8192"
        );
        assert_eq!(words("fuse.nexus", "v", &MountOptions::default()), "fsname=v,subtype=nexus,default_permissions");
    }

    #[test]
    fn configuration_lines() {
        assert!(!others_allowed("# user_allow_other\n#user_allow_other\nmount_max = 1000\n"));
        assert!(others_allowed("mount_max = 5\n  user_allow_other # yes\n"));
        assert!(!others_allowed("user_allow_others\n"));
        assert!(!others_allowed(""));
    }

    #[test]
    fn a_closed_socket_brings_no_descriptor() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(receive(&ours).unwrap().is_none());
    }
}
