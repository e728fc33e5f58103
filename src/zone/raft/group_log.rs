//! [`GroupLog`]: a replicated zone's log, as records of the node's log, so that one sync serves
//! all zones of the node.
//!
//! What is acknowledged as durable is never cut off by a recovery. That looks at the content
//! of local zones' commands, and cuts the log before the first whose content is not there. But
//! a sync of the log covers the content of all records before it: where any record is durable,
//! so is the content of those before.
//!
//! Entries that are not purged are all in memory; the group is to purge in time.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use nexus_kernel::{Error, Lsn, Result, ZoneIndex};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Position, Vote, decode, encode};
use super::flusher::{Flushed, Flusher};
use crate::log::Claim;

/// Full segments that a group may hold back before it writes what it needs of them once more.
const HELD_SEGMENTS: u64 = 4;

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Record {
    /// The next entry.
    Entry(Entry),
    /// A vote; none before it counts.
    Vote(Vote),
    /// Entries behind this one are gone.
    TruncateAfter(Option<Position>),
    /// Entries up to this one are gone.
    Purge(Position),
    /// Up to here, entries are committed.
    Committed(Position),
    /// All that counts follows, in so many records...
    Anew { records: u64, purged: Option<Position> },
    /// ...of which this was the last.
    AnewEnd,
}

/// What a group knows when it starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GroupState {
    /// The last entry that was purged.
    pub purged: Option<Position>,
    /// The last entry.
    pub last: Option<Position>,
    /// The vote.
    pub vote: Option<Vote>,
    /// Up to here, entries are known to be committed.
    pub committed: Option<Position>,
}

struct Kept {
    entry: Entry,
    lsn: Lsn,
    bytes: usize,
}

/// What the log amounts to.
#[derive(Default)]
struct Content {
    purged: Option<Position>,
    vote: Option<Vote>,
    committed: Option<Position>,
    entries: VecDeque<Kept>,
    bytes: usize,
    /// The oldest record that is needed beside entries.
    marks: Option<Lsn>,
    /// The record that tells of the last purge. Before it is durable, what it purged is needed.
    purged_by: Lsn,
}

/// One zone's log. Calls that change it come one at a time, in order.
pub struct GroupLog {
    flusher: Arc<Flusher>,
    zone: ZoneIndex,
    content: Mutex<Content>,
}

impl GroupLog {
    /// The log of `zone` in the node's log.
    pub fn open(flusher: Arc<Flusher>, zone: ZoneIndex) -> Result<GroupLog> {
        let (mut content, mut anew): (Content, Option<(u64, u64, Content)>) = Default::default();
        flusher.log().replay_group(zone, &mut |lsn, payload| {
            match decode("record of a group", payload)? {
                Record::Anew { records, purged } => {
                    let fresh = Content { purged, marks: Some(lsn), ..Content::default() };
                    anew = Some((records, 0, fresh));
                }
                Record::AnewEnd => match anew.take() {
                    Some((records, seen, fresh)) if records == seen => content = fresh,
                    _ => return Err(Error::Corrupt(format!("record {lsn} of the log ends what did not begin"))),
                },
                record => match &mut anew {
                    Some((_, seen, fresh)) => {
                        *seen += 1;
                        fresh.take(record, lsn, payload.len())?;
                    }
                    None => content.take(record, lsn, payload.len())?,
                },
            }
            Ok(())
        })?;
        // One that was cut short has changed nothing: what it was to stand for is still there.
        Ok(GroupLog { flusher, zone, content: Mutex::new(content) })
    }

    /// What there is.
    pub fn state(&self) -> GroupState {
        let content = self.content.lock();
        GroupState { purged: content.purged, last: content.last(), vote: content.vote, committed: content.committed }
    }

    /// Bytes of entries that are kept.
    pub fn bytes(&self) -> usize {
        self.content.lock().bytes
    }

    /// The newest entry that may be cut off so that about `bytes` of entries are left; none if there are no more.
    pub fn beyond(&self, bytes: usize) -> Option<u64> {
        let content = self.content.lock();
        let mut left = content.bytes;
        let cut = content.entries.iter().take_while(|kept| {
            let goes = left > bytes;
            left -= kept.bytes.min(left);
            goes
        });
        cut.last().map(|kept| kept.entry.position.index)
    }

    /// Bytes of entries behind `index`.
    pub fn bytes_after(&self, index: u64) -> usize {
        let content = self.content.lock();
        content.entries.iter().rev().take_while(|kept| kept.entry.position.index > index).map(|kept| kept.bytes).sum()
    }

    /// Saves a vote, and has `flushed` called once it is durable.
    pub fn save_vote(&self, vote: Vote, flushed: Flushed) -> Result<()> {
        let mut content = self.content.lock();
        let lsn = self.record(&mut content, Record::Vote(vote), Claim::Reserved)?;
        self.flusher.flush(lsn, flushed);
        Ok(())
    }

    /// Notes up to where entries are committed. Not made durable by itself.
    pub fn save_committed(&self, committed: Position) -> Result<()> {
        let mut content = self.content.lock();
        self.record(&mut content, Record::Committed(committed), Claim::Reserved).map(drop)
    }

    /// Adds entries, which can be read when this returns. `flushed` is called once they, and all
    /// that was appended before, are durable.
    pub fn append(&self, entries: Vec<Entry>, flushed: Flushed) -> Result<()> {
        let mut content = self.content.lock();
        let mut last = Lsn(0);
        for entry in entries {
            last = self.record(&mut content, Record::Entry(entry), Claim::Normal)?;
        }
        self.flusher.flush(last, flushed);
        Ok(())
    }

    /// Removes the entries behind `last`.
    pub fn truncate_after(&self, last: Option<Position>) -> Result<()> {
        let mut content = self.content.lock();
        self.record(&mut content, Record::TruncateAfter(last), Claim::Reserved).map(drop)
    }

    /// Removes the entries up to `upto`.
    pub fn purge(&self, upto: Position) -> Result<()> {
        let mut content = self.content.lock();
        let lsn = self.record(&mut content, Record::Purge(upto), Claim::Reserved)?;
        content.purged_by = lsn;
        Ok(())
    }

    /// The entries in `range` that are there, in order, without a gap.
    pub fn entries(&self, range: Range<u64>) -> Vec<Entry> {
        let content = self.content.lock();
        let Some(first) = content.entries.front().map(|kept| kept.entry.position.index) else { return Vec::new() };
        let start = range.start.max(first);
        let skip = usize::try_from(start - first).unwrap_or(usize::MAX);
        let count = usize::try_from(range.end.saturating_sub(start)).unwrap_or(usize::MAX);
        content.entries.iter().skip(skip).take(count).map(|kept| kept.entry.clone()).collect()
    }

    /// Tells the node's log what it need not keep, and, where this group holds much of it back
    /// for little, writes what it needs once more. To be called now and then.
    pub fn relieve(&self) -> Result<()> {
        let mut content = self.content.lock();
        let log = self.flusher.log();
        log.sync_to(content.purged_by)?;
        self.let_go(&content)?;
        if log.held_back_by(self.zone) <= HELD_SEGMENTS {
            return Ok(());
        }
        let mut records: Vec<Record> = content.vote.map(Record::Vote).into_iter().collect();
        records.extend(content.committed.map(Record::Committed));
        records.extend(content.entries.iter().map(|kept| Record::Entry(kept.entry.clone())));
        let mut fresh = Content { purged: content.purged, ..Content::default() };
        let head = Record::Anew { records: records.len() as u64, purged: content.purged };
        fresh.marks = Some(self.write(&head, Claim::Reserved)?.0);
        for record in records {
            let (lsn, bytes) = self.write(&record, Claim::Reserved)?;
            fresh.take(record, lsn, bytes)?;
        }
        let (end, _) = self.write(&Record::AnewEnd, Claim::Reserved)?;
        log.sync_to(end)?;
        *content = fresh;
        self.let_go(&content)
    }

    /// Gives up the zone's records.
    pub fn forget(&self) -> Result<()> {
        self.flusher.log().forget(self.zone)
    }

    fn let_go(&self, content: &Content) -> Result<()> {
        let oldest = content.entries.front().map(|kept| kept.lsn).into_iter().chain(content.marks).min();
        match oldest {
            Some(oldest) => self.flusher.log().checkpointed(self.zone, Lsn(oldest.0 - 1)),
            None => Ok(()),
        }
    }

    fn write(&self, record: &Record, claim: Claim) -> Result<(Lsn, usize)> {
        let payload = encode("record of a group", record)?;
        Ok((self.flusher.log().append_group(self.zone, claim, &payload)?, payload.len()))
    }

    fn record(&self, content: &mut Content, record: Record, claim: Claim) -> Result<Lsn> {
        content.check(&record)?;
        let (lsn, bytes) = self.write(&record, claim)?;
        content.take(record, lsn, bytes)?;
        Ok(lsn)
    }
}

impl Content {
    fn last(&self) -> Option<Position> {
        self.entries.back().map(|kept| kept.entry.position).or(self.purged)
    }

    /// Refuses what would leave a hole.
    fn check(&self, record: &Record) -> Result<()> {
        let Record::Entry(entry) = record else { return Ok(()) };
        let Some(next) = self.last().map(|last| last.index + 1) else { return Ok(()) };
        if entry.position.index != next {
            return Err(Error::Corrupt(format!(
                "a group's log goes on with entry {}, though the next is {next}",
                entry.position
            )));
        }
        Ok(())
    }

    fn take(&mut self, record: Record, lsn: Lsn, bytes: usize) -> Result<()> {
        self.check(&record)?;
        match record {
            Record::Entry(entry) => {
                self.bytes += bytes;
                self.entries.push_back(Kept { entry, lsn, bytes });
            }
            Record::Vote(vote) => {
                self.vote = Some(vote);
                self.marked(lsn);
            }
            Record::TruncateAfter(last) => {
                while self.entries.back().is_some_and(|kept| Some(kept.entry.position) > last) {
                    self.bytes -= self.entries.pop_back().map_or(0, |kept| kept.bytes);
                }
                self.marked(lsn);
            }
            Record::Purge(upto) => {
                while self.entries.front().is_some_and(|kept| kept.entry.position.index <= upto.index) {
                    self.bytes -= self.entries.pop_front().map_or(0, |kept| kept.bytes);
                }
                self.purged = self.purged.max(Some(upto));
                self.marked(lsn);
            }
            Record::Committed(committed) => {
                self.committed = self.committed.max(Some(committed));
                self.marked(lsn);
            }
            Record::Anew { .. } | Record::AnewEnd => {}
        }
        Ok(())
    }

    /// Marks are never given up but by writing them anew.
    fn marked(&mut self, lsn: Lsn) {
        self.marks.get_or_insert(lsn);
    }
}

#[cfg(test)]
#[path = "group_log_tests.rs"]
mod tests;
