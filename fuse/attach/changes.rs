//! Changes of names: making, deleting, renaming.

use std::collections::HashSet;
use std::sync::Arc;

use nexus::cloud::{ObjectInfo, PAGE_KEYS};
use nexus_kernel::{Error, Result};
use parking_lot::Mutex;

use super::attached::Attached;
use super::files::Staged;
use super::listing::{Listing, Row};
use super::tree::Found;

/// Objects that a directory may have to be renamed here; beyond, mv(1) copies by itself.
const MOST_RENAMED: usize = 10_000;
/// Directories without an object that are kept in mind.
const MOST_HELD: usize = 10_000;
/// `RENAME_NOREPLACE`.
const NOREPLACE: u32 = 1;

impl Attached {
    /// Keeps a directory in mind that may have no object any more.
    fn hold(&self, key: &str) {
        let mut held = self.held.lock();
        if !key.is_empty() && held.len() < MOST_HELD {
            held.insert(key.to_owned());
        }
    }

    fn hold_parent(&self, key: &str) {
        self.hold(key.rsplit_once('/').map_or("", |(parent, _)| parent));
    }

    /// OPENDIR; answers the handle.
    pub fn opendir(&self, id: u64) -> Result<u64> {
        let key = self.key_of(id)?;
        let below = |other: &str| {
            let name = if key.is_empty() { other } else { other.strip_prefix(&key)?.strip_prefix('/')? };
            (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
        };
        let mut local: Vec<Row> = Vec::new();
        let held: Vec<String> = self.held.lock().iter().filter_map(|key| below(key)).collect();
        local.extend(held.into_iter().map(|name| Row { name, found: Found::Dir }));
        {
            let tree = self.tree.lock();
            for (id, key) in tree.staged_below(&key) {
                if let (Some(name), Some(node)) = (below(&key), tree.get(id)) {
                    local.push(Row { name, found: node.found.clone() });
                }
            }
        }
        let handle = self.number();
        self.listings.lock().insert(handle, Arc::new(Mutex::new(Listing::new(key, local))));
        Ok(handle)
    }

    /// CREATE and MKNOD. Answers the node, which counts a look-up.
    pub fn create(&self, parent: u64, name: &[u8], exclusive: bool) -> Result<u64> {
        self.writable()?;
        let key = self.child(parent, name)?;
        match self.look(&key)? {
            Some(_) if exclusive => return Err(Error::Exists),
            Some(Found::Dir) => return Err(Error::IsDirectory),
            Some(found) => return Ok(self.tree.lock().enter(&key, found)),
            None => {}
        }
        let mut staged = Staged::new(&self.view.folder, false)?;
        let mut etag = None;
        if exclusive {
            etag = self.ask(|bucket| bucket.put(&key, &staged.file, 0, true))?;
            (staged.dirty, staged.stored) = (false, true);
        }
        let now = super::attached::time_of(staged.modified);
        let info = ObjectInfo { key: key.clone(), size: 0, modified: (now.sec, now.nsec), etag };
        let mut tree = self.tree.lock();
        let id = tree.enter(&key, Found::File(info));
        if let Some(node) = tree.get_mut(id) {
            node.staged = Some(Arc::new(Mutex::new(staged)));
        }
        Ok(id)
    }

    /// MKDIR.
    pub fn mkdir(&self, parent: u64, name: &[u8]) -> Result<u64> {
        self.writable()?;
        let key = self.child(parent, name)?;
        if self.look(&key)?.is_some() {
            return Err(Error::Exists);
        }
        self.ask(|bucket| bucket.make_marker(&key))?;
        self.hold(&key);
        Ok(self.tree.lock().enter(&key, Found::Dir))
    }

    /// UNLINK.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.writable()?;
        let key = self.child(parent, name)?;
        match self.look(&key)? {
            None => return Err(Error::NotFound),
            Some(Found::Dir) => return Err(Error::IsDirectory),
            Some(Found::File(_)) => {}
        }
        let _names = self.names.write();
        self.ask(|bucket| bucket.delete(&key))?;
        self.tree.lock().take_name(&key);
        self.hold_parent(&key);
        Ok(())
    }

    /// RMDIR.
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.writable()?;
        let key = self.child(parent, name)?;
        match self.find(&key)? {
            None => return Err(Error::NotFound),
            Some(Found::File(_)) => return Err(Error::NotDirectory),
            Some(Found::Dir) => {}
        }
        self.check_empty(&key)?;
        self.ask(|bucket| bucket.drop_marker(&key))?;
        self.held.lock().remove(&key);
        self.tree.lock().take_name(&key);
        self.hold_parent(&key);
        Ok(())
    }

    fn check_empty(&self, key: &str) -> Result<()> {
        let below = format!("{key}/");
        let page = self.ask(|bucket| bucket.page(&below, false, None, 2))?;
        let is_held = self.held.lock().iter().any(|held| held.starts_with(&below));
        let is_staged = !self.tree.lock().staged_below(key).is_empty();
        if is_held || is_staged || page.objects.iter().any(|object| object.key != *key) {
            return Err(Error::NotEmpty);
        }
        Ok(())
    }

    /// RENAME and RENAME2.
    pub fn rename(&self, parent: u64, name: &[u8], new_parent: u64, new_name: &[u8], flags: u32) -> Result<()> {
        self.writable()?;
        if flags & !NOREPLACE != 0 {
            return Err(Error::Invalid);
        }
        let _names = self.names.write();
        let (from, to) = (self.child(parent, name)?, self.child(new_parent, new_name)?);
        let source = self.look(&from)?.ok_or(Error::NotFound)?;
        let target = self.look(&to)?;
        if flags & NOREPLACE != 0 && target.is_some() {
            return Err(Error::Exists);
        }
        if from == to {
            return Ok(());
        }
        match (&source, target) {
            (Found::File(_), Some(Found::Dir)) => Err(Error::IsDirectory),
            (Found::Dir, Some(Found::File(_))) => Err(Error::NotDirectory),
            (Found::File(_), _) => self.rename_file(&from, &to),
            (Found::Dir, target) => {
                if to.strip_prefix(&from).is_some_and(|rest| rest.starts_with('/')) {
                    return Err(Error::Invalid);
                }
                if target.is_some() {
                    self.check_empty(&to)?;
                }
                self.rename_dir(&from, &to)
            }
        }
    }

    fn rename_file(&self, from: &str, to: &str) -> Result<()> {
        let staged = self.tree.lock().id_of(from);
        if let Some(id) = staged {
            self.commit_named(id)?;
        }
        self.ask(|bucket| bucket.copy(from, to))?;
        self.tree.lock().rename(from, to);
        self.ask(|bucket| bucket.delete(from))?;
        self.hold_parent(from);
        Ok(())
    }

    /// Copies all, then deletes all: what breaks off leaves some of it under both names, and
    /// nothing under none.
    fn rename_dir(&self, from: &str, to: &str) -> Result<()> {
        let staged = self.tree.lock().staged_below(from);
        for (id, _) in staged {
            self.commit_named(id)?;
        }
        let keys = self.keys_below(from)?;
        let renamed = |key: &str| format!("{to}{}", key.strip_prefix(from).unwrap_or_default());
        let mut markers = HashSet::new();
        for (key, size) in keys.iter().filter(|(key, _)| key != from) {
            match self.ask(|bucket| bucket.copy(key, &renamed(key))) {
                // Listings tell of the marker of an empty directory as of an empty object.
                Err(Error::NotFound) if *size == 0 => {
                    self.ask(|bucket| bucket.make_marker(&renamed(key)))?;
                    markers.insert(key);
                }
                copied => copied?,
            }
        }
        self.ask(|bucket| bucket.make_marker(to))?;
        self.tree.lock().rename(from, to);
        {
            let mut held = self.held.lock();
            let below = format!("{from}/");
            let moved: Vec<String> = held.iter().filter(|key| key.starts_with(&below)).cloned().collect();
            let new: HashSet<String> = moved.iter().map(|key| renamed(key)).collect();
            held.retain(|key| *key != from && !key.starts_with(&below));
            held.extend(new);
        }
        self.hold(to);
        for (key, _) in keys.iter().filter(|(key, _)| key != from) {
            if markers.contains(key) {
                self.ask(|bucket| bucket.drop_marker(key))?;
            } else {
                self.ask(|bucket| bucket.delete(key))?;
            }
        }
        self.ask(|bucket| bucket.drop_marker(from))?;
        self.hold_parent(from);
        Ok(())
    }

    fn keys_below(&self, key: &str) -> Result<Vec<(String, u64)>> {
        let (below, mut token) = (format!("{key}/"), None);
        let mut keys = Vec::new();
        loop {
            let page = self.ask(|bucket| bucket.page(&below, false, token.take(), PAGE_KEYS))?;
            keys.extend(page.objects.into_iter().map(|object| (object.key, object.size)));
            if keys.len() > MOST_RENAMED {
                return Err(Error::CrossZone);
            }
            token = page.next;
            if token.is_none() {
                return Ok(keys);
            }
        }
    }
}
