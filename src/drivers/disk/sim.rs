//! A disk in memory that knows what a power cut would leave of it.
//!
//! Of a file the medium holds for sure what it was at its last `sync_data`; of the pages
//! written since, a cut keeps any subset. Of a folder it holds for sure the names at its last
//! `sync_dir`; of the creations, renames and removals since, a cut keeps a prefix, and a
//! rename between folders whole or not at all. Folders themselves are durable once made, as
//! the trait promises.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nexus_kernel::disk::{Disk, DiskFile, DiskSpace};
use nexus_kernel::error::{Error, Result};
use parking_lot::Mutex;

use super::image::{FileState, Random};

/// A place where somebody asked for durability.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncPoint {
    /// Counts from 1.
    pub number: u64,
    /// The file, by the name that it was opened by, or the folder.
    pub path: PathBuf,
    /// Whether it is a folder's names that are synced.
    pub folder: bool,
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

type Hook = Arc<dyn Fn(&SimDisk, &SyncPoint) + Send + Sync>;

struct Shared {
    // One lock for everything: a cut must see all files at one moment, or it could keep what
    // was written later and lose what was synced earlier.
    state: Mutex<State>,
    hook: Mutex<Option<Hook>>,
}

#[derive(Default)]
struct State {
    folders: BTreeMap<PathBuf, Folder>,
    sync_points: u64,
    next_op: u64,
    capacity: Option<u64>,
    failure: Option<Failure>,
}

/// Changing operations that still succeed, those that fail then, and what they answer.
struct Failure {
    after: u64,
    count: u64,
    error: Error,
}

type Node = Arc<Mutex<FileState>>;

#[derive(Default)]
struct Folder {
    now: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: Vec<NameOp>,
}

/// Names that change together. The halves of a rename between folders share their id.
#[derive(Clone)]
struct NameOp {
    id: u64,
    changes: Vec<(String, Option<Node>)>,
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    node: Node,
    /// Where writes have to end, if it was opened to be written in place.
    fixed_len: Option<u64>,
}

impl Default for SimDisk {
    fn default() -> Self {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk, with no folder but the root and the current one.
    pub fn new() -> SimDisk {
        let mut state = State::default();
        state.folders.insert(PathBuf::from("/"), Folder::default());
        state.folders.insert(PathBuf::new(), Folder::default());
        SimDisk::of(state)
    }

    fn of(state: State) -> SimDisk {
        SimDisk { shared: Arc::new(Shared { state: Mutex::new(state), hook: Mutex::new(None) }) }
    }

    /// How often somebody has asked for durability.
    pub fn sync_points(&self) -> u64 {
        self.shared.state.lock().sync_points
    }

    /// Calls `hook` at each sync point, in the syncing thread, just before the sync takes
    /// effect. The hook may take images, but must not use whatever is syncing.
    pub fn on_sync(&self, hook: impl Fn(&SimDisk, &SyncPoint) + Send + Sync + 'static) {
        *self.shared.hook.lock() = Some(Arc::new(hook));
    }

    /// Calls no hook any more.
    pub fn clear_hook(&self) {
        *self.shared.hook.lock() = None;
    }

    /// What a power cut now would leave; one seed gives one of the possible outcomes. Open
    /// files of this disk do not reach the new one.
    pub fn power_cut(&self, seed: u64) -> SimDisk {
        let state = self.shared.state.lock();
        let mut random = Random::new(seed);
        let mut kept: BTreeMap<&PathBuf, usize> = BTreeMap::new();
        for (path, folder) in &state.folders {
            let all = folder.pending.len();
            let keep = match random.up_to(3) {
                0 => 0,
                1 => all,
                _ => random.up_to(all as u64) as usize,
            };
            kept.insert(path, keep);
        }
        while let Some((path, keep)) = state.half_kept(&kept) {
            kept.insert(path, keep);
        }
        let mut files: HashMap<*const Mutex<FileState>, Node> = HashMap::new();
        let mut folders = BTreeMap::new();
        for (path, folder) in &state.folders {
            let mut names = folder.durable.clone();
            for op in folder.pending.iter().take(kept.get(path).copied().unwrap_or(0)) {
                op.apply(&mut names);
            }
            for node in names.values_mut() {
                let left = files
                    .entry(Arc::as_ptr(node))
                    .or_insert_with(|| Arc::new(Mutex::new(node.lock().cut(&mut random))));
                *node = left.clone();
            }
            folders.insert(path.clone(), Folder { now: names.clone(), durable: names, pending: Vec::new() });
        }
        SimDisk::of(State { folders, capacity: state.capacity, ..State::default() })
    }

    /// The disk as another process would find it after the death of this one: all that was
    /// written, synced or not. Open files of this disk do not reach the new one.
    pub fn fork(&self) -> SimDisk {
        let state = self.shared.state.lock();
        let mut files: HashMap<*const Mutex<FileState>, Node> = HashMap::new();
        let mut copy = |node: &Node| {
            files.entry(Arc::as_ptr(node)).or_insert_with(|| Arc::new(Mutex::new(node.lock().clone()))).clone()
        };
        let mut copy_all = |names: &BTreeMap<String, Node>| -> BTreeMap<String, Node> {
            names.iter().map(|(name, node)| (name.clone(), copy(node))).collect()
        };
        let mut folders = BTreeMap::new();
        for (path, folder) in &state.folders {
            let (now, durable) = (copy_all(&folder.now), copy_all(&folder.durable));
            folders.insert(path.clone(), Folder { now, durable, pending: folder.pending.clone() });
        }
        for folder in folders.values_mut() {
            for (_, node) in folder.pending.iter_mut().flat_map(|op| op.changes.iter_mut()) {
                *node = node.as_ref().map(&mut copy);
            }
        }
        SimDisk::of(State { folders, capacity: state.capacity, next_op: state.next_op, ..State::default() })
    }

    /// Lets `count` more changing operations succeed and answers `error` to all after them,
    /// until [`SimDisk::heal`]. Reads go on working.
    pub fn fail_after(&self, count: u64, error: Error) {
        self.shared.state.lock().failure = Some(Failure { after: count, count: u64::MAX, error });
    }

    /// Lets `count` more changing operations succeed and answers `error` to the one after them.
    pub fn fail_once_after(&self, count: u64, error: Error) {
        self.shared.state.lock().failure = Some(Failure { after: count, count: 1, error });
    }

    /// Ends what [`SimDisk::fail_after`] or [`SimDisk::fail_once_after`] began.
    pub fn heal(&self) {
        self.shared.state.lock().failure = None;
    }

    /// Bytes that files may take in all, in whole pages; `None` for no limit. Beyond it,
    /// writes answer [`Error::NoSpace`] and change nothing.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.state.lock().capacity = bytes;
    }

    /// Bytes that files take.
    pub fn used_bytes(&self) -> u64 {
        self.shared.state.lock().used_bytes()
    }

    /// Every file with its length, in order of path.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.shared.state.lock();
        let names = state
            .folders
            .iter()
            .flat_map(|(path, folder)| folder.now.iter().map(move |(name, node)| (path.join(name), node)));
        names.map(|(path, node)| (path, node.lock().now().len())).collect()
    }

    /// Flips the bits of `mask` in one byte of a file, as a failing medium does.
    pub fn damage(&self, path: &Path, offset: u64, mask: u8) -> Result<()> {
        let node = self.shared.state.lock().node(path)?;
        node.lock().damage(offset, mask);
        Ok(())
    }

    /// Counts a sync and calls the hook.
    fn sync_point(&self, path: &Path, folder: bool) -> Result<()> {
        let number = {
            let mut state = self.shared.state.lock();
            state.change_allowed()?;
            state.sync_points += 1;
            state.sync_points
        };
        let hook = self.shared.hook.lock().clone();
        if let Some(hook) = hook {
            hook(self, &SyncPoint { number, path: path.to_owned(), folder });
        }
        Ok(())
    }
}

impl State {
    fn change_allowed(&mut self) -> Result<()> {
        match &mut self.failure {
            Some(Failure { after: 0, count: 0, .. }) | None => Ok(()),
            Some(Failure { after: 0, count, error }) => {
                *count -= 1;
                Err(error.clone())
            }
            Some(Failure { after, .. }) => {
                *after -= 1;
                Ok(())
            }
        }
    }

    fn used_bytes(&self) -> u64 {
        let nodes = self.folders.values().flat_map(|folder| folder.now.values());
        nodes.map(|node| node.lock().now().stored_bytes()).sum()
    }

    fn space_for(&self, bytes: u64) -> Result<()> {
        match self.capacity {
            Some(capacity) if bytes > 0 && self.used_bytes() + bytes > capacity => Err(Error::NoSpace),
            _ => Ok(()),
        }
    }

    fn folder(&mut self, path: &Path) -> Result<&mut Folder> {
        self.folders.get_mut(&normal(path)).ok_or(Error::NotFound)
    }

    fn node(&self, path: &Path) -> Result<Node> {
        if self.folders.contains_key(&normal(path)) {
            return Err(Error::IsDirectory);
        }
        let (parent, name) = split(path)?;
        self.folders.get(&parent).and_then(|folder| folder.now.get(&name)).cloned().ok_or(Error::NotFound)
    }

    fn op(&mut self, changes: Vec<(String, Option<Node>)>) -> NameOp {
        self.next_op += 1;
        NameOp { id: self.next_op, changes }
    }

    /// A folder whose kept operations hold half of a rename that the other folder loses, and
    /// how many it may keep.
    fn half_kept<'a>(&'a self, kept: &BTreeMap<&'a PathBuf, usize>) -> Option<(&'a PathBuf, usize)> {
        let is_lost = |id: u64| {
            self.folders.iter().any(|(path, folder)| {
                let keep = kept.get(path).copied().unwrap_or(0);
                folder.pending.iter().skip(keep).any(|op| op.id == id)
            })
        };
        self.folders.iter().find_map(|(path, folder)| {
            let keep = kept.get(path).copied().unwrap_or(0);
            let half = folder.pending.iter().take(keep).position(|op| is_lost(op.id))?;
            Some((path, half))
        })
    }

    /// Makes a folder's names durable, and with the second half of each rename into or out of
    /// it what came before that half in the other folder, as a journal does.
    fn settle(&mut self, path: &Path) {
        let count = self.folders.get(path).map_or(0, |folder| folder.pending.len());
        let mut work = vec![(path.to_owned(), count)];
        while let Some((path, count)) = work.pop() {
            let Some(folder) = self.folders.get_mut(&path) else { continue };
            let count = count.min(folder.pending.len());
            let settled: Vec<NameOp> = folder.pending.drain(..count).collect();
            for op in &settled {
                op.apply(&mut folder.durable);
            }
            for (other, folder) in &self.folders {
                let last = folder.pending.iter().rposition(|op| settled.iter().any(|done| done.id == op.id));
                work.extend(last.map(|last| (other.clone(), last + 1)));
            }
        }
    }
}

impl Folder {
    fn change(&mut self, op: NameOp) {
        op.apply(&mut self.now);
        self.pending.push(op);
    }
}

impl NameOp {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        for (name, node) in &self.changes {
            match node {
                Some(node) => names.insert(name.clone(), node.clone()),
                None => names.remove(name),
            };
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        let node = self.shared.state.lock().node(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_owned(), node, fixed_len: None }))
    }

    fn open_in_place(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        let node = self.shared.state.lock().node(path)?;
        let fixed_len = Some(node.lock().now().len());
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_owned(), node, fixed_len }))
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        let mut state = self.shared.state.lock();
        match state.node(path) {
            Ok(_) | Err(Error::IsDirectory) => return Err(Error::Exists),
            Err(_) => {}
        }
        let (parent, name) = split(path)?;
        state.folder(&parent)?;
        state.change_allowed()?;
        let node = Node::default();
        let op = state.op(vec![(name, Some(node.clone()))]);
        state.folder(&parent)?.change(op);
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_owned(), node, fixed_len: None }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut state = self.shared.state.lock();
        let node = state.node(from)?;
        let ((from_folder, from_name), (to_folder, to_name)) = (split(from)?, split(to)?);
        state.folder(&to_folder)?;
        match state.node(to) {
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
            // Two names of one file stay as they are, says rename(2); here, one name is itself.
            Ok(target) if Arc::ptr_eq(&target, &node) => return Ok(()),
            Ok(_) => {}
        }
        state.change_allowed()?;
        let (removal, arrival) = ((from_name, None), (to_name, Some(node)));
        if from_folder == to_folder {
            let op = state.op(vec![removal, arrival]);
            state.folder(&to_folder)?.change(op);
        } else {
            let op = state.op(vec![removal]);
            let id = op.id;
            state.folder(&from_folder)?.change(op);
            state.folder(&to_folder)?.change(NameOp { id, changes: vec![arrival] });
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let mut state = self.shared.state.lock();
        state.node(path)?;
        state.change_allowed()?;
        let (parent, name) = split(path)?;
        let op = state.op(vec![(name, None)]);
        state.folder(&parent)?.change(op);
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let mut state = self.shared.state.lock();
        state.change_allowed()?;
        let path = normal(path);
        for folder in path.ancestors() {
            if let Ok((parent, name)) = split(folder)
                && state.folders.get(&parent).is_some_and(|parent| parent.now.contains_key(&name))
            {
                return Err(Error::NotDirectory);
            }
        }
        for folder in path.ancestors() {
            state.folders.entry(folder.to_owned()).or_default();
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> Result<Vec<(String, u64)>> {
        let mut state = self.shared.state.lock();
        let folder = state.folder(path)?;
        Ok(folder.now.iter().map(|(name, node)| (name.clone(), node.lock().now().len())).collect())
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.shared.state.lock().folder(path)?;
        self.sync_point(path, true)?;
        self.shared.state.lock().settle(&normal(path));
        Ok(())
    }

    fn space(&self, _path: &Path) -> Result<DiskSpace> {
        let state = self.shared.state.lock();
        let total = state.capacity.unwrap_or(1 << 40);
        let free = total.saturating_sub(state.used_bytes());
        Ok(DiskSpace { total, free, available: free, total_inodes: 1 << 32, free_inodes: 1 << 31 })
    }
}

impl SimFile {
    /// Runs a change under the disk's lock, if there is space for `[offset, offset + len)`.
    fn change(&self, offset: u64, len: u64, change: impl FnOnce(&mut FileState) -> Result<()>) -> Result<()> {
        let mut state = self.disk.shared.state.lock();
        state.change_allowed()?;
        let missing = if state.capacity.is_some() { self.node.lock().missing_bytes(offset, len) } else { 0 };
        state.space_for(missing)?;
        change(&mut self.node.lock())
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> Result<u64> {
        let _state = self.disk.shared.state.lock();
        Ok(self.node.lock().now().len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let _state = self.disk.shared.state.lock();
        if self.node.lock().read(buf, offset) {
            Ok(())
        } else {
            let end = offset.saturating_add(buf.len() as u64);
            Err(Error::Corrupt(format!("{} ends before byte {end}", self.path.display())))
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        if self.fixed_len.is_some_and(|len| end > len) {
            return Err(Error::Invalid);
        }
        self.change(offset, data.len() as u64, |file| file.write(data, offset))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(0, 0, |file| {
            file.set_len(len);
            Ok(())
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.change(offset, len, |file| file.allocate(offset, len))
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        self.change(0, 0, |file| {
            file.punch(offset, len);
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<()> {
        self.disk.sync_point(&self.path, false)?;
        let _state = self.disk.shared.state.lock();
        self.node.lock().sync();
        Ok(())
    }

    fn start_writeback(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
}

/// The path without `.` and doubled slashes.
fn normal(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn split(path: &Path) -> Result<(PathBuf, String)> {
    let path = normal(path);
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(Error::Invalid)?.to_owned();
    Ok((path.parent().unwrap_or(Path::new("")).to_owned(), name))
}

#[cfg(test)]
#[path = "sim_tests.rs"]
mod tests;
