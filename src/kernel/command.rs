//! The typed commands that change a zone, and what applying one answers.
//!
//! Everything that a command needs travels in it: time, inode numbers, the caller's ids.
//! Its encoding is a version byte and postcard; variants and fields are only ever added at
//! the end, under a new version, and golden fixtures hold each version that ever landed.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::ids::{BlobId, Ino, StoreId};
use crate::model::{FileLock, Inode, LockChange, LockSession, Piece, Placement};

/// Newest version of commands that this build knows. A command is written under the oldest
/// version that has it, so that older builds read on as long as they can. No command came with the last two: who knows
/// 8 knows that a zone may have witnesses, and who knows 9 keeps pledges (`nexus-zone`, `raft/pledges.rs`).
pub const COMMAND_VERSION: u8 = 9;
/// Holds a process at an older version, for tests; only in builds with debug assertions.
const VERSION_VARIABLE: &str = "NEXUS_COMMAND_VERSION";

/// Newest version of commands that this process takes and makes.
pub fn known_version() -> u8 {
    static KNOWN: OnceLock<u8> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let held = cfg!(debug_assertions).then(|| std::env::var(VERSION_VARIABLE).ok()).flatten();
        let held = held.and_then(|text| text.parse().ok()).unwrap_or(COMMAND_VERSION);
        held.clamp(1, COMMAND_VERSION)
    })
}

/// What a reader is about to rely on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest<'a> {
    /// Whatever there is.
    Anything,
    /// What a name in a directory stands for, but not the state of that.
    Name(Ino, &'a [u8]),
    /// A file with its content, or a directory with its entries.
    Inode(Ino),
}

/// Bytes of a name or attribute.
pub type SmallBytes = SmallVec<[u8; 32]>;

/// What to create.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NewKind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link to this target.
    Symlink(Vec<u8>),
    /// Named pipe.
    Fifo,
    /// Unix domain socket.
    Socket,
    /// Character device with this number.
    CharDevice(u32),
    /// Block device with this number.
    BlockDevice(u32),
}

/// How a rename treats what stands at the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaces it, if kinds allow.
    Replace,
    /// Fails if there is anything.
    NoReplace,
    /// Swaps the two names; both must exist.
    Exchange,
}

/// Changes of attributes; `None` leaves as is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AttrChange {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner. Setting owner or group of anything but a directory clears setuid and setgid.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes; regular files only. Also sets mtime.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<Timestamp>,
    /// Last change of content.
    pub mtime: Option<Timestamp>,
    /// Clear setuid, setgid (where group-executable) and `security.capability`, as a write
    /// by somebody unprivileged does.
    pub kill_privileges: bool,
}

/// A change of a file's ranges; offsets and lengths in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RangeOp {
    /// Reserve what is a hole; grow the size to cover the range.
    Allocate,
    /// Reserve what is a hole; keep the size.
    AllocateKeepSize,
    /// Make a hole; keep the size.
    PunchHole,
    /// Make reserved zeros; grow the size to cover the range.
    ZeroRange,
    /// Make reserved zeros; keep the size.
    ZeroRangeKeepSize,
    /// Remove the range, move what follows down. Offset and length multiples of 4,096.
    Collapse,
    /// Insert a hole, move what follows up. Offset and length multiples of 4,096.
    Insert,
}

/// Whether setting an attribute may make or replace it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum XattrMode {
    /// Either.
    Set,
    /// Only make.
    Create,
    /// Only replace.
    Replace,
}

/// One extent's move by compaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Relocation {
    /// The file.
    pub ino: Ino,
    /// Where in the file.
    pub offset: u64,
    /// Offset in the blob that is being emptied.
    pub from_offset: u64,
    /// The new place, of the same length.
    pub to: Piece,
}

/// A change of a zone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "fields are named as in the model")]
pub enum Command {
    /// Makes an empty zone with its root directory. The first command of every zone.
    Format { id: [u8; 16], hash_seed: u64, mode: u32, uid: u32, gid: u32, now: Timestamp },
    /// Makes an inode and its first name. Set-group-id and default ACLs of the parent are
    /// inherited here; `umask` counts only where there is no default ACL.
    Create {
        parent: Ino,
        name: SmallBytes,
        ino: Ino,
        kind: NewKind,
        mode: u32,
        umask: u32,
        uid: u32,
        gid: u32,
        now: Timestamp,
    },
    /// Gives an inode one more name.
    Link { ino: Ino, parent: Ino, name: SmallBytes, now: Timestamp },
    /// Takes a name from anything but a directory. With `keep`, an inode without names
    /// stays as an orphan until it is reaped; else it goes at once if it is small.
    Unlink { parent: Ino, name: SmallBytes, keep: bool, now: Timestamp },
    /// Removes an empty directory.
    RemoveDir { parent: Ino, name: SmallBytes, keep: bool, now: Timestamp },
    /// Moves a name. `whiteout` is the inode number of a character device 0:0 to leave at
    /// the source. `keep` as in `Unlink`, for what is replaced.
    Rename {
        parent: Ino,
        name: SmallBytes,
        new_parent: Ino,
        new_name: SmallBytes,
        mode: RenameMode,
        whiteout: Option<Ino>,
        keep: bool,
        now: Timestamp,
    },
    /// Changes attributes; ctime becomes `now`.
    SetAttr { ino: Ino, change: AttrChange, now: Timestamp },
    /// Notes a read, without touching ctime.
    SetAtime { ino: Ino, atime: Timestamp },
    /// Makes bytes that are in blobs the content from `offset` on. Blobs seen for the first
    /// time become known, in `store`.
    Write { ino: Ino, offset: u64, pieces: SmallVec<[Piece; 2]>, store: StoreId, kill_privileges: bool, now: Timestamp },
    /// Changes ranges without new content.
    Range { ino: Ino, op: RangeOp, offset: u64, len: u64, kill_privileges: bool, now: Timestamp },
    /// Makes a range share the content of another (copy_file_range); cut at the source's end.
    Clone { from: Ino, from_offset: u64, to: Ino, to_offset: u64, len: u64, kill_privileges: bool, now: Timestamp },
    /// Sets an extended attribute. An ACL changes the mode bits too; `kill_setgid` then
    /// clears set-group-id, as a caller outside the group makes it.
    SetXattr { ino: Ino, name: SmallBytes, value: Vec<u8>, mode: XattrMode, kill_setgid: bool, now: Timestamp },
    /// Removes an extended attribute.
    RemoveXattr { ino: Ino, name: SmallBytes, now: Timestamp },
    /// Frees orphans, at most `budget` extents in all.
    Reap { inos: Vec<Ino>, budget: u32 },
    /// An open blob has got its last byte.
    SealBlob { blob: BlobId, len: u64 },
    /// Forgets a sealed blob that nothing refers to; its bytes may go once this is durable.
    DropBlob { blob: BlobId },
    /// Moves extents out of `from`; those that changed meanwhile are left alone.
    Relocate { from: BlobId, store: StoreId, moves: Vec<Relocation> },
    /// Sets or removes a setting.
    SetSys { key: String, value: Option<Vec<u8>> },
    /// Makes a regular file without a name, as O_TMPFILE does: an orphan until it is linked.
    /// `parent` is only what set-group-id and default ACLs are inherited from.
    CreateUnnamed { parent: Ino, ino: Ino, mode: u32, umask: u32, uid: u32, gid: u32, now: Timestamp },
    /// Says where new content goes: of the file, or of what is made in the directory from now
    /// on. Since version 2.
    Place { ino: Ino, placement: Placement, now: Timestamp },
    /// Sets inode numbers aside that only the proposer will give to files. The outcome's count
    /// is the first. Since version 3, as all that follow.
    ReserveInos { count: u64 },
    /// Sets or removes a setting if it is `expect`; [`Error::Conflict`] if it is not.
    CompareSys { key: String, expect: Option<Vec<u8>>, value: Option<Vec<u8>> },
    /// Makes pairs of tables' numbers, keys and values a part of the state, in a zone that is
    /// still being filled; [`Error::Invalid`] in any other.
    Import { pairs: Vec<(u8, Vec<u8>, Vec<u8>)>, done: bool },
    /// Puts a zone in place of an empty directory, or, with `replace`, of one with everything
    /// in it, which waits out of sight to be removed. `target` is an encoded
    /// [`crate::model::MountTarget`].
    MountZone { parent: Ino, name: SmallBytes, replace: bool, target: Vec<u8>, now: Timestamp },
    /// Takes a zone out of its place, which becomes an empty directory.
    UnmountZone { parent: Ino, name: SmallBytes, now: Timestamp },
    /// As `Write`, at the end of the file, wherever that is by then: O_APPEND of several nodes.
    /// Since version 4.
    Append { ino: Ino, pieces: SmallVec<[Piece; 2]>, store: StoreId, kill_privileges: bool, now: Timestamp },
    /// Sets or removes the mark at [`crate::machine::PAUSED_KEY`] if it is `expect`;
    /// [`Error::Conflict`] if it is not. While there is one, a replicated zone answers
    /// [`Error::Paused`] to what changes files. Since version 5.
    Pause { expect: Option<Vec<u8>>, mark: Option<Vec<u8>> },
    /// As `MountZone` with `replace`, in a zone that is paused by just this mark, which goes. Since version 5.
    MountFilled { parent: Ino, name: SmallBytes, mark: Vec<u8>, target: Vec<u8>, now: Timestamp },
    /// Takes a lock of a file or gives one back. Since version 6, as all that follow.
    SetLock { ino: Ino, lock: FileLock, change: LockChange },
    /// Ends all locks of the session and of earlier ones of its member.
    EndLocks { session: LockSession },
    /// Does this while the session's locks hold; [`Error::LockLost`] if they do not. Never one within another.
    Fenced { session: LockSession, command: Box<Command> },
    /// As `Write`, several one after the other, each at its offset. Since version 7.
    WriteMany { ino: Ino, writes: Vec<FileRange>, store: StoreId, kill_privileges: bool, now: Timestamp },
}

/// Content of a file from an offset on, as [`Command::WriteMany`] carries it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileRange {
    /// Where in the file it begins.
    pub offset: u64,
    /// Where it is.
    pub pieces: SmallVec<[Piece; 2]>,
}

/// An inode that lost a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// Which.
    pub ino: Ino,
    /// Whether it has no name left and waits to be reaped.
    pub orphaned: bool,
}

/// What applying a command answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// The inode that the command was about, as it is now.
    pub inode: Option<(Ino, Inode)>,
    /// For commands that take or replace a name.
    pub removed: Option<Removed>,
    /// Bytes cloned, orphans left over, or extents moved.
    pub count: u64,
}

impl Command {
    /// Bytes for the log.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(128);
        out.push(self.version());
        postcard::to_extend(self, out).map_err(|error| Error::Io(format!("cannot encode a command: {error}")))
    }

    /// The version that it came with.
    pub fn version(&self) -> u8 {
        match self {
            Command::Place { .. } => 2,
            Command::ReserveInos { .. }
            | Command::CompareSys { .. }
            | Command::Import { .. }
            | Command::MountZone { .. }
            | Command::UnmountZone { .. } => 3,
            Command::Append { .. } => 4,
            Command::Pause { .. } | Command::MountFilled { .. } => 5,
            Command::SetLock { .. } | Command::EndLocks { .. } => 6,
            Command::Fenced { command, .. } => command.version().max(6),
            Command::WriteMany { .. } => 7,
            _ => 1,
        }
    }

    /// A command from the log or the network.
    pub fn decode(bytes: &[u8]) -> Result<Command> {
        let known = known_version();
        match bytes.split_first() {
            Some((&version, _)) if version == 0 || version > known => {
                Err(Error::UnknownVersion(format!("command version {version} is not known; this build knows {known}")))
            }
            Some((_, rest)) if is_nested(rest) => Err(Error::Corrupt("command: one fence within another".into())),
            Some((&version, rest)) => match postcard::take_from_bytes::<Command>(rest) {
                Ok((command, [])) if command.version() <= version => Ok(command),
                Ok((_, [])) => Err(Error::Corrupt(format!("command: not one of version {version}"))),
                Ok((_, more)) => Err(Error::Corrupt(format!("command: {} bytes too many", more.len()))),
                Err(error) => Err(Error::Corrupt(format!("command: {error}"))),
            },
            None => Err(Error::Corrupt("command: empty".into())),
        }
    }

    /// Whether the command gives space back, so that it must work on a full disk.
    pub fn frees_space(&self) -> bool {
        match self {
            Command::Unlink { .. }
            | Command::RemoveDir { .. }
            | Command::Reap { .. }
            | Command::SealBlob { .. }
            | Command::DropBlob { .. }
            | Command::Relocate { .. }
            | Command::RemoveXattr { .. } => true,
            Command::SetSys { value, .. } => value.is_none(),
            Command::SetAttr { change, .. } => change.size.is_some(),
            Command::Range { op, .. } => matches!(op, RangeOp::PunchHole | RangeOp::Collapse),
            Command::Format { .. }
            | Command::Create { .. }
            | Command::CreateUnnamed { .. }
            | Command::Link { .. }
            | Command::Rename { .. }
            | Command::SetAtime { .. }
            | Command::Write { .. }
            | Command::Append { .. }
            | Command::WriteMany { .. }
            | Command::Clone { .. }
            | Command::SetXattr { .. }
            | Command::Place { .. }
            | Command::ReserveInos { .. }
            | Command::Import { .. }
            | Command::MountZone { .. }
            | Command::MountFilled { .. } => false,
            Command::CompareSys { value, .. } => value.is_none(),
            Command::Pause { mark, .. } => mark.is_none(),
            Command::UnmountZone { .. } | Command::EndLocks { .. } => true,
            Command::SetLock { change, .. } => matches!(change, LockChange::Release | LockChange::Cancel(_)),
            Command::Fenced { command, .. } => command.frees_space(),
        }
    }

    /// The command itself, without the condition that it is under.
    pub fn unfenced(&self) -> &Command {
        match self {
            Command::Fenced { command, .. } => command,
            other => other,
        }
    }

    /// Whether the command is applied in a zone that is paused, as it changes no file.
    pub fn passes_pause(&self) -> bool {
        matches!(
            self,
            Command::SetSys { .. }
                | Command::CompareSys { .. }
                | Command::ReserveInos { .. }
                | Command::Pause { .. }
                | Command::MountFilled { .. }
                | Command::EndLocks { .. }
        )
    }

    /// The files and directories that the command names.
    pub fn inodes(&self) -> SmallVec<[Ino; 2]> {
        match self {
            Command::Create { parent, .. }
            | Command::CreateUnnamed { parent, .. }
            | Command::Unlink { parent, .. }
            | Command::RemoveDir { parent, .. }
            | Command::MountZone { parent, .. }
            | Command::MountFilled { parent, .. }
            | Command::UnmountZone { parent, .. } => SmallVec::from_slice(&[*parent]),
            Command::Link { ino: one, parent: other, .. }
            | Command::Rename { parent: one, new_parent: other, .. }
            | Command::Clone { from: one, to: other, .. } => SmallVec::from_slice(&[*one, *other]),
            Command::SetAttr { ino, .. }
            | Command::SetAtime { ino, .. }
            | Command::Write { ino, .. }
            | Command::Append { ino, .. }
            | Command::WriteMany { ino, .. }
            | Command::Range { ino, .. }
            | Command::SetXattr { ino, .. }
            | Command::RemoveXattr { ino, .. }
            | Command::Place { ino, .. }
            | Command::SetLock { ino, .. } => SmallVec::from_slice(&[*ino]),
            Command::Fenced { command, .. } => command.inodes(),
            Command::Reap { inos, .. } => SmallVec::from_slice(inos),
            Command::Relocate { moves, .. } => moves.iter().map(|relocation| relocation.ino).collect(),
            Command::Format { .. }
            | Command::SealBlob { .. }
            | Command::DropBlob { .. }
            | Command::SetSys { .. }
            | Command::ReserveInos { .. }
            | Command::CompareSys { .. }
            | Command::Import { .. }
            | Command::Pause { .. }
            | Command::EndLocks { .. } => SmallVec::new(),
        }
    }

    /// Whether it is certain, whatever the state, that applying the command changes nothing of `interest`.
    pub fn spares(&self, interest: Interest<'_>) -> bool {
        match (self, interest) {
            (_, Interest::Anything) => false,
            (Command::Fenced { command, .. }, _) => command.spares(interest),
            (Command::ReserveInos { .. }, _) => true,
            (Command::Create { parent, name, .. }, Interest::Name(dir, looked)) => {
                *parent != dir || name.as_slice() != looked
            }
            (Command::Create { parent, ino, .. }, Interest::Inode(looked)) => *parent != looked && *ino != looked,
            (
                Command::SetAttr { .. }
                | Command::SetAtime { .. }
                | Command::Write { .. }
                | Command::Append { .. }
                | Command::WriteMany { .. },
                Interest::Name(..),
            ) => true,
            (
                Command::SetAttr { ino, .. }
                | Command::SetAtime { ino, .. }
                | Command::Write { ino, .. }
                | Command::Append { ino, .. }
                | Command::WriteMany { ino, .. },
                Interest::Inode(looked),
            ) => *ino != looked,
            _ => false,
        }
    }

    /// Whether the command may take a name from one of the inodes that it changes, or give it to another.
    pub fn takes_names(&self) -> bool {
        match self.unfenced() {
            Command::Unlink { .. } | Command::RemoveDir { .. } | Command::Rename { .. } | Command::Import { .. } => {
                true
            }
            command => command.moves_mounts(),
        }
    }

    /// Whether the command changes where a zone stands.
    pub fn moves_mounts(&self) -> bool {
        matches!(
            self,
            Command::MountZone { .. }
                | Command::UnmountZone { .. }
                | Command::MountFilled { .. }
                | Command::Import { .. }
        )
    }

    /// Whether the command looks after content, which is done again later if it is refused now.
    pub fn is_upkeep(&self) -> bool {
        matches!(self, Command::SealBlob { .. } | Command::DropBlob { .. } | Command::Relocate { .. })
    }

    /// The pieces of new content that the command makes the metadata point at.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        let (written, ranges, moved): (&[Piece], &[FileRange], &[Relocation]) = match self.unfenced() {
            Command::Write { pieces, .. } | Command::Append { pieces, .. } => (pieces, &[], &[]),
            Command::WriteMany { writes, .. } => (&[], writes, &[]),
            Command::Relocate { moves, .. } => (&[], &[], moves),
            _ => (&[], &[], &[]),
        };
        let ranges = ranges.iter().flat_map(|range| range.pieces.iter());
        written.iter().chain(ranges).chain(moved.iter().map(|relocation| &relocation.to))
    }
}

/// Number of [`Command::Fenced`] in the encoding.
const FENCED: u32 = 30;

/// Whether an encoded command, without its version, is a fence within a fence: found before it is
/// decoded, so that no depth of them is ever gone into.
fn is_nested(bytes: &[u8]) -> bool {
    matches!(postcard::take_from_bytes::<(u32, u64, u64, u32)>(bytes), Ok(((FENCED, _, _, FENCED), _)))
}
