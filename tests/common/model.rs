//! A file tree as a plain value, and what a file system shows, in the same terms.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use nexus_kernel::fs::Caller;
use nexus_kernel::model::FileKind;
use nexus_kernel::{NexusFs, NodeId, Result};

/// Number of an inode in the model; the root is 0.
pub type Id = usize;

/// What one inode is.
#[derive(Clone)]
pub enum Kind {
    File(Arc<Vec<u8>>),
    Dir(BTreeMap<String, Id>),
    Symlink(String),
}

/// An inode.
#[derive(Clone)]
pub struct Inode {
    pub kind: Kind,
    pub mode: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// A tree. Clones share the content of files.
#[derive(Clone)]
pub struct Model {
    pub inodes: BTreeMap<Id, Inode>,
    pub next: Id,
}

/// What can be seen of one path.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Seen {
    pub kind: char,
    pub mode: u32,
    /// Names of the inode; for a directory 0.
    pub links: u32,
    /// The first path, in order, of the same inode.
    pub first: String,
    pub len: u64,
    pub content: u64,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// Everything that can be seen, by path.
pub type Tree = BTreeMap<String, Seen>;

impl Model {
    /// A tree with a root directory only.
    pub fn new() -> Model {
        let root = Inode { kind: Kind::Dir(BTreeMap::new()), mode: 0o755, xattrs: BTreeMap::new() };
        Model { inodes: [(0, root)].into(), next: 1 }
    }

    pub fn dir(&self, id: Id) -> &BTreeMap<String, Id> {
        match &self.inodes[&id].kind {
            Kind::Dir(names) => names,
            Kind::File(_) | Kind::Symlink(_) => panic!("inode {id} is no directory"),
        }
    }

    pub fn dir_mut(&mut self, id: Id) -> &mut BTreeMap<String, Id> {
        match &mut self.inodes.get_mut(&id).unwrap().kind {
            Kind::Dir(names) => names,
            Kind::File(_) | Kind::Symlink(_) => panic!("inode {id} is no directory"),
        }
    }

    pub fn content(&self, id: Id) -> &Arc<Vec<u8>> {
        match &self.inodes[&id].kind {
            Kind::File(bytes) => bytes,
            Kind::Dir(_) | Kind::Symlink(_) => panic!("inode {id} is no file"),
        }
    }

    pub fn content_mut(&mut self, id: Id) -> &mut Vec<u8> {
        match &mut self.inodes.get_mut(&id).unwrap().kind {
            Kind::File(bytes) => Arc::make_mut(bytes),
            Kind::Dir(_) | Kind::Symlink(_) => panic!("inode {id} is no file"),
        }
    }

    pub fn is_dir(&self, id: Id) -> bool {
        matches!(self.inodes[&id].kind, Kind::Dir(_))
    }

    /// Every path with its inode, parents first.
    pub fn paths(&self) -> Vec<(String, Id)> {
        let mut paths = Vec::new();
        let mut work = vec![(String::new(), 0)];
        while let Some((path, id)) = work.pop() {
            if let Kind::Dir(names) = &self.inodes[&id].kind {
                work.extend(names.iter().map(|(name, child)| (format!("{path}/{name}"), *child)));
            }
            paths.push((path, id));
        }
        paths.sort();
        paths
    }

    /// Forgets inodes that no path leads to.
    pub fn collect(&mut self) {
        let live: std::collections::BTreeSet<Id> = self.paths().into_iter().map(|(_, id)| id).collect();
        self.inodes.retain(|id, _| live.contains(id));
    }

    pub fn tree(&self) -> Tree {
        let paths = self.paths();
        let mut seen: BTreeMap<Id, (String, u32)> = BTreeMap::new();
        for (path, id) in &paths {
            seen.entry(*id).or_insert((path.clone(), 0)).1 += 1;
        }
        let entry = |(path, id): (String, Id)| {
            let inode = &self.inodes[&id];
            let (first, links) = seen[&id].clone();
            let (kind, links, len, content) = match &inode.kind {
                Kind::File(bytes) => ('f', links, bytes.len() as u64, hash(&**bytes)),
                Kind::Dir(_) => ('d', 0, 0, 0),
                Kind::Symlink(target) => ('l', links, target.len() as u64, hash(target.as_bytes())),
            };
            (path, Seen { kind, mode: inode.mode, links, first, len, content, xattrs: inode.xattrs.clone() })
        };
        paths.into_iter().map(entry).collect()
    }
}

/// What `fs` shows, and the node of each path. Reads every byte.
pub fn tree_of(fs: &NexusFs) -> Result<(Tree, BTreeMap<String, NodeId>)> {
    let mut nodes = BTreeMap::new();
    let mut work = vec![(String::new(), NodeId::ROOT)];
    while let Some((path, node)) = work.pop() {
        if fs.getattr(node)?.inode.kind == FileKind::Directory {
            work.extend(names_in(fs, node)?.into_iter().map(|(name, child)| (format!("{path}/{name}"), child)));
        }
        nodes.insert(path, node);
    }
    let mut first: BTreeMap<NodeId, String> = BTreeMap::new();
    for (path, node) in &nodes {
        first.entry(*node).or_insert_with(|| path.clone());
    }
    let mut tree = Tree::new();
    for (path, node) in &nodes {
        let inode = fs.getattr(*node)?.inode;
        let (kind, links, len, content) = match inode.kind {
            FileKind::Directory => ('d', 0, 0, 0),
            FileKind::Symlink => ('l', inode.nlink, inode.size, hash(&fs.readlink(*node)?)),
            _ => {
                let mut bytes = vec![0xa5; usize::try_from(inode.size).unwrap()];
                let len = fs.read(*node, 0, 0, &mut bytes)?;
                bytes.truncate(len);
                ('f', inode.nlink, bytes.len() as u64, hash(&bytes))
            }
        };
        let mut xattrs = BTreeMap::new();
        for name in fs.listxattr(&Caller::ROOT, *node)?.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            xattrs.insert(String::from_utf8_lossy(name).into_owned(), fs.getxattr(*node, name)?.to_vec());
        }
        let first = first[node].clone();
        tree.insert(path.clone(), Seen { kind, mode: inode.mode, links, first, len, content, xattrs });
    }
    Ok((tree, nodes))
}

fn names_in(fs: &NexusFs, dir: NodeId) -> Result<Vec<(String, NodeId)>> {
    let mut names = Vec::new();
    let mut cookie = 0;
    loop {
        let mut count = 0;
        fs.readdir(dir, cookie, false, &mut |entry| {
            count += 1;
            cookie = entry.cookie;
            if !matches!(&entry.name[..], b"." | b"..") {
                names.push((String::from_utf8_lossy(&entry.name).into_owned(), entry.node));
            }
            ControlFlow::Continue(())
        })?;
        if count == 0 {
            return Ok(names);
        }
    }
}

/// One number for a tree.
pub fn print(tree: &Tree) -> u64 {
    hash(tree)
}

/// What differs between two trees, a line each.
pub fn difference(expected: &Tree, found: &Tree) -> String {
    let paths: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let lines = paths.into_iter().filter(|path| expected.get(*path) != found.get(*path));
    let lines = lines.map(|path| format!("{path}: expected {:?}, found {:?}", expected.get(path), found.get(path)));
    lines.collect::<Vec<_>>().join("\n")
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
