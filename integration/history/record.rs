//! What clients did, and what they were told: the record that the checker judges.

use std::fmt;

/// The end of a call of which nobody knows what came of it.
pub const NEVER: u64 = u64::MAX;

/// A thing that calls are about. Each is judged by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// A file that is read and written as a whole; number.
    Register(u32),
    /// Two names, between which files move.
    Names(u32),
    /// A file that is appended to.
    Log(u32),
}

/// A call and its answer. Numbers of files are their inodes'; `None` where it was not seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Wrote a register.
    Write(u64),
    /// Read it.
    Read(u64),
    /// Made a file that must not be there; whether it was made.
    Make { slot: usize, file: Option<u64>, won: bool },
    /// Put a file in the place of whatever is there.
    Put { slot: usize, file: u64 },
    /// Took what is there; whether there was anything.
    Take { slot: usize, file: Option<u64>, won: bool },
    /// Removed what is there; whether there was anything.
    Unlink { slot: usize, won: bool },
    /// Looked what is there.
    Look { slot: usize, file: Option<u64> },
    /// Moved what is at the first name to the other, where nothing must be.
    Move { from: usize, answer: Moved },
    /// Appended a number.
    Append(u64),
    /// Read all that was appended.
    ReadLog(Vec<u64>),
}

/// What came of a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moved {
    /// It was done.
    Done,
    /// Nothing to move.
    NoSource,
    /// Something was there.
    TargetThere,
}

/// One line of the record. Times are nanoseconds from the beginning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Who.
    pub client: usize,
    /// On what.
    pub key: Key,
    /// What; of one that ended [`NEVER`], what it would have done.
    pub call: Call,
    /// When it began.
    pub start: u64,
    /// When it was answered.
    pub end: u64,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        write!(f, "client {:2}  {:10.3} .. ", self.client, ms(self.start))?;
        match self.end {
            NEVER => write!(f, "       ?  ")?,
            end => write!(f, "{:10.3}", ms(end))?,
        }
        match &self.call {
            Call::ReadLog(seen) => write!(f, "  ReadLog of {}: {:?}", seen.len(), seen),
            call => write!(f, "  {call:?}"),
        }
    }
}
