//! What the checker tells.

use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Nothing is lost and it goes away by itself, such as a file that waits to be deleted.
    Note,
    /// The volume is damaged.
    Damage,
}

/// Something that the checker found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What is wrong, on what.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Damage => "damage",
        };
        write!(f, "{severity}: {}", self.text)
    }
}

/// What the checker looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckSummary {
    /// Inodes.
    pub inodes: u64,
    /// Names.
    pub dentries: u64,
    /// Extents.
    pub extents: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes held against checksums.
    pub verified_bytes: u64,
    /// Findings of damage.
    pub damage: u64,
    /// Other findings.
    pub notes: u64,
}
