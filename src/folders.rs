//! Stores that are folders of this machine: which may be one, and making it.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::boot::Volume;
use crate::config::CloudPlace;
use crate::error::{Error, Result};

/// How the file `FORMAT` of a data folder begins, and the object `NEXUS` of a store.
const MARKS: [(&str, &str, &str); 2] = [
    ("FORMAT", "nexus volume format ", "the data folder of a volume"),
    ("NEXUS", "nexus volume in an object store", "another store"),
];

/// A folder that was made for a store; goes again with this value unless it is kept.
#[derive(Debug)]
pub(crate) struct Made(Option<PathBuf>);

impl Made {
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            // Not if something is in it.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Sees that a folder can be a store of the volume in `data`, and makes it if only it itself is
/// missing. Other places need nothing.
pub(crate) fn prepare(place: &CloudPlace, data: &Path) -> Result<Made> {
    let Some(folder) = place.url.folder() else { return Ok(Made(None)) };
    let refused = |problem: String| Error::Setting { place: format!("store {}", place.url), problem };
    let real = real(folder).map_err(|error| refused(error.to_string()))?;
    let data = self::real(data).unwrap_or_else(|_| data.to_owned());
    if real.starts_with(&data) || data.starts_with(&real) {
        let problem = format!("it and the data folder {} must not lie in each other: choose another", data.display());
        return Err(refused(problem));
    }
    for above in real.ancestors() {
        for (file, begins, what) in MARKS {
            // The folder's own mark may be this volume's: who asks the store finds out.
            if (above != real || file != "NEXUS") && begins_with(&above.join(file), begins) {
                return Err(refused(format!("{} is {what}: choose a folder outside", above.display())));
            }
        }
    }
    if real.is_dir() {
        return Ok(Made(None));
    }
    DirBuilder::new().mode(0o700).create(&real).map_err(|error| refused(format!("it can't be made: {error}")))?;
    Ok(Made(Some(real)))
}

/// A path without links, of which the last part may be missing.
pub fn real(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
            let missing = |_| {
                let text = format!("{} is not there: mount the disk that it is on, or make it", parent.display());
                io::Error::new(io::ErrorKind::NotFound, text)
            };
            Ok(parent.canonicalize().map_err(missing)?.join(name))
        }
        other => other,
    }
}

fn begins_with(path: &Path, text: &str) -> bool {
    let mut begin = vec![0; text.len()];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut begin));
    read.is_ok() && begin == text.as_bytes()
}

impl Volume {
    /// The folders that are stores of this volume, without links.
    pub fn store_folders(&self) -> Vec<PathBuf> {
        let stores = self.stores.lock();
        let places = stores.stores().iter().map(|store| &store.place).chain(&self.identity().cloud);
        places.filter_map(|place| real(place.url.folder()?).ok()).collect()
    }

    /// Names of stores beside the first that were in memory, and are empty now though files
    /// have content there.
    pub fn emptied_stores(&self) -> Vec<String> {
        let stores = self.stores.lock().stores().to_vec();
        let volatile = stores.into_iter().filter(|store| store.place.url.is_volatile());
        volatile.filter(|store| self.blob_bytes_of(store.id) > 0).map(|store| store.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path) -> CloudPlace {
        let url = format!("file://{}", folder.display()).parse().unwrap();
        CloudPlace { coding: Default::default(), url, endpoint: None, region: None, credentials: None }
    }

    #[test]
    fn folders_that_can_be_no_store_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        for folder in ["data", "other", "store", "free", "links"] {
            fs::create_dir(path(folder)).unwrap();
        }
        fs::write(path("other/FORMAT"), "nexus volume format 1\n").unwrap();
        fs::write(path("store/NEXUS"), "nexus volume in an object store, format 1\n").unwrap();
        std::os::unix::fs::symlink(path("data"), path("links/data")).unwrap();
        for (folder, says) in [
            ("data", "must not lie in each other"),
            ("data/x", "must not lie in each other"),
            ("links/data/x", "must not lie in each other"),
            ("other", "data folder of a volume"),
            ("other/x", "data folder of a volume"),
            ("store/x", "is another store"),
            ("nowhere/x", "make it"),
        ] {
            let problem = prepare(&place(&path(folder)), &path("data")).unwrap_err().to_string();
            assert!(problem.contains(says), "{folder}: {problem}");
        }
        assert!(prepare(&place(scratch.path()), &path("data")).is_err());
        assert!(prepare(&place(&path("store")), &path("data")).is_ok());
        drop(prepare(&place(&path("free/x")), &path("data")).unwrap());
        assert!(!path("free/x").exists());
        prepare(&place(&path("free/x")), &path("data")).unwrap().keep();
        assert!(path("free/x").is_dir());
    }
}
