//! The nodes that the kernel knows, by number and by key.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use nexus::cloud::ObjectInfo;
use parking_lot::Mutex;

use super::files::Staged;

/// The root's number.
pub const ROOT: u64 = 1;

/// What a key stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// A directory: some key goes on below it.
    Dir,
    /// An object.
    File(ObjectInfo),
}

/// A file or directory that the kernel knows.
#[derive(Clone)]
pub struct Node {
    /// Its key below the attached prefix; empty for the root.
    pub key: String,
    /// What it was when last seen.
    pub found: Found,
    /// When that was; `None` asks anew.
    pub seen: Option<Instant>,
    /// Content that is not in the bucket yet, or may be changed.
    pub staged: Option<Arc<Mutex<Staged>>>,
    /// Held by who stores it, so that the last content is the last one stored.
    pub storing: Arc<Mutex<()>>,
    /// Open files.
    pub opens: u32,
    /// Its name was taken away.
    pub gone: bool,
    lookups: u64,
}

/// All of them.
pub struct Tree {
    nodes: HashMap<u64, Node>,
    by_key: HashMap<String, u64>,
    next: u64,
}

impl Tree {
    /// Only the root.
    pub fn new() -> Tree {
        let root = Node {
            key: String::new(),
            found: Found::Dir,
            seen: None,
            staged: None,
            storing: Arc::default(),
            opens: 0,
            gone: false,
            lookups: 1,
        };
        Tree { nodes: HashMap::from([(ROOT, root)]), by_key: HashMap::from([(String::new(), ROOT)]), next: ROOT + 1 }
    }

    /// The node of this number.
    pub fn get(&self, id: u64) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Node> {
        self.nodes.get_mut(&id)
    }

    /// The number that `key` has, if the kernel knows it.
    pub fn id_of(&self, key: &str) -> Option<u64> {
        self.by_key.get(key).copied()
    }

    /// Takes in what `key` stands for now, and counts a look-up of it. A file that became a
    /// directory, or the other way round, is a new node.
    pub fn enter(&mut self, key: &str, found: Found) -> u64 {
        let known = self.by_key.get(key).and_then(|id| Some((*id, self.nodes.get_mut(id)?)));
        if let Some((id, node)) = known
            && (node.found == Found::Dir) == (found == Found::Dir)
        {
            node.found = found;
            node.seen = Some(Instant::now());
            node.lookups += 1;
            return id;
        }
        self.take_name(key);
        let id = self.next;
        self.next += 1;
        let seen = Some(Instant::now());
        let node = Node {
            key: key.to_owned(),
            found,
            seen,
            staged: None,
            storing: Arc::default(),
            opens: 0,
            gone: false,
            lookups: 1,
        };
        self.nodes.insert(id, node);
        self.by_key.insert(key.to_owned(), id);
        id
    }

    /// Takes the name of whatever has `key`.
    pub fn take_name(&mut self, key: &str) {
        if let Some(id) = self.by_key.remove(key)
            && let Some(node) = self.nodes.get_mut(&id)
        {
            node.gone = true;
        }
    }

    /// Gives `from`, and all below it, the keys that begin with `to`.
    pub fn rename(&mut self, from: &str, to: &str) {
        self.take_name(to);
        let below = format!("{from}/");
        let moved: Vec<String> =
            self.by_key.keys().filter(|key| *key == from || key.starts_with(&below)).cloned().collect();
        for old in moved {
            let new = format!("{to}{}", old.strip_prefix(from).unwrap_or_default());
            if let Some(id) = self.by_key.remove(&old)
                && let Some(node) = self.nodes.get_mut(&id)
            {
                node.key.clone_from(&new);
                node.seen = None;
                self.by_key.insert(new, id);
            }
        }
    }

    /// Nodes below the directory `key` with content that is staged.
    pub fn staged_below(&self, key: &str) -> Vec<(u64, String)> {
        let below = if key.is_empty() { String::new() } else { format!("{key}/") };
        let staged = |node: &&Node| node.staged.is_some() && !node.gone && node.key.starts_with(&below);
        let ids = self.nodes.iter().filter(|(_, node)| staged(node));
        ids.map(|(id, node)| (*id, node.key.clone())).collect()
    }

    /// Takes back look-ups; a node without any, and not open, goes.
    pub fn forget(&mut self, id: u64, lookups: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.lookups = node.lookups.saturating_sub(lookups);
        if id != ROOT && node.lookups == 0 && node.opens == 0 {
            if self.by_key.get(&node.key) == Some(&id) {
                self.by_key.remove(&node.key);
            }
            self.nodes.remove(&id);
        }
    }
}
