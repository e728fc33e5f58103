//! Removes what a zone was put in place of: it is out of sight already, and goes in steps.

use std::ops::ControlFlow;

use super::NexusFs;
use super::directory::entries;
use crate::command::{Command, SmallBytes};
use crate::error::{Error, Result};
use crate::ids::{Ino, ZoneIndex};
use crate::machine::DETACHED_PREFIX;
use crate::metastore::Table;
use crate::model::FileKind;
use crate::zone::Zone;

/// Names that are read at once.
const PAGE: usize = 256;

impl NexusFs {
    /// Removes everything below directories that zones were put in place of; answers how many
    /// names there were. What is cut short goes on with the next call.
    pub fn empty_detached(&self, index: ZoneIndex) -> Result<u64> {
        let zone = self.router.zone(index)?;
        let (mut removed, mut failed) = (0, None);
        for dir in detached(&*zone)? {
            // One may have to wait for another that is below it.
            match self.empty(index, &*zone, dir) {
                Ok(count) => removed += count,
                Err(Error::Stale) => {}
                Err(error) => {
                    failed.get_or_insert(error);
                    continue;
                }
            }
            zone.propose(&Command::SetSys { key: format!("{DETACHED_PREFIX}{dir}"), value: None })?;
        }
        failed.map_or(Ok(removed), Err)
    }

    fn empty(&self, index: ZoneIndex, zone: &dyn Zone, top: Ino) -> Result<u64> {
        let mut removed = 0;
        // The way down: a directory, and the name that it has in the one before.
        let mut way: Vec<(Ino, SmallBytes)> = vec![(top, SmallBytes::new())];
        while let Some((dir, _)) = way.last() {
            let dir = *dir;
            let page = entries(zone, dir, 0, PAGE)?;
            let mut below = None;
            for (_, dentry) in &page {
                let name = SmallBytes::from_slice(&dentry.name);
                match dentry.kind {
                    FileKind::Directory => {
                        below = Some((dentry.ino, name));
                        break;
                    }
                    FileKind::Mount => {
                        let command = Command::UnmountZone { parent: dir, name: name.clone(), now: zone.now() };
                        match zone.propose(&command) {
                            // Another member was faster.
                            Ok(_) | Err(Error::NotFound | Error::Invalid) => {}
                            Err(error) => return Err(error),
                        }
                        below = Some((dentry.ino, name));
                        break;
                    }
                    _ => self.drop_name(
                        index,
                        zone,
                        &Command::Unlink { parent: dir, name, keep: true, now: zone.now() },
                    )?,
                }
                removed += 1;
            }
            match below {
                Some(next) => way.push(next),
                None if !page.is_empty() => {}
                None => {
                    let name = way.pop().map(|(_, name)| name).unwrap_or_default();
                    let Some((parent, _)) = way.last() else { break };
                    let command = Command::RemoveDir { parent: *parent, name, keep: true, now: zone.now() };
                    self.drop_name(index, zone, &command)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    fn drop_name(&self, index: ZoneIndex, zone: &dyn Zone, command: &Command) -> Result<()> {
        match zone.propose(command) {
            Ok(outcome) => {
                self.after_removal(index, zone, &outcome);
                self.clients.removed(index, &outcome);
            }
            // Another member was faster.
            Err(Error::NotFound | Error::Stale) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Directories that are still to be emptied.
fn detached(zone: &dyn Zone) -> Result<Vec<Ino>> {
    let mut found = Vec::new();
    zone.read(&mut |state| {
        found.clear();
        let end = DETACHED_PREFIX.replace('/', "0");
        state.scan(Table::Sys, DETACHED_PREFIX.as_bytes(), end.as_bytes(), &mut |key, _| {
            let number = key.get(DETACHED_PREFIX.len()..).and_then(|text| std::str::from_utf8(text).ok());
            found.extend(number.and_then(|text| text.parse().ok()).map(Ino));
            ControlFlow::Continue(())
        })
    })?;
    Ok(found)
}
