//! The alphabet of the model test: system calls with all their arguments, such that any
//! sequence of them can be run, and any part of a sequence too.

use std::fmt;

/// Who makes the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum User {
    /// The superuser.
    Root,
    /// An ordinary user.
    Alice,
    /// Another, with one group in common with Alice.
    Bob,
}

/// A group that Alice and Bob are both in, beside their own.
pub const SHARED_GROUP: u32 = 62_003;

impl User {
    /// All of them.
    pub const ALL: [User; 3] = [User::Root, User::Alice, User::Bob];

    /// User id; also the id of the user's own group.
    pub fn id(self) -> u32 {
        match self {
            User::Root => 0,
            User::Alice => 62_001,
            User::Bob => 62_002,
        }
    }
}

/// One call, by one user, under a umask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Op {
    /// Who.
    pub user: User,
    /// File mode creation mask.
    pub umask: u32,
    /// Hold the times of what the call touches against each other too. Costs a clock tick.
    pub watch_times: bool,
    /// What.
    pub call: Call,
}

/// Which of the kinds of file `mknod` makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    /// Regular file.
    Regular,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device with this number.
    Char(u32),
    /// Block device with this number.
    Block(u32),
}

/// How `rename` treats its target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameFlag {
    /// Replaces it.
    None,
    /// `RENAME_NOREPLACE`.
    NoReplace,
    /// `RENAME_EXCHANGE`.
    Exchange,
    /// `RENAME_WHITEOUT`.
    Whiteout,
}

/// Modes of `fallocate` that a FUSE file system can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// Plain.
    Plain,
    /// `KEEP_SIZE`.
    KeepSize,
    /// `PUNCH_HOLE | KEEP_SIZE`.
    Punch,
    /// `ZERO_RANGE`.
    Zero,
    /// `ZERO_RANGE | KEEP_SIZE`.
    ZeroKeepSize,
}

/// A time for `utimensat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// `UTIME_NOW`.
    Now,
    /// `UTIME_OMIT`.
    Omit,
    /// Seconds and nanoseconds.
    At(i64, u32),
}

/// Flags of `open`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlags {
    /// May read.
    pub read: bool,
    /// May write.
    pub write: bool,
    /// `O_CREAT`.
    pub create: bool,
    /// `O_EXCL`.
    pub exclusive: bool,
    /// `O_TRUNC`.
    pub truncate: bool,
    /// `O_APPEND`.
    pub append: bool,
    /// `O_DIRECTORY`.
    pub directory: bool,
    /// `O_NOFOLLOW`.
    pub no_follow: bool,
    /// `O_SYNC`.
    pub sync: bool,
}

/// Permission bits, shown in octal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bits(pub u32);

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0o{:o}", self.0)
    }
}

/// An open file of the run.
pub type Slot = u8;
/// How many can be open at once.
pub const SLOTS: Slot = 6;

/// A system call. Paths are relative to the root of the test.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as the system calls name them")]
pub enum Call {
    Open {
        slot: Slot,
        path: String,
        flags: OpenFlags,
        mode: Bits,
    },
    Close {
        slot: Slot,
    },
    Read {
        slot: Slot,
        offset: u64,
        len: usize,
    },
    Write {
        slot: Slot,
        offset: u64,
        len: usize,
        fill: u8,
    },
    /// `write` at the descriptor's own offset.
    WriteOn {
        slot: Slot,
        len: usize,
        fill: u8,
    },
    Truncate {
        slot: Slot,
        size: u64,
    },
    Allocate {
        slot: Slot,
        how: Allocate,
        offset: u64,
        len: u64,
    },
    CopyRange {
        from: Slot,
        from_offset: u64,
        to: Slot,
        to_offset: u64,
        len: usize,
    },
    /// Walks data and holes; checked against the content on each side by itself.
    SeekHoles {
        slot: Slot,
    },
    Sync {
        slot: Slot,
        data_only: bool,
    },
    ReadDir {
        path: String,
    },
    MakeDir {
        path: String,
        mode: Bits,
    },
    MakeNode {
        path: String,
        node: Node,
        mode: Bits,
    },
    Symlink {
        target: String,
        path: String,
    },
    Link {
        from: String,
        to: String,
        follow: bool,
    },
    Unlink {
        path: String,
    },
    RemoveDir {
        path: String,
    },
    Rename {
        from: String,
        to: String,
        flag: RenameFlag,
    },
    Chmod {
        path: String,
        mode: Bits,
    },
    ChmodOpen {
        slot: Slot,
        mode: Bits,
    },
    Chown {
        path: String,
        uid: Option<u32>,
        gid: Option<u32>,
        follow: bool,
    },
    SetTimes {
        path: String,
        atime: When,
        mtime: When,
        follow: bool,
    },
    Access {
        path: String,
        mask: u8,
    },
    Stat {
        path: String,
        follow: bool,
    },
    StatOpen {
        slot: Slot,
    },
    ReadLink {
        path: String,
    },
    StatFs,
    SetXattr {
        path: String,
        name: String,
        value: Vec<u8>,
        create: bool,
        replace: bool,
        follow: bool,
    },
    GetXattr {
        path: String,
        name: String,
        follow: bool,
    },
    RemoveXattr {
        path: String,
        name: String,
        follow: bool,
    },
    ListXattr {
        path: String,
        follow: bool,
    },
}

impl Call {
    /// The paths that the call names.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            Call::Open { path, .. }
            | Call::ReadDir { path }
            | Call::MakeDir { path, .. }
            | Call::MakeNode { path, .. }
            | Call::Symlink { path, .. }
            | Call::Unlink { path }
            | Call::RemoveDir { path }
            | Call::Chmod { path, .. }
            | Call::Chown { path, .. }
            | Call::SetTimes { path, .. }
            | Call::Access { path, .. }
            | Call::Stat { path, .. }
            | Call::ReadLink { path }
            | Call::SetXattr { path, .. }
            | Call::GetXattr { path, .. }
            | Call::RemoveXattr { path, .. }
            | Call::ListXattr { path, .. } => vec![path],
            Call::Link { from, to, .. } | Call::Rename { from, to, .. } => vec![from, to],
            Call::Close { .. }
            | Call::Read { .. }
            | Call::Write { .. }
            | Call::WriteOn { .. }
            | Call::Truncate { .. }
            | Call::Allocate { .. }
            | Call::CopyRange { .. }
            | Call::SeekHoles { .. }
            | Call::Sync { .. }
            | Call::ChmodOpen { .. }
            | Call::StatOpen { .. }
            | Call::StatFs => Vec::new(),
        }
    }

    /// The open files that the call changes.
    pub fn changed_slot(&self) -> Option<Slot> {
        match self {
            Call::Write { slot, .. }
            | Call::WriteOn { slot, .. }
            | Call::Truncate { slot, .. }
            | Call::Allocate { slot, .. }
            | Call::ChmodOpen { slot, .. }
            | Call::Open { slot, .. }
            | Call::CopyRange { to: slot, .. } => Some(*slot),
            _ => None,
        }
    }
}
