//! What members propose: commands in batches, each with a number by which it is known again.
//!
//! A proposal whose answer got lost is sent once more, so an entry can be in the log twice.
//! The state remembers, for each member, which of its numbers have been applied, and applies
//! none of them again. A member tells with each batch below which number it waits for none
//! any more, so what is remembered stays small.

use bytes::Bytes;
use nexus_kernel::model;
use nexus_kernel::{Error, Result};
use serde::{Deserialize, Serialize};

use super::entry::{MemberId, decode, encode};

/// Commands of one member, as an entry of the log carries them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Batch {
    /// Who proposes.
    pub member: MemberId,
    /// Rises with each start of that member.
    pub session: u64,
    /// The member waits for no number below this.
    pub floor: u64,
    /// Numbers, each used once in a session, and encoded commands.
    pub commands: Vec<(u64, Bytes)>,
}

impl Batch {
    /// Bytes for the log.
    pub fn encode(&self) -> Result<Bytes> {
        encode("batch", self).map(Bytes::from)
    }

    /// A batch from the log.
    pub fn decode(bytes: &[u8]) -> Result<Batch> {
        decode("batch", bytes)
    }
}

/// What the state remembers of a member's proposals, at `session/<member>` of the `sys` table.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Session {
    /// Its newest session.
    session: u64,
    /// All numbers below this are done with.
    floor: u64,
    /// Numbers from there on that were applied, in order, with the errno that they answered;
    /// 0 for success.
    done: Vec<(u64, u16)>,
}

/// Whether a proposal is to be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It is.
    Apply,
    /// It was, or is given up.
    Skip,
}

impl Session {
    /// The record's name.
    pub fn key(member: MemberId) -> String {
        format!("session/{member}")
    }

    /// A record's bytes.
    pub fn encode(&self) -> Result<Bytes> {
        model::encode(self)
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Session> {
        model::decode("session", bytes)
    }

    /// Begins with a batch; `false` if it comes from a session that is over.
    pub fn begin(&mut self, batch: &Batch) -> bool {
        if batch.session < self.session {
            return false;
        }
        if batch.session > self.session {
            *self = Session { session: batch.session, ..Session::default() };
        }
        if batch.floor > self.floor {
            self.floor = batch.floor;
            self.done.retain(|(seq, _)| *seq >= batch.floor);
        }
        true
    }

    /// What to do with a number.
    pub fn turn(&self, seq: u64) -> Turn {
        let known = seq < self.floor || self.done.binary_search_by_key(&seq, |(seq, _)| *seq).is_ok();
        if known { Turn::Skip } else { Turn::Apply }
    }

    /// Notes that a number was applied.
    pub fn applied(&mut self, seq: u64, outcome: std::result::Result<(), &Error>) {
        let errno = outcome.err().map_or(0, |error| error.errno() as i32 as u16);
        if let Err(place) = self.done.binary_search_by_key(&seq, |(seq, _)| *seq) {
            self.done.insert(place, (seq, errno));
        }
    }

    /// What a number of this session answered, if that is still remembered.
    pub fn answer(&self, session: u64, seq: u64) -> Option<u16> {
        if session != self.session {
            return None;
        }
        let place = self.done.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        self.done.get(place).map(|(_, errno)| *errno)
    }
}

/// Whether an error is an answer that every replica gives, rather than a failure of this one.
pub fn is_answer(error: &Error) -> bool {
    !error.is_unclear() && !matches!(error, Error::Corrupt(_) | Error::UnknownVersion(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(session: u64, floor: u64) -> Batch {
        Batch { member: MemberId(1), session, floor, commands: Vec::new() }
    }

    #[test]
    fn a_number_is_applied_once_whatever_the_order() {
        let mut session = Session::default();
        assert!(session.begin(&batch(5, 1)));
        for seq in [3, 1, 2] {
            assert_eq!(session.turn(seq), Turn::Apply);
            session.applied(seq, if seq == 2 { Err(&Error::Exists) } else { Ok(()) });
            assert_eq!(session.turn(seq), Turn::Skip);
        }
        assert_eq!((session.answer(5, 2), session.answer(5, 3), session.answer(4, 3)), (Some(17), Some(0), None));
        assert!(session.begin(&batch(5, 3)));
        assert_eq!((session.turn(2), session.turn(3), session.turn(4)), (Turn::Skip, Turn::Skip, Turn::Apply));
        assert_eq!(session.done, [(3, 0)]);
        let again = Session::decode(&session.encode().unwrap()).unwrap();
        assert_eq!(again, session);
        assert!(session.begin(&batch(6, 1)), "a new session begins anew");
        assert_eq!(session.turn(1), Turn::Apply);
        assert!(!session.begin(&batch(5, 9)), "an old one is over");
    }

    #[test]
    fn batches_come_back() {
        let commands = vec![(7, Bytes::from_static(b"one")), (9, Bytes::from_static(b""))];
        let batch = Batch { member: MemberId(3), session: 1, floor: 7, commands };
        assert_eq!(Batch::decode(&batch.encode().unwrap()), Ok(batch));
    }
}
