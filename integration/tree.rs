//! Everything that a tree of files shows to its users, read into memory to be compared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr};

use crate::failure::{Check, During};

/// What one name shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of the inode.
    pub nlink: u64,
    /// Device number of a device node; else 0.
    pub rdev: u64,
    /// Bytes; 0 for directories, whose sizes mean nothing.
    pub size: u64,
    /// Last change of content, in seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// A file's content in brief, or a symlink's target.
    pub content: Content,
    /// Extended attributes, ACLs among them.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name, in order, of the same inode.
    pub first_name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
}

/// Content, small enough to keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Neither file nor symlink.
    None,
    /// A hash of a file's bytes.
    Hash(u64),
    /// Target of a symlink.
    Target(Vec<u8>),
}

/// Names, relative to the root, and what they show. The root is the empty name.
pub type Tree = BTreeMap<Vec<u8>, Entry>;

/// Reads the tree at `root`.
pub fn read(root: &Path) -> Check<Tree> {
    let mut tree = Tree::new();
    let mut names_of: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut todo = vec![Vec::new()];
    while let Some(name) = todo.pop() {
        let path = root.join(std::ffi::OsStr::from_bytes(&name));
        let entry = read_entry(&path).during(format!("reading {}", path.display()))?;
        if entry.mode & 0o170_000 == 0o040_000 {
            for child in fs::read_dir(&path).during(format!("listing {}", path.display()))? {
                let mut child_name = name.clone();
                if !name.is_empty() {
                    child_name.push(b'/');
                }
                child_name.extend(child?.file_name().into_vec());
                todo.push(child_name);
            }
        } else {
            let first = names_of.entry(entry.ino).or_insert_with(|| name.clone());
            if name < *first {
                first.clone_from(&name);
            }
        }
        tree.insert(name, entry);
    }
    for (name, entry) in &mut tree {
        entry.first_name = names_of.get(&entry.ino).unwrap_or(name).clone();
    }
    Ok(tree)
}

/// Hash of the bytes that `from` gives.
pub fn hash(mut from: impl Read) -> std::io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        match buffer.get(..count) {
            Some(read) if count > 0 => hasher.write(read),
            _ => return Ok(hasher.finish()),
        }
    }
}

/// How two trees differ, a line each; at most a few lines.
pub fn differences(left: &Tree, right: &Tree, mut same_times: impl FnMut(&Entry, &Entry) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    for name in left.keys().chain(right.keys().filter(|name| !left.contains_key(*name))) {
        let shown = String::from_utf8_lossy(name);
        match (left.get(name), right.get(name)) {
            (Some(a), Some(b)) => {
                let strip = |entry: &Entry| Entry { mtime: (0, 0), ino: 0, ..entry.clone() };
                let times = same_times(a, b);
                if strip(a) != strip(b) || !times {
                    lines.push(format!("{shown:?}: {} against {}", brief(a, b, !times), brief(b, a, !times)));
                }
            }
            (Some(_), None) => lines.push(format!("{shown:?}: only on the left")),
            (None, _) => lines.push(format!("{shown:?}: only on the right")),
        }
        if lines.len() == 8 {
            lines.push("and perhaps more".to_owned());
            break;
        }
    }
    lines
}

/// What of `entry` is not the same in `other`.
fn brief(entry: &Entry, other: &Entry, times: bool) -> String {
    let mut parts = Vec::new();
    let mut part = |differs: bool, text: String| {
        if differs {
            parts.push(text);
        }
    };
    part(entry.mode != other.mode, format!("mode {:o}", entry.mode));
    part(entry.uid != other.uid, format!("uid {}", entry.uid));
    part(entry.gid != other.gid, format!("gid {}", entry.gid));
    part(entry.nlink != other.nlink, format!("nlink {}", entry.nlink));
    part(entry.rdev != other.rdev, format!("rdev {:x}", entry.rdev));
    part(entry.size != other.size, format!("size {}", entry.size));
    part(times, format!("mtime {:?}", entry.mtime));
    part(entry.content != other.content, format!("content {:?}", entry.content));
    part(entry.xattrs != other.xattrs, format!("xattrs {}", brief_xattrs(entry)));
    part(
        entry.first_name != other.first_name,
        format!("same inode as {:?}", String::from_utf8_lossy(&entry.first_name)),
    );
    parts.join(", ")
}

/// Hash of a file's content. Of a huge file only the head of each GiB is read: the tests
/// write nowhere else in one, and the rest would take minutes.
fn hash_file(path: &Path, size: u64) -> std::io::Result<u64> {
    const WINDOW: u64 = 1 << 20;
    let mut file = File::open(path)?;
    if size <= 256 << 20 {
        return hash(file);
    }
    let mut hasher = DefaultHasher::new();
    for start in (0..size).step_by(1 << 30) {
        file.seek(SeekFrom::Start(start))?;
        hasher.write_u64(hash((&mut file).take(WINDOW))?);
    }
    Ok(hasher.finish())
}

fn read_entry(path: &Path) -> Check<Entry> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let content = if kind.is_file() {
        Content::Hash(hash_file(path, meta.size())?)
    } else if kind.is_symlink() {
        Content::Target(fs::read_link(path)?.into_os_string().into_vec())
    } else {
        Content::None
    };
    let is_device = kind.is_char_device() || kind.is_block_device();
    Ok(Entry {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        nlink: meta.nlink(),
        rdev: if is_device { meta.rdev() } else { 0 },
        size: if kind.is_dir() { 0 } else { meta.size() },
        mtime: (meta.mtime(), meta.mtime_nsec()),
        content,
        xattrs: read_xattrs(path)?,
        first_name: Vec::new(),
        ino: meta.ino(),
    })
}

fn brief_xattrs(entry: &Entry) -> String {
    let brief = |(name, value): (&Vec<u8>, &Vec<u8>)| {
        let head = value.get(..value.len().min(60)).unwrap_or_default();
        format!("{}={head:02x?} ({} bytes)", String::from_utf8_lossy(name), value.len())
    };
    entry.xattrs.iter().map(brief).collect::<Vec<_>>().join(" ")
}

fn read_xattrs(path: &Path) -> Check<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = Vec::with_capacity(64 << 10);
    llistxattr(path, rustix::buffer::spare_capacity(&mut list))?;
    let mut xattrs = BTreeMap::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = Vec::with_capacity(64 << 10);
        lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value))?;
        xattrs.insert(name.to_vec(), value);
    }
    Ok(xattrs)
}
