//! Operations on a file tree: made up at random so that they succeed, done to the model and
//! to a file system.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexus_kernel::command::{AttrChange, NewKind, RangeOp, RenameMode, XattrMode};
use nexus_kernel::fs::{Caller, OpenOptions, XattrFlags};
use nexus_kernel::{NexusFs, NodeId, Result};

use super::Random;
use super::model::{Id, Inode, Kind, Model};

/// Longest file in bytes.
const MAX_FILE: u64 = 300_000;
const MAX_DIRS: usize = 8;
const NAMES: u64 = 12;

/// One operation. Inodes are the model's.
#[derive(Clone, Debug)]
pub enum Operation {
    Create {
        parent: Id,
        name: String,
    },
    Mkdir {
        parent: Id,
        name: String,
    },
    Symlink {
        parent: Id,
        name: String,
        target: String,
    },
    Write {
        file: Id,
        offset: u64,
        data: Vec<u8>,
    },
    Truncate {
        file: Id,
        len: u64,
    },
    Chmod {
        id: Id,
        mode: u32,
    },
    Punch {
        file: Id,
        offset: u64,
        len: u64,
    },
    Clone {
        from: Id,
        from_offset: u64,
        to: Id,
        to_offset: u64,
        len: u64,
    },
    Rename {
        parent: Id,
        name: String,
        new_parent: Id,
        new_name: String,
        exchange: bool,
    },
    Link {
        file: Id,
        parent: Id,
        name: String,
    },
    Unlink {
        parent: Id,
        name: String,
    },
    Rmdir {
        parent: Id,
        name: String,
    },
    SetXattr {
        id: Id,
        name: String,
        value: Vec<u8>,
    },
    RemoveXattr {
        id: Id,
        name: String,
    },
    /// Makes everything so far durable.
    Fsync {
        id: Id,
    },
}

impl Operation {
    /// An operation that succeeds on `model`.
    pub fn random(random: &mut Random, model: &Model) -> Operation {
        loop {
            if let Some(operation) = Operation::try_random(random, model) {
                return operation;
            }
        }
    }

    fn try_random(random: &mut Random, model: &Model) -> Option<Operation> {
        let paths = model.paths();
        let of_kind = |wanted: fn(&Kind) -> bool| -> Vec<Id> {
            paths.iter().map(|(_, id)| *id).filter(|id| wanted(&model.inodes[id].kind)).collect()
        };
        let dirs = of_kind(|kind| matches!(kind, Kind::Dir(_)));
        let files = of_kind(|kind| matches!(kind, Kind::File(_)));
        let parent = *random.one_of(&dirs)?;
        let name = format!("n{}", random.below(NAMES));
        let free = !model.dir(parent).contains_key(&name);
        let child = model.dir(parent).get(&name).copied();
        match random.below(100) {
            0..=15 if free => Some(Operation::Create { parent, name }),
            16..=18 if free && dirs.len() < MAX_DIRS => Some(Operation::Mkdir { parent, name }),
            19..=20 if free => {
                let target = format!("../somewhere/{}", random.next());
                Some(Operation::Symlink { parent, name, target })
            }
            21..=50 => {
                let file = *random.one_of(&files)?;
                let len = model.content(file).len() as u64;
                let offset = match random.below(4) {
                    0 => 0,
                    1 | 2 => len,
                    _ => random.below(len + 5000),
                };
                let bytes = match random.below(12) {
                    0 => 1 + random.below(100_000),
                    1..=4 => 4096 * (1 + random.below(4)),
                    _ => 1 + random.below(6000),
                };
                (offset + bytes <= MAX_FILE).then(|| Operation::Write { file, offset, data: random.bytes(bytes) })
            }
            51..=54 => {
                let file = *random.one_of(&files)?;
                let len = random.below(model.content(file).len() as u64 + 3000);
                Some(Operation::Truncate { file, len })
            }
            55..=56 => Some(Operation::Chmod { id: child?, mode: random.below(0o1000) as u32 }),
            57..=58 => {
                let file = *random.one_of(&files)?;
                let offset = random.below(model.content(file).len() as u64 + 1);
                Some(Operation::Punch { file, offset, len: 1 + random.below(20_000) })
            }
            59..=61 => {
                let (from, to) = (*random.one_of(&files)?, *random.one_of(&files)?);
                let from_offset = random.below(model.content(from).len() as u64 + 1);
                let to_offset = random.below(model.content(to).len() as u64 + 1);
                let len = random.below(30_000).min(model.content(from).len() as u64 - from_offset);
                let fits = from != to && len > 0 && to_offset + len <= MAX_FILE;
                fits.then_some(Operation::Clone { from, from_offset, to, to_offset, len })
            }
            62..=71 => {
                let (id, new_parent) = (child?, *random.one_of(&dirs)?);
                let new_name = format!("n{}", random.below(NAMES));
                let target = model.dir(new_parent).get(&new_name).copied();
                // Directories move within their parent only, so that no loop can come to be.
                let sound = |id: Id| !model.is_dir(id) || parent == new_parent;
                let exchange = random.below(4) == 0;
                let legal = match target {
                    _ if (parent, &name) == (new_parent, &new_name) => false,
                    None => sound(id) && !exchange,
                    Some(target) if exchange => sound(id) && sound(target) && id != target,
                    Some(target) => {
                        let replaceable = match (model.is_dir(id), model.is_dir(target)) {
                            (true, true) => model.dir(target).is_empty(),
                            (false, false) => id != target,
                            _ => false,
                        };
                        sound(id) && replaceable
                    }
                };
                legal.then_some(Operation::Rename { parent, name, new_parent, new_name, exchange })
            }
            72..=75 if free => Some(Operation::Link { file: *random.one_of(&files)?, parent, name }),
            76..=84 => (!model.is_dir(child?)).then_some(Operation::Unlink { parent, name }),
            85..=86 => {
                let id = child?;
                (model.is_dir(id) && model.dir(id).is_empty()).then_some(Operation::Rmdir { parent, name })
            }
            87..=88 => {
                let value = {
                    let len = random.below(300);
                    random.bytes(len)
                };
                let name = format!("user.x{}", random.below(3));
                Some(Operation::SetXattr { id: *random.one_of(&files)?, name, value })
            }
            89 => {
                let id = *random.one_of(&files)?;
                let name = model.inodes[&id].xattrs.keys().next()?.clone();
                Some(Operation::RemoveXattr { id, name })
            }
            90..=95 => Some(Operation::Fsync { id: *random.one_of(&files)? }),
            96 => Some(Operation::Fsync { id: parent }),
            _ => None,
        }
    }

    /// Does it to the model.
    pub fn apply(&self, model: &mut Model) {
        let add = |model: &mut Model, parent: Id, name: &String, kind: Kind, mode: u32| {
            let id = model.next;
            model.next += 1;
            model.inodes.insert(id, Inode { kind, mode, xattrs: BTreeMap::new() });
            model.dir_mut(parent).insert(name.clone(), id);
        };
        match self {
            Operation::Create { parent, name } => add(model, *parent, name, Kind::File(Arc::default()), 0o644),
            Operation::Mkdir { parent, name } => add(model, *parent, name, Kind::Dir(BTreeMap::new()), 0o755),
            Operation::Symlink { parent, name, target } => {
                add(model, *parent, name, Kind::Symlink(target.clone()), 0o777);
            }
            Operation::Write { file, offset, data } => overwrite(model.content_mut(*file), *offset, data),
            Operation::Truncate { file, len } => model.content_mut(*file).resize(*len as usize, 0),
            Operation::Chmod { id, mode } => model.inodes.get_mut(id).unwrap().mode = *mode,
            Operation::Punch { file, offset, len } => {
                let bytes = model.content_mut(*file);
                let end = (offset + len).min(bytes.len() as u64);
                bytes[*offset as usize..end as usize].fill(0);
            }
            Operation::Clone { from, from_offset, to, to_offset, len } => {
                let source = model.content(*from)[*from_offset as usize..(from_offset + len) as usize].to_vec();
                overwrite(model.content_mut(*to), *to_offset, &source);
            }
            Operation::Rename { parent, name, new_parent, new_name, exchange } => {
                let id = model.dir_mut(*parent).remove(name).unwrap();
                let replaced = model.dir_mut(*new_parent).insert(new_name.clone(), id);
                if *exchange {
                    model.dir_mut(*parent).insert(name.clone(), replaced.unwrap());
                }
            }
            Operation::Link { file, parent, name } => {
                model.dir_mut(*parent).insert(name.clone(), *file);
            }
            Operation::Unlink { parent, name } | Operation::Rmdir { parent, name } => {
                model.dir_mut(*parent).remove(name);
            }
            Operation::SetXattr { id, name, value } => {
                model.inodes.get_mut(id).unwrap().xattrs.insert(name.clone(), value.clone());
            }
            Operation::RemoveXattr { id, name } => {
                model.inodes.get_mut(id).unwrap().xattrs.remove(name);
            }
            Operation::Fsync { .. } => {}
        }
        model.collect();
    }

    /// Does it to `fs`; `nodes` holds the nodes of the model's inodes, and gets the new one,
    /// which will be `next` in the model.
    pub fn run(&self, fs: &NexusFs, nodes: &mut BTreeMap<Id, NodeId>, next: Id) -> Result<()> {
        let caller = Caller::ROOT;
        let at = |nodes: &BTreeMap<Id, NodeId>, id: &Id| nodes[id];
        match self {
            Operation::Create { parent, name } => {
                let parent = at(nodes, parent);
                let (attr, handle) = fs.create(&caller, parent, name.as_bytes(), 0o644, OpenOptions::default())?;
                nodes.insert(next, attr.node);
                fs.release(attr.node, handle)?;
            }
            Operation::Mkdir { parent, name } => {
                let attr = fs.make(&caller, at(nodes, parent), name.as_bytes(), NewKind::Directory, 0o755)?;
                nodes.insert(next, attr.node);
            }
            Operation::Symlink { parent, name, target } => {
                let kind = NewKind::Symlink(target.clone().into_bytes());
                let attr = fs.make(&caller, at(nodes, parent), name.as_bytes(), kind, 0o777)?;
                nodes.insert(next, attr.node);
            }
            Operation::Write { file, offset, data } => {
                let written = fs.write(at(nodes, file), 0, *offset, data, false)?;
                assert_eq!(written, data.len());
            }
            Operation::Truncate { file, len } => {
                let change = AttrChange { size: Some(*len), ..AttrChange::default() };
                fs.setattr(&caller, at(nodes, file), &change)?;
            }
            Operation::Chmod { id, mode } => {
                let change = AttrChange { mode: Some(*mode), ..AttrChange::default() };
                fs.setattr(&caller, at(nodes, id), &change)?;
            }
            Operation::Punch { file, offset, len } => {
                fs.fallocate(at(nodes, file), RangeOp::PunchHole, *offset, *len)?;
            }
            Operation::Clone { from, from_offset, to, to_offset, len } => {
                let copied = fs.copy_file_range(at(nodes, from), *from_offset, at(nodes, to), *to_offset, *len)?;
                assert_eq!(copied, *len);
            }
            Operation::Rename { parent, name, new_parent, new_name, exchange } => {
                let mode = if *exchange { RenameMode::Exchange } else { RenameMode::Replace };
                let (parent, new_parent) = (at(nodes, parent), at(nodes, new_parent));
                fs.rename(parent, name.as_bytes(), new_parent, new_name.as_bytes(), mode, false)?;
            }
            Operation::Link { file, parent, name } => {
                fs.link(at(nodes, file), at(nodes, parent), name.as_bytes())?;
            }
            Operation::Unlink { parent, name } => fs.unlink(at(nodes, parent), name.as_bytes())?,
            Operation::Rmdir { parent, name } => fs.rmdir(at(nodes, parent), name.as_bytes())?,
            Operation::SetXattr { id, name, value } => {
                let flags = XattrFlags { mode: XattrMode::Set, kill_setgid: false };
                fs.setxattr(at(nodes, id), name.as_bytes(), value, flags)?;
            }
            Operation::RemoveXattr { id, name } => fs.removexattr(at(nodes, id), name.as_bytes())?,
            Operation::Fsync { id } => fs.fsync(at(nodes, id), false)?,
        }
        Ok(())
    }
}

fn overwrite(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let end = offset as usize + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset as usize..end].copy_from_slice(data);
}
