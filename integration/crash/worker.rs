//! A worker: makes random, always possible actions in a folder of its own, and notes the
//! order in which they were started and acknowledged.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{CWD, FallocateFlags, RenameFlags, XattrFlags};

use crate::crash::shadow::{Action, Is, Shadow, XATTR};
use crate::random::Random;

/// An action with its place in the order of all workers' actions.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was done.
    pub action: Action,
    /// Number of the event of its start.
    pub started: u64,
    /// Number of the event of its acknowledgement, if it came.
    pub acked: Option<u64>,
}

/// What all workers share.
#[derive(Default)]
pub struct Shared {
    /// Numbers of events.
    pub events: AtomicU64,
    /// Actions acknowledged.
    pub acked: AtomicU64,
    /// From now on the file system may fail.
    pub cut: AtomicBool,
    /// All are to end.
    pub stop: AtomicBool,
}

/// Makes actions until one fails or `shared.stop` is set. Answers all, and the error of the
/// last, if it came before the cut.
pub fn run(
    root: &Path,
    mut shadow: Shadow,
    seed: u64,
    max_bytes: usize,
    shared: &Shared,
) -> (Vec<Step>, Option<io::Error>) {
    let mut random = Random::new(seed);
    let mut steps = Vec::new();
    while !shared.stop.load(Ordering::Acquire) {
        let action = choose(&shadow, &mut random, max_bytes);
        let started = shared.events.fetch_add(1, Ordering::SeqCst);
        let result = perform(root, &action);
        let acked = result.is_ok().then(|| shared.events.fetch_add(1, Ordering::SeqCst));
        shadow.apply(&action);
        steps.push(Step { action, started, acked });
        match result {
            Ok(()) => shared.acked.fetch_add(1, Ordering::Release),
            Err(error) => return (steps, (!shared.cut.load(Ordering::Acquire)).then_some(error)),
        };
    }
    (steps, None)
}

/// A random action that is possible in `shadow`.
pub fn choose(shadow: &Shadow, random: &mut Random, max_bytes: usize) -> Action {
    loop {
        if let Some(action) = propose(shadow, random, max_bytes) {
            return action;
        }
    }
}

fn a_name(random: &mut Random) -> String {
    let file = format!("f{}", random.below(6));
    match random.below(3) {
        0 => file,
        _ => format!("d{}/{file}", random.below(3)),
    }
}

fn propose(shadow: &Shadow, random: &mut Random, max_bytes: usize) -> Option<Action> {
    let (name, other) = (a_name(random), a_name(random));
    let folder = format!("d{}", random.below(3));
    let parent_is_there = |name: &str| name.split_once('/').is_none_or(|(parent, _)| shadow.is(parent) == Is::Dir);
    let file = |name: &str| shadow.is(name) == Is::File;
    let offset = random.below(max_bytes as u64 / 2) as usize;
    let len = 1 + random.below(max_bytes as u64 / 4) as usize;
    if !parent_is_there(&name) {
        let (folder, _) = name.split_once('/')?;
        return (shadow.is(folder) == Is::Free).then(|| Action::MakeDir { name: folder.to_owned() });
    }
    match random.weighted([12, 14, 4, 3, 3, 2, 5, 8, 2, 3, 2, 3, 3, 5]) {
        0 => (shadow.is(&name) == Is::Free).then_some(Action::Create { name }),
        1 => file(&name).then(|| {
            let offset = if random.one_in(2) { shadow.size(&name).min(max_bytes) } else { offset };
            Action::Write { name, offset, bytes: random.bytes(len) }
        }),
        2 => file(&name).then_some(Action::Truncate { name, size: offset }),
        3 => file(&name).then_some(Action::Punch { name, offset, len }),
        4 => {
            let len = len.min(shadow.size(&name));
            let from_offset = random.below((shadow.size(&name) - len) as u64 + 1) as usize;
            (file(&name) && file(&other) && !shadow.same(&name, &other) && len > 0).then_some(Action::Copy {
                from: name,
                from_offset,
                to: other,
                to_offset: offset,
                len,
            })
        }
        5 => (shadow.is(&folder) == Is::Dir && !shadow.has_entries(&folder))
            .then_some(Action::RemoveDir { name: folder }),
        6 => matches!(shadow.is(&name), Is::File | Is::Symlink).then_some(Action::Unlink { name }),
        7 => (shadow.is(&name) != Is::Free && parent_is_there(&other))
            .then_some(Action::Rename { from: name, to: other }),
        8 => (shadow.is(&name) != Is::Free && shadow.is(&other) != Is::Free)
            .then_some(Action::Exchange { from: name, to: other }),
        9 => (file(&name) && parent_is_there(&other) && shadow.is(&other) == Is::Free)
            .then_some(Action::Link { from: name, to: other }),
        10 => (shadow.is(&name) == Is::Free).then_some(Action::Symlink { target: other, name }),
        11 => file(&name).then(|| Action::Chmod { name, mode: 0o600 | random.below(0o200) as u32 }),
        12 => file(&name).then(|| {
            let len = random.below(300) as usize;
            Action::SetXattr { name, value: random.bytes(len) }
        }),
        _ if random.one_in(2) => file(&name).then_some(Action::Sync { name }),
        _ => (shadow.is(&folder) == Is::Dir).then_some(Action::Sync { name: folder }),
    }
}

/// Does it for real.
pub fn perform(root: &Path, action: &Action) -> io::Result<()> {
    let at = |name: &str| root.join(name);
    let open = |name: &str| OpenOptions::new().read(true).write(true).open(at(name));
    match action {
        Action::Create { name } => {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(at(name))?;
            drop(file);
            Ok(())
        }
        Action::Write { name, offset, bytes } => match open(name)?.write_at(bytes, *offset as u64)? {
            count if count == bytes.len() => Ok(()),
            _ => Err(io::Error::other("a short write")),
        },
        Action::Truncate { name, size } => open(name)?.set_len(*size as u64),
        Action::Punch { name, offset, len } => {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(rustix::fs::fallocate(open(name)?, how, *offset as u64, *len as u64)?)
        }
        Action::Copy { from, from_offset, to, to_offset, len } => {
            let (mut off_in, mut off_out) = (*from_offset as u64, *to_offset as u64);
            let (from, to) = (open(from)?, open(to)?);
            match rustix::fs::copy_file_range(from, Some(&mut off_in), to, Some(&mut off_out), *len)? {
                count if count == *len => Ok(()),
                _ => Err(io::Error::other("a short copy")),
            }
        }
        Action::MakeDir { name } => fs::DirBuilder::new().mode(0o755).create(at(name)),
        Action::RemoveDir { name } => fs::remove_dir(at(name)),
        Action::Unlink { name } => fs::remove_file(at(name)),
        Action::Rename { from, to } => fs::rename(at(from), at(to)),
        Action::Exchange { from, to } => {
            Ok(rustix::fs::renameat_with(CWD, at(from), CWD, at(to), RenameFlags::EXCHANGE)?)
        }
        Action::Link { from, to } => fs::hard_link(at(from), at(to)),
        Action::Symlink { target, name } => std::os::unix::fs::symlink(target, at(name)),
        Action::Chmod { name, mode } => fs::set_permissions(at(name), fs::Permissions::from_mode(*mode)),
        Action::SetXattr { name, value } => Ok(rustix::fs::setxattr(at(name), XATTR, value, XattrFlags::empty())?),
        Action::Sync { name } => File::open(at(name))?.sync_all(),
    }
}
