//! What the file system promises of each kind of thing, one call after the other.

use crate::history::record::{Call, Line, Moved, NEVER};

/// A file whose making nobody answered has no number that is known: this bit, and its line's number.
const UNSEEN: u64 = 1 << 63;

/// What a thing is between two calls.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// A register's value.
    Value(u64),
    /// The files at two names.
    Slots([Option<u64>; 2]),
    /// How many of the numbers in the longest read were appended, and what else, in order.
    Log(Vec<u64>),
}

/// What a call makes of a state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// It can't have had that answer there.
    No,
    /// It changes nothing.
    Same,
    /// It changes it to this.
    Changed(State),
}

impl State {
    /// What it is before the first call.
    pub fn first(line: &Line) -> State {
        match line.call {
            Call::Write(_) | Call::Read(_) => State::Value(0),
            Call::Append(_) | Call::ReadLog(_) => State::Log(Vec::new()),
            _ => State::Slots([None, None]),
        }
    }

    /// What the call in this line makes of it; `number` is the line's.
    pub fn after(&self, line: &Line, number: usize) -> Next {
        match self {
            State::Value(value) => match line.call {
                Call::Write(new) => Next::Changed(State::Value(new)),
                Call::Read(seen) => same_if(seen == *value),
                _ => Next::No,
            },
            State::Log(log) => match &line.call {
                Call::Append(new) => {
                    let mut log = log.clone();
                    log.push(*new);
                    Next::Changed(State::Log(log))
                }
                Call::ReadLog(seen) => same_if(seen == log),
                _ => Next::No,
            },
            State::Slots(slots) => after_names(*slots, line, UNSEEN | number as u64),
        }
    }
}

fn same_if(holds: bool) -> Next {
    if holds { Next::Same } else { Next::No }
}

/// Puts `file` at a name.
fn put(mut slots: [Option<u64>; 2], slot: usize, file: Option<u64>) -> Next {
    match slots.get_mut(slot) {
        Some(place) => {
            *place = file;
            Next::Changed(State::Slots(slots))
        }
        None => Next::No,
    }
}

fn after_names(slots: [Option<u64>; 2], line: &Line, unseen: u64) -> Next {
    let at = |slot: usize| slots.get(slot).copied().flatten();
    // What a call that nobody answered did not do, it need not have done.
    let is_known = line.end != NEVER;
    match line.call {
        Call::Make { slot, won: false, .. } if is_known => same_if(at(slot).is_some()),
        Call::Make { slot, file, .. } => match at(slot) {
            None => put(slots, slot, file.or(Some(unseen))),
            Some(_) => Next::No,
        },
        Call::Put { slot, file } => put(slots, slot, Some(file)),
        Call::Take { slot, won: false, .. } | Call::Unlink { slot, won: false } if is_known => {
            same_if(at(slot).is_none())
        }
        Call::Take { slot, file, .. } => match (at(slot), file) {
            (None, _) => Next::No,
            (Some(there), Some(taken)) if !is_same(there, taken) => Next::No,
            (Some(_), _) => put(slots, slot, None),
        },
        Call::Unlink { slot, .. } => match at(slot) {
            None => Next::No,
            Some(_) => put(slots, slot, None),
        },
        Call::Look { slot, file } => match (at(slot), file) {
            (None, None) => Next::Same,
            (Some(there), Some(seen)) if there == seen => Next::Same,
            // Now its number is known.
            (Some(there), Some(seen)) if is_same(there, seen) => put(slots, slot, Some(seen)),
            _ => Next::No,
        },
        Call::Move { from, answer } => {
            let to = 1 - from.min(1);
            match answer {
                Moved::NoSource if is_known => same_if(at(from).is_none()),
                Moved::TargetThere if is_known => same_if(at(to).is_some()),
                _ if at(from).is_some() && at(to).is_none() => match put(slots, to, at(from)) {
                    Next::Changed(State::Slots(slots)) => put(slots, from, None),
                    other => other,
                },
                _ => Next::No,
            }
        }
        _ => Next::No,
    }
}

fn is_same(there: u64, seen: u64) -> bool {
    there == seen || there & UNSEEN != 0
}
