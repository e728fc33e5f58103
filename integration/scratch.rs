//! Temporary folders and loop-mounted images, gone when their owner is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::UnmountFlags;

use crate::failure::{Check, During, fail};
use crate::tool::Tool;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder of our own, open to all users, removed with its content in the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new folder in `parent`.
    pub fn new(parent: &Path, name: &str) -> Check<Scratch> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{name}.{}.{number}", std::process::id()));
        fs::create_dir(&path).during(format!("cannot make {}", path.display()))?;
        let scratch = Scratch(path);
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755))?;
        Ok(scratch)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A new folder in it, open to all users.
    pub fn folder(&self, name: &str) -> Check<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// A file system of the machine's own, in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageKind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

impl ImageKind {
    /// As mount(8) names it.
    pub fn name(self) -> &'static str {
        match self {
            ImageKind::Ext4 => "ext4",
            ImageKind::Xfs => "xfs",
        }
    }
}

/// A mounted image; unmounted in the end. The file goes with the folder that it lies in.
pub struct Image {
    file: PathBuf,
    point: PathBuf,
    kind: ImageKind,
}

impl Image {
    /// Makes an image of `megabytes` MiB in `scratch` and mounts it there.
    pub fn new(scratch: &Scratch, kind: ImageKind, megabytes: u64) -> Check<Image> {
        let file = scratch.path().join("image");
        fs::File::create(&file)?.set_len(megabytes << 20)?;
        let make = match kind {
            ImageKind::Ext4 => Tool::new("mkfs.ext4").args(["-q", "-F"]),
            ImageKind::Xfs => Tool::new("mkfs.xfs").args(["-q", "-f"]),
        };
        make.arg(&file).ok()?;
        let image = Image { file, point: scratch.folder("disk")?, kind };
        image.mount()?;
        Ok(image)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// Stops the file system at once, as if its disk had lost power: what is only in its
    /// journal's memory is lost, and every later operation fails.
    pub fn cut_power(&self) -> Check {
        Tool::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.point).ok().map(|_| ())
    }

    /// Mounts it again after [`Image::cut_power`], which replays its journal.
    pub fn restore_power(&self) -> Check {
        rustix::mount::unmount(&self.point, UnmountFlags::empty()).during("cannot unmount the image")?;
        self.mount()
    }

    fn mount(&self) -> Check {
        Tool::new("mount").args(["-t", self.kind.name(), "-o", "loop"]).arg(&self.file).arg(&self.point).ok()?;
        match fs::set_permissions(&self.point, fs::Permissions::from_mode(0o755)) {
            Ok(()) => Ok(()),
            Err(error) => fail!("the image does not answer: {error}"),
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.point, UnmountFlags::empty()) {
            eprintln!("cannot unmount {}: {error}; detaching it", self.point.display());
            let _ = rustix::mount::unmount(&self.point, UnmountFlags::DETACH);
        }
    }
}
