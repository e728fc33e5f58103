//! Names of the store's own files. Numbers in names are 16 lower-case hex digits.

use std::path::{Path, PathBuf};

use nexus_kernel::BlobId;

/// Where a store's files are.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Open and closed segments, and the counter's file.
    pub segments: PathBuf,
    /// Checksums of sealed blobs.
    pub sums: PathBuf,
}

impl Layout {
    /// The files of the store in `dir`.
    pub fn new(dir: &Path) -> Layout {
        Layout { segments: dir.join("segments"), sums: dir.join("sums") }
    }

    /// A segment's file.
    pub fn segment(&self, id: BlobId) -> PathBuf {
        self.segments.join(format!("{:016x}.seg", id.0))
    }

    /// The checksums of a sealed blob.
    pub fn sum(&self, id: BlobId) -> PathBuf {
        self.sums.join(format!("{:016x}.sum", id.0))
    }

    /// The counter's file.
    pub fn counter(&self) -> PathBuf {
        self.segments.join("counter")
    }

    /// The counter's file while it is being replaced.
    pub fn counter_new(&self) -> PathBuf {
        self.segments.join("counter.new")
    }
}

/// The blob that a file `<16 hex><suffix>` belongs to; `None` for any other name.
pub fn parse_name(name: &str, suffix: &str) -> Option<BlobId> {
    let digits = name.strip_suffix(suffix)?;
    let lower = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if digits.len() != 16 || !lower {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().map(BlobId).filter(|id| id.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        let layout = Layout::new(Path::new("/d"));
        let id = BlobId::new(0xabcdef, 42);
        let path = layout.segment(id);
        assert_eq!(parse_name(path.file_name().unwrap().to_str().unwrap(), ".seg"), Some(id));
        for bad in [
            "",
            ".seg",
            "0.seg",
            "ABCDEF000000002a.seg",
            "abcdef000000002a.sum",
            "+bcdef000000002a.seg",
            "0000000000000000.seg",
        ] {
            assert_eq!(parse_name(bad, ".seg"), None, "{bad}");
        }
    }
}
