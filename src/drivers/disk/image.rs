//! Content of one simulated file: what programs see, what is on the medium for sure, and
//! the changes between the two, of which a power cut keeps some.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use nexus_kernel::error::{Error, Result};

/// Bytes that the medium writes at once: a power cut keeps all of a page's write or none.
pub const PAGE: u64 = 4096;

type Page = [u8; PAGE as usize];

/// One page for all zeros, so that a log filled with zeros ahead of use costs no memory.
static ZEROS: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new([0; PAGE as usize]));

/// A sparse array of bytes.
#[derive(Clone, Default)]
pub struct Image {
    len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

/// A change that has not been synced.
#[derive(Clone)]
enum Change {
    /// Bytes within one page.
    Write {
        page: u64,
        start: usize,
        bytes: Piece,
    },
    SetLen(u64),
    Allocate {
        offset: u64,
        len: u64,
    },
    Punch {
        offset: u64,
        len: u64,
    },
}

/// Bytes of a write; a whole page shares its memory with the images.
#[derive(Clone)]
enum Piece {
    Whole(Arc<Page>),
    Part(Box<[u8]>),
}

/// A file with its history since the last sync.
#[derive(Clone, Default)]
pub struct FileState {
    now: Image,
    durable: Image,
    pending: Vec<Change>,
}

impl Image {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of pages that are there.
    pub fn stored_bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// Fills `buf` from `offset`; the range lies within the length.
    fn read(&self, buf: &mut [u8], offset: u64) {
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let start = (at % PAGE) as usize;
            let step = rest.len().min(PAGE as usize - start);
            let (head, tail) = rest.split_at_mut(step);
            match self.pages.get(&(at / PAGE)).and_then(|page| page.get(start..start + step)) {
                Some(bytes) => head.copy_from_slice(bytes),
                None => head.fill(0),
            }
            at += step as u64;
            rest = tail;
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { page, start, bytes } => {
                let end = match bytes {
                    Piece::Whole(whole) => {
                        self.pages.insert(*page, whole.clone());
                        PAGE as usize
                    }
                    Piece::Part(part) => {
                        let target = Arc::make_mut(self.pages.entry(*page).or_insert_with(|| ZEROS.clone()));
                        if let Some(target) = target.get_mut(*start..*start + part.len()) {
                            target.copy_from_slice(part);
                        }
                        *start + part.len()
                    }
                };
                self.len = self.len.max(page * PAGE + end as u64);
            }
            Change::SetLen(len) => {
                if *len < self.len {
                    self.zero(*len, self.len - *len);
                    self.pages.split_off(&len.div_ceil(PAGE));
                }
                self.len = *len;
            }
            Change::Allocate { offset, len } => {
                for page in offset / PAGE..(offset + len).div_ceil(PAGE) {
                    self.pages.entry(page).or_insert_with(|| ZEROS.clone());
                }
                self.len = self.len.max(offset + len);
            }
            Change::Punch { offset, len } => self.zero(*offset, *len),
        }
    }

    /// Makes a range read as zeros; whole pages go.
    fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let touched: Vec<u64> = self.pages.range(offset / PAGE..end.div_ceil(PAGE)).map(|(page, _)| *page).collect();
        for page in touched {
            let (first, last) = (page * PAGE, (page + 1) * PAGE);
            if offset <= first && last <= end {
                self.pages.remove(&page);
            } else if let Some(bytes) = self.pages.get_mut(&page) {
                let (from, to) = (offset.max(first) - first, end.min(last) - first);
                if let Some(bytes) = Arc::make_mut(bytes).get_mut(from as usize..to as usize) {
                    bytes.fill(0);
                }
            }
        }
    }
}

impl FileState {
    /// What programs see.
    pub fn now(&self) -> &Image {
        &self.now
    }

    /// Fills `buf`, or answers false if the file ends before.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> bool {
        let fits = offset.checked_add(buf.len() as u64).is_some_and(|end| end <= self.now.len);
        if fits {
            self.now.read(buf, offset);
        }
        fits
    }

    /// Pages that a write or allocation of this range would add.
    pub fn missing_bytes(&self, offset: u64, len: u64) -> u64 {
        let pages = offset / PAGE..offset.saturating_add(len).div_ceil(PAGE);
        let there = self.now.pages.range(pages.clone()).count() as u64;
        (pages.end.saturating_sub(pages.start)).saturating_sub(there) * PAGE
    }

    pub fn write(&mut self, data: &[u8], offset: u64) -> Result<()> {
        offset.checked_add(data.len() as u64).ok_or(Error::FileTooLarge)?;
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let start = (at % PAGE) as usize;
            let (head, tail) = rest.split_at(rest.len().min(PAGE as usize - start));
            let bytes = match <&Page>::try_from(head) {
                Ok(whole) if whole.iter().all(|b| *b == 0) => Piece::Whole(ZEROS.clone()),
                Ok(whole) => Piece::Whole(Arc::new(*whole)),
                Err(_) => Piece::Part(head.into()),
            };
            self.change(Change::Write { page: at / PAGE, start, bytes });
            at += head.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    pub fn set_len(&mut self, len: u64) {
        self.change(Change::SetLen(len));
    }

    pub fn allocate(&mut self, offset: u64, len: u64) -> Result<()> {
        offset.checked_add(len).ok_or(Error::FileTooLarge)?;
        self.change(Change::Allocate { offset, len });
        Ok(())
    }

    pub fn punch(&mut self, offset: u64, len: u64) {
        self.change(Change::Punch { offset, len });
    }

    fn change(&mut self, change: Change) {
        self.now.apply(&change);
        self.pending.push(change);
    }

    /// Everything so far is on the medium.
    pub fn sync(&mut self) {
        for change in self.pending.drain(..) {
            self.durable.apply(&change);
        }
    }

    /// Changes a byte on the medium, unseen by anybody.
    pub fn damage(&mut self, offset: u64, mask: u8) {
        for image in [&mut self.now, &mut self.durable] {
            let mut byte = [0];
            image.read(&mut byte, offset);
            let (page, start) = (offset / PAGE, (offset % PAGE) as usize);
            let bytes = Piece::Part(Box::new([byte.first().copied().unwrap_or(0) ^ mask]));
            image.apply(&Change::Write { page, start, bytes });
        }
    }

    /// What a power cut leaves: the synced state, then in their order some of the changes
    /// since. Lengths, allocations and holes go through the file system's journal, so of
    /// those a prefix is kept; of written pages any subset.
    pub fn cut(&self, random: &mut Random) -> FileState {
        let mut left = self.durable.clone();
        let journal = |change: &Change| !matches!(change, Change::Write { .. });
        let journaled = self.pending.iter().filter(|change| journal(change)).count() as u64;
        let mut journal_left = random.up_to(journaled);
        let percent = match random.up_to(4) {
            0 => 0,
            1 => 100,
            2 => 10,
            3 => 50,
            _ => 90,
        };
        for change in &self.pending {
            let keep = match (journal(change), journal_left) {
                (true, 0) => false,
                (true, _) => {
                    journal_left -= 1;
                    true
                }
                (false, _) => random.up_to(99) < percent,
            };
            if keep {
                left.apply(change);
            }
        }
        FileState { now: left.clone(), durable: left, pending: Vec::new() }
    }
}

/// SplitMix64: the same seed gives the same cut on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `max`, both included.
    pub fn up_to(&mut self, max: u64) -> u64 {
        self.next() % max.saturating_add(1).max(1)
    }
}
