//! The table of mounts: /proc/self/mountinfo, parsed.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

/// One mount, as mountinfo(5) tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Device number of the mounted file system.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub target: PathBuf,
    /// Options of this mount.
    pub options: String,
    /// File system type, with its subtype.
    pub fs_type: String,
    /// What is mounted: the volume's name.
    pub source: String,
    /// Options of the file system.
    pub super_options: String,
}

impl Entry {
    /// Whether this is a mount of ours.
    pub fn is_nexus(&self) -> bool {
        self.fs_type == super::FS_TYPE
    }

    /// Whether this is a mount of ours, or a bucket or zone in one.
    pub fn is_ours(&self) -> bool {
        self.is_nexus() || [super::ATTACHED_TYPE, super::ZONE_TYPE].contains(&self.fs_type.as_str())
    }

    /// Whether this is a zone in a mount of ours.
    pub fn is_zone(&self) -> bool {
        self.fs_type == super::ZONE_TYPE
    }

    /// Whether it refuses changes.
    pub fn is_read_only(&self) -> bool {
        self.words().any(|word| word == "ro")
    }

    /// The flags of mount(2) that it stands under.
    pub fn flags(&self) -> MountFlags {
        self.words().fold(MountFlags::empty(), |flags, word| {
            flags
                | match word {
                    "ro" => MountFlags::RDONLY,
                    "nosuid" => MountFlags::NOSUID,
                    "nodev" => MountFlags::NODEV,
                    "noexec" => MountFlags::NOEXEC,
                    "noatime" => MountFlags::NOATIME,
                    "nodiratime" => MountFlags::NODIRATIME,
                    "relatime" => MountFlags::RELATIME,
                    "sync" => MountFlags::SYNCHRONOUS,
                    "dirsync" => MountFlags::DIRSYNC,
                    _ => MountFlags::empty(),
                }
        })
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.options.split(',').chain(self.super_options.split(','))
    }
}

/// All mounts that this process can see, the oldest first.
pub fn mounts() -> io::Result<Vec<Entry>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// The mounts of Nexus among them.
pub fn nexus_mounts() -> io::Result<Vec<Entry>> {
    Ok(mounts()?.into_iter().filter(Entry::is_nexus).collect())
}

/// The mount that `target`, an absolute path without links, shows: the last one made there.
pub fn mount_at(target: &Path) -> io::Result<Option<Entry>> {
    Ok(mounts()?.into_iter().rev().find(|entry| entry.target == target))
}

/// Parses the whole file. Lines that make no sense are left out.
fn parse(text: &[u8]) -> Vec<Entry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/sda rw,errors=continue`: six
/// fields, any number of tags, a dash, three more.
fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = text(fields.nth(2)?);
    let (major, minor) = device.split_once(':')?;
    let target = fields.nth(1)?;
    let options = text(fields.next()?);
    fields.find(|field| *field == b"-")?;
    Some(Entry {
        device: (major.parse().ok()?, minor.parse().ok()?),
        target: OsString::from_vec(unescape(target)).into(),
        options,
        fs_type: text(fields.next()?),
        source: text(fields.next()?),
        super_options: fields.next().map(text).unwrap_or_default(),
    })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Undoes the kernel's `\ooo` for blanks, newlines and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_tags() {
        let text = b"22 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard\n\
                     40 22 0:35 / /mnt/a\\040b\\134c ro,nosuid,nodev,relatime - fuse.nexus my\\040vol ro,sync,user_id=0\n\
                     garbage line\n\
                     41 22 0:x / /bad rw - tmpfs tmpfs rw\n";
        let entries = parse(text);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].fs_type, "ext4");
        assert_eq!(entries[0].device, (254, 0));
        let ours = &entries[1];
        assert!(ours.is_nexus() && ours.is_read_only());
        assert_eq!(ours.target, Path::new("/mnt/a b\\c"));
        assert_eq!(ours.source, "my vol");
        let flags = MountFlags::RDONLY
            | MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::RELATIME
            | MountFlags::SYNCHRONOUS;
        assert_eq!(ours.flags(), flags);
    }

    #[test]
    fn names_of_any_bytes() {
        assert_eq!(unescape(b"a\\012b\\011\\377\\400\\0"), b"a\nb\t\xff\\400\\0");
        assert_eq!(unescape(b"\xc3\xa4\\"), b"\xc3\xa4\\");
    }

    #[test]
    fn this_machines_mounts_parse() {
        let mounts = mounts().unwrap();
        assert!(mounts.iter().any(|entry| entry.target == Path::new("/proc") && entry.fs_type == "proc"));
        assert_eq!(mount_at(Path::new("/proc/self")).unwrap(), None);
    }
}
