//! What a folder must look like: the same actions, done in memory.

use std::collections::BTreeMap;

use crate::tree::{self, Content, Entry, Tree};

/// A change of a folder. Each is one request to the file system, so that a crash leaves it
/// done or not done. Names are relative to the folder.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as the system calls name them")]
pub enum Action {
    Create {
        name: String,
    },
    Write {
        name: String,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        name: String,
        size: usize,
    },
    Punch {
        name: String,
        offset: usize,
        len: usize,
    },
    /// Within what both files have.
    Copy {
        from: String,
        from_offset: usize,
        to: String,
        to_offset: usize,
        len: usize,
    },
    MakeDir {
        name: String,
    },
    RemoveDir {
        name: String,
    },
    Unlink {
        name: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Exchange {
        from: String,
        to: String,
    },
    Link {
        from: String,
        to: String,
    },
    Symlink {
        target: String,
        name: String,
    },
    Chmod {
        name: String,
        mode: u32,
    },
    SetXattr {
        name: String,
        value: Vec<u8>,
    },
    /// fsync of a file or directory: makes all before it durable too.
    Sync {
        name: String,
    },
}

/// Name of the attribute that `SetXattr` sets.
pub const XATTR: &str = "user.crash";

#[derive(Clone, Debug)]
enum Kind {
    File { bytes: Vec<u8>, hash: u64 },
    Dir,
    Symlink(String),
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    mode: u32,
    xattr: Option<Vec<u8>>,
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Shadow {
    names: BTreeMap<String, u64>,
    nodes: BTreeMap<u64, Node>,
    next: u64,
}

/// A kind of file, to choose names by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Is {
    /// Nothing there.
    Free,
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symlink.
    Symlink,
}

impl Shadow {
    /// An empty folder.
    pub fn new() -> Shadow {
        let root = Node { kind: Kind::Dir, mode: 0o755, xattr: None };
        Shadow { names: BTreeMap::from([(String::new(), 0)]), nodes: BTreeMap::from([(0, root)]), next: 1 }
    }

    /// What `name` is.
    pub fn is(&self, name: &str) -> Is {
        match self.node(name).map(|node| &node.kind) {
            None => Is::Free,
            Some(Kind::File { .. }) => Is::File,
            Some(Kind::Dir) => Is::Dir,
            Some(Kind::Symlink(_)) => Is::Symlink,
        }
    }

    /// Size of a file; 0 for anything else.
    pub fn size(&self, name: &str) -> usize {
        match self.node(name).map(|node| &node.kind) {
            Some(Kind::File { bytes, .. }) => bytes.len(),
            _ => 0,
        }
    }

    /// Whether two names are one inode.
    pub fn same(&self, a: &str, b: &str) -> bool {
        self.names.get(a) == self.names.get(b)
    }

    /// Whether a directory has entries.
    pub fn has_entries(&self, name: &str) -> bool {
        let inside = format!("{name}/");
        self.names.keys().any(|other| other.starts_with(&inside))
    }

    /// Does `action`, which must be possible.
    pub fn apply(&mut self, action: &Action) {
        match action {
            Action::Create { name } => {
                let hash = hash_of(&[]);
                self.add(name, Kind::File { bytes: Vec::new(), hash }, 0o644);
            }
            Action::Write { name, offset, bytes } => self.edit(name, |content| {
                content.resize(content.len().max(offset + bytes.len()), 0);
                overwrite(content, *offset, bytes);
            }),
            Action::Truncate { name, size } => self.edit(name, |content| content.resize(*size, 0)),
            Action::Punch { name, offset, len } => self.edit(name, |content| {
                let end = content.len().min(offset + len);
                let zeros = vec![0; end.saturating_sub(*offset)];
                overwrite(content, *offset, &zeros);
            }),
            Action::Copy { from, from_offset, to, to_offset, len } => {
                let source = match self.node(from).map(|node| &node.kind) {
                    Some(Kind::File { bytes, .. }) => bytes.get(*from_offset..from_offset + len).map(<[u8]>::to_vec),
                    _ => None,
                };
                let bytes = source.unwrap_or_default();
                self.edit(to, |content| {
                    content.resize(content.len().max(to_offset + bytes.len()), 0);
                    overwrite(content, *to_offset, &bytes);
                });
            }
            Action::MakeDir { name } => self.add(name, Kind::Dir, 0o755),
            Action::RemoveDir { name } | Action::Unlink { name } => self.remove(name),
            Action::Rename { from, to } => {
                if !self.same(from, to) {
                    self.remove(to);
                    self.shift(from, to);
                }
            }
            Action::Exchange { from, to } => {
                if !self.same(from, to) {
                    self.shift(from, "\0");
                    self.shift(to, from);
                    self.shift("\0", to);
                }
            }
            Action::Link { from, to } => {
                if let Some(id) = self.names.get(from).copied() {
                    self.names.insert(to.clone(), id);
                }
            }
            Action::Symlink { target, name } => self.add(name, Kind::Symlink(target.clone()), 0o777),
            Action::Chmod { name, mode } => self.with(name, |node| node.mode = *mode),
            Action::SetXattr { name, value } => self.with(name, |node| node.xattr = Some(value.clone())),
            Action::Sync { .. } => {}
        }
    }

    /// How the folder must look, to be compared with [`tree::read`].
    pub fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        for (name, id) in &self.names {
            let Some(node) = self.nodes.get(id) else { continue };
            let links = self.names.iter().filter(|(_, other)| *other == id);
            let first = links.clone().next().map_or(name, |(first, _)| first);
            let (kind_bits, nlink, size, content) = match &node.kind {
                Kind::File { bytes, hash } => {
                    (0o100_000, links.count() as u64, bytes.len() as u64, Content::Hash(*hash))
                }
                Kind::Dir => (0o040_000, 2 + self.subdirectories(name), 0, Content::None),
                Kind::Symlink(target) => {
                    let content = Content::Target(target.clone().into_bytes());
                    (0o120_000, links.count() as u64, target.len() as u64, content)
                }
            };
            let entry = Entry {
                mode: kind_bits | node.mode,
                uid: 0,
                gid: 0,
                nlink,
                rdev: 0,
                size,
                mtime: (0, 0),
                content,
                xattrs: node.xattr.iter().map(|value| (XATTR.as_bytes().to_vec(), value.clone())).collect(),
                first_name: first.clone().into_bytes(),
                ino: 0,
            };
            tree.insert(name.clone().into_bytes(), entry);
        }
        tree
    }

    fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(self.names.get(name)?)
    }

    fn with(&mut self, name: &str, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.names.get(name).and_then(|id| self.nodes.get_mut(id)) {
            change(node);
        }
    }

    fn edit(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        self.with(name, |node| {
            if let Kind::File { bytes, hash } = &mut node.kind {
                change(bytes);
                *hash = hash_of(bytes);
            }
        });
    }

    fn add(&mut self, name: &str, kind: Kind, mode: u32) {
        self.nodes.insert(self.next, Node { kind, mode, xattr: None });
        self.names.insert(name.to_owned(), self.next);
        self.next += 1;
    }

    fn remove(&mut self, name: &str) {
        if let Some(id) = self.names.remove(name)
            && !self.names.values().any(|other| *other == id)
        {
            self.nodes.remove(&id);
        }
    }

    /// Moves a name with all below it to a free name.
    fn shift(&mut self, from: &str, to: &str) {
        let inside = format!("{from}/");
        let moved: Vec<String> =
            self.names.keys().filter(|name| *name == from || name.starts_with(&inside)).cloned().collect();
        for name in moved {
            if let (Some(id), Some(rest)) = (self.names.remove(&name), name.strip_prefix(from)) {
                self.names.insert(format!("{to}{rest}"), id);
            }
        }
    }

    fn subdirectories(&self, name: &str) -> u64 {
        let inside = if name.is_empty() { String::new() } else { format!("{name}/") };
        let direct =
            |other: &&String| other.strip_prefix(&inside).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
        self.names.keys().filter(direct).filter(|other| self.is(other) == Is::Dir).count() as u64
    }
}

fn overwrite(content: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = content.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn hash_of(bytes: &[u8]) -> u64 {
    tree::hash(bytes).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::worker;
    use crate::random::Random;
    use crate::scratch::Scratch;

    /// The shadow is itself held against a real file system.
    #[test]
    fn it_does_what_the_machine_does() {
        let scratch = Scratch::new(&std::env::temp_dir(), "shadow").unwrap();
        let root = scratch.folder("w").unwrap();
        let (mut shadow, mut random) = (Shadow::new(), Random::new(11));
        for step in 0..1500 {
            let action = worker::choose(&shadow, &mut random, 100_000);
            worker::perform(&root, &action).unwrap_or_else(|error| panic!("step {step}, {action:?}: {error}"));
            shadow.apply(&action);
            if step % 50 == 0 {
                let mut real = tree::read(&root).unwrap();
                for entry in real.values_mut() {
                    (entry.uid, entry.gid) = (0, 0);
                }
                assert_eq!(tree::differences(&real, &shadow.tree(), |_, _| true), Vec::<String>::new(), "{action:?}");
            }
        }
    }
}
