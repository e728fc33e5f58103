//! Zones that end: in the trash of this node, deleted here, destroyed for all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nexus_kernel::model::keys;
use nexus_kernel::{Command, Error, Result, Table, Zone, ZoneIndex};

use super::ZoneNode;
use super::joined::JoinedZone;
use super::records::ENDED_KEY;

/// How long others may take to hear that a zone is destroyed.
const OTHERS: Duration = Duration::from_secs(10);
/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(100);

impl ZoneNode {
    /// Deletes all that this node has of a zone, whatever its other members have.
    pub fn forget(&self, joined: &Arc<JoinedZone>) -> Result<()> {
        self.close_one(joined)?;
        self.forget_files(joined.index())
    }

    /// Deletes all that this node has of a zone that can't be opened.
    pub fn forget_closed(&self, index: ZoneIndex) -> Result<()> {
        let mut closed = self.closed.write();
        if !closed.iter().any(|zone| zone.index == Some(index)) {
            return Err(Error::NotFound);
        }
        self.parts.log.activate()?;
        self.forget_files(index)?;
        closed.retain(|zone| zone.index != Some(index));
        Ok(())
    }

    fn forget_files(&self, index: ZoneIndex) -> Result<()> {
        self.folder.remove(index)?;
        self.parts.metastores.remove(index)?;
        self.mirror.remove_zone(index)?;
        self.parts.log.forget(index)
    }

    /// Puts a zone in the trash, since then in seconds since 1970, or takes it out.
    pub fn set_trashed(&self, joined: &JoinedZone, since: Option<i64>) -> Result<()> {
        self.folder.set_trashed(joined.index(), since)
    }

    /// Since when a zone is in the trash, if it is.
    pub fn trashed(&self, joined: &JoinedZone) -> Option<i64> {
        self.folder.trashed(joined.index())
    }

    /// Tells all members, once and for all, that the zone is to be deleted.
    pub fn announce_end(&self, joined: &JoinedZone) -> Result<()> {
        let value = Some(self.parts.name.clone().into_bytes());
        joined.zone().propose(&Command::SetSys { key: ENDED_KEY.to_owned(), value })?;
        joined.note_end()
    }

    /// Waits until all members know that the zone is to be deleted: those that go first would leave
    /// the others without a majority. The names of those that don't.
    pub fn wait_for_end(&self, joined: &JoinedZone) -> Vec<String> {
        let until = Instant::now() + OTHERS;
        loop {
            let left = joined.unaware_of_end();
            if left.is_empty() || Instant::now() >= until {
                return left;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl JoinedZone {
    /// Whether a member has destroyed the zone.
    pub fn is_ended(&self) -> bool {
        self.has(ENDED_KEY)
    }

    fn has(&self, key: &str) -> bool {
        matches!(self.zone().replica().state().fetch(Table::Sys, &keys::sys(key)), Ok(Some(_)))
    }

    /// Tells the others that this member knows that the zone is to be deleted.
    pub fn note_end(&self) -> Result<()> {
        let key = format!("{ENDED_KEY}/{}", self.member());
        if self.has(&key) {
            return Ok(());
        }
        self.zone().propose(&Command::SetSys { key, value: Some(vec![1]) }).map(drop)
    }

    /// Members that are not known to know that the zone is to be deleted.
    pub fn unaware_of_end(&self) -> Vec<String> {
        let members = self.zone().group().status().membership.members.into_iter();
        let unaware = members.filter(|(id, _)| !self.has(&format!("{ENDED_KEY}/{id}")));
        unaware.map(|(_, about)| about.name).collect()
    }
}
