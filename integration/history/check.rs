//! Whether a record is linearizable: whether there is an order of the calls that keeps to their
//! times and in which each has the answer that it got. Things are judged one by one, as a record is
//! linearizable if that of each thing is (Herlihy, Wing: "Linearizability", 1990). The search is
//! that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's memory of
//! what was tried; calls that change nothing are taken as soon as they fit, which loses no order.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::history::model::{Next, State};
use crate::history::record::{Call, Key, Line, NEVER};

/// Steps after which a search is given up.
const MOST_STEPS: usize = 3_000_000;

/// What is wrong with a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong {
    /// With what.
    pub key: Key,
    /// What is wrong, with the calls around it.
    pub why: String,
}

/// Judges a record; answers how many things it was about, and what is wrong with some.
pub fn check(record: &[Line]) -> (usize, Vec<Wrong>) {
    let mut by_key: BTreeMap<Key, Vec<Line>> = BTreeMap::new();
    for line in record {
        by_key.entry(line.key).or_default().push(line.clone());
    }
    let count = by_key.len();
    let wrong = by_key.into_iter().filter_map(|(key, lines)| check_key(lines).map(|why| Wrong { key, why }));
    (count, wrong.collect())
}

fn check_key(lines: Vec<Line>) -> Option<String> {
    let mut lines = without_the_unseen(lines);
    lines.sort_by_key(|line| (line.start, line.end));
    Search::new(&lines).run()
}

/// Without writes that nobody answered and nobody saw: they may have come last, or not at all.
fn without_the_unseen(lines: Vec<Line>) -> Vec<Line> {
    let mut seen = BTreeSet::new();
    for line in &lines {
        match &line.call {
            Call::Read(value) => drop(seen.insert(*value)),
            Call::ReadLog(values) => seen.extend(values),
            _ => {}
        }
    }
    let keep = |line: &Line| match line.call {
        Call::Write(value) | Call::Append(value) => line.end != NEVER || seen.contains(&value),
        _ => true,
    };
    lines.into_iter().filter(keep).collect()
}

/// Which lines are placed.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Vec<u64>);

impl Placed {
    fn has(&self, line: usize) -> bool {
        self.0.get(line / 64).is_some_and(|word| word & (1 << (line % 64)) != 0)
    }

    fn add(&mut self, line: usize) {
        if let Some(word) = self.0.get_mut(line / 64) {
            *word |= 1 << (line % 64);
        }
    }
}

struct Search<'a> {
    lines: &'a [Line],
    tried: HashSet<(Placed, State)>,
    /// The most that was placed, and where that was.
    furthest: (usize, Option<(Placed, State)>),
    steps: usize,
}

impl<'a> Search<'a> {
    fn new(lines: &'a [Line]) -> Search<'a> {
        Search { lines, tried: HashSet::new(), furthest: (0, None), steps: 0 }
    }

    /// Why there is no such order, if there is none.
    fn run(mut self) -> Option<String> {
        let first = State::first(self.lines.first()?);
        let mut open = vec![(Placed(vec![0; self.lines.len().div_ceil(64)]), first, 0usize)];
        while let Some((mut placed, mut state, mut from)) = open.pop() {
            self.steps += 1;
            if self.steps > MOST_STEPS {
                return Some(format!("it can't be told within {MOST_STEPS} steps: {}", self.around()));
            }
            self.settle(&mut placed, &mut state, &mut from);
            if self.is_done(&placed) {
                return None;
            }
            if !self.tried.insert((placed.clone(), state.clone())) {
                continue;
            }
            let count = placed.0.iter().map(|word| word.count_ones() as usize).sum();
            if count >= self.furthest.0 {
                self.furthest = (count, Some((placed.clone(), state.clone())));
            }
            // The latest begun is tried first by the stack, so the earliest are pushed last.
            for number in self.possible(&placed, from).into_iter().rev() {
                let Some(line) = self.lines.get(number) else { continue };
                if let Next::Changed(next) = state.after(line, number) {
                    let mut placed = placed.clone();
                    placed.add(number);
                    open.push((placed, next, from));
                }
            }
        }
        Some(format!("no order of the calls explains the answers: {}", self.around()))
    }

    fn is_done(&self, placed: &Placed) -> bool {
        self.lines.iter().enumerate().all(|(number, line)| line.end == NEVER || placed.has(number))
    }

    /// Lines that may come next: those that began before any other that is left has ended.
    fn possible(&self, placed: &Placed, from: usize) -> Vec<usize> {
        let mut until = NEVER;
        let mut found = Vec::new();
        for (number, line) in self.lines.iter().enumerate().skip(from) {
            if line.start > until {
                break;
            }
            if !placed.has(number) {
                until = until.min(line.end);
                found.push(number);
            }
        }
        found.retain(|number| self.lines.get(*number).is_some_and(|line| line.start <= until));
        found
    }

    /// Places all that fits and changes nothing, until there is no more of it.
    fn settle(&self, placed: &mut Placed, state: &mut State, from: &mut usize) {
        loop {
            while *from < self.lines.len() && placed.has(*from) {
                *from += 1;
            }
            let fits = self
                .possible(placed, *from)
                .into_iter()
                .find(|number| self.lines.get(*number).is_some_and(|line| state.after(line, *number) == Next::Same));
            match fits {
                Some(number) => placed.add(number),
                None => return,
            }
        }
    }

    /// Where the search got to at the furthest.
    fn around(&self) -> String {
        let Some((placed, state)) = &self.furthest.1 else { return "at the very start".to_owned() };
        let stuck = self.possible(placed, 0);
        let centre = stuck.iter().copied().find(|number| self.lines.get(*number).is_some_and(|line| line.end != NEVER));
        let centre = centre.unwrap_or(0);
        let mut text =
            format!("after {} of {} calls it is {state:?}, and none fits", self.furthest.0, self.lines.len());
        for (number, line) in self.lines.iter().enumerate() {
            let near = number + 14 > centre && number < centre + 10;
            if near || (line.end == NEVER && number < centre) {
                let mark = if stuck.contains(&number) {
                    '>'
                } else if placed.has(number) {
                    ' '
                } else {
                    '-'
                };
                text += &format!("\n        {mark} {line}");
            }
        }
        text
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
