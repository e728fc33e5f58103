//! What the checker remembers of each inode.

use std::collections::HashMap;

use nexus_kernel::Ino;
use nexus_kernel::model::FileKind;

const PAGE: u64 = 512;

/// What is known of an inode.
#[derive(Clone, Copy, Default, Debug)]
pub struct Mark {
    /// Its kind, once it was listed.
    pub kind: Option<FileKind>,
    /// Names seen.
    pub links: u32,
    /// A directory whose entries were counted, or a file whose extents were.
    pub counted: bool,
    /// A directory from which the way up leads to the root.
    pub rooted: bool,
    /// It waits to be reaped.
    pub orphan: bool,
}

/// Marks by inode number; numbers in use lie close together.
#[derive(Default)]
pub struct Marks {
    pages: HashMap<u64, Vec<Mark>>,
}

impl Marks {
    /// An inode's mark.
    pub fn get(&self, ino: Ino) -> Mark {
        let page = self.pages.get(&(ino.0 / PAGE));
        page.and_then(|page| page.get((ino.0 % PAGE) as usize)).copied().unwrap_or_default()
    }

    /// Changes an inode's mark.
    pub fn change(&mut self, ino: Ino, change: impl FnOnce(&mut Mark)) {
        let page = self.pages.entry(ino.0 / PAGE).or_insert_with(|| vec![Mark::default(); PAGE as usize]);
        if let Some(mark) = page.get_mut((ino.0 % PAGE) as usize) {
            change(mark);
        }
    }
}
